"""Tables read as text, nothing guessed: of images with what is known of each, or of labels alone."""

from __future__ import annotations

import csv
import io
import os
import posixpath
import stat as modes
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.cells import read_cell
from pipeline.images.listing import Columns, Listing, Requested, name_trouble, printable, short_name
from pipeline.images.photo import FileReader

if TYPE_CHECKING:
    import pyarrow as pa

Column = list[str | None]

#: File endings that are read as tables.
TABLE_ENDINGS = frozenset(("csv", "tsv", "parquet", "pq"))

#: The cells that mean "not known", after the outer blanks are cut: these and no others.
MISSING = frozenset(("", "NA", "nan", "NaN"))

#: The columns taken for the id where none is named, first match first, in any case.
ID_COLUMNS = ("id", "path", "file", "filename", "image", "filepath")


def clean_text(text: str) -> str:
    """Return the text in Unicode's composed form (NFC), its outer blanks cut."""
    return unicodedata.normalize("NFC", text).strip()


def read_text_table(path: str | os.PathLike[str]) -> Columns:
    """Return a CSV, TSV or Parquet table as columns of text; nothing is guessed, so ``007`` stays ``007``.

    Cells are cleaned by `clean_text`; those in `MISSING` become None. Of a CSV's cells that `safe_cell` wrote, the
    apostrophe goes. A CSV whose header line has no comma may be
    separated by semicolons or tabs. The numbers of a Parquet file become their plain text (1 -> "1", 1.0 -> "1",
    0.5 -> "0.5"), its truth values "true" and "false", its nulls and NaNs None; its columns of bytes are left out.

    Parameters
    ----------
    path : path
        Ends in ``.csv``, ``.tsv``, ``.parquet`` or ``.pq``.

    Returns
    -------
    dict of list
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
    try:
        if tail in (".parquet", ".pq"):
            names, columns = _read_parquet(path, shown)
        else:
            names, columns = _read_csv(Path(path).read_bytes(), "\t" if tail == ".tsv" else None, shown)
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
    return table


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
    place = Path(path).resolve()
    columns = read_text_table(path)
    key = find_id_column(columns, id_column, shown)
    base = Path(root).expanduser().resolve() if root is not None else place.parent
    if not base.is_dir():
        raise SourceError(
            f"{printable(str(root))}: wanted the folder that the ids start from, found none", "check --root"
        )
    others = {name: column for name, column in columns.items() if name != key and with_columns}
    seen: dict[str, int] = {}  # id: its first row
    stats: dict[str, tuple[int, int]] = {}
    located: list[str] = []  # the id of each row
    for row, text in enumerate(columns[key]):
        image_id, stat = _located(text, str(base), f"{shown}: row {row + 1}", key)
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
        raise SourceError(
            f"{shown}: wanted the images of its column {key} below {printable(str(base))}, found none of {len(ids):,}, "
            f"e.g. {printable(ids[0])}",
            f"name the folder that the paths are relative to: --root {'OTHER' if root is not None else 'DIR'}",
        )
    rows = [seen[image_id] for image_id in ids]
    at_home = base == place.parent
    collapsed = len(columns[key]) - len(ids)
    return Listing(
        name=short_name(place.stem),
        place=printable(place.as_posix() if at_home else f"{place.as_posix()} over {base.as_posix()}"),
        ids=ids,
        stat=np.array([stats[image_id] for image_id in ids], dtype=np.int64),
        reader=FileReader(str(base)),
        columns={name: [column[row] for row in rows] for name, column in others.items()},
        notes=[f"{shown}: {collapsed} rows repeat another row and are read once"] if collapsed else [],
        requested=Requested.of([text or "" for text in columns[key]], located, ids),
    )


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
    if slashed.startswith("/") or slashed[1:3] == ":/":
        raise SourceError(
            f"{where}: wanted a path relative to {printable(base)}, found the absolute path {text}",
            "write the paths relative to a folder, and name the folder with --root",
        )
    if posixpath.normpath(slashed).split("/")[0] in ("..", "."):
        raise SourceError(
            f"{where}: wanted a path below {printable(base)}, found {text}, which leaves it",
            "name a folder that holds all the images with --root",
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


def _read_csv(data: bytes, separator: str | None, shown: str) -> tuple[list[str], Iterable[Column]]:
    """Return the header and the columns; each error names the line of the file."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{shown}: wanted text in UTF-8, found UTF-16", "save the table as CSV UTF-8")
    try:
        text = data.decode("utf-8-sig")  # takes the byte order mark away
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{shown}: wanted text in UTF-8, found the byte 0x{data[error.start]:02x} in line {line}",
            "save the table as CSV UTF-8",
        ) from error
    if not text.strip():
        raise SourceError(f"{shown}: wanted a table with rows, found an empty file", "fill it")
    if separator is None:
        first_line = text.lstrip().partition("\n")[0]
        separator = next((mark for mark in ",;\t" if mark in first_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    end = 0  # the line where the last good row ended
    try:
        for row in reader:
            if row and rows and len(row) != len(rows[0]):
                raise SourceError(
                    f"{shown}: line {end + 1} has {len(row)} fields, wanted {len(rows[0])} as in the header",
                    "correct the line; a field that holds the separator needs quotes around it",
                )
            if row:  # an empty line is none
                rows.append(row)
            end = reader.line_num
    except csv.Error as error:
        raise SourceError(f"{shown}: line {end + 1}: {error}", "correct the quotes in this line") from error
    header, *body = rows
    columns = map(_cleaned, (map(read_cell, column) for column in zip(*body, strict=True)))
    return [read_cell(name) for name in header], columns if body else ([] for _ in header)


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
        return table.column_names, [
            column_text(table[place], f"{shown}: column {name!r}") for place, name in enumerate(table.column_names)
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


def column_text(column: pa.ChunkedArray, where: str) -> Column:
    """Return a Parquet column as text."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise SourceError(f"{where} holds {kind}, wanted text or numbers", "leave the column out, or write it as text")
    values = column.to_pylist()
    if pa.types.is_floating(kind):
        # float32 is told by its own shortest text: 0.1, not the 0.10000000149 of its double.
        exact = np.float32 if pa.types.is_float32(kind) else np.float16 if pa.types.is_float16(kind) else np.float64
        return [None if value is None else number_text(exact(value)) for value in values]
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in values]
    return _cleaned([value if value is None else str(value) for value in values])


def number_text(value: float | np.floating) -> str | None:
    """Return a number's plain text, whole numbers without a point; None for not-a-number."""
    if value != value:
        return None
    return str(value).removesuffix(".0")


def _cleaned(values: Iterable[str | None]) -> Column:
    """Return the cells cleaned, those that say nothing as None; each distinct text is cleaned, and kept, once."""
    values = list(values)
    known: dict[str | None, str | None] = {text: cell_text(text) for text in set(values)}
    return [known[text] for text in values]


def cell_text(text: str | None) -> str | None:
    """Return a cell's cleaned text, or None where it is in `MISSING`."""
    if text is None:
        return None
    clean = clean_text(text)
    return None if clean in MISSING else clean
