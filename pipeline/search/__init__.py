"""Search: choose a head's parameters by cross-validation within the rows it may see, and refit it on all of them."""

from __future__ import annotations

from pipeline.search.covered import SharedHead, shared_candidates
from pipeline.search.grid import (
    Fitted,
    about_scores,
    best_of,
    candidate_scores,
    candidates_of,
    fit_head,
    refuse_scoring,
    search,
)
from pipeline.search.guard import one_thread, summary
from pipeline.search.predictions import Predictions, best_guess, predict_all, replay
from pipeline.search.scoring import (
    SCORINGS,
    Scorer,
    check_scoring,
    log_losses,
    make_scorer,
    needs_probabilities,
    score_predictions,
)
from pipeline.search.shared import SharedTask, shared_predictions, shared_scores
from pipeline.search.tags import average_precisions, counted_f1, resampled_precision

__all__ = [
    "SCORINGS",
    "Fitted",
    "Predictions",
    "Scorer",
    "SharedHead",
    "SharedTask",
    "about_scores",
    "average_precisions",
    "best_guess",
    "best_of",
    "candidate_scores",
    "candidates_of",
    "check_scoring",
    "counted_f1",
    "fit_head",
    "log_losses",
    "make_scorer",
    "needs_probabilities",
    "one_thread",
    "predict_all",
    "refuse_scoring",
    "replay",
    "resampled_precision",
    "score_predictions",
    "search",
    "shared_candidates",
    "shared_predictions",
    "shared_scores",
    "summary",
]
