"""Search: choose a head's parameters by cross-validation within the rows it may see, and refit it on all of them."""

from __future__ import annotations

from pipeline.search.covered import SharedGrid, shared_candidates
from pipeline.search.grid import (
    Fitted,
    best_of,
    candidate_scores,
    candidates_of,
    check_scoring_fits,
    describe_scores,
    fit_head,
    search,
)
from pipeline.search.guard import one_thread, summarize_warnings
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
    "SharedGrid",
    "SharedTask",
    "average_precisions",
    "best_guess",
    "best_of",
    "candidate_scores",
    "candidates_of",
    "check_scoring",
    "check_scoring_fits",
    "counted_f1",
    "describe_scores",
    "fit_head",
    "log_losses",
    "make_scorer",
    "needs_probabilities",
    "one_thread",
    "predict_all",
    "replay",
    "resampled_precision",
    "score_predictions",
    "search",
    "shared_candidates",
    "shared_predictions",
    "shared_scores",
    "summarize_warnings",
]
