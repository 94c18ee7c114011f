"""Studies: whether transfer was worth it, measured on a person's own photos.

The room is not named `study`: `pipeline.study` is the function.
"""

from __future__ import annotations

from pipeline.runs.folder import STUDY
from pipeline.studies.points import METHODS, Point
from pipeline.studies.results import PROMISES, Crossover, LabelMatch, Study, Verdict
from pipeline.studies.schedule import PartialPoint, SkippedTrials, StudyStopped
from pipeline.studies.studying import study

__all__ = [
    "METHODS",
    "PROMISES",
    "STUDY",
    "Crossover",
    "LabelMatch",
    "PartialPoint",
    "Point",
    "SkippedTrials",
    "Study",
    "StudyStopped",
    "Verdict",
    "study",
]
