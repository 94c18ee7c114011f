"""Tables read as text, nothing guessed: of images with what is known of each, or of labels alone."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import re
import shlex
import stat as modes
import unicodedata
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.cells import read_cell
from pipeline.images.class_labels import class_names, column_kinds, holds_tags, named_values
from pipeline.images.csv_dialect import find_separator, holds_decimal_commas, split_sep_line, with_decimal_points
from pipeline.images.listing import Columns, Listing, Requested, name_trouble, printable, short_name
from pipeline.images.paths import Stems, common_folder, is_absolute, relative_to, spellings
from pipeline.images.photo import FileReader
from pipeline.images.spreadsheet import is_spreadsheet, read_spreadsheet, split_sheet
from pipeline.images.text_lists import read_json_lines, read_path_list
from pipeline.images.values import MISSING as MISSING
from pipeline.images.values import cell_text as cell_text
from pipeline.images.values import clean_text as clean_text
from pipeline.images.values import is_missing, list_text, value_key
from pipeline.images.values import number_text as number_text

if TYPE_CHECKING:
    import pyarrow as pa

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
        Decisions that were made in reading it.
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
    (1 -> "1", 1.0 -> "1", 0.5 -> "0.5"), its truth values "true" and "false", its nulls and NaNs None; its columns of
    bytes are left out.

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
            f"{shown}: wanted a table with rows, found {'a header alone' if names else 'nothing'}", "fill it"
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
            f"{shown}: wanted the images of its column {key} below {printable(str(base))}, found none of {len(ids):,}, "
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


def _meaning(text: str | None) -> object:
    return None if text is None else value_key(text)


def find_id_column(columns: Columns, wanted: str | None, shown: str) -> str:
    """Return the name of the column that holds the ids, or raise `SourceError` with the columns there are."""
    by_lower = {name.lower(): name for name in reversed(columns)}
    if wanted is not None:
        found = wanted if wanted in columns else by_lower.get(clean_text(wanted).lower())
        looked_for = f"an id column {wanted!r}"
    else:
        found = next((by_lower[name] for name in ID_COLUMNS if name in by_lower), None)
        looked_for = f"an id column ({', '.join(ID_COLUMNS)})"
    if found is None:
        raise SourceError(
            f"{shown}: wanted {looked_for}, found the columns {', '.join(columns)}",
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
            f"{where}: wanted a path below {printable(base)}, found {text}, which leaves it",
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
        raise SourceError(f"{shown}: wanted text in UTF-8, found UTF-16", "save the table as CSV UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(data, 0, error.start)) + 1
        raise SourceError(
            f"{shown}: wanted text in UTF-8, found the byte 0x{data[error.start]:02x} in line {line}",
            "save the table as CSV UTF-8",
        ) from error
    if not text.strip():
        raise SourceError(f"{shown}: wanted a table with rows, found an empty file", "fill it")
    return text


_LINE_END = re.compile(rb"\r\n|\r|\n")


def _read_csv(text: str, separator: str | None, shown: str) -> tuple[list[str], Iterable[Column], str]:
    """Return the header, the columns and the separator; each error names the line of the file."""
    stated, text = split_sep_line(text)
    above = 0 if stated is None else 1  # lines
    separator = stated or separator or find_separator(text, ID_COLUMNS)
    if not text.strip():
        raise SourceError(f"{shown}: wanted a table with rows, found a first line sep={separator} alone", "fill it")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    end = 0  # the line where the last good row ended
    try:
        for row in reader:
            if row and rows and len(row) != len(rows[0]):
                raise SourceError(
                    f"{shown}: line {end + above + 1} has {len(row)} fields, wanted {len(rows[0])} as in the header",
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
                    f"{shown}: column {schema.names[0]!r} holds {schema.types[0]}, wanted text or numbers",
                    "give a table with a column of text",
                )
            table = file.read(columns=names)
        named = class_names(schema)
        return table.column_names, [
            column_text(table[place], f"{shown}: column {name!r}", named.get(name, ()))
            for place, name in enumerate(table.column_names)
        ]
    except (pa.ArrowException, UnicodeDecodeError) as error:  # its texts are decoded when they are asked for
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
        raise SourceError(f"{where} holds {kind}, wanted text or numbers", "leave the column out, or write it as text")
    values = column.to_pylist()
    if names and pa.types.is_integer(kind):
        return named_values(values, names, where)
    if pa.types.is_floating(kind):
        # float32 is told by its own shortest text: 0.1, not the 0.10000000149 of its double.
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
