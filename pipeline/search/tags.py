"""Several tags an image: what a head says of each, and how well that tells the images with a tag from the others.

Average precision is scikit-learn's: the sum over thresholds of (R_k - R_{k-1}) P_k, images with equal scores passing a
threshold together. Its mean here is over the tags that some of the scored images have; of the others it says nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TAG_SCORINGS = frozenset((
    "average_precision", "roc_auc", "accuracy",
    *(f"{name}_{mean}" for name in ("f1", "precision", "recall", "jaccard")
      for mean in ("macro", "micro", "samples", "weighted")),
))  # fmt: skip


def tag_answers(estimator: Any, X: np.ndarray, *, labels_only: bool) -> tuple[np.ndarray, Any, Any]:
    """Return an estimator's tags, (n, c) int8, and probabilities or else scores, (n, c); the other two are None.

    Estimators that were not made for tags give a matrix a tag, a column for each answer seen: 0, 1, or both.
    """
    labels = np.asarray(estimator.predict(X)).astype(np.int8)
    if labels_only:
        return labels, None, None
    if hasattr(estimator, "predict_proba"):
        said = estimator.predict_proba(X)
        if isinstance(said, list):
            said = np.column_stack([_of_one(P, seen) for P, seen in zip(said, estimator.classes_, strict=True)])
        return labels, np.asarray(said, np.float64), None
    if hasattr(estimator, "decision_function"):
        scores = np.asarray(estimator.decision_function(X), np.float64)
        if scores.shape == labels.shape:
            return labels, None, scores
    return labels, None, labels.astype(np.float64)  # bare answers rank too, in two steps


def _of_one(P: np.ndarray, seen: np.ndarray) -> np.ndarray:
    there = np.flatnonzero(np.asarray(seen) == 1)
    return P[:, there[0]] if len(there) else np.zeros(len(P))


def average_precisions(y: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return each tag's average precision, (n, c), (n, c) -> (c,); NaN for a tag that no row has."""
    ones = np.ones((1, len(y)))
    return np.array([_average_precision(y[:, tag], ranks[:, tag], ones)[0] for tag in range(y.shape[1])])


def resampled_precision(y: np.ndarray, ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean average precision at each row of weights, (b, n) -> (b,); NaN where no tag is there."""
    each = np.array([_average_precision(y[:, tag], ranks[:, tag], weights) for tag in range(y.shape[1])])
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.where(there, each, 0.0).sum(axis=0) / there.sum(axis=0)


def _average_precision(y: np.ndarray, ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return one tag's average precision at each row of weights, (n,), (n,), (b, n) -> (b,)."""
    order = np.argsort(-ranks, kind="stable")
    positive = np.flatnonzero(y[order])
    if not len(positive):
        return np.full(len(weights), np.nan)
    sorted_ranks = ranks[order]  # compared, not subtracted: a tag that training never saw ranks at -inf
    steps = np.flatnonzero(np.append(sorted_ranks[1:] != sorted_ranks[:-1], True))  # where each run of equals ends
    # Recall rises only at the thresholds that an image with the tag passes, and they are few.
    hits, first = np.unique(np.searchsorted(steps, positive), return_index=True)
    passed = np.cumsum(weights[:, order], axis=1)[:, steps[hits]]  # (b, hits)
    found = np.add.reduceat(weights[:, order[positive]], first, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.cumsum(found, axis=1) / passed
        # A threshold at which no drawn image with the tag passes counts for nothing, 0/0 included.
        return np.asarray(np.where(found > 0, found * precision, 0.0).sum(axis=1) / found.sum(axis=1))


def counted_f1(right: np.ndarray, true: np.ndarray, said: np.ndarray, scoring: str) -> np.ndarray:
    """Return macro or micro F1 from each tag's counts, (..., c) -> (...); NaN where there is no tag at all.

    The macro mean is over the tags that are there or were predicted: scikit-learn's with `zero_division=nan`.
    """
    whole = true + said
    with np.errstate(divide="ignore", invalid="ignore"):
        if scoring == "f1_micro":
            return np.asarray(2 * right.sum(axis=-1) / whole.sum(axis=-1))
        some = whole > 0
        return np.asarray(np.where(some, 2 * right / np.where(some, whole, 1), 0).sum(axis=-1) / some.sum(axis=-1))


def score_tags(scoring: str, y: np.ndarray, labels: np.ndarray, ranks: np.ndarray | None) -> float | None:
    """Return the score of tags; None for a scoring that scikit-learn is to be asked for."""
    if scoring == "average_precision" and ranks is not None:
        each = average_precisions(y, ranks)
        return float(np.mean(each[~np.isnan(each)])) if not np.isnan(each).all() else float("nan")
    if scoring == "accuracy":
        return float(np.mean((y == labels).all(axis=1)))
    if scoring in ("f1_macro", "f1_micro"):
        true, said = y.astype(bool), labels.astype(bool)
        return float(counted_f1((true & said).sum(axis=0), true.sum(axis=0), said.sum(axis=0), scoring))
    return None
