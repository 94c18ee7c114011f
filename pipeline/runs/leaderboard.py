"""The leaderboard of one label set: rows, names, tie marks and legend.

The terminal, the report page, `LeaderboardDisplay` and the MLflow log all show these rows under these names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.runs.run import CHOSEN, DUMMY, MOST_FOLDS, NOTHING, PIXELS, LabelSetInfo, Result, Run

_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "neg_log_loss": "log loss",
    "neg_mean_absolute_error": "mean absolute error",
    "r2": "R²",
}
_SHORT_NAMES = {
    **_NAMES,
    "balanced_accuracy": "balanced acc.",
    "average_precision": "av. precision",
    "neg_mean_absolute_error": "abs. error",
    "r2": "R2",
}
FEATURE_NAMES = {PIXELS: "color statistics", NOTHING: "none"}
PER_FOLD = "selected per fold"

_HELP = {
    "accuracy": "The share of all photos that are correct.",
    "balanced_accuracy": "The mean of the share of correct photos per class: each class counts the same.",
    "f1_macro": "The mean over the classes of the harmonic mean of precision and recall.",
    "f1_micro": "The harmonic mean of precision and recall, all tags together.",
    "neg_log_loss": "How far the probabilities are from the labels; lower is better, 0 is perfect.",
    "average_precision": "The mean over the tags of the area under the precision-recall curve.",
    "neg_mean_absolute_error": "How far the prediction is off on average; lower is better.",
    "r2": "The share of the variance that is explained; 1 is perfect, 0 is the mean, less is worse than the mean.",
    "roc_auc": "The probability that a photo of the class gets a higher score than one that is not.",
}

# The legend, one sentence per mark.
TIED = "tied: the best is not shown to be better (corrected t-test over the folds, Holm's adjustment, 5%)"
PARAMETERS = "parameters: those selected in most folds; a saved model has its own, selected on all its training images"
OPTIMISTIC = "optimistic: the parameters were selected on the same rows that they are scored on"
LOWER_IS_BETTER = "lower is better"


@dataclass(frozen=True)
class LeaderboardScore:
    """A score with its interval as it is shown: errors and losses are positive.

    Attributes
    ----------
    value, low, high : float or None
        None where there is no score or no interval.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class LeaderboardRow:
    """One head on one set of features.

    Attributes
    ----------
    head, features, backbone : str
        Names for people; `backbone` is empty where none was used, and for the nested selection.
    baseline, best, tied, optimistic : bool
        `tied` is False for the best itself.
    scores, test, apart : mapping of str to LeaderboardScore
        By scoring: out of fold, on the test set, and on the test images that training has no duplicate of.
    params : str
    seconds : float
    result : Result
        Of the scoring that ranks the heads where the head has a score under it.
    """

    head: str
    features: str
    backbone: str
    baseline: bool
    best: bool
    tied: bool
    optimistic: bool
    scores: dict[str, LeaderboardScore]
    test: dict[str, LeaderboardScore]
    apart: dict[str, LeaderboardScore]
    params: str
    seconds: float
    result: Result = field(repr=False)


@dataclass(frozen=True)
class Leaderboard:
    """The rows of one label set, best head first, baselines last.

    Attributes
    ----------
    scoring : str
        The scoring that ranks the heads, by scikit-learn's name.
    others : tuple of str
        The further scorings.
    tested, apart, several : bool
        Whether there are scores on a test set, scores without duplicates, and features of several caches.
    rows : tuple of LeaderboardRow
    about : str
        Images, folds and the method of the intervals.
    legend : tuple of str
        One sentence for each mark that occurs.
    """

    scoring: str
    others: tuple[str, ...]
    tested: bool
    apart: bool
    several: bool
    rows: tuple[LeaderboardRow, ...]
    about: str
    legend: tuple[str, ...]

    def score(self, row: LeaderboardRow, scoring: str | None = None) -> LeaderboardScore:
        """Return the score that stands for a row: on the test set where there is one, out of fold otherwise."""
        return (row.test if self.tested else row.scores).get(scoring or self.scoring, LeaderboardScore())


def build_leaderboard(results: Sequence[Result], info: LabelSetInfo | None = None) -> Leaderboard:
    """Return the leaderboard of one label set.

    Parameters
    ----------
    results : sequence of Result
        Of one label set, in the order of the run: every scoring.
    info : LabelSetInfo, optional
        Without it, as for the scores that a model carries, the first result's scoring ranks the heads.
    """
    lines: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in results:
        lines.setdefault((result.cache, result.layer, result.head), {})[result.scoring] = result
    scoring = info.scoring if info is not None else results[0].scoring
    others = tuple(name for name in dict.fromkeys(result.scoring for result in results) if name != scoring)
    heads = [line for line in lines.values() if not _first(line, scoring).null]
    candidates = sum(_first(line, scoring).head != CHOSEN for line in heads)
    best = next((_first(line, scoring) for line in heads if _first(line, scoring).head != CHOSEN), None)
    rows = tuple(_row(line, scoring, best, candidates) for line in lines.values())
    tested = any(result.test is not None for result in results) or (info is not None and info.test is not None)
    return Leaderboard(
        scoring=scoring,
        others=others,
        tested=tested,
        apart=any(result.test_apart is not None for result in results),
        several=len({result.cache for result in results}) > 1,
        rows=rows,
        about=_about(results, scoring, info),
        legend=_legend(results, rows, (scoring, *others), bool(tested and others)),
    )


def leaderboard_of(run: Run, info: LabelSetInfo) -> Leaderboard:
    """Return the leaderboard of a label set of a run."""
    return build_leaderboard(
        [result for result in run.results if (result.label_set, result.source) == info_key(info)], info
    )


def info_key(info: LabelSetInfo) -> tuple[str, str]:
    """Return the name and the source of a label set, which together are unique in a run."""
    return info.name, info.source


def scoring_name(scoring: str, *, short: bool = False) -> str:
    """Return the name of a scoring for people: "log loss" for ``neg_log_loss``."""
    names = _SHORT_NAMES if short else _NAMES
    return names.get(scoring, scoring.removeprefix("neg_").replace("_", " "))


def scoring_help(scoring: str) -> str:
    """Return one line on a scoring."""
    return _HELP.get(scoring, f"scikit-learn's {scoring}.")


def is_error(scoring: str) -> bool:
    """Return whether lower is better: scikit-learn negates errors and losses, and these are shown positive."""
    return scoring.startswith("neg_")


def shown_score(scoring: str, value: float | None, low: float | None, high: float | None) -> LeaderboardScore:
    """Return a score as it is shown: for errors and losses the sign and the ends of the interval are reversed."""
    if not is_error(scoring):
        return LeaderboardScore(value, low, high)
    value, low, high = (None if number is None else 0.0 - number for number in (value, high, low))
    return LeaderboardScore(value, low, high)


def result_name(result: Result, among: Sequence[Result], separator: str = " / ") -> str:
    """Return a head with as much of cache or backbone and layer as tells it from the others."""
    parts = [result.head]
    if len({other.cache for other in among}) > 1:
        same = len({other.backbone for other in among}) < len({other.cache for other in among})
        parts.append(Path(result.cache).stem if same else result.backbone)
    if len({other.layer for other in among}) > 1:
        parts.append(result.layer)
    return separator.join(parts)


def head_name(result: Result, candidates: int) -> str:
    """Return the name of a head: "best of 3 (nested selection)" for the whole procedure of selecting one."""
    return f"best of {candidates} (nested selection)" if result.head == CHOSEN else result.head


def features_text(result: Result) -> str:
    """Return the features of a result for people: "color statistics" for the baseline of that kind."""
    return PER_FOLD if result.head == CHOSEN else FEATURE_NAMES.get(result.layer, result.layer)


def params_text(result: Result) -> str:
    """Return the parameters of a head as one text; empty for the nested selection, which has some per fold."""
    return "" if result.head == CHOSEN else format_params(result.params)


def format_params(params: object) -> str:
    """Return a mapping of parameters as ``C=0.1, penalty=l2``."""
    assert hasattr(params, "items")
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()
    )


def headline_result(rated: Sequence[Result]) -> Result | None:
    """Return the result whose score is reported out of fold: the nested selection where there is one, else the best.

    The score of one head that was selected as the best of several would be optimistic.
    """
    heads = [result for result in rated if not result.null]
    return next((result for result in heads if result.head == CHOSEN), heads[0] if heads else None)


def reported_result(run: Run, info: LabelSetInfo, scoring: str | None = None) -> tuple[Result, LeaderboardScore]:
    """Return the result that stands for a label set and its score, as the verdict reports them.

    Parameters
    ----------
    run : Run
    info : LabelSetInfo
    scoring : str, optional
        By default the scoring that ranks the heads.
    """
    best = run.best(info.name, source=info.source)
    stands = best if info.test is not None else headline_result(run.of(info.name, source=info.source)) or best
    scoring = scoring or info.scoring
    key = (stands.cache, stands.layer, stands.head)
    rated = run.of(info.name, source=info.source, scoring=scoring)
    found = next((result for result in rated if (result.cache, result.layer, result.head) == key), None)
    if found is None:
        return stands, LeaderboardScore()
    ends = (
        (found.test, found.test_low, found.test_high) if info.test is not None else (found.mean, found.low, found.high)
    )
    return stands, shown_score(scoring, *ends)


def baseline_of(run: Run, info: LabelSetInfo, layer: str, scoring: str | None = None) -> Result | None:
    """Return the baseline of a label set that has these features: ``none`` or ``pixel_statistics``."""
    rated = run.of(info.name, source=info.source, scoring=scoring)
    return next((result for result in rated if result.null and result.layer == layer), None)


def baseline_score(run: Run, info: LabelSetInfo, layer: str, scoring: str | None = None) -> float | None:
    """Return a baseline's score as it is shown, on the test set where there is one."""
    baseline = baseline_of(run, info, layer, scoring)
    if baseline is None:
        return None
    value = baseline.test if info.test is not None else baseline.mean
    return shown_score(baseline.scoring, value, None, None).value


def _first(line: dict[str, Result], scoring: str) -> Result:
    return line.get(scoring) or next(iter(line.values()))


def _row(line: dict[str, Result], scoring: str, best: Result | None, candidates: int) -> LeaderboardRow:
    first = _first(line, scoring)
    is_best = first is best
    return LeaderboardRow(
        head=head_name(first, candidates),
        features=features_text(first),
        backbone="" if first.head in (CHOSEN, DUMMY) else first.backbone,
        baseline=first.null,
        best=is_best,
        tied=bool(first.tied) and not is_best,
        optimistic=first.optimistic,
        scores={name: shown_score(name, result.mean, result.low, result.high) for name, result in line.items()},
        test={name: shown_score(name, result.test, result.test_low, result.test_high) for name, result in line.items()},
        apart={
            name: shown_score(name, result.test_apart, result.test_apart_low, result.test_apart_high)
            for name, result in line.items()
        },
        params=params_text(first),
        seconds=first.seconds,
        result=first,
    )


def _about(results: Sequence[Result], scoring: str, info: LabelSetInfo | None) -> str:
    method = next((result.method for result in results if result.scoring == scoring and not result.null), "")
    parts = [f"{results[0].n if info is None else info.n:,} images"]
    if info is not None:
        parts += [f"{info.folds} folds"]
        parts += [f"{info.groups:,} groups"] if info.groups is not None else []
        parts += [f"{info.test:,} more in the test set"] if info.test is not None else []
        parts += [f"{len(info.test_copies):,} of them duplicates of training images"] if info.test_copies else []
        parts += [f"{info.unlabelled:,} without a label are left out"] if info.unlabelled else []
    return f"{', '.join(parts)}. 95% intervals: {method}" if method else ", ".join(parts)


def _legend(
    results: Sequence[Result], rows: Sequence[LeaderboardRow], scorings: Sequence[str], further_on_test: bool
) -> tuple[str, ...]:
    legend = [TIED] if any(row.tied for row in rows) else []
    if any(result.params_of == MOST_FOLDS and result.params and result.head != CHOSEN for result in results):
        legend.append(PARAMETERS)
    if any(row.optimistic for row in rows):
        legend.append(OPTIMISTIC)
    errors = [scoring_name(name) for name in scorings if is_error(name)]
    if errors:
        legend.append(f"{' and '.join(errors)}: {LOWER_IS_BETTER}")
    if further_on_test:
        legend.append("the further scores are those on the test set")
    return tuple(legend)
