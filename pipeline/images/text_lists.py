"""Tables without a header: text files with one "path label" per line, and JSON Lines with one object per line."""

from __future__ import annotations

import json
import re

from pipeline.errors import SourceError
from pipeline.images.sniff import IMAGE_ENDINGS

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
