"""The table of a run: one line a head, the scoring that chose first, every score with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cli.terminal import Terminal
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
        lines = _print_table(terminal, info.name, run.results)
        parts = [f"n = {info.n:,}", f"{info.folds} folds"]
        if info.groups is not None:
            parts.append(f"{info.groups} groups")
        if info.test is not None:
            parts.append(f"{info.test:,} in the test set")
        methods = dict.fromkeys(line[0].method for line in lines if not line[0].null)
        parts.append(f"intervals: {'; '.join(methods)}")
        terminal.say("  " + ", ".join(parts))


def print_scores(terminal: Terminal, scores: Sequence[Mapping[str, Any]]) -> None:
    """Print the scores that a model carries, on stderr: what `fit` results in is the model."""
    results = [Result(**{name: score[name] for name in Result.__dataclass_fields__}) for score in scores]
    for text in dict.fromkeys(result.label_set for result in results):
        _print_table(terminal, text, results, to_stderr=True)


def _print_table(
    terminal: Terminal, label_set: str, results: Sequence[Result], *, to_stderr: bool = False
) -> list[list[Result]]:
    lines = _lines([result for result in results if result.label_set == label_set])
    scorings = list(dict.fromkeys(result.scoring for line in lines for result in line))
    tested = any(result.test is not None for line in lines for result in line)
    several = len({result.cache for line in lines for result in line}) > 1
    columns = [label_set, *(["backbone"] if several else []), "features", f"{_short(scorings[0])}:", "95%:"]
    columns += ["on the test set:", "95%:"] if tested else []
    columns += [f"{_short(scoring)}:" for scoring in scorings[1:]] + ["chosen", "s:"]
    terminal.table(columns, [_row(line, scorings, tested, several) for line in lines], to_stderr=to_stderr)
    return lines


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
    head = "best of these" if first.head == CHOSEN else first.head
    features = {PIXELS: "colours alone", "none": "nothing"}.get(first.layer, first.layer)
    if first.head == CHOSEN:
        features = "chosen in every fold"
    mark = "" if first.nested else " *"
    cells = [head, *([first.backbone] if several else []), features]
    cells += ["-", ""] if choice is None else [_number(choice.mean) + mark, _interval(choice.low, choice.high)]
    if tested:
        there = choice is not None and choice.test is not None
        cells += [_number(choice.test), _interval(choice.test_low, choice.test_high)] if choice and there else ["", ""]
    for scoring in scorings[1:]:
        other = by_scoring.get(scoring)
        shown = None if other is None else (other.test if tested and other.test is not None else other.mean)
        cells.append("-" if shown is None else _number(shown))
    chosen = (
        "" if first.head == CHOSEN else ", ".join(f"{name}={_value(value)}" for name, value in first.params.items())
    )
    return [*cells, chosen, f"{first.seconds:.1f}"]


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _short(scoring: str) -> str:
    return SHORT.get(scoring, scoring)
