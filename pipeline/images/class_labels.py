"""How the schema of a Parquet table states labels: the names of classes, and columns whose cells are lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import SourceError
from pipeline.images.values import clean_text

if TYPE_CHECKING:
    import pyarrow as pa


def class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Return the class names of each Hugging Face `ClassLabel` column, also where its cells are lists of them.

    Metadata of any other form is passed over: the integers are then read as in any other table.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    found = {column: _names(feature) for column, feature in features.items()} if isinstance(features, dict) else {}
    return {column: names for column, names in found.items() if names}


def _names(feature: Any) -> tuple[str, ...]:
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):  # Sequence or List
        feature = feature["feature"]
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return ()
    names = feature.get("names")
    if isinstance(names, dict):  # {"0": "ant", "1": "bee"}, as dataset cards write them
        names = [names.get(str(number)) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) and clean_text(name) for name in names):
        return ()
    return tuple(clean_text(name) for name in names)


def _categoricals(schema: pa.Schema) -> set[str]:
    """Return the columns that pandas wrote from categoricals; Parquet keeps their dictionaries for texts alone."""
    try:
        columns = json.loads((schema.metadata or {})[b"pandas"])["columns"]
        return {str(column["field_name"]) for column in columns if column["pandas_type"] == "categorical"}
    except (KeyError, TypeError, ValueError, RecursionError):
        return set()


def column_kinds(schema: pa.Schema) -> dict[str, str]:
    """Return the kind of each column whose kind the schema states: "class" or "multi".

    A column of `ClassLabel` and a categorical of pandas are classes, a column of lists is tags.
    """
    import pyarrow as pa

    named, categoricals = class_names(schema), _categoricals(schema)
    kinds = {}
    for field in schema:
        if holds_tags(field.type, field.name in named):
            kinds[clean_text(field.name)] = "multi"
            continue
        if field.name in categoricals or (field.name in named and pa.types.is_integer(field.type)):
            kinds[clean_text(field.name)] = "class"
    return kinds


def holds_tags(kind: pa.DataType, named: bool = False) -> bool:
    """Return whether the cells are lists of texts, or of integers that have class names."""
    import pyarrow as pa

    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    inner = kind.value_type
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    return pa.types.is_string(inner) or pa.types.is_large_string(inner) or (named and pa.types.is_integer(inner))


def named_values(values: Sequence[Any], names: Sequence[str], where: str) -> list[Any]:
    """Return integers replaced by their class names; -1 and None are missing.

    Raises
    ------
    SourceError
        A number that has no name.
    """
    known: Mapping[int | None, str | None] = {**dict(enumerate(names)), -1: None, None: None}
    result: list[Any] = []
    for row, value in enumerate(values):
        for number in value if isinstance(value, list) else (value,):
            if number not in known:
                raise SourceError(
                    f"{where}: row {row + 1}: expected a class number from 0 to {len(names) - 1}, got {number}",
                    "correct the cell, or the class names in the schema of the table",
                )
        result.append([known[number] for number in value] if isinstance(value, list) else known[value])
    return result
