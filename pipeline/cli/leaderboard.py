"""The table of a run: one line a head, the scoring that chose first, every score with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.terminal import Number, Terminal
from pipeline.runs import CHOSEN, PIXELS, Result, Run

SHORT = {
    "balanced_accuracy": "balanced acc.",
    "f1_macro": "macro F1",
    "neg_log_loss": "-log loss",
    "neg_mean_absolute_error": "-abs. error",
    "r2": "R2",
}


def print_run(terminal: Terminal, run: Run) -> None:
    """Print the leaderboard of each label set, best head first, nulls last."""
    for number, info in enumerate(run.label_sets):
        if number:
            terminal.stdout.print()
        lines, left_out = _print_table(terminal, info.name, run.results)
        parts = [f"n = {info.n:,}", f"{info.folds} folds"]
        if info.groups is not None:
            parts.append(f"{info.groups:,} groups")
        if info.test is not None:
            parts.append(f"{info.test:,} in the test set")
        methods = dict.fromkeys(line[0].method for line in lines if not line[0].null)
        parts.append(f"95%: {'; '.join(methods)}")
        terminal.say("  " + ", ".join(parts))
        if any(result.optimistic for line in lines for result in line):
            terminal.say("  * optimistic: the parameters were chosen on the very rows that they are scored on")
        if left_out:
            terminal.say(f"  not shown for want of width: {', '.join(reversed(left_out))}")


def print_scores(terminal: Terminal, scores: Sequence[Mapping[str, Any]]) -> None:
    """Print the scores that a model carries, on stderr: what `fit` results in is the model."""
    results = [Result(**{name: score[name] for name in Result.__dataclass_fields__}) for score in scores]
    for text in dict.fromkeys(result.label_set for result in results):
        _print_table(terminal, text, results, to_stderr=True)


def _print_table(
    terminal: Terminal, label_set: str, results: Sequence[Result], *, to_stderr: bool = False
) -> tuple[list[list[Result]], list[str]]:
    """Print one label set's table; return its lines, and the columns that had no room."""
    lines = _lines([result for result in results if result.label_set == label_set])
    scorings = list(dict.fromkeys(result.scoring for line in lines for result in line))
    tested = any(result.test is not None for line in lines for result in line)
    several = len({result.cache for line in lines for result in line}) > 1
    columns = [label_set, *(["backbone"] if several else []), "features", Number(f"{_short(scorings[0])} (95%)")]
    columns += [Number("on the test set (95%)")] if tested else []
    others = [Number(_short(scoring) + (" (test)" if tested else "")) for scoring in scorings[1:]]
    first = len(columns)
    columns += [*others, "chosen", Number("s")]
    # What goes first where there is no room: seconds, then the further scores from the last, then the parameters.
    spare = [len(columns) - 1, *range(len(columns) - 3, first - 1, -1), len(columns) - 2]
    rows = [_row(line, scorings, tested, several) for line in lines]
    return lines, terminal.table(columns, rows, to_stderr=to_stderr, spare=spare)


def _lines(results: Sequence[Result]) -> list[list[Result]]:
    """Return the results of one head on one line, in the order of the run."""
    lines: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        lines.setdefault((result.cache, result.layer, result.head), []).append(result)
    return list(lines.values())


def _row(line: Sequence[Result], scorings: Sequence[str], tested: bool, several: bool) -> list[str]:
    by_scoring = {result.scoring: result for result in line}
    first = line[0]
    choice = by_scoring.get(scorings[0])
    chosen = first.head == CHOSEN
    features = "chosen by fold" if chosen else {PIXELS: "colours alone", "none": "nothing"}.get(first.layer, first.layer)
    mark = "" if first.nested else " *"
    cells = ["best of these" if chosen else first.head]
    cells += ["" if chosen else first.backbone] if several else []
    cells += [features, "-" if choice is None else _score(choice.mean, choice.low, choice.high) + mark]
    if tested:
        cells.append("" if choice is None else _score(choice.test, choice.test_low, choice.test_high))
    for scoring in scorings[1:]:
        other = by_scoring.get(scoring)
        # All further scores of a table are of one kind: the test set's where there is one.
        cells.append("-" if other is None else _number(other.test) if tested else _number(other.mean) + mark)
    params = "" if chosen else ", ".join(f"{name}={_value(value)}" for name, value in first.params.items())
    return [*cells, params, f"{first.seconds:.1f}"]


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _score(value: float | None, low: float | None, high: float | None) -> str:
    """Return a score with its interval, as far as either can be said."""
    if value is None or low is None or high is None:
        return _number(value)
    return f"{_number(value)} ({_number(low)} to {_number(high)})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _short(scoring: str) -> str:
    return SHORT.get(scoring, scoring)
