"""How is a result put in words? One sentence per label set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.runs import CHOSEN, DUMMY, PIXELS, LabelSetInfo, Result


@dataclass(frozen=True, eq=False)
class VerdictInput:
    """The results and predictions that a verdict describes.

    Attributes
    ----------
    best : Result
        The best head under the scoring of the choice.
    shown : sequence of Result
        The results that the sentence describes, one per scoring: the whole procedure of choosing where there was a
        choice; the best
        head itself otherwise.
    baselines : sequence of Result
    true, predicted : sequence of str, length m
        The true and the predicted label of each row under `shown`.
    on_test : bool
        Whether that is the fixed test set.
    new_groups : bool
        Whether each row is of a group that is not in training.
    heads : int
        How many candidates there were to choose from.
    tags : mapping of str to float
        For several tags per image: the average precision of each under `shown`.
    """

    best: Result
    shown: Sequence[Result]
    baselines: Sequence[Result]
    true: Sequence[str]
    predicted: Sequence[str]
    on_test: bool
    new_groups: bool
    heads: int
    tags: Mapping[str, float] = field(default_factory=dict)

    @property
    def photos(self) -> str:
        return "photos of new groups" if self.new_groups else "new photos"

    def values(self, result: Result) -> tuple[float | None, float | None, float | None]:
        """Return a score with its interval: the test set's, where the sentence is about that."""
        if self.on_test:
            return result.test, result.test_low, result.test_high
        return result.mean, result.low, result.high

    def baseline_score(self, name: str, scoring: str) -> float | None:
        """Return the score of a baseline: ``dummy`` or ``pixel_statistics``."""
        null = self._baseline(name, scoring)
        return None if null is None else self.values(null)[0]

    def tied(self, name: str, scoring: str, low: float | None) -> bool:
        """Return whether a baseline is tied with the best head over the folds, and its interval reaches up to `low`.

        Few folds have little power: where the intervals do not overlap, a tie is not reported.
        """
        null = self._baseline(name, scoring)
        return null is not None and bool(null.tied) and (null.high is None or low is None or null.high >= low)

    def _baseline(self, name: str, scoring: str) -> Result | None:
        found = [null for null in self.baselines if null.scoring == scoring and name in (null.head, null.layer)]
        return found[0] if found else None


def verdict(info: LabelSetInfo, evidence: VerdictInput) -> str:
    """Return the verdict on one label set."""
    shown = {result.scoring: result for result in evidence.shown}
    head = evidence.shown[0].head
    who = _who_was_chosen(evidence) if head == CHOSEN else head
    about = {"class": _of_classes, "number": _of_numbers, "multi": _of_tags}[info.kind]
    parts = about(info, evidence, shown, who)
    low = evidence.values(shown[info.scoring])[1]
    guessing = evidence.baseline_score(DUMMY, info.scoring)
    tied = [] if evidence.on_test else [name for name in (DUMMY, PIXELS) if evidence.tied(name, info.scoring, low)]
    if low is not None and guessing is not None and low <= guessing:
        parts.append("no better than guessing: the interval reaches down to the dummy's score")
    elif tied:
        than = {DUMMY: "the dummy", PIXELS: "color statistics"}[tied[0]]
        # The interval of the best is above the baseline's score, but the paired test over the folds is not significant.
        parts.append(f"tied with {than}: {info.folds} folds cannot tell them apart")
    if evidence.best.optimistic and not evidence.on_test:
        parts.append("optimistic: the parameters were chosen on these same photos (--no-nested)")
    elif evidence.heads > 1 and head != CHOSEN and not evidence.on_test:
        parts.append(f"a little optimistic: the best of {evidence.heads}")
    return "; ".join(parts)


def _of_classes(info: LabelSetInfo, evidence: VerdictInput, shown: dict[str, Result], who: str) -> list[str]:
    value, low, high = (_percent(number) for number in evidence.values(shown["accuracy"]))
    parts = [f"{info.name}: right on {value} of 100 {evidence.photos} ({low} to {high}) with {who}"]
    parts += _apart(info, evidence, shown["accuracy"], _percent)
    parts += _baselines(evidence, "accuracy", "always guessing the commonest", _percent)
    wrong = Counter((t, p) for t, p in zip(evidence.true, evidence.predicted, strict=True) if t != p)
    if wrong:
        (was, taken), times = wrong.most_common(1)[0]
        parts.append(f"most confused: {was} taken for {taken}, {times} time{'s' if times != 1 else ''}")
    return parts


def _of_numbers(info: LabelSetInfo, evidence: VerdictInput, shown: dict[str, Result], who: str) -> list[str]:
    value, low, high = (_plain(number) for number in evidence.values(shown[info.scoring]))
    parts = [f"{info.name}: {info.scoring} {value} ({low} to {high}) on {evidence.photos} with {who}"]
    parts += _apart(info, evidence, shown[info.scoring], _plain)
    parts += _baselines(evidence, info.scoring, "always guessing the mean", _plain)
    error = evidence.values(shown["neg_mean_absolute_error"])[0]
    if error is not None:
        parts.append(f"off by {_plain(abs(error))} on average")
    return parts


def _apart(info: LabelSetInfo, evidence: VerdictInput, shown: Result, text: Callable[[float | None], str]) -> list[str]:
    """Return what is left of a test score without the photos that training holds copies of."""
    if not evidence.on_test or info.test_apart is None:
        return []
    copies = len(info.test_copies)
    if not info.test_apart:
        return [f"training holds copies of all {copies} test photos: no photo of them is new"]
    without = f"without the {copies} test photos" if copies > 1 else "without the test photo"
    value, low, high = (text(number) for number in (shown.test_apart, shown.test_apart_low, shown.test_apart_high))
    holds = "that training holds copies of" if copies > 1 else "that training holds a copy of"
    return [f"{without} {holds}: {value} ({low} to {high})"]


def _of_tags(info: LabelSetInfo, evidence: VerdictInput, shown: dict[str, Result], who: str) -> list[str]:
    value, low, high = (_hundredths(number) for number in evidence.values(shown[info.scoring]))
    scoring = {"average_precision": "mean average precision"}.get(info.scoring, info.scoring)
    parts = [f"{info.name}: {scoring} {value} ({low} to {high}) on {evidence.photos} with {who}"]
    parts += _baselines(evidence, info.scoring, "dummy", _hundredths)
    parts += _apart(info, evidence, shown[info.scoring], _hundredths)
    if len(evidence.tags) > 1:
        ranked = sorted(evidence.tags, key=lambda tag: (-evidence.tags[tag], tag))
        best, worst = ranked[0], ranked[-1]
        parts.append(f"best: {best} {_hundredths(evidence.tags[best])}")
        parts.append(f"worst: {worst} {_hundredths(evidence.tags[worst])}")
    return parts


def _who_was_chosen(evidence: VerdictInput) -> str:
    picked = evidence.shown[0].params["in_each_fold"]
    name, times = Counter(picked).most_common(1)[0]
    what = "combinations" if "/" in name else "heads"  # of head, backbone and layer
    return f"the best of {evidence.heads} {what} ({name} in {times} of {len(picked)} folds)"


def _baselines(evidence: VerdictInput, scoring: str, guessing: str, text: Callable[[float | None], str]) -> list[str]:
    named = ((guessing, DUMMY), ("color statistics", PIXELS))
    return [f"{what}: {text(evidence.baseline_score(name, scoring))}" for what, name in named]


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.0f}"


def _hundredths(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _plain(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
