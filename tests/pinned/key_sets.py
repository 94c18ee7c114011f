"""The names that stand in the files and JSON outputs of this package: `key_sets(FOLDER)` of a folder made by `make.py`.

Names are formats: other programs, and later versions, look for them. `tests/test_pinned.py` compares them.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import pyarrow.parquet as pq

# Values that are looked up by names which are data: parameters, classes, versions of libraries, file names.
_DATA = re.compile(r"(^|\.)(params|versions|files|classes|evidence\..*counts|unknown_classes|guessing|extras)$")


def key_sets(folder: Path) -> dict[str, list[str]]:
    """Return ``{kind of file: sorted names}`` for all files below `folder`."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in (".png", ".jpg", ".tar", ".lock"):
            for kind, names in _names_in(path, path.relative_to(folder)):
                found.setdefault(kind, set()).update(names)
    return {kind: sorted(names) for kind, names in sorted(found.items())}


def _names_in(path: Path, relative: Path) -> Iterator[tuple[str, set[str]]]:
    top = relative.parts[0]
    if path.parent.name == ".references":
        yield "cache reference", set(_paths(json.loads(path.read_text(encoding="utf-8"))))
        return
    kind = f"{top}/{path.name}" if top in ("run", "score", "study", "output") else path.name
    if path.suffix == ".json":
        yield kind, set(_paths(json.loads(path.read_text(encoding="utf-8"))))
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            yield kind, set(_paths(json.loads(line)))
    elif path.suffix == ".csv" and path.name != "labels.csv":
        yield kind, set(next(csv.reader(path.read_text(encoding="utf-8").splitlines())))
    elif path.suffix == ".parquet":
        yield kind, set(pq.read_schema(path).names)
    elif path.suffix == ".h5":
        yield from _names_in_hdf5(path)
    elif path.suffix == ".sqlite":
        yield from _names_in_sqlite(path, kind)
    if top.endswith(".model") and path.suffix != ".md":
        yield "model folder", {path.name}


def _paths(value: Any, where: str = "") -> Iterator[str]:
    """Give the dotted path of every entry of a JSON value; the items of a list share one."""
    if isinstance(value, dict) and not _DATA.search(where):
        for name, inner in value.items():
            path = f"{where}.{name}".lstrip(".")
            yield path
            yield from _paths(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{where}[]")


def _names_in_hdf5(path: Path) -> Iterator[tuple[str, set[str]]]:
    with h5py.File(path) as file:
        names: set[str] = set()
        file.visit(names.add)
        yield "cache.h5 datasets", names
        yield "cache.h5 attributes", set(file.attrs)
        provenance = json.loads(file["provenance"][:].tobytes())
        yield "cache.h5 provenance attributes", set(file["provenance"].attrs)
        yield "cache.h5 provenance", set(_paths(provenance))


def _names_in_sqlite(path: Path, kind: str) -> Iterator[tuple[str, set[str]]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = {row[1] for row in file.execute(f"SELECT * FROM pragma_table_info('{table}')")}
            yield f"{kind} table {table}", {str(name) for name in columns} or {"?"}
        yield f"{kind} facts", {str(name) for (name,) in file.execute("SELECT name FROM facts")}
        for (blob,) in file.execute("SELECT predictions FROM units WHERE predictions IS NOT NULL"):
            with zipfile.ZipFile(io.BytesIO(blob)) as arrays:
                yield f"{kind} predictions.npz", {name.removesuffix(".npy") for name in arrays.namelist()}
