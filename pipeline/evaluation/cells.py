"""What a unit of an evaluation is known by in the store: everything that could change its result."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import joblib
import numpy as np

from pipeline.evaluation.question import LabeledRows, Task
from pipeline.heads import Head
from pipeline.provenance import canonical_json, installed, sha256_json
from pipeline.runs import UnitKey, plain_params

# Raised when our own code comes to give other results for the same inputs.
GENERATION = 2

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class JobKey:
    """One head that learns from one training part of a label set: what all its units have in common.

    Parameters
    ----------
    features, label_set, head, estimator, outer_fold, versions : str
    seed : int
        As of `Cell`.
    learned : str
        Digest of the rows to learn from.
    folds : tuple of str
        Digest of each inner fold.
    asked : str
        Digest of the rows to be asked about.
    scoring : str
    """

    features: str
    label_set: str
    head: str
    estimator: str
    outer_fold: str
    learned: str
    folds: tuple[str, ...]
    asked: str
    scoring: str
    seed: int
    versions: str

    def scored(self, params: Mapping[str, Any]) -> list[UnitKey]:
        """Return the units that score these parameters, one an inner fold."""
        text = params_text(params)
        return [
            self._cell(text, f"{self.learned} {fold}", number, self.scoring) for number, fold in enumerate(self.folds)
        ]

    def fitted(self, params: Mapping[str, Any]) -> UnitKey:
        """Return the unit that learns from the whole training part with these parameters."""
        return self._cell(params_text(params), f"{self.learned} {self.asked}", None, None)

    def _cell(self, params: str, rows: str, fold: int | None, scoring: str | None) -> UnitKey:
        return UnitKey(
            features=self.features,
            label_set=self.label_set,
            head=self.head,
            estimator=self.estimator,
            params=params,
            outer_fold=self.outer_fold,
            rows=rows,
            inner_fold=fold,
            scoring=scoring,
            seed=self.seed,
            versions=self.versions,
        )


def features_text(recipe: Mapping[str, Any], layer: str) -> str:
    """Return what names features: everything that made them, and the layer."""
    return f"{sha256_json(dict(recipe))[:16]}/{layer}"


def label_set_text(question: Task) -> str:
    """Return the label set's name and a digest of its training images and their labels."""
    train = question.train
    head = canonical_json([question.kind, list(question.classes)])
    return f"{question.name}:{_hash(head.encode(), train.digests().tobytes(), _plain(train.y))}"


def rows_text(*parts: np.ndarray) -> str:
    """Return a digest of positions."""
    return _hash(*(_plain(part) for part in parts))


def test_rows_text(part: LabeledRows, n_classes: int) -> str:
    """Return a digest of the images that are asked about."""
    return f"{_hash(part.digests().tobytes())} {n_classes}"


def estimator_text(head: Head, searched: Iterable[str]) -> str:
    """Return the estimator as text, with every parameter but those that are searched."""
    return _hash(canonical_json(_described(head.estimator, frozenset(searched))).encode())


def params_text(params: Mapping[str, Any]) -> str:
    """Return parameters as one JSON object by their short names, what JSON cannot say as a digest."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}
    told = {name: value if _is_plain(value) else canonical_json(_described(value)) for name, value in values.items()}
    return json.dumps(plain_params(told), sort_keys=True)


@cache
def versions_text() -> str:
    """Return the versions of what computes results."""
    names = ("transfer-pipeline", "scikit-learn", "numpy", "scipy")
    return ", ".join(f"{name} {installed(name)}" for name in names) + f", units {GENERATION}"


def _described(value: Any, without: frozenset[str] = frozenset()) -> Any:
    """Return a value, an estimator with its parameters for one, as JSON values that tell it from every other."""
    if _is_plain(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_described(one) for one in value)]
    if not hasattr(value, "get_params") or inspect.isclass(value):
        return joblib.hash(value)
    params = value.get_params(deep=False)
    if isinstance(params.get("steps"), list):  # of a pipeline, by name, so that a parameter of one can be left out
        params |= dict(params.pop("steps"))
    kind: Any = type(value)
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "source": _source(kind),
        "params": {
            name: _described(
                one, frozenset(key.removeprefix(f"{name}__") for key in without if key.startswith(f"{name}__"))
            )
            for name, one in params.items()
            if name not in without
        },
    }


@cache
def _source(kind: Any) -> str:
    """Return a digest of the code of an estimator that is not scikit-learn's: it has no version that we know of."""
    if kind.__module__.partition(".")[0] == "sklearn":
        return ""
    for code in filter(None, (sys.modules.get(kind.__module__), kind)):
        with suppress(OSError, TypeError):
            return _hash(inspect.getsource(code).encode())
    return os.urandom(12).hex()  # code that cannot be seen: another time it may be other code


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _plain(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def _hash(*parts: bytes) -> str:
    found = hashlib.blake2b(digest_size=12)
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()
