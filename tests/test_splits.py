"""The splits room: groups stay whole, every row is tested once, and what cannot be split says why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.errors import EvaluationError
from pipeline.splits import Split, inner_folds, outer_folds, train_test


def partition(splits: list[Split], n: int) -> None:
    """Every row is tested exactly once, and learned from in all other folds."""
    assert sorted(np.concatenate([s.test for s in splits]).tolist()) == list(range(n))
    for s in splits:
        assert sorted([*s.train.tolist(), *s.test.tolist()]) == list(range(n))
        assert len(s.test) and len(s.train)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_group_spans_two_folds_and_every_row_is_tested_once(data: st.DataObject) -> None:
    n = data.draw(st.integers(6, 60))
    kind = data.draw(st.sampled_from(["class", "number"]))
    y = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    groups = np.array(data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)))
    cv, seed = data.draw(st.integers(2, 6)), data.draw(st.integers(0, 5))
    try:
        splits, notes = outer_folds(y, kind, groups=groups, cv=cv, random_state=seed)
    except EvaluationError:
        assume(False)
    partition(splits, n)
    for s in splits:
        assert not set(groups[s.train]) & set(groups[s.test])
        assert kind == "number" or len(set(y[s.train])) > 1
    assert len(splits) == min(cv, len(set(groups)))
    assert (len(splits) < cv) == any("folds cut to" in note for note in notes)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_inner_folds_keep_groups_whole_and_never_learn_from_one_class(data: st.DataObject) -> None:
    n = data.draw(st.integers(4, 40))
    kind = data.draw(st.sampled_from(["class", "number"]))
    y = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    grouped = data.draw(st.booleans())
    groups = np.array(data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))) if grouped else None
    try:
        splits = inner_folds(y, kind, groups=groups)
    except EvaluationError:
        assume(False)
    tested = np.concatenate([test for _, test in splits])
    assert len(tested) == len(set(tested.tolist()))
    for train, test in splits:
        assert not set(train.tolist()) & set(test.tolist())
        assert groups is None or not set(groups[train]) & set(groups[test])
        assert kind == "number" or len(set(y[train])) > 1


def test_classes_stay_in_proportion_and_the_seed_decides() -> None:
    y = np.repeat([0, 1], [40, 20])
    splits, notes = outer_folds(y, "class")
    assert [np.bincount(y[s.test]).tolist() for s in splits] == [[8, 4]] * 5
    assert notes == ()
    same, _ = outer_folds(y, "class")
    other, _ = outer_folds(y, "class", random_state=1)
    assert all((a.test == b.test).all() for a, b in zip(splits, same, strict=True))
    assert any((a.test != b.test).any() for a, b in zip(splits, other, strict=True))


def test_grouped_classes_stay_in_proportion() -> None:
    groups = np.repeat(np.arange(20), 5)
    y = groups % 2
    splits, _ = outer_folds(y, "class", groups=groups)
    assert [np.bincount(y[s.test]).tolist() for s in splits] == [[10, 10]] * 5


def test_folds_are_cut_to_the_groups_and_to_the_rows() -> None:
    y, groups = np.tile([0, 1], 20), np.repeat(np.arange(4), 10)
    splits, notes = outer_folds(y, "class", groups=groups)
    assert len(splits) == 4
    assert notes == ("5 folds cut to 4: there are 4 groups",)
    splits, notes = outer_folds(np.array([0.5, 1.5, 2.5]), "number")
    assert len(splits) == 3
    assert notes == ("5 folds cut to 3: there are 3 labelled images",)


def test_a_class_with_fewer_members_than_folds_is_named_with_a_cv_that_works() -> None:
    y = np.repeat([0, 1, 2], [20, 3, 4])
    with pytest.raises(EvaluationError) as caught:
        outer_folds(y, "class", classes=("ant", "bee", "wasp"))
    assert caught.value.message == (
        "expected 5 images per class, one per fold, got 3 images of 'bee' (and 1 more class has fewer than 5)"
    )
    # Leaving both small classes out would leave one class alone.
    assert caught.value.next_step == "add images of 'bee', or use fewer folds: --cv 3"
    with pytest.raises(EvaluationError) as caught:
        outer_folds(np.repeat([0, 1, 2, 3], [20, 3, 4, 20]), "class", classes=("ant", "bee", "wasp", "moth"))
    assert caught.value.next_step == (
        "pass --min-class-size 5 to leave them out, or add images of 'bee', or use fewer folds: --cv 3"
    )
    partition(outer_folds(y, "class", cv=3)[0], len(y))


def test_a_class_of_one_image_has_no_cv_that_works() -> None:
    with pytest.raises(EvaluationError) as caught:
        outer_folds(np.repeat([0, 1, 2], [20, 1, 20]), "class", classes=("ant", "bee", "wasp"))
    assert "got 1 image of 'bee'" in caught.value.message
    assert caught.value.next_step == "pass --min-class-size 5 to leave it out, or add images of 'bee'"


def test_a_class_within_a_single_group_is_noted() -> None:
    y, groups = np.tile([0, 1], 30), np.repeat(np.arange(6), 10)
    y[groups == 5] = 2
    _, notes = outer_folds(y, "class", groups=groups, classes=("ant", "bee", "wasp"))
    assert notes == (
        "'wasp' lies within a single group: never both trained on and tested, so its images count as wrong",
    )


def test_too_few_groups_and_folds_of_one_class_are_refused() -> None:
    y = np.tile([0, 1], 10)
    with pytest.raises(EvaluationError, match="expected 2 groups or more to split by, got 1"):
        outer_folds(y, "class", groups=np.zeros(20, int))
    with pytest.raises(
        EvaluationError, match=r"would be trained on 'b.*' alone: the other classes lie within the groups"
    ):
        outer_folds(np.repeat([0, 1], 10), "class", groups=np.repeat([0, 1], 10), classes=("bee", "bug"))
    with pytest.raises(EvaluationError, match="expected two classes or more, got 'ant' alone"):
        outer_folds(np.zeros(10, int), "class", classes=("ant", "bee"))
    with pytest.raises(EvaluationError, match="expected 2 folds or more, got --cv 1"):
        outer_folds(y, "class", cv=1)
    with pytest.raises(EvaluationError, match="expected 2 labelled images or more, got 1"):
        outer_folds(np.array([1.0]), "number")


def test_inner_folds_are_cut_to_the_smallest_class_and_the_groups_left() -> None:
    assert len(inner_folds(np.repeat([0, 1], [20, 3]), "class")) == 3
    assert (
        len(inner_folds(np.repeat([0, 1], [20, 1]), "class")) == 1
    )  # the split that tests the lone row learns one class
    assert len(inner_folds(np.tile([0, 1], 20), "class", groups=np.repeat(np.arange(4), 10))) == 4
    assert [len(test) for _, test in inner_folds(np.arange(7.0), "number")] == [3, 2, 2]


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        (np.tile([0, 1], 5), np.zeros(10, int), "expected 2 groups in every training part, got 1"),
        (np.repeat([0, 1], 5), np.repeat([0, 1], 5), "the groups hold one class each"),
        (np.zeros(5, int), None, "got a single class"),
        (np.arange(3), None, "got a single image of each class"),
    ],
)
def test_what_leaves_nothing_to_choose_on_says_so(y: np.ndarray, groups: np.ndarray | None, message: str) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        inner_folds(y, "class", groups=groups)
    assert "--no-nested" in caught.value.next_step


def test_a_group_much_larger_than_the_rest_leaves_no_fold_empty() -> None:
    groups = np.repeat([0, 1, 2, 3, 4], [100, 1, 1, 1, 1])
    y = np.r_[np.tile([0, 1], 50), 0, 1, 0, 1]
    splits, _ = outer_folds(y, "class", groups=groups)
    partition(splits, len(y))


# -------------------------------------------------------------------------------------------- fixed splits


def test_train_and_test_are_read_in_any_case() -> None:
    split, notes = train_test(["Train", "TEST", " training", "holdout"])
    assert (split.train.tolist(), split.test.tolist(), notes) == ([0, 2], [1, 3], ())


def test_val_is_the_test_set_where_there_is_no_other() -> None:
    split, notes = train_test(["train", "val", "train", None])
    assert (split.train.tolist(), split.test.tolist()) == ([0, 2], [1])
    assert notes == (
        "column 'split': val (1) is the test set",
        "1 of 4 images has no value in column 'split' and is left out",
    )


def test_with_val_and_test_val_learns_and_that_is_said() -> None:
    split, notes = train_test(["train", "val", "test"])
    assert (split.train.tolist(), split.test.tolist()) == ([0, 1], [2])
    assert "val (1) joins the training part" in notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "2", "1"], r"column 'fold': expected train and test \(or val\), got '1' \(2\), '2' \(1\)"),
        (["train", "train"], r"got no test rows: 'train' \(2\)"),
        (["test", "val"], "got no training rows"),
        ([None, ""], "got no training rows: nothing"),
    ],
)
def test_other_values_are_named(values: list[str | None], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        train_test(values, column="fold")
