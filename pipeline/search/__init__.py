"""Search: choose a head's parameters by cross-validation within the rows it may see, and refit it on all of them."""

from __future__ import annotations

from pipeline.search.engine import SharedGrid, SharedTask, shared_candidates, shared_predictions, shared_scores
from pipeline.search.grid_search import (
    Fitted,
    best_of,
    candidate_scores,
    candidates_of,
    check_scoring_fits,
    describe_scores,
    fit_head,
    search,
)
from pipeline.search.predictions import (
    Predictions,
    average_precisions,
    best_guess,
    counted_f1,
    predict_all,
    replay,
    resampled_precision,
)
from pipeline.search.scoring import (
    SCORINGS,
    Scorer,
    check_scoring,
    log_losses,
    make_scorer,
    needs_probabilities,
    score_predictions,
)
from pipeline.search.solvers.backend import one_thread, summarize_warnings

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
