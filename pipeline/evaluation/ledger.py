"""The ledger: which units of an evaluation the store knows already, and what is kept of those that are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.evaluation.answers import Answer
from pipeline.evaluation.cells import (
    Identity,
    asked_text,
    estimator_text,
    features_text,
    label_set_text,
    rows_text,
    versions_text,
)
from pipeline.evaluation.plan import Task
from pipeline.evaluation.units import Key, Unit, UnitResult
from pipeline.runs import Cell, Known, Store
from pipeline.search import Predictions


class Ledger:
    """Between the units of an evaluation and the store.

    Parameters
    ----------
    store : Store
    tasks : sequence of Task
    random_state : int
    """

    def __init__(self, store: Store, tasks: Sequence[Task], *, random_state: int) -> None:
        self._store, self._tasks, self._random_state = store, tasks, random_state
        self._label_sets = [label_set_text(task.question) for task in tasks]
        self._texts: dict[int, tuple[Any, str]] = {}
        self._identities: dict[Key, Identity] = {}

    def look_up(self, units: Sequence[Unit]) -> tuple[dict[Key, Answer], list[Unit]]:
        """Return the answers that are known; and the other units, with what is known of each."""
        cells = [cell for unit in units for cell in self._cells(unit)]
        known = self._store.get(cell.key() for cell in cells)
        answers, waiting = {}, []
        for unit in units:
            unit = self._with_known(unit, known)
            answer = None if unit.missing else self._answer(unit, known)
            if answer is None:
                waiting.append(unit)
            else:
                answers[unit.key] = answer
        return answers, waiting

    def keep(self, done: Sequence[tuple[Unit, UnitResult]]) -> dict[Key, Answer]:
        """Keep what was computed of units, all of it or nothing, and return their answers."""
        rows: list[tuple[Cell, Known]] = []
        answers = {}
        for unit, result in done:
            identity = self._identity(unit)
            each = result.seconds / (sum(map(len, result.scores.values())) + 1)
            for place, scores in result.scores.items():
                cells = identity.scored(unit.choices[place])
                rows += [(cell, Known(float(score), {}, (), each)) for cell, score in zip(cells, scores, strict=True)]
            fitted = identity.fitted(unit.choices[result.choice])
            if result.choice in unit.fitted:
                known = self._store.get([fitted.key()])[fitted.key()]
            else:
                known = Known(np.nan, _arrays(result.predictions), result.warnings, each)
                rows.append((fitted, known))
            _, score = unit.chosen({**unit.known, **result.scores})
            said = _predictions(known.arrays)
            answers[unit.key] = Answer(said, unit.choices[result.choice], score, known.warnings, result.seconds)
        self._store.put(rows)
        return answers

    def _answer(self, unit: Unit, known: Mapping[bytes, Known]) -> Answer | None:
        """Return the answer of a unit whose choices are all scored; None where the chosen one is not fitted."""
        choice, score = unit.chosen(unit.known)
        if choice not in unit.fitted:
            return None
        identity = self._identity(unit)
        fitted = known[identity.fitted(unit.choices[choice]).key()]
        scored = [known[cell.key()].seconds for params in unit.choices for cell in identity.scored(params)]
        seconds = fitted.seconds + sum(scored)
        return Answer(_predictions(fitted.arrays), unit.choices[choice], score, fitted.warnings, seconds)

    def _with_known(self, unit: Unit, known: Mapping[bytes, Known]) -> Unit:
        identity, scores, fitted = self._identity(unit), {}, set()
        for place, params in enumerate(unit.choices):
            found = [known.get(cell.key()) for cell in identity.scored(params)]
            if found and None not in found:
                scores[place] = np.array([one.score for one in found if one is not None])
            if identity.fitted(params).key() in known:
                fitted.add(place)
        return replace(unit, known=scores, fitted=frozenset(fitted))

    def _cells(self, unit: Unit) -> list[Cell]:
        identity = self._identity(unit)
        return [cell for params in unit.choices for cell in (*identity.scored(params), identity.fitted(params))]

    def _identity(self, unit: Unit) -> Identity:
        if unit.key not in self._identities:
            self._identities[unit.key] = self._made_identity(unit)
        return self._identities[unit.key]

    def _made_identity(self, unit: Unit) -> Identity:
        number, which, fold = unit.key
        question, candidate = self._tasks[number].question, self._tasks[number].candidates[which]

        def places(rows: np.ndarray) -> str:
            # Of the label set's own rows: what is no part of it changes nothing.
            return self._once(rows, lambda: rows_text(np.searchsorted(question.train.rows, rows)))

        if not len(unit.ask):
            asked = ""
        elif isinstance(fold, str) and question.test is not None:
            asked = asked_text(question.test, unit.n_classes)
        else:
            asked = places(unit.ask)
        return Identity(
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


def _arrays(said: Predictions | None) -> dict[str, np.ndarray]:
    return {} if said is None else {name: value for name, value in said.__dict__.items() if value is not None}


def _predictions(arrays: Mapping[str, np.ndarray]) -> Predictions | None:
    return Predictions(**arrays) if arrays else None
