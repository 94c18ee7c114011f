"""Several tags an image: split from cells, dealt into folds, learned, scored as scikit-learn scores, said in words."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_caches import blobs, make_cache, names
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_model_folder import default_cache

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, HeadError, LabelError
from pipeline.evaluation import evaluate
from pipeline.evaluation.tasks import codes_of
from pipeline.heads import catalogue, fits, resolve_heads
from pipeline.intervals import score_with_interval
from pipeline.labels import LabelSet, label_sets
from pipeline.model import Model, fit
from pipeline.runs import CHOSEN, DUMMY, PIXELS, Run
from pipeline.search import (
    SCORINGS,
    Predictions,
    average_precisions,
    check_scoring,
    predict_all,
    resampled_precision,
    score_predictions,
    search,
)
from pipeline.search.engine import shared_grid
from pipeline.splits import inner_folds, outer_folds

TAGS = ("dots", "moss", "red", "stripes")


def planted(n: int = 120, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, d), and an indicator (n, 4) of tags: one plain to see, one rare, one common, one random."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)).astype(np.float32)
    strength = X[:, :4] + np.array([0.3, 1.0, 2.0, 5.0]) * rng.normal(size=(n, 4))
    return X, (strength > np.array([0.0, 2.0, -2.0, 0.0])).astype(np.int8)


def cells(y: np.ndarray, separator: str = ";") -> list[str]:
    return [separator.join(tag for tag, there in zip(TAGS, row, strict=True) if there) or separator for row in y]


def one(values: list[str | None], entry: str = "tags:multi") -> LabelSet:
    ids = [f"{row}.jpg" for row in range(len(values))]
    (found,) = label_sets(ids, {"tags": values}, column=[entry])
    return found


# --- cells


def test_a_cell_is_split_and_tags_are_sorted() -> None:
    found = one(["red; dots", None, "dots;dots", ";", "red;", ""])
    assert found.kind == "multi" and found.classes == ("dots", "red") and found.separator == ";"
    assert found.rows.tolist() == [0, 2, 3, 4] and found.unlabelled == 2  # an empty cell is missing, ";" says none
    assert found.y.dtype == np.int8 and found.y.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]]
    assert found.notes[-1] == "tags: cells are split at ';'; 1 image has none of the tags"


@pytest.mark.parametrize(
    ("values", "separator", "tags"),
    [
        (["a,b;c", "a,b", "c|d"], ";", ("a,b", "c", "c|d")),
        (["a,b|c", "a,b", "d"], "|", ("a,b", "c", "d")),
        (["a,b", "c", "a"], ",", ("a", "b", "c")),
        (["a", "c", "a"], ";", ("a", "c")),
    ],
)
def test_the_first_separator_that_occurs_splits(values: list[str | None], separator: str, tags: tuple[str]) -> None:
    found = one(values)
    assert found.separator == separator and found.classes == tags
    said = f"split at {separator!r}" if separator in "".join(filter(None, values)) else "no cell holds ; | ,"
    assert said in found.notes[-1]


def test_tags_are_never_guessed() -> None:
    assert one(["a;b", "a", "a;b"], "tags").kind == "class"


def test_a_tag_on_all_images_is_left_out_and_named() -> None:
    found = one(["a;b", "a;c", "a;b;c"])
    assert found.classes == ("b", "c")
    assert found.notes[-1] == "tags: a is on all 3 images and left out: there is nothing to tell apart"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a;b", "A", "b"], "labels differ only in case: 'A' (1 image) and 'a' (1 image)"),
        (["a", "a", ";"], "expected two tags or more that some images have and some lack, got 'a' in 3 images"),
        (["a;b", "a;b"], "expected two tags or more that some images have and some lack, got none in 2 images"),
    ],
)
def test_tags_that_cannot_be_learned_are_refused(values: list[str | None], message: str) -> None:
    with pytest.raises(LabelError) as caught:
        one(values)
    assert message in caught.value.message


def test_the_digest_is_of_the_tags_and_not_of_how_they_are_written() -> None:
    base = one(["a;b", "b", ";"]).digest
    assert base == one(["b|a|b", "b", "|"]).digest
    assert base != one(["a;b", "a", ";"]).digest
    assert base != one(["a;b", "b", ";"], "tags:class").digest
    by_hand = LabelSet("tags", "multi", np.arange(3), np.array([[1, 1], [0, 1], [0, 0]], np.int8), ("a", "b"), 0)
    again = LabelSet("t", "multi", np.arange(3), np.array([[1, 1], [0, 1], [0, 0]], np.int8), ("a", "b"), 0)
    assert by_hand.digest == again.digest


def test_tags_of_other_images_are_read_in_the_classes_of_training_and_strange_ones_follow() -> None:
    ids = ["0", "1", "2"]
    y, unknown = codes_of(["red;yak", ";", "dots;yak"], ids, "multi", ("dots", "red"), separator=";")
    assert y.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 1]] and unknown == {"yak": 2}
    everywhere = codes_of(["red;yak", "yak", "dots;yak"], ids, "multi", ("dots", "red"), separator=";")
    assert everywhere[0].shape == (3, 2) and everywhere[1] == {}  # tells nothing apart


# --- folds


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 120), st.integers(2, 6), st.integers(2, 5), st.booleans(), st.integers(0, 10_000))
def test_every_row_is_tested_once_and_groups_stay_whole(n: int, c: int, cv: int, grouped: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, c)) < rng.uniform(0.1, 0.9, c)).astype(np.int8)
    groups = rng.integers(0, n // 3, n) if grouped else None
    try:
        folds, _ = outer_folds(y, "multi", groups=groups, cv=cv, random_state=seed)
    except EvaluationError as error:
        assert "in every training part" in error.message
        return
    assert sorted(np.concatenate([split.test for split in folds]).tolist()) == list(range(n))
    for split in folds:
        assert len(split.test) and not np.intersect1d(split.train, split.test).size
        learned = y[split.train].mean(axis=0)
        assert ((learned > 0) & (learned < 1)).all()
        if groups is not None:
            assert not np.intersect1d(groups[split.train], groups[split.test]).size


def test_each_tag_is_shared_out_evenly() -> None:
    rng = np.random.default_rng(0)
    rates = np.array([0.02, 0.1, 0.3, 0.5, 0.98])
    y = (rng.random((1000, 5)) < rates).astype(np.int8)
    folds, notes = outer_folds(y, "multi", cv=5)
    there = np.array([y[split.test].sum(axis=0) for split in folds])
    assert notes == () and (np.ptp(there, axis=0)[:4] <= 1).all()
    lacking = np.array([len(split.test) for split in folds])[:, None] - there
    assert np.ptp(lacking[:, 4]) <= 1  # of a common tag the images without it are dealt
    assert np.ptp([len(split.test) for split in folds]) <= 20
    other, _ = outer_folds(y, "multi", cv=5, random_state=1)
    again, _ = outer_folds(y, "multi", cv=5)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(folds, again, strict=True))
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(folds, other, strict=True))


def test_a_tag_that_a_training_part_cannot_teach_is_named() -> None:
    y = np.zeros((30, 3), np.int8)
    y[:10, 0], y[7, 1], y[1:, 2] = 1, 1, 1
    with pytest.raises(EvaluationError) as caught:
        outer_folds(y, "multi", cv=5, classes=("dots", "moss", "red"))
    assert caught.value.message == (
        "tag 'moss': expected images with and without it in every training part, got 1 image with it "
        "(and 1 more such: 'red')"
    )
    assert caught.value.next_step == "add images with it, or take the tag out of the column"
    more = np.column_stack([y, np.arange(30) % 3 == 0])
    with pytest.raises(EvaluationError) as caught:
        outer_folds(more.astype(np.int8), "multi", cv=5, classes=("dots", "moss", "red", "web"))
    assert caught.value.next_step == "pass --min-class-size 2 to leave such tags out, or add images with it"
    groups = np.arange(30) // 10
    with pytest.raises(EvaluationError, match="got 10 images with it in 1 of 3 groups"):
        outer_folds(y[:, :1], "multi", groups=groups, classes=("dots",))


def test_inner_folds_are_cut_to_the_rarest_side() -> None:
    y = np.zeros((30, 2), np.int8)
    y[:3, 0], y[:15, 1] = 1, 1
    assert len(inner_folds(y, "multi")) == 3
    y[:, 0] = 0
    y[4, 0] = 1
    folds = inner_folds(y, "multi")
    assert len(folds) == 2 and sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(30))


# --- scores


def said(y: np.ndarray, seed: int = 0, *, ties: bool = True) -> Predictions:
    rng = np.random.default_rng(seed)
    ranks = 1 / (1 + np.exp(-(y - 0.5 + rng.normal(size=y.shape))))
    ranks = ranks.round(1) if ties else ranks
    return Predictions((ranks > 0.5).astype(np.int8), probabilities=ranks)


@pytest.mark.parametrize("ties", [True, False])
def test_scores_are_scikit_learns(ties: bool) -> None:
    _, y = planted()
    answers = said(y, ties=ties)
    wanted = {
        "average_precision": average_precision_score(y, answers.probabilities, average="macro"),
        "f1_macro": f1_score(y, answers.labels, average="macro"),
        "f1_micro": f1_score(y, answers.labels, average="micro"),
        "accuracy": accuracy_score(y, answers.labels),
        "f1_samples": f1_score(y, answers.labels, average="samples", zero_division=0),
        "jaccard_macro": get_scorer("jaccard_macro")._score_func(y, answers.labels, average="macro"),
        "roc_auc": get_scorer("roc_auc")._score_func(y, answers.probabilities),
    }
    for scoring, value in wanted.items():
        found = score_predictions(scoring, y, answers, kind="multi", n_classes=4)
        assert found == pytest.approx(value, abs=1e-12), scoring
    each = average_precision_score(y, answers.probabilities, average=None)
    assert answers.ranks is not None and average_precisions(y, answers.ranks) == pytest.approx(each, abs=1e-12)


def test_tags_that_no_scored_row_has_are_no_part_of_the_mean() -> None:
    _, y = planted()
    answers = said(y)
    rows = np.flatnonzero(y[:, 1] == 0)
    some = answers.take(rows)
    assert some.probabilities is not None
    kept = [0, 2, 3]
    wanted = average_precision_score(y[rows][:, kept], some.probabilities[:, kept])
    assert score_predictions("average_precision", y[rows], some, kind="multi", n_classes=4) == pytest.approx(wanted)
    wanted = f1_score(y[rows], some.labels, average="macro", zero_division=np.nan)
    assert score_predictions("f1_macro", y[rows], some, kind="multi", n_classes=4) == pytest.approx(wanted)
    nothing = score_predictions("average_precision", 0 * y, answers, kind="multi", n_classes=4)
    assert np.isnan(nothing)


def test_scorings_fit_the_kind() -> None:
    assert SCORINGS["multi"] == ("average_precision", "f1_macro", "f1_micro")
    for scoring in (*SCORINGS["multi"], "accuracy", "recall_samples"):
        check_scoring(scoring, "multi", 4)
    for scoring, found in (("balanced_accuracy", "classes"), ("r2", "numbers"), ("f1", "classes")):
        with pytest.raises(HeadError, match=f"expected one for several tags per image, got one for {found}"):
            check_scoring(scoring, "multi", 4)


@pytest.mark.parametrize("scoring", [*SCORINGS["multi"], "accuracy"])
@pytest.mark.parametrize("grouped", [False, True])
def test_resamples_score_what_scoring_each_says(scoring: str, grouped: bool) -> None:
    """The interval, made again from rows that are drawn and scored by scikit-learn one resample after another."""
    _, y = planted(90)
    answers = said(y)
    groups = np.arange(90) // 5 if grouped else None
    units = 18 if grouped else 90
    if scoring == "average_precision":
        assert answers.ranks is not None
        drawn = np.random.default_rng(3).integers(units, size=(20, units))
        weights = np.array([np.bincount(one, minlength=units) for one in drawn]).astype(float)
        rows_of = np.arange(90) if groups is None else groups
        found = resampled_precision(y, answers.ranks, weights[:, rows_of])
        for value, counts in zip(found, weights, strict=True):
            rows = np.repeat(np.arange(90), counts[rows_of].astype(int))
            again = score_predictions(scoring, y[rows], answers.take(rows), kind="multi", n_classes=4)
            assert value == pytest.approx(again, abs=1e-12)
    score = score_with_interval(scoring, y, answers, kind="multi", n_classes=4, groups=groups)
    assert score.low < score.value < score.high and score.low >= 0 and score.high <= 1
    if scoring == "accuracy" and not grouped:
        assert score.method == "Wilson"
    else:
        assert score.method.startswith(f"bootstrap of {units} {'groups' if grouped else 'rows'}")


def test_sums_over_units_say_what_scikit_learn_says() -> None:
    from pipeline.intervals.bootstrap import BootstrapSample

    _, y = planted(60)
    answers = said(y)
    codes = np.arange(60) // 4
    weights = np.random.default_rng(0).integers(0, 3, (10, 15)).astype(float)
    for scoring in ("accuracy", "f1_macro", "f1_micro"):
        found = BootstrapSample(scoring, y, answers, codes, 15, "multi", 4).scores(weights)
        for value, counts in zip(found, weights, strict=True):
            rows = np.repeat(np.arange(60), counts[codes].astype(int))
            if scoring == "accuracy":
                wanted = accuracy_score(y[rows], answers.labels[rows])
            else:
                mean = scoring.removeprefix("f1_")
                wanted = f1_score(y[rows], answers.labels[rows], average=mean, zero_division=np.nan)
            assert value == pytest.approx(wanted)


def test_the_interval_of_average_precision_holds_the_truth() -> None:
    """Of 200 samples of 150 rows, about 95 in 100 intervals hold what 200,000 rows come to."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, Predictions]:
        y = (rng.random((n, 3)) < [0.1, 0.3, 0.5]).astype(np.int8)
        ranks = y + rng.normal(size=y.shape)
        return y, Predictions((ranks > 0.5).astype(np.int8), scores=ranks)

    y, answers = draw(200_000)
    truth = score_predictions("average_precision", y, answers, kind="multi", n_classes=3)
    held = 0
    for _ in range(200):
        y, answers = draw(150)
        score = score_with_interval("average_precision", y, answers, kind="multi", n_classes=3)
        held += score.low <= truth <= score.high
    assert 0.9 <= held / 200 <= 0.99


# --- heads


def test_every_head_learns_tags_and_gives_a_rank_a_tag() -> None:
    X, y = planted()
    heads = resolve_heads(["all", DUMMY], kind="multi")
    assert [head.name for head in heads] == ["logistic", "ridge", "lda", "knn", "random-forest", "mlp", "dummy"]
    assert [head.name for head in resolve_heads("fast", kind="multi")] == ["logistic", "ridge", "lda", "knn"]
    dull = y.copy()
    dull[:, 1], dull[:, 2] = 0, 1  # as an inner training part may be
    for head in heads:
        for truth in (y, dull):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                estimator = head.estimator.fit(X, truth)
            found = predict_all(estimator, X, 4, "multi")
            assert np.array_equal(found.labels, np.asarray(estimator.predict(X)))
            assert found.ranks is not None and found.ranks.shape == y.shape
            assert (found.probabilities is None) == (head.name == "ridge") == (not head.probabilities)
            if truth is dull:
                assert (found.labels[:, 1] == 0).all() and (found.labels[:, 2] == 1).all()
            elif head.name != "dummy":
                value = score_predictions("average_precision", y, found, kind="multi", n_classes=4)
                assert value > y.mean(axis=0).mean() + 0.1, head.name
    assert not found.probabilities[:, 1].any() and (found.probabilities[:, 2] == 1).all()  # type: ignore[index]


def test_the_choice_is_grid_searchs_from_shared_work_too() -> None:
    X, y = planted()
    folds = inner_folds(y, "multi")
    for name in ("ridge", "knn"):
        (head,) = resolve_heads(name, kind="multi")
        assert shared_grid(head.estimator, head.grid, "multi") is not None
        scoring = "f1_macro"
        found = search(head, X, y, splits=folds, scoring=scoring, labels=4, kind="multi")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fold without the rare tag
            plain = GridSearchCV(head.estimator, head.grid, scoring=scoring, cv=folds).fit(X, y)
        assert found.params == plain.best_params_ and found.score == pytest.approx(plain.best_score_)


def test_estimators_of_ones_own_fit_where_they_take_tags() -> None:
    ones = OneVsRestClassifier(LogisticRegression())
    for taken in (RidgeClassifier(), ones, make_pipeline(StandardScaler(), ones), MultiOutputClassifier(ones), "knn"):
        assert fits(taken, "multi")
    for left in (LogisticRegression(), "sklearn.svm.SVC", "sklearn.linear_model.Ridge", "svr", "centroid"):
        assert not fits(left, "multi")
    with pytest.raises(HeadError, match="expected one that learns several tags an image, got one that does not"):
        resolve_heads("centroid", kind="multi")
    assert {entry.name for entry in catalogue() if entry.kind == "multi"} >= {"logistic", "ridge", "knn", "dummy"}


# --- evaluation

QUICK: dict[str, Any] = {"heads": ["ridge", "knn"], "grid": {"ridge.alpha": [10.0, 100.0], "knn.n_neighbors": 9}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    X, y = planted()
    columns: dict[str, list[str | None]] = {
        "tags": [None if row % 20 == 19 else text for row, text in enumerate(cells(y))],
        "kind": [str(name) for name in names(blobs(120)[1])],
        "site": [f"s{row // 6}" for row in range(120)],
    }
    return make_cache(tmp_path_factory.mktemp("caches") / "a.h5", X, columns)


@pytest.fixture(scope="module")
def run(cache: FeatureCache) -> Run:
    return evaluate(cache, column=["tags:multi", "kind"], cv=3, n_jobs=1, **QUICK)


def truth_of(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    def read(texts: pd.Series) -> np.ndarray:
        return np.array([[tag in text.split(";") for tag in TAGS] for text in texts], np.int8)

    return read(table["true"]), read(table["predicted"])


def test_scores_are_those_of_the_predictions_table(run: Run, cache: FeatureCache) -> None:
    _, y = planted()
    info = run.info("tags")
    assert (info.kind, info.n, info.unlabelled, info.classes, info.scoring) == (
        "multi", 114, 6, TAGS, "average_precision",
    )  # fmt: skip
    for head in ("ridge", "knn", CHOSEN):
        table = run.predictions.query(f"label_set == 'tags' and head == '{head}'").sort_values("id")
        true, predicted = truth_of(table)
        assert np.array_equal(true, y[np.arange(120) % 20 != 19])
        (macro,) = [one for one in run.of("tags", scoring="f1_macro") if one.head == head and not one.null]
        assert macro.mean == pytest.approx(f1_score(true, predicted, average="macro"))
        (micro,) = [one for one in run.of("tags", scoring="f1_micro") if one.head == head and not one.null]
        assert micro.mean == pytest.approx(f1_score(true, predicted, average="micro"))
    assert set(cells(0 * y)) == {";"} and (run.predictions["true"] == ";").any()  # none of the tags


def test_both_nulls_stand_beside_tags_and_the_dummy_scores_how_common_they_are(run: Run) -> None:
    lines = {(one.layer, one.head): one for one in run.of("tags")}
    assert lines[PIXELS, "logistic"].null and lines["none", DUMMY].null
    true, _ = truth_of(run.predictions.query("label_set == 'tags' and head == 'ridge'"))
    assert len(true) == 114 and lines["none", DUMMY].mean == pytest.approx(true.mean(axis=0).mean())
    best = run.best("tags")
    assert best.mean is not None and best.mean > (lines["none", DUMMY].mean or 1) + 0.1
    assert best.tied is True and lines["none", DUMMY].tied is False


def test_the_verdict_says_which_tags_are_told(run: Run) -> None:
    said = run.verdicts[0]
    (shown,) = [one for one in run.of("tags") if one.head == CHOSEN]
    dummy, pixels = (next(one for one in run.of("tags") if one.layer == layer) for layer in ("none", PIXELS))
    assert said.startswith(
        f"tags: mean average precision {shown.mean:.2f} ({shown.low:.2f} to {shown.high:.2f}) on new photos with the "
        "best of 2 heads ("
    )
    assert f"; dummy: {dummy.mean:.2f}; color statistics: {pixels.mean:.2f}; best: " in said
    assert "; worst: moss 0." in said or "; worst: stripes 0." in said


def test_nested_predictions_equal_plain_scikit_learn(cache: FeatureCache) -> None:
    run = evaluate(cache, column="tags:multi", cv=3, n_jobs=1, heads="ridge", grid={"ridge.alpha": [1.0, 100.0]})
    X, y = planted()
    rows = np.flatnonzero(np.arange(120) % 20 != 19)
    X, y = X[rows], y[rows]
    folds, _ = outer_folds(y, "multi", cv=3)
    scores = np.empty(y.shape)
    for split in folds:
        (head,) = resolve_heads("ridge", kind="multi", grid={"ridge.alpha": [1.0, 100.0]})
        inner = inner_folds(y[split.train], "multi", cv=3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = GridSearchCV(head.estimator, head.grid, scoring="average_precision", cv=inner).fit(
                X[split.train], y[split.train]
            )
        scores[split.test] = found.decision_function(X[split.test])
    assert run.best("tags").mean == pytest.approx(average_precision_score(y, scores))


def test_whole_groups_are_tested_and_resampled(cache: FeatureCache) -> None:
    run = evaluate(cache, column="tags:multi", groups="site", cv=3, n_jobs=1, **QUICK)
    assert run.info("tags").groups == 20
    assert run.best("tags").method.startswith("bootstrap of 20 groups")


def test_heads_that_cannot_learn_tags_are_left_out_of_them_alone(cache: FeatureCache) -> None:
    run = evaluate(cache, column=["tags:multi", "kind"], heads=["centroid", "ridge"], grid={"ridge.alpha": 1.0},
                   cv=2, n_jobs=1)  # fmt: skip
    assert "tags: centroid cannot learn multi labels and is left out" in run.notes
    assert {one.head for one in run.of("kind") if not one.null} == {"centroid", "ridge", CHOSEN}
    assert {one.head for one in run.of("tags") if not one.null} == {"ridge"}


def test_a_fixed_split_learns_its_own_tags_and_counts_strange_ones_as_missed(tmp_path: Path) -> None:
    X, y = planted()
    split = np.where(np.arange(120) % 3 == 0, "test", "train")
    texts = cells(y)
    texts[0] += ";yak"  # a test row
    texts[3] += ";yak"
    made = make_cache(tmp_path / "a.h5", X, {"tags": texts, "split": split.tolist()})
    run = evaluate(made, column="tags:multi", cv=3, n_jobs=1, **QUICK)
    assert "tags that training never saw count as missed: yak (2)" in run.notes
    assert run.info("tags").classes == TAGS and run.info("tags").test == 40
    table = run.predictions.query(f"part == 'test' and head == '{run.best().head}'")
    assert "yak" in " ".join(table["true"]) and "yak" not in " ".join(table["predicted"])
    (macro,) = [one for one in run.of("tags", scoring="f1_macro") if one.head == run.best().head and not one.null]
    true, predicted = truth_of(table)
    assert macro.test == pytest.approx(f1_score(true, predicted, average="macro") * 4 / 5)  # yak: nothing found
    assert macro.mean is not None and run.verdicts[0].startswith("tags: mean average precision")
    everywhere = [f"{text};sky" if part == "train" else text for text, part in zip(cells(y), split, strict=True)]
    made = make_cache(tmp_path / "b.h5", X, {"tags": everywhere, "split": split.tolist()})
    assert "on all training images, and left out: sky" in evaluate(made, column="tags:multi", cv=2, n_jobs=1,
                                                                   **QUICK).notes  # fmt: skip


def test_a_test_set_of_its_own_is_read_in_the_tags_of_training(tmp_path: Path) -> None:
    X, y = planted()
    made = make_cache(tmp_path / "a.h5", X, {"tags": cells(y)})
    new, truth = planted(40, seed=5)
    texts = cells(truth)
    texts[0] += ";yak"
    other = make_cache(tmp_path / "b.h5", new, {"tags": texts}, name="later")
    run = evaluate(made, column="tags:multi", test=other, cv=2, n_jobs=1, **QUICK)
    assert "later: tags that training never saw count as missed: yak (1)" in run.notes
    best = run.best()
    assert best.test is not None and best.test_low is not None and best.test_low < best.test


# --- the model


def test_a_model_answers_with_all_tags_and_the_likeliest(tmp_path: Path) -> None:
    X, y = planted(d=1280)
    made = default_cache(tmp_path / "a.h5", X, {"tags": cells(y, "|")})
    path = tmp_path / "tags.model"
    fit(made, column="tags:multi", heads="logistic", grid={"logistic.C": 0.01}, cv=2, n_jobs=1, out=path)
    model = Model.open(path)
    assert (model.kind, model.classes, model.separator) == ("multi", TAGS, "|")
    assert "any of 4 tags: dots, moss, red, stripes" in (path / "README.md").read_text()
    table = model.predict(made, top=2)
    assert list(table) == ["id", "label", "tag", "probability", "tag_2", "probability_2", "unfamiliar", "error"]
    P, labels = model.estimator.predict_proba(X), model.estimator.predict(X)
    assert list(table["label"]) == [
        "|".join(tag for tag, there in zip(TAGS, row, strict=True) if there) or "|" for row in labels
    ]
    assert table["probability"].to_numpy() == pytest.approx(P.max(axis=1))
    assert list(table["tag"]) == [TAGS[place] for place in P.argmax(axis=1)]

    new, truth = planted(50, d=1280, seed=3)
    texts = cells(truth, "|")
    texts[0] += "|yak"
    later = default_cache(tmp_path / "b.h5", new, {"tags": texts}, name="later", changes=model.recipe)
    scored = model.score(later)
    assert dict(scored.unknown_classes) == {"yak": 1}
    assert "tags that training never saw count as missed: yak (1)" in scored.notes
    found = {one.scoring: one.value for one in scored.scores}
    ranks = model.estimator.predict_proba(new)
    each = average_precision_score(truth, ranks, average=None)
    assert found["average_precision"] == pytest.approx((each.sum() + 1 / 50) / 5)
    assert json.loads(json.dumps(scored.as_dict()))["label_set"] == "tags"
