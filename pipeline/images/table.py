"""How tables of images or labels are read as text, without guessing types, and how CSV cells are written safely."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import posixpath
import re
import shlex
import stat as modes
import unicodedata
from collections.abc import Collection, Container, Iterable, Sequence
from csv import QUOTE_NONNUMERIC
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import PipelineError, SourceError
from pipeline.images.class_labels import class_names, column_kinds, holds_tags, named_values
from pipeline.images.decode import IMAGE_ENDINGS
from pipeline.images.listing import Columns, Listing, Requested, name_trouble, printable, short_name
from pipeline.images.paths import Stems, common_folder, is_absolute, relative_to, spellings
from pipeline.images.photo import FileReader
from pipeline.images.spreadsheet import is_spreadsheet, read_spreadsheet, split_sheet
from pipeline.images.values import MISSING as MISSING
from pipeline.images.values import cell_text as cell_text
from pipeline.images.values import clean_text as clean_text
from pipeline.images.values import is_missing, list_text
from pipeline.images.values import number_text as number_text

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


SAFE, PLAIN = "safe", "plain"

# Where a cell begins, for whichever separator: half the world's spreadsheets split at semicolons, and look for quotes
# only behind them.
_BEGINS = r"(^|[;\t\r\n])"
_FORMULA = re.compile(rf"{_BEGINS}(?='*[=+\-@\t\r])")
_MADE_TEXT = re.compile(rf"{_BEGINS}'(?='*[=+\-@\t\r])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PIECE = re.compile(r"[^;\t\r\n]*")
_SIGNS = re.compile(r"[=+\-@]*")
# After the signs: names of files and classes. Without brackets, quotes, bars, exclamation marks, colons and commas
# nothing can be called, linked or read from elsewhere.
_NAMES = re.compile(r"[+\-@][\w.\-/ ]*")
_OPERATORS = re.compile(r"[\-/@+ ]+")
_REFERENCE = re.compile(r"[a-z]{1,3}\d+|r\d*c\d*|true|false", re.IGNORECASE)


def safe_cell(text: str) -> str:
    """Return the text as it is written to a CSV; a number such as -1.5 stays one."""
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(_with_apostrophe, text)


def _with_apostrophe(found: re.Match[str]) -> str:
    piece = _PIECE.match(found.string, found.end())
    assert piece is not None
    # An apostrophe of the text's own gets another one, or `read_cell` would take it for ours.
    return found[1] + ("" if piece[0] and piece[0][0] != "'" and not _is_computed(piece[0]) else "'")


def _is_computed(piece: str) -> bool:
    """Return whether a cell that begins with ``= + - @`` may be more to a spreadsheet than a name."""
    if _SIGNS.fullmatch(piece):
        return False
    if not _NAMES.fullmatch(piece):
        return True
    parts = [part for part in _OPERATORS.split(piece) if part]
    # One part that is neither a number nor a cell is a name that no sheet knows, and nothing is computed.
    return all(_NUMBER.fullmatch(part) or _REFERENCE.fullmatch(part) for part in parts)


def read_cell(text: str) -> str:
    """Return what `safe_cell` was given."""
    return _MADE_TEXT.sub(r"\1", text) if "'" in text else text


def csv_text(table: pd.DataFrame, *, float_format: str | None = None, csv: str = SAFE) -> str:
    """Return the table as CSV.

    Parameters
    ----------
    table : DataFrame
    float_format : str, optional
        For numbers that are not whole.
    csv : {"safe", "plain"}
        Whether every text is written as `safe_cell` has it, or exactly as it is.

    Raises
    ------
    PipelineError
        Another value of `csv`.
    """
    check_csv(csv)
    safe = table
    if csv == SAFE:
        safe = table.rename(columns=lambda name: safe_cell(str(name)))
    texts = safe.select_dtypes(include=["object", "string"]).columns
    if csv == SAFE:
        safe[texts] = safe[texts].map(lambda cell: safe_cell(cell) if isinstance(cell, str) else cell)
    # Before Python 3.13 a carriage return alone gets no quotes, and readers take it for the end of the line.
    if any("\r" in cell for name in texts for cell in safe[name] if isinstance(cell, str)):
        return safe.to_csv(index=False, float_format=float_format, quoting=QUOTE_NONNUMERIC)
    return safe.to_csv(index=False, float_format=float_format)


def check_csv(csv: str) -> None:
    """Raise `PipelineError` for a `csv` that is neither "safe" nor "plain"."""
    if csv not in (SAFE, PLAIN):
        raise PipelineError(f"--csv: expected {SAFE} or {PLAIN}, got {csv!r}", f"--csv {PLAIN}")


#: In the order in which they are preferred where two fit alike.
SEPARATORS = (",", ";", "\t", "|")

_SAMPLED = 50  # rows
_SEP_LINE = re.compile(r'"?sep=(.)"?[ ,;\t]*(\r\n|\r|\n|$)', re.IGNORECASE)
_WHOLE = r"[+-]?\d+"
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_PLAIN = re.compile(rf"{_WHOLE}([eE][+-]?\d+)?")
_CODE = re.compile(r"[+-]?0\d")  # "007" is a code, never a number
# Texts that usually mean "no value": they do not turn a column of numbers into text.
_MARKERS = frozenset(("null", "none", "n/a", "#n/a", "<na>", "-", "--", "?", "."))


def split_sep_line(text: str) -> tuple[str | None, str]:
    """Return the separator that a first line ``sep=;`` states, None without one, and the text after that line."""
    found = _SEP_LINE.match(text)
    return (None, text) if found is None else (found[1], text[found.end() :])


def find_separator(text: str, id_names: Collection[str]) -> str:
    """Return the separator of a CSV text; separators inside quotes do not count.

    A separator fits where it splits the header, and the first rows into as many fields. Where several fit, the one
    whose header has a name of an id column is taken, then the one that leaves no quotes inside a field, then the one
    with the most fields.

    Parameters
    ----------
    text : str
    id_names : collection of str
        Lower-case names that an id column may have.
    """
    rated = []
    for rank, separator in enumerate(SEPARATORS):
        rows = _sample(text, separator)
        if not rows or len(rows[0]) < 2:
            continue
        header = rows[0]
        alike = all(len(row) == len(header) for row in rows)
        stray = any('"' in name for name in header)
        named = any(name.strip().lower() in id_names for name in header)
        rated.append((not alike, not named, stray, -len(header), rank))
    return SEPARATORS[min(rated)[-1]] if rated else SEPARATORS[0]


def _sample(text: str, separator: str) -> list[list[str]]:
    """Return the first rows that are not empty, as this separator splits them."""
    rows = (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row)
    found: list[list[str]] = []
    try:
        found.extend(itertools.islice(rows, _SAMPLED))
    except csv.Error:  # reading the whole table reports the line
        found = found[:_SAMPLED]
    return found


def holds_decimal_commas(cells: Iterable[str | None]) -> bool:
    """Return whether all cells are numbers with a decimal comma or without decimals, and one has a comma.

    Empty cells and the usual markers of missing values are passed over.
    """
    commas = False
    for text in {text for text in cells if text is not None and text.lower() not in _MARKERS}:
        if _COMMA.fullmatch(text):
            commas = True
        elif not _PLAIN.fullmatch(text) or _CODE.match(text):
            return False
    return commas


def with_decimal_points(cells: Sequence[str | None]) -> list[str | None]:
    """Return the cells with a point in place of each decimal comma."""
    return [text.replace(",", ".") if text is not None and _COMMA.fullmatch(text) else text for text in cells]


MAX_FIELDS = 1000  # of all objects of a JSON Lines file together

_FIRST_PATH = re.compile(rf"(.+?\.(?:{'|'.join(sorted(IMAGE_ENDINGS))}))(?:\s+(.*))?", re.IGNORECASE)

Cells = list[str | None]


def read_path_list(text: str, shown: str) -> tuple[list[str], list[Cells], list[str]]:
    """Return columns ``path`` and ``label`` of lines such as ``images/1.jpg 3``, and notes.

    The path ends at the first file ending of an image, or else at the last blank; the rest of the line is the label.
    So both may hold blanks. Lines without a label get None; where no line has one there is no such column.
    """
    paths: Cells = []
    labels: Cells = []
    for line in re.split(r"\r\n|\r|\n", text):
        line = line.strip()
        if not line:
            continue
        found = _FIRST_PATH.fullmatch(line)
        path, label = (found[1], found[2]) if found else _split_last(line)
        paths.append(path)
        labels.append(label or None)
    if not any(labels):
        return ["path"], [paths], []
    without = [row for row, label in enumerate(labels) if label is None]
    notes = [f"{shown}: read as lines of a path and a label, e.g. {paths[0]!r} and {labels[0]!r}"]
    if without:
        notes.append(f"{shown}: {len(without)} of {len(labels)} lines have no label, e.g. {paths[without[0]]}")
    return ["path", "label"], [paths, labels], notes


def _split_last(line: str) -> tuple[str, str | None]:
    parts = line.rsplit(None, 1)
    return (parts[0], parts[1]) if len(parts) == 2 else (line, None)


def read_json_lines(text: str, shown: str) -> tuple[list[str], list[Cells], list[str]]:
    """Return the fields of a JSON Lines file as columns, and notes; a field that an object lacks is None.

    Fields that hold lists or objects are left out and named in a note.

    Raises
    ------
    SourceError
        A line is not a JSON object; the error names it.
    """
    columns: dict[str, Cells] = {}
    left_out: dict[str, int] = {}  # field: the first line
    rows = 0
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{shown}: line {number}: expected a JSON object, got text that is not JSON: "
                f"{' '.join(str(error).split())[:80]}",
                "write one object per line",
            ) from error
        if not isinstance(values, dict):
            raise SourceError(
                f"{shown}: line {number}: expected a JSON object of names and values, got {type(values).__name__}",
                'write one object per line, such as {"file_name": "1.jpg", "label": "ant"}',
            )
        for field, value in values.items():
            if isinstance(value, dict | list):
                left_out.setdefault(field, number)
                continue
            if field not in columns:
                if len(columns) == MAX_FIELDS:
                    raise SourceError(
                        f"{shown}: line {number}: expected at most {MAX_FIELDS} different fields, got more",
                        "write the values as one object per image",
                    )
                columns[field] = [None] * rows
            columns[field].append(_json_text(value))
        rows += 1
        for cells in columns.values():
            if len(cells) < rows:
                cells.append(None)
    for field in left_out:
        columns.pop(field, None)
    notes = [
        f"{shown}: the field {field!r} is left out: it holds a list or an object in line {line}"
        for field, line in left_out.items()
    ]
    return list(columns), list(columns.values()), notes


def _json_text(value: object) -> str | None:
    """Return a JSON value as the text of a cell: 1 and 1.0 are "1", true is "true", null and NaN are missing."""
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


Column = list[str | None]

#: File endings that are read as tables.
TABLE_ENDINGS = frozenset(
    ("csv", "tsv", "parquet", "pq", "xlsx", "xlsm", "xls", "ods", "jsonl", "ndjson", "txt", "lst", "list")
)

#: The columns taken for the id where none is named, first match first, in any case.
ID_COLUMNS = ("id", "path", "file", "filename", "image", "filepath", "file_name")


class TextTable(dict[str, Column]):
    """The columns of a table: name -> one text or None for each row.

    Attributes
    ----------
    notes : list of str
        Decisions made while reading it.
    decimal_commas : frozenset of str
        Columns whose cells are numbers with decimal commas; only of files whose separator is not the comma.
    """

    def __init__(self, columns: Columns, *, notes: Sequence[str] = (), decimal_commas: Iterable[str] = ()) -> None:
        super().__init__(columns)
        self.notes = list(notes)
        self.decimal_commas = frozenset(decimal_commas)

    def with_numbers(self, shown: str, keep: Container[str] = ()) -> TextTable:
        """Return the table with 1.5 for 1,5 in the columns of such numbers, except those to keep, and a note on each.

        Parameters
        ----------
        shown : str
            The table's name for the notes.
        keep : container of str
            Columns that are read as text: the ids, classes, tags.
        """
        names = [name for name in self if name in self.decimal_commas and name not in keep]
        notes = []
        for name in names:
            example = next(text for text in self[name] if text is not None and "," in text)
            notes.append(
                f"{shown}: column {name!r} holds numbers with decimal commas: {example} is read as "
                f"{example.replace(',', '.')}; --column {shlex.quote(f'{name}:class')} for text"
            )
        columns = {name: with_decimal_points(cells) if name in names else cells for name, cells in self.items()}
        return TextTable(columns, notes=[*self.notes, *notes], decimal_commas=self.decimal_commas.difference(names))


def read_text_table(path: str | os.PathLike[str]) -> TextTable:
    """Return a table as columns of text; nothing is guessed, so ``007`` stays ``007``.

    Cells are cleaned by `clean_text`; those in `MISSING` become None. Of a CSV's cells that `safe_cell` wrote, the
    apostrophe goes. A CSV may be separated by commas, semicolons, tabs or ``|``: a first line ``sep=;`` states it, or
    else `find_separator` finds it. A spreadsheet is read by `read_spreadsheet`, JSON Lines by `read_json_lines`, a
    text file of paths and labels by `read_path_list`. The numbers of a Parquet file become their plain text
    (1 -> "1", 1.0 -> "1", 0.5 -> "0.5"), its truth values "true" and "false", its null values and NaNs None; its
    columns of bytes are left out.

    Parameters
    ----------
    path : path
        Ends in ``.csv``, ``.tsv``, ``.parquet``, ``.pq``, ``.xlsx``, ``.ods``, ``.jsonl`` or ``.txt``; a spreadsheet's
        sheet may follow as in ``labels.xlsx:Sheet2``.

    Returns
    -------
    TextTable
        In the order of the file: name of a column -> one text or None for each row. A column without a name is
        called ``column_1`` by its place.

    Raises
    ------
    SourceError
        The file is missing, not UTF-8 or not Parquet, has a line with too many or too few fields, two columns of one
        name, or no row.
    """
    shown = printable(os.fspath(path))
    tail = Path(path).suffix.lower()
    columns: Iterable[Column]
    notes: list[str] = []
    separator = ","
    try:
        if is_spreadsheet(path):
            names, texts, notes = read_spreadsheet(path)
            columns = map(_cleaned, texts)
        elif tail in (".parquet", ".pq"):
            names, columns = _read_parquet(path, shown)
        else:
            text = _decoded(Path(path).read_bytes(), shown)
            if tail in (".jsonl", ".ndjson"):
                names, texts, notes = read_json_lines(text, shown)
                columns = map(_cleaned, texts)
            elif tail in (".txt", ".lst", ".list") and not _has_header(text):
                names, texts, notes = read_path_list(text, shown)
                columns = map(_cleaned, texts)
            else:
                names, columns, separator = _read_csv(text, "\t" if tail == ".tsv" else None, shown)
    except OSError as error:
        raise SourceError(
            f"{shown}: cannot read this table: {error.strerror or ' '.join(str(error).split())[:120]}",
            "check the path and its permissions",
        ) from error
    names = tidy_names(names, shown)
    table = dict(zip(names, columns, strict=True))
    if not names or not table[names[0]]:
        raise SourceError(
            f"{shown}: expected a table with rows, got {'a header alone' if names else 'nothing'}", "fill it"
        )
    commas = [name for name, cells in table.items() if separator != "," and holds_decimal_commas(cells)]
    return TextTable(table, notes=notes, decimal_commas=commas)


def _has_header(text: str) -> bool:
    """Return whether the first line of a text file names an id column among others, as that of a CSV does."""
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    names = re.split(r"[,;\t|]", header)
    return len(names) > 1 and any(clean_text(name).strip('"').lower() in ID_COLUMNS for name in names)


def tidy_names(names: Sequence[str], shown: str) -> list[str]:
    """Return the names of a table's columns cleaned, those without one called by their place; none is there twice."""
    names = [clean_text(name) or f"column_{place}" for place, name in enumerate(names, 1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SourceError(f"{shown}: two columns are called {twice[0]!r}", "rename one of them")
    return names


def open_table(
    path: str,
    *,
    id_column: str | None = None,
    root: str | os.PathLike[str] | None = None,
    with_columns: bool = True,
) -> Listing:
    """Return the images that a table names, with its other columns; a file that is missing fails when it is read.

    Where every file is missing, the paths start from somewhere else: that is an error, and not so many failed images.
    """
    shown = printable(path)
    file, sheet = split_sheet(path)
    place = Path(file).resolve()
    table = read_text_table(path)
    key = find_id_column(table, id_column, shown)
    columns = table.with_numbers(shown, (key,))
    base = Path(root).expanduser().resolve() if root is not None else place.parent
    others = {name: column for name, column in columns.items() if name != key and with_columns}
    paths = _relative_paths(columns[key], file if root is None else root, base, shown, key)
    stems = Stems(str(base))
    seen: dict[str, int] = {}  # id: its first row
    stats: dict[str, tuple[int, int]] = {}
    located: list[str] = []  # the id of each row
    completed: list[str] = []  # paths that were written without a file ending
    for row, text in enumerate(paths):
        where = f"{shown}: row {row + 1}"
        image_id, stat = _located(text, str(base), where, key)
        if not any(stat) and (found := stems.find(image_id, where)) is not None:
            image_id, stat = _located(found, str(base), where, key)
            completed.append(image_id)
        first = seen.setdefault(image_id, row)
        located.append(image_id)
        stats[image_id] = stat
        if first != row:
            for name, column in others.items():
                if column[first] != column[row]:
                    raise SourceError(
                        f"{shown}: {image_id} stands in rows {first + 1} and {row + 1}, which disagree in column "
                        f"{name}: {column[first]!r} and {column[row]!r}",
                        "keep one row for each image",
                    )
    ids = sorted(seen)
    if not any(map(any, stats.values())):
        # Another root is of no use to absolute paths.
        absolute = any(text is not None and is_absolute(text) for text in columns[key])
        raise SourceError(
            f"{shown}: expected the images of its column {key} below {printable(str(base))}, got none of {len(ids):,}, "
            f"e.g. {printable(ids[0])}",
            f"correct the paths in the column {key}"
            if absolute
            else f"name the folder that the paths are relative to: --root {'OTHER' if root is not None else 'DIR'}",
        )
    rows = [seen[image_id] for image_id in ids]
    at_home = base == place.parent
    collapsed = len(columns[key]) - len(ids)
    notes = list(columns.notes)
    if completed:
        paths_are = "path has no file ending: the image" if len(completed) == 1 else "paths have no file ending: images"
        notes.append(f"{shown}: {len(completed)} {paths_are} of that name is read, e.g. {printable(completed[0])}")
    if collapsed:
        notes.append(f"{shown}: {collapsed} rows repeat another row and are read once")
    called = place.as_posix() if sheet is None else f"{place.as_posix()}:{sheet}"
    return Listing(
        name=short_name(place.stem),
        place=printable(called if at_home else f"{called} over {base.as_posix()}"),
        ids=ids,
        stat=np.array([stats[image_id] for image_id in ids], dtype=np.int64),
        reader=FileReader(str(base)),
        columns={name: [column[row] for row in rows] for name, column in others.items()},
        verbatim={name: [table[name][row] for row in rows] for name in table.decimal_commas if name != key},
        kinds={name: kind for name, kind in table_kinds(path).items() if name in others},
        notes=notes,
        requested=Requested.of([text or "" for text in columns[key]], located, ids),
    )


def _relative_paths(cells: Column, origin: str | os.PathLike[str], base: Path, shown: str, key: str) -> Column:
    """Return the cells with absolute paths made relative to `base`.

    Raises
    ------
    SourceError
        An absolute path does not lie below it; `--root` is advised only where it helps.
    """
    absolute = [row for row, text in enumerate(cells) if text is not None and is_absolute(text)]
    if not absolute:
        return cells
    written = Path(origin).expanduser()
    folders = dict.fromkeys((*spellings(written if written.is_dir() else written.parent), str(base)))
    found = list(cells)
    for row in absolute:
        text = cells[row] or ""
        if (relative := relative_to(text, folders)) is None:
            common = common_folder([cells[row] or "" for row in absolute])
            if not Path(text).exists():
                why, step = ", where there is no such file", f"write the paths in column {key} relative to a folder"
            elif common is not None and len(absolute) == len(cells):
                why, step = "", f"--root {shlex.quote(printable(common))}"
            else:
                why, step = "", f"write all paths in column {key} relative to {printable(str(base))}"
            raise SourceError(
                f"{shown}: row {row + 1}: expected a path below {printable(str(base))}, got the absolute path "
                f"{printable(text)}{why}",
                step,
            )
        found[row] = relative
    return found


def find_id_column(columns: Columns, requested: str | None, shown: str) -> str:
    """Return the name of the column that holds the ids, or raise `SourceError` with the columns there are."""
    by_lower = {name.lower(): name for name in reversed(columns)}
    if requested is not None:
        found = requested if requested in columns else by_lower.get(clean_text(requested).lower())
        looked_for = f"an id column {requested!r}"
    else:
        found = next((by_lower[name] for name in ID_COLUMNS if name in by_lower), None)
        looked_for = f"an id column ({', '.join(ID_COLUMNS)})"
    if found is None:
        raise SourceError(
            f"{shown}: expected {looked_for}, got the columns {', '.join(columns)}",
            f"name the column that holds the ids or paths: --id {next(iter(columns))}",
        )
    return found


def _located(text: str | None, base: str, where: str, key: str) -> tuple[str, tuple[int, int]]:
    """Return the id of a cell and the stat of its file, zeros where there is none."""
    if text is None:
        raise SourceError(f"{where} has no id: its column {key} is empty", "fill the cell, or remove the row")
    if trouble := name_trouble(text):
        raise SourceError(f"{where}: {printable(text)} cannot be a path: {trouble}", "correct the cell")
    slashed = text.replace("\\", "/")
    if posixpath.normpath(slashed).split("/")[0] in ("..", "."):
        raise SourceError(
            f"{where}: expected a path below {printable(base)}, got {text}, which leaves it",
            "write the paths from a folder that holds all the images, without .., and name that folder with --root",
        )
    # As written first; then as a Mac (decomposed letters) or Windows (backslashes) would have named the same file.
    first = posixpath.normpath(slashed)
    for name in dict.fromkeys((posixpath.normpath(text), first, unicodedata.normalize("NFD", first))):
        try:
            found = os.stat(os.path.join(base, name))  # noqa: PTH116, PTH118 - a million times
        except OSError:
            continue
        if modes.S_ISREG(found.st_mode):
            return name, (found.st_size, found.st_mtime_ns)
    return first, (0, 0)


def _decoded(data: bytes, shown: str) -> str:
    """Return a file's text, without its byte order mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{shown}: expected text in UTF-8, got UTF-16", "save the table as CSV UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(data, 0, error.start)) + 1
        raise SourceError(
            f"{shown}: expected text in UTF-8, got the byte 0x{data[error.start]:02x} in line {line}",
            "save the table as CSV UTF-8",
        ) from error
    if not text.strip():
        raise SourceError(f"{shown}: expected a table with rows, got an empty file", "fill it")
    return text


_LINE_END = re.compile(rb"\r\n|\r|\n")


def _read_csv(text: str, separator: str | None, shown: str) -> tuple[list[str], Iterable[Column], str]:
    """Return the header, the columns and the separator; each error names the line of the file."""
    stated, text = split_sep_line(text)
    above = 0 if stated is None else 1  # lines
    separator = stated or separator or find_separator(text, ID_COLUMNS)
    if not text.strip():
        raise SourceError(f"{shown}: expected a table with rows, got a first line sep={separator} alone", "fill it")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    end = 0  # the line where the last good row ended
    try:
        for row in reader:
            if row and rows and len(row) != len(rows[0]):
                raise SourceError(
                    f"{shown}: line {end + above + 1} has {len(row)} fields, expected {len(rows[0])} as in the header",
                    "correct the line; a field that holds the separator needs quotes around it",
                )
            if row:  # an empty line is none
                rows.append(row)
            end = reader.line_num
    except csv.Error as error:
        raise SourceError(f"{shown}: line {end + above + 1}: {error}", "correct the quotes in this line") from error
    header, *body = rows
    columns = map(_cleaned, (map(read_cell, column) for column in zip(*body, strict=True)))
    return [read_cell(name) for name in header], columns if body else ([] for _ in header), separator


def _read_parquet(path: str | os.PathLike[str], shown: str) -> tuple[list[str], Iterable[Column]]:
    """Return names and columns; one that holds bytes, such as images, says nothing as text and is not even read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(os.fspath(path)) as file:
            schema = file.schema_arrow
            names = [name for name, kind in zip(schema.names, schema.types, strict=True) if not holds_bytes(kind)]
            if schema.names and not names:
                raise SourceError(
                    f"{shown}: column {schema.names[0]!r} holds {schema.types[0]}, expected text or numbers",
                    "give a table with a column of text",
                )
            table = file.read(columns=names)
        named = class_names(schema)
        return table.column_names, [
            column_text(table[place], f"{shown}: column {name!r}", named.get(name, ()))
            for place, name in enumerate(table.column_names)
        ]
    except (pa.ArrowException, UnicodeDecodeError) as error:  # Arrow decodes texts when they are accessed
        raise SourceError(
            f"{shown}: not a Parquet file that can be read: {' '.join(str(error).split())[:120]}", "write it again"
        ) from error


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a Parquet column holds bytes: as they are, or in a field of that name."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def column_text(column: pa.ChunkedArray, where: str, names: Sequence[str] = ()) -> Column:
    """Return a Parquet column as text.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
    where : str
        For messages.
    names : sequence of str
        The class names of its integers, empty for none.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if holds_tags(kind, bool(names)):
        lists = column.to_pylist()
        lists = named_values(lists, names, where) if names and not pa.types.is_string(kind.value_type) else lists
        return [None if cell is None else list_text(cell) for cell in lists]
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise SourceError(
            f"{where} holds {kind}, expected text or numbers", "leave the column out, or write it as text"
        )
    values = column.to_pylist()
    if names and pa.types.is_integer(kind):
        return named_values(values, names, where)
    if pa.types.is_floating(kind):
        # float32 has its own shortest text: 0.1, not the 0.10000000149 of its double.
        exact = np.float32 if pa.types.is_float32(kind) else np.float16 if pa.types.is_float16(kind) else np.float64
        return [None if value is None else number_text(exact(value)) for value in values]
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in values]
    return _cleaned([None if is_missing(value) else str(value) for value in values])


def table_kinds(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the kind of each column whose kind the table itself states; only a Parquet schema does."""
    if Path(path).suffix.lower() not in (".parquet", ".pq"):
        return {}
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return column_kinds(parquet.read_schema(os.fspath(path)))
    except (OSError, pa.ArrowException):  # reading the table itself gives the error
        return {}


def _cleaned(values: Iterable[str | None]) -> Column:
    """Return the cells cleaned, those that say nothing as None; each distinct text is cleaned, and kept, once."""
    values = list(values)
    known: dict[str | None, str | None] = {text: cell_text(text) for text in set(values)}
    return [known[text] for text in values]
