"""Which jobs are already computed?

Keys of jobs in the result store, and the cache between an evaluation and the store.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import joblib
import numpy as np

from pipeline.evaluation.dataset import LabeledRows, Task
from pipeline.evaluation.plan import TaskPlan
from pipeline.evaluation.scores import FoldPrediction
from pipeline.evaluation.units import FitJob, FitResult, Key
from pipeline.heads import Head
from pipeline.provenance import canonical_json, installed, sha256_json
from pipeline.runs import Store, StoredResult, UnitKey, plain_params
from pipeline.search import Predictions

# Raise this when a change of our own code changes results for the same inputs: stored results are then recomputed.
GENERATION = 2

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class JobKey:
    """One head on one training part of a label set: the fields that all keys of its units share.

    Parameters
    ----------
    features, label_set, head, estimator, outer_fold, versions : str
    seed : int
        As in `UnitKey`.
    learned : str
        Digest of the training rows.
    folds : tuple of str
        Digest of each inner fold.
    test_rows : str
        Digest of the rows to predict.
    scoring : str
    """

    features: str
    label_set: str
    head: str
    estimator: str
    outer_fold: str
    learned: str
    folds: tuple[str, ...]
    test_rows: str
    scoring: str
    seed: int
    versions: str

    def scored(self, params: Mapping[str, Any]) -> list[UnitKey]:
        """Return the units that score these parameters, one per inner fold."""
        text = params_text(params)
        return [
            self._cell(text, f"{self.learned} {fold}", number, self.scoring) for number, fold in enumerate(self.folds)
        ]

    def fitted(self, params: Mapping[str, Any]) -> UnitKey:
        """Return the unit that fits these parameters on the whole training part."""
        return self._cell(params_text(params), f"{self.learned} {self.test_rows}", None, None)

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
    """Return the key of a feature set: a digest of its recipe, and the layer."""
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
    """Return a digest of the test images."""
    return f"{_hash(part.digests().tobytes())} {n_classes}"


def estimator_text(head: Head, searched: Iterable[str]) -> str:
    """Return the estimator as text, with every parameter but those that are searched."""
    return _hash(canonical_json(_described(head.estimator, frozenset(searched))).encode())


def params_text(params: Mapping[str, Any]) -> str:
    """Return parameters as one JSON object by their short names, values that JSON lacks as a digest."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}
    plain = {name: value if _is_plain(value) else canonical_json(_described(value)) for name, value in values.items()}
    return json.dumps(plain_params(plain), sort_keys=True)


@cache
def versions_text() -> str:
    """Return the versions of what computes results."""
    names = ("transfer-pipeline", "scikit-learn", "numpy", "scipy")
    return ", ".join(f"{name} {installed(name)}" for name in names) + f", units {GENERATION}"


def _described(value: Any, without: frozenset[str] = frozenset()) -> Any:
    """Return a value, such as an estimator with its parameters, as JSON values that no other value has."""
    if _is_plain(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(_described(item) for item in value)]
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
                param, frozenset(key.removeprefix(f"{name}__") for key in without if key.startswith(f"{name}__"))
            )
            for name, param in params.items()
            if name not in without
        },
    }


@cache
def _source(kind: Any) -> str:
    """Return a digest of the code of an estimator that is not scikit-learn's: its version is unknown."""
    if kind.__module__.partition(".")[0] == "sklearn":
        return ""
    for code in filter(None, (sys.modules.get(kind.__module__), kind)):
        with suppress(OSError, TypeError):
            return _hash(inspect.getsource(code).encode())
    return os.urandom(12).hex()  # the source is not available and may change: never reuse its results


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


class ResultCache:
    """Looks up the jobs of an evaluation in the store, and stores those that are done.

    Parameters
    ----------
    store : Store
    tasks : sequence of TaskPlan
    random_state : int
    """

    def __init__(self, store: Store, tasks: Sequence[TaskPlan], *, random_state: int) -> None:
        self._store, self._tasks, self._random_state = store, tasks, random_state
        self._label_sets = [label_set_text(task.question) for task in tasks]
        self._texts: dict[int, tuple[Any, str]] = {}
        self._identities: dict[Key, JobKey] = {}

    def look_up(self, units: Sequence[FitJob]) -> tuple[dict[Key, FoldPrediction], list[FitJob]]:
        """Return the stored predictions, and the other jobs, each with its stored scores."""
        keys = [_CandidateKeys.of(unit, self._identity(unit)) for unit in units]
        known = self._store.get(key for candidate in keys for key in candidate.all)
        answers, waiting = {}, []
        for unit, candidate in zip(units, keys, strict=True):
            unit = _with_known(unit, candidate, known)
            answer = None if unit.missing else _answer(unit, candidate, known)
            if answer is None:
                waiting.append(unit)
            else:
                answers[unit.key] = answer
        return answers, waiting

    def keep(self, done: Sequence[tuple[FitJob, FitResult]]) -> dict[Key, FoldPrediction]:
        """Store the results of jobs, all or none, and return their predictions."""
        rows: list[tuple[UnitKey, StoredResult]] = []
        answers = {}
        for unit, result in done:
            identity = self._identity(unit)
            each = result.seconds / (sum(map(len, result.scores.values())) + 1)
            for place, scores in result.scores.items():
                cells = identity.scored(unit.choices[place])
                rows += [
                    (cell, StoredResult(float(score), {}, (), each)) for cell, score in zip(cells, scores, strict=True)
                ]
            fitted = identity.fitted(unit.choices[result.choice])
            if result.choice in unit.fitted:
                known = self._store.get([fitted.key()])[fitted.key()]
            else:
                known = StoredResult(np.nan, _arrays(result.predictions), result.warnings, each)
                rows.append((fitted, known))
            _, score = unit.chosen({**unit.known, **result.scores})
            predictions = _predictions(known.arrays)
            answers[unit.key] = FoldPrediction(
                predictions, unit.choices[result.choice], score, known.warnings, result.seconds
            )
        self._store.put(rows)
        return answers

    def _identity(self, unit: FitJob) -> JobKey:
        if unit.key not in self._identities:
            self._identities[unit.key] = self._made_identity(unit)
        return self._identities[unit.key]

    def _made_identity(self, unit: FitJob) -> JobKey:
        number, which, fold = unit.key
        question, candidate = self._tasks[number].question, self._tasks[number].candidates[which]

        def places(rows: np.ndarray) -> str:
            # Positions among the label set's rows: images outside it do not change the key.
            return self._once(rows, lambda: rows_text(np.searchsorted(question.train.rows, rows)))

        if not len(unit.ask):
            test_rows = ""
        elif isinstance(fold, str) and question.test is not None:
            test_rows = test_rows_text(question.test, unit.n_classes)
        else:
            test_rows = places(unit.ask)
        return JobKey(
            features=features_text(candidate.cache.recipe, candidate.layer),
            label_set=self._label_sets[number],
            head=unit.head.name,
            estimator=estimator_text(unit.head, {name for choice in unit.choices for name in choice}),
            outer_fold=str(fold),
            learned=places(unit.train),
            folds=tuple(self._once(pair, lambda pair=pair: rows_text(*pair)) for pair in unit.folds),
            test_rows=test_rows,
            scoring=unit.scoring,
            seed=self._random_state,
            versions=versions_text(),
        )

    def _once(self, what: Any, text: Any) -> str:
        """Return the text of an object that many units hold, made once."""
        if id(what) not in self._texts:
            self._texts[id(what)] = what, text()  # held, so that no other object gets its id
        return self._texts[id(what)][1]


@dataclass(frozen=True)
class _CandidateKeys:
    """The store keys of a job, by the position of the choice.

    Attributes
    ----------
    scored : list of list of bytes
        Of each choice, one per fold.
    fitted : list of bytes
    """

    scored: list[list[bytes]]
    fitted: list[bytes]

    @classmethod
    def of(cls, unit: FitJob, identity: JobKey) -> _CandidateKeys:
        scored = [[cell.key() for cell in identity.scored(params)] for params in unit.choices]
        return cls(scored, [identity.fitted(params).key() for params in unit.choices])

    @property
    def all(self) -> list[bytes]:
        return [*self.fitted, *(key for keys in self.scored for key in keys)]


def _with_known(unit: FitJob, keys: _CandidateKeys, known: Mapping[bytes, StoredResult]) -> FitJob:
    scores = {}
    for place, fold_keys in enumerate(keys.scored):
        found = [known.get(key) for key in fold_keys]
        if found and None not in found:
            scores[place] = np.array([result.score for result in found if result is not None])
    return replace(unit, known=scores, fitted=frozenset(place for place, key in enumerate(keys.fitted) if key in known))


def _answer(unit: FitJob, keys: _CandidateKeys, known: Mapping[bytes, StoredResult]) -> FoldPrediction | None:
    """Return the answer of a unit whose choices are all scored; None where the chosen one is not fitted."""
    choice, score = unit.chosen(unit.known)
    if choice not in unit.fitted:
        return None
    fitted = known[keys.fitted[choice]]
    seconds = fitted.seconds + sum(known[key].seconds for fold_keys in keys.scored for key in fold_keys)
    return FoldPrediction(_predictions(fitted.arrays), unit.choices[choice], score, fitted.warnings, seconds)


def _arrays(predictions: Predictions | None) -> dict[str, np.ndarray]:
    return (
        {}
        if predictions is None
        else {name: value for name, value in predictions.__dict__.items() if value is not None}
    )


def _predictions(arrays: Mapping[str, np.ndarray]) -> Predictions | None:
    return Predictions(**arrays) if arrays else None
