"""Where a study is kept, and how it is told from another that would lie there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.heads import Head
from pipeline.progress import Progress
from pipeline.runs import RunScope as Matter
from pipeline.runs import RunsDir, check_is_run_directory, feature_name, run_directory
from pipeline.studies.subject import StudyData


def study_scope(subject: StudyData, layers: Sequence[str], head: Head) -> Matter:
    """Return what the folder's store is told that it is about."""
    question, train = subject.question, subject.train.part
    return Matter(
        frozenset([(question.name, question.kind, *question.classes)]),
        frozenset(feature_name(train.collection.name, str(train.collection.caches[0].path), layer) for layer in layers),
        frozenset([f"study: {head.name}"]),
    )


def study_directory(
    subject: StudyData, layers: Sequence[str], head: Head, out: str | Path | RunsDir | None, progress: Progress
) -> Path | None:
    """Return the folder that the study is kept in."""
    if out is None:
        return None
    if not isinstance(out, RunsDir):
        check_is_run_directory(out)
        return Path(out)
    name = f"{subject.train.part.collection.name}-study"
    place, moved = run_directory(study_scope(subject, layers, head), Path(out.folder) / name)
    if moved is not None:
        progress.note(moved)
    return place
