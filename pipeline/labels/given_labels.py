"""How labels given in Python are read: DataFrame, Series, list, array or mapping become columns by id."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import LabelError, SourceError
from pipeline.images import ID_COLUMNS, find_id_column
from pipeline.images.values import is_missing, value_text
from pipeline.labels.join import LabelColumns, columns_by_id, count, tidy_id, without_missing

PLACE = "labels"  # the name of the argument, for messages
_EXPECTED = "a path, a DataFrame, a Series, a mapping, or a list or array in the order of the ids"
_STEP = "labels={id: label}, or labels=frame with a column id, or the path of a table"


def given_labels(
    labels: Any,
    ids: Sequence[str],
    *,
    id_column: str | None = None,
    columns: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> LabelColumns:
    """Return labels that were given in Python as columns by id.

    Parameters
    ----------
    labels : DataFrame, Series, mapping, list, tuple or ndarray
        A DataFrame with an id column, or with the ids as its index; a Series whose index has the ids; ``{id: label}``,
        which becomes column "label"; ``{column: {id: label}}``; or one label per image in the order of `ids`. A list as
        a label is several tags.
    ids : sequence of str
        The ids of the images, which tell ids from column names, and the order of a list.
    id_column, columns, missing
        As for `read_label_table`.

    Returns
    -------
    LabelColumns
        column -> {id: text or None}, each value with the text that it would have in a Parquet table.

    Raises
    ------
    LabelError
        Labels of another type or shape, of another length than `ids`, or rows of one id that disagree.
    """
    if isinstance(labels, LabelColumns):  # read already
        table = {name: _without(values, missing) for name, values in labels.items()} if missing else labels
        return LabelColumns(table, place=labels.place, notes=labels.notes, kinds=labels.kinds)
    if not isinstance(labels, str) and hasattr(labels, "to_pandas"):  # polars, pyarrow, datasets
        labels = labels.to_pandas()
    pandas = sys.modules.get("pandas")  # a caller with a DataFrame has imported pandas, so it need not be imported here
    if pandas is not None and isinstance(labels, pandas.DataFrame):
        return _from_frame(labels, ids, id_column, columns, missing)
    if pandas is not None and isinstance(labels, pandas.Series):
        _check_index(labels.index, pandas, "Series", ids)
        name = "label" if is_missing(labels.name) else str(labels.name)
        return _gathered(list(labels.index), {name: labels}, "index", columns, missing)
    if isinstance(labels, Mapping):
        return _from_mapping(labels, ids, columns, missing)
    if isinstance(labels, np.ndarray) and labels.ndim != 1:
        raise LabelError(
            f"{PLACE}: expected one label per image, got an array of shape {labels.shape}",
            "give one column, or a DataFrame with several",
        )
    if isinstance(labels, list | tuple | np.ndarray) or (pandas is not None and isinstance(labels, pandas.Index)):
        return _in_order({"label": labels}, ids, columns, missing)
    raise LabelError(f"{PLACE}: expected {_EXPECTED}, got {type(labels).__name__}", _STEP)


def is_in_order(labels: Any) -> bool:
    """Return whether labels are given in the order of the ids, without ids of their own."""
    if isinstance(labels, LabelColumns):
        return False
    if isinstance(labels, Mapping):  # of columns or of tags by id: the keys decide, and both can be joined by id
        return any(isinstance(value, list | tuple | np.ndarray) for value in labels.values())
    pandas = sys.modules.get("pandas")
    return isinstance(labels, list | tuple | np.ndarray) or (pandas is not None and isinstance(labels, pandas.Index))


def _without(values: Mapping[str, str | None], missing: Sequence[str]) -> dict[str, str | None]:
    (texts,) = without_missing({"": list(values.values())}, missing, PLACE)[0].values()
    return dict(zip(values, texts, strict=True))


def _from_frame(
    frame: Any, ids: Sequence[str], id_column: str | None, columns: Sequence[str], missing: Sequence[str]
) -> LabelColumns:
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LabelError(f"{PLACE}: expected columns of different names, got {twice!r} twice", "rename one of them")
    table = {name: frame.iloc[:, place] for place, name in enumerate(names)}
    index_name = None if is_missing(frame.index.name) else str(frame.index.name)
    key: str | None = None
    if id_column is None or id_column != index_name or id_column in table:
        try:
            key = find_id_column(table, id_column, PLACE)
        except SourceError as error:
            if id_column is not None:
                raise LabelError(error.message, error.next_step) from error
        have = {tidy_id(name) for name in ids}
        # A column such as `image` may hold something else where the index has the ids.
        if key is not None and id_column is None and not _any_of(table[key], have) and _any_of(frame.index, have):
            key = None
    if key is not None:
        keys = list(table.pop(key))
    else:
        _check_index(frame.index, sys.modules["pandas"], "DataFrame", ids)
        keys = list(frame.index)
    if not table:
        raise LabelError(f"{PLACE}: expected a column of labels beside the ids, got none", "add a column of labels")
    return _gathered(keys, table, key or "index", columns, missing)


def _from_mapping(
    labels: Mapping[Any, Any], ids: Sequence[str], columns: Sequence[str], missing: Sequence[str]
) -> LabelColumns:
    if not labels:
        raise LabelError(f"{PLACE}: expected labels, got an empty mapping", _STEP)
    inner = {name: _by_id(value) for name, value in labels.items()}
    nested = [name for name, value in inner.items() if isinstance(value, Mapping)]
    if nested and len(nested) < len(labels):
        other = next(name for name in labels if name not in nested)
        raise LabelError(
            f"{PLACE}: expected a mapping for every column, got {type(labels[other]).__name__} for {other!r}",
            "labels={column: {id: label}}, or labels={id: label}",
        )
    have = {tidy_id(name) for name in ids}
    if not nested:
        if all(isinstance(value, list | tuple | np.ndarray) for value in labels.values()) and not _any_of(labels, have):
            return _in_order({str(name): value for name, value in labels.items()}, ids, columns, missing)
        return _gathered(list(labels), {"label": list(labels.values())}, "id", columns, missing)
    if _any_of(inner, have) and not any(_any_of(value, have) for value in inner.values()):
        # {id: {column: label}}, as DataFrame.to_dict("index") gives it.
        names = dict.fromkeys(str(name) for value in inner.values() for name in value)
        rows = [{str(name): label for name, label in value.items()} for value in inner.values()]
        return _gathered(list(inner), {name: [row.get(name) for row in rows] for name in names}, "id", columns, missing)
    keys = list(dict.fromkeys(key for values in inner.values() for key in values))
    table = {str(name): [values.get(key) for key in keys] for name, values in inner.items()}
    return _gathered(keys, table, "id", columns, missing)


def _by_id(value: Any) -> Any:
    pandas = sys.modules.get("pandas")
    return value.to_dict() if pandas is not None and isinstance(value, pandas.Series) else value


def _in_order(
    table: Mapping[str, Any], ids: Sequence[str], columns: Sequence[str], missing: Sequence[str]
) -> LabelColumns:
    for name, values in table.items():
        if len(values) != len(ids):
            first = f" (the first is {ids[0]})" if len(ids) else ""
            raise LabelError(
                f"{PLACE}: expected {count(len(ids), 'label')} in the order of the ids{first}, got {len(values)} "
                f"for column {name!r}",
                _STEP,
            )
    return _gathered(list(ids), table, "id", columns, missing)


def _gathered(
    keys: Sequence[Any], table: Mapping[str, Any], id_name: str, columns: Sequence[str], missing: Sequence[str]
) -> LabelColumns:
    """Return typed columns by id, as text."""
    texts = {name: [value_text(value) for value in values] for name, values in table.items()}
    kinds = {name: kind for name, values in table.items() if (kind := _kind(values)) is not None}
    raw = [None if is_missing(key) else str(key) for key in keys]
    return columns_by_id(raw, texts, id_name, PLACE, columns=columns, missing=missing, kinds=kinds)


def _kind(values: Any) -> str | None:
    """Return the kind that typed values state: "class" for a categorical, "multi" for lists, otherwise None."""
    if str(getattr(values, "dtype", "")) == "category":
        return "class"
    held = [value for value in values if not isinstance(value, str) and not is_missing(value)]
    lists = sum(isinstance(value, list | tuple | set | frozenset | np.ndarray) for value in held)
    return "multi" if lists and lists == len(held) else None


def _any_of(keys: Iterable[Any], have: set[str]) -> bool:
    return any(tidy_id(str(key)) in have for key in keys)


def _check_index(index: Any, pandas: Any, what: str, ids: Sequence[str]) -> None:
    """Raise `LabelError` for an index of row numbers: labels are joined by id and never by position."""
    if isinstance(index, pandas.RangeIndex) and not _any_of(index, {tidy_id(name) for name in ids}):
        column = f"a column of ids ({', '.join(ID_COLUMNS)}) or " if what == "DataFrame" else ""
        raise LabelError(
            f"{PLACE}: expected a {what} with {column}the ids as its index, got row numbers",
            "set the index: frame.set_index('file'), or name the column with id_column='file'"
            if what == "DataFrame"
            else "series.index = ids; for labels in the order of the ids give labels=list(series)",
        )
