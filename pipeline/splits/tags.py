"""Folds of several tags an image, each in proportion, by iterative stratification.

Sechidis, Tsoumakas, Vlahavas (2011): On the stratification of multi-label data, ECML PKDD, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import EvaluationError
from pipeline.splits.split import Split, class_name


def deal_tags(y: np.ndarray, groups: np.ndarray | None, folds: int, random_state: int | None) -> list[Split]:
    """Return folds of rows, or of whole groups, that hold each tag in proportion; y is an indicator, (n, c).

    The tag with the fewest units left is dealt first, each of its units to the fold that lacks most of the tag. Of a
    tag that most images have, the images without it are dealt: what is rare is hard to share out.
    """
    rarer = np.where(y.mean(axis=0) > 0.5, 1 - y, y).astype(np.int64)
    unit_of = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(len(y))
    units = int(unit_of.max()) + 1
    counts = np.zeros((units, y.shape[1] + 1), np.int64)  # rows with each tag, then all rows
    np.add.at(counts, unit_of, np.column_stack([rarer, np.ones(len(y), np.int64)]))
    rng = np.random.default_rng(random_state)
    # Units in random order, those with many rows first: a large group that comes last finds no room.
    order = sorted(rng.permutation(units).tolist(), key=lambda unit: -counts[unit, -1])
    tags = [np.flatnonzero(row[:-1]).tolist() for row in counts]
    waiting = [[unit for unit in order if counts[unit, tag]] for tag in range(y.shape[1])]
    left = [len(one) for one in waiting]
    # In whole numbers, `folds` times the wish of each fold, so that equal wishes are equal.
    wish = np.tile(counts.sum(axis=0), (folds, 1)).tolist()
    luck = rng.random((units, folds)).tolist()
    fold_of = np.full(units, -1)

    def deal(unit: int, tag: int) -> None:
        fold = max(range(folds), key=lambda one: (wish[one][tag], wish[one][-1], luck[unit][one]))
        fold_of[unit] = fold
        wish[fold][-1] -= folds * int(counts[unit, -1])
        for held in tags[unit]:
            wish[fold][held] -= folds * int(counts[unit, held])
            left[held] -= 1

    while any(left):
        rarest = min((tag for tag in range(len(left)) if left[tag]), key=lambda tag: left[tag])
        for unit in waiting[rarest]:
            if fold_of[unit] < 0:
                deal(unit, rarest)
    for unit in order:
        if fold_of[unit] < 0:
            deal(unit, -1)
    row_fold = fold_of[unit_of]
    return [Split(np.flatnonzero(row_fold != fold), np.flatnonzero(row_fold == fold)) for fold in range(folds)]


def check_tag_counts(y: np.ndarray, splits: Sequence[Split], groups: np.ndarray | None, tags: Sequence[str]) -> None:
    """Raise where a training part has a tag on all of its rows, or on none: nothing could be learned of it."""
    learned = np.array([y[split.train].mean(axis=0) for split in splits])
    lonely = np.flatnonzero(((learned == 0) | (learned == 1)).any(axis=0))
    if not len(lonely):
        return
    tag = lonely[0]
    name, there = class_name(tag, tags).replace("class", "tag"), int(y[:, tag].sum())
    few, what = (there, "with") if 2 * there <= len(y) else (len(y) - there, "without")
    more = f" (and {len(lonely) - 1} more such: {', '.join(class_name(one, tags) for one in lonely[1:9])})"
    held = f"{few} {'image' if few == 1 else 'images'} {what} it"
    if groups is not None:
        held += f" in {len(np.unique(groups[y[:, tag] == (what == 'with')]))} of {len(np.unique(groups))} groups"
    rarer = np.minimum(y.sum(axis=0), len(y) - y.sum(axis=0))
    fewest = int(rarer[lonely].max()) + 1
    step = f"add images {what} it, or take the tag out of the column"
    if groups is None and (rarer >= fewest).sum() > 1:  # with groups, their number matters, not that of the images
        leave = "it" if len(lonely) == 1 else "such tags"
        step = f"pass --min-class-size {fewest} to leave {leave} out, or add images {what} it"
    raise EvaluationError(
        f"tag {name}: wanted images with and without it in every training part, found {held}"
        + (more if len(lonely) > 1 else ""),
        step,
    )
