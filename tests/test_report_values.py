"""What a run has to show is counted right: held against scikit-learn, against loops, and against what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import cross_val_predict

from pipeline.report.diagnostics.confusion import calibration, confusion, per_class
from pipeline.report.diagnostics.embedding_map import embedding_map
from pipeline.report.diagnostics.mistakes import find_duplicate_pairs, label_issues, most_confident_mistakes
from pipeline.report.diagnostics.predictions import ClassPredictions, StoredFeatures


def answers(
    true: list[int] | np.ndarray,
    predicted: list[int] | np.ndarray,
    probability: list[float] | np.ndarray | None = None,
    own: list[float] | np.ndarray | None = None,
    part: list[int] | np.ndarray | None = None,
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
) -> ClassPredictions:
    n = len(true)
    nothing = np.full(n, np.nan)
    return ClassPredictions(
        ids=tuple(f"{row:03d}.jpg" for row in range(n)),
        part=np.array([str(one) for one in (np.zeros(n, int) if part is None else part)]),
        true=np.asarray(true, np.int64),
        predicted=np.asarray(predicted, np.int64),
        probability=nothing if probability is None else np.asarray(probability, float),
        probability_true=nothing if own is None else np.asarray(own, float),
        classes=classes,
        head="logistic",
        layer="penultimate",
        cache="a.h5",
        label_set="kind",
        source="made",
    )


def features(X: np.ndarray, has: np.ndarray | None = None) -> StoredFeatures:
    n = len(X)
    digests = np.arange(n, dtype=np.uint64)[:, None].view(np.uint8)
    return StoredFeatures([f"{row:03d}.jpg" for row in range(n)], X, np.ones(n, bool) if has is None else has, digests)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_counts_and_rates_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, said = map(list, zip(*pairs, strict=True))
    found = answers(true, said, classes=("ant", "bee", "cat", "dog"))
    assert np.array_equal(confusion(found).counts, confusion_matrix(true, said, labels=range(4)))
    wanted = precision_recall_fscore_support(true, said, labels=range(4), zero_division=0)
    for code, row in enumerate(per_class(found)):
        precision, recall, f1, n = (values[code] for values in wanted)
        assert row.n == n
        assert (row.precision is None) == (code not in said) and (row.precision or 0) == pytest.approx(precision)
        assert (row.recall is None) == (code not in true) and (row.recall or 0) == pytest.approx(recall)
        assert (row.f1 or 0) == pytest.approx(f1)


def test_a_class_says_what_it_was_taken_for_and_how_sure_its_recall_is() -> None:
    true = [0] * 10 + [1] * 5
    said = [0] * 6 + [2] * 3 + [1] + [1] * 5
    ant, bee, cat = per_class(answers(true, said))
    assert (ant.taken_for, ant.times) == ("cat", 3)
    assert (bee.taken_for, bee.times) == ("", 0)
    # Wilson's interval of 6 in 10, as in Agresti, Coull (1998): (0.31, 0.83).
    assert (ant.recall_low, ant.recall_high) == (pytest.approx(0.3127, abs=1e-4), pytest.approx(0.8318, abs=1e-4))
    assert bee.recall_high == 1.0 and (cat.recall, cat.recall_low, cat.recall_high) == (None, None, None)
    assert cat.precision == 0.0 and cat.n == 0
    assert confusion(answers(true, said)).commonest_mistakes == [("ant", "cat", 3), ("ant", "bee", 1)]
    assert confusion(answers(true, said)).shares[0].tolist() == pytest.approx([0.6, 0.1, 0.3])
    assert confusion(answers(true, said)).shares[2].tolist() == [0, 0, 0]


def test_calibration_is_scikit_learns_curve_of_equally_many() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.3, 1, 500)
    right = rng.random(500) < probability**2  # too sure everywhere
    found = calibration(answers(np.zeros(500, int), np.where(right, 0, 1), probability))
    assert found is not None and len(found.bins) == 10
    accuracy, sure = calibration_curve(right, probability, n_bins=10, strategy="quantile")
    assert [one.accuracy for one in found.bins] == pytest.approx(accuracy)
    assert [one.probability for one in found.bins] == pytest.approx(sure)
    assert found.error == pytest.approx(np.mean(np.abs(accuracy - sure)))
    assert found.lead == pytest.approx(probability.mean() - right.mean()) and found.lead > 0.1
    assert all(one.accuracy_low < one.accuracy < one.accuracy_high for one in found.bins)
    assert {one.n for one in found.bins} == {50}


def test_a_head_that_is_right_as_often_as_it_says_has_no_error_to_speak_of() -> None:
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.5, 1, 20_000)
    right = rng.random(20_000) < probability
    found = calibration(answers(np.zeros(20_000, int), np.where(right, 0, 1), probability))
    assert found is not None and found.error < 0.02 and abs(found.lead) < 0.01


def test_equal_probabilities_are_in_one_bin_whatever_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(2)
    probability = rng.choice([0.6, 0.8, 1.0], 300, p=[0.1, 0.2, 0.7])
    right = rng.random(300) < probability
    first = answers(np.zeros(300, int), np.where(right, 0, 1), probability)
    found = calibration(first)
    assert found is not None
    assert [(one.low, one.high, one.n) for one in found.bins] == [
        (value, value, int((probability == value).sum())) for value in (0.6, 0.8, 1.0)
    ]
    assert calibration(first.take(rng.permutation(300))) == found


def test_few_images_make_few_bins_and_none_are_made_without_probabilities() -> None:
    few = calibration(answers([0] * 25, [0] * 25, np.linspace(0.5, 0.9, 25)))
    assert few is not None and [one.n for one in few.bins] == [12, 13]
    lone = calibration(answers([0, 1], [0, 0], [0.7, 0.9]))
    assert lone is not None and [one.n for one in lone.bins] == [2] and lone.bins[0].accuracy == 0.5
    assert calibration(answers([0, 1], [0, 1])) is None
    assert calibration(answers([], [])) is None


def out_of_fold(X: np.ndarray, y: np.ndarray) -> ClassPredictions:
    P = cross_val_predict(LogisticRegression(C=0.1), X, y, cv=5, method="predict_proba")
    rows = np.arange(len(y))
    return answers(y, P.argmax(axis=1), P.max(axis=1), P[rows, y])


def test_planted_wrong_labels_are_found_and_ranked_first() -> None:
    rng = np.random.default_rng(3)
    truth = np.arange(300) % 3
    X = rng.normal(size=(300, 20)) + 6 * np.eye(3, 20)[truth]
    swapped = np.sort(rng.permutation(300)[:24])
    y = truth.copy()
    y[swapped] = (truth[swapped] + 1) % 3
    found = label_issues(out_of_fold(X, y))
    assert found is not None
    rows = [int(one.id[:3]) for one in found]
    assert len(set(rows) & set(swapped)) >= 16, "two thirds of what was swapped"
    assert set(rows[:15]) <= set(swapped) and len(set(rows) - set(swapped)) <= 2, "and next to nothing else"
    for one in found[:15]:
        row = int(one.id[:3])
        assert (one.label, one.suggested) == tuple(("ant", "bee", "cat")[code] for code in (y[row], truth[row]))
    margins = [one.margin for one in found]
    assert margins == sorted(margins) and all(
        one.margin == one.probability_of_label - one.probability_of_suggested < 0 for one in found
    )


def test_right_labels_are_hardly_ever_suspected() -> None:
    rng = np.random.default_rng(4)
    y = np.arange(300) % 3
    X = rng.normal(size=(300, 20)) + 4 * np.eye(3, 20)[y]
    found = label_issues(out_of_fold(X, y))
    assert found is not None and len(found) <= 6


def test_the_threshold_of_a_class_is_how_sure_the_head_is_of_it() -> None:
    """Of what is labelled bee the head is 0.9 sure on average: 0.8 for bee accuses nobody, 0.95 does."""
    true = [1, 1, 0, 0, 0, 0]
    said = [1, 1, 1, 1, 0, 0]
    own = [0.9, 0.9, 0.2, 0.05, 0.6, 0.6]
    found = label_issues(answers(true, said, [0.9, 0.9, 0.8, 0.95, 0.6, 0.6], own))
    assert found is not None
    assert [(one.id, one.label, one.suggested) for one in found] == [("003.jpg", "ant", "bee")]
    assert found[0].margin == pytest.approx(0.05 - 0.95)


def test_nobody_is_suspected_of_a_class_without_labels_or_without_probabilities() -> None:
    assert label_issues(answers([0, 0], [2, 0], [0.9, 0.9], [0.1, 0.9])) == ()
    assert label_issues(answers([0, 1], [1, 0], [0.9, 0.9])) is None
    assert label_issues(answers([0, 1], [1, 0])) is None


def made(n: int = 60, seed: int = 5) -> tuple[ClassPredictions, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, n)
    said = np.where(rng.random(n) < 0.5, true, (true + 1) % 3)
    probability = rng.uniform(0.4, 1, n).round(2)
    found = answers(true, said, probability, (1 - probability) / 2, part=rng.permutation(np.arange(n) % 4))
    return found, rng.normal(size=(n, 7)).astype(np.float32)


def test_the_surest_mistakes_stand_beside_the_nearest_of_other_folds() -> None:
    found, X = made()
    mistakes = most_confident_mistakes(found, features(X), most=8, neighbours=4)
    wrong = [row for row in range(60) if found.true[row] != found.predicted[row]]
    surest = sorted(wrong, key=lambda row: (-found.probability[row], found.probability_true[row]))[:8]
    assert [one.id for one in mistakes] == [found.ids[row] for row in surest]
    for row, one in zip(surest, mistakes, strict=True):
        assert one.true == found.classes[found.true[row]] and one.predicted == found.classes[found.predicted[row]]
        assert one.probability == found.probability[row]
        cosine = {
            other: float(X[row] @ X[other] / np.linalg.norm(X[row]) / np.linalg.norm(X[other]))
            for other in range(60)
            if found.part[other] != found.part[row]
        }
        nearest = sorted(cosine, key=lambda other: -cosine[other])[:4]
        assert [near.id for near in one.neighbours] == [found.ids[other] for other in nearest]
        assert [near.label for near in one.neighbours] == [found.classes[found.true[other]] for other in nearest]
        assert [near.cosine for near in one.neighbours] == pytest.approx([cosine[other] for other in nearest], abs=1e-5)


def test_a_mistake_on_the_test_set_stands_beside_images_of_the_folds() -> None:
    folds, X = made()
    test, T = made(20, seed=6)
    test = replace(test, ids=tuple(f"t{name}" for name in test.ids), part=np.full(20, "test"))
    asked = replace(features(T), ids=list(test.ids))
    mistakes = most_confident_mistakes(test, asked, most=3, trained=(folds, features(X)))
    for one in mistakes:
        row = test.ids.index(one.id)
        cosine = X @ T[row] / np.linalg.norm(X, axis=1)
        assert [near.id for near in one.neighbours] == [folds.ids[at] for at in np.argsort(-cosine)[:3]]


def test_images_without_features_have_no_neighbours_and_are_none() -> None:
    found, X = made()
    surest = most_confident_mistakes(found, features(X), most=1)[0]
    gone = {surest.id, surest.neighbours[0].id}
    has = np.array([name not in gone for name in found.ids])
    mistakes = most_confident_mistakes(found, features(X, has), most=20)
    assert mistakes[0].id == surest.id and mistakes[0].neighbours == ()
    assert all(near.id not in gone for one in mistakes for near in one.neighbours)
    assert all(one.neighbours == () for one in most_confident_mistakes(found, None))


def test_mistakes_of_a_head_without_probabilities_are_drawn_the_same_every_time() -> None:
    found, X = made()
    silent = answers(found.true, found.predicted, part=found.part)
    ids, again = ([one.id for one in most_confident_mistakes(silent, features(X), most=10)] for _ in range(2))
    assert ids == again == sorted(ids) and len(set(ids)) == 10
    assert ids != [one.id for one in most_confident_mistakes(silent, None, most=10, random_state=1)]
    assert most_confident_mistakes(answers([0, 1], [0, 1]), features(X)) == ()


def test_the_map_is_the_plane_of_the_largest_variance() -> None:
    rng = np.random.default_rng(7)
    X = rng.normal(size=(40, 5)) * [1, 100, 0.01, 5, 5] + rng.normal(size=(40, 1)) * [3, 100, 0.02, 0, 0]
    found = embedding_map(X.astype(np.float32), [f"{row}" for row in range(40)], ["a", "b"] * 20)
    assert found is not None
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    U, S, V = np.linalg.svd(Z, full_matrices=False)
    for place, axis in enumerate((found.x, found.y)):
        loading = V[place]
        sign = np.sign(loading[np.abs(loading).argmax()])
        assert axis == pytest.approx(sign * U[:, place] * S[place], abs=1e-3)
    assert found.explained == pytest.approx((S**2 / (S**2).sum())[:2], abs=1e-4)
    assert found.ids[3] == "3" and found.labels.tolist() == ["a", "b"] * 20 and found.of == 40


def test_the_quick_solver_finds_the_same_plane() -> None:
    rng = np.random.default_rng(8)
    X = rng.normal(size=(700, 600)).astype(np.float32)
    y = np.arange(700) % 3
    X[:, :50] += 3 * np.eye(3)[y][:, :1]
    X[:, 50:100] += 3 * np.eye(3)[y][:, 1:2]
    ids = [str(row) for row in range(700)]
    found, again = (embedding_map(X, ids, y.astype(str), random_state=seed) for seed in (0, 1))
    assert found is not None and again is not None
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    U, S, _ = np.linalg.svd(Z, full_matrices=False)
    for place, (one, other) in enumerate(((found.x, again.x), (found.y, again.y))):
        assert abs(np.corrcoef(one, U[:, place])[0, 1]) > 0.999
        assert one == pytest.approx(other, abs=0.05 * S[place] / np.sqrt(700)), "no sign hangs on the seed"


def test_a_map_of_many_draws_each_class_in_proportion_and_leaves_none_out() -> None:
    labels = np.array(["common"] * 900 + ["some"] * 90 + ["rare"] * 2)
    X = np.random.default_rng(9).normal(size=(992, 3)).astype(np.float32)
    ids = [str(row) for row in range(992)]
    found = embedding_map(X, ids, labels, most=100)
    assert found is not None and found.of == 992 and 100 <= len(found) <= 101
    counts = {name: int((found.labels == name).sum()) for name in ("common", "some", "rare")}
    assert 89 <= counts["common"] <= 92 and 8 <= counts["some"] <= 10 and counts["rare"] >= 1
    assert [labels[int(name)] for name in found.ids] == found.labels.tolist()
    assert found.ids == embedding_map(X, ids, labels, most=100).ids  # type: ignore[union-attr]
    numbers = embedding_map(X, ids, np.linspace(0, 1, 992), most=100)
    assert numbers is not None and len(numbers) == 100
    assert np.diff(np.sort(numbers.labels)).max() < 0.012, "numbers are drawn evenly by their rank"


def test_a_map_of_two_images_is_none_and_one_of_equal_images_is_a_point() -> None:
    assert embedding_map(np.zeros((2, 3)), ["a", "b"], ["x", "y"]) is None
    found = embedding_map(np.ones((5, 3)), list("abcde"), ["x"] * 5)
    assert found is not None and not found.x.any() and not found.y.any() and found.explained == (0, 0)
    line = embedding_map(np.arange(5.0)[:, None], list("abcde"), ["x"] * 5)
    assert line is not None and line.explained[0] == pytest.approx(1) and not line.y.any()


def test_copies_with_different_labels_stand_first() -> None:
    rng = np.random.default_rng(10)
    X = rng.normal(size=(80, 64)).astype(np.float32)
    X[41] = X[40] + 0.01 * rng.normal(size=64)  # a near-copy
    X[11] = X[10]
    found = features(X)
    found.digests[11] = found.digests[10]
    found.digests[12] = found.digests[10]
    X[12] = X[10]
    labels = ["ant"] * 80
    labels[41] = "bee"
    copies = find_duplicate_pairs(found, list(found.ids), labels, folds=5)
    assert not copies.too_alike and copies.images == 5
    assert [(pair.first, pair.other, pair.exact, pair.differs) for pair in copies.pairs] == [
        ("040.jpg", "041.jpg", False, True),
        ("010.jpg", "011.jpg", True, False),
        ("010.jpg", "012.jpg", True, False),
    ]
    assert copies.pairs[0].label_of_other == "bee" and 0.99 < copies.pairs[0].cosine < 1
    assert find_duplicate_pairs(found, list(found.ids)[13:40], labels[13:40], folds=5).pairs == ()


def test_look_alikes_are_no_copies() -> None:
    rng = np.random.default_rng(11)
    X = (rng.normal(size=(60, 1)) * rng.normal(size=64) + 0.001 * rng.normal(size=(60, 64))).astype(np.float32)
    copies = find_duplicate_pairs(features(X), [f"{row:03d}.jpg" for row in range(60)], ["ant"] * 60, folds=5)
    assert copies.pairs == () and (copies.too_alike or copies.images == 0)
