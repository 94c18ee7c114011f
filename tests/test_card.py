"""A model's README is a card that the hub can read, and says of the data and the mistakes what was counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_caches import blobs, names
from test_model_folder import default_cache

from pipeline.evaluation import evaluate
from pipeline.model import Model, fit

ODD = {"ant": "no", "bee": 'b|e: "e"', "cat": "ch\u00e4t"}  # in YAML and in tables these mean something


def parts(model: Model, folder: Path) -> tuple[dict[str, Any], str]:
    """Return the card's YAML and its text."""
    text = (model.save(folder / "it.model", weights=False) / "README.md").read_text(encoding="utf-8")
    start, front, rest = text.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(front), rest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    X, y = blobs(60, d=8, apart=1.0)
    cache = default_cache(tmp_path_factory.mktemp("card") / "made.h5", X, {"kind": [ODD[name] for name in names(y)]})
    return cache, {"column": "kind", "grid": {"logistic.C": 0.1}, "cv": 3, "n_jobs": 1}


def test_the_front_matter_is_yaml_with_every_score_of_the_model_itself(made: Any, tmp_path: Path) -> None:
    cache, options = made
    model = fit(cache, **options)
    front, _ = parts(model, tmp_path)
    assert front["library_name"] == "transfer-pipeline" and front["pipeline_tag"] == "image-classification"
    assert {"efficientnet_lite0", "logistic"} <= set(front["tags"])
    (index,) = front["model-index"]
    (result,) = index["results"]
    assert (index["name"], result["task"]["type"]) == ("it.model", "image-classification")
    assert result["dataset"] == {"name": "made", "type": "images", "split": "out of fold"}
    own = {score["scoring"]: score for score in model.scores if score["head"] == "logistic" and not score["null"]}
    assert {one["type"]: one["value"] for one in result["metrics"]} == {name: one["mean"] for name, one in own.items()}
    low, high = own["accuracy"]["low"], own["accuracy"]["high"]
    assert f"accuracy, 95% interval {low:.3f} to {high:.3f}" in [one["name"] for one in result["metrics"]]


def test_the_confusion_is_that_of_the_predictions_out_of_fold(made: Any, tmp_path: Path) -> None:
    cache, options = made
    run, model = evaluate(cache, **options), fit(cache, **options)
    table = run.predictions
    counts = model.evidence["mistakes"]["counts"]
    assert sum(sum(row.values()) for row in counts.values()) == len(table) == 60
    for was in model.classes:
        for said in model.classes:
            found = int(((table["true"] == was) & (table["predicted"] == said)).sum())
            assert counts[was].get(said, 0) == found
    assert any(counts[was].get(said) for was in counts for said in counts if was != said)
    _, text = parts(model, tmp_path)
    assert '| true \\ predicted | b\\|e: "e" | ch\u00e4t | no |' in text
    assert f"| no | {' | '.join(str(counts['no'].get(said, 0)) for said in model.classes)} |" in text
    assert Model.open(tmp_path / "it.model").evidence == model.evidence


def test_the_data_are_counted_and_small_classes_are_named(tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=3.0)
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1), np.flatnonzero(y == 2)[:6]])
    cache = default_cache(tmp_path / "few.h5", X[kept], {"kind": [*names(y[kept])[:-1], None]})
    model = fit(cache, cv=2, n_jobs=1, heads="ridge", grid={"ridge.alpha": 1.0}, nested=False)
    assert model.evidence["labels"] == {"ant": 20, "bee": 20, "cat": 5}
    _, text = parts(model, tmp_path)
    for line in (
        "- `made`: 45 labelled photos",
        "- not used, because they have no label: 1 photo",
        "| cat | 5 |",
        "Fewer than 20 training photos for the classes cat (5).",
        "The scores are optimistic",
        "The model returns scores, not probabilities.",
    ):
        assert line in text, line


def test_with_a_test_set_the_mistakes_are_those_on_it(tmp_path: Path) -> None:
    X, y = blobs(90, d=8, apart=1.0)
    columns = {"kind": names(y), "part": ["train"] * 60 + ["test"] * 30}
    model = fit(default_cache(tmp_path / "a.h5", X, columns), column="kind", split="part", cv=2, n_jobs=1)
    assert model.evidence["mistakes"]["part"] == "test" and model.evidence["mistakes"]["photos"] == 30
    front, text = parts(model, tmp_path)
    assert [result["dataset"]["split"] for result in front["model-index"][0]["results"]] == ["out of fold", "test"]
    assert (
        "Counted over 30 photos (the test set):" in text
        and "- 30 photos of a fixed test set, not used for training" in text
    )


def test_numbers_have_a_range_and_no_confusion(tmp_path: Path) -> None:
    X, _ = blobs(40, d=8)
    cache = default_cache(tmp_path / "a.h5", X, {"size": [f"{value:.5f}" for value in X[:, 0]]})
    front, text = parts(fit(cache, grid={"ridge.alpha": 1.0}, cv=2, n_jobs=1), tmp_path)
    assert "pipeline_tag" not in front and "## Confusion" not in text
    assert f"- values from {X[:, 0].min():g} to {X[:, 0].max():g}" in text


def test_tags_are_counted_one_by_one(tmp_path: Path) -> None:
    X, y = blobs(60, d=8, apart=1.0)
    has = np.column_stack([y == 0, X[:, 0] > np.median(X[:, 0])])
    cells = [";".join(tag for tag, there in zip(("red", "round"), row, strict=True) if there) or ";" for row in has]
    cache = default_cache(tmp_path / "a.h5", X, {"tags": cells})
    options: dict[str, Any] = {
        "column": "tags:multi",
        "heads": "ridge",
        "grid": {"ridge.alpha": 1.0},
        "cv": 2,
        "n_jobs": 1,
    }
    run, model = evaluate(cache, **options), fit(cache, **options)
    assert model.evidence["labels"] == {"red": int(has[:, 0].sum()), "round": int(has[:, 1].sum())}
    table = run.predictions
    was, said = (table[name].str.split(";").map(lambda cell: "red" in cell) for name in ("true", "predicted"))
    assert model.evidence["mistakes"]["counts"]["red"] == {
        "found": int((was & said).sum()),
        "missed": int((was & ~said).sum()),
        "wrong": int((~was & said).sum()),
    }
    _, text = parts(model, tmp_path)
    assert "## Tags found and missed" in text
