"""How a column becomes a label set: its kind, its classes, numbers or tags, and why a column is left out.

Every choice that the user did not make is a note of the label set.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import LabelError
from pipeline.images.values import CODE, NUMBER, clean_text, value_text
from pipeline.labels.join import JoinedLabelSet, SkippedColumn, choose, count, whole_numbers_note
from pipeline.labels.spelling import MISSING_AMONG_NUMBERS, likely_missing, spelling_notes, unify

# The first that occurs in a column splits it.
SEPARATORS = (";", "|", ",")
# For tags that contain those: a row of tags must be written so that it can be read again.
_RARE_SEPARATORS = (";", "|", ",", "/", "+", "~", " ; ", "\x1f")

_LIST_ENDS = {"[": "]", "{": "}", "(": ")"}
_QUOTED = re.compile(r'"(?:[^"\\]|\\.|"")*"|\'(?:[^\'\\]|\\.|\'\')*\'', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_MISSING_ITEMS = frozenset(("", "none", "null", "nan", "<na>"))


class CellError(ValueError):
    """A cell of tags that cannot be read completely; the text says why."""


def separator_of(texts: Iterable[str]) -> str | None:
    """Return the first of the separators that occurs in any of the cells; None where none does.

    Separators within quotes and within lists such as ``['a', 'b']`` do not count.
    """
    found = {mark for text in texts if not _is_whole_list(text) for mark in SEPARATORS if mark in _bare(text)}
    return next((mark for mark in SEPARATORS if mark in found), None)


def split_tags(text: str, separator: str) -> tuple[str, ...]:
    """Return the different tags of a cell that `joined_tags` wrote, sorted; a separator alone means no tag."""
    return tuple(sorted({tag for part in text.split(separator) if (tag := part.strip())}))


def read_tags(text: str, separator: str) -> tuple[str, ...]:
    """Return the different tags of a cell of a table, sorted.

    A cell is tags with separators between them, each of them quoted or not, or a list as Python, JSON, PostgreSQL or
    NumPy write it: ``['a', 'b']``, ``["a", "b"]``, ``{a,b}``, ``['a' 'b']``.

    Raises
    ------
    CellError
        Part of the cell would be lost, or would become a fragment such as ``['a``.
    """
    items = list_items(text)
    if items is None:
        inner = _unquoted(text)
        items = _split_quoted(text if inner is None else inner, separator)
    for item in items:
        if (
            item.count("[") != item.count("]")
            or item.count("{") != item.count("}")
            or item.count("(") > item.count(")")
        ):
            raise CellError(f"brackets that do not match in {item!r}")
        if item[:1] in "\"'" and item[:1]:
            raise CellError(f"a quote that is not closed in {item!r}")
    return tuple(sorted({item for item in items if item}))


def list_items(text: str) -> list[str] | None:
    """Return the items of a cell that is a list, None for a cell that is none.

    Raises
    ------
    CellError
        An item is missing (``None``, ``nan``): a list with a gap.
    """
    text = text.strip()
    if text[:1] not in _LIST_ENDS or not text[:1] or text[-1:] != _LIST_ENDS[text[0]]:
        return None
    body = text[1:-1].strip()
    if text[0] == "(" and not (_QUOTED.match(body) or not body):
        return None  # "(juvenile)" is a tag
    items, place, quoted_before = [], 0, False
    while place < len(body):
        if quote := _QUOTED.match(body, place):
            items.append(_unescaped(quote.group()))
            place = quote.end()
        else:
            end = body.find(",", place)
            bare = body[place : len(body) if end < 0 else end].strip()
            if any(mark in bare for mark in "[]{}\"'"):
                return None
            if bare.lower() in _MISSING_ITEMS:
                raise CellError(f"a list with a missing item: {text!r}")
            items.append(bare)
            place = len(body) if end < 0 else end
        quoted_before = quote is not None
        rest = body[place:].lstrip()
        place = len(body) - len(rest)
        if not rest:
            break
        if rest[0] == ",":
            rest = rest[1:].lstrip()
            place = len(body) - len(rest)
        elif not (quoted_before and rest[0] in "\"'"):  # NumPy writes no commas
            return None
    return [item.strip() for item in items]


def _is_whole_list(text: str) -> bool:
    try:
        return list_items(text) is not None
    except CellError:
        return True


def is_list(text: str) -> bool:
    """Return whether a cell is written as a list of quoted items, or of several."""
    try:
        items = list_items(text)
    except CellError:
        return True
    return items is not None and (len(items) > 1 or text.strip()[1:2] in ("'", '"'))


def _bare(text: str) -> str:
    """Return the cell without its quoted tags; for a cell that is one quoted text, the text inside the quotes."""
    inner = _unquoted(text)
    return text if inner is None and text[:1] not in "\"'" else _QUOTED.sub("", text) if inner is None else inner


def _unquoted(text: str) -> str | None:
    """Return the text inside the quotes of a cell that is quoted as a whole, as exports that quote twice write it."""
    text = text.strip()
    quote = _QUOTED.fullmatch(text)
    # The whole cell must be one quoted text: "a";"b" begins and ends with quotes, too.
    return _unescaped(text) if quote and _QUOTED.match(text).end() == len(text) else None  # type: ignore[union-attr]


def _split_quoted(text: str, separator: str) -> list[str]:
    """Return the parts between separators, those within quotes left alone, and quotes around a part taken away."""
    parts, place = [], 0
    while place <= len(text):
        start = place
        while start < len(text) and text[start].isspace() and not text.startswith(separator, start):
            start += 1
        quote = _QUOTED.match(text, start)
        if quote is not None:
            rest = text[quote.end() :]
            behind = rest.lstrip() if not separator.isspace() else rest
            if not behind or behind.startswith(separator):
                parts.append(_unescaped(quote.group()).strip())
                if not behind:
                    return parts
                place = len(text) - len(behind) + len(separator)
                continue
        end = text.find(separator, place)
        end = len(text) if end < 0 else end
        parts.append(text[place:end].strip())
        place = end + len(separator)
    return parts


def _unescaped(quoted: str) -> str:
    mark = quoted[0]
    text = _ESCAPE.sub(_plain, quoted[1:-1].replace(mark * 2, mark))
    # JSON writes letters beyond 16 bits as two escapes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(found: re.Match[str]) -> str:
    code = found.group(1)
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)


def writable_separator(separator: str, tags: Iterable[str]) -> str:
    """Return the separator, or another one where a tag contains it: rows of tags are written and read again."""
    tags = list(tags)
    return next(mark for mark in (separator, *_RARE_SEPARATORS) if not any(mark in tag for tag in tags))


def indicator(cells: Sequence[Iterable[str]], tags: Sequence[str]) -> np.ndarray:
    """Return which cell holds which tag, int8 of shape (n, c); tags beyond `tags` are passed over."""
    place = {tag: column for column, tag in enumerate(tags)}
    y = np.zeros((len(cells), len(tags)), np.int8)
    for row, cell in enumerate(cells):
        for tag in cell:
            if tag in place:
                y[row, place[tag]] = 1
    return y


def joined_tags(row: np.ndarray, tags: Sequence[str], separator: str) -> str:
    """Return a row of an indicator as a cell; one without tags is the separator alone, as in a table."""
    return separator.join(tag for tag, present in zip(tags, row, strict=True) if present) or separator


# A column with at most so many different values is used, whatever its values look like.
MOST_LIKE_LABELS = 20

_YEAR, _MONTH, _DAY = r"(?:1[89]|2[01])\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_NAMED = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_DATE = re.compile(
    rf"""(?:{_YEAR}(?P<s>[-/.:]){_MONTH}(?P=s){_DAY}     # 2024-01-31, and as cameras write it: 2024:01:31
    | {_YEAR}-(?:0[1-9]|1[0-2])                          # 2024-01
    | {_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])    # 20240131
    | {_DAY}(?P<d>[-/.]){_MONTH}(?P=d)(?:{_YEAR}|\d\d)   # 31.1.2024
    | {_MONTH}(?P<m>[-/.]){_DAY}(?P=m)(?:{_YEAR}|\d\d)   # 1/31/2024
    | {_DAY}[ .-]*{_NAMED}[ .,-]*(?:{_YEAR}|\d\d)        # 31 Jan 2024
    | {_NAMED}[ .-]*{_DAY}[ ,]+{_YEAR}                   # January 31, 2024
    )(?:[T ]\s*\d\d?(?::?\d\d)(?::?\d\d(?:[.,]\d+)?)?\s*(?:[ap]m)?\s*(?:Z|[+-]\d\d:?\d\d)?)?""",
    re.IGNORECASE | re.VERBOSE,
)


def why_no_labels(kind: str, counts: Mapping[str, int], *, stated: bool = False) -> str | None:
    """Return why a column is left out unless it is requested; None for a column that is used.

    Parameters
    ----------
    kind : {"class", "number"}
        As guessed.
    counts : mapping of text to int
        How often each value occurs.
    stated : bool
        Whether the source states that these are classes: a class folder may be called 2024-01-31.
    """
    different, rows = len(counts), sum(counts.values())
    if different <= MOST_LIKE_LABELS:
        return None
    if not stated and _are_dates(counts):
        return f"{different} different dates"
    if kind == "class":
        return f"{different} different values in {rows} rows look like names" if 2 * different > rows else None
    # Measurements have decimals somewhere; whole numbers that hardly ever repeat number patients, photos or moments.
    if 10 * different > 9 * rows and all(float(text).is_integer() for text in counts):
        return f"{different} different whole numbers in {rows} rows look like numbers of patients or photos"
    return None


def _are_dates(texts: Collection[str]) -> bool:
    """Return whether nine of ten different values are dates: a typo or an "unknown" among dates does not matter."""
    return 10 * sum(_DATE.fullmatch(text) is not None for text in texts) >= 9 * len(texts)


_NOT_FINITE = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)


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
        Hash over ids and labels: two label sets with the same digest are the same task.
    separator : str
        The separator of the tags of a cell; empty for the other kinds.
    counted : tuple of str
        Those of `notes` that a table of rows, kinds and missing labels shows as well.
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
    def joined(self) -> JoinedLabelSet:
        """The summary of this label set in a `JoinReport`."""
        low, high = (float(self.y.min()), float(self.y.max())) if self.kind == "number" else (None, None)
        return JoinedLabelSet(self.name, self.kind, len(self), self.unlabelled, self.classes, low, high, self.counted)


class LabelSets(list[LabelSet]):
    """A list of label sets, with the columns that were left out.

    Parameters
    ----------
    found : iterable of LabelSet
    skipped : sequence of SkippedColumn
        Columns left out, with the reason.
    requested : collection of str
        Names of the columns that the user requested, by their exact name or with a kind.
    """

    def __init__(
        self, found: Iterable[LabelSet], *, skipped: Sequence[SkippedColumn] = (), requested: Iterable[str] = ()
    ) -> None:
        super().__init__(found)
        self.skipped = tuple(skipped)
        self.requested = frozenset(requested)


def label_sets(
    ids: Sequence[str],
    columns: Mapping[str, Sequence[str | None]],
    *,
    column: Sequence[str] = (),
    exclude: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
) -> LabelSets:
    """Return one label set per chosen column, in the columns' order.

    Parameters
    ----------
    ids : sequence of str, length n
    columns : mapping of str to sequence, each aligned with `ids`
        Text, or None where there is no label.
    column : sequence of str
        GLOB, GLOB:class, GLOB:number, GLOB:multi or GLOB:multi(SEPARATOR); where several entries choose one column,
        the last with a kind counts. By default every column except `exclude`. A column that is not requested by its
        exact name or with a kind is left out, and named in `skipped`, where it is empty or holds a single value. So is
        one with more than 20 different values that are dates, text of which more than half is different, or whole
        numbers of which more than nine tenths are different.
    exclude : sequence of str
        Columns with another use (id, groups, split). A column requested by its exact name is used nevertheless.
    kinds : mapping of str to str, optional
        The kinds that the source states, such as "class" for class folders. A kind in `column` has precedence; the kind
        of any other column is guessed.

    Returns
    -------
    LabelSets
        A list; `.skipped` names the columns left out.

    Raises
    ------
    LabelError
        Names the column, and the row and value where there is one.
    """
    chosen, requested = choose(list(columns), list(column), set(exclude))
    stated = kinds or {}
    found: list[LabelSet] = []
    skipped: list[SkippedColumn] = []
    errors: list[LabelError] = []  # of columns that were left out
    for name, reading in chosen.items():
        values = columns[name]
        if len(values) != len(ids):
            raise LabelError(
                f"column {name!r}: expected {len(ids)} labels, one per image, got {len(values)}",
                "join the table by id: pass it with --labels",
            )
        # Sources return clean text; a caller in Python may pass any.
        tidy = [label_text(value) for value in values]
        rows = np.array([row for row, text in enumerate(tidy) if text], dtype=np.int64)
        texts = [text for text in tidy if text]
        if not texts:
            if name in requested:
                raise LabelError(
                    f"column {name!r}: expected labels, got {len(ids)} empty cells", _other_columns(columns, name)
                )
            skipped.append(SkippedColumn(name, "it is empty"))
            continue
        counts = Counter(texts)
        kind = reading.kind or stated.get(name)
        if kind is None and (mixed := _among_numbers(name, ids, rows, texts, counts)) is not None:
            if name in requested:
                raise mixed[0]
            errors.append(mixed[0])
            skipped.append(SkippedColumn(name, mixed[1]))
            continue
        guessed = kind is None
        kind = kind or guess_kind(counts, name)
        reason = None if name in requested else _why_left_out(kind, counts, guessed, len(chosen))
        if reason is not None:
            skipped.append(SkippedColumn(name, reason))
            continue
        try:
            found.append(_label_set(name, kind, ids, rows, texts, counts, guessed=guessed, separator=reading.separator))
        except _SingleValue as error:
            if name in requested:
                raise
            errors.append(error)
            skipped.append(SkippedColumn(name, "all its labels are the same"))
    if not found:
        if len(errors) == 1 and len(skipped) == 1:
            raise errors[0]
        why = "; ".join(f"{column.column!r}: {column.reason}" for column in skipped)
        raise LabelError(
            f"expected a column of labels, got none that a head can be trained on{': ' + why if why else ''}",
            "name the column: --column NAME" if why else "pass a table: --labels TABLE, or use class folders",
        )
    return LabelSets(found, skipped=skipped, requested=requested)


def guess_kind(texts: Iterable[str], name: str = "label") -> str:
    """Return "class" or "number" for a column of unknown kind.

    Whole numbers with 20 or fewer different values are classes, other numbers are numbers, all else is
    classes. A number with a leading zero ("007") is a code, so its column is classes.
    """
    different = set(texts)
    numbers = {text for text in different if NUMBER.fullmatch(text) and not CODE.match(text)}
    others = different - numbers
    if others and numbers and all(_NOT_FINITE.fullmatch(text) for text in others):
        raise LabelError(
            f"column {name!r}: expected finite numbers, got {sorted(others)[0]!r}",
            f"empty those cells, or read them as classes: --column {name}:class",
        )
    if others:
        return "class"
    whole = all(_is_whole(text) for text in numbers)
    if not whole or len({float(text) for text in numbers}) > MOST_LIKE_LABELS:
        return "number"
    return "class"


def label_text(value: object) -> str | None:
    """Return the text of a label; None where it is missing.

    Text is taken as it stands, since its source has decided already what is missing: a class folder may be called NA.
    """
    return clean_text(value) or None if isinstance(value, str) else value_text(value)


def missing_options(texts: Iterable[str]) -> str:
    """Return the options that read these texts as missing, three at most."""
    texts = sorted(texts)[:3]
    shown = [
        f"--missing={shlex.quote(text)}" if text[:1] == "-" else f"--missing {shlex.quote(text)}" for text in texts
    ]
    return " ".join(shown)


def marker_notes(name: str, counts: Mapping[str, int], read_as: str = "read as a class") -> list[str]:
    """Return a sentence on the labels that often mean "not known", with the option that reads them as missing."""
    markers = likely_missing(counts)
    if not markers:
        return []
    listed = ", ".join(f"{text!r} ({count(times, 'image')})" for text, times in sorted(markers.items()))
    them, verb = ("it", "is") if len(markers) == 1 else ("them", "are each")
    return [f"{name}: {listed} {verb} {read_as}; {missing_options(markers)} reads {them} as missing"]


def _among_numbers(
    name: str, ids: Sequence[str], rows: np.ndarray, texts: list[str], counts: Counter[str]
) -> tuple[LabelError, str] | None:
    """Return the error for a column of numbers with a few texts among them, and the same in short; None for others."""
    numbers = {text for text in counts if NUMBER.fullmatch(text) and not CODE.match(text)}
    others = counts.keys() - numbers
    if not others or not numbers or any(NUMBER.fullmatch(text) for text in others) or guess_kind(numbers) != "number":
        return None
    few = sum(counts[text] for text in others)
    decimals = not all(_is_whole(text) for text in numbers)
    markers = all(text.lower() in MISSING_AMONG_NUMBERS for text in others)
    if all(_NOT_FINITE.fullmatch(text) for text in others):
        return None  # `guess_kind` raises for it
    if not markers and not (decimals and len(numbers) > MOST_LIKE_LABELS and 10 * few <= len(texts)):
        return None
    first = next(row for row, text in enumerate(texts) if text in others)
    listed = ", ".join(map(repr, sorted(others)[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return (
        LabelError(
            f"column {name!r}: expected numbers, got {listed} in {few} of {count(len(texts), 'label')}, "
            f"e.g. {texts[first]!r} for {ids[rows[first]]}",
            f"{missing_options(others)} to read {'it' if len(others) == 1 else 'them'} as missing, "
            f"or --column {name}:class to read all labels as classes",
        ),
        f"{listed} in {few} of {count(len(texts), 'label')}, the others are numbers "
        f"({missing_options(others)} reads {'it' if len(others) == 1 else 'them'} as missing)",
    )


def _why_left_out(kind: str, counts: Counter[str], guessed: bool, columns: int) -> str | None:
    """Return why a column that was not requested is left out; None for a column that is used."""
    if kind == "multi":  # stated by a schema; next to other columns it must be requested, as in any table
        return "its cells are lists" if columns > 1 else None
    return why_no_labels(kind, counts, stated=not guessed)


def _is_whole(text: str) -> bool:
    return math.isfinite(float(text)) and float(text).is_integer()


class _SingleValue(LabelError):
    """All labels of the column are the same."""


def _label_set(
    name: str,
    kind: str,
    ids: Sequence[str],
    rows: np.ndarray,
    texts: list[str],
    counts: Counter[str],
    *,
    guessed: bool,
    separator: str = "",
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
                f"column {name!r}: expected numbers that differ, got {texts[0]} for all {count(len(rows), 'image')}",
                "choose another column with --column",
            )
        if guessed and all(map(_is_whole, counts)):
            notes.append(whole_numbers_note(name, "number", len(counts)))
        digest = _digest(kind, _ids(ids, rows), texts)
        return LabelSet(name, kind, rows, y, (), unlabelled, tuple(notes), digest, counted=tuple(notes))
    if kind == "multi":
        return _tag_set(name, ids, rows, texts, notes, separator)
    chosen = unify(counts, name)
    about = spelling_notes(name, chosen, counts)
    if guessed:
        about += marker_notes(name, counts)
        if lists := sum(times for text, times in counts.items() if is_list(text)):
            about.append(
                f"{name}: {lists} of {count(len(texts), 'label')} look like lists and are read as classes; "
                f"--column {name}:multi reads them as tags"
            )
    texts = [chosen[text] for text in texts]
    counts = Counter(texts)
    if len(counts) == 1:
        raise _SingleValue(
            f"column {name!r}: expected two classes or more, got only {texts[0]!r} ({count(len(rows), 'image')})",
            "add images of a second class, or choose another column with --column",
        )
    classes = tuple(_sorted_classes(counts))
    code = {text: i for i, text in enumerate(classes)}
    y = np.array([code[text] for text in texts], dtype=np.int64)
    if guessed and all(NUMBER.fullmatch(text) for text in classes):
        notes.append(whole_numbers_note(name, "class", len(classes)))
    digest = _digest(kind, _ids(ids, rows), texts)
    all_notes = (*notes, *about)
    return LabelSet(name, kind, rows, y, classes, unlabelled, all_notes, digest, counted=tuple(notes))


def _tag_set(
    name: str, ids: Sequence[str], rows: np.ndarray, texts: list[str], counted: list[str], separator: str
) -> LabelSet:
    """Return the label set of a column whose cells hold several tags each; an empty `separator` is detected."""
    found = separator or separator_of(texts)
    cells = tag_cells(texts, list(_ids(ids, rows)), found or SEPARATORS[0], name)
    counts = Counter(tag for cell in cells for tag in cell)
    chosen = unify(counts, name)
    about = [*spelling_notes(name, chosen, counts), *marker_notes(name, counts, "read as a tag")]
    cells = [tuple(sorted({chosen[tag] for tag in cell})) for cell in cells]
    counts = Counter(tag for cell in cells for tag in cell)
    everywhere = [tag for tag in _sorted_classes(counts) if counts[tag] == len(rows)]
    tags = tuple(tag for tag in _sorted_classes(counts) if counts[tag] < len(rows))
    if len(tags) < 2:
        raise _SingleValue(
            f"column {name!r}: expected two tags or more that some images have and some lack, "
            f"got {', '.join(map(repr, tags)) or 'none'} in {count(len(rows), 'image')}",
            f"write the tags of an image into one cell, separated by {' or '.join(SEPARATORS)}"
            if found is None
            else f"read the column as classes: --column {name}:class",
        )
    lists = sum(map(is_list, texts))
    notes = [
        f"{name}: cells are split at {found!r}"
        if found
        else f"{name}: cells are lists of tags"
        if lists
        else f"{name}: no cell holds {' '.join(SEPARATORS)}"
    ]
    without = sum(not cell for cell in cells)
    if without:
        notes[0] += f"; {count(without, 'image')} {'has' if without == 1 else 'have'} none of the tags"
    if everywhere:
        on = f"{', '.join(everywhere)} {'is' if len(everywhere) == 1 else 'are'}"
        notes.append(f"{name}: {on} on all {count(len(rows), 'image')} and left out: there is nothing to tell apart")
    y = indicator(cells, tags)
    digest = _digest("multi", _ids(ids, rows), _tag_texts(y, tags))
    unlabelled = len(ids) - len(rows)
    separator = writable_separator(found or SEPARATORS[0], tags)
    all_notes = (*counted, *about, *notes)
    return LabelSet(name, "multi", rows, y, tags, unlabelled, all_notes, digest, separator, tuple(counted))


def tag_cells(texts: Sequence[str], ids: Sequence[str], separator: str, name: str) -> list[tuple[str, ...]]:
    """Return the tags of each cell.

    Raises
    ------
    LabelError
        A cell that cannot be read completely, with its id.
    """
    cells = []
    for text, image_id in zip(texts, ids, strict=True):
        try:
            cells.append(read_tags(text, separator))
        except CellError as error:
            raise LabelError(
                f"column {name!r}: expected tags separated by {separator!r} for {image_id}, got {error} "
                f"in the cell {text!r}",
                f"correct the cell, or choose the separator: --column '{name}:multi(/)'",
            ) from error
    return cells


def _tag_texts(y: np.ndarray, tags: Sequence[str]) -> list[str]:
    # A sign that no cell holds: tags "a, b" and the two tags "a" and "b" are different labels.
    return [joined_tags(row, tags, "\x1d") for row in y]


def _numbers(name: str, ids: Sequence[str], rows: np.ndarray, texts: list[str]) -> np.ndarray:
    y = np.empty(len(texts), dtype=np.float64)
    for i, text in enumerate(texts):
        number = bool(NUMBER.fullmatch(text))
        y[i] = float(text) if number else math.nan
        if not math.isfinite(y[i]):
            expected = "a finite number" if number or _NOT_FINITE.fullmatch(text) else "a number"
            comma = "write decimals with a point, " if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
            raise LabelError(
                f"column {name!r}: expected {expected} for {ids[rows[i]]}, got {text!r}",
                f"{comma}empty the cell, or read the column as classes: --column {name}:class",
            )
    return y


def _sorted_classes(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    if all(NUMBER.fullmatch(text) for text in texts):
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
