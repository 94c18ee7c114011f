"""The terminal's leaderboards: one row per head, or, for many label sets, one row per label set.

Rows, names, scores and legend come from `pipeline.runs.leaderboard`, which the report page shows too. Here scores are
rounded to three digits and marked with ``=`` (tied) and ``*`` (optimistic).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.console import Console, RightAligned
from pipeline.runs import CHOSEN, DUMMY, NOTHING, PIXELS, LabelSetInfo, Result, Run
from pipeline.runs.leaderboard import (
    FEATURE_NAMES,
    OPTIMISTIC,
    TIED,
    Leaderboard,
    LeaderboardRow,
    LeaderboardScore,
    baseline_score,
    build_leaderboard,
    leaderboard_of,
    reported_result,
    result_name,
    scoring_name,
)

MANY = 6  # label sets; of more, each gets a row instead of a table
LOW_SCORES = "see: docs/why_is_my_score_lower.md (the score is not shown to be better than a baseline)"
MOST_TIED = 3  # heads that are named as tied

_MARKS = {TIED: "= ", OPTIMISTIC: "* "}  # of the legend's sentences


def print_run(console: Console, run: Run) -> None:
    """Print the leaderboard of each label set, best head first, baselines last; repeated texts are printed once."""
    several = len({info.source for info in run.label_sets}) > 1
    last_about, left_out, legend = "", list[str](), list[str]()
    for number, info in enumerate(run.label_sets):
        board = leaderboard_of(run, info)
        if number:
            console.stdout.print()
        left_out += _print_table(console, f"{info.name} ({info.source})" if several else info.name, board)
        if board.about != last_about:
            console.say(f"  {board.about}")
        last_about = board.about
        legend += board.legend
    _print_legend(console, legend, left_out)


def print_overview(console: Console, run: Run) -> None:
    """Print one row per label set: the best head, its score beside those of the baselines, and the tied heads."""
    several = len({info.source for info in run.label_sets}) > 1
    tested = any(info.test is not None for info in run.label_sets)
    score = "on the test set (95%)" if tested else "score (95%)"
    columns = ["label set", *(["images of"] if several else []), "by", "best", RightAligned(score)]
    columns += [RightAligned("dummy"), RightAligned(FEATURE_NAMES[PIXELS]), "tied with", RightAligned("seconds")]
    first = len(columns) - 4
    rows = [_overview(run, info, several) for info in run.label_sets]
    left_out = console.table(columns, rows, spare=[first + 3, first + 2])
    legend = [TIED.replace("tied:", "tied with:")]
    if any(result.head == CHOSEN for result in run.results) and not tested:
        legend.append("score: of the whole procedure of selecting a head; best: the head with the best score")
    boards = [leaderboard_of(run, info) for info in run.label_sets]
    legend += [text for board in boards for text in board.legend if text not in _MARKS or text == OPTIMISTIC]
    _print_legend(console, [text for text in legend if not text.startswith("parameters")], left_out)


def _overview(run: Run, info: LabelSetInfo, several: bool) -> list[str]:
    rated = run.of(info.name, source=info.source)
    best = run.best(info.name, source=info.source)
    reported, score = reported_result(run, info)
    heads = [result for result in rated if result.head != CHOSEN and not result.null]
    tied = [result.head for result in rated if result.null and result.tied and result.head == DUMMY]
    tied += [FEATURE_NAMES[PIXELS] for result in rated if result.layer == PIXELS and result.tied]
    tied += [result_name(result, heads, "/") for result in heads if result.tied and result is not best]
    more = len(tied) - MOST_TIED
    cells = [info.name, *([info.source] if several else []), scoring_name(info.scoring, short=True)]
    cells.append(result_name(best, heads, "/"))
    cells.append(_with_interval(score) + ("" if reported.nested or info.test is not None else " *"))
    cells += [_number(baseline_score(run, info, layer)) for layer in (NOTHING, PIXELS)]
    cells.append(", ".join(tied) if more <= 1 else f"{', '.join(tied[:MOST_TIED])} and {more} more")
    trained = [result for result in rated if result.head != CHOSEN]
    seconds = sum({(result.cache, result.layer, result.head): result.seconds for result in trained}.values())
    return [*cells, f"{seconds:.1f}"]


def print_scores(console: Console, scores: Sequence[Mapping[str, Any]]) -> None:
    """Print the scores that a model carries, on stderr: the result of `fit` is the model."""
    results = results_of(scores)
    board = build_leaderboard(results)
    left_out = _print_table(console, results[0].label_set, board, to_stderr=True)
    _print_legend(console, board.legend, left_out)


def results_of(scores: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Return the scores that a model carries as results."""
    # A model that an earlier version saved lacks the fields that were added since.
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
        # As in the verdict: intervals that do not overlap are a difference, whatever few folds can show.
        if result.high is None or first.low is None or result.high >= first.low:
            console.say(LOW_SCORES)
            return


def _print_table(console: Console, title: str, board: Leaderboard, *, to_stderr: bool = False) -> list[str]:
    """Print one label set's leaderboard; return the names of the columns that the terminal is too narrow for."""
    scoring = scoring_name(board.scoring, short=True)
    columns = [title, *(["backbone"] if board.several else []), "features", RightAligned(f"{scoring} (95%)")]
    columns += [RightAligned("on the test set (95%)")] if board.tested else []
    columns += [RightAligned("without duplicates (95%)")] if board.apart else []
    others = [scoring_name(name, short=True) + (" (test)" if board.tested else "") for name in board.others]
    first = len(columns)
    columns += [*map(RightAligned, others), "parameters", RightAligned("seconds")]
    # Left out first on a narrow terminal: seconds, then the further scores from the last, then the parameters.
    spare = [len(columns) - 1, *range(len(columns) - 3, first - 1, -1), len(columns) - 2]
    return console.table(columns, [_cells(row, board) for row in board.rows], to_stderr=to_stderr, spare=spare)


def _cells(row: LeaderboardRow, board: Leaderboard) -> list[str]:
    mark = " *" if row.optimistic else ""
    scoring, missing = board.scoring, LeaderboardScore()
    score = f"{_with_interval(row.scores[scoring])}{mark}" if scoring in row.scores else "-"
    cells = [row.head, *([row.backbone] if board.several else []), row.features, f"= {score}" if row.tied else score]
    if board.tested:
        cells.append(_with_interval(row.test.get(scoring, missing)))
    if board.apart:
        cells.append(_with_interval(row.apart.get(scoring, missing)))
    for other in board.others:
        number = _number(board.score(row, other).value)
        cells.append("-" if other not in row.scores else number if board.tested else number + mark)
    return [*cells, row.params, f"{row.seconds:.1f}"]


def _print_legend(console: Console, legend: Sequence[str], left_out: Sequence[str]) -> None:
    for text in dict.fromkeys(legend):
        console.say(f"  {_MARKS.get(text, '')}{text}")
    if left_out:
        names = ", ".join(dict.fromkeys(reversed(left_out)))
        console.say(f"  columns that this terminal is too narrow for: {names}")


def _with_interval(score: LeaderboardScore) -> str:
    """Return a score with its interval, where there are both."""
    if score.value is None or score.low is None or score.high is None:
        return _number(score.value)
    return f"{_number(score.value)} ({_number(score.low)} to {_number(score.high)})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
