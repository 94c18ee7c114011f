"""Was transfer worth it for your photos? A study compares it with other methods by learning curves.

The package is not named `study`: `pipeline.study` is the function.
"""

from __future__ import annotations

from pipeline.runs.directory import STUDY
from pipeline.studies.analysis import labels_text
from pipeline.studies.api import study
from pipeline.studies.results import METHODS, PROMISES, Crossover, LabelMatch, Point, Study, Verdict
from pipeline.studies.schedule import PartialPoint, SkippedTrials, StudyStopped

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
    "labels_text",
    "study",
]
