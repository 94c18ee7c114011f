"""Tables as spreadsheets, editors and other tools write them: every cell comes back with the value it has there."""

from __future__ import annotations

import datetime
import json
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from test_images import planted, put, refused

from pipeline.errors import LabelError, SourceError
from pipeline.evaluation.dataset import LabelConfig, load_labels
from pipeline.images import ImageSource, image_folder, read_text_table
from pipeline.images import spreadsheet as spreadsheets
from pipeline.labels import join_labels, label_sets, merge_one_hot, read_label_table, split_one_hot
from pipeline.labels.one_hot import one_hot_notes

ROWS: list[list[Any]] = [
    ["id", "code", "count", "size", "ok", "day", "when", "none"],
    ["a.png", "007", 1, 1.0, True, datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4, 5), None],
    ["b.png", "1,5", -3, 0.1 + 0.2, False, None, None, "NA"],
]
TYPED = {
    "id": ["a.png", "b.png"],
    "code": ["007", "1,5"],
    "count": ["1", "-3"],
    "size": ["1", "0.3"],
    "ok": ["true", "false"],
    "day": ["2020-01-02", None],
    "when": ["2020-01-02 03:04:05", None],
    "none": [None, None],
}


def write_xlsx(path: Path, **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def write_ods(path: Path, **sheets: list[list[Any]]) -> Path:
    from odf.opendocument import OpenDocumentSpreadsheet
    from odf.table import Table, TableCell, TableRow
    from odf.text import P

    book = OpenDocumentSpreadsheet()
    for name, rows in sheets.items():
        table = Table(name=name)
        for row in rows:
            line = TableRow()
            for value in row:
                line.addElement(ods_cell(value, TableCell, P))
            line.addElement(TableCell(numbercolumnsrepeated=16000))
            table.addElement(line)
        rest = TableRow(numberrowsrepeated=1_000_000)
        rest.addElement(TableCell(numbercolumnsrepeated=16384))
        table.addElement(rest)
        book.spreadsheet.addElement(table)
    book.save(str(path))
    return path


def ods_cell(value: Any, cell: Any, paragraph: Any) -> Any:
    if value is None:
        return cell()
    if isinstance(value, bool):
        return cell(valuetype="boolean", booleanvalue=str(value).lower())
    if isinstance(value, int | float):
        return cell(valuetype="float", value=value)
    if isinstance(value, datetime.date):
        return cell(valuetype="date", datevalue=value.isoformat())
    made = cell(valuetype="string")
    made.addElement(paragraph(text=value))
    return made


@pytest.mark.parametrize(("write", "name"), [(write_xlsx, "t.xlsx"), (write_ods, "t.ods")])
def test_cells_of_a_spreadsheet_keep_their_types(tmp_path: Path, write: Any, name: str) -> None:
    table = read_text_table(write(tmp_path / name, Labels=ROWS))
    assert table == TYPED
    assert table.notes == []
    assert table.decimal_commas == frozenset()  # a text in a typed table is text


@pytest.mark.parametrize(("write", "name"), [(write_xlsx, "t.xlsx"), (write_ods, "t.ods")])
def test_the_only_sheet_with_rows_is_read_and_others_by_name(tmp_path: Path, write: Any, name: str) -> None:
    path = write(tmp_path / name, Notes=[["made by hand"]], Labels=[["id", "label"], ["a", "x"]])
    assert read_text_table(path) == {"id": ["a"], "label": ["x"]}
    assert read_text_table(path).notes == [f"{path}: the sheet 'Labels' is read"]
    both = write(tmp_path / f"two_{name}", First=[["id", "label"], ["a", "x"]], Second=[["id", "label"], ["a", "y"]])
    with pytest.raises(SourceError) as caught:
        read_text_table(both)
    assert caught.value.message == f"{both}: expected one sheet with rows, got 2: 'First', 'Second'"
    assert caught.value.next_step == f"name the sheet: {both}:First"
    assert read_text_table(f"{both}:second") == {"id": ["a"], "label": ["y"]}
    with pytest.raises(SourceError, match="expected a sheet 'Third', got the sheets 'First', 'Second'"):
        read_text_table(f"{both}:Third")


def test_a_hidden_sheet_is_read_only_by_name_and_hidden_rows_are_counted(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", Labels=[["id", "label"], ["a", "x"], ["b", "y"]], Old=[["id"], ["z"]])
    book = openpyxl.load_workbook(path)
    book["Old"].sheet_state = "hidden"
    book["Labels"].row_dimensions[3].hidden = True
    book.save(path)
    table = read_text_table(path)
    assert table == {"id": ["a", "b"], "label": ["x", "y"]}
    assert table.notes[1] == f"{path}:Labels: 1 hidden row is read too, e.g. row 3"
    assert read_text_table(f"{path}:Old") == {"id": ["z"]}


def test_merged_cells_have_the_value_of_the_first(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", S=[["id", "species"], ["a", "bee"], ["b", None], ["c", None], ["d", "ant"]])
    book = openpyxl.load_workbook(path)
    book["S"].merge_cells("B2:B4")
    book.save(path)
    table = read_text_table(path)
    assert table["species"] == ["bee", "bee", "bee", "ant"]
    assert table.notes == [f"{path}:S: 2 cells of merged ranges have the value of the first cell of the range"]


def test_errors_of_a_spreadsheet_are_missing_and_counted(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", S=[["id", "label"], ["a", "#N/A"], ["b", "y"]])  # typed as an error
    table = read_text_table(path)
    assert table["label"] == [None, "y"]
    assert table.notes == [f"{path}:S: 1 cell holds an error and is missing, e.g. #N/A in row 2"]


def test_a_formula_without_a_stored_value_is_refused(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", S=[["id", "label"], ["a", "x"], ["b", "=B2"]])
    with pytest.raises(
        SourceError, match="expected a value in cell B3, got a formula without a stored value"
    ) as caught:
        read_text_table(path)
    assert "open the file in a spreadsheet program and save it" in caught.value.next_step


def test_blank_rows_and_unnamed_columns_are_passed_over_and_cells_beyond_the_header_refused(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "t.xlsx", S=[[], ["id", None, "label"], [], ["a", None, "x"]])
    assert read_text_table(path) == {"id": ["a"], "label": ["x"]}
    path = write_xlsx(tmp_path / "u.xlsx", S=[["id", "label"], ["a", "x", "seen twice"]])
    with pytest.raises(SourceError, match=r"expected 2 cells in row 2, .* got a value beyond them: 'seen twice'"):
        read_text_table(path)


def test_a_spreadsheet_is_data_and_a_label_table(tmp_path: Path) -> None:
    for value in range(3):
        put(tmp_path / "photos" / f"{value}.png", value)
    rows = [["file_name", "label"], *([f"photos/{value}.png", value % 2] for value in range(3))]
    path = write_xlsx(tmp_path / "t.xlsx", A=rows, B=[["file_name", "label"], ["photos/2.png", "z"]])
    source = ImageSource.open(f"{path}:A")
    assert source.ids == ["photos/0.png", "photos/1.png", "photos/2.png"]
    assert source.columns == {"label": ["0", "1", "0"]}
    assert [planted(source, row) for row in range(3)] == [0, 1, 2]
    assert ImageSource.open(source.place).ids == source.ids
    assert image_folder(source.place) == str(tmp_path)
    assert image_folder(f"{tmp_path}/photos/[2 of 3: 0a1b] [share 1 of 2]") == f"{tmp_path}/photos"
    assert image_folder("builtin:digits@1") is None
    assert read_label_table(f"{path}:B") == {"label": {"photos/2.png": "z"}}


def test_files_that_are_no_spreadsheet_are_refused_with_the_reason(tmp_path: Path) -> None:
    for name, data, message in (
        ("t.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest", "expected .xlsx, .ods or CSV, got the old format .xls"),
        ("t.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest", "got one that is protected by a password, or an old .xls"),
        ("u.xlsx", b"id,label\na,b\n", "expected a spreadsheet, got a file that is not one"),
    ):
        with pytest.raises(SourceError) as caught:
            read_text_table(put(tmp_path / name, data))
        assert message in caught.value.message
        assert "CSV" in caught.value.next_step
    assert "no such file or folder" in refused(tmp_path / "missing.xlsx:Sheet1").message
    with pytest.raises(SourceError, match="cannot read this table: No such file"):
        read_text_table(tmp_path / "missing.xlsx")


def test_a_spreadsheet_of_entities_or_of_too_many_bytes_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    good = write_xlsx(tmp_path / "good.xlsx", S=[["id", "label"], ["a", "x"]])

    def with_part(name: str, text: bytes) -> Path:
        path = tmp_path / "bad.xlsx"
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for info in old.infolist():
                new.writestr(info.filename, text if info.filename == name else old.read(info))
        return path

    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><sst>&b;</sst>'
    with pytest.raises(SourceError, match=r"got one whose part xl/workbook.xml defines entities"):
        read_text_table(with_part("xl/workbook.xml", bomb))
    with pytest.raises(SourceError, match=r"got one whose part xl/worksheets/sheet1.xml is damaged: no element found"):
        read_text_table(with_part("xl/worksheets/sheet1.xml", b""))
    far = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData><row r="%d"></row>'
    far += b'<row r="2000000000"><c r="A2000000000"><v>1</v></c></row></sheetData></worksheet>'
    with pytest.raises(SourceError, match="expected at most 1,048,576 rows"):
        read_text_table(with_part("xl/worksheets/sheet1.xml", far % 1).as_posix() + ":S")
    monkeypatch.setattr(spreadsheets, "FREELY_UNPACKED", 1000)
    with pytest.raises(SourceError, match="at most 100 times its size"):
        read_text_table(with_part("xl/theme/theme1.xml", b"<a>" + b" " * 3_000_000 + b"</a>"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('id;"weight, kg";label\na;1,5;x\n', {"id": ["a"], "weight, kg": ["1,5"], "label": ["x"]}),
        ("id;weight, kg\na;1,5\n", {"id": ["a"], "weight, kg": ["1,5"]}),
        ("sep=;\nid;weight\na;1,5\n", {"id": ["a"], "weight": ["1,5"]}),
        ('"sep=,"\r\nid,note\r\na,x;y\r\n', {"id": ["a"], "note": ["x;y"]}),
        ("sep=|\nid|note\na|x,y\n", {"id": ["a"], "note": ["x,y"]}),
        ("id;weight;label\ra;1,5;x\rb;2,5;y\r", {"id": ["a", "b"], "weight": ["1,5", "2,5"], "label": ["x", "y"]}),
        ("id\tweight, kg\tlabel\na\t1\tx\n", {"id": ["a"], "weight, kg": ["1"], "label": ["x"]}),
        ('id,"a;b;c"\nx,1\n', {"id": ["x"], "a;b;c": ["1"]}),
        ('id,"first;\nsecond"\nx,1;2\n', {"id": ["x"], "first;\nsecond": ["1;2"]}),
        ("id,tags\na,x;y\nb,z\n", {"id": ["a", "b"], "tags": ["x;y", "z"]}),
        ("id\na,b\n", None),
    ],
)
def test_the_separator_is_found_outside_quotes(tmp_path: Path, text: str, expected: Any) -> None:
    path = put(tmp_path / "t.csv", text.encode())
    if expected is None:
        with pytest.raises(SourceError, match="line 2 has 2 fields, expected 1"):
            read_text_table(path)
    else:
        assert read_text_table(path) == expected


def test_lines_are_numbered_as_in_the_file_after_a_separator_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="line 4 has 1 fields, expected 2"):
        read_text_table(put(tmp_path / "t.csv", b"sep=;\rid;label\ra;x\rb\r"))
    with pytest.raises(SourceError, match="got the byte 0xf6 in line 3"):
        read_text_table(put(tmp_path / "u.csv", b"id;label\ra;x\rb;sch\xf6n\r"))


def test_decimal_commas_are_numbers_where_the_separator_is_not_a_comma(tmp_path: Path) -> None:
    text = "id;w;mixed;text\na;1,5;1,5;1,5\nb;-2;2.5;x\nc;NA;;\nd;NULL;3;\n"
    path = put(tmp_path / "t.csv", text.encode())
    table = read_label_table(path)
    assert table["w"] == {"a": "1.5", "b": "-2", "c": None, "d": "NULL"}
    assert table["mixed"] == {"a": "1,5", "b": "2.5", "c": None, "d": "3"}
    assert table.notes == (
        f"{path}: column 'w' holds numbers with decimal commas: 1,5 is read as 1.5; --column w:class for text",
    )
    for kind in ("class", "multi"):
        found = read_label_table(path, columns=[f"w:{kind}"])
        assert found["w"]["a"] == "1,5"
        assert found.notes == ()
    assert read_label_table(put(tmp_path / "c.csv", b'id,w\na,"1,5"\n'))["w"] == {"a": "1,5"}  # tags, or thousands
    tabs = put(tmp_path / "t.tsv", b"id\tw\na\t1,5\nb\t0,25\n")
    columns = join_labels(["a", "b"], read_label_table(tabs))
    assert label_sets(["a", "b"], columns, column=["w:number"])[0].y.tolist() == [1.5, 0.25]


def test_decimal_commas_in_a_table_of_images_stay_text_where_that_is_asked_for(tmp_path: Path) -> None:
    for value in range(2):
        put(tmp_path / f"{value}.png", value)
    source = ImageSource.open(put(tmp_path / "t.csv", b"id;w\n1.png;0,25\n0.png;1,5\n"))
    assert source.columns == {"w": ["1.5", "0.25"]}
    assert source.notes[0].endswith("0,25 is read as 0.25; --column w:class for text")
    assert load_labels(source, LabelConfig(used=("w:multi",))).columns == {"w": ["1,5", "0,25"]}
    assert load_labels(source, LabelConfig(used=("w",))).columns == {"w": ["1.5", "0.25"]}
    assert load_labels(source.take([1]), LabelConfig(used=("w:class",))).columns == {"w": ["0,25"]}


def test_json_lines_are_a_table(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.png", "label": 3, "weight": 1.0, "ok": True, "boxes": [1, 2]},
        {"file_name": "b.png", "label": None, "note": "x"},
    ]
    path = put(tmp_path / "metadata.jsonl", "\n".join(map(json.dumps, rows)).encode() + b"\n\n")
    table = read_text_table(path)
    assert table == {
        "file_name": ["a.png", "b.png"],
        "label": ["3", None],
        "weight": ["1", None],
        "ok": ["true", None],
        "note": [None, "x"],
    }
    assert table.notes == [f"{path}: the field 'boxes' is left out: it holds a list or an object in line 1"]
    assert read_label_table(path)["label"] == {"a.png": "3", "b.png": None}
    for data, message in ((b'{"a": 1}\n{"a"', "line 2: expected a JSON object, got text"), (b"[1]", "got list")):
        with pytest.raises(SourceError, match=message):
            read_text_table(put(tmp_path / "bad.jsonl", data))


def test_a_text_file_of_paths_and_labels_is_a_table(tmp_path: Path) -> None:
    path = put(tmp_path / "list.txt", b"images/1.jpg 3\nimages/my photo.PNG\tpolar bear\n\nn01440764/10026 0\n")
    table = read_text_table(path)
    assert table == {
        "path": ["images/1.jpg", "images/my photo.PNG", "n01440764/10026"],
        "label": ["3", "polar bear", "0"],
    }
    assert table.notes == [f"{path}: read as lines of a path and a label, e.g. 'images/1.jpg' and '3'"]
    gap = read_text_table(put(tmp_path / "gap.txt", b"1.jpg 3\n2.jpg\n"))
    assert gap["label"] == ["3", None]
    assert gap.notes[1].endswith("1 of 2 lines have no label, e.g. 2.jpg")
    assert read_text_table(put(tmp_path / "head.txt", b"path,label\n1.jpg,3\n")) == {"path": ["1.jpg"], "label": ["3"]}
    put(tmp_path / "images/1.jpg", 1)
    source = ImageSource.open(put(tmp_path / "data.txt", b"images/1.jpg 3\n"))
    assert (source.ids, source.columns) == (["images/1.jpg"], {"label": ["3"]})


def test_ids_without_a_file_ending_match_the_only_image_of_that_name() -> None:
    joined = join_labels(
        ["a/1.png", "a/2.png", "b/1.jpg"], {"label": {"a/1": "x", "a/2.png": "y", "b/1": "z", "c": "w"}}
    )
    assert joined["label"] == ["x", "y", "z"]
    assert joined.notes == ("the label table: 2 of 4 ids have no file ending and are matched by name, e.g. a/1",)
    assert joined.match is not None and joined.match.stranger == "c"
    with pytest.raises(LabelError) as caught:
        join_labels(["a/1.png", "a/1.jpg"], {"label": {"a/1": "x"}})
    assert caught.value.message.endswith("expected one image for the id 'a/1', got 2: a/1.png and a/1.jpg")
    with pytest.raises(LabelError, match=r"rows of 1.png disagree in column 'label': 'x' and 'y'"):
        join_labels(["1.png"], {"label": {"1.png": "x", "1": "y"}})
    with pytest.raises(LabelError, match="none in common"):
        join_labels(["1.png"], {"label": {"1.jpg": "x"}})


def test_a_table_of_images_may_leave_out_the_file_ending(tmp_path: Path) -> None:
    for name in ("p/1.png", "p/2.jpg", "p/2.png"):
        put(tmp_path / name, 7)
    source = ImageSource.open(put(tmp_path / "t.csv", b"id,label\np/1,x\n"))
    assert source.ids == ["p/1.png"]
    assert "1 path has no file ending: the image of that name is read, e.g. p/1.png" in source.notes[0]
    error = refused(put(tmp_path / "u.csv", b"id,label\np/1,x\np/2,y\n"))
    assert error.message.endswith("row 2: expected one image called p/2, got 2: 2.jpg and 2.png")


def test_absolute_paths_below_the_root_are_relative(tmp_path: Path) -> None:
    for value in range(3):
        put(tmp_path / "real" / "p" / f"{value}.png", value)
    (tmp_path / "link").symlink_to("real")
    for start in ("real", "link"):
        rows = "".join(f"{tmp_path}/{start}/p/{value}.png,{value}\n" for value in range(3))
        path = put(tmp_path / "t.csv", f"id,label\n{rows}".encode())
        for root in (tmp_path / "real", tmp_path / "link"):
            source = ImageSource.open(path, root=root)
            assert source.ids == ["p/0.png", "p/1.png", "p/2.png"]
            assert [planted(source, row) for row in range(3)] == [0, 1, 2]
            table = read_label_table(path)
            assert load_labels(ImageSource.open(root), LabelConfig(table)).columns["label"] == ["0", "1", "2"]
            assert load_labels(ImageSource.open(root / "p"), LabelConfig(table)).columns["label"] == ["0", "1", "2"]
    assert ImageSource.open(path).ids == ["link/p/0.png", "link/p/1.png", "link/p/2.png"]
    assert ImageSource.open(path, root="/").ids[0] == f"{tmp_path}/link/p/0.png"[1:]


def test_absolute_paths_outside_the_root_get_advice_that_helps(tmp_path: Path) -> None:
    photo = put(tmp_path / "photos" / "0.png", 0)
    other = put(tmp_path / "else" / "t.csv", f"id,label\n{photo},x\n".encode())
    error = refused(other)
    assert error.message.startswith(f"{other}: row 1: expected a path below {tmp_path}/else, got the absolute path")
    assert error.next_step == f"--root {tmp_path}/photos"
    assert ImageSource.open(other, root=tmp_path / "photos").ids == ["0.png"]
    mixed = refused(put(tmp_path / "else" / "m.csv", f"id,label\n{photo},x\n1.png,y\n".encode()))
    assert mixed.next_step == f"write all paths in column id relative to {tmp_path}/else"
    gone = refused(put(tmp_path / "else" / "g.csv", rb"id,label" + b"\n" + rb"D:\photos\1.png,y"))
    assert gone.message.endswith(r"got the absolute path D:\photos\1.png, where there is no such file")
    assert "--root" not in gone.next_step
    missing = refused(put(tmp_path / "g.csv", f"id,label\n{tmp_path}/photos/9.png,x\n".encode()))
    assert "got none of 1" in missing.message and "--root" not in missing.next_step


def test_drive_letters_are_compared_in_any_case_and_names_are_not() -> None:
    from pipeline.images import relative_to

    assert relative_to(r"c:\Photos\a\1.png", [r"C:\Photos"]) == "a/1.png"
    assert relative_to("C:/Photos/a/1.png", ["C:/photos"]) is None  # as this system compares names
    assert relative_to("/data/photos2/1.png", ["/data/photos"]) is None
    assert relative_to("/data/photos/../photos/1.png", ["/data/photos/"]) == "1.png"
    assert relative_to("/data/photos", ["/data/photos"]) is None


def test_ids_of_a_label_table_are_relative_to_the_root_that_is_named(tmp_path: Path) -> None:
    for value in range(2):
        put(tmp_path / "photos" / "train" / f"{value}.png", value)
    source = ImageSource.open(tmp_path / "photos" / "train")
    table = {"label": {"photos/train/0.png": "x", "photos/train/1.png": "y", "photos/test/0.png": "z"}}
    found = load_labels(source, LabelConfig(table, root=tmp_path))
    assert found.columns["label"] == ["x", "y"]
    assert found.match is not None and found.match.strangers == 1
    absolute = {"label": {"/somewhere/0.png": "x", "/somewhere/1.png": "y"}}
    with pytest.raises(LabelError) as caught:
        load_labels(source, LabelConfig(absolute))
    assert caught.value.message.endswith(
        f"expected ids of the 2 images below {tmp_path}/photos/train, got 2 absolute paths (such as /somewhere/0.png) "
        "and none of these images"
    )
    assert caught.value.next_step == f"write the ids relative to {tmp_path}/photos/train"


def test_metadata_beside_images_becomes_columns(tmp_path: Path) -> None:
    for name in ("train/0.png", "train/1.png", "test/0.png"):
        put(tmp_path / name, 5)
    put(
        tmp_path / "train/metadata.jsonl",
        b'{"file_name": "1.png", "species": "bee"}\n{"file_name": "9.png", "species": "x"}',
    )
    put(tmp_path / "metadata.jsonl", b'{"file_name": "test/0.png", "species": "ant", "weight": 2}')
    source = ImageSource.open(tmp_path)
    assert source.ids == ["test/0.png", "train/0.png", "train/1.png"]
    assert source.columns["species"] == ["ant", None, "bee"]
    assert source.columns["weight"] == ["2", None, None]
    assert source.columns["split"] == ["test", "train", "train"]
    notes = "\n".join(source.notes)
    assert f"{tmp_path}/metadata.jsonl: its fields are read: species, weight" in notes
    assert f"{tmp_path}/train/metadata.jsonl: 1 of 2 names is no image here, e.g. 9.png" in notes


def test_labels_of_metadata_replace_folder_names_and_a_file_without_names_is_not_used(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/0.png"):
        put(tmp_path / name, 5)
    file = put(
        tmp_path / "metadata.jsonl", b'{"file_name": "a/0.png", "label": 3}\n{"file_name": "b/0.png", "label": 4}'
    )
    source = ImageSource.open(tmp_path)
    assert source.columns == {"label": ["3", "4"]}
    assert source.notes[-1] == f"{file}: its fields are read: label, label in place of the folders' names"
    put(file, b'{"caption": "no names"}')
    source = ImageSource.open(tmp_path)
    assert source.columns == {"label": ["a", "b"]}
    assert source.notes[-1].startswith(f"not used: {file}: expected an id column")


HOT = {"is_ant": ["1", "0", None, "0"], "is_bee": ["0", "1.0", None, "0"], "is_wasp": ["0", "0", None, "TRUE"]}


def test_one_hot_columns_are_one_label_set() -> None:
    ids = ["a", "b", "c", "d"]
    entries, asked = split_one_hot(["is_*:onehot", "weight"])
    assert entries == ("weight", "is:class")
    assert asked is not None
    columns = merge_one_hot(ids, {**HOT, "weight": ["1", "2", "3", "4"]}, asked)
    assert columns == {"weight": ["1", "2", "3", "4"], "is": ["ant", "bee", None, "wasp"]}
    found = label_sets(ids, columns, column=["is:class"])
    assert (found[0].classes, found[0].rows.tolist()) == (("ant", "bee", "wasp"), [0, 1, 3])
    _, asked = split_one_hot(["is_ant:onehot", "is_bee:onehot", "is_wasp:onehot"])
    assert asked is not None
    assert merge_one_hot(ids, HOT, asked) == {"label": ["ant", "bee", None, "wasp"]}
    assert one_hot_notes({**HOT, "flag": ["1", "1", "0", None]}) == [
        "3 columns (is_ant, is_bee, is_wasp) have exactly one 1 per image; --column 'is_*:onehot' reads them as one "
        "label set"
    ]
    assert one_hot_notes({"a": ["1", "0"], "b": ["1", "0"]}) == []


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"a": ["1"], "b": ["1"]}, "one-hot columns a, b: expected one 1 for x.png, got 2: 'a' and 'b'"),
        ({"a": ["0"], "b": ["0"]}, "one-hot columns a, b: expected one 1 for x.png, got none"),
        ({"a": ["1"], "b": ["2"]}, "column 'b': expected 0 or 1 for x.png, got '2'"),
        ({"a": ["1"]}, "expected two columns or more, got 'a' alone"),
        ({"a": ["1"], "b": ["0"], "label": ["x"]}, "expected no other column 'label', got one in the table"),
        ({"c": ["1"]}, "expected a column 'a', got 'c'"),
    ],
)
def test_columns_that_are_not_one_hot_are_refused(cells: Any, message: str) -> None:
    entries = [f"{name}:onehot" for name in ("a", "b") if name in cells or "c" in cells]
    _, asked = split_one_hot(entries)
    assert asked is not None
    if asked.name != "label":
        asked = type(asked)("label", asked.globs)
    with pytest.raises(LabelError) as caught:
        merge_one_hot(["x.png"], cells, asked)
    assert message in caught.value.message
    assert caught.value.next_step


def test_one_hot_columns_of_a_table_or_of_the_images_are_joined(tmp_path: Path) -> None:
    for value in range(3):
        put(tmp_path / f"{value}.png", value)
    path = put(tmp_path / "t.csv", b"id,is_ant,is_bee\n0.png,1,0\n1.png,0,1\n2.png,,\n")
    for source, labels in ((ImageSource.open(path), None), (ImageSource.open(tmp_path), path)):
        asked = LabelConfig.of(
            labels, id_column=None, columns=["is_*:onehot"], beside=(), root=None, level=None, missing=()
        )
        found = load_labels(source, asked)
        assert found.columns == {"is": ["ant", "bee", None]}
        plain = load_labels(source, LabelConfig(labels))
        assert "--column 'is_*:onehot' reads them as one label set" in plain.notes[-1]
