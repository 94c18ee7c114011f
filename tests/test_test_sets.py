"""Fixed splits, test sets of their own, and labels from wherever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_caches import Spy, blobs, make_cache, names
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, HeadError, LabelError, PipelineError, SkipReason, SourceError
from pipeline.evaluation import dataset, evaluate
from pipeline.evaluation.dataset import backbone_of
from pipeline.intervals import wilson
from pipeline.runs import Run

QUICK: dict[str, Any] = {"heads": "lda", "grid": {"lda.shrinkage": 0.1}}


@pytest.fixture
def spied() -> Any:
    Spy.seen.clear()
    return Spy.seen


def run_of(data: Any, **options: Any) -> Run:
    return evaluate(data, **{"cv": 2, "n_jobs": 1, **options})


def parts(n: int, test: set[int]) -> list[str | None]:
    return ["val" if row in test else "train" for row in range(n)]


def row_cache(path: Path, columns: dict[str, Any], *, first: int = 0, **options: Any) -> FeatureCache:
    """Write a cache whose column 0 of X is the row's number, from `first` on."""
    n = len(next(iter(columns.values())))
    return make_cache(path, np.column_stack([first + np.arange(n), np.zeros(n)]), columns, **options)


# A column that fixes the split


def test_a_split_column_is_used_by_itself_and_announced(tmp_path: Path, spied: Any) -> None:
    test = {3, 8, 17, 20, 29}
    made = row_cache(tmp_path / "a.h5", {"kind": names(np.arange(30) % 2), "split": parts(30, test)})
    run = run_of(made, heads=Spy(), grid={"Spy.width": [1.0, 2.0]})
    assert [info.name for info in run.label_sets] == ["kind"]
    assert (run.info().n, run.info().test) == (25, 5)
    assert "column 'split' defines the training and the test images (--split none ignores it)" in run.notes
    assert "column 'split': val (5) is the test set" in run.notes
    assert all(not rows & test for what, rows in spied if what == "fit")
    asked = [rows for what, rows in spied if what == "ask" and rows & test]
    assert asked == [frozenset(test)]  # all of them together, once, by the head that was fitted last
    assert spied[-2][0] == "fit" and len(spied[-2][1]) == 25
    assert spied[-1] == ("ask", frozenset(test))


def test_the_test_score_is_that_of_the_choice_made_on_train_alone(tmp_path: Path) -> None:
    X, y = blobs(60, apart=1.5)
    test = np.arange(60) % 3 == 0
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "fold": ["test" if t else "train" for t in test]})
    run = run_of(made, column="kind", split="fold", grid={"logistic.C": [0.001, 0.1, 10.0]}, cv=3)
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    splits = StratifiedKFold(3, shuffle=True, random_state=0)
    grid = {"logisticregression__C": [0.001, 0.1, 10.0]}
    wanted = GridSearchCV(head, grid, scoring="balanced_accuracy", cv=splits).fit(X[~test], y[~test])
    said = wanted.predict(X[test])
    best = run.best()
    assert best.test == balanced_accuracy_score(y[test], said)
    assert best.params == {"C": wanted.best_params_["logisticregression__C"]}
    right = float(np.mean(said == y[test]))
    (accuracy,) = [result for result in run.results if result.scoring == "accuracy" and result.head == "logistic"][:1]
    assert (accuracy.test, accuracy.test_low, accuracy.test_high) == (right, *wilson(right, 20))
    table = run.predictions.query("part == 'test'")
    assert table["id"].tolist() == [made.ids[row] for row in np.flatnonzero(test)]
    assert table["predicted"].tolist() == names(said)
    assert f"right on {100 * right:.0f} of 100 new photos" in run.verdicts[0]


def test_nulls_are_scored_on_the_test_set_too(tmp_path: Path) -> None:
    X, y = blobs(40, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "split": parts(40, set(range(0, 40, 4)))})
    run = run_of(made, **QUICK)
    assert all(result.test is not None and result.test_low is not None for result in run.of("kind"))


def test_split_none_cross_validates_over_all_and_makes_no_label_set_of_the_column(tmp_path: Path) -> None:
    X, y = blobs(30)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "split": parts(30, {1, 2, 3})})
    run = run_of(made, split="none", **QUICK)
    assert [info.name for info in run.label_sets] == ["kind"]
    assert (run.info().n, run.info().test) == (30, None)
    assert run.best().test is None
    assert "column 'split' is ignored: all labelled images are cross-validated" in run.notes


def test_a_column_named_split_that_says_something_else_is_a_label_set(tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"split": ["lengthwise" if code else "across" for code in y]})
    assert run_of(made, **QUICK).info().classes == ("across", "lengthwise")


def test_a_class_that_only_the_test_rows_have_is_named_and_counts_as_wrong(tmp_path: Path) -> None:
    X, y = blobs(40, classes=2, apart=8.0)
    kinds: list[str | None] = list(names(y))
    test = set(range(8))
    for row in (1, 4, 6):
        kinds[row] = "aardvark"  # first in the alphabet, so that codes would shift
    made = make_cache(tmp_path / "a.h5", X, {"kind": kinds, "split": parts(40, test)})
    run = run_of(made, **QUICK)
    assert run.info().classes == ("ant", "bee")
    assert "classes that training never saw count as wrong: aardvark (3)" in run.notes
    scores = {result.scoring: result for result in run.results if result.head == "lda"}
    assert scores["accuracy"].test == 5 / 8
    assert scores["balanced_accuracy"].test == pytest.approx((1 + 1 + 0) / 3)
    assert scores["f1_macro"].test is not None and scores["f1_macro"].test < 2 / 3
    assert scores["neg_log_loss"].test is not None and scores["neg_log_loss"].test < -0.3 * 30
    truth = run.predictions.query("part == 'test'")["true"].tolist()
    assert truth == kinds[:8]


def test_groups_on_both_sides_of_a_fixed_split_are_said(tmp_path: Path) -> None:
    X, y = blobs(40, classes=2)
    columns = {"kind": names(y), "place": [f"g{row % 10}" for row in range(40)], "split": parts(40, set(range(8)))}
    run = run_of(make_cache(tmp_path / "a.h5", X, columns), column="kind", groups="place", **QUICK)
    assert (
        "8 groups of 'place' lie on both sides of the fixed split, e.g. g0: the test score is not about new groups"
        in run.notes
    )
    assert "photos of new groups" not in run.verdicts[0]


def test_images_without_a_place_in_the_split_are_left_out_and_counted(tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    split = [None if row in (5, 6) else part for row, part in enumerate(parts(30, set(range(5))))]
    run = run_of(make_cache(tmp_path / "a.h5", X, {"kind": names(y), "split": split}), **QUICK)
    assert (run.info().n, run.info().test) == (23, 5)
    assert "2 of 30 images have no value in column 'split' and are left out" in run.notes


def test_a_split_that_is_not_one_is_refused(tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "part": ["one" if code else "two" for code in y]})
    with pytest.raises(EvaluationError, match="column 'part': expected train and test \\(or val\\), got"):
        run_of(made, split="part")
    with pytest.raises(LabelError, match="--split prat: expected a column 'prat', got 'kind', 'part'") as error:
        run_of(made, split="prat")
    assert error.value.next_step == "did you mean 'part'?"
    with pytest.raises(LabelError, match="--groups patient: expected a column 'patient'"):
        run_of(made, groups="patient")


# A test set of its own


@pytest.fixture
def two(tmp_path: Path) -> tuple[FeatureCache, FeatureCache]:
    """30 images to learn from; 9 to be tested on, of which one has no label and two a class of their own."""
    X, y = blobs(39, classes=2, apart=8.0)
    train = make_cache(
        tmp_path / "train.h5", X[:30], {"kind": names(y[:30]), "place": [f"g{r % 6}" for r in range(30)]}, name="train"
    )
    kinds: list[str | None] = list(names(y[30:]))
    kinds[0], kinds[1], kinds[2] = None, "yak", "yak"
    test = make_cache(tmp_path / "test.h5", X[30:], {"kind": kinds, "place": ["h0", "h1", "h2"] * 3}, name="test")
    return train, test


def test_a_test_set_is_scored_once_and_never_learned_from(tmp_path: Path, spied: Any) -> None:
    train = row_cache(tmp_path / "a.h5", {"kind": names(np.arange(20) % 2)})
    test = row_cache(tmp_path / "b.h5", {"kind": names(np.arange(6) % 2)}, first=100, name="other")
    run = run_of(train, test=test, heads=Spy(), grid={"Spy.width": [1.0, 2.0]})
    asked = [(what, rows) for what, rows in spied if any(row >= 100 for row in rows)]
    assert asked == [("ask", frozenset(range(100, 106)))]
    assert run.info().test == 6


def test_unknown_classes_of_a_test_set_count_as_wrong_in_every_scoring(two: Any) -> None:
    run = run_of(two[0], test=two[1], column="kind", **QUICK)
    assert run.info().test == 8
    scores = {result.scoring: result for result in run.results if result.head == "lda"}
    counts = [sum(1 for text in two[1].columns["kind"] if text == name) for name in ("ant", "bee", "yak")]
    assert counts[2] == 2
    said = run.predictions.query("part == 'test'")
    taken = said.query("true == 'yak'")["predicted"].value_counts()
    assert scores["accuracy"].test == 6 / 8
    assert scores["balanced_accuracy"].test == pytest.approx(2 / 3)
    f1 = [2 * counts[k] / (2 * counts[k] + taken.get(name, 0)) for k, name in enumerate(("ant", "bee"))]
    assert scores["f1_macro"].test == pytest.approx((sum(f1) + 0) / 3)
    # The rows of the known classes lose next to nothing; a class without a probability costs -log(eps) a row.
    assert scores["neg_log_loss"].test == pytest.approx(2 / 8 * np.log(np.finfo(float).eps), abs=0.05)
    assert "test: classes that training never saw count as wrong: yak (2)" in run.notes
    assert "test: 1 of 9 images have no label and are left out" in run.notes
    assert said["id"].tolist() == two[1].ids[1:]
    assert run.info().classes == ("ant", "bee")


def test_groups_of_a_test_set_make_its_intervals(two: Any, tmp_path: Path) -> None:
    run = run_of(two[0], test=two[1], column="kind", groups="place", **QUICK)
    assert "photos of new groups" in run.verdicts[0]
    alone = run_of(two[0], test=two[1], column="kind", **QUICK)
    assert (run.best().test_low, run.best().test_high) != (alone.best().test_low, alone.best().test_high)
    bare = make_cache(tmp_path / "bare.h5", np.array(two[1].features()), {"kind": two[1].columns["kind"]}, name="bare")
    run = run_of(two[0], test=bare, column="kind", groups="place", **QUICK)
    assert "bare: has no column 'place': its intervals take the images as independent" in run.notes
    assert (run.best().test_low, run.best().test_high) == (alone.best().test_low, alone.best().test_high)
    assert "photos of new groups" not in run.verdicts[0]


def test_a_test_set_beside_a_split_column_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="expected one test set, got both a split column and test data"):
        run_of(tmp_path / "nothing", test=tmp_path / "nothing either", split="part")


def test_a_test_set_has_precedence_over_a_split_that_was_not_asked_for(two: Any, tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "split": parts(30, {1, 2})})
    run = run_of(made, test=two[1], **QUICK)
    assert (run.info().n, run.info().test) == (30, 8)
    assert [info.name for info in run.label_sets] == ["kind"]
    assert "column 'split' is ignored: test is the test set" in run.notes


def test_a_test_set_without_the_column_or_its_labels_is_refused(two: Any, tmp_path: Path) -> None:
    X = np.array(two[1].features())
    other = make_cache(tmp_path / "c.h5", X, {"sort": ["x"] * 9}, name="other")
    with pytest.raises(LabelError, match="other: expected the label column 'kind' in the test data, got sort"):
        run_of(two[0], test=other, column="kind")
    empty = make_cache(tmp_path / "d.h5", X, {"kind": [None] * 9}, name="empty")
    with pytest.raises(EvaluationError, match="empty: expected labelled test images, got none in column 'kind'"):
        run_of(two[0], test=empty, column="kind")
    with pytest.raises(EvaluationError, match="test: expected one test set, got 2"):
        run_of(two[0], test=[two[1], empty], column="kind")


def test_a_number_that_is_none_in_the_test_set_is_refused(tmp_path: Path) -> None:
    X, _ = blobs(20)
    train = make_cache(tmp_path / "a.h5", X, {"size": [f"{v:.3f}" for v in X[:, 0]]})
    test = make_cache(tmp_path / "b.h5", X[:3], {"size": ["1.5", "1_000", "2"]}, name="b")
    with pytest.raises(LabelError, match=r"00001\.jpg: expected a finite number, got '1_000'"):
        run_of(train, test=test)


def test_copies_of_training_images_in_the_test_set_are_said(two: Any, tmp_path: Path) -> None:
    digests = np.array(two[1].digest)
    digests[3:5] = two[0].digest[:2]
    X = np.array(two[1].features())
    copied = make_cache(tmp_path / "c.h5", X, {"kind": two[1].columns["kind"]}, digests=digests, name="copied")
    run = run_of(two[0], test=copied, column="kind", **QUICK)
    note = (
        "2 of 8 test images are exact duplicates of training images: 00003.jpg of 00000.jpg, 00004.jpg of 00001.jpg; "
        "the test score is given with and without them"
    )
    assert note in run.notes


def test_copies_among_the_images_are_said_unless_a_group_holds_them_together(tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    digests = np.random.default_rng(0).integers(0, 256, (30, 16), dtype=np.uint8)
    digests[7] = digests[21]
    columns = {
        "kind": names(y),
        "place": [f"g{row % 7}" for row in range(30)],
        "spot": [f"s{row}" for row in range(30)],
    }
    made = make_cache(tmp_path / "a.h5", X, columns, digests=digests)
    note = (
        "2 images are exact duplicates of one another, e.g. 00007.jpg and 00021.jpg: "
        "they stay on one side of every split"
    )
    assert note in run_of(made, column="kind", **QUICK).notes
    assert note in run_of(made, column="kind", groups="spot", **QUICK).notes
    assert note not in run_of(made, column="kind", groups="place", **QUICK).notes  # 7 and 21 are both of g0


def test_a_test_cache_of_another_recipe_or_without_the_layer_is_refused(two: Any, tmp_path: Path) -> None:
    X, columns = np.array(two[1].features()), {"kind": two[1].columns["kind"]}
    other = make_cache(tmp_path / "c.h5", X, columns, changes={"backbone": "resnet", "precision": "bf16"})
    with pytest.raises(
        EvaluationError,
        match=r"c\.h5: expected test features made as those of train\.h5, got others: backbone, precision",
    ):
        run_of(two[0], test=other, column="kind")
    decoded = make_cache(tmp_path / "d.h5", X, columns, changes={"decoder": "another"}, name="decoded")
    run = run_of(two[0], test=decoded, column="kind", **QUICK)
    assert "the features of decoded were made a little otherwise: decoder" in run.notes
    late = make_cache(tmp_path / "e.h5", {"late": X}, columns)
    with pytest.raises(PipelineError, match=r"e\.h5: expected layer 'penultimate', got late"):
        run_of(two[0], test=late, column="kind")


# Labels from a table, from the source, or from both


def table(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_groups_and_split_may_come_from_the_source_while_the_table_has_the_labels(tmp_path: Path) -> None:
    X, y = blobs(40, classes=2)
    own = {
        "label": ["x", "y"] * 20,
        "place": [f"g{row // 4}" for row in range(40)],
        "part": parts(40, set(range(8))),
    }
    made = make_cache(tmp_path / "a.h5", X, own)
    labels = table(tmp_path / "t.csv", "id,species", [f"{i},{n}" for i, n in zip(made.ids, names(y), strict=True)])
    run = run_of(made, labels=labels, groups="place", split="part", **QUICK)
    assert [info.name for info in run.label_sets] == ["species"]  # the source's own labels are not beside them
    assert (run.info().n, run.info().test, run.info().groups) == (32, 8, 8)


def test_split_folders_still_fix_the_split_when_a_table_has_the_labels(tmp_path: Path) -> None:
    X, y = blobs(40, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"label": ["x", "y"] * 20, "split": parts(40, set(range(8)))})
    labels = {"species": dict(zip(made.ids, names(y), strict=True))}
    run = run_of(made, labels=labels, **QUICK)
    assert (run.info().name, run.info().n, run.info().test) == ("species", 32, 8)


def test_the_table_has_precedence_over_the_source(tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {"label": ["x", "y"] * 15, "place": ["one"] * 30})
    rows = [f"{i},{n},g{row % 5}" for row, (i, n) in enumerate(zip(made.ids, names(y), strict=True))]
    labels = table(tmp_path / "t.csv", "image,label,place", rows)
    run = run_of(made, labels=labels, id_column="image", groups="place", **QUICK)
    assert run.info().classes == ("ant", "bee")
    assert run.info().groups == 5


def test_the_id_column_is_no_label_set(tmp_path: Path) -> None:
    X, y = blobs(12, classes=2)
    made = make_cache(tmp_path / "a.h5", X, {})
    labels = table(tmp_path / "t.csv", "number,kind", [f"{i},{n}" for i, n in zip(made.ids, names(y), strict=True)])
    assert [info.name for info in run_of(made, labels=labels, id_column="number", **QUICK).label_sets] == ["kind"]


def test_one_table_labels_the_training_and_the_test_images(two: Any, tmp_path: Path) -> None:
    train, test = two
    other = make_cache(
        tmp_path / "c.h5", np.array(test.features()), {}, ids=[f"new/{i}" for i in test.ids], name="other"
    )
    rows = [f"{i},{n}" for i, n in zip(train.ids, train.columns["kind"], strict=True)]
    rows += [f"new/{i},{'ant' if row < 4 else 'bee'}" for row, i in enumerate(test.ids)]
    run = run_of(train, labels=table(tmp_path / "t.csv", "id,species", rows), test=other, **QUICK)
    assert (run.info().n, run.info().test) == (30, 9)
    assert run.predictions.query("part == 'test'")["true"].tolist() == ["ant"] * 4 + ["bee"] * 5


def test_a_test_set_in_class_folders_keeps_its_own_labels_beside_a_table_about_the_rest(
    two: Any, tmp_path: Path
) -> None:
    train, test = two
    other = make_cache(
        tmp_path / "c.h5", np.array(test.features()), dict(test.columns), ids=[f"n/{i}" for i in test.ids], name="other"
    )
    rows = [f"{i},{n}" for i, n in zip(train.ids, train.columns["kind"], strict=True)]
    run = run_of(train, labels=table(tmp_path / "t.csv", "id,kind", rows), test=other, **QUICK)
    assert run.info().test == 8
    assert "other: the label table has none of its ids; its own labels are used" in run.notes


def test_a_table_that_matches_nothing_shows_one_id_of_each_side(two: Any, tmp_path: Path) -> None:
    labels = table(tmp_path / "t.csv", "id,kind", ["a.png,ant", "b.png,bee"])
    with pytest.raises(LabelError, match=r"\(such as 00000.jpg\), got 2 ids \(such as a.png\) and none in common"):
        run_of(two[0], labels=labels)


def test_images_that_failed_are_left_out_with_a_note(tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    failed = {4: SkipReason.EMPTY, 11: SkipReason.TOO_LARGE}
    run = run_of(make_cache(tmp_path / "a.h5", X, {"kind": names(y)}, failed=failed), **QUICK)
    assert run.info().n == 28
    assert "made: 2 of 30 images have no features and are left out, e.g. 00004.jpg: empty file" in run.notes
    assert not {"00004.jpg", "00011.jpg"} & set(run.predictions["id"])


def test_images_without_features_in_one_cache_are_left_out_of_all(tmp_path: Path) -> None:
    X, y = blobs(30, classes=2)
    digests = np.random.default_rng(0).integers(0, 256, (30, 16), dtype=np.uint8)
    options: dict[str, Any] = {"columns": {"kind": names(y)}, "digests": digests}
    one = make_cache(tmp_path / "a.h5", X, failed={3: SkipReason.NOT_FINITE}, **options)
    other = make_cache(tmp_path / "b.h5", X, failed={5: SkipReason.NOT_FINITE}, changes={"backbone": "b"}, **options)
    run = run_of([one, other], **QUICK)
    assert run.info().n == 28
    assert len(run.predictions) == 3 * 28  # two caches and the choice between them


# What cannot be evaluated


def test_nothing_and_images_without_labels_are_refused_before_the_network_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.evaluation import dataset

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(dataset, "extract", never)
    flat, classed = tmp_path / "flat", tmp_path / "classed"
    for number in range(4):
        for place in (flat, classed / ("ant" if number % 2 else "bee")):
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"{number}.png")
    photos = [flat / "0.png", flat / "1.png"]
    for data, name, count in ((flat, "flat", 4), (photos, "flat", 2), (photos[0], "0", 1)):
        with pytest.raises(LabelError, match=f"{name}: expected labels, got none: {count} images") as error:
            run_of(data, cache=tmp_path / "caches")
        assert "--labels TABLE" in error.value.next_step
    with pytest.raises(EvaluationError, match="expected images or a cache, got an empty list"):
        run_of([])
    with pytest.raises(SourceError, match="nothing"):
        run_of(tmp_path / "nothing", cache=tmp_path / "caches")
    # Whatever else is wrong is found as early.
    early: list[tuple[dict[str, Any], type[PipelineError], str]] = [
        ({"heads": "logstic"}, HeadError, "expected a head, got 'logstic'"),
        ({"scoring": "acuracy"}, HeadError, "expected a scoring, got 'acuracy'"),
        ({"cv": 5}, EvaluationError, "expected 5 images per class"),
        ({"column": "labels"}, LabelError, "expected a column 'labels', got 'label'"),
        ({"groups": "patient"}, LabelError, "--groups patient"),
        ({"grid": "knn.k=3"}, HeadError, "expected one of the heads logistic"),
        ({"test": flat}, LabelError, "flat: expected the label column 'label' in the test data, got none"),
    ]
    for options, kind, text in early:
        with pytest.raises(kind, match=text):
            run_of(classed, cache=tmp_path / "caches", **options)


def test_an_unknown_label_column_names_the_nearest(two: Any) -> None:
    with pytest.raises(LabelError, match="expected a column 'knid', got 'kind', 'place'"):
        run_of(two[0], column="knid")


def test_a_cache_is_found_by_the_name_without_its_tail(tmp_path: Path) -> None:
    X, y = blobs(20, classes=2)
    made = make_cache(tmp_path / "bees-planted-0123456789ab-01234567.h5", X, {"kind": names(y)})
    run = run_of("bees-planted", cache=tmp_path, **QUICK)
    assert run.best().cache == str(made.path)
    assert run_of(str(made.path), **QUICK).best().mean == run.best().mean


def test_the_weights_of_a_cache_that_are_gone_are_named(tmp_path: Path) -> None:
    record = {"name": "resnet18", "weights": "gone.pth@IMAGENET1K_V1", "weights_sha256": "ab" * 32}
    made = make_cache(tmp_path / "a.h5", blobs(9)[0], {}, backbone=record)
    with pytest.raises(PipelineError, match=r"a\.h5: .*gone\.pth") as error:
        backbone_of(made)
    assert error.value.next_step == "put the original weights back, or extract the images again"


def test_a_label_table_for_training_and_test_images_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = row_cache(tmp_path / "a.h5", {"kind": names(np.arange(12) % 2)})
    test = row_cache(tmp_path / "b.h5", {"kind": names(np.arange(6) % 2)}, first=12, ids=[f"t{n}" for n in range(6)])
    rows = [f"{name},{'xy'[row % 2]}" for cache in (train, test) for row, name in enumerate(cache.ids)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["id,species", *rows]) + "\n")
    read: list[object] = []
    original = dataset.read_label_table

    def counted(path: Any, **how: Any) -> Any:
        read.append(path)
        return original(path, **how)

    monkeypatch.setattr(dataset, "read_label_table", counted)
    info = run_of(train, test=test, labels=table, **QUICK).info()
    assert (info.name, info.n, info.test) == ("species", 12, 6)
    assert read == [table]
