"""Studies: whether transfer was worth it, measured on a person's own photos.

The room is not named `study`: `pipeline.study` is the function.
"""

from __future__ import annotations

from pipeline.runs.folder import STUDY
from pipeline.studies.results import METHODS, PROMISES, Crossover, Match, Point, Study, Verdict
from pipeline.studies.studying import study

__all__ = ["METHODS", "PROMISES", "STUDY", "Crossover", "Match", "Point", "Study", "Verdict", "study"]
