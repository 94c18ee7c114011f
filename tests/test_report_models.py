"""A page says which model a probability is by, and shows a saved model's own parameters beside those of the folds."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from commands import class_folders
from made_caches import blobs, make_cache, names

from pipeline.cache import CacheLock, add_reference
from pipeline.evaluation import evaluate
from pipeline.report.diagnostics.mistakes import most_confident_mistakes
from pipeline.report.diagnostics.predictions import describe_fold, load_class_predictions
from pipeline.report.diagnostics.summary import saved_models
from pipeline.report.html.run_page import run_page
from pipeline.report.html.sections import format_confidence
from pipeline.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over a cache of two overlapping classes, with a label that is surely wrong."""
    home = tmp_path_factory.mktemp("page")
    X, y = blobs(40, classes=2, seed=3)
    y[0] = 1 - y[0]
    cache = make_cache(home / "x.h5", X, {"label": names(y)})
    CacheLock.exclusive(cache.path).release()  # as `extract` leaves it
    options = {"heads": "logistic", "grid": {"logistic.C": 1.0}, "cv": 4, "n_jobs": 1}
    evaluate(cache, out=home / "run", cache=home, **options)
    return Run.open(home / "run")


def words_of(page: str) -> str:
    text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(script|style).*?</\1>", " ", page)))
    return " ".join(text.split())


def test_a_probability_names_the_fold_that_it_is_by(run: Run) -> None:
    answers = load_class_predictions(run, run.info())
    assert answers is not None
    mistakes = most_confident_mistakes(answers, None)
    assert mistakes
    table = run.predictions[run.predictions["head"] == "logistic"].set_index("id")
    words = words_of(run_page(run))
    for one in mistakes:
        row = table.loc[one.id]
        assert one.part == row["part"]
        assert f"{row['probability']:.0%} by the model of fold {int(row['part']) + 1}" in words
    assert "% sure" not in words.replace("80% sure is right 80 times", "")
    assert (
        "Each probability is by the model of one fold, trained without that photo; a saved model, trained on all "
        "photos, gives another one."
    ) in words
    assert "Out of fold, by the models of the folds. On the dashed line" in words


def test_a_test_set_s_probability_is_no_fold_s() -> None:
    assert (describe_fold("0"), describe_fold("4"), describe_fold("test")) == (
        "the model of fold 1",
        "the model of fold 5",
        "",
    )
    assert format_confidence(0.994, "2") == "99% by the model of fold 3"
    assert format_confidence(0.994, "test") == "99%"


def test_the_parameters_of_a_saved_model_stand_beside_those_of_the_folds(run: Run, tmp_path: Path) -> None:
    assert saved_models(run, run.info()) == ()
    record = {
        "label_set": "label",
        "task": "class",
        "classes": ["ant", "bee"],
        "head": "logistic",
        "layer": "penultimate",
        "params": {"C": 0.01},
        "training_images": 40,
    }
    for name, changes in {"<b>.model": {}, "other.model": {"label_set": "site"}, "broken.model": {"params": 3}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text(json.dumps({**record, **changes}))
        add_reference(run.best().cache, tmp_path / name / "model.json")
    (one,) = saved_models(run, run.info())
    assert (one.name, one.head, one.params, one.training_images) == ("<b>.model", "logistic", {"C": 0.01}, 40)
    page = run_page(run)
    assert "<b>.model" not in page
    assert (
        "The saved model <b>.model: logistic on penultimate, parameters C=0.01, selected and trained on 40 photos."
    ) in words_of(page)


def test_a_model_that_fit_saves_is_found_from_the_run_of_the_same_photos(tmp_path: Path) -> None:
    """The whole way: `evaluate`, then `fit`; the page shows what the model's own record says."""
    from pipeline.model import Model, fit

    photos = class_folders(tmp_path / "photos", 8)
    options = {"heads": "centroid", "cv": 2, "n_jobs": 1, "cache": tmp_path / "caches"}
    evaluate(photos, out=tmp_path / "run", **options)
    fit(photos, out=tmp_path / "bees.model", **options)
    kept = Run.open(tmp_path / "run")
    (one,) = saved_models(kept, kept.info())
    model = Model.open(tmp_path / "bees.model")
    assert (one.name, one.head, one.params, one.training_images) == ("bees.model", "centroid", model.params, 16)
