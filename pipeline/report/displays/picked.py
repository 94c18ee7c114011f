"""What a display is asked about: one label set of a run, and what a head said of its images."""

from __future__ import annotations

from pipeline.errors import ReportError
from pipeline.report.findings.answers import FOLDS, Answers, answers_of
from pipeline.runs import ON_TEST, LabelSetInfo, Result, Run

_KINDS = {"class": "classes", "number": "numbers", "multi": "several tags an image"}


def label_set_of(run: Run, label_set: str | None, source: str | None, part: str = FOLDS) -> LabelSetInfo:
    """Return what was asked of a label set, the only one by default; refuse a part that it does not have.

    Raises
    ------
    EvaluationError
        No such label set, or several and none named.
    ReportError
        No such part.
    """
    info = run.info(label_set, source=source)
    if part not in (FOLDS, ON_TEST):
        raise ReportError(f"expected part {FOLDS!r} or {ON_TEST!r}, got {part!r}", f"part={FOLDS!r}")
    if part == ON_TEST and info.test is None:
        raise ReportError(f"{info.name}: expected answers about a test set, got a run without one", f"part={FOLDS!r}")
    return info


def picked_answers(run: Run, info: LabelSetInfo, part: str = FOLDS, result: Result | None = None) -> Answers:
    """Return what the best head said of the images of a label set of classes.

    Raises
    ------
    ReportError
        It has no classes, or the run holds no answers.
    """
    if info.kind != "class":
        others = [one.name for one in run.label_sets if one.kind == "class"]
        raise ReportError(
            f"{info.name}: expected a label set of classes, got {_KINDS[info.kind]}",
            f"label_set={others[0]!r}" if others else "LeaderboardDisplay shows its scores",
        )
    found = answers_of(run, info, part=part, result=result)
    if found is None:
        raise ReportError(
            f"{info.name}: expected what the heads said of each image, got no predictions in the run",
            "make it again: pipeline evaluate DATA --out RUN",
        )
    return found


def about(answers: Answers) -> str:
    """Return whom the answers are from, in words."""
    return f"{answers.head}, {'on the test set' if answers.part[0] == ON_TEST else 'out of fold'}"
