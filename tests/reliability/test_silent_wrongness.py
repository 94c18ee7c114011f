"""Answers that are wrong without a word."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import class_folders
from made_caches import make_cache, names
from sklearn.feature_selection import SelectKBest

from pipeline.cache import FeatureCache
from pipeline.evaluation import evaluate
from pipeline.heads import catalogue
from pipeline.model import Model, fit

ROWS = 80
# Four standard errors of a share of ROWS rows: a sound head lies outside once in 16,000 trials, and the trials are
# seeded. One that has seen what it is tested on is right on nearly all of them.
BY_LUCK = 4 * 0.5 / ROWS**0.5
HEADS = [(entry.kind, entry.name) for entry in catalogue()]


def noise(path: Path, kind: str, seed: int, *, leaky: bool = False) -> FeatureCache:
    """Labels and features that have nothing to do with one another, unless the features were selected by the labels."""
    rng = np.random.default_rng([seed, 11])
    X = rng.normal(size=(ROWS, 2_000 if leaky else 30))
    half = rng.permutation(np.arange(ROWS) % 2)
    labels = {
        "class": names(half),
        "number": [f"{value:.4f}" for value in rng.normal(size=ROWS)],
        "multi": [
            ";".join(tag for tag, on in zip("abc", row, strict=True) if on) for row in rng.random((ROWS, 3)) < 0.5
        ],
    }[kind]
    if leaky:
        y = half if kind == "class" else pd.Series(labels).astype("category").cat.codes
        X = SelectKBest(k=30).fit_transform(X, y)
    return make_cache(path, X, {"label": labels})


def luck(made: FeatureCache, kind: str, head: str) -> float:
    """Return by how much a head is better than guessing."""
    scoring = {"class": "accuracy", "number": "r2", "multi": "average_precision"}[kind]
    options: dict[str, Any] = {"cv": 2, "n_jobs": 1, "heads": head, "scoring": scoring}
    if kind == "multi":
        options["column"] = "label:multi"
    results = evaluate(made, **options).results
    # The null of pixel statistics has a head of the same name.
    rated = [one for one in results if (one.head, one.scoring) == (head, scoring) and (head == "dummy" or not one.null)]
    assert len(rated) == 1 and rated[0].nested and rated[0].mean is not None
    return rated[0].mean - (0.0 if kind == "number" else 0.5)


@pytest.mark.parametrize(("kind", "head"), HEADS, ids=[f"{kind}-{head}" for kind, head in HEADS])
def test_noise_is_scored_like_chance(kind, head, promise, size, tmp_path):
    """Nothing is fitted outside its fold."""
    with promise(f"labels that are noise are scored like chance: {head} ({kind})") as on_trial:
        for seed in range(size(quick=1, full=8)):
            with on_trial.trial(f"seed {seed}"):
                # Average precision of few positives is above their share by a little.
                allowed = BY_LUCK * (1.5 if kind == "multi" else 1.0)
                assert luck(noise(tmp_path / f"{seed}.h5", kind, seed), kind, head) < allowed


def test_features_selected_outside_the_folds_would_be_seen(tmp_path):
    """The bound is there: a leak goes far beyond it."""
    for seed in range(3):
        assert luck(noise(tmp_path / f"{seed}.h5", "class", seed, leaky=True), "class", "logistic") > BY_LUCK


def test_a_saved_model_says_the_same_in_another_process(promise, tmp_path):
    photos = class_folders(tmp_path / "photos", 6)
    new = class_folders(tmp_path / "new", 3, first=50)
    model = fit(
        photos, cache=tmp_path / "caches", heads="logistic", grid={"logistic.C": 1.0}, cv=2, n_jobs=1, device="cpu"
    )
    wanted = model.predict(new, device="cpu", n_jobs=1)
    model.save(tmp_path / "bees.model")
    moved = (tmp_path / "bees.model").rename(tmp_path / "elsewhere.model")
    with promise("photos are answered by a saved model, in another process, as before it was saved") as on_trial:
        said = subprocess.run(
            [sys.executable, "-m", "pipeline", "predict", moved, new, "--device", "cpu", "--quiet"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        table = pd.read_csv(io.StringIO(said), keep_default_na=False)
        again = Model.open(moved).predict(new, device="cpu", n_jobs=2, batch_size=1)
        for row in range(len(wanted)):
            with on_trial.trial(wanted["id"][row]):
                assert (table["id"][row], table["label"][row]) == (wanted["id"][row], wanted["label"][row])
                assert (again["id"][row], again["label"][row]) == (wanted["id"][row], wanted["label"][row])
                assert table["probability"][row] == pytest.approx(wanted["probability"][row], abs=1e-5)
                assert again["probability"][row] == pytest.approx(wanted["probability"][row], abs=1e-5)
