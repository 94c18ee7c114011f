"""Promises on trial: one test, two sizes.

`make test` runs the quick size of everything here, `make reliability` the full one, and writes `docs/reliability.md`
from what the runs recorded. How a test is written::

    def test_a_cache_killed_at_random_moments_is_resumed(promise, size):
        with promise("killed at a random moment, no row is lost or wrong") as on_trial:
            for seed in range(size(quick=200, full=2000)):
                with on_trial.trial(f"seed {seed}"):     # counted; an exception in it is a loss, and the next goes on
                    assert ...

`promise(text)` is the sentence that stands in the page: what must hold, so that it reads well after "must hold:".
It fails at its end if a trial was lost, or if there was none. A test may hold several promises, one after another.
`on_trial.held(1000)` counts trials that were made in one go, `on_trial.lost("what")` notes a loss without an exception.
A `pytest.skip("reason")` inside the `with` is recorded with its reason; one outside it leaves no record.

`size(quick=..., full=...)` gives one of the two numbers (or any two values: seconds of fuzzing), by ``--trials full``.
Together the quick sizes of a file should take a few seconds. Trials are seeded by their number, so that a loss can be
looked at again. The first line of the file's docstring is the heading in the page.

By hand: ``pytest tests/reliability/test_x.py --trials full --results out.jsonl``, then
``python tests/reliability/page.py out.jsonl page.md``. Without ``--results`` nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fork_server import ForkServer
from promises import Promise, on_trial

T = TypeVar("T")


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Callable[[str], AbstractContextManager[Promise]]:
    """``with promise("what must hold") as on_trial:``; see the top of this file."""
    results = request.config.getoption("--results")

    def given(text: str) -> AbstractContextManager[Promise]:
        return on_trial(
            text,
            test=request.node.nodeid,
            about=(request.module.__doc__ or request.module.__name__).strip().partition("\n")[0],
            size=request.config.getoption("--trials"),
            results=Path(results) if results else None,
        )

    return given


@pytest.fixture(scope="session")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], ForkServer]]:
    """``shaken()``: the fork server of `fault_process.py`, started at the first call; skips where it cannot be."""
    from fault_process import shaken

    with ExitStack() as held:
        yield cache(lambda: held.enter_context(shaken(tmp_path_factory.mktemp("shaken"))))


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``size(quick=200, full=2000)``: one of the two, by ``--trials``."""

    def of(*, quick: T, full: T) -> T:
        return full if request.config.getoption("--trials") == "full" else quick

    return of
