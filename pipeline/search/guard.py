"""What surrounds a fit: one thread, warnings collected, an estimator's own exceptions named."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.errors import HeadError, PipelineError


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One BLAS and OpenMP thread: on these shapes two made a grid five times slower; workers share the cores."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


@contextlib.contextmanager
def caught_warnings(name: str) -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings within, and turn an estimator's own exception into a HeadError that names the head."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield caught
        except (PipelineError, MemoryError):
            raise
        except Exception as error:
            raise HeadError(
                f"head {name!r}: wanted it to learn and predict, found {type(error).__name__}: {first_line(error)}",
                "change its parameters with --grid, or choose another head",
            ) from error


def summarize_warnings(name: str, caught: Sequence[warnings.WarningMessage], fits: int) -> list[str]:
    """Return the warnings of `fits` fits in sentences, counted."""
    from sklearn.exceptions import ConvergenceWarning

    stopped = sum(issubclass(w.category, ConvergenceWarning) for w in caught)
    said = []
    if stopped:
        # One estimator may warn once a class; no more fits can have stopped than there were.
        said.append(f"{name}: {min(stopped, fits)} of {fits} fits stopped before converging (max_iter)")
    # That a fold has no score is said by the search, in its own words.
    others = Counter(
        _in_words(text)
        for w in caught
        if not issubclass(w.category, ConvergenceWarning)
        and "test scores are non-finite" not in (text := first_line(w.message))
    )
    said += [f"{name}: {text} ({count} times)" if count > 1 else f"{name}: {text}" for text, count in others.items()]
    return said


def _in_words(text: str) -> str:
    # OneVsRestClassifier names a column, "Label not 3", that nobody gave.
    if text.startswith("Label ") and text.endswith("is present in all training examples."):
        return "within a search, a tag was on all or none of the rows to learn from"
    return text


def first_line(error: Warning | Exception | str) -> str:
    """Return the first line of the error's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
