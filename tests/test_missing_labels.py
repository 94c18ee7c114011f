"""Missing labels: NaN, None, NaT and NA are missing wherever they come from; other markers are reported."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import done, refused
from made_caches import blobs, make_cache
from test_model_folder import default_cache

from pipeline.errors import LabelError
from pipeline.evaluation import evaluate
from pipeline.images import ImageSource
from pipeline.images.values import value_text
from pipeline.labels import group_codes, label_sets, read_label_table
from pipeline.model import fit

QUICK = {"heads": "centroid", "cv": 2, "n_jobs": 1}
GONE = [None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), "", " NA ", "nan", "NaN"]


@pytest.mark.parametrize("value", GONE, ids=repr)
def test_missing_values_of_every_type_are_missing(value: object) -> None:
    assert value_text(value) is None


def test_missing_values_are_no_class_in_a_mapping(tmp_path: Path) -> None:
    X, y = blobs(24, d=4, classes=2, apart=6.0)
    cache = make_cache(tmp_path / "a.h5", X)
    labels = {name: GONE[row] if row < len(GONE) else f"k{y[row]}" for row, name in enumerate(cache.ids)}
    run = evaluate(cache, labels={"kind": labels}, **QUICK)
    assert run.label_sets[0].classes == ("k0", "k1") and run.label_sets[0].unlabelled == len(GONE)


def test_missing_values_in_columns_given_to_the_functions() -> None:
    ids = list("abcd")
    values: list = ["x", float("nan"), "y", pd.NA]
    assert label_sets(ids, {"kind": values})[0].rows.tolist() == [0, 2]
    with pytest.raises(LabelError, match="got 2 images without one"):
        group_codes(ids, {"g": values}, "g")


def test_missing_dates_in_an_array_file_are_missing(tmp_path: Path) -> None:
    days = np.array(["2024-01-01", "NaT", "2024-01-03"], "datetime64[D]")
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8), day=days)
    assert ImageSource.open(tmp_path / "a.npz").columns["day"] == ["2024-01-01", None, "2024-01-03"]


def test_missing_cells_of_parquet_are_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame({
        "id": ["a", "b"], "when": [pd.Timestamp("2024-01-01"), pd.NaT], "t": ["x", None],
        "n": pd.array([1, None], "Int64"), "b": pd.array([True, None], "boolean"),
    })  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet")
    read = read_label_table(tmp_path / "t.parquet")
    assert {name: values["b"] for name, values in read.items()} == dict.fromkeys(["when", "n", "t", "b"])


# --- markers


def test_a_likely_marker_is_reported_with_its_count_and_the_option() -> None:
    ids = [str(row) for row in range(8)]
    found = label_sets(ids, {"kind": ["a", "b", "NULL", "a", "b", "#N/A", "NULL", "-"]})[0]
    assert found.classes == ("#N/A", "-", "NULL", "a", "b")
    assert (
        "kind: '#N/A' (1 image), '-' (1 image), 'NULL' (2 images) are each read as a class; "
        "--missing '#N/A' --missing=- --missing NULL reads them as missing" in found.notes
    )
    named = label_sets(ids, {"kind": ["a", "none"] * 4}, kinds={"kind": "class"})[0]
    assert named.notes == ()  # a class folder called none is a class


def test_a_marker_among_numbers_is_an_error_that_names_the_image() -> None:
    ids = [f"p{row}.png" for row in range(10)]
    values = [f"{row / 7:.3f}" if row % 5 else "NULL" for row in range(10)]
    with pytest.raises(LabelError) as caught:
        label_sets(ids, {"w": values})
    assert caught.value.message == (
        "column 'w': expected numbers, got 'NULL' in 2 of 10 labels, e.g. 'NULL' for p0.png"
    )
    assert caught.value.next_step == (
        "--missing NULL to read it as missing, or --column w:class to read all labels as classes"
    )
    found = label_sets(ids, {"w": values, "kind": ["a", "b"] * 5})  # one of several: left out, with the reason
    assert [one.name for one in found] == ["kind"]
    assert found.skipped[0].reason == (
        "'NULL' in 2 of 10 labels, the others are numbers (--missing NULL reads it as missing)"
    )
    assert label_sets(ids, {"w": values}, column=["w:class"])[0].kind == "class"


def test_a_rare_text_among_many_decimals_is_an_error_and_sizes_are_classes() -> None:
    ids = [f"p{row}.png" for row in range(40)]
    with pytest.raises(LabelError, match="expected numbers, got 'too small' in 1 of 40 labels"):
        label_sets(ids, {"w": ["too small", *(f"{row / 7:.3f}" for row in range(1, 40))]})
    assert label_sets(ids, {"size": ["1.5", "2.5", "XL", "XXL"] * 10})[0].kind == "class"


def write(path: Path, ids: list[str], texts: list[str], name: str = "kind") -> Path:
    path.write_text(f"id,{name}\n" + "".join(f"{one},{text}\n" for one, text in zip(ids, texts, strict=True)))
    return path


def test_missing_reads_markers_as_missing_and_counts_them(tmp_path: Path) -> None:
    ids = ["a.jpg", "b.jpg", "a.jpg", "c.jpg"]
    path = write(tmp_path / "t.csv", ids, ["NULL", "-999", "bee", "-999.0"])
    read = read_label_table(path, missing=["NULL", "-999", "n.d."])
    assert read == {"kind": {"a.jpg": "bee", "b.jpg": None, "c.jpg": None}}
    assert read.notes == (
        f"{path}: 'NULL' is read as missing in 1 cell (--missing)",
        f"{path}: '-999' is read as missing in 2 cells (--missing)",
        f"{path}: no cell holds 'n.d.' (--missing)",
    )


def test_every_command_that_reads_labels_has_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    X, y = blobs(24, d=8, classes=2, apart=6.0)
    cache = default_cache(tmp_path / "a.h5", X, {})
    numbers = [f"{value:.3f}" if row % 4 else "NULL" for row, value in enumerate(X[:, 0])]
    write(tmp_path / "n.csv", cache.ids, numbers, "w")
    write(tmp_path / "k.csv", cache.ids, [f"k{v}" if row % 4 else "NULL" for row, v in enumerate(y)])
    error, step = refused("evaluate", cache.path, "--labels", "n.csv", "--column", "w", "--cv", 2)
    assert "expected numbers, got 'NULL' in 6 of 24 labels" in error and step.startswith("--missing NULL")
    words = ["--missing", "NULL", "--cv", 2, "--jobs", 1]
    outcome = done("evaluate", cache.path, "--labels", "n.csv", "--head", "ridge", *words, "--out", "run")
    assert "n.csv: 'NULL' is read as missing in 6 cells (--missing)" in outcome.err
    assert "--missing NULL" in outcome.err.splitlines()[-1]  # carried to `fit`
    model = fit(cache, labels="k.csv", missing="NULL", **QUICK)
    assert model.classes == ("k0", "k1")
    assert model.score(cache, "k.csv", missing=["NULL"], n_jobs=1).n == 18
    plain = model.score(cache, "k.csv", n_jobs=1)
    assert plain.unknown_classes == {"NULL": 6}
    assert (
        "kind: 'NULL' (6 images) is read as a class that training never saw; --missing NULL reads it as missing"
        in plain.notes
    )


def test_labels_of_the_source_itself_can_be_missing_too(tmp_path: Path) -> None:
    X, y = blobs(24, d=4, classes=2, apart=6.0)
    cache = make_cache(tmp_path / "a.h5", X, {"kind": [f"k{v}" if row % 4 else "?" for row, v in enumerate(y)]})
    run = evaluate(cache, missing="?", **QUICK)
    assert run.label_sets[0].classes == ("k0", "k1")
    assert "made: '?' is read as missing in 6 cells (--missing)" in run.notes
    assert value_text(datetime.date(2024, 1, 2)) == "2024-01-02"
