"""Displays of a run or a study for notebooks, in the way of scikit-learn.

`from_run`, `from_study` or `from_cache` loads the data; `plot` draws it and returns the axis. The attributes `ax_` and
`figure_` hold the drawing.
"""

from __future__ import annotations

from pipeline.report.displays.calibration import CalibrationDisplay
from pipeline.report.displays.confusion import ConfusionDisplay
from pipeline.report.displays.embedding_map import EmbeddingMapDisplay
from pipeline.report.displays.leaderboard import LeaderboardDisplay
from pipeline.report.displays.learning_curve import DepthDisplay, LearningCurveDisplay
from pipeline.report.displays.mistakes import MistakesDisplay

__all__ = [
    "CalibrationDisplay",
    "ConfusionDisplay",
    "DepthDisplay",
    "EmbeddingMapDisplay",
    "LeaderboardDisplay",
    "LearningCurveDisplay",
    "MistakesDisplay",
]
