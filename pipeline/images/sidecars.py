"""What lies beside an image under the same key, as WebDataset has it: ``7.jpg``, ``7.cls``, ``7.json``, ``7.txt``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.images.listing import Columns
from pipeline.images.values import cell_text, clean_text, number_text

OWN_COLUMNS = {"cls": "label", "txt": "text"}  # the ending -> the column that the whole text becomes
MAX_SIDECAR = 1 << 20  # bytes
MAX_FIELDS = 256  # of all JSON together: every one is a column over all images


class Sidecars:
    """The texts beside the images, gathered by key while the members go by."""

    def __init__(self) -> None:
        self._own: dict[str, dict[str, str | None]] = {"label": {}, "text": {}}
        self._fields: dict[str, dict[str, str | None]] = {}
        self._json: set[str] = set()  # keys that have one
        self._left_out: dict[str, str] = {}  # field: why
        self._texts: dict[str | None, str | None] = {}  # each distinct text is kept once

    def holds(self, name: str) -> bool:
        """Return whether a member of this name has been taken."""
        key, kind = key_of(name)
        return key in (self._own[OWN_COLUMNS[kind]] if kind in OWN_COLUMNS else self._json)

    def add(self, name: str, data: bytes) -> str | None:
        """Take what this member says; return why it says nothing, or None."""
        key, kind = key_of(name)
        column = OWN_COLUMNS.get(kind)
        if column is not None:
            self._own[column][key] = None
        else:
            self._json.add(key)
        try:
            text = data.decode("utf-8-sig")
            if column is not None:
                self._own[column][key] = self._once(text)
                return None
            values = json.loads(text)
        except UnicodeDecodeError:
            return "not UTF-8"
        except (ValueError, RecursionError) as error:
            return f"no JSON: {' '.join(str(error).split())[:80]}"
        if not isinstance(values, dict):
            return "its JSON is no object of names and values"
        for field, value in values.items():
            self._add_field(clean_text(field), key, value)
        return None

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of the columns: what a `.cls` member holds is a class by definition, number or not."""
        return {"label": "class"} if self._own["label"] else {}

    def aligned(self, ids: Sequence[str]) -> tuple[Columns, list[str]]:
        """Return the columns over these images, and what to say of them."""
        if not (self._json or any(self._own.values())):
            return {}, []
        found = {name: values for name, values in self._own.items() if values}
        for field, values in self._fields.items():
            if field in found:
                ending = next(kind for kind, name in OWN_COLUMNS.items() if name == field)
                self._left_out[field] = f"the .{ending} members say it"
            elif field not in self._left_out:
                found[field] = values
        keys = [key_of(image_id)[0] for image_id in ids]
        notes = [f"the JSON field {field!r} is left out: {why}" for field, why in self._left_out.items()]
        return {name: [values.get(key) for key in keys] for name, values in found.items()}, notes

    def _add_field(self, field: str, key: str, value: object) -> None:
        if field in self._left_out:
            return
        if isinstance(value, dict | list):
            self._left_out[field] = "it holds a list or an object"
            return
        if field not in self._fields:
            if len(self._fields) == MAX_FIELDS:
                self._left_out[field] = f"there are more than {MAX_FIELDS} fields"
                return
            self._fields[field] = {}
        text: str | None
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, float):
            text = number_text(value)
        else:
            text = None if value is None else str(value)
        self._fields[field][key] = self._once(text)

    def _once(self, text: str | None) -> str | None:
        if text not in self._texts:
            self._texts[text] = cell_text(text)
        return self._texts[text]


def key_of(name: str) -> tuple[str, str]:
    """Return the key that members of one image share, and the ending: what stands before and behind the first dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, kind = base.partition(".")
    return f"{folder}{slash}{stem}", kind.lower()
