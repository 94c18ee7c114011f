"""Which heads and grids the shared search covers; whatever is outside that is GridSearchCV's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.heads.catalogue import RECIPES
from pipeline.heads.grids import own_name


def _is_alpha(value: Any) -> bool:
    return _is_number(value) and bool(1e-3 <= value < np.inf)


def _is_shrinkage(value: Any) -> bool:
    return _is_number(value) and bool(1e-3 <= value <= 1)


def _is_threshold(value: Any) -> bool:
    return value is None or (_is_number(value) and bool(0 < value < np.inf))


def _is_c(value: Any) -> bool:
    return _is_number(value) and bool(1e-6 <= value <= 1e4)


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


# Of each head, the parameters that share their work, and the values for which they do.
_COVERED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "logistic": {"C": _is_c},
    "ridge": {"alpha": _is_alpha},
    "lda": {"shrinkage": _is_shrinkage},
    "knn": {
        "n_neighbors": _is_count,
        "weights": lambda value: isinstance(value, str) and value in ("uniform", "distance"),
    },
    "centroid": {"shrink_threshold": _is_threshold},
}

_OF_TAGS = ("ridge", "lda", "knn")


@dataclass(frozen=True)
class SharedGrid:
    """A head whose grid shares its work.

    Parameters
    ----------
    solver : {"logistic", "ridge", "lda", "knn", "centroid"}
    kind : {"class", "number", "multi"}
    candidates : list of dict
        The grid's combinations, in GridSearchCV's order.
    values : list of tuple
        Each candidate's values of the solver's parameters.
    """

    solver: str
    kind: str
    candidates: list[dict[str, Any]]
    values: list[tuple[Any, ...]]

    def take(self, places: Sequence[int]) -> SharedGrid:
        """Return the head with some of its candidates."""
        return replace(
            self,
            candidates=[self.candidates[place] for place in places],
            values=[self.values[place] for place in places],
        )


def shared_grid(estimator: Any, grid: dict[str, list[Any]], kind: str) -> SharedGrid | None:
    """Return how the head shares its work; None where it does not: another estimator, parameter or value."""
    from sklearn.model_selection import ParameterGrid

    return shared_candidates(estimator, list(ParameterGrid(grid)), kind)


def shared_candidates(estimator: Any, candidates: Sequence[dict[str, Any]], kind: str) -> SharedGrid | None:
    """Return as `shared_head`, of a grid's combinations or some of them."""
    from sklearn.pipeline import Pipeline

    if type(estimator) is not Pipeline:
        return None
    for solver, covered in _COVERED.items():
        if solver not in RECIPES[kind] or (kind == "multi" and solver not in _OF_TAGS):
            continue
        known = RECIPES[kind][solver].make(None)
        names = [own_name(known, solver, param) for param in covered]
        # None of these solvers draws anything.
        drawn = [name for name in known.get_params() if name.rpartition("__")[2] == "random_state"]
        if not {key for candidate in candidates for key in candidate} <= set(names) or not _same(
            estimator, known, [*names, *drawn]
        ):
            continue
        own = estimator.get_params()
        values = [tuple(candidate.get(name, own[name]) for name in names) for candidate in candidates]
        checks = list(covered.values())
        if all(check(value) for row in values for check, value in zip(checks, row, strict=True)):
            return SharedGrid(solver, kind, list(candidates), values)
    return None


def _same(estimator: Any, known: Any, free: Sequence[str]) -> bool:
    """Say whether both are the same steps with the same parameters, apart from those that are free."""
    if [(name, type(step)) for name, step in estimator.steps] != [(name, type(step)) for name, step in known.steps]:
        return False
    steps = {"steps", *(name for name, _ in known.steps)}
    wanted = {key: value for key, value in known.get_params().items() if key not in steps and key not in free}
    found = {key: value for key, value in estimator.get_params().items() if key not in steps and key not in free}
    return repr(sorted(wanted.items())) == repr(sorted(found.items()))
