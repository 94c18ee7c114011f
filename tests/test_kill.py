"""No crash can break a cache: killed or interrupted, it opens, and the next run makes it whole.

Kills at every step and at thousands of random moments are in `reliability/`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pytest
from fork_server import Child, ForkServer

from pipeline.cache import FeatureCache

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.slow]

LAYERS = ["penultimate", "early"]
SLOW = {"slowness": 0.002, "pause": 0.006}
INTERRUPTS = 5


@dataclass
class Stage:
    """A cache of photos that have changed since: what an uninterrupted run makes of it, and how long that takes."""

    fork_server: ForkServer
    photos: Path
    before: Path  # the folder of caches as it was before the photos changed
    expected: FeatureCache
    said: dict[str, Any]
    seconds: float
    scratch: Path
    count: int = 0

    def caches(self) -> Path:
        """Return a fresh copy of the folder of caches as it was before."""
        self.count += 1
        return Path(shutil.copytree(self.before, self.scratch / str(self.count)))


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("kill")
    photos, before = fake_backbone.folder_of(root / "photos", range(30)), root / "before"
    with ForkServer(root) as fork_server:
        first = fork_server.run(photos, before, ["penultimate"])
        assert first["summary"]["inferred"] == 30
        fake_backbone.folder_of(photos, range(40, 48))
        for number in (2, 5):
            fake_backbone.put(photos / f"c{number % 2}" / f"{number:05d}.png", number, side=8)  # edited
        fake_backbone.touch(photos / "c0" / "00008.png")
        (photos / "c0" / "00004.png").rename(photos / "c1" / "00004.png")
        (photos / "c0" / "00006.png").unlink()
        fake_backbone.put(photos / "c1" / "00101.png", b"broken")
        shutil.copytree(before, root / "expected")
        started = time.perf_counter()
        said = fork_server.run(photos, root / "expected", LAYERS, **SLOW)
        seconds = time.perf_counter() - started
        (root / "scratch").mkdir()
        expected = FeatureCache.open(said["path"])
        yield Stage(fork_server, photos, before, expected, said, seconds, root / "scratch")


def assert_resumed(stage: Stage, caches: Path) -> None:
    """A killed run has left nothing wrong, and the next one makes it equal to one that was never interrupted."""
    counted = fake_backbone.assert_nothing_wrong(caches)
    said = stage.fork_server.run(stage.photos, caches, LAYERS)
    assert said["status"] == 0 and "error" not in said, said
    summary = said["summary"]
    assert summary["images"] == summary["stored"] + summary["reused"] + summary["failed"]
    path = Path(said["path"])
    fake_backbone.assert_equal(FeatureCache.open(path), stage.expected)
    kept = set(counted.get(path, []))
    assert not kept & set(said["seen"]), "a row that counted was computed again"
    left = {entry.name for entry in caches.iterdir() if entry.suffix != ".lock"}  # an empty lock may stay for a while
    assert left == {path.name}


def test_the_uninterrupted_run_is_right(stage):
    numbers = [fake_backbone.number_of(stage.expected.ids[row]) for row in stage.expected.rows]
    assert sorted(numbers) == sorted({*range(30), *range(40, 48)} - {6})
    for layer in LAYERS:
        assert np.array_equal(stage.expected.features(layer), fake_backbone.features_of(numbers, layer))
    assert set(stage.said["steps"]) == {"posix_fallocate", "fsync", "fdatasync", "replace", "pwrite", "unlink"}


def test_kill_after_kill_still_comes_to_an_end(stage):
    chance = random.Random(2)
    caches = stage.caches()
    for _ in range(60):
        child = stage.fork_server.start(stage.photos, caches, LAYERS, **SLOW)
        time.sleep(chance.uniform(0.2, 0.8) * stage.seconds)
        child.send(signal.SIGKILL)
        if child.wait()["status"] == 0:
            break
        fake_backbone.assert_nothing_wrong(caches)
    assert_resumed(stage, caches)


def stored_rows(caches: Path, name: str) -> int:
    path = caches / name
    return len(FeatureCache.open(path).rows) if path.exists() else 0


def wait_for_rows(child: Child, caches: Path, name: str, rows: int) -> int:
    """Wait until so many rows count, and return how many do."""
    give_up = time.monotonic() + 300
    while (found := stored_rows(caches, name)) < rows:
        assert time.monotonic() < give_up, "the child makes no progress"
        time.sleep(0.002)
    return found


def test_ctrl_c_ends_promptly_and_keeps_what_was_acknowledged(stage):
    chance = random.Random(3)
    name = stage.expected.path.name
    for _ in range(INTERRUPTS):
        caches = stage.caches()
        child = stage.fork_server.start(stage.photos, caches, LAYERS, slowness=0.1)
        before = wait_for_rows(child, caches, name, chance.randint(1, 16))
        time.sleep(chance.uniform(0, 0.1))
        child.send(signal.SIGINT)
        said = child.wait()
        assert (said["status"], said["error"]) == (0, "KeyboardInterrupt")
        assert before <= stored_rows(caches, name) < len(stage.expected.rows)
        assert_resumed(stage, caches)
        shutil.rmtree(caches)


def test_ctrl_c_while_the_real_network_runs_ends_the_process_cleanly(tmp_path):
    photos = fake_backbone.folder_of(tmp_path / "photos", range(400), side=64)
    script = f"from pipeline import extract\nextract({str(photos)!r}, cache={str(tmp_path / 'caches')!r}, device='cpu')"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + 300
        while not any(FeatureCache.open(path).rows.size for path in (tmp_path / "caches").glob("*.h5")):
            assert time.monotonic() < give_up and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=300)[1]
    # Not an abort from inside the network. CPython ends with 1 instead of by the signal where an exit handler compiles
    # anything, as torch's does with the package tabulate at hand.
    assert process.returncode in (-signal.SIGINT, 1), said
    assert said.rstrip().endswith("KeyboardInterrupt")
    (path,) = (tmp_path / "caches").glob("*.h5")
    cache = FeatureCache.open(path)
    assert 0 < len(cache.rows) < 400 and not cache.damaged().size


def test_two_processes_at_once_never_do_damage(stage):
    outcomes = set()
    for slowness in (0.03, 0.01, 0.003, 0.0):
        caches = stage.caches()
        both = [stage.fork_server.start(stage.photos, caches, LAYERS, slowness=slowness) for _ in range(2)]
        said = [child.wait() for child in both]
        assert all(each["status"] == 0 for each in said)
        errors = [each["error"] for each in said if "error" in each]
        assert errors in ([], ["CacheLocked"])
        outcomes.update(errors)
        winners = [each for each in said if "error" not in each]
        assert len({each["path"] for each in winners}) == 1
        assert_resumed(stage, caches)
        shutil.rmtree(caches)
    assert outcomes == {"CacheLocked"}
