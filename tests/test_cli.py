"""The commands end to end: what each prints on stdout, what on stderr, what it leaves on disk, and what comes next."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import Outcome, class_folders, done, in_a_process, photo, refused
from made_caches import blobs, make_cache, names

from pipeline.runs import LEADERBOARD

KINDS = ("ants", "bees")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in: photos in class folders, with their cache and a model of them."""
    folder = tmp_path_factory.mktemp("work")
    with chdir(folder):
        class_folders(Path("photos"), 12)
        done("extract", "photos")
        done("fit", "photos", "--out", "bees.model", "--cv", "3", "--jobs", "1")
        yield folder


@pytest.fixture
def new(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the caches of `place` at hand."""
    monkeypatch.chdir(tmp_path)
    Path("features_cache").mkdir()
    (cache,) = place.glob("features_cache/photos-*.h5")
    shutil.copy(cache, "features_cache")
    return tmp_path


@pytest.fixture(scope="module")
def evaluated(place: Path) -> Outcome:
    shutil.rmtree("runs", ignore_errors=True)  # of other heads
    return done("evaluate", "photos", "--cv", "3", "--head", "logistic", "--head", "knn", "--jobs", "1")


def the_cache() -> Path:
    (path,) = Path("features_cache").glob("photos-*.h5")
    return path


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def run_next(outcome: Outcome, *more: str) -> Outcome:
    """Paste the `next:` line."""
    program, *words = outcome.next_command
    assert program == "pipeline"
    return done(*words, *more)


def run_then(outcome: Outcome, *more: str) -> Outcome:
    """Paste the `then:` line."""
    program, *words = outcome.then_command
    assert program == "pipeline"
    return done(*words, *more)


def predict_next(outcome: Outcome, photos: object) -> list[dict[str, str]]:
    """Paste the `next:` line of `fit` with photos of one's own, and return the answers."""
    program, command, model, new, *words = outcome.next_command
    assert (program, command, new) == ("pipeline", "predict", "NEW_PHOTOS")
    return rows(done(command, model, photos, *words).out)


# --- extract


def test_extract_prints_the_cache_s_path_alone(place: Path) -> None:
    outcome = done("extract", "photos")
    assert outcome.out == f"{the_cache()}\n"
    assert "24 images: 0 stored, 24 reused, 0 failed; 0 went through the network" in outcome.err
    assert run_next(outcome, "--cv", "3", "--jobs", "1").out.startswith("label ")


def test_extract_json_is_one_object(place: Path) -> None:
    said = json.loads(done("extract", "photos", "--json").out)
    assert {"cache", "images", "stored", "reused", "failed", "inferred", "seconds"} <= said.keys()
    assert (said["images"], said["stored"], said["reused"], said["failed"], said["inferred"]) == (24, 0, 24, 0, 0)
    assert Path(said["cache"]) == the_cache()


def test_extract_adds_what_is_new_and_names_what_failed(new: Path) -> None:
    class_folders(Path("photos"), 12)
    photo(Path("photos/bees/new.png"), "bees", 99)
    for number in range(7):
        Path(f"photos/ants/broken{number}.jpg").write_text("no photo")
    outcome = done("extract", "photos")
    assert "32 images: 1 stored, 24 reused, 7 failed; 1 went through the network" in outcome.err
    assert outcome.err.count("skipped: ants/broken") == 5
    assert "skipped: 2 more" in outcome.err
    said = json.loads(done("extract", "photos", "--json").out)
    assert len(said["skipped"]) == said["failed"] == 7


def test_extract_of_two_layers_is_evaluated_on_both(place: Path) -> None:
    outcome = done("extract", "photos", "--cache", "two", "--layer", "late", "--layer", "penultimate")
    assert outcome.next_command[-4:] == ["--layer", "late", "--layer", "penultimate"]
    table = run_next(outcome, "--cv", "3", "--jobs", "1", "--head", "ridge").out
    assert "late" in table and "penultimate" in table


def test_extract_of_two_backbones_makes_two_caches(place: Path) -> None:
    words = ["--backbone", "efficientnet_lite0", "--backbone", "efficientnet_lite0:random", "--cache", "nets"]
    outcome = done("extract", "photos", *words)
    assert len(outcome.lines) == 2
    table = run_next(outcome, "--cv", "3", "--jobs", "1", "--head", "ridge")
    assert table.out.count("ridge") == 2 and "backbone" in table.lines[0]
    assert len(json.loads(done("extract", "photos", *words, "--json").out)["caches"]) == 2


def test_extract_of_photos_without_labels_says_how_to_give_them(new: Path) -> None:
    photo(Path("flat/1.png"), "ants", 0)
    outcome = done("extract", "flat")
    assert "next:" not in outcome.err
    assert "--labels TABLE" in outcome.err


def test_extract_of_a_cache_is_that_cache(place: Path) -> None:
    assert done("extract", the_cache()).out == f"{the_cache()}\n"


# --- evaluate


def test_evaluate_prints_the_table_alone(evaluated: Outcome) -> None:
    header, *lines = evaluated.lines
    assert header.split()[:2] == ["label", "features"]
    assert [line.split()[0] for line in lines[:2]] in (["logistic", "knn"], ["knn", "logistic"])
    assert lines[2].startswith("best of 2 (nested selection)")
    assert lines[3].split()[:3] == ["logistic", "color", "statistics"]
    assert lines[4].split()[:2] == ["dummy", "none"]
    assert len(lines) == 5
    for line in lines:
        assert line.count(" to ") == 1  # each score stands with its interval


def test_evaluate_says_the_verdict_and_the_next_command(evaluated: Outcome) -> None:
    assert "label: right on " in evaluated.err and "always guessing the commonest: " in evaluated.err
    assert "24 images, 3 folds. 95% intervals: " in evaluated.err
    assert "kept in runs/photos/" in evaluated.err
    heads = ["--head", "logistic", "--head", "knn"]
    wanted = ["pipeline", "fit", "photos", *heads, "--cv", "3", "--jobs", "1", "--out", "photos.model"]
    assert evaluated.next_command == ["pipeline", "report", "runs/photos"]
    assert evaluated.then_command == wanted
    fitted = run_then(evaluated)
    assert fitted.out == "photos.model\n"
    assert "units are stored from an earlier run and are not computed again" in fitted.err


def test_evaluate_keeps_the_run(evaluated: Outcome) -> None:
    folder = Path("runs/photos")
    assert {path.name for path in folder.iterdir()} == {
        "run.json", "leaderboard.csv", "predictions.parquet", "results.sqlite",
    }  # fmt: skip
    assert list(pd.read_csv(folder / "leaderboard.csv").columns) == list(LEADERBOARD)


def test_evaluate_json_has_one_row_a_scoring(place: Path) -> None:
    outcome = done("evaluate", "photos", "--cv", "3", "--json", "--out", "elsewhere", "--jobs", "1")
    said = json.loads(outcome.out)
    assert outcome.out.count("\n") == 1
    assert said["run"] == "elsewhere" and Path("elsewhere/run.json").is_file()
    assert all(set(LEADERBOARD) <= row.keys() for row in said["results"])
    mine = [row["scoring"] for row in said["results"] if not row["null"]]
    assert mine == ["balanced_accuracy", "accuracy", "f1_macro", "neg_log_loss"]
    assert all(row["nested"] and row["test"] is None for row in said["results"])


def kept(outcome: Outcome) -> str:
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("kept in ")]
    return line.removeprefix("kept in ")


def test_evaluate_of_another_question_leaves_the_earlier_answers(new: Path) -> None:
    words = ["evaluate", "photos", "--cv", "2", "--jobs", "1", "--head"]
    assert kept(done(*words, "ridge")) == "runs/photos/"
    first = Path("runs/photos/run.json").read_bytes()
    other = done(*words, "centroid")
    assert kept(other) == "runs/photos-2/"
    assert "note: runs/photos/ holds a run over other heads; this run goes to runs/photos-2/" in other.err
    assert Path("runs/photos/run.json").read_bytes() == first
    # The same questions take the places of their own answers.
    assert kept(done(*words, "centroid")) == "runs/photos-2/"
    again = done(*words, "ridge", "--cv", "3")
    assert kept(again) == "runs/photos/" and "holds" not in again.err
    assert Path("runs/photos/run.json").read_bytes() != first
    assert sorted(path.name for path in Path("runs").iterdir()) == ["photos", "photos-2"]


def test_evaluate_of_other_images_or_labels_leaves_the_earlier_answers(new: Path) -> None:
    words = ["--cv", "2", "--jobs", "1", "--head", "centroid"]
    for folder, size in (("a/photos", 6), ("b/photos", 7)):
        class_folders(Path(folder), size)
    assert kept(done("evaluate", "a/photos", *words)) == "runs/photos/"
    other = done("evaluate", "b/photos", *words)
    assert kept(other) == "runs/photos-2/"
    assert "runs/photos/ holds a run over other images or features" in other.err
    lines = [f"{kind}/{number:02d}.png,{'big' if number % 2 else 'small'}" for kind in KINDS for number in range(6)]
    Path("sizes.csv").write_text("\n".join(["id,size", *lines]))
    third = done("evaluate", "a/photos", "--labels", "sizes.csv", *words)
    assert kept(third) == "runs/photos-3/"
    assert "runs/photos/ holds a run over other label sets" in third.err


def test_evaluate_puts_no_results_into_a_folder_of_other_things(new: Path) -> None:
    Path("runs/photos").mkdir(parents=True)
    Path("runs/photos/thesis.tex").touch()
    words = ["evaluate", "photos", "--cv", "2", "--jobs", "1", "--head", "centroid"]
    outcome = done(*words)
    assert kept(outcome) == "runs/photos-2/" and "runs/photos/ holds no run;" in outcome.err
    wanted = "expected a run or an empty folder to put the results in, got thesis.tex and no run.json"
    assert refused(*words, "--out", "runs/photos") == (f"runs/photos: {wanted}", "--out runs/photos/run")
    assert [path.name for path in Path("runs/photos").iterdir()] == ["thesis.tex"]
    Path("empty").mkdir()
    for head in ("centroid", "ridge"):  # a run is replaced where it is named, whatever it was about
        assert kept(done(*words[:-1], head, "--out", "empty")) == "empty/"


def test_evaluate_marks_what_is_tied_and_says_what_the_parameters_are_of(evaluated: Outcome) -> None:
    run = json.loads(Path("runs/photos/run.json").read_text())
    by_choice = [row for row in run["results"] if row["scoring"] == "balanced_accuracy"]
    assert [bool(row["tied"]) and number > 0 for number, row in enumerate(by_choice)] == [
        "  = " in line for line in evaluated.lines[1:]
    ]
    assert any("  = " in line for line in evaluated.lines)  # logistic and knn are both right on nearly all
    assert "  = tied: the best is not shown to be better (corrected t-test over the folds" in evaluated.err
    assert "  parameters: those selected in most folds; a saved model has its own" in evaluated.err
    assert "  log loss: lower is better" in evaluated.err


def test_evaluate_no_nested_marks_its_scores(place: Path) -> None:
    outcome = done("evaluate", "photos", "--cv", "3", "--no-nested", "--jobs", "1")
    assert all(" *" in line for line in outcome.lines[1:])
    assert "* optimistic" in outcome.err
    assert "--no-nested" in outcome.then_command
    said = json.loads(done("evaluate", "photos", "--cv", "3", "--no-nested", "--jobs", "1", "--json").out)
    assert all(row["optimistic"] and not row["nested"] for row in said["results"])


def test_evaluate_with_a_test_set_says_which_column_is_whose(place: Path) -> None:
    class_folders(Path("valid"), 4, first=50)
    outcome = done("evaluate", "photos", "--test", "valid", "--cv", "3", "--jobs", "1")
    header = outcome.lines[0]
    assert "balanced acc. (95%)" in header and "on the test set (95%)" in header and "accuracy (test)" in header
    assert "8 more in the test set" in outcome.err
    words = outcome.then_command
    assert words[words.index("--test") + 1] == "valid"
    fitted = run_then(outcome)
    assert fitted.next_command == ["pipeline", "predict", "photos.model", "NEW_PHOTOS", "--jobs", "1"]
    assert len(predict_next(fitted, "valid")) == 8


def test_evaluate_reads_train_and_val_as_a_fixed_split(place: Path) -> None:
    for part, first in (("train", 0), ("val", 50)):
        class_folders(Path("parts", part), 6, first=first)
    outcome = done("evaluate", "parts", "--cv", "3", "--jobs", "1")
    assert "read as a fixed split, not as classes" in outcome.err
    assert "on the test set" in outcome.lines[0]
    outcome = done("evaluate", "parts", "--split", "none", "--cv", "3", "--jobs", "1")
    assert "on the test set" not in outcome.lines[0] and "24 images" in outcome.err
    assert "split" not in {line.split()[0] for line in outcome.lines if line}
    assert "--split" in outcome.then_command


@pytest.fixture
def flat(new: Path) -> Path:
    """Photos without class folders, a table of them, and the folder they are in."""
    lines = ["file,species,size,site"]
    for number in range(24):
        kind = KINDS[number % 2]
        photo(Path(f"flat photos/{number:02d}.png"), kind, number)
        lines.append(f"{number:02d}.png,{kind if number < 20 else ''},{number * 1.5},s{number // 2 % 4}")
    Path("its labels.csv").write_text("\n".join(lines) + "\n")
    return Path("flat photos")


def test_evaluate_of_a_flat_folder_and_a_table(flat: Path) -> None:
    words = ["evaluate", flat, "--labels", "its labels.csv", "--column", "species", "--groups", "site"]
    outcome = done(*words, "--cv", "2", "--jobs", "1")
    assert "4 of 24 images have no label and are left out, e.g. 20.png" in outcome.err
    assert "20 images, 2 folds, 4 groups" in outcome.err
    # Blanks in names survive the pasting.
    assert outcome.then_command[:8] == (
        ["pipeline", "fit", "flat photos", "--labels", "its labels.csv", "--column", "species", "--groups"]
    )
    answers = predict_next(run_then(outcome), flat)
    assert [row["id"] for row in answers[-4:]] == ["20.png", "21.png", "22.png", "23.png"]


def test_evaluate_of_several_label_sets_prints_a_table_each(flat: Path) -> None:
    words = ["evaluate", flat, "--labels", "its labels.csv", "--groups", "site", "--cv", "2", "--jobs", "1"]
    outcome = done(*words)
    tables = outcome.out.split("\n\n")
    assert [table.split()[0] for table in tables] == ["species", "size"]
    assert "R2 (95%)" in tables[1]
    assert outcome.then_command.count("--column") == 1
    assert json.loads(run_then(outcome, "--json").out)["label_set"] == "species"


def test_evaluate_of_a_table_alone(flat: Path) -> None:
    outcome = done("evaluate", "its labels.csv", "--root", flat, "--id", "file", "--column", "species", "--jobs", "1")
    assert "20 images" in outcome.err
    assert len(predict_next(run_then(outcome), flat)) == 24


def test_evaluate_of_an_array_file_and_of_a_built_in_name(new: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(20) % 2
    images = rng.integers(0, 100, (20, 16, 16, 3), dtype=np.uint8) + (y * 100)[:, None, None, None].astype(np.uint8)
    np.savez("cells.npz", images=images, label=y.astype(str))
    outcome = done("evaluate", "cells.npz", "--head", "ridge", "--jobs", "1", "--cv", "3")
    assert "20 images" in outcome.err


def test_evaluate_of_a_cache_by_path_and_by_short_name(place: Path) -> None:
    words = ["--cv", "3", "--head", "ridge", "--jobs", "1"]
    tables = [
        [line.split()[:6] for line in done("evaluate", data, *words).lines]
        for data in ("photos", the_cache(), the_cache().stem.rpartition("-")[0])
    ]
    assert tables[0] == tables[1] == tables[2]


def test_evaluate_of_a_short_name_alone(new: Path) -> None:
    outcome = done("evaluate", "photos", "--cv", "3", "--head", "ridge", "--jobs", "1")  # there is no such folder here
    assert "24 images" in outcome.err
    assert len(predict_next(run_then(outcome), the_cache())) == 24


def test_evaluate_of_two_caches_of_the_same_images_compares_them(place: Path) -> None:
    other = done("extract", "photos", "--backbone", "efficientnet_lite0:random", "--cache", "others").out.strip()
    outcome = done("evaluate", the_cache(), other, "--cv", "3", "--head", "ridge", "--jobs", "1")
    assert "backbone" in outcome.lines[0] and outcome.out.count("ridge") == 2
    assert outcome.then_command[2] in (str(the_cache()), other)
    assert run_then(outcome).out == "photos.model\n"


# --- fit, predict, score


def test_fit_prints_the_model_s_path_alone(place: Path) -> None:
    outcome = done("fit", "photos", "--out", "a model", "--cv", "3", "--jobs", "1", "--no-weights")
    assert outcome.out == "a model\n"
    assert "balanced acc. (95%)" in outcome.err and "label: right on" in outcome.err
    assert not Path("a model/backbone.safetensors").exists()
    assert len(predict_next(outcome, "photos")) == 24
    said = json.loads(done("fit", "photos", "--out", "a model", "--cv", "3", "--jobs", "1", "--json").out)
    assert said["model"] == "a model" and said["classes"] == ["ants", "bees"]
    assert Path("a model/backbone.safetensors").exists()


def test_a_score_no_better_than_a_baseline_names_the_page_that_explains_it(new: Path) -> None:
    X, y = blobs(60, apart=3.0)
    noise = [f"{number}" for number in np.random.default_rng(0).integers(0, 2, 60)]
    made = make_cache(Path("made.h5"), X, {"kind": names(y), "noise": noise})
    words = ["evaluate", made.path, "--head", "centroid", "--cv", "3", "--jobs", "1", "--out"]
    see = "see: docs/why_is_my_score_lower.md"
    assert see in done(*words, "noisy", "--column", "noise").err
    good = done(*words, "good", "--column", "kind")
    assert see not in good.err
    assert good.next_command == ["pipeline", "report", "good"]
    assert good.then_command[-4:] == ["--run", "good", "--out", "made.model"]


def test_predict_gives_one_row_an_input(new: Path, place: Path) -> None:
    photo(Path("new/a.png"), "ants", 77)
    photo(Path("new/b.png"), "bees", 77)
    Path("new/text.jpg").write_text("no photo")
    outcome = done("predict", place / "bees.model", "new")
    answers = rows(outcome.out)
    assert list(answers[0]) == ["id", "label", "probability", "label_2", "probability_2", "unfamiliar", "error"]
    assert [row["id"] for row in answers] == ["a.png", "b.png", "text.jpg"]
    assert [row["label"] for row in answers] == ["ants", "bees", ""]
    assert 0.5 <= float(answers[0]["probability"]) <= 1
    assert [bool(row["error"]) for row in answers] == [False, False, True]
    assert "not an image" in answers[2]["error"]
    assert "not predicted: text.jpg: not an image" in outcome.err
    assert outcome.err.endswith("3 images, 1 without a prediction\n")


def test_predict_takes_photos_one_by_one(new: Path, place: Path) -> None:
    for name in ("a.png", "b.png"):
        photo(Path(name), "ants", 77)
    assert [row["id"] for row in rows(done("predict", place / "bees.model", "b.png", "a.png").out)] == [
        "b.png",
        "a.png",
    ]
    assert len(rows(done("predict", place / "bees.model", "a.png").out)) == 1


def test_predict_writes_the_same_answers_into_files(new: Path, place: Path) -> None:
    class_folders(Path("new"), 2, first=60)
    words = ["predict", place / "bees.model", "new", "--top", "1"]
    wanted = pd.DataFrame(rows(done(*words).out))
    assert list(wanted.columns) == ["id", "label", "probability", "unfamiliar", "error"]
    readers = {
        "out/answers.csv": pd.read_csv,
        "out/answers.parquet": pd.read_parquet,
        "out/answers.jsonl": lambda path: pd.read_json(path, lines=True),
    }
    for name, read in readers.items():
        assert done(*words, "--out", name).out == f"{name}\n"
        found = read(name)
        assert list(found.columns) == list(wanted.columns)
        assert list(found["id"]) == list(wanted["id"])
        assert list(found["label"]) == list(wanted["label"])
        assert np.allclose(found["probability"], wanted["probability"].astype(float), atol=1e-5)
    said = json.loads(done(*words, "--json").out)
    assert [row["id"] for row in said["predictions"]] == list(wanted["id"])
    assert json.loads(done(*words, "--json", "--out", "a.csv").out) == {"images": 4, "failed": 0, "out": "a.csv"}


def test_score_names_strange_classes_and_known_photos(new: Path, place: Path) -> None:
    class_folders(Path("new"), 3, ("ants", "bees", "wasps"), first=60)
    shutil.copy(place / "photos/ants/00.png", "new/ants/known.png")
    outcome = done("score", place / "bees.model", "new")
    assert outcome.lines[0].split()[0] == "label"
    scorings = ["balanced acc.", "accuracy", "macro F1", "log loss"]
    named = [line.split("  ")[0] for line in outcome.lines[1:]]
    assert named == [*scorings, *(f"{scoring} without training photos" for scoring in scorings)]
    assert "classes that training never saw count as wrong: wasps (3)" in outcome.err
    assert "1 of 10 photos were in the training data, e.g. ants/known.png" in outcome.err
    said = json.loads(done("score", place / "bees.model", "new", "--json").out)
    assert said["unknown_classes"] == {"wasps": 3} and said["seen_in_training"] == ["ants/known.png"]
    by_name = {score["scoring"]: score["value"] for score in said["scores"]}
    assert by_name["accuracy"] <= 0.7
    assert {score["n"] for score in said["scores_apart"]} == {9}


# --- cache, backbones, heads


def test_cache_commands(new: Path) -> None:
    name = the_cache().stem.rpartition("-")[0]
    outcome = done("cache", "list")
    assert the_cache().name in outcome.out and "complete" in outcome.out
    listed = json.loads(done("cache", "list", "--json").out)
    assert [Path(item["cache"]) for item in listed["caches"]] == [the_cache()] and listed["refused"] == {}
    for reference in (name, "photos", the_cache()):
        assert done("cache", "verify", reference).out == f"{the_cache()}: 24 rows, sound\n"
        said = json.loads(done("cache", "info", reference, "--json").out)
        assert (
            said["images"] == said["stored"] == 24 and said["provenance"]["recipe"]["backbone"] == "efficientnet_lite0"
        )
    assert "recipe.weights_sha256" in done("cache", "info", name).out
    path = the_cache()
    assert done("cache", "remove", name).out == f"removed {path}\n"
    assert not list(Path("features_cache").glob("*.h5*"))
    outcome = done("cache", "list")
    assert outcome.out == "" and "no caches in features_cache/" in outcome.err


def test_backbones_lists_and_describes(place: Path) -> None:
    outcome = done("backbones")
    assert any(line.startswith("efficientnet_lite0  bundled (available)") for line in outcome.lines)
    assert any(line.startswith("resnet50 ") for line in outcome.lines)
    text = run_next(outcome).out
    assert "IMAGENET1K_V2" in text and "penultimate" in text
    said = json.loads(done("backbones", "efficientnet_lite0", "--json").out)
    assert said["name"] == "efficientnet_lite0"
    assert {name for layer in said["layers"] for name in layer["called"]} == {"early", "middle", "late", "penultimate"}


def test_heads_say_estimator_grid_and_probabilities(place: Path) -> None:
    text = done("heads").out
    for name in ("logistic", "linear-svm", "ridge", "lda", "knn", "centroid", "naive-bayes", "rbf-svm"):
        assert f"\n  {name} (" in text
    one = done("heads", "logistic").out
    assert "LogisticRegression" in one and "C: 0.0001, 0.001, 0.01, 0.1, 1, 10, 100" in one and "probabilities" in one
    said = json.loads(done("heads", "--json").out)
    assert {"name", "kind", "estimator", "grid", "probabilities"} <= said["heads"][0].keys()


# --- what all commands share


@pytest.mark.parametrize(
    "words",
    [
        ["extract", "photos"],
        ["evaluate", "photos", "--cv", "3", "--head", "ridge", "--jobs", "1"],
        ["fit", "photos", "--cv", "3", "--head", "ridge", "--jobs", "1", "--out", "quiet.model"],
        ["predict", "bees.model", "photos/ants/00.png"],
        ["score", "bees.model", "photos"],
        ["cache", "list"],
        ["cache", "info", "photos"],
        ["cache", "verify", "photos"],
        ["cache", "list", "--cache", "none"],
        ["backbones"],
        ["heads"],
    ],
    ids=" ".join,
)
def test_quiet_says_nothing_on_stderr(words: list[str], place: Path) -> None:
    loud, quiet = done(*words), done(*words, "--quiet")
    assert quiet.err == ""
    if words[0] != "evaluate":  # whose table has seconds in it
        assert quiet.out == loud.out


def test_python_m_pipeline_is_the_same(place: Path) -> None:
    outcome = in_a_process("extract", "photos", cwd=place)
    assert (outcome.code, outcome.out) == (0, f"{the_cache()}\n")
    assert outcome.next_command[:2] == ["pipeline", "evaluate"]
    outcome = in_a_process("extract", "gone/photos", cwd=place)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "error: gone/photos: no such file or folder\ntry: see what is there: ls .\n"
    outcome = in_a_process("predict", "bees.model", "photos/ants/00.png", "--quiet", cwd=place)
    assert (outcome.code, outcome.err) == (0, "")


def test_a_reader_that_leaves_early_is_no_error(place: Path) -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m pipeline backbones | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr


def test_names_are_printed_as_they_are(new: Path, place: Path) -> None:
    strange = "a [red]:bee: é.png"
    photo(Path("new", strange), "ants", 1)
    assert rows(done("predict", place / "bees.model", f"new/{strange}").out)[0]["id"] == f"new/{strange}"  # as given
    Path("new", "[bold]x.jpg").write_text("no photo")
    assert "skipped: [bold]x.jpg: not an image" in done("extract", "new").err


def test_the_table_fits_a_narrow_terminal(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.cli.console as console

    words = ["evaluate", "photos", "--cv", "3", "--head", "logistic", "--head", "ridge", "--jobs", "1"]
    wide = done(*words)
    assert "parameters" in wide.lines[0] and "too narrow" not in wide.err
    monkeypatch.setattr(console, "_width", lambda stream: 80)
    narrow = done(*words)
    assert all(len(line) <= 80 for line in narrow.lines)
    assert len(narrow.lines) == len(wide.lines)  # nothing is folded
    assert "columns that this terminal is too narrow for: " in narrow.err


def test_an_outcome_is_what_python_gives(place: Path) -> None:
    import pipeline as pl

    said: dict[str, Any] = json.loads(
        done("evaluate", "photos", "--cv", "3", "--head", "ridge", "--jobs", "1", "--json").out
    )
    run = pl.evaluate("photos", heads="ridge", cv=3, n_jobs=1).as_dict()
    for row in [*said["results"], *run["results"]]:
        row.pop("seconds")
    assert said["results"] == json.loads(json.dumps(run["results"]))


def test_many_label_sets_are_told_in_one_table_and_answered_in_one(flat: Path) -> None:
    rng = np.random.default_rng(0)
    header = ["file", *(f"c{n}" for n in range(6)), "tags", "shot"]
    lines = [",".join(header)]
    for number in range(24):
        tags = "|".join(tag for tag, there in (("a", number % 2), ("b", number % 3 == 0)) if there) or "|"
        lines.append(",".join([f"{number:02d}.png", *rng.choice(["x", "y"], 6), tags, str(1000 + number)]))
    Path("many.csv").write_text("\n".join([*lines, "99.png,x,y,x,y,x,y,a,5000"]) + "\n")
    words = ["evaluate", flat, "--labels", "many.csv", "--id", "file", "--column", "*", "--column", "tags:multi"]
    outcome = done(*words, "--head", "ridge", "--grid", "ridge.alpha=1", "--cv", "2", "--jobs", "1", "--out", "many")
    told, answered = outcome.err.splitlines(), outcome.out.splitlines()
    assert told[0].split() == ["label", "set", "kind", "rows", "classes", "missing"]
    assert told[1].split() == ["c0", "class", "24", "x,", "y", "0"]
    assert told[7].split() == ["tags", "multi", "24", "a,", "b", "0"]
    assert told[8] == "note: many.csv: 1 of 25 ids is no image here, e.g. 99.png"
    assert told[9].startswith("note: columns left out (--column NAME uses one): 'shot': 24 different whole numbers")
    assert answered[0].split()[:3] == ["label", "set", "by"] and len(answered) == 8
    assert [line.split()[0] for line in answered[1:]] == [*(f"c{n}" for n in range(6)), "tags"]
    assert "kept in many/: every head in leaderboard.csv, the verdicts in run.json" in outcome.err
    assert "on new photos with" not in outcome.err
    assert outcome.then_command[3:5] == ["--column", "c0"]
    said = json.loads(Path("many", "run.json").read_text())
    assert said["joined"][0]["match"]["strangers"] == 1 and len(said["verdicts"]) == 7
    assert said["joined"][0]["skipped"][0]["column"] == "shot"


def test_one_hot_columns_go_from_a_table_to_answers_and_scores(flat: Path) -> None:
    lines = ["file,is_ant,is_bee", *(f"{number:02d}.png,{1 - number % 2},{number % 2}" for number in range(24))]
    Path("bits.csv").write_text("\n".join(lines) + "\n")
    labels = ["--labels", "bits.csv"]
    found = done("evaluate", flat, *labels, "--column", "is_*:onehot", "--head", "ridge", "--cv", "2", "--jobs", "1")
    assert found.then_command[3:7] == [*labels, "--column", "is_*:onehot"]
    fitted = run_then(found)
    model = fitted.out.strip()
    answers = predict_next(fitted, flat)
    assert [row["label"] for row in answers] == ["ant", "bee"] * 12
    error, step = refused("score", model, flat, *labels)
    assert error == "--column: expected the column 'is', got 'is_ant', 'is_bee'"
    assert (
        step == "2 columns (is_ant, is_bee) have exactly one 1 per image; --column 'is_*:onehot' reads them as one "
        "label set"
    )
    scored = json.loads(done("score", model, flat, *labels, "--column", "is_*:onehot", "--json").out)
    assert {score["scoring"]: score["value"] for score in scored["scores"]}["accuracy"] == 1.0


def test_tags_go_from_a_table_to_answers(flat: Path) -> None:
    lines = ["file,tags"]
    for number in range(24):
        lines.append(f"{number:02d}.png," + (";".join(["ab"[number % 2], *("c" if number % 3 else "")])))
    Path("tags.csv").write_text("\n".join(lines) + "\n")
    words = ["--labels", "tags.csv", "--id", "file", "--column", "tags:multi", "--head", "ridge", "--grid"]
    outcome = done("evaluate", flat, *words, "ridge.alpha=1", "--cv", "2", "--jobs", "1", "--out", "tags-run")
    assert "av. precision (95%)" in outcome.out and "micro F1" in outcome.out
    assert "note: tags: cells are split at ';'" in outcome.err
    assert "tags: mean average precision " in outcome.err
    again = done("evaluate", flat, *words, "ridge.alpha=1", "--cv", "2", "--jobs", "1", "--out", "tags-run")
    assert [line.split()[:-1] for line in again.lines] == [line.split()[:-1] for line in outcome.lines]
    assert "units are stored from an earlier run" in again.err
    run_then(outcome)
    answers = rows(done("predict", outcome.then_command[-1], flat, "--top", "1").out)
    assert list(answers[0]) == ["id", "label", "tag", "score", "unfamiliar", "error"]
    assert set("".join(row["label"] for row in answers)) <= set("abc;")
