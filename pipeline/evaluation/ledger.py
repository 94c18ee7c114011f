"""The ledger: which units of an evaluation the store knows already, and what is kept of those that are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.evaluation.answers import FoldPrediction
from pipeline.evaluation.cells import (
    JobKey,
    estimator_text,
    features_text,
    label_set_text,
    rows_text,
    test_rows_text,
    versions_text,
)
from pipeline.evaluation.plan import TaskPlan
from pipeline.evaluation.units import FitJob, FitResult, Key
from pipeline.runs import Store, StoredResult, UnitKey
from pipeline.search import Predictions


class ResultCache:
    """Between the units of an evaluation and the store.

    Parameters
    ----------
    store : Store
    tasks : sequence of Task
    random_state : int
    """

    def __init__(self, store: Store, tasks: Sequence[TaskPlan], *, random_state: int) -> None:
        self._store, self._tasks, self._random_state = store, tasks, random_state
        self._label_sets = [label_set_text(task.question) for task in tasks]
        self._texts: dict[int, tuple[Any, str]] = {}
        self._identities: dict[Key, JobKey] = {}

    def look_up(self, units: Sequence[FitJob]) -> tuple[dict[Key, FoldPrediction], list[FitJob]]:
        """Return the answers that are known; and the other units, with what is known of each."""
        keys = [_CandidateKeys.of(unit, self._identity(unit)) for unit in units]
        known = self._store.get(key for mine in keys for key in mine.all)
        answers, waiting = {}, []
        for unit, mine in zip(units, keys, strict=True):
            unit = _with_known(unit, mine, known)
            answer = None if unit.missing else _answer(unit, mine, known)
            if answer is None:
                waiting.append(unit)
            else:
                answers[unit.key] = answer
        return answers, waiting

    def keep(self, done: Sequence[tuple[FitJob, FitResult]]) -> dict[Key, FoldPrediction]:
        """Keep what was computed of units, all of it or nothing, and return their answers."""
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
            said = _predictions(known.arrays)
            answers[unit.key] = FoldPrediction(said, unit.choices[result.choice], score, known.warnings, result.seconds)
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
            # Of the label set's own rows: what is no part of it changes nothing.
            return self._once(rows, lambda: rows_text(np.searchsorted(question.train.rows, rows)))

        if not len(unit.ask):
            asked = ""
        elif isinstance(fold, str) and question.test is not None:
            asked = test_rows_text(question.test, unit.n_classes)
        else:
            asked = places(unit.ask)
        return JobKey(
            features=features_text(candidate.cache.recipe, candidate.layer),
            label_set=self._label_sets[number],
            head=unit.head.name,
            estimator=estimator_text(unit.head, {name for choice in unit.choices for name in choice}),
            outer_fold=str(fold),
            learned=places(unit.train),
            folds=tuple(self._once(pair, lambda pair=pair: rows_text(*pair)) for pair in unit.folds),
            asked=asked,
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
    """The keys of a unit's cells, by the place of the choice.

    Attributes
    ----------
    scored : list of list of bytes
        One a fold.
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
    for place, mine in enumerate(keys.scored):
        found = [known.get(key) for key in mine]
        if found and None not in found:
            scores[place] = np.array([one.score for one in found if one is not None])
    return replace(unit, known=scores, fitted=frozenset(place for place, key in enumerate(keys.fitted) if key in known))


def _answer(unit: FitJob, keys: _CandidateKeys, known: Mapping[bytes, StoredResult]) -> FoldPrediction | None:
    """Return the answer of a unit whose choices are all scored; None where the chosen one is not fitted."""
    choice, score = unit.chosen(unit.known)
    if choice not in unit.fitted:
        return None
    fitted = known[keys.fitted[choice]]
    seconds = fitted.seconds + sum(known[key].seconds for mine in keys.scored for key in mine)
    return FoldPrediction(_predictions(fitted.arrays), unit.choices[choice], score, fitted.warnings, seconds)


def _arrays(said: Predictions | None) -> dict[str, np.ndarray]:
    return {} if said is None else {name: value for name, value in said.__dict__.items() if value is not None}


def _predictions(arrays: Mapping[str, np.ndarray]) -> Predictions | None:
    return Predictions(**arrays) if arrays else None
