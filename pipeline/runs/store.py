"""`Store`: the results of an evaluation's units in one SQLite file, each kept as soon as it is known.

A unit is known by everything that could change its result. So an evaluation that was stopped goes on, one with a new
value or label set does only what is new, and nothing that changed is ever answered from here.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.errors import EvaluationError
from pipeline.provenance import canonical_json

RESULTS = "results.sqlite"
FORMAT = 1  # of the tables; a file of another format is refused
_PATIENCE = 30.0  # seconds that another process may hold the file
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
    predictions BLOB,          -- of the whole training part: an .npz, or NULL where nothing was asked
    warnings TEXT NOT NULL,    -- JSON
    seconds REAL NOT NULL,
    crc32 INTEGER NOT NULL     -- of score, predictions, warnings and seconds
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Cell:
    """What one unit is: the whole of what could change its result.

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
        Digest of the rows to learn from and of those to be asked about.
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
class Known:
    """What came of a unit.

    Parameters
    ----------
    score : float
        NaN where it is undefined, or where the unit is no inner fold.
    arrays : mapping of str to ndarray
        What was predicted; empty where nothing was asked.
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
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self._connection, self._path, self._place = connection, path, "memory" if path is None else str(path)

    @classmethod
    def open(cls, folder: str | Path | None) -> Store:
        """Return the store of a folder, made where there is none; of memory alone for None.

        Raises
        ------
        EvaluationError
            The file is no store, one of another format, damaged, or cannot be written.
        """
        path = None if folder is None else Path(folder) / RESULTS
        place = "memory" if path is None else str(path)
        with _refusals(place):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(":memory:" if path is None else path, timeout=_PATIENCE)
            store = cls(connection, path)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    connection.executescript(_TABLES)
                    connection.execute("INSERT OR IGNORE INTO facts VALUES ('format', ?)", (str(FORMAT),))
                store._refuse_other_format()
            except BaseException:
                connection.close()
                raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def subject(self) -> str | None:
        """What the run was about that wrote here last, as JSON; None before any did."""
        return self._fact("subject")

    def begin(self, subject: str) -> None:
        """Keep what the run that begins is about."""
        with _refusals(self._place), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('subject', ?)", (subject,))

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Known]:
        """Return what is known of the units with these keys; a damaged row is as good as none."""
        wanted = list(keys)
        found = {}
        with _refusals(self._place):
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                rows = self._connection.execute(
                    "SELECT key, score, predictions, warnings, seconds, crc32 FROM units "
                    f"WHERE key IN ({','.join('?' * len(some))})",
                    some,
                )
                for key, score, predictions, warnings, seconds, crc in rows:
                    if crc == _checksum(score, predictions, warnings, seconds):
                        value = float("nan") if score is None else score
                        found[key] = Known(value, _arrays(predictions), tuple(json.loads(warnings)), seconds)
        return found

    def put(self, units: Sequence[tuple[Cell, Known]]) -> None:
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
        with _refusals(self._place), self._connection:
            self._connection.executemany(f"INSERT OR REPLACE INTO units VALUES ({','.join('?' * 15)})", rows)

    def leave_no_trace(self) -> None:
        """Remove a file that holds no unit, and its folder where that holds nothing else: nothing was begun."""
        if self._path is not None and not len(self):
            self._connection.close()
            self._path.unlink(missing_ok=True)
            for folder in (self._path.parent, self._path.parent.parent):
                if any(folder.iterdir()):
                    break
                folder.rmdir()

    def __len__(self) -> int:
        (count,) = self._connection.execute("SELECT COUNT(*) FROM units").fetchone()
        return int(count)

    def _fact(self, name: str) -> str | None:
        with _refusals(self._place):
            row = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _refuse_other_format(self) -> None:
        found = self._fact("format")
        if found != str(FORMAT):
            raise EvaluationError(
                f"{self._place}: wanted results of format {FORMAT}, found format {found}",
                "use the version that wrote it, or give another folder with --out DIR",
            )


@contextmanager
def _refusals(place: str) -> Iterator[None]:
    """Turn what SQLite or the system refuses into an error with the way out."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        step = "free some space, then run the same command again" if "full" in text else None
        step = step or ("wait until the other run ends" if "locked" in text else None)
        raise EvaluationError(
            f"{place}: wanted to keep results here, found: {text}",
            step or "give a folder that you may write with --out DIR",
        ) from error
    except sqlite3.DatabaseError as error:
        raise EvaluationError(
            f"{place}: wanted a store of results, found a file that SQLite cannot read ({error})",
            f"move it away, e.g. mv {place} {place}.damaged; its results are computed again",
        ) from error
    except OSError as error:
        raise EvaluationError(
            f"{place}: wanted to keep results here, found {error.strerror or error}",
            "give a folder that you may write with --out DIR",
        ) from error


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
