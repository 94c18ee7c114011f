"""`StoredRows`: the rows of a dataset, in one file or in several, read when they are asked for; some of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.cache.header import Header


class LazyRows:
    """All rows of one dataset; index it with row numbers or a slice to read those rows.

    Its pickle says where the rows lie, so it is what goes to a worker, here or on a cluster: the rows are never sent.

    Parameters
    ----------
    headers : sequence of Header
        The files; one, or with `order` several.
    name : str
        Of the dataset; every file has it, in one type and width.
    order : ndarray of int64, shape (n,), optional
        Which row of all files, one after another, is row i; a row may be there twice. One file read whole needs none.
    """

    def __init__(self, headers: Sequence[Header], name: str, order: np.ndarray | None = None) -> None:
        self._headers, self._name, self._order = list(headers), name, order
        field = headers[0].fields[name]
        self.dtype = field.dtype
        self._starts = np.concatenate([[0], np.cumsum([header.rows for header in headers])])
        self.shape = (int(self._starts[-1]) if order is None else len(order), *field.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Return those rows in memory, ``(k, ...)``, in the order asked for."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if self._order is None:
            return np.array(self._headers[0].map(self._name)[rows])
        rows = self._order[rows]
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part).tolist():
            mine = part == number
            found[mine] = self._headers[number].map(self._name)[rows[mine] - self._starts[number]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


class RowSubset:
    """Some rows of a dataset as if they were all.

    Parameters
    ----------
    X : StoredRows or array, shape (n, d)
    rows : ndarray of int64, shape (m,)
    """

    def __init__(self, X: Any, rows: np.ndarray) -> None:
        self._X, self._rows = X, rows
        self.shape = (len(rows), *X.shape[1:])

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._X[self._rows[rows]]
