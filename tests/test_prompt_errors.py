"""Each mistake a person can make gets two lines, what was wanted and found and what to try; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_caches import blobs, make_cache, names
from PIL import Image

from pipeline.cache import CacheLock
from pipeline.cli import main

Answer = tuple[int, str, str]
Run = Callable[..., Answer]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def go(*words: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["pipeline", *map(str, words)])
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return int(code or 0), said.out, said.err  # type: ignore[call-overload]

    return go


def refused(answer: Answer) -> tuple[str, str]:
    """Return the two lines of an error, after checking that it is one."""
    code, out, err = answer
    assert code == 1, err
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "try: "))]
    assert len(lines) == 2, err
    return lines[0].removeprefix("error: "), lines[1].removeprefix("try: ")


def photos(folder: Path, classes: Mapping[str, int]) -> None:
    """Write small photos, each of its own colour, a folder a class."""
    colour = 0
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            colour += 7
            Image.new("RGB", (24, 24), (colour % 256, number * 5 % 256, 90)).save(folder / name / f"{number:02d}.png")


def cache(path: Path, y: np.ndarray, words: list[str] | None = None) -> Path:
    """Write a cache of planted features with a column `label`."""
    X, _ = blobs(len(y))
    return make_cache(path, X, {"label": names(y) if words is None else words}).path


def test_a_missing_source_is_named(run: Run) -> None:
    error, step = refused(run("evaluate", "fotos"))
    assert "fotos" in error
    assert step


def test_a_folder_without_an_image_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    error, _ = refused(run("extract", "photos"))
    assert "photos: no image in this folder" in error
    assert "notes.txt" in error


def test_an_empty_class_folder_is_named(run: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos", {"ants": 2})
    (tmp_path / "photos" / "bees").mkdir()
    error, step = refused(run("extract", "photos"))
    assert "photos/bees: an empty class folder" in error
    assert "remove the folder" in step


def test_one_class_alone_cannot_be_learned(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "one.h5", np.zeros(12, int))
    error, step = refused(run("evaluate", path))
    assert "ant" in error
    assert step


def test_a_class_smaller_than_the_folds_is_named_with_a_way_out(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "few.h5", np.array([0] * 9 + [1] * 3))
    error, step = refused(run("evaluate", path))
    assert "bee" in error
    assert "3" in error
    assert "--cv 3" in step


def test_a_label_table_without_ids_lists_the_columns_it_has(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    (tmp_path / "labels.csv").write_text("colour,species\nred,ant\n")
    error, step = refused(run("evaluate", path, "--labels", "labels.csv"))
    assert "labels.csv" in error
    assert "colour" in error
    assert "--id" in step


def test_ids_that_match_nothing_are_shown_from_both_sides(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    (tmp_path / "labels.csv").write_text("id,species\nother/7.jpg,ant\n")
    error, _ = refused(run("evaluate", path, "--labels", "labels.csv"))
    assert "other/7.jpg" in error
    assert "00000.jpg" in error


def test_duplicates_that_disagree_are_shown_with_both_labels(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    (tmp_path / "labels.csv").write_text("id,species\n00000.jpg,ant\n00000.jpg,bee\n")
    error, _ = refused(run("evaluate", path, "--labels", "labels.csv"))
    assert "00000.jpg" in error
    assert "'ant' and 'bee'" in error


def test_labels_that_differ_only_in_case_are_shown(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2, ["Bee", "bee", "ant"] * 4)
    error, _ = refused(run("evaluate", path))
    assert "Bee" in error
    assert "bee" in error


def test_a_cache_of_another_format_is_refused_by_its_number(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = np.int64(7)
    error, _ = refused(run("evaluate", path))
    assert "found format 7" in error


def test_a_truncated_cache_is_refused(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    path.write_bytes(path.read_bytes()[:5000])
    error, _ = refused(run("evaluate", path))
    assert "made.h5" in error


def test_a_cache_that_another_process_writes_is_said_to_be_in_use(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    with CacheLock.exclusive(path):
        error, step = refused(run("evaluate", path))
    assert "another process" in error
    assert "wait" in step


def test_a_full_disk_is_said_before_the_first_image(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "photos", {"ants": 3, "bees": 3})
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("pipeline.images.ImageSource.read", lambda *_: pytest.fail("an image was read"))
    error, step = refused(run("extract", "photos"))
    assert "MB free" in error
    assert "--store fp16" in step


def test_unreadable_photos_are_listed_skips(run: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos", {"ants": 3, "bees": 3})
    (tmp_path / "photos" / "ants" / "text.jpg").write_text("not a photo")
    (tmp_path / "photos" / "bees" / "empty.png").write_bytes(b"")
    code, out, _err = run("extract", "photos", "--json", "--jobs", 1)
    assert code == 0
    said = json.loads(out)
    assert (said["images"], said["stored"], said["reused"], said["failed"], said["inferred"]) == (8, 6, 0, 2, 6)
    assert said["skipped"]["ants/text.jpg"].startswith("not an image")
    assert said["skipped"]["bees/empty.png"].startswith("empty file")
    error, step = refused(run("extract", "photos", "--on-error", "stop", "--jobs", 1))
    assert "ants/text.jpg" in error
    assert "--on-error skip" in step


def test_a_model_whose_files_do_not_match_their_hashes_is_refused(run: Run, tmp_path: Path) -> None:
    photos(tmp_path / "photos", {"ants": 6, "bees": 6})
    code, out, err = run("fit", "photos", "--out", "bees.model", "--cv", 2, "--grid", "logistic.C=0.1", "--jobs", 1)
    assert (code, out) == (0, "bees.model\n"), err
    code, out, _ = run("predict", "bees.model", "photos/ants/00.png")
    assert code == 0
    assert out.startswith("id,label,probability,label_2,probability_2,error\n00.png,")
    head = tmp_path / "bees.model" / "head.skops"
    head.write_bytes(head.read_bytes() + b" ")
    error, step = refused(run("predict", "bees.model", "photos/ants/00.png"))
    assert "head.skops" in error
    assert "SHA-256" in error
    assert "fit" in step


def test_a_model_that_is_not_there_is_said_with_the_command_that_makes_one(run: Run) -> None:
    error, step = refused(run("predict", "bees.model", "new.jpg"))
    assert "bees.model" in error
    assert step.startswith("pipeline fit")


def test_a_folder_that_is_no_model_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    error, _ = refused(run("fit", path, "--out", "mine"))
    assert "mine" in error
    assert (tmp_path / "mine" / "diary.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backbone", "resnet5"), "resnet5"),
        (("--layer", "penultimat"), "penultimat"),
        (("--device", "tpu"), "tpu"),
        (("--precision", "fp8"), "fp8"),
    ],
)
def test_unknown_names_are_repeated(run: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    photos(tmp_path / "photos", {"ants": 2, "bees": 2})
    code, _, err = run("extract", "photos", *words)
    assert code in (1, 2)
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said", "step"),
    [
        (("--head", "logistics"), "logistics", "logistic"),
        (("--scoring", "acuracy"), "acuracy", "accuracy"),
        (("--column", "labels"), "labels", "label"),
        (("--groups", "patient"), "patient", "label"),
        (("--grid", "logistic.c_=1"), "c_", "C"),
    ],
)
def test_names_that_evaluate_does_not_know_bring_the_nearest(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str, step: str
) -> None:
    path = cache(tmp_path / "made.h5", np.arange(12) % 2)
    error, way_out = refused(run("evaluate", path, *words))
    assert said in error
    assert step in error + way_out


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert run("evaluate", "--nonsense")[0] == 2
    assert run("evaluate", "photos", "--cv", "one")[0] == 2
