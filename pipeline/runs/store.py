"""`Store`: the results of an evaluation's units in one SQLite file, each written as soon as it is computed.

The key of a unit hashes every input that could change its result. So an evaluation that was stopped continues, a new
parameter value or label set computes only the new units, and a stored result is never used for changed inputs.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.errors import EvaluationError
from pipeline.provenance import canonical_json

RESULTS = "results.sqlite"
FORMAT = 1  # of the tables; a file of another format is refused
_PATIENCE = 30.0  # seconds that another process may hold the file
_PATIENCE_TO_READ = 5.0
_AT_ONCE = 500  # variables of one statement; SQLite may be built to allow no more than 999

_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS units (
    key BLOB PRIMARY KEY,      -- a hash of everything below up to versions, and of the rows themselves
    features TEXT NOT NULL,    -- recipe and layer
    label_set TEXT NOT NULL,   -- name and digest
    head TEXT NOT NULL,
    parameters TEXT NOT NULL,  -- JSON
    outer_fold TEXT NOT NULL,  -- a number, or all
    inner_fold INTEGER,        -- NULL: fitted on the whole training part
    scoring TEXT,              -- of an inner fold
    seed INTEGER NOT NULL,
    versions TEXT NOT NULL,
    score REAL,                -- of an inner fold; NULL where it is undefined
    predictions BLOB,          -- of the whole training part: an .npz, or NULL where nothing was predicted
    warnings TEXT NOT NULL,    -- JSON
    seconds REAL NOT NULL,
    crc32 INTEGER NOT NULL     -- of score, predictions, warnings and seconds
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class UnitKey:
    """The key of one unit: every input that could change its result. The field names are hashed.

    Parameters
    ----------
    features : str
        The recipe's digest and the layer.
    label_set : str
        Its name and the digest of its rows and labels.
    head : str
        The head's name.
    estimator : str
        The estimator with every parameter that is not searched.
    params : str
        The searched parameters, as JSON.
    outer_fold : str
        The fold's number, or ``all``.
    rows : str
        Digest of the training rows and of the rows to predict.
    inner_fold : int or None
    scoring : str or None
    seed : int
    versions : str
        Of the libraries that compute it.
    """

    features: str
    label_set: str
    head: str
    estimator: str
    params: str
    outer_fold: str
    rows: str
    inner_fold: int | None
    scoring: str | None
    seed: int
    versions: str

    def key(self) -> bytes:
        """Return 16 bytes that no other unit has."""
        return hashlib.blake2b(canonical_json(self.__dict__).encode(), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class StoredResult:
    """The result of one unit.

    Parameters
    ----------
    score : float
        NaN where it is undefined, or where the unit is no inner fold.
    arrays : mapping of str to ndarray
        The predictions; empty where no rows were to be predicted.
    warnings : tuple of str
    seconds : float
    """

    score: float
    arrays: Mapping[str, np.ndarray]
    warnings: tuple[str, ...]
    seconds: float


class Store:
    """The units of one run's folder, or of memory alone; use it as a context.

    Parameters
    ----------
    connection : sqlite3.Connection
    path : Path or None
        None for memory.
    others : sequence of Store
        Stores of other runs, read for units that this one lacks; closed with it.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, others: Sequence[Store] = ()) -> None:
        self._connection, self._path, self._place = connection, path, "memory" if path is None else str(path)
        self._others = others

    @classmethod
    def open(cls, folder: str | Path | None, *, others: Sequence[Store] = ()) -> Store:
        """Return the store of a folder, made where there is none; of memory alone for None.

        Parameters
        ----------
        folder : path or None
        others : sequence of Store
            As `read` returns them: their units are not computed again. Nothing is written to them.

        Raises
        ------
        EvaluationError
            The file is no store, one of another format, damaged, or cannot be written.
        """
        path = None if folder is None else Path(folder) / RESULTS
        place = "memory" if path is None else str(path)
        with _store_errors(place):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(":memory:" if path is None else path, timeout=_PATIENCE)
            store = cls(connection, path, others)
            try:
                connection.execute("PRAGMA trusted_schema = OFF")  # the file may come from elsewhere
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    connection.executescript(_TABLES)
                    connection.execute("INSERT OR IGNORE INTO facts VALUES ('format', ?)", (str(FORMAT),))
                store._check_format()
            except BaseException:
                connection.close()
                raise
        return store

    @classmethod
    def read(cls, folder: str | Path) -> Store:
        """Return the store of a folder for reading alone; the file is never changed.

        Raises
        ------
        EvaluationError
            There is none, it is of another format, damaged, or being written.
        """
        path = Path(folder) / RESULTS
        with _store_errors(str(path)):
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_TO_READ)
            store = cls(connection, path)
            try:
                connection.execute("PRAGMA trusted_schema = OFF")
                store._check_format()
                store.get([b""])
            except BaseException:
                connection.close()
                raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in (self, *self._others):
            store._connection.close()

    @property
    def subject(self) -> str | None:
        """The scope of the last run that wrote here, as JSON; None before the first one."""
        return self._fact("subject")

    def begin(self, subject: str) -> None:
        """Write the scope of the run that begins."""
        with _store_errors(self._place), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('subject', ?)", (subject,))

    def get(self, keys: Iterable[bytes]) -> dict[bytes, StoredResult]:
        """Return the stored results of these keys, here or in the other stores; a damaged row counts as missing."""
        requested = list(keys)
        found = self._select(requested)
        for other in self._others:
            found = {**other._select([key for key in requested if key not in found]), **found}
        return found

    def _select(self, keys: Sequence[bytes]) -> dict[bytes, StoredResult]:
        requested = list(keys)
        found: dict[bytes, StoredResult] = {}
        with _store_errors(self._place):
            for start in range(0, len(requested), _AT_ONCE):
                batch = requested[start : start + _AT_ONCE]
                rows = self._connection.execute(
                    "SELECT key, score, predictions, warnings, seconds, crc32 FROM units "
                    f"WHERE key IN ({','.join('?' * len(batch))})",
                    batch,
                )
                for key, score, predictions, warnings, seconds, crc in rows:
                    known = _parse_row(score, predictions, warnings, seconds, crc)
                    if known is not None:
                        found[key] = known
        return found

    def put(self, units: Sequence[tuple[UnitKey, StoredResult]]) -> None:
        """Keep units, all of them or none.

        Raises
        ------
        EvaluationError
            The disk is full, or the file cannot be written; what was kept before stays.
        """
        rows = []
        for cell, known in units:
            score = None if np.isnan(known.score) else float(known.score)
            predictions = _blob(known.arrays) if known.arrays else None
            warnings = json.dumps(list(known.warnings))
            values = (score, predictions, warnings, float(known.seconds))
            rows.append(
                (
                    cell.key(), cell.features, cell.label_set, cell.head, cell.params, cell.outer_fold, cell.inner_fold,
                    cell.scoring, cell.seed, cell.versions, *values, _checksum(*values),
                )
            )  # fmt: skip
        with _store_errors(self._place), self._connection:
            self._connection.executemany(f"INSERT OR REPLACE INTO units VALUES ({','.join('?' * 15)})", rows)

    def remove_if_empty(self) -> None:
        """Remove a file that holds no unit, and its folder where that holds nothing else: nothing was begun."""
        if self._path is not None and not len(self):
            self._connection.close()
            self._path.unlink(missing_ok=True)
            for folder in (self._path.parent, self._path.parent.parent):
                if any(folder.iterdir()):
                    break
                folder.rmdir()

    def __len__(self) -> int:
        with _store_errors(self._place):
            (count,) = self._connection.execute("SELECT COUNT(*) FROM units").fetchone()
        return int(count)

    def _fact(self, name: str) -> str | None:
        with _store_errors(self._place):
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _check_format(self) -> None:
        found = self._fact("format")
        if found != str(FORMAT):
            raise EvaluationError(
                f"{self._place}: expected results of format {FORMAT}, got format {found}",
                "use the version that wrote it, or give another folder with --out DIR",
            )


@contextmanager
def _store_errors(place: str) -> Iterator[None]:
    """Turn errors of SQLite or the system into `EvaluationError` with a next step."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if any(
            words in text for words in ("no such", "has no column", "columns but", "syntax error", "decode to UTF-8")
        ):
            raise _damaged(place, error) from error
        step = "free some space, then run the same command again" if "full" in text else None
        step = step or ("wait until the other run ends" if "locked" in text else None)
        raise EvaluationError(
            f"{place}: expected to keep results here, got: {text}",
            step or "give a folder that you may write with --out DIR",
        ) from error
    except (sqlite3.Error, sqlite3.Warning, OverflowError, TypeError, UnicodeError) as error:
        raise _damaged(place, error) from error
    except OSError as error:
        raise EvaluationError(
            f"{place}: expected to keep results here, got {error.strerror or error}",
            "give a folder that you may write with --out DIR",
        ) from error


def _damaged(place: str, error: Exception) -> EvaluationError:
    return EvaluationError(
        f"{place}: expected a store of results, got a file that SQLite cannot read ({error})",
        f"move it away, e.g. mv {place} {place}.damaged; its results are computed again",
    )


def _parse_row(score: Any, predictions: Any, warnings: Any, seconds: Any, crc: Any) -> StoredResult | None:
    """Return the result in a row; None where its checksum or the type of a column is wrong."""
    fits = (
        isinstance(score, float | None)
        and isinstance(predictions, bytes | None)
        and isinstance(warnings, str)
        and isinstance(seconds, float)
    )
    if not fits or crc != _checksum(score, predictions, warnings, seconds):
        return None
    try:
        texts = json.loads(warnings)
        arrays = _arrays(predictions)
    except (ValueError, KeyError, OSError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error):
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    return StoredResult(math.nan if score is None else score, arrays, tuple(texts), seconds)


def _blob(arrays: Mapping[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **dict(arrays))  # type: ignore[arg-type]
    return stream.getvalue()


def _arrays(blob: bytes | None) -> dict[str, np.ndarray]:
    if blob is None:
        return {}
    stream = io.BytesIO(blob)
    with np.load(stream, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _checksum(score: float | None, predictions: bytes | None, warnings: str, seconds: float) -> int:
    return zlib.crc32(repr((score, warnings, seconds)).encode() + (predictions or b""))
