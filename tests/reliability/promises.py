"""What a test promises, how often it was tried, and how often it was lost."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

MOST_LOSSES = 20  # then the rest is not tried any more
_MOST_KEPT = 3  # of the losses in a record


@dataclass
class Promise:
    """One promise on trial.

    Attributes
    ----------
    text : str
        What must hold, in a sentence.
    trials : int
    losses : list of str
        Which trials lost it, and how.
    """

    text: str
    trials: int = 0
    losses: list[str] = field(default_factory=list)
    _first: BaseException | None = None

    @contextmanager
    def trial(self, what: object = "") -> Iterator[None]:
        """Count a trial; whatever is raised in it is a loss, and the next trial goes on."""
        self.trials += 1
        try:
            yield
        except (Exception, pytest.fail.Exception) as error:
            self.lost(f"{what}: {type(error).__name__}: {error}", error)

    def held(self, trials: int = 1) -> None:
        """Count trials that nothing was lost in."""
        self.trials += trials

    def lost(self, what: str, error: BaseException | None = None) -> None:
        """Note that the trial which was counted last has lost."""
        self.losses.append(" ".join(what.split())[:500])
        self._first = self._first or error
        if len(self.losses) >= MOST_LOSSES:
            self.check()

    def check(self) -> None:
        """Return if it was tried, and held in every trial."""
        assert self.trials, f"{self.text}: nothing was tried"
        if self.losses:
            told = "\n".join(self.losses[:MOST_LOSSES])
            raise AssertionError(f"{self.text}: lost in {len(self.losses)} of {self.trials} trials\n{told}") from (
                self._first
            )


@contextmanager
def on_trial(text: str, *, test: str, about: str, size: str, results: Path | None) -> Iterator[Promise]:
    """Give the promise to be tried; then append what came of it to `results`, and fail if it was lost.

    Parameters
    ----------
    text : str
    test : str
        The test that holds it, ``tests/reliability/test_x.py::test_y``.
    about : str
        What the test's file is about.
    size : {"quick", "full"}
    results : Path, optional
        Lines of JSON, one a promise; several processes may append.
    """
    promise = Promise(text)
    started = time.perf_counter()
    skipped = ""
    try:
        yield promise
    except pytest.skip.Exception as reason:
        skipped = str(reason)
        raise
    except BaseException as error:
        if not promise.losses:
            promise.losses.append(f"the test itself: {type(error).__name__}: {error}"[:500])
        raise
    finally:
        if results is not None:
            record = _record(promise, seconds=time.perf_counter() - started, skipped=skipped)
            _append(results, {"test": test, "about": about, "size": size, **record})
    promise.check()


def _record(promise: Promise, *, seconds: float, skipped: str) -> dict[str, Any]:
    return {
        "promise": promise.text,
        "trials": promise.trials,
        "losses": len(promise.losses),
        "lost": promise.losses[:_MOST_KEPT],
        "skipped": skipped,
        "seconds": round(seconds, 1),
        "day": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def _append(path: Path, record: dict[str, Any]) -> None:
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)  # in one call, so that lines of test files that run side by side do not mix
    finally:
        os.close(file)
