"""Cells of several tags, as pandas, Excel, JSON and databases write them: read completely or refused."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LabelError
from pipeline.images.values import list_text
from pipeline.labels import label_sets
from pipeline.labels.label_sets import CellError, list_items, read_tags, separator_of


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ("['a', 'b']", ("a", "b")),
        ('["a","b"]', ("a", "b")),
        ("['a' 'b']", ("a", "b")),  # NumPy
        ("['a'\n 'b']", ("a", "b")),
        ("('a', 'b')", ("a", "b")),
        ("('a',)", ("a",)),
        ("{'a', 'b'}", ("a", "b")),
        ("{a,b}", ("a", "b")),  # PostgreSQL
        ('{"Smith, J",b}', ("Smith, J", "b")),
        ("[a, b]", ("a", "b")),
        ("[1, 2]", ("1", "2")),
        ("[]", ()),
        ("{}", ()),
        ("a;b;", ("a", "b")),
        (";a;;b", ("a", "b")),
        (";", ()),
        ('"a";"b"', ("a", "b")),
        ('"a;x";b', ("a;x", "b")),
        ('"a;b"', ("a", "b")),  # quoted twice
        ("'a'; 'b'", ("a", "b")),
        ('"5"" pipe";b', ('5" pipe', "b")),
        ("cooper's hawk; o'neill", ("cooper's hawk", "o'neill")),
        ("bee (m, f); wasp", ("bee (m, f)", "wasp")),
        ("(juvenile)", ("(juvenile)",)),
        ("1) bee; 2) wasp", ("1) bee", "2) wasp")),
        ("[unsure]; [blurred]", ("[blurred]", "[unsure]")),
        ("['x\\x41\\n y']", ("xA\n y",)),
        ('["\\u00e9\\ud83d\\ude00"]', ("\u00e9\U0001f600",)),
    ],
)
def test_a_cell_is_read_completely(cell: str, tags: tuple[str, ...]) -> None:
    assert read_tags(cell, ";") == tags


@pytest.mark.parametrize(
    "cell", ["['a', 'b'", "'b']", "a, 'b]", "{a, b", "bee (m, f), x", "'a, b", "[[1], [2]]", "[x{]"]
)
def test_a_cell_that_would_be_cut_is_refused(cell: str) -> None:
    with pytest.raises(CellError):
        read_tags(cell, ",")


@pytest.mark.parametrize("cell", ["['a', nan]", "['a', None]", '["a", null]', "[a,,b]"])
def test_a_list_with_a_gap_is_refused(cell: str) -> None:
    with pytest.raises(CellError, match="missing item"):
        read_tags(cell, ",")


@given(st.lists(st.text(max_size=6).map(str.strip).filter(bool), max_size=5))
def test_lists_come_back_from_json(tags: list[str]) -> None:
    assert list_items(json.dumps(tags)) == tags
    assert list_items(list_text([f"x{tag}" for tag in tags])) == [
        f"x{unicodedata.normalize('NFC', tag)}" for tag in tags
    ]


def test_separators_in_quotes_and_lists_do_not_count() -> None:
    assert separator_of(['"a;b",c']) == ","
    assert separator_of(["['a;b', 'c']"]) is None
    assert separator_of(['"a, b"']) == ","  # nothing but quotes: the cell was quoted twice


IDS = [f"{row}.jpg" for row in range(4)]


def test_lists_and_separators_in_one_column() -> None:
    (found,) = label_sets(IDS, {"tags": ["['a', 'b']", "a", "b;a", "[]"]}, column=["tags:multi"])
    assert found.classes == ("a", "b") and found.y.tolist() == [[1, 1], [1, 0], [1, 1], [0, 0]]
    (lists,) = label_sets(IDS, {"tags": ["['a', 'b']", "['a']", "['b']", "[]"]}, column=["tags:multi"])
    assert lists.notes[-1].startswith("tags: cells are lists of tags")


def test_a_cell_that_cannot_be_read_names_the_image_and_the_cell() -> None:
    with pytest.raises(LabelError) as caught:
        label_sets(IDS, {"tags": ["a, b", "['a', 'b'", "a", "b"]}, column=["tags:multi"])
    assert caught.value.message == (
        "column 'tags': expected tags separated by ',' for 1.jpg, got brackets that do not match in \"['a'\" "
        "in the cell \"['a', 'b'\""
    )
    assert "--column 'tags:multi(/)'" in caught.value.next_step


@pytest.mark.parametrize(
    ("entry", "separator"), [("tags:multi(/)", "/"), ("t*:multi( & )", " & "), ("tags:multi(()", "(")]
)
def test_a_chosen_separator_splits(entry: str, separator: str) -> None:
    values: list[str | None] = [f"a;x{separator}b", "b", "a;x", None]
    (found,) = label_sets(IDS, {"tags": values}, column=[entry])
    assert found.classes == ("a;x", "b") and found.separator == separator
    assert found.y.tolist() == [[1, 1], [0, 1], [1, 0]]


def test_an_empty_separator_is_refused() -> None:
    with pytest.raises(LabelError, match=r"expected a separator in the parentheses, got none"):
        label_sets(IDS, {"tags": ["a", "b", "a", "b"]}, column=["tags:multi()"])


def test_rows_are_written_with_a_separator_that_no_tag_contains() -> None:
    (found,) = label_sets(IDS, {"tags": ["['a;b', 'c|d']", "['a;b']", "['c|d']", "[]"]}, column=["tags:multi"])
    assert found.classes == ("a;b", "c|d") and found.separator == ","


def test_a_column_of_lists_is_said_to_be_one() -> None:
    (found,) = label_sets(IDS, {"tags": ["['a', 'b']", "['a']", "['a', 'b']", "['a']"]})
    assert found.kind == "class"
    assert (
        "tags: 4 of 4 labels look like lists and are read as classes; --column tags:multi reads them as tags"
        in found.notes
    )
