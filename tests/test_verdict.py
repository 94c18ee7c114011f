"""The verdict is a plain sentence, and every figure in it is in the run's own tables."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_caches import blobs, make_cache, names
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score

from pipeline.evaluation import evaluate
from pipeline.evaluation.verdict import VerdictInput, verdict
from pipeline.intervals import wilson
from pipeline.runs import CHOSEN, LabelSetInfo, Result, Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Classes and numbers, two heads each."""
    X, y = blobs(60, apart=1.5)
    columns = {"kind": names(y), "size": [f"{v:.4f}" for v in X[:, 0] + np.random.default_rng(1).normal(size=60)]}
    made = make_cache(tmp_path_factory.mktemp("caches") / "a.h5", X, columns)
    grid = {"knn.n_neighbors": 5, "knn.weights": "uniform", "ridge.alpha": [1.0, 100.0]}
    return evaluate(made, heads=["knn", "ridge"], grid=grid, cv=5, n_jobs=1)


def of(run: Run, label_set: str, head: str) -> pd.DataFrame:
    return run.predictions.query(f"label_set == '{label_set}' and head == '{head}'")


def ties(run: Run, label_set: str) -> str:
    """Return how the sentence ends: with the null that knows least of those that are tied."""
    lines = run.of(label_set)
    (shown,) = [line for line in lines if line.head == CHOSEN]
    tied = {null.layer for null in lines if null.null and null.tied and null.high >= shown.low}
    if not tied:
        return ""
    name = "the dummy" if "none" in tied else "color statistics"
    return f"; tied with {name}: 5 folds cannot tell them apart"


def test_the_verdict_on_classes_is_recomputed_from_the_table(run: Run) -> None:
    table = of(run, "kind", CHOSEN)
    right = accuracy_score(table["true"], table["predicted"])
    low, high = wilson(right, len(table))
    wrong = Counter((t, p) for t, p in zip(table["true"], table["predicted"], strict=True) if t != p)
    times = max(wrong.values())
    dummy, pixels = (r.mean or 0 for r in sorted(run.of("kind", scoring="accuracy"), key=lambda r: r.layer) if r.null)
    pattern = (
        rf"kind: right on {100 * right:.0f} of 100 new photos \({100 * low:.0f} to {100 * high:.0f}\) with the best of "
        rf"2 heads \((knn|ridge) in \d of 5 folds\); always guessing the commonest: {100 * dummy:.0f}; "
        rf"color statistics: {100 * pixels:.0f}; most confused: (\w+) taken for (\w+), {times} times"
        rf"{ties(run, 'kind')}"
    )
    found = re.fullmatch(pattern, run.verdicts[0])
    assert found, run.verdicts[0]
    assert wrong[found[2], found[3]] == times


def test_the_verdict_on_numbers_is_recomputed_from_the_table(run: Run) -> None:
    table = of(run, "size", CHOSEN)
    r2 = r2_score(table["true_value"], table["predicted_value"])
    off = mean_absolute_error(table["true_value"], table["predicted_value"])
    (shown,) = [r for r in run.of("size") if r.head == CHOSEN]
    ((picked, folds),) = Counter(shown.params["in_each_fold"]).most_common(1)
    dummy, pixels = (r.mean for r in sorted(run.of("size"), key=lambda r: r.layer) if r.null)
    assert run.verdicts[1] == (
        f"size: r2 {r2:.3g} ({shown.low:.3g} to {shown.high:.3g}) on new photos with the best of 2 heads "
        f"({picked} in {folds} of 5 folds); always guessing the mean: {dummy:.3g}; "
        f"color statistics: {pixels:.3g}; off by {off:.3g} on average{ties(run, 'size')}"
    )


def result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "label_set": "kind", "cache": "a.h5", "backbone": "b", "layer": "penultimate", "head": "knn", "n": 100,
        "scoring": "accuracy", "mean": 0.9, "low": 0.8, "high": 0.95, "nested": True, "test": None, "test_low": None,
        "test_high": None, "params": {}, "seconds": 1.0, "method": "Wilson",
    }  # fmt: skip
    return Result(**{**values, **changes})


def evidence(*shown: Result, **changes: Any) -> VerdictInput:
    dummy = result(
        head="dummy", layer="none", mean=0.5, low=0.4, high=0.6, null=True, test=0.55, test_low=0.4, test_high=0.7
    )
    pixels = result(head="logistic", layer="pixel_statistics", mean=0.6, low=0.5, high=0.7, null=True, test=0.65)
    values: dict[str, Any] = {
        "best": shown[0], "shown": shown, "baselines": [pixels, dummy], "true": ["ant", "ant", "bee"],
        "predicted": ["ant", "bee", "bee"], "on_test": False, "new_groups": False, "heads": 1,
    }  # fmt: skip
    return VerdictInput(**{**values, **changes})


INFO = LabelSetInfo("kind", "class", 100, ("ant", "bee"), 0, None, 5, None, "accuracy")


def test_the_whole_sentence() -> None:
    assert verdict(INFO, evidence(result())) == (
        "kind: right on 90 of 100 new photos (80 to 95) with knn; always guessing the commonest: 50; "
        "color statistics: 60; most confused: ant taken for bee, 1 time"
    )


def test_groups_are_in_the_words() -> None:
    assert "right on 90 of 100 photos of new groups (80 to 95)" in verdict(INFO, evidence(result(), new_groups=True))


def test_numbers_speak_of_groups_too() -> None:
    info = replace(INFO, kind="number", scoring="r2", classes=())
    shown = (result(scoring="r2"), result(scoring="neg_mean_absolute_error", mean=-0.25))
    said = verdict(
        info, evidence(*shown, new_groups=True, baselines=[result(head="dummy", layer="none", scoring="r2", mean=-0.1)])
    )
    assert said == (
        "kind: r2 0.9 (0.8 to 0.95) on photos of new groups with knn; always guessing the mean: -0.1; "
        "color statistics: ?; off by 0.25 on average"
    )


def test_nothing_confused_is_nothing_said() -> None:
    assert "confused" not in verdict(INFO, evidence(result(), true=["ant"], predicted=["ant"]))


def test_no_better_than_guessing_is_said_when_the_interval_reaches_the_dummy() -> None:
    said = "no better than guessing: the interval reaches down to the dummy's score"
    assert said in verdict(INFO, evidence(result(low=0.5)))
    assert said not in verdict(INFO, evidence(result(low=0.51)))
    assert said not in verdict(INFO, evidence(result(low=None)))


def test_a_null_that_is_tied_with_the_best_is_said() -> None:
    tied = "tied with the dummy: 5 folds cannot tell them apart"
    dummy = result(head="dummy", layer="none", mean=0.5, null=True, tied=True, p_best=0.2)
    pixels = result(head="logistic", layer="pixel_statistics", mean=0.6, null=True, tied=True, p_best=0.3)
    both = verdict(INFO, evidence(result(), baselines=[pixels, dummy]))
    assert both.endswith(tied)
    said = verdict(INFO, evidence(result(), baselines=[pixels, replace(dummy, tied=False)]))
    assert said.endswith("tied with color statistics: 5 folds cannot tell them apart")
    behind = [replace(null, high=0.51) for null in (pixels, dummy)]
    assert "tied" not in verdict(INFO, evidence(result(low=0.6), baselines=behind)), (
        "the intervals have told them apart"
    )
    for tells in (False, None):
        untied = [replace(null, tied=tells) for null in (pixels, dummy)]
        assert "tied" not in verdict(INFO, evidence(result(), baselines=untied))
    # The interval says it already, and a sentence about a test set is about that alone.
    reaching = verdict(INFO, evidence(result(low=0.45), baselines=[pixels, dummy]))
    assert "tied" not in reaching and reaching.endswith("the interval reaches down to the dummy's score")
    tested = result(test=0.9, test_low=0.8, test_high=0.95)
    null = replace(dummy, test=0.5)
    assert "tied" not in verdict(INFO, evidence(tested, baselines=[null], on_test=True))


def test_the_test_set_is_what_the_sentence_is_about_when_there_is_one() -> None:
    tested = result(test=0.7, test_low=0.5, test_high=0.85, nested=False)
    said = verdict(INFO, evidence(tested, on_test=True))
    assert said.startswith("kind: right on 70 of 100 new photos (50 to 85) with knn; always guessing the commonest: 55")
    assert "no better than guessing" in said  # 0.5 is below the dummy's 0.55 on the test set
    assert "optimistic" not in said  # the choice was made on the training part


def test_a_choice_on_the_same_photos_is_said() -> None:
    said = verdict(INFO, evidence(result(nested=False), heads=3))
    assert said.endswith("optimistic: the parameters were chosen on these same photos (--no-nested)")


def test_the_best_of_several_without_an_honest_choice_is_said() -> None:
    assert verdict(INFO, evidence(result(), heads=3)).endswith("a little optimistic: the best of 3")


def test_what_cannot_be_said_is_a_question_mark() -> None:
    assert "right on 90 of 100 new photos (? to ?)" in verdict(INFO, evidence(result(low=None, high=None)))


def test_the_test_set_of_a_run_is_recomputed_from_its_table(tmp_path: Path) -> None:
    X, y = blobs(60, apart=1.5)
    split = ["test" if row % 3 == 0 else "train" for row in range(60)]
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y), "split": split})
    found = evaluate(made, heads=["lda", "centroid"], grid={"lda.shrinkage": 0.1}, cv=2, n_jobs=1)
    table = found.predictions.query(f"part == 'test' and head == '{found.best().head}'")
    right = accuracy_score(table["true"], table["predicted"])
    low, high = wilson(right, 20)
    assert found.verdicts[0].startswith(
        f"kind: right on {100 * right:.0f} of 100 new photos ({100 * low:.0f} to {100 * high:.0f}) "
        f"with {found.best().head}; always guessing the commonest: "
    )
