"""Caches written directly, with planted features: what an evaluation is tested on without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from pipeline.cache import CacheLock, CacheWriter, FeatureCache, create_cache
from pipeline.errors import SkipReason

Columns = Mapping[str, Sequence[str | None]]


def recipe(**changes: Any) -> dict[str, Any]:
    """Return a recipe as plain JSON values, such as no real backbone has."""
    return {
        "backbone": "planted",
        "weights_sha256": "0" * 64,
        "preprocessing": {},
        "decoder": "none",
        "photo_rules": "none",
        "architecture": {},
        "precision": "fp32",
        "store": "fp32",
        "runtime": "",
        "pooling": "mean over positions",
        **changes,
    }


def make_cache(
    path: Path,
    features: np.ndarray | Mapping[str, np.ndarray],
    columns: Columns | None = None,
    *,
    ids: Sequence[str] | None = None,
    digests: np.ndarray | None = None,
    statistics: np.ndarray | None = None,
    failed: Mapping[int, SkipReason] | None = None,
    changes: Mapping[str, Any] | None = None,
    backbone: Mapping[str, Any] | None = None,
    name: str = "made",
) -> FeatureCache:
    """Write a complete cache with these features, (n, d), or {layer: (n, d)}.

    Parameters
    ----------
    columns : mapping of column to n texts
    failed : mapping of row to reason
        Rows without features.
    changes : mapping
        Of the recipe.
    backbone : mapping
        The backbone's record in the provenance.
    """
    layers = dict(features) if isinstance(features, Mapping) else {"penultimate": features}
    n = len(next(iter(layers.values())))
    ids = [f"{row:05d}.jpg" for row in range(n)] if ids is None else list(ids)
    made = recipe(**(changes or {}))
    stat = np.column_stack([np.full(n, 1000), np.arange(n)]).astype(np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = {
        "recipe": made,
        "place": f"/made/{path.stem}",
        "source": name,
        "backbone": dict(backbone or {"name": "planted", "weights": "none", "weights_sha256": "0" * 64}),
        "layers": {layer: values.shape[1] for layer, values in layers.items()},
    }
    create_cache(
        path,
        ids=ids,
        stat=stat,
        columns=columns or {},
        layers=provenance["layers"],
        store=made["store"],
        provenance=provenance,
    )
    status = np.ones(n, np.uint8)
    for row, reason in (failed or {}).items():
        status[row] = reason
    if digests is None:
        digests = np.stack(
            [np.frombuffer(blake2b(f"{name}/{one}".encode(), digest_size=16).digest(), np.uint8) for one in ids]
        )
    if statistics is None:
        statistics = np.random.default_rng(99).normal(size=(n, 12))
    with CacheLock.exclusive(path) as lock, CacheWriter(FeatureCache.open(path), lock) as writer:
        writer.write(
            np.arange(n),
            status=status,
            digest=digests,
            stat=stat,
            statistics=statistics.astype(np.float32),
            features={layer: values.astype(np.float32) for layer, values in layers.items()},
        )
    return FeatureCache.open(path)


def blobs(n: int, d: int = 6, classes: int = 3, apart: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, d) and class codes (n,), the classes' means `apart` standard deviations from one another."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    return (rng.normal(size=(n, d)) + apart * np.eye(classes, d)[y]).astype(np.float32), y


def names(y: np.ndarray, words: Sequence[str] = ("ant", "bee", "cat", "dog", "eel", "fox")) -> list[str]:
    """Return the codes as class names."""
    return [words[code] for code in y]


class Spy(ClassifierMixin, BaseEstimator):
    """Remembers which rows it was fitted on and asked about; column 0 of X is the row's number."""

    seen: ClassVar[list[tuple[str, frozenset[int]]]] = []

    def __init__(self, width: float = 1.0) -> None:
        self.width = width

    def fit(self, X: np.ndarray, y: np.ndarray) -> Spy:
        self.classes_ = np.unique(y)
        Spy.seen.append(("fit", frozenset(X[:, 0].astype(int).tolist())))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        Spy.seen.append(("ask", frozenset(X[:, 0].astype(int).tolist())))
        return np.full(len(X), self.classes_[0])
