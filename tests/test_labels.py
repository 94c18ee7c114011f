"""The labels room: tables by id, what a column means, and every way a table can be wrong."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LabelError
from pipeline.labels import LabelSet, group_codes, guess_kind, join_labels, label_sets, read_label_table, tidy_id

IDS = [f"{i:03d}.jpg" for i in range(60)]


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def one(values: list[str | None], entry: str = "label") -> LabelSet:
    (found,) = label_sets(IDS[: len(values)], {"label": values}, column=[entry])
    return found


# ------------------------------------------------------------------------------------------------- tables


def test_labels_join_by_id_and_never_by_position(tmp_path: Path) -> None:
    read = read_label_table(table(tmp_path, "file,species\nc.jpg,wasp\na.jpg,bee\nb.jpg,ant\n"))
    assert join_labels(["a.jpg", "b.jpg", "c.jpg"], read) == {"species": ["bee", "ant", "wasp"]}


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_any_order_of_rows_and_ids_joins_alike(rows: list[int], ids: list[int]) -> None:
    read = {"label": {f"f/{i}.png": f"class {i}" for i in rows}}
    assert join_labels([f"f/{i}.png" for i in ids], read)["label"] == [f"class {i}" for i in ids]


@pytest.mark.parametrize("text", ["./bees/1.jpg", "bees\\1.jpg", " bees/1.jpg ", ".\\bees\\1.jpg", "././bees/1.jpg"])
def test_ids_are_compared_in_one_form(text: str) -> None:
    assert tidy_id(text) == "bees/1.jpg"
    assert join_labels(["bees/1.jpg"], {"label": {text: "bee"}})["label"] == ["bee"]


def test_composed_and_decomposed_letters_are_one_id() -> None:
    assert join_labels(["cafe\u0301.jpg"], {"label": {"caf\u00e9.jpg": "x"}})["label"] == ["x"]


def test_missing_rows_and_cells_are_none_and_strangers_are_named(tmp_path: Path) -> None:
    read = read_label_table(table(tmp_path, "id,label\na.jpg,007\nb.jpg,NA\nz.jpg,1\ny.jpg,1\n"))
    joined = join_labels(["a.jpg", "b.jpg", "c.jpg"], read)
    assert joined == {"label": ["007", None, None]}
    assert joined.match is not None
    assert joined.match.notes == (f"{tmp_path / 'labels.csv'}: 2 of 4 ids are no image here, e.g. z.jpg",)


def test_rows_without_an_id_are_counted(tmp_path: Path) -> None:
    read = read_label_table(table(tmp_path, "id,label\na.jpg,1\n,2\n"))
    assert "1 of 2 rows have no id and are left out" in read.notes[0]  # type: ignore[attr-defined]
    with pytest.raises(LabelError, match="expected ids in column 'id', got no row that has one"):
        read_label_table(table(tmp_path, "id,label\n,1\n,2\n"))


def test_agreeing_duplicates_collapse_and_a_gap_does_not_disagree(tmp_path: Path) -> None:
    read = read_label_table(table(tmp_path, "id,label,sex\na.jpg,bee,\n./a.jpg,bee,f\na.jpg,bee,NA\n"))
    assert read == {"label": {"a.jpg": "bee"}, "sex": {"a.jpg": "f"}}


def test_duplicates_that_disagree_name_the_id_and_both_values(tmp_path: Path) -> None:
    path = table(tmp_path, "id,label,box\na.jpg,bee,1\na.jpg,wasp,2\n")
    with pytest.raises(LabelError) as caught:
        read_label_table(path)
    assert caught.value.message == f"{path}: rows of a.jpg disagree in column 'label': 'bee' and 'wasp'"
    assert "--column" in caught.value.next_step


def test_duplicates_that_disagree_in_a_column_of_no_use_take_that_column_away(tmp_path: Path) -> None:
    path = table(tmp_path, "id,label,box\na.jpg,bee,1\na.jpg,bee,2\n")
    read = read_label_table(path, columns=["lab*:class"])
    assert read == {"label": {"a.jpg": "bee"}}
    assert "column 'box' is left out: rows of a.jpg disagree in it" in read.notes[0]  # type: ignore[attr-defined]


def test_a_table_without_an_id_column_names_its_columns_and_offers_id(tmp_path: Path) -> None:
    with pytest.raises(LabelError) as caught:
        read_label_table(table(tmp_path, "who,what\na,b\n"))
    assert "expected an id column" in caught.value.message
    assert "who, what" in caught.value.message
    assert "--id" in caught.value.next_step
    with pytest.raises(LabelError, match="expected an id column 'whom', got the columns who, what"):
        read_label_table(table(tmp_path, "who,what\na,b\n"), id_column="whom")
    assert read_label_table(table(tmp_path, "who,what\na,b\n"), id_column="who") == {"what": {"a": "b"}}


def test_a_table_of_ids_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="expected a column of labels beside the ids, got 'id' alone"):
        read_label_table(table(tmp_path, "id\na.jpg\n"))


@pytest.mark.parametrize(
    ("image", "key", "step"),
    [
        ("train/bees/1.jpg", "1.jpg", "write the folder in front of the ids (train/bees/1.jpg)"),
        ("1.jpg", "photos/1.jpg", "take 'photos/' off the front of the ids, or say what they are relative to: --root"),
        ("a/1.jpg", "b/1.jpg", "the names are alike but the folders differ: write a/1.jpg for b/1.jpg"),
        ("a/1.jpg", "1", "ids are paths below the source: write a/1.jpg for 1"),
        ("a/1.jpg", "zebra", "write the images' paths in the id column"),
    ],
)
def test_ids_that_match_nothing_show_one_of_each_side_and_the_repair(image: str, key: str, step: str) -> None:
    with pytest.raises(LabelError) as caught:
        join_labels(["0/0.png", image], {"label": {"other": "x", key: "bee"}})
    assert "none in common" in caught.value.message
    assert step in caught.value.next_step
    if "paths in the id column" not in step:
        assert f"(such as {image})" in caught.value.message
        assert f"(such as {key})" in caught.value.message


# --------------------------------------------------------------------------------------------- label sets


def test_unlabelled_images_are_left_out_and_counted() -> None:
    found = one(["bee", None, "ant", "bee", None])
    assert found.rows.tolist() == [0, 2, 3]
    assert found.classes == ("ant", "bee")
    assert found.y.tolist() == [1, 0, 1]
    assert (found.rows.dtype, found.y.dtype) == (np.int64, np.int64)
    assert found.unlabelled == 2
    assert found.notes == ("2 of 5 images have no label and are left out, e.g. 001.jpg",)


def test_codes_keep_their_zeros_and_whole_numbers_sort_as_numbers() -> None:
    assert one(["007", "008", "007"]).classes == ("007", "008")
    assert one(["10", "9", "-1", "10"]).classes == ("-1", "9", "10")
    assert one(["b10", "b9"]).classes == ("b10", "b9")  # scikit-learn's own order for text


@given(st.lists(st.sampled_from(["ant", "bee", "wasp", None]), min_size=3, max_size=30))
def test_codes_lead_back_to_the_labels(values: list[str | None]) -> None:
    if len(set(values) - {None}) < 2:
        return
    found = one(values)
    assert [found.classes[code] for code in found.y] == [v for v in values if v is not None]
    assert [values[row] for row in found.rows] == [found.classes[code] for code in found.y]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([str(i) for i in range(20)], "class"),
        ([str(i) for i in range(21)], "number"),
        (["1", "1.5"], "number"),
        (["1e3", "-2"], "class"),
        (["1", "two"], "class"),
        ([f"{i:03d}" for i in range(40)], "class"),
        (["0.5", "0.25"], "number"),
        (["1_000", "1"], "class"),
    ],
)
def test_the_kind_that_was_not_said(texts: list[str], kind: str) -> None:
    assert guess_kind(texts) == kind


def test_a_kind_that_was_said_counts() -> None:
    found = one(["1", "2", "1"], "label:number")
    assert (found.kind, found.classes, found.y.dtype) == ("number", (), np.float64)
    assert found.y.tolist() == [1.0, 2.0, 1.0]
    assert one(["1.5", "2.5", "1.5"], "label:class").classes == ("1.5", "2.5")
    assert "read as classes; --column label:number" in one(["1", "2"]).notes[0]
    assert one(["1", "2"], "label:class").notes == ()


def test_text_among_numbers_names_row_and_value() -> None:
    with pytest.raises(LabelError) as caught:
        one(["1.5", "tall", "2"], "label:number")
    assert caught.value.message == "column 'label': expected a number for 001.jpg, got 'tall'"
    assert "--column label:class" in caught.value.next_step
    with pytest.raises(LabelError, match="write decimals with a point"):
        one(["1", "1,5"], "label:number")


@pytest.mark.parametrize("text", ["inf", "-Infinity", "1e999", "nan"])
def test_numbers_that_are_not_finite_are_refused(text: str) -> None:
    with pytest.raises(LabelError, match=r"expected a finite number for 001\.jpg, got"):
        one(["1.5", text, "2"], "label:number")
    with pytest.raises(LabelError, match=r"expected (a )?finite number"):
        one(["1.5", text, "2"])


def test_one_class_only_is_named() -> None:
    with pytest.raises(LabelError, match=r"column 'label': expected two classes or more, got only 'bee' \(2 images\)"):
        one(["bee", "bee", None])
    with pytest.raises(LabelError, match="got only 'bee'"):
        label_sets(IDS[:2], {"label": ["bee", "bee"]})
    with pytest.raises(LabelError, match=r"expected numbers that differ, got 1\.5 for all 2 images"):
        one(["1.5", "1.50"])


def test_labels_that_differ_only_in_case_are_named_with_counts() -> None:
    with pytest.raises(LabelError) as caught:
        one(["Bee", "bee", "bee", "ant"])
    assert caught.value.message == "column 'label': labels differ only in case: 'Bee' (1 image) and 'bee' (2 images)"


def test_one_value_written_in_two_ways_is_one_class() -> None:
    found = one(["1", "1.0", "2", "+1"])
    assert found.classes == ("1", "2") and found.y.tolist() == [0, 0, 1, 0]
    assert (
        "label: '+1' in 1 image is read as '1', another spelling of the same value (and 1 more spellings)"
        in found.notes
    )
    assert found.digest == one(["1", "1", "2", "1"]).digest
    truth = one(["true", "True", "FALSE", "false"])
    assert truth.classes == ("false", "true") and truth.y.tolist() == [1, 1, 0, 0]
    assert one(["7", "007"]).classes == ("007", "7")  # codes are text
    assert one(["1.0", "0.0", "1.0"]).classes == ("0.0", "1.0")  # one spelling per value: nothing changes
    assert len(one(["12345678901234567890", "12345678901234567891"]).classes) == 2  # compared exactly


@pytest.mark.parametrize(
    ("texts", "how"), [(["red deer", "red  deer"], "only in spaces or case"), (["a\xa0b", "a b"], "only in spaces")]
)
def test_labels_that_differ_only_in_spaces_are_refused(texts: list[str | None], how: str) -> None:
    with pytest.raises(LabelError) as caught:
        one(texts)
    assert how in caught.value.message and all(repr(text) in caught.value.message for text in texts)


# --------------------------------------------------------------------------------------- choosing columns

COLUMNS: dict[str, list[str | None]] = {
    "species": ["ant", "bee"] * 30,
    "sex": ["f", "f", "m"] * 20,
    "age": [str(i / 2) for i in range(60)],
    "name": [f"photo {i}" for i in range(60)],
    "empty": [None] * 60,
    "same": ["x"] * 60,
    "split": ["train", "test"] * 30,
}


def names(column: list[str], **options: list[str]) -> list[tuple[str, str]]:
    return [(s.name, s.kind) for s in label_sets(IDS, COLUMNS, column=column, **options)]


def test_without_a_choice_every_learnable_column_is_one_and_the_rest_is_named() -> None:
    found = label_sets(IDS, COLUMNS, exclude=["split"])
    assert [s.name for s in found] == ["species", "sex", "age"]
    assert {one.column: one.reason for one in found.skipped} == {
        "name": "60 different values in 60 rows look like names",
        "empty": "it is empty",
        "same": "all its labels are the same",
    }


def test_globs_kinds_and_their_order() -> None:
    assert names(["s[pe]*"], exclude=["split"]) == [("species", "class"), ("sex", "class")]
    assert names(["age:class"]) == [("age", "class")]
    assert names(["age", "sex"]) == [("sex", "class"), ("age", "number")]
    assert names(["a*:class", "age:number", "age"]) == [("age", "number")]
    assert names(["name"]) == [("name", "class")]  # asked for by name: taken
    assert names(["split"], exclude=["split"]) == [("split", "class")]
    odd: dict[str, list[str | None]] = {"a:b[1]": ["x", "y"]}
    assert label_sets(IDS[:2], odd, column=["a:b[1]"])[0].name == "a:b[1]"
    assert label_sets(IDS[:2], odd, column=["a:b[1]:class"])[0].name == "a:b[1]"


@pytest.mark.parametrize(
    ("column", "message", "step"),
    [
        ("specie", "expected a column 'specie', got 'species', 'sex'", "did you mean 'species'"),
        ("Species", "expected a column 'Species'", "did you mean 'species'"),
        ("age:numbr", "expected the kind class, number or multi, got 'numbr'", "--column age:number"),
        ("s*:mutli", "expected the kind class, number or multi, got 'mutli'", "--column s*:multi"),
        ("empty", "column 'empty': expected labels, got 60 empty cells", "fill it in"),
        ("same", "got only 'x' (60 images)", "second class"),
    ],
)
def test_columns_that_cannot_be_had(column: str, message: str, step: str) -> None:
    with pytest.raises(LabelError) as caught:
        names([column])
    assert message in caught.value.message
    assert step in caught.value.next_step


def test_nothing_to_learn_says_why() -> None:
    with pytest.raises(LabelError, match="got none that a head can be trained on: 'empty': it is empty; 'same': all"):
        label_sets(IDS, {"empty": [None] * 60, "same": ["x"] * 60})
    with pytest.raises(
        LabelError, match=r"expected a column of labels, got none that a head can be trained on\ntry: pass a table"
    ):
        label_sets(IDS, {})


def test_the_digest_is_of_ids_labels_and_kind() -> None:
    values = ["1", "2", None]
    base = one(values).digest
    assert base == one(["1", "2"]).digest  # an image without a label is no part of the question
    assert base != one(["2", "1"]).digest
    assert base != one(values, "label:number").digest
    assert base != label_sets(["x", "y", "z"], {"label": values})[0].digest
    by_hand = LabelSet("label", "class", np.array([0, 1]), np.array([0, 1]), ("1", "2"), 0)
    assert by_hand.digest == LabelSet("b", "class", np.array([0, 1]), np.array([0, 1]), ("1", "2"), 0).digest


def test_groups_are_codes_and_a_labelled_image_without_one_is_refused() -> None:
    columns: dict[str, list[str | None]] = {"patient": ["p2", "p1", None, "p2"]}
    assert group_codes(IDS[:4], columns, "patient", rows=np.array([0, 1, 3])).tolist() == [1, 0, 1]
    with pytest.raises(
        LabelError, match=r"expected a group for every labelled image, got 1 image without one, e\.g\. 002"
    ):
        group_codes(IDS[:4], columns, "patient")
    with pytest.raises(LabelError, match="did you mean 'patient'"):
        group_codes(IDS[:4], columns, "patients")


# ------------------------------------------------------------------------------- columns that are none by default


def dates(form: str, n: int = 60) -> list[str | None]:
    start = datetime.datetime(2024, 1, 1, 9, 30)
    return [(start + datetime.timedelta(days=row // 2)).strftime(form) for row in range(n)]


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d.%m.%Y", "%m/%d/%y", "%d %b %Y", "%B %d, %Y", "%Y-%m-%dT%H:%M:%SZ",
        "%Y:%m:%d %H:%M:%S", "%Y-%m-%d %H:%M:%S+01:00", "%m/%d/%Y %I:%M %p",
    ],
)  # fmt: skip
def test_dates_are_no_labels_by_default_even_where_they_repeat(form: str) -> None:
    columns = {"kind": ["ant", "bee"] * 30, "seen": dates(form)}
    found = label_sets(IDS, columns)
    assert [(one.column, one.reason) for one in found.skipped] == [("seen", "30 different dates")]
    assert [one.name for one in label_sets(IDS, columns, column=["seen"])] == ["seen"]
    assert [one.name for one in label_sets(IDS, columns, column=["s*:class"])] == ["seen"]
    few = label_sets(IDS, {"seen": dates(form)[:38] + [dates(form)[0]] * 22})
    assert [one.name for one in few] == ["seen"]  # 19 days: as good as classes


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ([str(1000 + 7 * row) for row in range(60)], False),  # patients
        ([f"{1000 + 7 * row}.0" for row in range(60)], False),  # as a table writes them that has gaps
        ([str(1000 + 7 * (row % 50)) for row in range(60)], True),  # fewer than nine tenths are different
        ([f"{1000 + 7 * row}.5" for row in range(60)], True),  # a measurement
        ([str(1000 + 7 * row) for row in range(59)] + ["12.25"], True),
        ([str(row % 20) for row in range(60)], True),
        ([f"{row:04d}" for row in range(60)], False),  # codes: text, and all different
        ([f"type {row % 25}" for row in range(60)], True),
    ],
)
def test_numbers_that_hardly_repeat_are_no_labels_by_default(values: list[str | None], taken: bool) -> None:
    columns: dict[str, list[str | None]] = {"kind": ["ant", "bee"] * 30, "what": values}
    found = label_sets(IDS, columns)
    assert [one.name for one in found] == (["kind", "what"] if taken else ["kind"])
    assert [one.column for one in found.skipped] == ([] if taken else ["what"])
    assert len(label_sets(IDS, columns, column=["what"])) == 1
    assert len(label_sets(IDS, columns, column=["*"])) == 1 + taken  # a pattern names no column
