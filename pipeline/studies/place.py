"""Where a study is kept, and how it is told from another that would lie there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.heads import Head
from pipeline.progress import Progress
from pipeline.runs import Subject as Matter
from pipeline.runs import Under, feature, place_for, refuse_foreign
from pipeline.studies.subject import Subject


def matter_of(subject: Subject, layers: Sequence[str], head: Head) -> Matter:
    """Return what the folder's store is told that it is about."""
    question, train = subject.question, subject.train.part
    return Matter(
        frozenset([(question.name, question.kind, *question.classes)]),
        frozenset(feature(train.collection.name, str(train.collection.caches[0].path), layer) for layer in layers),
        frozenset([f"study: {head.name}"]),
    )


def folder_for(
    subject: Subject, layers: Sequence[str], head: Head, out: str | Path | Under | None, progress: Progress
) -> Path | None:
    """Return the folder that the study is kept in."""
    if out is None:
        return None
    if not isinstance(out, Under):
        refuse_foreign(out)
        return Path(out)
    name = f"{subject.train.part.collection.name}-study"
    place, moved = place_for(matter_of(subject, layers, head), Path(out.folder) / name)
    if moved is not None:
        progress.note(moved)
    return place
