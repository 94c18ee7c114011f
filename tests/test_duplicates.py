"""Copies: every one is found, none spans a split, and a test score is given with and without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import pipeline as command
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_caches import Spy, blobs, make_cache, names
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from pipeline import near_duplicates
from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError
from pipeline.evaluation import evaluate, leakage
from pipeline.evaluation.leakage import DuplicateGuard
from pipeline.evaluation.tasks import build_tasks
from pipeline.intervals import wilson
from pipeline.near_duplicates import FLOOR, DuplicateGroups, components, find_duplicates, find_duplicates_between
from pipeline.runs import Run
from pipeline.splits import inner_folds, outer_folds, tied

WIDTH = 48
QUICK: dict[str, Any] = {"heads": "lda", "grid": {"lda.shrinkage": 0.1}}


def run_of(data: Any, **options: Any) -> Run:
    return evaluate(data, **{"cv": 3, "n_jobs": 1, **QUICK, **options})


def own_digests(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 16), dtype=np.uint8)


def wide(n: int, *, apart: float = 1.5, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, WIDTH) in which no two rows are alike, and their classes."""
    return blobs(n, WIDTH, classes, apart, seed)


def nearly(rows: np.ndarray, *, seed: int = 5, by: float = 0.15) -> np.ndarray:
    """Return near-copies of rows."""
    return rows * (1 + by * np.random.default_rng(seed).normal(size=rows.shape)).astype(np.float32)


def all_pairs(X: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    U = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(U @ U.T, 1) >= threshold), strict=True)}


def as_pairs(copies: DuplicateGroups) -> set[tuple[int, int]]:
    """Return the pairs as rows; for collections without exact copies, whose codes are row numbers."""
    return {(min(pair), max(pair)) for pair in copies.pairs.tolist()}


# ------------------------------------------------------------------------------------------------ what is found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blocks", [False, True])
def test_every_pair_that_reaches_the_threshold_is_found_and_no_other(
    seed: int, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blocks:  # so that pairs lie within blocks, across them, and in blocks where the bound sieves nothing
        for name, size in (("_TALL", 7), ("_WIDE", 16), ("_READ", 10), ("_PAIRS", 9), ("_DIRECTIONS", 2)):
            monkeypatch.setattr(near_duplicates, name, size)
    rng = np.random.default_rng(seed)
    centres, noise = rng.normal(size=(40, WIDTH)), rng.uniform(0.02, 1.0, size=(200, 1)) ** 2
    X = (centres[rng.integers(0, 40, 200)] + noise * rng.normal(size=(200, WIDTH)) + 3).astype(np.float32)
    found = find_duplicates(X, own_digests(200))
    assert found.threshold is not None and found.threshold >= FLOOR
    wanted = all_pairs(X, found.threshold)
    assert len(wanted) > 50
    assert as_pairs(found) == wanted
    U = X - X.mean(axis=0, dtype=np.float64)
    one, other = U[found.pairs[:, 0]], U[found.pairs[:, 1]]
    cosine = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert found.cosine == pytest.approx(cosine, abs=1e-9)


def test_the_rows_of_a_cache_are_read_as_an_array_is(tmp_path: Path) -> None:
    X, _ = wide(80)
    X[60:] = nearly(X[:20])
    made = make_cache(tmp_path / "a.h5", X)
    from_disk, from_memory = find_duplicates(made.stored(), made.digest), find_duplicates(X, np.asarray(made.digest))
    assert (from_disk.pairs == from_memory.pairs).all() and len(from_disk.pairs) == 20
    assert (from_disk.cosine == from_memory.cosine).all()


def test_planted_copies_are_found_and_distinct_images_are_not() -> None:
    X, _ = wide(300)
    X[290:] = nearly(X[:10])
    found = find_duplicates(X, own_digests(300))
    assert as_pairs(found) == {(row, 290 + row) for row in range(10)}
    assert np.bincount(np.bincount(found.clusters)).tolist() == [0, 280, 10]
    assert found.suits(5)


def test_exact_copies_are_those_of_one_content_whatever_the_features_say() -> None:
    X, _ = wide(30)
    digests = own_digests(30)
    digests[20] = digests[4]
    found = find_duplicates(X, digests)
    assert (found.content[:, None] == found.content).sum() == 32
    assert found.content[20] == found.content[4] == 4  # codes in the order of the first rows
    assert not len(found.pairs) and found.clusters[20] == found.clusters[4]


def test_an_exact_copy_of_a_near_copy_is_in_the_same_cluster() -> None:
    X, _ = wide(40)
    X[30], X[31] = nearly(X[3]), nearly(X[3])
    digests = own_digests(40)
    digests[31] = digests[30]
    found = find_duplicates(X, digests)
    assert len({*found.clusters[[3, 30, 31]].tolist()}) == 1
    assert len(np.unique(found.clusters)) == 38


def test_few_dimensions_and_few_rows_have_no_near_copies() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 6))
    for X in (np.vstack([flat, flat]), np.ones((1, WIDTH)), np.zeros((0, WIDTH))):
        found = find_duplicates(X, own_digests(len(X)))
        assert not len(found.pairs) and found.threshold is None
        assert len(np.unique(found.clusters)) == len(X)


def test_a_row_that_is_the_mean_itself_is_like_no_other() -> None:
    found = find_duplicates(np.ones((20, WIDTH)), own_digests(20))
    assert not len(found.pairs)


def test_the_threshold_follows_how_alike_the_images_of_a_collection_are() -> None:
    X, _ = wide(200)
    assert find_duplicates(X, own_digests(200)).threshold == FLOOR
    rng = np.random.default_rng(1)
    alike = np.repeat(rng.normal(size=(20, WIDTH)), 10, axis=0) + 0.45 * rng.normal(size=(200, WIDTH))
    found = find_duplicates(alike, own_digests(200))
    U = alike - alike.mean(axis=0)
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    S = U @ U.T
    S[(S >= FLOOR) | np.eye(200, dtype=bool)] = -1
    wanted = 1 - (1 - np.median(S.max(axis=1))) / 5
    assert wanted > FLOOR + 0.02
    assert found.threshold == pytest.approx(wanted, abs=1e-5)


def test_images_that_are_all_alike_are_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MOST_PAIRS", 3)
    X, _ = wide(20)
    found = find_duplicates(nearly(np.tile(X, (10, 1)), by=0.02), own_digests(200))
    assert found.too_alike and not len(found.pairs) and not found.suits(5)


def test_sets_of_copies_suit_the_folds_and_chains_do_not() -> None:
    content = np.arange(100)
    pairs = np.array([(row, row + 50) for row in range(50)])
    assert DuplicateGroups(content, pairs, np.full(50, 0.95)).suits(5)  # every photo twice: no reason to give up
    chain = np.array([(row, row + 1) for row in range(12)])
    assert not DuplicateGroups(content, chain, np.full(12, 0.95)).suits(5)  # 13 rows, half a fold has 10
    chains = np.array([(start + step, start + step + 1) for start in range(0, 40, 8) for step in range(7)])
    assert not DuplicateGroups(content, chains, np.full(len(chains), 0.95)).suits(5)  # 40 of 100 rows, each in a chain
    assert DuplicateGroups(content, chains[:7], np.full(7, 0.95)).suits(5)
    assert DuplicateGroups(np.zeros(100, np.int64)).suits(5)  # exact copies are copies, however many


def test_components_are_those_of_the_graph() -> None:
    found = components(np.array([0, 3]), np.array([2, 2]), 5)
    assert found.dtype == np.int64
    assert len({found[0], found[2], found[3]}) == 1 and len(set(found.tolist())) == 3


def test_between_two_collections_only_pairs_across_count() -> None:
    X, _ = wide(60)
    X[50:55] = nearly(X[:5])
    other = np.vstack([nearly(X[[7, 8]]), wide(6, seed=9)[0]])
    other[5] = nearly(other[4])
    digests, others = own_digests(60), own_digests(8, seed=3)
    others[6] = digests[30]
    found = find_duplicates_between(X, digests, other, others)
    twins = found.twins(np.arange(60), 60 + np.arange(8))
    assert twins.test.tolist() == [0, 1, 6]
    assert twins.train.tolist() == [7, 8, 30]
    assert twins.exact.tolist() == [False, False, True]
    assert twins.cosine[2] == 1 and (twins.cosine[:2] >= FLOOR).all() and (twins.cosine[:2] < 1).all()
    # Only rows that are learned from count: without row 7 there is no copy of test row 0.
    assert found.twins(np.arange(8, 60), 60 + np.arange(8)).test.tolist() == [1, 6]
    assert find_duplicates(X, digests).threshold == found.threshold  # what is a copy is for the training set to say


def test_a_twin_is_the_one_most_alike() -> None:
    content = np.array([0, 1, 2, 3, 1])
    copies = DuplicateGroups(content, np.array([[0, 3], [2, 3], [1, 3]]), np.array([0.91, 0.97, 0.95]))
    twins = copies.twins(np.array([0, 1, 2]), np.array([3, 4]))
    assert (twins.test.tolist(), twins.train.tolist(), twins.cosine.tolist()) == ([0, 1], [2, 1], [0.97, 1.0])


# ------------------------------------------------------------------------------------------------ folds


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_set_of_copies_spans_a_split_outer_or_inner_with_or_without_groups(data: st.DataObject) -> None:
    n = data.draw(st.integers(8, 60))
    kind = data.draw(st.sampled_from(["class", "number"]))
    y = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    together = np.array(data.draw(st.lists(st.integers(0, 30), min_size=n, max_size=n)))
    groups = np.array(data.draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)))
    given_groups = groups if data.draw(st.booleans()) else None
    cv, seed = data.draw(st.integers(2, 5)), data.draw(st.integers(0, 5))
    try:
        splits, _ = outer_folds(y, kind, groups=given_groups, together=together, cv=cv, random_state=seed)
        inner = inner_folds(y, kind, groups=given_groups, together=together, cv=cv, random_state=seed)
    except EvaluationError:
        assume(False)
    assert sorted(np.concatenate([s.test for s in splits]).tolist()) == list(range(n))
    for train, test in [*((s.train, s.test) for s in splits), *inner]:
        assert len(train) and len(test)
        assert not set(together[train]) & set(together[test])
        assert given_groups is None or not set(groups[train]) & set(groups[test])
    for split in splits:
        assert split.train.dtype == split.test.dtype == np.int64
        assert sorted([*split.train.tolist(), *split.test.tolist()]) == list(range(n))


@pytest.mark.parametrize("kind", ["class", "number"])
@pytest.mark.parametrize("grouped", [False, True])
def test_without_copies_the_folds_are_the_very_same(kind: str, grouped: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90) if kind == "class" else rng.normal(size=90)
    groups = np.array([f"g{value}" for value in rng.integers(0, 20, 90)]) if grouped else None
    alone = rng.permutation(90)
    plain, notes = outer_folds(y, kind, groups=groups)
    guarded, guarded_notes = outer_folds(y, kind, groups=groups, together=alone)
    assert notes == guarded_notes
    for one, other in zip(plain, guarded, strict=True):
        assert one.train.tolist() == other.train.tolist() and one.test.tolist() == other.test.tolist()
    for one, other in zip(inner_folds(y, kind, groups=groups), inner_folds(y, kind, groups=groups, together=alone),
                          strict=True):  # fmt: skip
        assert one[0].tolist() == other[0].tolist() and one[1].tolist() == other[1].tolist()


def test_classes_stay_in_proportion_when_copies_follow_one_another() -> None:
    y = np.tile(np.repeat([0, 1], [40, 20]), 2)
    together = np.tile(np.arange(60), 2)  # every image twice
    splits, notes = outer_folds(y, "class", together=together)
    assert [np.bincount(y[s.test]).tolist() for s in splits] == [[16, 8]] * 5
    assert notes == ()


def test_groups_that_copies_tie_are_one() -> None:
    groups = np.array(["a", "a", "b", "b", "c", "d"])
    together = np.array([0, 1, 1, 2, 3, 4])
    found = tied(groups, together)
    assert [found[0] == found[row] for row in range(6)] == [True, True, True, True, False, False]
    assert tied(groups, np.arange(6)) is groups


def test_folds_are_cut_to_what_copies_leave_and_that_is_said() -> None:
    y = np.tile([0, 1], 12)
    splits, notes = outer_folds(y, "class", together=np.arange(24) // 8 * 2 + y)
    assert len(splits) == 3
    assert notes == ("5 folds cut to 3: no class has more than 3 distinct images",)
    _, notes = outer_folds(np.arange(12.0), "number", together=np.arange(12) // 3)
    assert notes == ("5 folds cut to 4: there are 4 distinct images",)
    groups = np.repeat(np.arange(6), 4)
    _, notes = outer_folds(y, "class", groups=groups, together=np.r_[0, np.arange(1, 20), 0, 20, 21, 22])
    assert notes == ()
    _, notes = outer_folds(y, "class", groups=groups, together=np.where(np.isin(np.arange(24), [0, 4, 8]), 0, 1 + y * 0
                           + np.arange(24)))  # fmt: skip
    assert notes == ("5 folds cut to 4: there are 4 groups (duplicates join 6 groups into 4)",)


def test_what_copies_leave_unsplittable_is_refused() -> None:
    with pytest.raises(EvaluationError, match="expected 2 distinct images to split by"):
        outer_folds(np.arange(6.0), "number", together=np.zeros(6, int))
    with pytest.raises(EvaluationError, match="got duplicates of one image in each class"):
        outer_folds(np.repeat([0, 1], 5), "class", together=np.repeat([0, 1], 5))
    with pytest.raises(EvaluationError, match="the other classes lie within the duplicates of one image that it tests"):
        outer_folds(np.repeat([0, 1], [20, 5]), "class", together=np.r_[np.arange(20), np.full(5, 20)])
    _, notes = outer_folds(
        np.repeat([0, 1, 2], [20, 20, 5]),
        "class",
        together=np.r_[np.arange(40), np.full(5, 40)],
        classes=("a", "b", "c"),
    )
    assert notes == ("'c' is in duplicates of one image alone: never both trained on and tested",)


# ------------------------------------------------------------------------------------------------ evaluations


@pytest.fixture
def photos(tmp_path: Path) -> FeatureCache:
    """90 images: 80..84 near-copies of 0..4, 85 an exact copy of 5."""
    X, y = wide(90)
    X[80:85], y[80:85] = nearly(X[:5]), y[:5]
    X[85], y[85] = X[5], y[5]
    digests = own_digests(90)
    digests[85] = digests[5]
    columns = {"kind": names(y), "place": [f"g{row % 30}" for row in range(90)], "length": [str(v) for v in X[:, 0]]}
    return make_cache(tmp_path / "photos.h5", X, columns, digests=digests)


def test_copies_stay_on_one_side_of_every_fold_and_that_is_said(photos: FeatureCache) -> None:
    for options in ({}, {"groups": "place"}):
        run = run_of(photos, column=["kind", "length:number"], heads=["lda", "ridge"], grid=(), **options)
        for table in (run.predictions[run.predictions["label_set"] == name] for name in ("kind", "length")):
            fold = dict(zip(table["id"], table["part"], strict=True))
            assert all(fold[photos.ids[row]] == fold[photos.ids[80 + row]] for row in range(6))
        assert (
            "12 images are duplicates of one another (2 exactly), e.g. 00000.jpg and 00080.jpg: they stay on one side "
            "of every split"
        ) in run.notes
        assert all(info.test_apart is None for info in run.label_sets)
        assert all(result.test_apart is None for result in run.results)


def test_parameters_are_chosen_on_splits_that_keep_copies_together(photos: FeatureCache) -> None:
    X = np.array(photos.features())
    X[:, 0] = np.arange(90)  # `Spy` knows rows by the first column
    digests = own_digests(90)
    digests[80:85] = digests[:5]
    made = make_cache(photos.path.with_name("spied.h5"), X, {"kind": photos.columns["kind"]}, digests=digests)
    Spy.seen.clear()
    run_of(made, heads=Spy(), grid={"Spy.width": [1.0, 2.0]})
    learned: frozenset[int] = frozenset()
    for what, rows in Spy.seen:
        if what == "fit":
            learned = rows
        else:
            assert not {row + 80 for row in learned if row < 5} & rows
            assert not {row - 80 for row in learned if 80 <= row < 85} & rows
    assert len(Spy.seen) > 3 * 3


def test_intervals_resample_the_groups_that_were_given(photos: FeatureCache) -> None:
    run = run_of(photos, column="kind", groups="place")
    assert run.info().groups == 30
    assert all("30 groups" in result.method for result in run.of("kind"))


def test_copies_are_looked_for_once_a_collection_and_not_before_there_are_features(
    photos: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    find = leakage.find_duplicates

    def counted(*args: Any) -> DuplicateGroups:
        calls.append(args)
        return find(*args)

    monkeypatch.setattr(leakage, "find_duplicates", counted)
    run_of(photos, column=["kind", "length:number"], heads=["lda", "ridge"], grid=())
    assert len(calls) == 1
    from pipeline.evaluation.dataset import Dataset

    build_tasks(Dataset("photos", photos.ids, photos.columns), column=["kind"])
    assert len(calls) == 1


def test_copies_with_different_labels_are_named(tmp_path: Path) -> None:
    X, y = wide(60, classes=2)
    X[50], y[50] = nearly(X[3]), 1 - y[3]
    X[51], y[51] = nearly(X[4]), y[4]
    run = run_of(make_cache(tmp_path / "a.h5", X, {"kind": names(y)}))
    labels = names(y)
    assert (
        "1 of 2 pairs of near-duplicates has different labels, "
        f"e.g. 00003.jpg ({labels[3]}) and 00050.jpg ({labels[50]}): "
        "one may be wrong"
    ) in run.notes


def test_look_alikes_that_chain_are_left_alone_and_that_is_said(tmp_path: Path) -> None:
    steps = np.linspace(0, np.pi, 60)[:, None]
    one, other = np.random.default_rng(0).normal(size=(2, WIDTH))
    X = np.cos(steps) * one + np.sin(steps) * other + 0.05 * np.random.default_rng(1).normal(size=(60, WIDTH))
    digests = own_digests(60)
    digests[40] = digests[7]
    run = run_of(make_cache(tmp_path / "a.h5", X, {"kind": names(np.arange(60) % 2)}, digests=digests))
    assert (
        "2 images are exact duplicates of one another, e.g. 00007.jpg and 00040.jpg: "
        "they stay on one side of every split" in run.notes
    )
    assert any("too many images look nearly alike" in note and "--groups COLUMN" in note for note in run.notes)


def test_near_copies_that_would_tie_whole_classes_or_most_groups_are_let_go(tmp_path: Path) -> None:
    X, y = wide(60)
    rare = np.flatnonzero(y == 2)[:4]
    y[y == 2] = 0
    y[rare] = 2
    X[rare] = nearly(np.repeat(X[rare[:1]], 4, axis=0))
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "place": [f"g{row % 4}" for row in range(60)]})
    note = "near-duplicates would tie too many groups or whole classes: only exact duplicates stay together"
    assert note in run_of(made, column="kind").notes
    X, y = wide(60)
    X[[20, 41, 62 - 20]] = nearly(X[[0, 1, 3]])  # g0 with g0, g1 with g1, g3 with g2
    made = make_cache(tmp_path / "b.h5", X, {"kind": names(y), "place": [f"g{row % 4}" for row in range(60)]})
    assert note in run_of(made, column="kind", groups="place").notes
    assert note not in run_of(made, column="kind").notes


def test_exact_copies_in_all_groups_do_not_stop_an_evaluation(tmp_path: Path) -> None:
    X, y = wide(40, classes=2)
    digests = own_digests(40)
    digests[:4] = digests[0]
    made = make_cache(
        tmp_path / "a.h5", X, {"kind": names(y), "place": [f"g{row % 4}" for row in range(40)]}, digests=digests
    )
    run = run_of(made, column="kind", groups="place")
    assert "duplicates tie all groups to one another: only groups are kept whole" in run.notes


def test_rows_without_features_are_no_copies(tmp_path: Path) -> None:
    from pipeline.errors import SkipReason
    from pipeline.evaluation.dataset import Dataset

    X, y = wide(40)
    X[[2, 3]] = 0
    X[30] = nearly(X[8])
    digests = own_digests(40)
    digests[[2, 3]] = 0
    failed = {2: SkipReason.UNREADABLE, 3: SkipReason.UNREADABLE}
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y)}, digests=digests, failed=failed)
    guard = DuplicateGuard(Dataset("a", made.ids, made.columns, (made,), (("penultimate",),)), None, 5)
    assert len(guard.copies.content) == 38
    (question,) = build_tasks(guard.collection, guard=guard)
    together = question.train.together
    assert together is not None and len(np.unique(together)) == 37
    assert together[question.train.rows == 8] == together[question.train.rows == 30]


# ------------------------------------------------------------------------------------------------ fixed test sets


def apart_by_hand(run: Run, copies: set[str], head: str = "lda") -> tuple[list[str], list[str]]:
    table = run.predictions
    rows = table[(table["part"] == "test") & (table["head"] == head) & ~table["id"].isin(copies)]
    return rows["true"].tolist(), rows["predicted"].tolist()


@pytest.mark.parametrize("fixed", ["column", "test"])
def test_the_test_score_is_given_with_and_without_copies_of_training_images(fixed: str, tmp_path: Path) -> None:
    X, y = wide(120, apart=1.0)
    X[100:104] = nearly(X[:4])  # under other labels: the copies are missed, and the rest scores better
    y[100:104] = (y[:4] + 1) % 3
    digests = own_digests(120)
    digests[104] = digests[9]
    split = ["train"] * 80 + ["test"] * 40
    if fixed == "column":
        made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "split": split}, digests=digests)
        run, ids, of = run_of(made, column="kind"), made.ids[100:105], [*made.ids[:4], made.ids[9]]
    else:
        one = make_cache(tmp_path / "a.h5", X[:80], {"kind": names(y[:80])}, digests=digests[:80])
        two = make_cache(tmp_path / "b.h5", X[80:], {"kind": names(y[80:])}, digests=digests[80:], name="new")
        run, ids, of = run_of(one, test=two, column="kind"), two.ids[20:25], [*one.ids[:4], one.ids[9]]
    info = run.info()
    assert (info.test, info.test_apart) == (40, 35)
    assert [(copy.id, copy.copy_of, copy.exact) for copy in info.test_copies] == [
        *((one, other, False) for one, other in zip(ids[:4], of[:4], strict=True)),
        (ids[4], of[4], True),
    ]
    true, said = apart_by_hand(run, set(ids))
    assert len(true) == 35
    results = {result.scoring: result for result in run.results if result.head == "lda"}
    right = accuracy_score(true, said)
    accuracy = results["accuracy"]
    assert (accuracy.test_apart, accuracy.test_apart_low, accuracy.test_apart_high) == (right, *wilson(right, 35))
    assert accuracy.test is not None and accuracy.test < right
    assert results["balanced_accuracy"].test_apart == pytest.approx(balanced_accuracy_score(true, said))
    assert all(result.test_apart is not None for result in run.results if result.head == "dummy")
    (note,) = [note for note in run.notes if "test images are" in note]
    assert note.startswith(
        f"5 of 40 test images are duplicates (1 exact) of training images: {ids[0]} of {of[0]} (cosine 0.9"
    )
    assert note.endswith("...; the test score is given with and without them")
    low, high = wilson(right, 35)
    assert (
        f"; without the 5 test photos that training holds copies of: {100 * right:.0f} "
        f"({100 * low:.0f} to {100 * high:.0f}); always guessing"
    ) in run.verdicts[0]

    folder = run.save(tmp_path / "run")
    kept = json.loads((folder / "run.json").read_text())["label_sets"][0]
    assert kept["test_apart"] == 35 and len(kept["test_copies"]) == 5
    assert kept["test_copies"][4] == {"id": ids[4], "copy_of": of[4], "cosine": 1.0, "exact": True}
    board = pd.read_csv(folder / "leaderboard.csv")
    assert board["test_apart"].tolist() == pytest.approx([result.test_apart for result in run.results])


def test_a_test_set_of_copies_alone_has_no_score_without_them(tmp_path: Path) -> None:
    X, y = wide(60)
    one = make_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    two = make_cache(tmp_path / "b.h5", nearly(X[:12]), {"kind": names(y[:12])}, name="new")
    run = run_of(one, test=two, column="kind")
    assert run.info().test_apart == 0
    assert all(result.test is not None and result.test_apart is None for result in run.results)
    assert "training holds copies of all 12 test photos: no photo of them is new" in run.verdicts[0]


def test_a_test_set_without_copies_has_one_score(tmp_path: Path) -> None:
    X, y = wide(80)
    one = make_cache(tmp_path / "a.h5", X[:60], {"kind": names(y[:60])})
    two = make_cache(tmp_path / "b.h5", X[60:], {"kind": names(y[60:])}, name="new")
    run = run_of(one, test=two, column="kind")
    assert run.info().test_apart is None and run.info().test_copies == ()
    assert all(result.test_apart is None for result in run.results)
    assert "copies" not in run.verdicts[0] and not any("cop" in note for note in run.notes)


def test_numbers_have_a_score_without_copies_too(tmp_path: Path) -> None:
    X, _ = wide(90)
    X[70:73] = nearly(X[:3])
    columns = {"length": [str(value) for value in X[:, 0]], "split": ["train"] * 60 + ["test"] * 30}
    run = run_of(
        make_cache(tmp_path / "a.h5", X, columns), column="length:number", heads="ridge", grid={"ridge.alpha": 1}
    )
    assert run.info().test_apart == 27
    best = run.best()
    assert best.test_apart is not None
    assert f"without the 3 test photos that training holds copies of: {best.test_apart:.3g} (" in run.verdicts[0]


def test_the_leaderboard_has_a_column_for_it_only_where_there_are_copies(tmp_path: Path) -> None:
    X, y = wide(80)
    split = ["train"] * 60 + ["test"] * 20
    for copied in (False, True):
        if copied:
            X[70] = nearly(X[7])
        made = make_cache(tmp_path / f"{copied}.h5", X, {"kind": names(y), "split": split})
        said = command("evaluate", made.path, "--column", "kind", "--head", "centroid", "--jobs", 1, "--out",
                                 tmp_path / f"run-{copied}")  # fmt: skip
        assert said.code == 0, said.err
        assert ("without duplicates (95%)" in said.out) == copied
        assert ("1 of them duplicates of training images" in said.err) == copied
        assert ("without the test photo that training holds a copy of" in said.err) == copied
