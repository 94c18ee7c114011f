"""`TrainingPhotos`: the embeddings of the photos that a model learned from, searched by cosine, exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cache import FeatureCache, caches_in, stem_of
from pipeline.duplicates import RowSource
from pipeline.model.familiarity import QUANTILE, unit_rows
from pipeline.provenance import sha256_json
from pipeline.search import one_thread

if TYPE_CHECKING:
    from pipeline.model.model import Model

IN_MEMORY = 1 << 30  # bytes of embeddings that are read once; of more a block at a time, for every question
_BLOCK = 4096


@dataclass(frozen=True)
class TrainingRef:
    """What a model's record says of the photos it learned from.

    Attributes
    ----------
    cache : str
        The name of the cache that holds their embeddings, without its generation.
    key : str
        Of the cache: recipe and place.
    beyond : float or None
        The cosine distance from the nearest training photo beyond which a photo is unfamiliar; None where no training
        photo has another one that is no copy of it.
    path : str
        Of the cache, where the model was fitted in this process; never stored, because a model travels.
    """

    cache: str = ""
    key: str = ""
    beyond: float | None = None
    path: str = field(default="", compare=False)

    @classmethod
    def of(cls, cache: FeatureCache, beyond: float | None) -> TrainingRef:
        """Return what there is to say of photos whose embeddings lie in this cache."""
        return cls(stem_of(cache.path) or cache.path.stem, key_of(cache), beyond, str(cache.path.absolute()))

    @staticmethod
    def reads(said: Any) -> bool:
        """Return whether `from_record` can read this entry of a record."""
        if not isinstance(said, dict) or not all(isinstance(said.get(name, ""), str) for name in ("cache", "key")):
            return False
        rule = said.get("unfamiliar") or {}
        return isinstance(rule, dict) and isinstance(rule.get("beyond"), float | int | None)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainingRef:
        """Return what a record says; nothing of one that was written before this was recorded."""
        said = record.get("training") or {}
        return cls(said.get("cache", ""), said.get("key", ""), (said.get("unfamiliar") or {}).get("beyond"))

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        rule = {"distance": "cosine, to the nearest training photo", "beyond": self.beyond, "quantile": QUANTILE}
        return {"cache": self.cache, "key": self.key, "unfamiliar": None if self.beyond is None else rule}


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The training photos nearest to each of n images.

    Attributes
    ----------
    rows : ndarray of int64, shape (n, k)
        Of `TrainingPhotos`, the nearest first.
    cosine : ndarray of float32, shape (n, k)
    """

    rows: np.ndarray
    cosine: np.ndarray


class TrainingSet:
    """The photos that a model learned from.

    Parameters
    ----------
    X : array or StoredRows, shape (n, d)
    rows : ndarray of int64, shape (m,)
        Which of X are theirs.
    ids, labels : sequence of str, length m
        A label is empty where it is not known.
    thumbnail : callable
        From a row to its JPEG; empty where there is none.
    place : str
        Where the embeddings were found, for a person.
    """

    def __init__(
        self,
        X: RowSource,
        rows: np.ndarray,
        ids: Sequence[str],
        labels: Sequence[str],
        *,
        thumbnail: Callable[[int], bytes] | None = None,
        place: str,
    ) -> None:
        self._X, self._rows = X, rows
        self.ids, self.labels, self.place = ids, labels, place
        self.thumbnail = thumbnail or (lambda row: b"")
        self.pictured = thumbnail is not None
        small = len(rows) * X.shape[1] * 4 <= IN_MEMORY
        self._whole = [unit_rows(X[rows])] if small else None

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, features: np.ndarray, k: int = 1) -> Neighbors:
        """Return the k training photos, or all where there are fewer, of the largest cosine with each row, (n, d)."""
        k = min(k, len(self))
        asked = unit_rows(features)
        rows, best = np.zeros((len(asked), 0), np.int64), np.zeros((len(asked), 0), np.float32)
        start = 0
        with one_thread():  # those who decode and infer have the cores
            for block in self._blocks():
                cosine = asked @ block.T  # (n, block)
                some = np.argpartition(cosine, -k, axis=1)[:, -k:] if k < len(block) else np.arange(len(block))[None]
                some = np.broadcast_to(some, (len(asked), some.shape[1]))
                rows = np.hstack([rows, some + start])
                best = np.hstack([best, np.take_along_axis(cosine, some, axis=1)])
                order = np.lexsort((rows, -best), axis=1)[:, :k]
                rows, best = np.take_along_axis(rows, order, axis=1), np.take_along_axis(best, order, axis=1)
                start += len(block)
        return Neighbors(rows, best)

    def _blocks(self) -> Iterator[np.ndarray]:
        """Give the embeddings at length 1, some rows at a time."""
        if self._whole is not None:
            whole = self._whole[0]
            yield from (whole[start : start + _BLOCK] for start in range(0, len(whole), _BLOCK))
            return
        for start in range(0, len(self._rows), _BLOCK):
            yield unit_rows(self._X[self._rows[start : start + _BLOCK]])


def open_training_set(model: Model, folder: Path) -> tuple[TrainingSet | None, str]:
    """Return the photos that a model learned from: those it keeps, or those of a cache in this folder; or why not.

    A cache is known by what it holds: all of the photos, by content, under the model's recipe. That of the recorded
    key is looked into first.
    """
    kept = model.kept
    if kept is not None:
        rows, place = np.arange(len(kept)), "the model folder"
        found = TrainingSet(kept.embeddings, rows, kept.ids, kept.labels, thumbnail=kept.thumbnail, place=place)
        return found, ""
    if not model.training.key:
        return None, "the model was fitted by a version that did not record them: fit it again"
    caches, _ = caches_in(folder)
    for cache in sorted(caches, key=lambda cache: key_of(cache) != model.training.key):
        if cache.differences(model.recipe) or model.layer not in cache.layers:
            continue
        theirs = _rows_of(cache, model.training_digests)
        if theirs is not None and cache.is_sound():
            ids, known = cache.ids, cache.columns.get(model.label_set) or [""] * len(cache)
            names, labels = [ids[row] for row in theirs], [known[row] or "" for row in theirs]
            return TrainingSet(cache.stored(model.layer), theirs, names, labels, place=str(cache.path)), ""
    return None, (
        f"their embeddings are not at hand: no cache in {folder} holds them (they were in {model.training.cache}), and "
        "the model keeps none; fit with --keep-photos, or name the folder with --cache"
    )


def key_of(cache: FeatureCache) -> str:
    """Return the key of a cache: of its recipe and of where its images are."""
    return sha256_json({"recipe": dict(cache.recipe), "place": cache.place})[:12]


def _rows_of(cache: FeatureCache, digests: np.ndarray) -> np.ndarray | None:
    """Return a row of the cache for each content, (m,), or None where one of them is missing."""
    rows, stored = cache.rows, np.asarray(cache.digest)
    left: dict[bytes, list[int]] = {}
    for row in reversed(rows.tolist()):
        left.setdefault(stored[row].tobytes(), []).append(row)
    found = []
    for digest in digests:
        there = left.get(digest.tobytes())
        if there is None:
            return None
        # Of exact copies each is named, as long as there is another one.
        found.append(there.pop() if len(there) > 1 else there[0])
    return np.array(found, np.int64) if found else None
