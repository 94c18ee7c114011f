"""What a run found, in one plain sentence a label set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pipeline.runs import CHOSEN, DUMMY, PIXELS, LabelSetInfo, Result


def verdict(
    info: LabelSetInfo,
    best: Result,
    shown: Sequence[Result],
    nulls: Sequence[Result],
    true: Sequence[str],
    predicted: Sequence[str],
    *,
    on_test: bool,
) -> str:
    """Return the verdict on one label set.

    Parameters
    ----------
    info : LabelSetInfo
    best : Result
        The best head under the scoring of the choice.
    shown : sequence of Result
        What the sentence is about, every scoring: the whole procedure of choosing where there was a choice, so
        that the figure is not the best of several; the best head itself otherwise.
    nulls : sequence of Result
    true, predicted : sequence of str, length m
        What `shown` said of each row.
    on_test : bool
        Whether that is the fixed test set.
    """
    head = f"the best of several heads (mostly {best.head})" if shown[0].head == CHOSEN else best.head
    parts = []
    accuracy = _find(shown, "accuracy")
    if info.kind == "class" and accuracy is not None:
        value, low, high = (_percent(number) for number in _values(accuracy, on_test))
        photos = "photos of new groups" if info.groups is not None else "new photos"
        parts.append(f"{info.name}: right on {value} of 100 {photos} ({low} to {high}) with {head}")
        parts += _null_parts(nulls, "accuracy", on_test, "always guessing the commonest", _percent)
        wrong = Counter((t, p) for t, p in zip(true, predicted, strict=True) if t != p)
        if wrong:
            (was, taken), times = wrong.most_common(1)[0]
            parts.append(f"most confused: {was} taken for {taken}, {times} time{'s' if times != 1 else ''}")
    else:
        value, low, high = (_plain(number) for number in _values(_find(shown, info.scoring) or best, on_test))
        parts.append(f"{info.name}: {info.scoring} {value} ({low} to {high}) with {head}")
        parts += _null_parts(nulls, info.scoring, on_test, "always guessing the middle", _plain)
        error = _find(shown, "neg_mean_absolute_error")
        if error is not None:
            parts.append(f"off by {_plain(abs(_values(error, on_test)[0] or 0))} on average")
    dummy = next((null for null in nulls if null.head == DUMMY and null.scoring == info.scoring), None)
    mine = _values(_find(shown, info.scoring) or best, on_test)[1]
    if dummy is not None and mine is not None and mine <= (_values(dummy, on_test)[0] or 0):
        parts.append("no better than guessing: the interval reaches down to the dummy's score")
    if best.optimistic and not on_test:
        parts.append("optimistic: the parameters were chosen on these same photos (--no-nested)")
    return "; ".join(parts)


def _null_parts(
    nulls: Sequence[Result], scoring: str, on_test: bool, guessing: str, text: Callable[[float | None], str]
) -> list[str]:
    parts = []
    for null in nulls:
        if null.scoring == scoring:
            what = guessing if null.head == DUMMY else "colours and brightness alone"
            parts.append(f"{what}: {text(_values(null, on_test)[0])}")
    return sorted(parts, reverse=True) if len(parts) > 1 and nulls[0].layer != PIXELS else parts[::-1]


def _find(results: Sequence[Result], scoring: str) -> Result | None:
    return next((result for result in results if result.scoring == scoring), None)


def _values(result: Result, on_test: bool) -> tuple[float | None, float | None, float | None]:
    if on_test and result.test is not None:
        return result.test, result.test_low, result.test_high
    return result.mean, result.low, result.high


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.0f}"


def _plain(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
