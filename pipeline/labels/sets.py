"""Label sets made of columns: what a column means is decided here, and every choice not asked for is a note."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import LabelError
from pipeline.labels.columns import choose, count
from pipeline.labels.defaults import MOST_LIKE_LABELS, why_no_labels
from pipeline.labels.joined import JoinedSet, Skipped
from pipeline.labels.tags import SEPARATORS, indicator, joined_tags, separator_of, split_tags

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NOT_FINITE = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)
_CODE = re.compile(r"[+-]?0\d")  # "007" is a code, never a number


@dataclass(frozen=True, eq=False)
class LabelSet:
    """One column of labels over the images that have one.

    Parameters
    ----------
    name : str
        The column's name.
    kind : {"class", "number", "multi"}
    rows : ndarray of int64, shape (n,)
        Rows of the id list that have a label, ascending.
    y : ndarray, shape (n,) or (n, c)
        int64 codes into `classes`, float64 numbers, or for tags an int8 indicator of `classes`.
    classes : tuple of str
        The classes' or tags' own text, sorted (as numbers where all of them are numbers); empty for numbers.
    unlabelled : int
        How many ids have no label and are left out.
    notes : tuple of str
        What was decided or left out, in sentences.
    digest : str
        Hash over ids and labels: two label sets with the same digest ask the same question.
    separator : str
        What stands between the tags of a cell; empty for the other kinds.
    counted : tuple of str
        Those of `notes` that a table of rows, kinds and missing labels says too.
    """

    name: str
    kind: str
    rows: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    unlabelled: int
    notes: tuple[str, ...] = ()
    digest: str = ""
    separator: str = ""
    counted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.digest:  # made by hand: the rows stand in for the ids
            keys = [str(row) for row in self.rows]
            if self.kind == "multi":
                values = _tag_texts(self.y, self.classes)
            else:
                values = [self.classes[code] for code in self.y] if self.kind == "class" else [repr(v) for v in self.y]
            object.__setattr__(self, "digest", _digest(self.kind, keys, values))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def joined(self) -> JoinedSet:
        """What a report on all label sets says of this one."""
        low, high = (float(self.y.min()), float(self.y.max())) if self.kind == "number" else (None, None)
        return JoinedSet(self.name, self.kind, len(self), self.unlabelled, self.classes, low, high, self.counted)


class LabelSets(list[LabelSet]):
    """A list of label sets that also carries which columns are none.

    Parameters
    ----------
    found : iterable of LabelSet
    skipped : sequence of Skipped
        Columns left out, with the reason.
    asked : collection of str
        Names of columns that were asked for, by their exact name or with a kind.
    """

    def __init__(
        self, found: Iterable[LabelSet], *, skipped: Sequence[Skipped] = (), asked: Iterable[str] = ()
    ) -> None:
        super().__init__(found)
        self.skipped = tuple(skipped)
        self.asked = frozenset(asked)


def label_sets(
    ids: Sequence[str],
    columns: Mapping[str, Sequence[str | None]],
    *,
    column: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> LabelSets:
    """Return one label set a chosen column, in the columns' order.

    Parameters
    ----------
    ids : sequence of str, length n
    columns : mapping of str to sequence, each aligned with `ids`
        Text, or None where there is no label.
    column : sequence of str
        GLOB, GLOB:class, GLOB:number or GLOB:multi; where several entries choose one column, the last that says a
        kind counts. None given: every column except `exclude`. Columns that are not asked for by their exact name or
        with a kind are left out, and named in `skipped`, where they are empty or hold a single value, and of more
        than 20 different values where these are dates, text of which more than half is different, or whole numbers
        of which more than nine tenths are.
    exclude : sequence of str
        Columns with another use (id, groups, split). A column asked for by its exact name is taken all the same.

    Returns
    -------
    LabelSets
        A list; `.skipped` names the columns left out.

    Raises
    ------
    LabelError
        Names the column, and the row and value where there is one.
    """
    chosen, asked = choose(list(columns), list(column), set(exclude))
    found: list[LabelSet] = []
    skipped: list[Skipped] = []
    single: list[LabelError] = []
    for name, kind in chosen.items():
        values = columns[name]
        if len(values) != len(ids):
            raise LabelError(
                f"column {name!r}: wanted {len(ids)} labels, one an image, found {len(values)}",
                "join the table by id: pass it with --labels",
            )
        # Sources hand over tidied text already; in Python a caller may not have.
        tidy = [None if text is None else unicodedata.normalize("NFC", str(text).strip()) for text in values]
        rows = np.array([row for row, text in enumerate(tidy) if text], dtype=np.int64)
        texts = [text for text in tidy if text]
        if not texts:
            if name in asked:
                raise LabelError(
                    f"column {name!r}: wanted labels, found {len(ids)} empty cells", _other_columns(columns, name)
                )
            skipped.append(Skipped(name, "it is empty"))
            continue
        counts = Counter(texts)
        kind = kind or guess_kind(counts, name)
        reason = None if name in asked else why_no_labels(kind, counts)
        if reason is not None:
            skipped.append(Skipped(name, reason))
            continue
        try:
            found.append(_label_set(name, kind, ids, rows, texts, counts, guessed=chosen[name] is None))
        except _SingleValue as error:
            if name in asked:
                raise
            single.append(error)
            skipped.append(Skipped(name, "all its labels are the same"))
    if not found:
        if len(single) == 1 and len(skipped) == 1:
            raise single[0]
        why = "; ".join(f"{one.column!r}: {one.reason}" for one in skipped)
        raise LabelError(
            f"wanted a column of labels, found none that can be learned{': ' + why if why else ''}",
            "name the column: --column NAME" if why else "pass a table: --labels TABLE, or use class folders",
        )
    return LabelSets(found, skipped=skipped, asked=asked)


def guess_kind(texts: Iterable[str], name: str = "label") -> str:
    """Return "class" or "number" for a column whose kind was not said.

    Whole numbers with 20 or fewer different values are classes, other numbers are numbers, all else is
    classes. A number with a leading zero ("007") is a code, so its column is classes.
    """
    different = set(texts)
    numbers = {text for text in different if _NUMBER.fullmatch(text) and not _CODE.match(text)}
    others = different - numbers
    if others and numbers and all(_NOT_FINITE.fullmatch(text) for text in others):
        raise LabelError(
            f"column {name!r}: wanted finite numbers, found {sorted(others)[0]!r}",
            f"empty those cells, or read them as classes: --column {name}:class",
        )
    if others:
        return "class"
    whole = all(math.isfinite(float(text)) and float(text).is_integer() for text in numbers)
    if not whole or len({float(text) for text in numbers}) > MOST_LIKE_LABELS:
        return "number"
    return "class"


class _SingleValue(LabelError):
    """All labels of the column are the same."""


def _label_set(
    name: str, kind: str, ids: Sequence[str], rows: np.ndarray, texts: list[str], counts: Counter[str], *, guessed: bool
) -> LabelSet:
    notes: list[str] = []
    unlabelled = len(ids) - len(rows)
    if unlabelled:
        labelled = set(rows.tolist())
        example = next(ids[row] for row in range(len(ids)) if row not in labelled)
        verb = "has no label and is" if unlabelled == 1 else "have no label and are"
        notes.append(f"{unlabelled} of {count(len(ids), 'image')} {verb} left out, e.g. {example}")
    if kind == "number":
        y = _numbers(name, ids, rows, texts)
        if y.min() == y.max():
            raise _SingleValue(
                f"column {name!r}: wanted numbers that differ, found {texts[0]} for all {count(len(rows), 'image')}",
                "choose another column with --column",
            )
        digest = _digest(kind, _ids(ids, rows), texts)
        return LabelSet(name, kind, rows, y, (), unlabelled, tuple(notes), digest, counted=tuple(notes))
    if kind == "multi":
        return _tag_set(name, ids, rows, texts, notes)
    _refuse_lookalikes(name, counts)
    if len(counts) == 1:
        raise _SingleValue(
            f"column {name!r}: wanted two classes or more, found only {texts[0]!r} ({count(len(rows), 'image')})",
            "add images of a second class, or choose another column with --column",
        )
    classes = tuple(_sorted_classes(counts))
    code = {text: i for i, text in enumerate(classes)}
    y = np.array([code[text] for text in texts], dtype=np.int64)
    if guessed and all(_NUMBER.fullmatch(text) for text in classes):
        notes.append(f"{name}: {len(classes)} whole numbers are read as classes; --column {name}:number for numbers")
    digest = _digest(kind, _ids(ids, rows), texts)
    return LabelSet(name, kind, rows, y, classes, unlabelled, tuple(notes), digest, counted=tuple(notes))


def _tag_set(name: str, ids: Sequence[str], rows: np.ndarray, texts: list[str], counted: list[str]) -> LabelSet:
    """Return the label set of a column whose cells hold several tags each."""
    found = separator_of(texts)
    separator = found or SEPARATORS[0]
    cells = [split_tags(text, separator) for text in texts]
    counts = Counter(tag for cell in cells for tag in cell)
    _refuse_lookalikes(name, counts)
    everywhere = [tag for tag in _sorted_classes(counts) if counts[tag] == len(rows)]
    tags = tuple(tag for tag in _sorted_classes(counts) if counts[tag] < len(rows))
    if len(tags) < 2:
        raise _SingleValue(
            f"column {name!r}: wanted two tags or more that some images have and some lack, "
            f"found {', '.join(map(repr, tags)) or 'none'} in {count(len(rows), 'image')}",
            f"write the tags of an image into one cell, separated by {' or '.join(SEPARATORS)}"
            if found is None
            else f"read the column as classes: --column {name}:class",
        )
    notes = [f"{name}: cells are split at {found!r}" if found else f"{name}: no cell holds {' '.join(SEPARATORS)}"]
    without = sum(not cell for cell in cells)
    if without:
        notes[0] += f"; {count(without, 'image')} {'has' if without == 1 else 'have'} none of the tags"
    if everywhere:
        on = f"{', '.join(everywhere)} {'is' if len(everywhere) == 1 else 'are'}"
        notes.append(f"{name}: {on} on all {count(len(rows), 'image')} and left out: there is nothing to tell apart")
    y = indicator(cells, tags)
    digest = _digest("multi", _ids(ids, rows), _tag_texts(y, tags))
    unlabelled = len(ids) - len(rows)
    said = (*counted, *notes)
    return LabelSet(name, "multi", rows, y, tags, unlabelled, said, digest, separator, tuple(counted))


def _tag_texts(y: np.ndarray, tags: Sequence[str]) -> list[str]:
    # A sign that no cell holds: tags "a, b" and the two tags "a" and "b" are different labels.
    return [joined_tags(row, tags, "\x1d") for row in y]


def _numbers(name: str, ids: Sequence[str], rows: np.ndarray, texts: list[str]) -> np.ndarray:
    y = np.empty(len(texts), dtype=np.float64)
    for i, text in enumerate(texts):
        number = bool(_NUMBER.fullmatch(text))
        y[i] = float(text) if number else math.nan
        if not math.isfinite(y[i]):
            wanted = "a finite number" if number or _NOT_FINITE.fullmatch(text) else "a number"
            comma = "write decimals with a point, " if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
            raise LabelError(
                f"column {name!r}: wanted {wanted} for {ids[rows[i]]}, found {text!r}",
                f"{comma}empty the cell, or read the column as classes: --column {name}:class",
            )
    return y


def _refuse_lookalikes(name: str, counts: Counter[str]) -> None:
    """Raise when two classes differ only in case, or are one number written in two ways: a slip, not two classes."""
    seen: dict[object, str] = {}
    for text in sorted(counts):
        same: list[tuple[object, str]] = [(text.casefold(), "only in case")]
        if _NUMBER.fullmatch(text) and not _CODE.match(text):
            same.append((float(text), "only in how the number is written"))
        for key, how in same:
            other = seen.setdefault(key, text)
            if other != text:
                raise LabelError(
                    f"column {name!r}: labels differ {how}: {other!r} ({count(counts[other], 'image')}) "
                    f"and {text!r} ({count(counts[text], 'image')})",
                    "write them the same way (in the table, or as one class folder)",
                )


def _sorted_classes(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    if all(_NUMBER.fullmatch(text) for text in texts):
        return sorted(texts, key=lambda text: (float(text), text))
    return sorted(texts)  # the order of numpy.unique and of scikit-learn's LabelEncoder


def _other_columns(columns: Mapping[str, object], name: str) -> str:
    others = [repr(other) for other in columns if other != name][:5]
    return f"fill it in, or choose another: {', '.join(others)}" if others else "fill it in"


def _digest(kind: str, ids: Iterable[str], texts: Iterable[str]) -> str:
    pairs = "\x1e".join(f"{key}\x1f{text}" for key, text in zip(ids, texts, strict=True))
    return hashlib.blake2b(f"{kind}\x1e{pairs}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _ids(ids: Sequence[str], rows: np.ndarray) -> Iterable[str]:
    return (ids[row] for row in rows)
