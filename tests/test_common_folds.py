"""Folds that label sets share: drawn without a look at labels, and only where classes stay in proportion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_caches import make_cache

from pipeline.evaluation import evaluate
from pipeline.evaluation.plan import CommonFolds, deal_folds, folds_in_proportion

N = 1200
RNG = np.random.default_rng(0)
HALF = RNG.integers(0, 2, N)
RARE = (np.arange(N) < 12).astype(np.int64)


def folds_of(n: int = N, *, groups: np.ndarray | None = None, seed: int = 0) -> CommonFolds:
    return CommonFolds(np.arange(n) if groups is None else groups, np.arange(n), cv=5, random_state=seed)


def test_label_sets_of_the_same_rows_have_the_same_folds() -> None:
    common, rows = folds_of(), np.arange(N)
    one, other = common.outer(rows, HALF, "class"), common.outer(rows, RNG.normal(size=N), "number")
    assert one is not None and one is other  # one object, which a worker is sent once
    assert np.array_equal(np.sort(np.concatenate([split.test for split in one])), rows)
    inner = common.inner(2, rows[one[2].train], HALF[one[2].train], "class")
    assert inner is not None
    assert np.array_equal(np.sort(np.concatenate([split.test for split in inner])), np.arange(len(one[2].train)))
    assert common.inner(2, rows[one[2].train], np.zeros(len(one[2].train)), "number") is inner


def test_a_label_set_has_the_same_folds_whichever_rows_lack_a_label() -> None:
    common, every = folds_of(), np.arange(N)
    some = np.flatnonzero(RNG.random(N) < 0.9)
    all_of, few_of = common.outer(every, HALF, "class"), common.outer(some, HALF[some], "class")
    assert all_of is not None and few_of is not None
    for whole, part in zip(all_of, few_of, strict=True):
        assert np.array_equal(np.intersect1d(every[whole.test], some), some[part.test])


def test_a_rare_class_and_few_rows_have_folds_of_their_own() -> None:
    common = folds_of()
    assert common.outer(np.arange(N), RARE, "class") is None
    assert common.outer(np.arange(999), HALF[:999], "class") is None
    assert not folds_in_proportion(np.arange(10) % 5, np.repeat([0, 1], 5), "class", 6)  # an empty fold


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=20, max_size=120), st.integers(2, 6), st.integers(0, 5))
def test_what_belongs_together_is_dealt_into_one_fold_and_the_folds_are_even(
    together: list[int], folds: int, seed: int
) -> None:
    code = np.array(together)
    fold_of = deal_folds(code, folds, np.random.default_rng(seed))
    assert all(len(set(fold_of[code == name])) == 1 for name in set(together))
    held = np.bincount(fold_of, minlength=folds)
    assert held.max() - held.min() <= np.bincount(code).max()


def test_groups_stay_whole_in_common_folds() -> None:
    groups = np.arange(N) // 7
    common = folds_of(groups=groups)
    outer = common.outer(np.arange(N), HALF, "class")
    assert outer is not None
    learned = outer[0].train
    inner = common.inner(0, learned, HALF[learned], "number")
    assert inner is not None
    for splits, names in ((outer, groups), (inner, groups[learned])):
        for split in splits:
            assert not set(names[split.train]) & set(names[split.test])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Any:
    X = RNG.normal(size=(N, 6)) + 2 * HALF[:, None] * np.eye(6)[0]
    columns = {
        "half": [str(value) for value in HALF],
        "other": [str(value) for value in RNG.integers(0, 3, N)],
        "rare": [str(value) for value in RARE],
        "size": [f"{value:.4f}" for value in X[:, 1]],
        "gaps": [None if row % 10 == 0 else str(HALF[row]) for row in range(N)],
    }
    return make_cache(tmp_path_factory.mktemp("caches") / "made.h5", X, columns)


def test_scores_do_not_depend_on_what_is_evaluated_beside(large: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"heads": "fast", "grid": {"logistic.C": [0.01, 1.0]}, "n_jobs": 1}
    together = evaluate(large, **options)
    (note,) = [note for note in together.notes if "folds in common" in note]
    assert note.startswith("4 of 5 label sets have their folds in common; of its own for rare: fewer than 1,000 rows")
    for name in ("half", "rare", "gaps"):
        alone = evaluate(large, column=name, **options)
        said = together.predictions.query("label_set == @name").reset_index(drop=True)
        assert said["part"].equals(alone.predictions["part"])
        assert said["predicted"].equals(alone.predictions["predicted"])
        np.testing.assert_allclose(
            [one.mean for one in alone.results if one.mean is not None],
            [one.mean for one in together.results if one.label_set == name and one.mean is not None],
            rtol=1e-6,
        )
