"""The intervals room: values are scikit-learn's, and intervals hold the truth as often as they say."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    mean_absolute_error,
    r2_score,
)

from pipeline.errors import EvaluationError, HeadError
from pipeline.intervals import (
    ScoreInterval,
    bootstrap,
    compare_with_best,
    corrected_t_test,
    holm,
    score_with_interval,
    wilson,
)
from pipeline.intervals.bootstrap import BootstrapSample, bootstrap_weights
from pipeline.intervals.confidence import _expanded_tails
from pipeline.search import Predictions, score_predictions

CLASS_SCORINGS = ("accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss")
NUMBER_SCORINGS = ("r2", "neg_mean_absolute_error")


def classes(n: int, k: int, right: float = 0.8, seed: int = 0) -> tuple[np.ndarray, Predictions]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    said = np.where(rng.random(n) < right, y, rng.integers(0, k, n))
    P = rng.dirichlet(np.ones(k), n) + 2 * np.eye(k)[said]
    return y, Predictions(said, P / P.sum(axis=1, keepdims=True))


def scored(scoring: str, y: np.ndarray, said: Predictions, k: int = 3, **options: object) -> ScoreInterval:
    kind = "number" if scoring in NUMBER_SCORINGS else "class"
    return score_with_interval(scoring, y, said, kind=kind, n_classes=k, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("grouped", [False, True])
def test_values_are_scikit_learns(grouped: bool) -> None:
    y, said = classes(200, 5)
    groups = np.arange(200) % 20 if grouped else None
    assert said.probabilities is not None
    found = {s: scored(s, y, said, 5, groups=groups) for s in (*CLASS_SCORINGS, "matthews_corrcoef")}
    assert found["accuracy"].value == accuracy_score(y, said.labels)
    assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(y, said.labels), rel=1e-14)
    assert found["f1_macro"].value == pytest.approx(f1_score(y, said.labels, average="macro"), rel=1e-14)
    assert found["neg_log_loss"].value == pytest.approx(-log_loss(y, said.probabilities), rel=1e-14)
    assert found["matthews_corrcoef"].value == matthews_corrcoef(y, said.labels)
    rng = np.random.default_rng(1)
    y = rng.normal(50, 3, 200)
    said = Predictions(y + rng.normal(size=200))
    for scoring in NUMBER_SCORINGS:
        found[scoring] = scored(scoring, y, said, groups=groups)
    assert found["r2"].value == r2_score(y, said.labels)
    assert found["neg_mean_absolute_error"].value == -mean_absolute_error(y, said.labels)
    assert all(s.low < s.value < s.high and s.n == 200 for s in found.values())


def test_log_loss_of_a_certain_error_is_clipped_as_in_scikit_learn() -> None:
    P = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    y = np.array([0, 1, 1])
    assert scored("neg_log_loss", y, Predictions(P.argmax(1), P), 2).value == pytest.approx(-log_loss(y, P), rel=1e-12)


def test_wilson_is_the_published_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1.0, 20) == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)
    exact = stats.binomtest(95, 100).proportion_ci(0.9, "wilson")
    assert wilson(0.95, 100, 0.9) == pytest.approx((exact.low, exact.high))


def test_accuracy_without_groups_is_wilson_and_balanced_accuracy_is_mover() -> None:
    y = np.repeat([0, 1], [90, 10])
    labels = y.copy()
    labels[:9], labels[90:92] = 1, 0  # recalls 0.9 and 0.8
    found = scored("accuracy", y, Predictions(labels), 2)
    assert (found.low, found.high) == wilson(0.89, 100)
    assert found.method == "Wilson"
    found = scored("balanced_accuracy", y, Predictions(labels), 2)
    (l0, u0), (l1, u1) = wilson(0.9, 90), wilson(0.8, 10)
    assert found.low == pytest.approx(0.85 - np.hypot(0.9 - l0, 0.8 - l1) / 2)
    assert found.high == pytest.approx(0.85 + np.hypot(u0 - 0.9, u1 - 0.8) / 2)
    assert "MOVER" in found.method


def coverage(truth: float, draws: list[ScoreInterval]) -> float:
    return float(np.mean([s.low <= truth <= s.high for s in draws]))


def test_wilson_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    y = np.zeros(100, int)
    draws = [scored("accuracy", y, Predictions((rng.random(100) > 0.95).astype(int)), 2) for _ in range(500)]
    assert coverage(0.95, draws) >= 0.92


def test_mover_holds_the_truth_with_rare_classes() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 30, 8])
    recall = np.array([0.95, 0.8, 0.6])
    draws = []
    for _ in range(500):
        labels = np.where(rng.random(len(y)) < recall[y], y, (y + 1) % 3)
        draws.append(scored("balanced_accuracy", y, Predictions(labels), 3))
    assert 0.92 <= coverage(float(recall.mean()), draws) <= 0.99


def test_macro_f1_holds_the_truth_with_many_small_classes() -> None:
    rng = np.random.default_rng(0)
    k = 40

    def draw(m: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(k), m)
        return y, np.where(rng.random(len(y)) < 0.7, y, rng.integers(0, k, len(y)))

    y, labels = draw(20_000)
    truth = score_predictions("f1_macro", y, Predictions(labels), kind="class", n_classes=k)
    draws = []
    for _ in range(150):
        y, labels = draw(6)
        draws.append(scored("f1_macro", y, Predictions(labels), k, resamples=400))
    assert coverage(truth, draws) >= 0.9  # the plain percentile interval: about 0.85


@pytest.mark.parametrize("n_groups", [4, 8, 30])
def test_groups_hold_the_truth_where_single_rows_do_not(n_groups: int) -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(n_groups), 20)
    y = np.zeros(len(groups), int)
    by_group, by_row = [], []
    for _ in range(200):
        accuracy = rng.beta(4, 1, n_groups)  # a group's images are right or wrong together; 0.8 on average
        said = Predictions((rng.random(len(groups)) > accuracy[groups]).astype(int))
        by_group.append(scored("accuracy", y, said, 2, groups=groups, resamples=800))
        by_row.append(scored("accuracy", y, said, 2))
    assert coverage(0.8, by_group) >= 0.9
    assert coverage(0.8, by_row) <= 0.8
    widths = [np.mean([s.high - s.low for s in draws]) for draws in (by_group, by_row)]
    assert widths[0] > 1.5 * widths[1]
    few = "jackknife of 4 groups, t with 3 degrees of freedom"
    assert by_group[0].method == (few if n_groups == 4 else f"bootstrap of {n_groups} groups, 800 resamples")


def test_few_groups_of_one_size_get_the_t_interval_of_their_means() -> None:
    rng = np.random.default_rng(3)
    y, groups = rng.normal(size=50), np.repeat(np.arange(5), 10)
    said = Predictions(y + rng.normal(size=50))
    found = scored("neg_mean_absolute_error", y, said, groups=groups)
    means = -np.abs(y - said.labels).reshape(5, 10).mean(axis=1)
    low, high = stats.t.interval(0.95, 4, means.mean(), stats.sem(means))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    y, said = classes(50, 3)
    other = scored("matthews_corrcoef", y, said, groups=groups)
    assert other.low < other.value < other.high
    assert other.method == "jackknife of 5 groups, t with 4 degrees of freedom"


@pytest.mark.parametrize("scoring", NUMBER_SCORINGS)
def test_numbers_hold_the_truth(scoring: str) -> None:
    rng = np.random.default_rng(2)
    truth = {"r2": 0.75, "neg_mean_absolute_error": -np.sqrt(2 / np.pi)}[scoring]
    draws = []
    for _ in range(150):
        y = rng.normal(0, 2, 80)
        draws.append(scored(scoring, y, Predictions(y + rng.normal(size=80)), resamples=500))
    assert coverage(truth, draws) >= 0.9


@pytest.mark.parametrize("scoring", [*CLASS_SCORINGS, *NUMBER_SCORINGS])
def test_sums_over_groups_say_what_scoring_each_resample_says(scoring: str) -> None:
    rng = np.random.default_rng(4)
    groups = rng.integers(0, 6, 40)
    groups[:6] = np.arange(6)
    if scoring in NUMBER_SCORINGS:
        y = rng.normal(1000, 1, 40)
        kind, said = "number", Predictions(y + rng.normal(size=40))
    else:
        y, said = classes(40, 5, seed=2)
        y[groups == 0] = 4  # a class that some resamples lack
        kind = "class"
    weights = next(iter(bootstrap_weights(6, 50, 9))).astype(int)
    fast = BootstrapSample(scoring, y, said, groups, 6, kind, 5).scores(weights)
    for value, counts in zip(fast, weights, strict=True):
        rows = np.concatenate([np.tile(np.flatnonzero(groups == g), count) for g, count in enumerate(counts)])
        slow = score_predictions(scoring, y[rows], said.take(rows), kind=kind, n_classes=5)
        assert value == pytest.approx(slow, rel=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    y, said = classes(60, 3)
    whole = scored("f1_macro", y, said)
    monkeypatch.setattr(bootstrap, "_KEPT_DRAWS", 0)
    assert scored("f1_macro", y, said) == whole
    monkeypatch.setattr(bootstrap, "_BLOCK_DRAWS", 60 * 7)
    assert scored("f1_macro", y, said) == whole


@pytest.mark.parametrize(
    ("scoring", "grouped"), list(itertools.product(["f1_macro", "neg_log_loss", "roc_auc_ovr"], [0, 1]))
)
def test_the_seed_decides(scoring: str, grouped: int) -> None:
    y, said = classes(90, 3)
    groups = np.arange(90) % 15 if grouped else None
    first = scored(scoring, y, said, groups=groups, resamples=100, random_state=5)
    assert first == scored(scoring, y, said, groups=groups, resamples=100, random_state=5)
    other = scored(scoring, y, said, groups=groups, resamples=100, random_state=6)
    assert (first.low, first.high) != (other.low, other.high)
    assert first.value == other.value


def test_all_right_in_every_group_is_not_certainty() -> None:
    y = np.repeat([0, 1], 30)
    groups = np.arange(60) % 6
    for scoring in ("accuracy", "balanced_accuracy", "f1_macro"):
        found = scored(scoring, y, Predictions(y), 2, groups=groups)
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(wilson(1.0, 6)[0])
        assert found.method == "Wilson with n = 6 groups: no spread between them"
    wrong = scored("accuracy", y, Predictions(1 - y), 2, groups=groups)
    assert (wrong.low, wrong.value) == (0.0, 0.0)
    assert wrong.high == pytest.approx(wilson(0.0, 6)[1])
    assert scored("f1_macro", y, Predictions(y), 2).low == pytest.approx(wilson(1.0, 60)[0])


def test_one_group_says_almost_nothing() -> None:
    y, said = classes(50, 3)
    one = scored("accuracy", y, said, groups=np.zeros(50, int))
    assert one.high - one.low > 0.7
    loss = scored("neg_log_loss", y, said, groups=np.zeros(50, int))
    assert np.isnan(loss.low) and np.isnan(loss.high)
    assert loss.method == "none: one group"


def test_more_confidence_is_wider_and_limits_stay_within_what_is_possible() -> None:
    y, said = classes(40, 3, right=0.95)
    for scoring, groups in itertools.product(CLASS_SCORINGS[:3], (None, np.arange(40) % 4)):
        narrow = scored(scoring, y, said, groups=groups, confidence=0.8)
        wide = scored(scoring, y, said, groups=groups, confidence=0.99)
        assert 0 <= wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high <= 1


def test_few_groups_get_the_wider_expanded_limits() -> None:
    low, high = _expanded_tails(4, 0.95)
    assert low == pytest.approx(stats.norm.cdf(-3.182 * np.sqrt(4 / 3)), rel=1e-2)
    assert high == 1 - low
    assert _expanded_tails(10_000, 0.95)[0] == pytest.approx(0.025, rel=1e-2)


def test_other_scorers_are_resampled_one_by_one_and_their_gaps_counted() -> None:
    y, said = classes(60, 3)
    found = scored("matthews_corrcoef", y, said)
    assert found.method == "bootstrap of 60 rows, 500 resamples"
    assert found.low < found.value < found.high
    y = np.repeat([0, 1], [57, 3])
    P = np.column_stack([1 - np.linspace(0, 1, 60), np.linspace(0, 1, 60)])
    rare = scored("roc_auc", y, Predictions(P.argmax(1), P), 2)
    assert "undefined)" in rare.method  # resamples without the rare class
    regression = score_with_interval(
        "neg_root_mean_squared_error", P[:, 0], Predictions(P[:, 0] + 0.1 * y), kind="number", n_classes=0
    )
    assert regression.low < regression.value < regression.high


def test_classes_never_seen_in_training_count_as_wrong() -> None:
    y = np.array([0, 1, 2, 3] * 10)
    labels = np.where(y == 3, 0, y)
    found = scored("balanced_accuracy", y, Predictions(labels), 4)
    assert found.value == 0.75


def test_nothing_warns_whatever_is_missing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, said = classes(30, 6, seed=8)
        y[y == 2] = 1
        for scoring, groups in itertools.product((*CLASS_SCORINGS, "roc_auc_ovr"), (None, np.arange(30) % 3)):
            scored(scoring, y, said, 6, groups=groups, resamples=50)
        flat = scored("r2", np.r_[np.ones(29), 2.0], Predictions(np.linspace(1, 2, 30)))
        assert flat.method.startswith("bootstrap of 30 rows")


# Ties

FIVE = [(80, 20)] * 5


def test_the_corrected_test_is_scipys_paired_test_with_a_wider_error() -> None:
    rng = np.random.default_rng(0)
    for k in (3, 5, 10):
        a, b = rng.normal(size=(2, k))
        plain = stats.ttest_rel(a, b)
        t = plain.statistic * np.sqrt((1 / k) / (1 / k + 1 / (k - 1)))
        assert corrected_t_test(a - b, 1 / (k - 1)) == pytest.approx(2 * stats.t.sf(abs(t), k - 1), rel=1e-12)
        assert corrected_t_test(a - b, 0.0) == pytest.approx(plain.pvalue, rel=1e-12)
        assert corrected_t_test(b - a, 0.2) == corrected_t_test(a - b, 0.2)


def test_holm_multiplies_the_smallest_by_all_and_each_next_by_one_fewer() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's own order
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.zeros(0)).tolist() == []


def test_a_comparison_is_adjusted_for_all_that_were_made() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal([[0.0], [-0.5], [-1.0], [-3.0]], 0.3, (4, 5))
    raw = [corrected_t_test(scores[0] - one, 0.25) for one in scores[1:]]
    found = compare_with_best("r2", scores.tolist(), 0, sizes=FIVE)
    assert [one.p for one in found] == pytest.approx([1.0, *holm(np.array(raw))])
    assert [one.tied for one in found] == [True, *(p > 0.05 for p in holm(np.array(raw)))]


def test_clearly_different_heads_are_not_tied() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        scores = rng.normal([[0.95], [0.94], [0.7], [0.5]], 0.02, (4, 5))
        assert [one.tied for one in compare_with_best("accuracy", scores.tolist(), 0, sizes=FIVE)][2:] == [False, False]
    constant = [[1.0] * 5, [0.5] * 5]  # a head that is always right, and the dummy: no spread, and no doubt
    assert [one.tied for one in compare_with_best("balanced_accuracy", constant, 0, sizes=FIVE)] == [True, False]


@pytest.mark.parametrize("folds", [3, 5])
def test_random_scores_are_told_apart_no_more_often_than_promised(folds: int) -> None:
    # 4 heads that guess at 60 shared rows; the best of them is picked by its score, as in a run.
    apart = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        right = rng.random((4, folds, 60 // folds)) < 0.5
        scores = right.mean(axis=2)
        best = int(right.mean(axis=(1, 2)).argmax())
        sizes = [(60 - 60 // folds, 60 // folds)] * folds
        apart += any(one.tied is False for one in compare_with_best("accuracy", scores.tolist(), best, sizes=sizes))
    assert apart <= 0.07 * 200


def test_heads_that_learn_random_labels_are_told_apart_no_more_often_than_promised() -> None:
    # Real folds, whose training parts overlap: that is what the plain t-test takes for evidence.
    apart = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(40, 5)), rng.permutation(np.arange(40) % 2)
        folds = np.array_split(rng.permutation(40), 5)
        scores = np.empty((4, 5))
        for fold, test in enumerate(folds):
            learned = np.setdiff1d(np.arange(40), test)
            for head in range(4):  # the nearer class mean, each head on two columns
                A = X[:, [head, head + 1]]
                means = np.array([A[learned][y[learned] == code].mean(axis=0) for code in (0, 1)])
                said = np.linalg.norm(A[test][:, None] - means, axis=2).argmin(axis=1)
                scores[head, fold] = (said == y[test]).mean()
        best = int(scores.mean(axis=1).argmax())
        apart += any(one.tied is False for one in compare_with_best("accuracy", scores, best, sizes=[(32, 8)] * 5))
    assert apart <= 0.07 * 200


def test_equal_differences_in_three_small_folds_prove_nothing() -> None:
    one_row_each = [[0.75] * 3, [0.625] * 3]
    assert compare_with_best("accuracy", one_row_each, 0, sizes=[(16, 8)] * 3)[1].tied
    # The same in folds of 800 rows is no luck.
    assert compare_with_best("accuracy", one_row_each, 0, sizes=[(1600, 800)] * 3)[1].tied is False


def test_fewer_than_three_shared_folds_tell_nothing() -> None:
    two = compare_with_best("r2", [[0.9, 0.8], [0.1, 0.2]], 0, sizes=[(10, 10)] * 2)
    assert [(one.p, one.tied) for one in two] == [(None, None)] * 2
    gaps = [[0.9, 0.8, 0.7, None], [0.1, None, 0.2, 0.3], [0.1, 0.1, 0.2, 0.3]]
    found = compare_with_best("r2", gaps, 0, sizes=[(30, 10)] * 4)
    assert [one.p is None for one in found] == [False, True, False]
    assert found[2].p == pytest.approx(corrected_t_test(np.array([0.8, 0.7, 0.5]), 1 / 3))  # a family of one


def test_a_null_that_does_better_than_the_best_head_is_tied_however_sure_that_is() -> None:
    best, null = compare_with_best("neg_log_loss", [[-3.0, -3.1, -2.9], [-0.7, -0.69, -0.71]], 0, sizes=[(20, 10)] * 3)
    assert null.p is not None and null.p < 0.05
    assert best.tied and null.tied


def test_what_cannot_be_scored_says_so() -> None:
    with pytest.raises(EvaluationError, match="got 3 labels, 2 predictions"):
        scored("accuracy", np.zeros(3, int), Predictions(np.zeros(2, int)))
    with pytest.raises(EvaluationError, match="got 0 labels"):
        scored("accuracy", np.zeros(0, int), Predictions(np.zeros(0, int)))
    with pytest.raises(HeadError, match="expected probabilities, got none"):
        scored("neg_log_loss", np.zeros(3, int), Predictions(np.zeros(3, int)))
