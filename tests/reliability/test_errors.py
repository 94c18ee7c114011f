"""The cache when the system refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
from collection import Collection, collection, order
from fault_process import ALWAYS, CHANGES, FAIL, SHORTEN

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# What is meant, which calls it hits, how it is done, and how often: a full disk still syncs and removes; a disk that
# breaks does nothing any more; an interrupted call is called again, and is never interrupted for ever.
TAKES_SPACE, CAN_BE_SHORT, CAN_BE_INTERRUPTED = "OWTARM", "W", "WSA"
FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ENOSPC once": (TAKES_SPACE, {"action": FAIL, "error": errno.ENOSPC, "times": 1}),
    "ENOSPC from then on": (TAKES_SPACE, {"action": FAIL, "error": errno.ENOSPC, "times": ALWAYS}),
    "EIO once": (CHANGES, {"action": FAIL, "error": errno.EIO, "times": 1}),
    "EIO from then on": (CHANGES, {"action": FAIL, "error": errno.EIO, "times": ALWAYS}),
    "EIO on a read": ("P", {"action": FAIL, "error": errno.EIO, "times": 1}),
    "EINTR once": (CAN_BE_INTERRUPTED, {"action": FAIL, "error": errno.EINTR, "times": 1}),
    "EINTR 50 times": (CAN_BE_INTERRUPTED, {"action": FAIL, "error": errno.EINTR, "times": 50}),
    "a short write once": (CAN_BE_SHORT, {"action": SHORTEN, "times": 1}),
    "short writes from then on": (CAN_BE_SHORT, {"action": SHORTEN, "times": ALWAYS}),
}
HARMLESS = ("EINTR once", "EINTR 50 times", "a short write once", "short writes from then on")


@pytest.fixture(scope="module")
def photos() -> Iterator[Collection]:
    with collection() as found:
        yield found


def assert_told(said: dict[str, Any]) -> None:
    """The command ended well, or with its two lines; never with a traceback or by a signal."""
    assert os.WIFEXITED(said["status"]) and os.WEXITSTATUS(said["status"]) == 0, said  # of Python's own way out
    assert said["code"] in (0, 1), said
    lines = [line for line in said["err"].splitlines() if line.startswith(("error: ", "try: "))]
    if said["code"]:
        assert [line.partition(":")[0] for line in lines] == ["error", "try"], said
        assert "Traceback" not in said["err"] and said["out"] == "", said
    else:
        assert not lines, said


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_at_any_call_is_told_and_the_next_run_completes(photos, shaken, promise, size, fault):
    kinds, how = FAULTS[fault]
    with promise(
        f"{fault}, at the k-th call for every k: two clear lines and exit code 1, or no harm at all; no crash of "
        "the interpreter, no row that counts is wrong, the same command completes the cache"
    ) as on_trial:
        fork_server = shaken()
        for road in ("made", "grown"):
            empty = road == "made"
            with photos.caches(empty=empty) as caches:
                calls = fork_server.run(**order(photos, caches))["calls"]
            places = [at for at, kind in enumerate(calls, start=1) if kind in kinds]
            for at in places[size(quick=7, full=0) :: size(quick=100, full=1)]:
                with on_trial.trial(f"{road}, call {at} ({calls[at - 1]})"), photos.caches(empty=empty) as caches:
                    said = fork_server.run(**order(photos, caches), at=at, kinds=kinds, exit=True, **how)
                    assert said["fired"], said
                    assert_told(said)
                    if fault in HARMLESS:
                        assert said["code"] == 0, said
                    if fault == "EIO on a read":
                        assert "cache remove" not in said["err"], said  # the file may be as sound as ever
                    photos.assert_resumed(caches)
