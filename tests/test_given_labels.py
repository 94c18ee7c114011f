"""Labels given in Python: every usual form is joined by id, and every other one is refused with what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from made_caches import blobs, make_cache

from pipeline.errors import LabelError, PipelineError
from pipeline.evaluation import evaluate
from pipeline.labels import given_labels, is_in_order, label_sets

IDS = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
KINDS = ["x", "y", None, "x"]
WANTED = dict(zip(IDS, KINDS, strict=True))
FRAME = pd.DataFrame({"kind": KINDS, "n": [1.0, np.nan, 3.0, 0.5]}, index=IDS)


@pytest.mark.parametrize(
    "labels",
    [
        FRAME[["kind"]],
        FRAME[["kind"]].rename_axis("file"),
        FRAME[["kind"]].reset_index(names="id"),
        FRAME[["kind"]].reset_index(names="File").iloc[::-1],
        FRAME["kind"],
        FRAME["kind"].iloc[[3, 1, 0, 2]],
        FRAME[["kind"]].to_dict(),
        FRAME[["kind"]].to_dict("index"),
        FRAME[["kind"]].to_dict("series"),
        FRAME[["kind"]].to_dict("list"),
        {"kind": WANTED},
    ],
    ids=range(11),
)
def test_every_form_with_names_gives_the_same_column(labels: Any) -> None:
    assert given_labels(labels, IDS) == {"kind": WANTED}


@pytest.mark.parametrize(
    "labels",
    [WANTED, KINDS, tuple(KINDS), np.array(KINDS, object), FRAME["kind"].rename(None), pd.Index(KINDS)],
    ids=["mapping", "list", "tuple", "array", "series", "index"],
)
def test_labels_without_a_name_are_column_label(labels: Any) -> None:
    assert given_labels(labels, IDS) == {"label": WANTED}


def test_typed_cells_have_the_text_of_a_table_and_an_id_column_can_be_named() -> None:
    read = given_labels(FRAME.reset_index(names="photo"), IDS, id_column="photo")
    assert read["n"] == {"a.jpg": "1", "b.jpg": None, "c.jpg": "3", "d.jpg": "0.5"}
    named = given_labels(FRAME.rename_axis("photo"), IDS, id_column="photo")
    assert named == read
    assert given_labels(np.array([True, False, True, True]), IDS)["label"]["b.jpg"] == "false"
    # `image` holds something else, and the index has the ids.
    odd = given_labels(FRAME.assign(image=["i", "j", "k", "l"]), IDS)
    assert odd["image"]["a.jpg"] == "i"


def test_columns_that_were_read_already_and_tables_of_other_libraries() -> None:
    read = given_labels(FRAME[["kind"]], IDS)
    assert given_labels(read, IDS) == read
    assert given_labels(read, IDS, missing=["x"]) == {"kind": {**dict.fromkeys(IDS), "b.jpg": "y"}}
    table = pa.Table.from_pandas(FRAME[["kind"]].reset_index(names="id"))
    assert given_labels(table, IDS) == {"kind": WANTED}
    assert [is_in_order(one) for one in (KINDS, pd.Index(KINDS), np.array(KINDS, object), {"kind": KINDS})] == [
        True
    ] * 4
    assert [is_in_order(one) for one in (WANTED, FRAME, FRAME["kind"], read, "t.csv", None)] == [False] * 6


def test_lists_are_tags_and_categoricals_are_classes() -> None:
    tags = given_labels({"a.jpg": ["red", "big"], "b.jpg": [], "c.jpg": None, "d.jpg": ("red",)}, IDS)
    found = label_sets(IDS, {"label": [tags["label"][name] for name in IDS]}, kinds=tags.kinds)[0]
    assert (found.kind, found.classes, found.y.tolist()) == ("multi", ("big", "red"), [[1, 1], [0, 0], [0, 1]])
    frame = pd.DataFrame({"id": IDS, "plot": pd.Categorical([30, 40, 30, 50])})
    assert given_labels(frame, IDS).kinds == {"plot": "class"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["x", "y"], r"expected 4 labels in the order of the ids \(the first is a\.jpg\), got 2"),
        (np.zeros((4, 2)), r"expected one label per image, got an array of shape \(4, 2\)"),
        (7, "expected a path, a DataFrame, a Series, a mapping, or a list or array in the order of the ids, got int"),
        ({"x"}, "got set"),
        ((name for name in KINDS), "got generator"),
        ({}, "got an empty mapping"),
        ({"kind": WANTED, "age": 3}, "expected a mapping for every column, got int for 'age'"),
        (pd.DataFrame({"kind": KINDS}), r"expected a DataFrame with a column of ids \(id, path.* got row numbers"),
        (pd.Series(KINDS), "expected a Series with the ids as its index, got row numbers"),
        (pd.DataFrame({"id": IDS}), "expected a column of labels beside the ids, got none"),
        (pd.DataFrame([["x", "y"]] * 4, index=IDS, columns=["k", "k"]), "got 'k' twice"),
        (pd.DataFrame({"id": ["a.jpg", "a.jpg"], "k": ["x", "y"]}), "rows of a.jpg disagree in column 'k': 'x'"),
    ],
    ids=range(12),
)  # fmt: skip
def test_other_labels_are_refused_with_what_was_expected(labels: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        given_labels(labels, IDS)
    assert caught.value.next_step


def test_labels_in_the_order_of_ids_never_reach_a_test_set_by_position(tmp_path: Path) -> None:
    X, y = blobs(24, d=4, classes=2, apart=6.0)
    texts = [f"k{v}" for v in y]
    made = make_cache(tmp_path / "a.h5", X)
    ids = [f"new/{row:02d}.jpg" for row in range(24)]
    other = make_cache(tmp_path / "b.h5", -X, {"label": texts[::-1]}, ids=ids, name="b")
    run = evaluate(made, labels=texts, test=other, heads="centroid", cv=2, n_jobs=1)
    assert "b: the label table has none of its ids; its own labels are used" in run.notes
    assert run.label_sets[0].classes == ("k0", "k1")
    bare = make_cache(tmp_path / "c.h5", X, ids=ids, name="c")
    with pytest.raises(PipelineError, match="none in common"):
        evaluate(made, labels=texts, test=bare, heads="centroid", cv=2, n_jobs=1)
