"""The cache, killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import pytest
from collection import Collection, collection, order
from fault_process import KILL, changes
from fork_server import ForkServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def photos() -> Iterator[Collection]:
    with collection() as found:
        yield found


@pytest.mark.parametrize("road", ["made", "grown"])
def test_a_kill_at_any_call_loses_nothing(photos, shaken, promise, size, road):
    """Before every call that changes the disk, and in the midst of every write."""
    text = (
        f"a cache that is being {road}, killed at the k-th write, fsync, rename or other call that changes the disk, "
        "for every k: it opens, no row that counts is wrong or lost, the next run completes it"
    )
    empty = road == "made"
    with promise(text) as on_trial:
        fork_server = shaken()
        with photos.caches(empty=empty) as caches:
            said = fork_server.run(**order(photos, caches))
            assert (said["code"], said["status"]) == (0, 0), said
            photos.resume(caches)
        assert set("OWASR") <= set(said["calls"])
        ways = [(at, half) for at, kind in changes(said["calls"]) for half in ((0, 1) if kind == "W" else (0,))]
        for at, half in ways[:: size(quick=20, full=1)]:
            with on_trial.trial(f"call {at}, half {half}"), photos.caches(empty=empty) as caches:
                killed = fork_server.run(**order(photos, caches), at=at, action=KILL, error=half)
                assert killed["status"] == signal.SIGKILL, killed
                photos.assert_resumed(caches)


def test_a_kill_at_a_random_moment_loses_nothing(photos, tmp_path, promise, size):
    text = (
        "`kill -9` at a random moment: the file opens, no row that counts is wrong or lost, the next run completes it"
    )
    with promise(text) as on_trial, ForkServer(tmp_path) as fork_server:
        slowness = {"slowness": 0.001, "pause": 0.001}
        started = time.perf_counter()
        with photos.caches() as caches:
            fork_server.run(**order(photos, caches), **slowness)
        seconds = time.perf_counter() - started
        for seed in range(size(quick=200, full=2000)):
            chance = random.Random(seed)
            alive = True
            with on_trial.trial(f"seed {seed}"):
                while alive:  # what was done before its moment came is no trial
                    with photos.caches(empty=chance.random() < 0.3) as caches:
                        child = fork_server.start(**order(photos, caches), **slowness)
                        time.sleep(chance.uniform(0, seconds))
                        child.send(signal.SIGKILL)
                        alive = child.wait()["status"] != signal.SIGKILL
                        photos.assert_resumed(caches)
                    seconds *= 0.98 if alive else 1.002  # this machine has other things to do now and then
