"""How spreadsheets (.xlsx, .ods) are read as columns of text; cells are typed, so that no value is guessed."""

from __future__ import annotations

import datetime
import itertools
import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from xml.parsers import expat

from pipeline.errors import SourceError
from pipeline.images.listing import printable

SPREADSHEET_ENDINGS = frozenset(("xlsx", "xlsm", "ods"))

MAX_UNPACKED = 1 << 30  # bytes of all XML together; openpyxl and odfpy would take any amount
FREELY_UNPACKED = 64 << 20  # up to here at any compression
MAX_RATIO = 100  # beyond: real sheets compress about 10 times, a sheet of one repeated cell 40 times
MAX_ODS = 256 << 20  # odfpy holds a whole document as objects
MAX_ROWS = 1 << 20  # as many as a sheet can have
MAX_CELLS = 50_000_000

_SHEET = re.compile(r"(.+\.(?:xlsx|xlsm|ods|xls)):([^/\\]+)", re.IGNORECASE | re.DOTALL)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # the first bytes of .xls and of encrypted files

Cells = list[str | None]


class _Error(str):
    """The text of a cell that holds an error such as #N/A."""


@dataclass
class _Sheet:
    """The rows of one sheet: number from 1, and values up to the last cell that is not empty."""

    rows: list[tuple[int, list[Any]]] = field(default_factory=list)
    filled: int = 0  # cells of merged ranges that took the value of the first
    hidden: list[int] = field(default_factory=list)  # numbers of hidden rows


def split_sheet(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Return file and sheet of ``labels.xlsx:Sheet2``, None for the sheet where none is named."""
    text = os.fspath(path)
    found = _SHEET.fullmatch(text)
    if found is None or Path(text).exists():
        return text, None
    return found[1], found[2]


def is_spreadsheet(path: str | os.PathLike[str]) -> bool:
    """Return whether the path names a spreadsheet, an old ``.xls`` included, or a sheet of one."""
    return Path(split_sheet(path)[0]).suffix[1:].lower() in {*SPREADSHEET_ENDINGS, "xls"}


def read_spreadsheet(path: str | os.PathLike[str]) -> tuple[list[str], list[Cells], list[str]]:
    """Return the names and the cells of a sheet's columns as text, and notes.

    The first row that is not empty is the header. 1 and 1.0 become "1", truth values "true" and "false", dates their
    ISO form; empty cells and errors such as #N/A are None. Every cell of a merged range has the value of the first.
    Hidden rows are read too, hidden sheets only where they are named.

    Parameters
    ----------
    path : path
        ``labels.xlsx`` or ``labels.xlsx:Sheet2``. Without a name, the only sheet that has rows is taken.

    Raises
    ------
    SourceError
        It is not a spreadsheet, unpacks to too much, has no such sheet, several sheets with rows, a formula without a
        stored value, or a cell beyond the header.
    """
    file, name = split_sheet(path)
    shown = printable(file)
    _check_kind(file, shown)
    book: _Book = _OdsBook(file, shown) if Path(file).suffix.lower() == ".ods" else _XlsxBook(file, shown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts that openpyxl does not know, such as drop-down lists
        try:
            with zipfile.ZipFile(file) as archive:
                _check_archive(archive, file, shown)
            with book:
                name, sheet, notes = _choose_sheet(book, name, shown)
        except SourceError:
            raise
        # A damaged file shows as nearly any exception of openpyxl, odfpy, zipfile and zlib.
        except Exception as error:
            raise SourceError(
                f"{shown}: expected a spreadsheet, got a file that cannot be read: {_one_line(error)}",
                "open it in a spreadsheet program and save it again, or save it as CSV",
            ) from error
    names, columns, about = _columns(sheet, f"{shown}:{printable(name)}")
    return names, columns, [*notes, *about]


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:120])


def _check_kind(file: str, shown: str) -> None:
    """Raise `SourceError` where the file is not a zip archive, as .xlsx and .ods are."""
    with open(file, "rb") as stream:
        head = stream.read(8)
    if head == _OLE and not file.lower().endswith(".xls"):
        raise SourceError(
            f"{shown}: expected a readable .xlsx file, got one that is protected by a password, or an old .xls file",
            "save it without a password as .xlsx, or as CSV UTF-8",
        )
    if file.lower().endswith(".xls"):
        raise SourceError(
            f"{shown}: expected .xlsx, .ods or CSV, got the old format .xls", "save it as .xlsx or as CSV UTF-8"
        )
    if not zipfile.is_zipfile(file):
        raise SourceError(
            f"{shown}: expected a spreadsheet, got a file that is not one",
            "save it as .xlsx or as CSV UTF-8 in a spreadsheet program",
        )


def _check_archive(archive: zipfile.ZipFile, file: str, shown: str) -> None:
    """Raise `SourceError` for an archive that unpacks to too much, or whose XML defines entities or is damaged.

    zipfile never returns more bytes of a member than its entry states, so the stated sizes are a bound.
    """
    sizes = sum(info.file_size for info in archive.infolist())
    most = MAX_ODS if file.lower().endswith(".ods") else MAX_UNPACKED
    if sizes > most or (sizes > FREELY_UNPACKED and sizes > MAX_RATIO * os.path.getsize(file)):  # noqa: PTH202
        raise SourceError(
            f"{shown}: expected a spreadsheet of at most {most >> 20} MiB when unpacked, at most {MAX_RATIO} times its "
            f"size, got {sizes >> 20} MiB",
            "save the sheet of labels alone as CSV or Parquet",
        )
    for info in archive.infolist():
        if info.filename.lower().endswith((".xml", ".rels")):
            _check_xml(archive, info, shown)


def _check_xml(archive: zipfile.ZipFile, info: zipfile.ZipInfo, shown: str) -> None:
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _raise_doctype
    try:
        with archive.open(info) as member:
            parser.ParseFile(member)
    except (expat.ExpatError, _Doctype, zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        what = "defines entities" if isinstance(error, _Doctype) else f"is damaged: {_one_line(error)}"
        raise SourceError(
            f"{shown}: expected a spreadsheet, got one whose part {printable(info.filename)} {what}",
            "open it in a spreadsheet program and save it again, or save it as CSV",
        ) from error
    except Exception as error:  # zlib.error has no common base with the others
        raise SourceError(
            f"{shown}: expected a spreadsheet, got one whose part {printable(info.filename)} cannot be unpacked: "
            f"{_one_line(error)}",
            "copy it again from where it comes",
        ) from error


class _Doctype(Exception):
    """An XML file begins with a document type, which no spreadsheet program writes."""


def _raise_doctype(*_: Any) -> None:
    raise _Doctype


class _Book(Protocol):
    """A spreadsheet file that is open."""

    sheets: list[str]
    hidden: set[str]

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: Any) -> None: ...

    def has_rows(self, name: str) -> bool: ...

    def read(self, name: str) -> _Sheet: ...


def _choose_sheet(book: _Book, name: str | None, shown: str) -> tuple[str, _Sheet, list[str]]:
    """Return the sheet that is named, or else the only visible one that has a header and a row."""
    listed = ", ".join(map(repr, map(printable, book.sheets)))
    if name is not None:
        exact = [sheet for sheet in book.sheets if sheet == name]
        found = exact or [sheet for sheet in book.sheets if sheet.strip().lower() == name.strip().lower()]
        if not found:
            raise SourceError(
                f"{shown}: expected a sheet {name!r}, got the sheets {listed}",
                f"name one of them, such as {shown}:{printable(book.sheets[0])}" if book.sheets else "fill the file",
            )
        return found[0], book.read(found[0]), []
    visible = [sheet for sheet in book.sheets if sheet not in book.hidden]
    filled = visible if len(visible) == 1 else [sheet for sheet in visible if book.has_rows(sheet)]
    if len(filled) > 1:
        filled_list = ", ".join(map(repr, map(printable, filled)))
        raise SourceError(
            f"{shown}: expected one sheet with rows, got {len(filled)}: {filled_list}",
            f"name the sheet: {shown}:{printable(filled[0])}",
        )
    if not filled:
        raise SourceError(f"{shown}: expected a sheet with rows, got none in {listed}", "fill it")
    notes = [f"{shown}: the sheet {filled[0]!r} is read"] if len(book.sheets) > 1 else []
    return filled[0], book.read(filled[0]), notes


class _XlsxBook:
    """An .xlsx file as openpyxl reads it: row by row, with stored values in place of formulas."""

    def __init__(self, file: str, shown: str) -> None:
        self.file, self.shown = file, shown
        self.sheets: list[str] = []
        self.hidden: set[str] = set()

    def __enter__(self) -> _XlsxBook:
        import openpyxl

        self.book = openpyxl.load_workbook(self.file, read_only=True, data_only=True, keep_links=False)
        self.sheets = [sheet.title for sheet in self.book.worksheets]
        self.hidden = {sheet.title for sheet in self.book.worksheets if sheet.sheet_state != "visible"}
        return self

    def __exit__(self, *_: Any) -> None:
        self.book.close()

    def has_rows(self, name: str) -> bool:
        return sum(1 for _ in itertools.islice(self._rows(name), 2)) == 2

    def read(self, name: str) -> _Sheet:
        found = _Sheet()
        merged = self._scan(name, found)
        found.rows = list(self._rows(name))
        _fill_merged(found, merged)
        return found

    def _rows(self, name: str) -> Iterator[tuple[int, list[Any]]]:
        """Yield the rows that are not empty."""
        sheet = self.book[name]
        sheet.reset_dimensions()  # what a file states of its size may be wrong, or without end
        budget = MAX_CELLS
        for number, row in enumerate(sheet.iter_rows(), 1):
            budget -= len(row)
            if number > MAX_ROWS or budget < 0:
                raise _too_large(self.shown, name)
            values = [_Error(cell.value) if cell.data_type == "e" else cell.value for cell in row]
            if values := _trimmed(values):
                yield number, values

    def _scan(self, name: str, found: _Sheet) -> list[tuple[int, int, int, int]]:
        """Return the merged ranges and note hidden rows: both are only in the XML, openpyxl reads neither here.

        Raises
        ------
        SourceError
            A formula has no stored value: a program that does not calculate wrote the file.
        """
        with self.book._archive.open(self.book[name]._worksheet_path) as member:
            xml = member.read()
        if formula := next((cell for cell in _FORMULA.finditer(xml) if b't="str"' not in cell[1]), None):
            place = _REFERENCE.search(formula[1])
            raise SourceError(
                f"{self.shown}:{printable(name)}: expected a value in cell {place[1].decode() if place else '?'}, "
                "got a formula without a stored value",
                "open the file in a spreadsheet program and save it, or save the sheet as CSV",
            )
        found.hidden = [int(row[1]) for row in _HIDDEN_ROW.finditer(xml)]
        return [_corners(ref[1].decode()) for ref in _MERGED.finditer(xml)]


_FORMULA = re.compile(
    rb"<(?:\w+:)?c\b([^>]*)>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)"
    rb"\s*(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_REFERENCE = re.compile(rb'\br="([A-Z]{1,3}\d{1,7})"')
_HIDDEN_ROW = re.compile(rb'<(?:\w+:)?row\b(?=[^>]*\bhidden="(?:1|true)")[^>]*\br="(\d{1,7})"')
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*\bref="([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})"')


def _corners(text: str) -> tuple[int, int, int, int]:
    """Return first row, first column, last row and last column of a range such as A2:A5, columns from 0."""
    from openpyxl.utils import range_boundaries

    left, top, right, bottom = range_boundaries(text)
    return top, left - 1, bottom, right - 1


class _OdsBook:
    """An .ods file as odfpy reads it."""

    def __init__(self, file: str, shown: str) -> None:
        self.file, self.shown = file, shown
        self.sheets: list[str] = []
        self.hidden: set[str] = set()

    def __enter__(self) -> _OdsBook:
        try:
            from odf.opendocument import load
        except ImportError as error:
            raise SourceError(
                f"{self.shown}: expected the package odfpy to read .ods files, got none",
                'pip install "transfer-pipeline[ods]", or save the file as .xlsx or CSV',
            ) from error
        from odf import table

        self.kinds = table
        self.tables = {
            str(sheet.getAttribute("name")): sheet for sheet in load(self.file).body.getElementsByType(table.Table)
        }
        self.sheets = list(self.tables)
        return self

    def __exit__(self, *_: Any) -> None:
        self.tables = {}

    def has_rows(self, name: str) -> bool:
        return len(self.read(name).rows) > 1

    def read(self, name: str) -> _Sheet:
        found = _Sheet()
        merged: list[tuple[int, int, int, int]] = []
        number, budget = 1, MAX_CELLS
        for row in self.tables[name].getElementsByType(self.kinds.TableRow):
            values: list[Any] = []
            for cell in row.childNodes:
                if getattr(cell, "qname", (None, ""))[1] not in ("table-cell", "covered-table-cell"):
                    continue
                value = _ods_value(cell)
                down, across = _times(cell, "numberrowsspanned"), _times(cell, "numbercolumnsspanned")
                if (down > 1 or across > 1) and cell.qname[1] == "table-cell":
                    merged.append((number, len(values), number + down - 1, len(values) + across - 1))
                # The empty rest of a row is one cell, repeated to the sheet's edge.
                repeated = _times(cell, "numbercolumnsrepeated")
                if value is not None and repeated > budget:
                    raise _too_large(self.shown, name)
                values += [value] * min(repeated, 1 << 14)
            repeated = _times(row, "numberrowsrepeated")
            if str(row.getAttribute("visibility") or "visible") != "visible":
                found.hidden.append(number)
            if values := _trimmed(values):
                budget -= len(values) * repeated
                if number + repeated > MAX_ROWS or budget < 0:
                    raise _too_large(self.shown, name)
                found.rows += [(number + at, list(values)) for at in range(repeated)]
            number += repeated
        _fill_merged(found, merged)
        return found


def _times(element: Any, attribute: str) -> int:
    """Return a count that an element states, 1 where it states none."""
    try:
        text = element.getAttribute(attribute)
    except ValueError:  # the element has no such attribute
        return 1
    return max(1, int(text)) if text else 1


def _ods_value(cell: Any) -> Any:
    """Return the typed value of a cell of an .ods file."""
    from odf import teletype
    from odf.text import P

    kind = cell.getAttribute("valuetype") if cell.qname[1] == "table-cell" else None
    if kind in ("float", "percentage", "currency"):
        return float(cell.getAttribute("value"))
    if kind == "boolean":
        return str(cell.getAttribute("booleanvalue")).lower() == "true"
    if kind == "date":
        return datetime.datetime.fromisoformat(str(cell.getAttribute("datevalue")))
    text = "\n".join(teletype.extractText(line) for line in cell.getElementsByType(P)) or None
    if text is not None and cell.getAttribute("formula") and _ODS_ERROR.fullmatch(text):
        return _Error(text)
    return text


_ODS_ERROR = re.compile(r"#(N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!)|Err:\d+")


def _trimmed(values: list[Any]) -> list[Any]:
    """Return the cells without the empty ones at the end."""
    end = len(values)
    while end and (values[end - 1] is None or values[end - 1] == ""):
        end -= 1
    return values[:end]


def _fill_merged(sheet: _Sheet, merged: list[tuple[int, int, int, int]]) -> None:
    """Give every empty cell of a merged range the value of its first; rows that hold nothing else stay away."""
    rows = dict(sheet.rows)
    for top, left, bottom, right in merged:
        first = rows.get(top, [])
        value = first[left] if left < len(first) else None
        if value is None:
            continue
        for number in (
            [number for number in rows if top <= number <= bottom]
            if bottom - top > len(rows)
            else range(top, bottom + 1)
        ):
            row = rows.get(number)
            if row is None:
                continue
            for column in range(left, min(right, 1 << 14) + 1):
                if column >= len(row):
                    row.extend([None] * (column + 1 - len(row)))
                if row[column] is None:
                    row[column] = value
                    sheet.filled += 1


def _too_large(shown: str, name: str) -> SourceError:
    return SourceError(
        f"{shown}:{printable(name)}: expected at most {MAX_ROWS:,} rows and {MAX_CELLS:,} cells, got more",
        "save the table as CSV or Parquet",
    )


def _columns(sheet: _Sheet, shown: str) -> tuple[list[str], list[Cells], list[str]]:
    """Return header and columns of a sheet; columns without a name and without a value are none."""
    if not sheet.rows:
        return [], [], []
    (header_row, header), *body = sheet.rows
    width = len(header)
    names = [cell_value(value) or "" for value in header]
    for number, row in body:
        if len(row) > width:
            raise SourceError(
                f"{shown}: expected {width} cells in row {number}, one per name in the header (row {header_row}), "
                f"got a value beyond them: {row[-1]!r:.40}",
                "give the column a name in the header, or clear the cell",
            )
    columns = [[cell_value(row[at]) if at < len(row) else None for _, row in body] for at in range(width)]
    kept = [at for at in range(width) if names[at] or any(cell is not None for cell in columns[at])]
    errors = [(number, value) for number, row in body for value in row if isinstance(value, _Error)]
    notes = []
    if errors:
        cells = "cell holds an error and is" if len(errors) == 1 else "cells hold an error and are"
        notes.append(f"{shown}: {len(errors)} {cells} missing, e.g. {errors[0][1]} in row {errors[0][0]}")
    if sheet.filled:
        cells = "cell of a merged range has" if sheet.filled == 1 else "cells of merged ranges have"
        notes.append(f"{shown}: {sheet.filled} {cells} the value of the first cell of the range")
    if hidden := sorted(set(sheet.hidden) & {number for number, _ in body}):
        rows = "hidden row is" if len(hidden) == 1 else "hidden rows are"
        notes.append(f"{shown}: {len(hidden)} {rows} read too, e.g. row {hidden[0]}")
    return [names[at] for at in kept], [columns[at] for at in kept], notes


def cell_value(value: Any) -> str | None:
    """Return the value of a typed cell as text: 1 and 1.0 are "1", dates have their ISO form, errors are missing."""
    if value is None or isinstance(value, _Error):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # Spreadsheets calculate with 15 digits and store 17: 0.1 + 0.2 is 0.3 there.
        return None if math.isnan(value) else str(float(f"{value:.15g}")).removesuffix(".0")
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
