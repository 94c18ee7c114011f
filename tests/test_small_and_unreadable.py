"""Images that cannot be read are named first, and classes that are too small can be left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import class_folders, done, photo, refused
from made_caches import blobs, make_cache
from pyarrow import parquet

from pipeline.errors import EvaluationError, LabelError, PipelineError, SkipReason
from pipeline.evaluation import evaluate
from pipeline.model import fit
from pipeline.runs import Run
from pipeline.studies import study

PAGE = b"<!doctype html><p>403 Forbidden"
LOOK = "look at that file: it may be a web page or a note with a photo's name; replace or remove such files"


def run_of(data: Any, **options: Any) -> Run:
    return evaluate(data, **{"heads": "centroid", "cv": 2, "n_jobs": 1, **options})


def pages(root: Path, *kinds: str, count: int = 4) -> Path:
    """Write web pages under the names of photos."""
    for kind in kinds:
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / kind / f"{number:02d}.png").write_bytes(PAGE)
    return root


# --- images that cannot be read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [run_of, fit, study])
def test_images_that_are_all_unreadable_are_the_error(tmp_path: Path, function: Any) -> None:
    photos = pages(tmp_path / "pages", "a", "b", count=8)
    with pytest.raises(EvaluationError) as caught:
        function(photos, cache=tmp_path / "caches")
    assert caught.value.message == "pages: 16 of 16 images cannot be read, e.g. a/00.png: not an image"
    assert caught.value.next_step == LOOK


def test_the_command_names_unreadable_images_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pages(tmp_path / "pages", "a", "b")
    assert refused("evaluate", "pages", "--head", "centroid", "--cv", 2) == (
        "pages: 8 of 8 images cannot be read, e.g. a/00.png: not an image",
        LOOK,
    )


def test_extract_of_unreadable_images_alone_suggests_no_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = done("extract", pages(tmp_path / "pages", "a", "b"))
    assert "skipped: a/00.png: not an image" in outcome.err
    assert "no image can be read: there is nothing to evaluate" in outcome.err
    assert "next: " not in outcome.err


def test_parquet_rows_with_a_path_alone_say_so(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": f"{number}.png"} for number in range(8)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(rows, kind), "label": ["a", "b"] * 4})
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(EvaluationError) as caught:
        run_of(tmp_path / "t.parquet", cache=tmp_path / "caches")
    assert caught.value.message == (
        "t: 8 of 8 images cannot be read, e.g. 0.png: no bytes in the table's cell, at most a path"
    )
    assert caught.value.next_step == (
        "write the bytes of the images into the table, or give a table of paths with --root DIR"
    )


@pytest.mark.parametrize("function", [run_of, fit, study])
def test_a_class_lost_to_unreadable_images_is_named_before_what_follows(tmp_path: Path, function: Any) -> None:
    photos = pages(class_folders(tmp_path / "half", 8, ("ants",)), "b", count=5)
    with pytest.raises(LabelError) as caught:
        function(photos, cache=tmp_path / "caches")
    assert caught.value.message == (
        "half: 5 of 13 images cannot be read, e.g. b/00.png: not an image; no image of 'b' (5) can be read; so: "
        "column 'label': expected two classes or more, got only 'ants' (8 images)"
    )
    assert caught.value.next_step == LOOK


def test_a_run_that_goes_on_without_a_class_says_so_first(tmp_path: Path) -> None:
    X, _ = blobs(40)
    kinds = [f"class {row % 2}" for row in range(36)] + ["lost"] * 4
    made = make_cache(tmp_path / "a.h5", X, {"kind": kinds}, failed=dict.fromkeys(range(36, 40), SkipReason.EMPTY))
    run = run_of(made)
    assert run.info().classes == ("class 0", "class 1")
    assert run.notes[0] == "made: 4 of 40 images have no features and are left out, e.g. 00036.jpg: empty file"
    assert "no image of 'lost' (4) can be read" in run.notes


def test_a_class_too_small_without_its_unreadable_images_names_them(tmp_path: Path) -> None:
    X, _ = blobs(30)
    kinds = ["ant"] * 15 + ["bee"] * 15
    made = make_cache(tmp_path / "a.h5", X, {"kind": kinds}, failed=dict.fromkeys(range(17, 30), SkipReason.FORBIDDEN))
    with pytest.raises(EvaluationError) as caught:
        run_of(made, cv=5)
    assert caught.value.message == (
        "made: 13 of 30 images cannot be read, e.g. 00017.jpg: no permission to read the file; so: "
        "expected 5 images per class, one per fold, got 2 images of 'bee'"
    )
    # An error that has nothing to do with them stays as it is.
    with pytest.raises(LabelError, match=r"^expected a column 'size'"):
        run_of(made, column="size")


# --- classes that are too small ---------------------------------------------------------------------------------------


def three(path: Path, rare: int = 3, **columns: Any) -> Any:
    """Write a cache of two classes with 20 images each, and one with few."""
    X, _ = blobs(40 + rare)
    kinds = [f"class {row % 2}" for row in range(40)] + ["rare"] * rare
    return make_cache(path, X, {"kind": kinds, **columns})


def test_a_class_too_small_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    made = three(tmp_path / "a.h5")
    with pytest.raises(EvaluationError) as caught:
        run_of(made, cv=5)
    assert caught.value.message == "expected 5 images per class, one per fold, got 3 images of 'rare'"
    assert caught.value.next_step == (
        "pass --min-class-size 5 to leave it out, or add images of 'rare', or use fewer folds: --cv 3"
    )
    run = run_of(made, cv=5, min_class_size=5)
    assert (run.info().classes, run.info().n) == (("class 0", "class 1"), 40)
    assert "--min-class-size 5 leaves out 1 class: 'rare' (3), 3 images" in run.notes
    # The same rows and labels as without those images: the same question, and the same answer.
    X, _ = blobs(43)
    alone = make_cache(tmp_path / "b.h5", X[:40], {"kind": made.columns["kind"][:40]})
    assert [r.fold_scores for r in run_of(alone, cv=5).results] == [r.fold_scores for r in run.results]
    assert run_of(made, cv=3, min_class_size=3).info().classes == ("class 0", "class 1", "rare")
    assert run_of(made, cv=3).info().classes == ("class 0", "class 1", "rare")


def test_too_few_classes_left_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        run_of(three(tmp_path / "a.h5"), min_class_size=21)
    assert caught.value.message == (
        "label set 'kind': expected two classes with 21 images or more, got none; fewer images: "
        "'rare' (3), 'class 0' (20), 'class 1' (20)"
    )
    assert caught.value.next_step == "pass a smaller --min-class-size, or add images of 'class 0'"


def test_a_small_class_is_left_out_of_the_test_part_too(tmp_path: Path) -> None:
    split = ["test" if row % 4 == 0 or row == 41 else "train" for row in range(45)]
    made = three(tmp_path / "a.h5", 5, split=split)
    run = run_of(made, min_class_size=6)
    assert run.info().classes == ("class 0", "class 1")
    assert (run.info().n, run.info().test) == (30, 10)
    assert not any("never saw" in note for note in run.notes)
    assert "--min-class-size 6 leaves out 1 class: 'rare' (2), 2 images to train on and 3 to test on" in run.notes


def test_a_class_of_the_test_set_alone_still_counts_as_wrong(tmp_path: Path) -> None:
    X, _ = blobs(12)
    test = make_cache(tmp_path / "t.h5", X, {"kind": ["class 0", "class 1", "rare", "new"] * 3}, name="new photos")
    run = run_of(three(tmp_path / "a.h5"), test=test, min_class_size=5)
    assert run.info().classes == ("class 0", "class 1")
    assert run.info().test == 9
    assert "new photos: classes that training never saw count as wrong: new (3)" in run.notes


def test_rare_tags_are_left_out_and_their_images_stay(tmp_path: Path) -> None:
    X, _ = blobs(40)
    cells = [";".join(["red"] * (row % 2) + ["web"] * (row % 3 == 0) + ["moss"] * (row == 7)) for row in range(40)]
    cells[2] = "red;web"
    made = make_cache(tmp_path / "a.h5", X, {"tags": [cell or None for cell in cells]})
    run = run_of(made, column="tags:multi", heads="ridge", grid={"ridge.alpha": 1.0}, min_class_size=2)
    assert run.info().classes == ("red", "web")
    assert run.info().n == sum(map(bool, cells))
    assert "--min-class-size 2 leaves out 1 tag: 'moss' (1)" in run.notes


def test_study_and_fit_leave_small_classes_out(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "p", 6)
    photo(photos / "wasps" / "0.png", "wasps", 0)
    with pytest.raises(EvaluationError) as caught:
        study(photos, cache=tmp_path / "caches")
    assert caught.value.message == "study: expected 4 images per class to train and test on, got 1 image of 'wasps'"
    assert caught.value.next_step == "pass --min-class-size 4 to leave it out, or add images of 'wasps'"
    model = fit(photos, cache=tmp_path / "caches", heads="centroid", cv=2, min_class_size=4, n_jobs=1)
    assert model.classes == ("ants", "bees")
    assert any(note.startswith("--min-class-size 4 leaves out 1 class: 'wasps' (1)") for note in model.notes)


def test_numbers_have_no_classes_to_leave_out(tmp_path: Path) -> None:
    X, _ = blobs(40)
    made = make_cache(tmp_path / "a.h5", X, {"size": [f"{value:.3f}" for value in X[:, 0]]})
    options: dict[str, Any] = {"column": "size:number", "heads": "ridge", "grid": {"ridge.alpha": 1.0}}
    assert run_of(made, min_class_size=30, **options).info().n == 40
    with pytest.raises(PipelineError, match="min_class_size"):
        run_of(made, min_class_size=0, **options)
