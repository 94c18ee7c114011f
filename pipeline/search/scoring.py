"""How are predictions scored? As scikit-learn does, over all classes, without warnings where a fold lacks a class."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import HeadError
from pipeline.search.predictions import TAG_SCORINGS, Predictions, over_all_classes, predict_all, replay, score_tags
from pipeline.search.solvers.backend import first_line

# The first one chooses; the others stand beside it.
SCORINGS = {
    "class": ("balanced_accuracy", "accuracy", "f1_macro", "neg_log_loss"),
    "number": ("r2", "neg_mean_absolute_error"),
    "multi": ("average_precision", "f1_macro", "f1_micro"),
}

Scorer = Callable[[Any, np.ndarray, np.ndarray], float]

LABELS_ONLY = ("accuracy", "balanced_accuracy", "f1_macro", "f1_micro")
_NUMBER_SCORINGS = ("r2", "explained_variance", "d2_absolute_error_score")

_NUMBER_PREFIXES = ("neg_mean_", "neg_root_mean_", "neg_median_", "neg_max_error")

_TWO_CLASSES = (
    "f1", "precision", "recall", "jaccard", "roc_auc", "neg_brier_score", "d2_brier_score",
    "positive_likelihood_ratio", "neg_negative_likelihood_ratio",
)  # fmt: skip


def make_scorer(scoring: str, kind: str, n_classes: int) -> Scorer:
    """Return a function (estimator, X, y) -> score that a fold without a class neither stops nor makes warn.

    accuracy, balanced_accuracy, f1_macro, neg_log_loss (classes) and r2, neg_mean_absolute_error (numbers) are scored
    over all `n_classes`, average_precision (tags) over the tags that are there; any other name is scikit-learn's own
    scorer of that name.

    Raises
    ------
    HeadError
        No such scoring (with the nearest names), or one for the other kind of label.
    """
    check_scoring(scoring, kind, n_classes)
    return OverAllClasses(scoring, kind, n_classes)


@dataclass(frozen=True)
class OverAllClasses:
    """A scorer that `make_scorer` made: shared search knows it by its parts, and scores predictions alone."""

    scoring: str
    kind: str
    n_classes: int

    @property
    def labels_only(self) -> bool:
        """Whether it looks at labels alone."""
        return self.scoring in LABELS_ONLY

    def __call__(self, estimator: Any, X: np.ndarray, y: np.ndarray) -> float:
        """Return the score of a fitted estimator's predictions for X."""
        predicted = predict_all(estimator, X, self.n_classes, self.kind, labels_only=self.labels_only)
        return self.of(y, predicted)

    def of(self, y: np.ndarray, predictions: Predictions) -> float:
        """Return the score of predictions."""
        return score_predictions(self.scoring, y, predictions, kind=self.kind, n_classes=self.n_classes)


def check_scoring(scoring: str, kind: str, n_classes: int = 0) -> None:
    """Raise unless the scoring exists and fits the kind of label."""
    from sklearn.metrics import get_scorer_names

    known = get_scorer_names()
    if scoring not in known:
        near = difflib.get_close_matches(scoring, known, n=3, cutoff=0.5)
        raise HeadError(
            f"expected a scoring, got {scoring!r}",
            f"did you mean --scoring {' or --scoring '.join(near)}?" if near else f"use {', '.join(SCORINGS[kind])}",
        )
    if not (scoring in TAG_SCORINGS if kind == "multi" else _scoring_kind(scoring) == kind):
        names = {"class": "classes", "number": "numbers", "multi": "several tags per image"}
        raise HeadError(
            f"scoring {scoring!r}: expected one for {names[kind]}, got one for {names[_scoring_kind(scoring)]}",
            f"use {', '.join(SCORINGS[kind])}",
        )
    if kind == "class" and n_classes > 2 and scoring in _TWO_CLASSES:
        near = [f"{scoring}_macro", f"{scoring}_ovr", "matthews_corrcoef"]
        raise HeadError(
            f"scoring {scoring!r}: expected two classes, got {n_classes}",
            f"use --scoring {next(name for name in near if name in known)}",
        )


def needs_probabilities(scoring: str) -> bool:
    """Say whether the scoring is about probabilities, so that heads without them cannot have it."""
    from sklearn.metrics import get_scorer

    method = getattr(get_scorer(scoring), "_response_method", "predict")
    return method == "predict_proba"


def score_predictions(scoring: str, y: np.ndarray, predictions: Predictions, *, kind: str, n_classes: int) -> float:
    """Return the score of predictions: scikit-learn's own number, without its warnings.

    Balanced accuracy is the mean recall over the classes in `y`; macro F1 is the mean over the classes in `y` or
    among the predictions; log loss clips probabilities as scikit-learn does, by the smallest step of their type.
    Of tags, average precision is the mean over those that `y` has, macro F1 that over those in `y` or predicted
    (`zero_division=nan`), accuracy the part of the rows with every tag right.
    """
    if kind == "multi":
        score = score_tags(scoring, y, predictions.labels, predictions.ranks)
        return _scikit_learns_score(scoring, y, predictions, kind, n_classes) if score is None else score
    labels, P = predictions.labels, predictions.probabilities
    if scoring == "accuracy":
        return float(np.mean(labels == y))
    if scoring == "balanced_accuracy":
        true = np.bincount(y, minlength=n_classes)
        right = np.bincount(y[labels == y], minlength=n_classes)
        return float(np.mean(right[true > 0] / true[true > 0]))
    if scoring == "f1_macro":
        true, predicted = np.bincount(y, minlength=n_classes), np.bincount(labels, minlength=n_classes)
        right = np.bincount(y[labels == y], minlength=n_classes)
        present = true + predicted > 0
        return float(np.mean(2 * right[present] / (true + predicted)[present]))
    if scoring == "neg_log_loss":
        if P is None:
            raise HeadError(
                "scoring 'neg_log_loss': expected probabilities, got none: this head gives none",
                "choose a head that gives them (see pipeline heads), or another --scoring",
            )
        return -float(np.mean(log_losses(y, P)))
    if scoring == "r2":
        from sklearn.metrics import r2_score

        return float(r2_score(y, labels)) if len(y) > 1 else math.nan
    if scoring == "neg_mean_absolute_error":
        return -float(np.mean(np.abs(y - labels)))
    return _scikit_learns_score(scoring, y, predictions, kind, n_classes)


def log_losses(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return each row's log loss, probabilities clipped as in `sklearn.metrics.log_loss`; shape (n,)."""
    eps = np.finfo(probabilities.dtype).eps
    true_class = probabilities[np.arange(len(y)), y]
    return -np.log(np.clip(true_class, eps, 1 - eps))


def _scikit_learns_score(scoring: str, y: np.ndarray, predictions: Predictions, kind: str, n_classes: int) -> float:
    """Return the score of scikit-learn's scorer of that name; NaN where it is undefined for these rows."""
    from sklearn.metrics import get_scorer

    rows = np.arange(len(y)).reshape(-1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are absent, undefined parts: every score is shown with its n
        try:
            return float(get_scorer(scoring)(replay(predictions, kind, n_classes), rows, y))
        except Exception as error:
            present = np.unique(y)
            # ROC AUC and its like want each class in y: score these rows over the classes that they have.
            if kind == "class" and predictions.probabilities is not None and 1 < len(present) < n_classes:
                return _scikit_learns_score(scoring, *_over_present(y, predictions, present), kind, len(present))
            if kind == "class" and len(present) == 1 < n_classes:
                return math.nan
            raise HeadError(
                f"scoring {scoring!r}: expected a score of {len(y)} rows, got {first_line(error)}",
                f"use one of {', '.join(SCORINGS[kind])}",
            ) from error


def _over_present(y: np.ndarray, predictions: Predictions, present: np.ndarray) -> tuple[np.ndarray, Predictions]:
    """Return y and predictions recoded to the classes in y, as if there were no other classes."""
    assert predictions.probabilities is not None
    P = over_all_classes(predictions.probabilities[:, present], np.arange(len(present)), len(present))
    return np.searchsorted(present, y), Predictions(P.argmax(axis=1), P)


def _scoring_kind(scoring: str) -> str:
    return "number" if scoring in _NUMBER_SCORINGS or scoring.startswith(_NUMBER_PREFIXES) else "class"
