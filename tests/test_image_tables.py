"""Tables are read as text, and every id in one becomes a path below the root or an error that names the row."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from test_images import on_posix, planted, put, refused, why

from pipeline.errors import SkipReason, SourceError
from pipeline.images import ImageSource, read_text_table


def test_a_table_is_read_as_text_and_nothing_is_guessed(tmp_path):
    path = tmp_path / "t.csv"
    text = '\ufeffid, label ,number,date\na,007,1.50,2020-01-01\nb,NA,nan,NaN\nc," café ",,n/a\nd,cafe\u0301,null,1e5\n'
    path.write_bytes(text.encode())
    assert read_text_table(path) == {
        "id": ["a", "b", "c", "d"],
        "label": ["007", None, "café", "café"],
        "number": ["1.50", None, None, "null"],
        "date": ["2020-01-01", None, "n/a", "1e5"],
    }


def test_separators_quotes_and_line_ends_are_understood(tmp_path):
    expected = {"id": ["a", "b"], "label": ["x, y", 'say "z"']}
    for name, text in {
        "comma.csv": 'id,label\n"a","x, y"\nb,"say ""z"""\n',
        "semicolon.csv": 'id;label\r\na;x, y\r\n\r\nb;"say ""z"""\r\n',
        "tab.tsv": 'id\tlabel\na\tx, y\nb\t"say ""z"""\n',
        "tab.csv": 'id\tlabel\na\tx, y\nb\t"say ""z"""',
    }.items():
        (tmp_path / name).write_bytes(text.encode())
        assert read_text_table(tmp_path / name) == expected, name
    (tmp_path / "lines.csv").write_bytes(b'id,label\na,"two\nlines"\n')
    assert read_text_table(tmp_path / "lines.csv")["label"] == ["two\nlines"]
    (tmp_path / "index.csv").write_bytes(b",id\n0,a\n1,b\n")
    assert read_text_table(tmp_path / "index.csv") == {"column_1": ["0", "1"], "id": ["a", "b"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "t.csv: expected a table with rows, got an empty file"),
        (b"id,label\n", "t.csv: expected a table with rows, got a header alone"),
        (b"id,label\na,b\nc\n", "t.csv: line 3 has 1 fields, expected 2 as in the header"),
        (b'id,label\n"a\nb",c\nd,e,f\n', "t.csv: line 4 has 3 fields, expected 2 as in the header"),
        (b'id,label\na,b\nc,"d\ne,f\n', "t.csv: line 3: unexpected end of data"),
        (b"id,label\na,b\nc,Gr\xf6\xdfe\n", "t.csv: expected text in UTF-8, got the byte 0xf6 in line 3"),
        ("id,label\na,b\n".encode("utf-16"), "t.csv: expected text in UTF-8, got UTF-16"),
        (b"id,id\na,b\n", "t.csv: two columns are called 'id'"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_the_line(tmp_path, data, message):
    path = put(tmp_path / "t.csv", data)
    with pytest.raises(SourceError) as caught:
        read_text_table(path)
    assert caught.value.message == f"{tmp_path}/{message}"
    assert caught.value.next_step


def test_a_table_that_is_missing_or_no_parquet_is_refused(tmp_path):
    with pytest.raises(SourceError, match="cannot read this table: No such file"):
        read_text_table(tmp_path / "t.csv")
    with pytest.raises(SourceError, match="cannot read this table: "):
        read_text_table(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="not a Parquet file that can be read: "):
        read_text_table(put(tmp_path / "t.parquet", b"rubbish that is long enough to be one"))


def test_parquet_becomes_plain_text(tmp_path):
    import datetime

    table = pa.table(
        {
            "id": pa.array([" a", "b", "nan"]),
            "whole": pa.array([1, None, 3], pa.int64()),
            "real": pa.array([0.5, 1.0, float("nan")], pa.float64()),
            "single": pa.array([0.1, None, 1e-7], pa.float32()),
            "true": pa.array([True, False, None]),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "day": pa.array([datetime.date(2020, 1, 2), None, None]),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    assert read_text_table(tmp_path / "t.parquet") == {
        "id": ["a", "b", None],
        "whole": ["1", None, "3"],
        "real": ["0.5", "1", None],
        "single": ["0.1", None, "1e-07"],
        "true": ["true", "false", None],
        "kind": ["x", "y", "x"],
        "day": ["2020-01-02", None, None],
    }
    parquet.write_table(pa.table({"id": ["a"], "list": [[1, 2]]}), tmp_path / "l.parquet")
    with pytest.raises(SourceError, match="column 'list' holds list<element: int64>, expected text or numbers"):
        read_text_table(tmp_path / "l.parquet")


cells = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=6), separator=st.sampled_from([",", "\t"]))
def test_any_text_comes_back_from_csv_and_parquet_alike(tmp_path_factory, rows, separator):
    import csv

    folder = tmp_path_factory.mktemp("tables")
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "label"), *rows])
    parquet.write_table(pa.table({"id": [a for a, _ in rows], "label": [b for _, b in rows]}), folder / "t.parquet")

    def cell(text: str) -> str | None:
        clean = unicodedata.normalize("NFC", text).strip()
        return None if clean in ("", "NA", "nan", "NaN") else clean

    expected = {"id": [cell(a) for a, _ in rows], "label": [cell(b) for _, b in rows]}
    assert read_text_table(folder / "t.csv") == expected
    assert read_text_table(folder / "t.parquet") == expected


@pytest.fixture
def album(tmp_path) -> Path:
    for value in range(4):
        put(tmp_path / "album" / f"{value}.png", value)
    return tmp_path


def test_a_table_gives_ids_columns_and_rows_for_missing_files(album):
    path = put(album / "t.csv", b"Path,species,split\nalbum/2.png,bee,train\n./album/0.png,ant,val\nalbum/9.png,,\n")
    source = ImageSource.open(path)
    assert source.ids == ["album/0.png", "album/2.png", "album/9.png"]
    assert source.columns == {"species": ["ant", "bee", None], "split": ["val", "train", None]}
    assert [planted(source, row) for row in range(2)] == [0, 2]
    assert source.stat[2].tolist() == [0, 0]
    assert source.stat[1].tolist() == [
        (album / "album/2.png").stat().st_size,
        (album / "album/2.png").stat().st_mtime_ns,
    ]
    assert why(source, 2) == SkipReason.MISSING
    assert (source.name, source.place) == ("t", path.resolve().as_posix())


def test_root_and_id_column_say_where_the_ids_start(album):
    path = put(album / "t.csv", b"id,Name\nx,0.png\ny,1.png\n")
    source = ImageSource.open(path, root=album / "album", id_column="name")
    assert source.ids == ["0.png", "1.png"]
    assert source.columns == {"id": ["x", "y"]}
    assert [planted(source, row) for row in range(2)] == [0, 1]
    assert source.place == f"{path.resolve().as_posix()} over {(album / 'album').resolve().as_posix()}"
    assert "got none" in refused(path, root=album / "nowhere").message


def test_a_table_without_an_id_column_says_which_columns_it_has(album):
    error = refused(put(album / "t.csv", b"name,label\n0.png,a\n"))
    assert error.message == (
        f"{album}/t.csv: expected an id column (id, path, file, filename, image, filepath, file_name), "
        "got the columns name, label"
    )
    assert error.next_step == "name the column that holds the ids or paths: --id name"
    error = refused(album / "t.csv", id_column="nam")
    assert error.message == f"{album}/t.csv: expected an id column 'nam', got the columns name, label"


def test_rows_that_repeat_collapse_and_rows_that_disagree_are_refused(album):
    path = put(album / "t.csv", b"id,label\nalbum/1.png,a\nalbum/0.png,b\n./album/1.png,a\n")
    source = ImageSource.open(path)
    assert source.columns == {"label": ["b", "a"]}
    assert source.notes == [f"{path}: 1 rows repeat another row and are read once"]
    put(path, b"id,label\nalbum/1.png,a\nalbum/0.png,b\nalbum/1.png,c\n")
    assert refused(path).message == (
        f"{path}: album/1.png stands in rows 1 and 3, which disagree in column label: 'a' and 'c'"
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("/etc/passwd", "row 1: expected a path below {root}, got the absolute path /etc/passwd"),
        (
            r"C:\photos\a.jpg",
            r"row 1: expected a path below {root}, got the absolute path C:\photos\a.jpg, where there is no such file",
        ),
        ("../a.png", "row 1: expected a path below {root}, got ../a.png, which leaves it"),
        ("album/../../a.png", "row 1: expected a path below {root}, got album/../../a.png, which leaves it"),
        (r"..\a.png", r"row 1: expected a path below {root}, got ..\a.png, which leaves it"),
        (".", "row 1: expected a path below {root}, got ., which leaves it"),
        ("NA", "row 1 has no id: its column id is empty"),
        ("a\x1bb.png", "row 1: a\\x1bb.png cannot be a path: its name holds a control character or a line break"),
    ],
)
def test_paths_that_leave_the_root_are_refused(album, cell, message):
    path = put(album / "t.csv", f"id,label\n{cell},x\n".encode())
    error = refused(path)
    assert error.message == f"{path}: {message.format(root=album.resolve())}"
    assert error.next_step


@on_posix
def test_ids_written_on_other_systems_find_their_files(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Käfer.png")
    put(tmp_path / decomposed, 5)
    put(tmp_path / "album/1.png", 6)
    source = ImageSource.open(put(tmp_path / "t.csv", "id\nKäfer.png\nalbum\\1.png\n".encode()))
    assert sorted(planted(source, row) for row in range(2)) == [5, 6]
    assert "album/1.png" in source.ids
