"""The tables of a run: one line a head, the scoring that chose first, every score with its interval; of many label
sets one line a label set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.console import Console, RightAligned
from pipeline.runs import CHOSEN, DUMMY, MOST_FOLDS, NOTHING, PIXELS, LabelSetInfo, Result, Run
from pipeline.runs.leaderboard import params_text, result_name

MANY = 6  # label sets; of more, each gets a line instead of a table
LOW_SCORES = "see: docs/why_is_my_score_lower.md (the score is not shown to be better than a baseline)"
MOST_TIED = 3  # heads that are named as tied

SHORT = {
    "balanced_accuracy": "balanced acc.",
    "average_precision": "av. precision",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "neg_log_loss": "-log loss",
    "neg_mean_absolute_error": "-abs. error",
    "r2": "R2",
}
TIED = "  = tied: the best is not shown to be better (corrected t-test over the folds, Holm's adjustment, 5%)"
FEATURES = {PIXELS: "colours alone", NOTHING: "nothing"}


def print_run(console: Console, run: Run) -> None:
    """Print the leaderboard of each label set, best head first, nulls last; what is true of several is said once."""
    several = len({info.source for info in run.label_sets}) > 1
    said, left_out = "", []
    for number, info in enumerate(run.label_sets):
        mine = _of(run, info)
        if number:
            console.stdout.print()
        left_out += _print_table(console, f"{info.name} ({info.source})" if several else info.name, mine)
        about = _about(info, mine)
        if about != said:
            console.say(about)
        said = about
    if any(_marked(line, number) for info in run.label_sets for number, line in enumerate(_lines(_of(run, info)))):
        console.say(TIED)
    if any(result.params_of == MOST_FOLDS and result.params for result in run.results):
        console.say("  chosen: most often over the folds; `fit` chooses on all rows")
    if any(result.optimistic for result in run.results):
        console.say("  * optimistic: the parameters were chosen on the very rows that they are scored on")
    if left_out:
        console.say(f"  not shown for want of width: {', '.join(dict.fromkeys(reversed(left_out)))}")


def print_overview(console: Console, run: Run) -> None:
    """Print a line a label set: the best head, its score beside the nulls', and what it is tied with."""
    several = len({info.source for info in run.label_sets}) > 1
    tested = any(info.test is not None for info in run.label_sets)
    score = "on the test set (95%)" if tested else "score (95%)"
    columns = ["label set", *(["images of"] if several else []), "by", "best", RightAligned(score)]
    columns += [RightAligned("dummy"), RightAligned("colours alone"), "tied with", RightAligned("s")]
    first = len(columns) - 4
    rows = [_overview(run, info, several) for info in run.label_sets]
    left_out = console.table(columns, rows, spare=[first + 3, first + 2])
    if any(result.head == CHOSEN for result in run.results) and not tested:
        console.say("  score: of choosing among the heads anew in every fold; best: the head with the best score")
    console.say("  tied with: the best is not shown to be better (corrected t-test over the folds, Holm's, 5%)")
    if any(result.optimistic for result in run.results):
        console.say("  * optimistic: the parameters were chosen on the very rows that they are scored on")
    if left_out:
        console.say(f"  not shown for want of width: {', '.join(reversed(left_out))}")


def _overview(run: Run, info: LabelSetInfo, several: bool) -> list[str]:
    rated = run.of(info.name, source=info.source)
    best = run.best(info.name, source=info.source)
    # As the verdict: of one head that was the best of several, the score would flatter.
    shown = best if info.test is not None else next((one for one in rated if one.head == CHOSEN), best)
    heads = [one for one in rated if one.head != CHOSEN and not one.null]
    tied = [one.head for one in rated if one.null and one.tied and one.head == DUMMY]
    tied += ["colours alone" for one in rated if one.layer == PIXELS and one.tied]
    tied += [result_name(one, heads, "/") for one in heads if one.tied and one is not best]
    more = len(tied) - MOST_TIED
    cells = [info.name, *([info.source] if several else []), _short(info.scoring), result_name(best, heads, "/")]
    cells.append(_score(*_values(shown, info)) + ("" if shown.nested or info.test is not None else " *"))
    cells += [
        _number(next((_values(one, info)[0] for one in rated if one.null and one.layer == layer), None))
        for layer in (NOTHING, PIXELS)
    ]
    cells.append(", ".join(tied) if more <= 1 else f"{', '.join(tied[:MOST_TIED])} and {more} more")
    seconds = sum({(one.cache, one.layer, one.head): one.seconds for one in rated if one.head != CHOSEN}.values())
    return [*cells, f"{seconds:.1f}"]


def _values(result: Result, info: LabelSetInfo) -> tuple[float | None, float | None, float | None]:
    if info.test is not None:
        return result.test, result.test_low, result.test_high
    return result.mean, result.low, result.high


def _of(run: Run, info: LabelSetInfo) -> list[Result]:
    return [r for r in run.results if (r.label_set, r.source) == (info.name, info.source)]


def _marked(line: Sequence[Result], number: int) -> bool:
    """Return whether a line is tied with the best, which is the first: by the scoring that chose."""
    return number > 0 and bool(line[0].tied)


def _about(info: LabelSetInfo, results: Sequence[Result]) -> str:
    """Return how many rows a table is about, how they were split, and how its intervals were made."""
    parts = [f"n = {info.n:,}", f"{info.folds} folds"]
    if info.groups is not None:
        parts.append(f"{info.groups:,} groups")
    if info.test is not None:
        parts.append(f"{info.test:,} in the test set")
    if info.test_copies:
        parts.append(f"{len(info.test_copies):,} of them copies of training images")
    method = next(r.method for r in results if r.scoring == info.scoring and not r.null)
    return f"  {', '.join(parts)}, 95%: {method}"


def print_scores(console: Console, scores: Sequence[Mapping[str, Any]]) -> None:
    """Print the scores that a model carries, on stderr: what `fit` results in is the model."""
    results = results_of(scores)
    _print_table(console, results[0].label_set, results, to_stderr=True)
    if any(_marked(line, number) for number, line in enumerate(_lines(results))):
        console.say(TIED)


def results_of(scores: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Return the scores that a model carries as results."""
    # A model that an earlier version saved lacks what has come since.
    return [Result(**{name: score[name] for name in Result.__dataclass_fields__ if name in score}) for score in scores]


def print_where_to_read(console: Console, results: Sequence[Result]) -> None:
    """Print where low scores are explained, if the best head of a label set is no better than a baseline."""
    best: dict[tuple[str, str], Result] = {}
    for result in results:
        if not result.null and result.head != CHOSEN:
            best.setdefault((result.label_set, result.source), result)
    for result in results:
        first = best.get((result.label_set, result.source))
        if not result.null or not result.tied or first is None or first.scoring != result.scoring:
            continue
        # As in the verdict: intervals that leave each other behind are news, whatever few folds can show.
        if result.high is None or first.low is None or result.high >= first.low:
            console.say(LOW_SCORES)
            return


def _print_table(console: Console, title: str, results: Sequence[Result], *, to_stderr: bool = False) -> list[str]:
    """Print one label set's table; return the names of the columns that had no room."""
    lines = _lines(results)
    scorings = list(dict.fromkeys(result.scoring for line in lines for result in line))
    tested = any(result.test is not None for line in lines for result in line)
    apart = any(result.test_apart is not None for line in lines for result in line)
    several = len({result.cache for line in lines for result in line}) > 1
    columns = [title, *(["backbone"] if several else []), "features", RightAligned(f"{_short(scorings[0])} (95%)")]
    columns += [RightAligned("on the test set (95%)")] if tested else []
    columns += [RightAligned("without copies (95%)")] if apart else []
    others = [RightAligned(_short(scoring) + (" (test)" if tested else "")) for scoring in scorings[1:]]
    first = len(columns)
    columns += [*others, "chosen", RightAligned("s")]
    # What goes first where there is no room: seconds, then the further scores from the last, then the parameters.
    spare = [len(columns) - 1, *range(len(columns) - 3, first - 1, -1), len(columns) - 2]
    rows = [_row(line, scorings, tested, apart, several, _marked(line, number)) for number, line in enumerate(lines)]
    return console.table(columns, rows, to_stderr=to_stderr, spare=spare)


def _lines(results: Sequence[Result]) -> list[list[Result]]:
    """Return the results of one head on one line, in the order of the run."""
    lines: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        lines.setdefault((result.cache, result.layer, result.head), []).append(result)
    return list(lines.values())


def _row(
    line: Sequence[Result], scorings: Sequence[str], tested: bool, apart: bool, several: bool, tied: bool
) -> list[str]:
    by_scoring = {result.scoring: result for result in line}
    first = line[0]
    choice = by_scoring.get(scorings[0])
    chosen = first.head == CHOSEN
    features = (
        "chosen by fold" if chosen else {PIXELS: "colours alone", NOTHING: "nothing"}.get(first.layer, first.layer)
    )
    mark = "" if first.nested else " *"
    cells = ["best of these" if chosen else first.head]
    cells += ["" if chosen else first.backbone] if several else []
    score = "-" if choice is None else _score(choice.mean, choice.low, choice.high) + mark
    cells += [features, f"= {score}" if tied else score]
    if tested:
        cells.append("" if choice is None else _score(choice.test, choice.test_low, choice.test_high))
    if apart:
        cells.append("" if choice is None else _score(choice.test_apart, choice.test_apart_low, choice.test_apart_high))
    for scoring in scorings[1:]:
        other = by_scoring.get(scoring)
        # All further scores of a table are of one kind: the test set's where there is one.
        cells.append("-" if other is None else _number(other.test) if tested else _number(other.mean) + mark)
    return [*cells, params_text(first), f"{first.seconds:.1f}"]


def _score(value: float | None, low: float | None, high: float | None) -> str:
    """Return a score with its interval, as far as either can be said."""
    if value is None or low is None or high is None:
        return _number(value)
    return f"{_number(value)} ({_number(low)} to {_number(high)})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _short(scoring: str) -> str:
    return SHORT.get(scoring, scoring)
