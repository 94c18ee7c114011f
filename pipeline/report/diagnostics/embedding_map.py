"""A map of the embeddings: their two directions of the largest variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.near_duplicates import RowSource

MOST = 20_000
APART = 0.8  # of the way from chance to fully apart; below it the classes overlap
# Below as many rows or columns the exact solver costs no second.
_SMALL = 500


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """Images as points of a plane.

    Attributes
    ----------
    ids : tuple of str
    x, y : ndarray of float64, shape (n,)
        Along the first and the second principal component.
    labels : ndarray, shape (n,)
        Texts, or numbers.
    explained : tuple of float
        The share of the variance along each of the two.
    of : int
        How many images there were to draw these from.
    """

    ids: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray
    explained: tuple[float, float]
    of: int

    def __len__(self) -> int:
        return len(self.ids)


def embedding_map(
    features: RowSource,
    ids: Sequence[str],
    labels: Sequence[str] | np.ndarray,
    *,
    most: int = MOST,
    random_state: int = 0,
) -> EmbeddingMap | None:
    """Return the images' places on the first two principal components of their standardised embeddings.

    Parameters
    ----------
    features : array or LazyRows, shape (n, d)
    ids : sequence of str, length n
    labels : sequence of str, or array of numbers, length n
    most : int
        Images; of more than that as many are drawn, of each class in proportion, and the components are theirs.
    random_state : int

    Returns
    -------
    EmbeddingMap or None
        None of fewer than three images.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    labels = np.asarray(labels)
    n = len(ids)
    if n < 3:
        return None
    rows = _drawn(labels, most, random_state) if n > most else np.arange(n)
    X = np.asarray(features[rows], np.float32)
    X = StandardScaler(copy=False).fit_transform(X)
    components = min(2, *X.shape)
    solver = "full" if min(X.shape) <= _SMALL else "randomized"
    pca = PCA(components, svd_solver=solver, random_state=random_state)
    found = np.zeros((len(rows), 2))
    share = [0.0, 0.0]
    if X.any():  # embeddings that are all the same have no direction
        found[:, :components] = pca.fit_transform(X)  # the largest loading is positive: no sign hangs on the solver
        share[:components] = pca.explained_variance_ratio_.tolist()
    return EmbeddingMap(
        tuple(ids[row] for row in rows.tolist()), found[:, 0], found[:, 1], labels[rows], (share[0], share[1]), n
    )


@dataclass(frozen=True)
class ClassOverlap:
    """How well the classes are apart on a map.

    Attributes
    ----------
    same : float
        The mean share of the nearest points that have a point's own label.
    chance : float
        The same if the labels were shuffled.
    """

    same: float
    chance: float

    @property
    def overlaps(self) -> bool:
        """Return whether the classes are less than four fifths of the way from chance to fully apart."""
        return (self.same - self.chance) / max(1 - self.chance, 1e-9) < APART


def class_overlap(x: np.ndarray, y: np.ndarray, labels: np.ndarray, *, k: int = 10) -> ClassOverlap | None:
    """Return how well the classes are apart on a map.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
    labels : ndarray of int, shape (n,)
    k : int
        Nearest points that are looked at.

    Returns
    -------
    ClassOverlap or None
        None for one class alone or fewer than ``2 * k`` points.
    """
    from sklearn.neighbors import NearestNeighbors

    n = len(labels)
    counts = np.unique(labels, return_counts=True)[1]
    if n < 2 * k or len(counts) < 2:
        return None
    points = np.column_stack([x, y])
    near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    same = float((labels[near] == labels[:, None]).mean())
    return ClassOverlap(same, float((counts * (counts - 1)).sum() / (n * (n - 1))))


def _drawn(labels: np.ndarray, most: int, random_state: int) -> np.ndarray:
    """Return `most` rows, ascending: of each class in proportion, one at least; of numbers evenly by their rank."""
    rng = np.random.default_rng(random_state)
    shuffled = rng.permutation(len(labels))
    # Sorted by class, in random order within each: evenly spaced rows of that are of each class in proportion.
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    order = shuffled[np.argsort(codes[shuffled], kind="stable")]
    chosen = order[np.linspace(0, len(order) - 1, most).round().astype(np.int64)]
    if np.issubdtype(labels.dtype, np.number):
        return np.unique(chosen)
    # A class smaller than the spacing may have been stepped over.
    missed = np.setdiff1d(np.unique(codes), codes[chosen])
    firsts = [order[np.searchsorted(codes[order], code)] for code in missed.tolist()]
    return np.unique(np.concatenate([chosen, np.array(firsts, np.int64)]))
