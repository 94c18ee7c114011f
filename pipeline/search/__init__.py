"""Search: choose a head's parameters by cross-validation within the rows it may see, and refit it on all of them."""

from __future__ import annotations

from pipeline.search.grid import Fitted, search
from pipeline.search.predictions import Predictions, predict_all, replay
from pipeline.search.scoring import (
    SCORINGS,
    Scorer,
    check_scoring,
    log_losses,
    make_scorer,
    needs_probabilities,
    score_predictions,
)
from pipeline.search.tags import average_precisions, counted_f1, resampled_precision

__all__ = [
    "SCORINGS",
    "Fitted",
    "Predictions",
    "Scorer",
    "average_precisions",
    "check_scoring",
    "counted_f1",
    "log_losses",
    "make_scorer",
    "needs_probabilities",
    "predict_all",
    "replay",
    "resampled_precision",
    "score_predictions",
    "search",
]
