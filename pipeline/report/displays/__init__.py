"""The pictures of a run or a study in a notebook, in the way of scikit-learn's displays.

`from_run`, `from_study` or `from_cache` finds what there is to show; `plot` draws it and returns the axis. What was
drawn stays at hand as `ax_` and `figure_`.
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
