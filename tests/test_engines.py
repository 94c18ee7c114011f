"""Work in processes apart: what they do to one another is none of the caller's business."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from pipeline.parallel import by_processes


@pytest.fixture(autouse=True)
def new_processes() -> Iterator[None]:
    """Start and end with none: what others left would be no measure, and what is left here is large."""
    get_reusable_executor().shutdown(wait=True)
    yield
    get_reusable_executor().shutdown(wait=True)


def growing_tasks() -> list[tuple]:
    """Return tasks in whose midst their processes come to hold much, as one that loads torch does."""

    def work(number: int, megabytes: int) -> int:
        time.sleep(1.2)  # joblib looks at a process once a second
        sys.hoard = np.ones(megabytes << 17)  # type: ignore[attr-defined]
        return number

    return [delayed(work)(number, 1 if number < 2 else 500) for number in range(6)]


def test_a_process_that_grows_is_replaced_in_silence() -> None:
    with pytest.warns(UserWarning, match="A worker stopped"):  # what joblib says of it by itself
        Parallel(n_jobs=2)(growing_tasks())
    get_reusable_executor().shutdown(wait=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert sorted(by_processes(growing_tasks(), n_jobs=2)) == list(range(6))
    assert [str(one.message) for one in said] == []


def test_what_is_left_early_is_left_in_silence() -> None:
    tasks = [delayed(time.sleep)(0.1) for _ in range(20)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        results = by_processes(tasks, n_jobs=2)
        assert next(results) is None
        results.close()
    assert [str(one.message) for one in said] == []
    assert list(by_processes([delayed(abs)(-3)], n_jobs=2)) == [3]
