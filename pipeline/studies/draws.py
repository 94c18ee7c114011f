"""Which labels are drawn: a ladder of labels a class, several draws a rung, each within the next rung's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

STEPS = (1, 2, 5)
TOO_NEAR = 0.8  # of all labels: a rung with as many tells what the last one does

# Few labels leave much to the draw, and are quickly learned from.
DRAWS = {1: 20, 2: 20, 5: 10, 10: 10, 20: 5, 50: 5}
FEWEST_DRAWS = 3


@dataclass(frozen=True, eq=False)
class LabelBudget:
    """So many labels, drawn several times.

    Attributes
    ----------
    labels : int
        In each draw.
    per_class : float
        Labels over classes: a class that has fewer gives all it has, so it may be less than was asked for.
    everything : bool
        Whether these are all labels; the draws are then the same, and only trainings with a seed differ.
    draws : tuple of ndarray of int64
        Ascending positions into the labels. Draw k of a rung lies within draw k of the next.
    """

    labels: int
    per_class: float
    everything: bool
    draws: tuple[np.ndarray, ...]


def label_budgets(y: np.ndarray, *, random_state: int) -> tuple[LabelBudget, ...]:
    """Return 1, 2, 5, 10, 20, 50, ... labels of each class and at last all of them.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        Codes of the classes.
    random_state : int
    """
    classes = len(np.unique(y))
    found = []
    orders: dict[int, list[np.ndarray]] = {}
    for asked in _budget_steps():
        counts = np.minimum(np.bincount(y), asked)
        if counts.sum() >= TOO_NEAR * len(y):
            break
        draws = []
        for draw in range(DRAWS.get(asked, FEWEST_DRAWS)):
            orders.setdefault(draw, _orders(y, draw, random_state))
            draws.append(np.sort(np.concatenate([rows[:asked] for rows in orders[draw]])))
        found.append(LabelBudget(int(counts.sum()), float(counts.sum() / classes), False, tuple(draws)))
    every = np.arange(len(y))
    return (*found, LabelBudget(len(y), len(y) / classes, True, (every,) * FEWEST_DRAWS))


def at_most(y: np.ndarray, most: int, *, random_state: int) -> np.ndarray:
    """Return ascending positions of at most so many labels, the classes in proportion and each with one at least."""
    if len(y) <= most:
        return np.arange(len(y))
    kept = []
    for rows in _orders(y, 0, random_state):
        kept.append(rows[: max(1, int(len(rows) * most / len(y)))])
    return np.sort(np.concatenate(kept))


def _orders(y: np.ndarray, draw: int, random_state: int) -> list[np.ndarray]:
    """Return the rows of each class in the order in which a draw takes them."""
    return [
        np.random.default_rng([random_state, draw, code]).permutation(np.flatnonzero(y == code))
        for code in np.unique(y)
    ]


def _budget_steps() -> Iterator[int]:
    size = 1
    while True:
        yield from (size * step for step in STEPS)
        size *= 10
