"""How a label table is read and joined to the images: as text, one row per id, by id and never by position.

`read_label_table` reads, `join_labels` joins, `JoinReport` records what was joined and what was left out.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pipeline.errors import LabelError, SourceError
from pipeline.images.values import clean_text, is_missing, value_key

KINDS = ("class", "number", "multi")

_MULTI = re.compile(r"multi\((.*)\)", re.DOTALL)  # multi(/): tags with a separator of the user's choice


@dataclass(frozen=True)
class ColumnOptions:
    """The kind and separator that the user requested for a column.

    Attributes
    ----------
    kind : {"class", "number", "multi"} or None
    separator : str
        Separator between the tags of a cell; empty: detect it.
    """

    kind: str | None = None
    separator: str = ""


def group_codes(
    ids: Sequence[str], columns: Mapping[str, Sequence[str | None]], column: str, *, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the group of each row as a code, from a column of group names.

    Parameters
    ----------
    ids : sequence of str, length n
    columns : mapping of str to sequence, each aligned with `ids`
    column : str
    rows : ndarray of int, shape (m,), optional
        The rows that need a group (the labelled ones); all by default.

    Returns
    -------
    ndarray of int64, shape (m,)
        Equal codes for equal groups, in the order of the groups' names.

    Raises
    ------
    LabelError
        No such column, or a row without a group: it could stand on both sides of a split.
    """
    values = columns[_named(column, list(columns))]
    needed = range(len(ids)) if rows is None else [int(row) for row in rows]
    missing = [row for row in needed if is_missing(values[row])]
    if missing:
        raise LabelError(
            f"column {column!r}: expected a group for every labelled image, "
            f"got {count(len(missing), 'image')} without one, e.g. {ids[missing[0]]}",
            "fill the column in, or clear those images' labels",
        )
    names = [str(values[row]) for row in needed]
    code = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([code[name] for name in names], dtype=np.int64)


def choose(names: list[str], entries: list[str], exclude: set[str]) -> tuple[dict[str, ColumnOptions], set[str]]:
    """Return the chosen columns with their options, in the table's order, and the names of the requested columns.

    A column is requested where an entry has its exact name or a kind. Such a column is never left out for its values.
    """
    if not entries:
        return {name: ColumnOptions() for name in names if name not in exclude}, set()
    kinds: dict[str, ColumnOptions] = {}
    requested: set[str] = set()
    for entry in entries:
        glob, reading = split_kind(entry, names)
        found = [name for name in matches(entry, names) if name not in exclude or name == glob]
        if not found:
            raise unknown_column(glob, [name for name in names if name not in exclude])
        for name in found:
            kinds[name] = reading if reading.kind else kinds.get(name, reading)
        requested.update(name for name in found if reading.kind is not None or name == glob)
    return {name: kinds[name] for name in names if name in kinds}, requested


def split_kind(entry: str, names: Sequence[str]) -> tuple[str, ColumnOptions]:
    """Split GLOB:KIND or GLOB:multi(SEPARATOR); a column whose own name has the colon is taken whole.

    Raises
    ------
    LabelError
        The column exists and the kind does not, or the separator is empty.
    """
    if entry in names:
        return entry, ColumnOptions()
    if found := re.fullmatch(rf"(.+):{_MULTI.pattern}", entry, re.DOTALL):
        if not found[2]:
            raise LabelError(
                f"--column {entry}: expected a separator in the parentheses, got none",
                f"--column '{found[1]}:multi(/)' splits at a slash; --column {found[1]}:multi finds the separator",
            )
        return found[1], ColumnOptions("multi", found[2])
    glob, colon, kind = entry.rpartition(":")
    if not colon:
        return entry, ColumnOptions()
    if kind in KINDS:
        return glob, ColumnOptions(kind)
    if glob in names or fnmatch.filter(names, glob):
        raise LabelError(
            f"--column {entry}: expected the kind class, number or multi, got {kind!r}",
            f"pass --column {glob}:class, --column {glob}:number or --column {glob}:multi",
        )
    return entry, ColumnOptions()


def matches(entry: str, names: list[str]) -> list[str]:
    """Return the columns that GLOB or GLOB:KIND chooses."""
    glob, _ = split_kind(entry, names)
    if glob in names:  # before globbing: a name may hold [ or *
        return [glob]
    return [name for name in names if fnmatch.fnmatchcase(name, glob)]


def _named(column: str, names: list[str]) -> str:
    if column not in names:
        raise unknown_column(column, names)
    return column


def unknown_column(column: str, names: list[str]) -> LabelError:
    """Return the error for a column that does not exist, with the nearest names."""
    near = difflib.get_close_matches(column, names, n=3, cutoff=0.5)
    folded = [name for name in names if name.casefold() == column.casefold()]
    near = list(dict.fromkeys(folded + near))
    found = ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return LabelError(
        f"expected a column {column!r}, got {found or 'no columns at all'}",
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else "name one of those columns, or pass --labels TABLE",
    )


def count(n: int, noun: str) -> str:
    """Return "1 image", "2 images"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@dataclass(frozen=True)
class IdMatch:
    """The number of ids that a label table and the images do not share, with an example of each.

    Attributes
    ----------
    place : str
        Where the table comes from.
    table_ids, images : int
        How many each has.
    strangers : int
        Ids of the table that are no image; `stranger` is the first, or empty.
    absent : int
        Images that the table does not have; `absentee` is the first, or empty.
    """

    place: str
    table_ids: int
    images: int
    strangers: int
    stranger: str
    absent: int
    absentee: str

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on ids of the table that are no image; empty if there are none."""
        if not self.strangers:
            return ()
        are = "is no image" if self.strangers == 1 else "are no image"
        return (f"{self.place}: {self.strangers} of {count(self.table_ids, 'id')} {are} here, e.g. {self.stranger}",)

    @property
    def about_images(self) -> tuple[str, ...]:
        """A sentence on images that the table does not have; empty if there are none."""
        if not self.absent:
            return ()
        are = "is" if self.absent == 1 else "are"
        return (f"{self.absent} of {count(self.images, 'image')} {are} not in {self.place}, e.g. {self.absentee}",)


_AS = {"number": "numbers", "class": "classes"}


def whole_numbers_note(name: str, kind: str, different: int) -> str:
    """Return the sentence that says how whole numbers are read, with the option for the other way."""
    other = "class" if kind == "number" else "number"
    return (
        f"{name}: {different} different whole numbers are read as {_AS[kind]}; "
        f"--column {name}:{other} reads them as {_AS[other]}"
    )


@dataclass(frozen=True)
class SkippedColumn:
    """A column that is no label set, and why."""

    column: str
    reason: str


@dataclass(frozen=True)
class JoinedLabelSet:
    """A summary of one joined label set.

    Attributes
    ----------
    name : str
    kind : {"class", "number", "multi"}
    rows : int
        Images with a label, those of a test set in the same data among them.
    missing : int
        Images without one.
    classes : tuple of str
        Classes or tags; empty for numbers.
    low, high : float or None
        The range of numbers.
    notes : tuple of str
        Sentences on what was left out or guessed.
    """

    name: str
    kind: str
    rows: int
    missing: int
    classes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class JoinReport:
    """The labels joined to the images of one source, reported before any head is trained.

    Attributes
    ----------
    source : str
        The name of the images.
    images : int
    label_sets : tuple of JoinedLabelSet
    skipped : tuple of SkippedColumn
    match : IdMatch or None
        None where the labels are the source's own.
    """

    source: str
    images: int
    label_sets: tuple[JoinedLabelSet, ...]
    skipped: tuple[SkippedColumn, ...] = ()
    match: IdMatch | None = None

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Sentences on ids without a partner, one per direction.

        Images that are not in the table are left out where they are exactly the missing labels of the only label set.
        """
        if self.match is None:
            return ()
        repeated = len(self.label_sets) == 1 and self.label_sets[0].missing == self.match.absent
        return (*self.match.notes, *(() if repeated else self.match.about_images))

    @property
    def about_whole_numbers(self) -> tuple[str, ...]:
        """Sentences on the label sets of whole numbers and how they are read, one per kind."""
        sentences = []
        for kind, other in (("class", "number"), ("number", "class")):
            names = [
                item.name
                for item in self.label_sets
                if any(f"different whole numbers are read as {_AS[kind]};" in note for note in item.notes)
            ]
            if names:
                listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                sentences.append(
                    f"whole numbers are read as {_AS[kind]} in {listed}; "
                    f"--column {names[0]}:{other} reads them as {_AS[other]}"
                )
        return tuple(sentences)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The columns left out, in one sentence."""
        if not self.skipped:
            return ()
        listed = "; ".join(f"{column.column!r}: {column.reason}" for column in self.skipped)
        return (f"columns left out (--column NAME uses one): {listed}",)

    @property
    def notes(self) -> tuple[str, ...]:
        """All sentences; with several label sets, those on one begin with its name."""
        several = len(self.label_sets) > 1
        about = (
            f"{item.name}: {note}" if several and not note.startswith(f"{item.name}:") else note
            for item in self.label_sets
            for note in item.notes
        )
        return (*self.unmatched, *about, *self.left_out)

    def without(self, reasons: Mapping[str, str]) -> JoinReport:
        """Return the report with label sets turned into skipped columns, each with its reason."""
        return replace(
            self,
            label_sets=tuple(item for item in self.label_sets if item.name not in reasons),
            skipped=(*self.skipped, *(SkippedColumn(name, reason) for name, reason in reasons.items())),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            **asdict(self),
            "label_sets": [
                {**asdict(item), "classes": list(item.classes), "notes": list(item.notes)} for item in self.label_sets
            ],
            "skipped": [asdict(column) for column in self.skipped],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> JoinReport:
        """Return the report from the values of `as_dict`."""
        sets = [
            {**item, "classes": tuple(item["classes"]), "notes": tuple(item["notes"])} for item in record["label_sets"]
        ]
        return cls(
            record["source"],
            record["images"],
            tuple(JoinedLabelSet(**item) for item in sets),
            tuple(SkippedColumn(**item) for item in record["skipped"]),
            None if record["match"] is None else IdMatch(**record["match"]),
        )


class LabelColumns(dict[str, Any]):
    """A dict of columns with their origin, notes and kinds.

    Parameters
    ----------
    columns : mapping of str to anything
    place : str
        Their origin, for error messages.
    notes : sequence of str
    match : IdMatch or None
        The ids that have no partner; None before the join.
    kinds : mapping of str to str
        The kind of each column whose kind the table itself states, as `ImageSource.kinds`.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        place: str = "",
        notes: Sequence[str] = (),
        match: IdMatch | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(columns)
        self.place = place
        self.notes = tuple(notes)
        self.match = match
        self.kinds = dict(kinds or {})


def tidy_id(text: str) -> str:
    """Return the id in the one form in which ids are compared: NFC, forward slashes, no leading "./"."""
    tidy = unicodedata.normalize("NFC", text.strip()).replace("\\", "/")
    while tidy.startswith("./"):
        tidy = tidy[2:].lstrip("/")
    return tidy


def read_label_table(
    path: str | os.PathLike[str],
    *,
    id_column: str | None = None,
    columns: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> LabelColumns:
    """Return the table's columns by id, as text; rows that repeat an id must agree.

    Parameters
    ----------
    path : path
        CSV, TSV, Parquet, JSON Lines, a spreadsheet (``labels.xlsx:Sheet2`` names the sheet), or a text file of paths
        and labels.
    id_column : str, optional
        The column with the ids; found by its name when not given.
    columns : sequence of str, optional
        The columns that will be used (as in `label_sets`: GLOB or GLOB:KIND). Rows of one id that disagree in
        another column then only take that column away (a note says so) instead of stopping the run.
    missing : sequence of str, optional
        Texts that mean "not known", besides the empty cell, NA and NaN.

    Returns
    -------
    LabelColumns
        column -> {id: text or None}, without the id column; `.notes`, `.place` and `.kinds` besides.

    Raises
    ------
    LabelError
        No id column, an empty table, or rows of one id that disagree.
    """
    from pipeline.images import find_id_column, read_text_table, table_kinds

    place = os.fspath(path)
    read = read_text_table(path)
    try:
        id_name = find_id_column(read, id_column, place)
    except SourceError as error:
        raise LabelError(error.message, error.next_step) from error
    used = None if not columns else {name for entry in columns for name in matches(entry, list(read))}
    unused = set() if used is None else read.keys() - used
    table = read.with_numbers(place, {id_name, *unused, *text_columns(columns, list(read))})
    others = {name: texts for name, texts in table.items() if name != id_name}
    kinds = {name: kind for name, kind in table_kinds(path).items() if name in others}
    return columns_by_id(
        table[id_name], others, id_name, place, columns=columns, missing=missing, kinds=kinds, notes=table.notes
    )


def columns_by_id(
    raw_ids: Sequence[str | None],
    table: Mapping[str, Sequence[str | None]],
    id_name: str,
    place: str,
    *,
    columns: Sequence[str] = (),
    missing: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> LabelColumns:
    """Return columns of text by id, with the rows of one id merged; `read_label_table` calls it for a table.

    Parameters
    ----------
    raw_ids : sequence of str or None, length n
    table : mapping of column to n texts or None
        Without the ids.
    id_name, place : str
        For messages.
    columns, missing
        As for `read_label_table`.
    kinds : mapping of str to str, optional
        The kinds that the table states.
    notes : sequence of str
        Decisions made while reading the table.
    """
    ids = [None if text is None else tidy_id(text) for text in raw_ids]
    notes = list(notes)
    without = sum(key is None for key in ids)
    if without:
        notes.append(f"{place}: {without} of {count(len(ids), 'row')} have no {id_name} and are left out")
    if without == len(ids):
        raise LabelError(
            f"{place}: expected ids in column {id_name!r}, got no row that has one",
            "name the column that holds the image's path: --id COLUMN",
        )
    if not table:
        raise LabelError(
            f"{place}: expected a column of labels beside the ids, got {id_name!r} alone", "add a column of labels"
        )
    used = None if not columns else {name for entry in columns for name in matches(entry, [id_name, *table])}
    joined: dict[str, dict[str, str | None]] = {}
    table, about_missing = without_missing(table, missing, place, counted=used)
    notes += about_missing
    for name, texts in table.items():
        values: dict[str, str | None] = {}
        clash: tuple[str, str, str] | None = None
        for key, text in zip(ids, texts, strict=True):
            if key is None:
                continue
            before = values.get(key)
            # A missing cell does not disagree with a label; the label of the other row counts.
            if before is None:
                values[key] = text
            elif text is not None and text != before and clash is None and value_key(text) != value_key(before):
                clash = (key, before, text)
        if clash is None:
            joined[name] = values
        elif used is None or name in used:
            key, first, second = clash
            raise LabelError(
                f"{place}: rows of {key} disagree in column {name!r}: {first!r} and {second!r}",
                "keep one row per image, or choose other columns with --column",
            )
        else:
            notes.append(f"{place}: column {name!r} is left out: rows of {clash[0]} disagree in it")
    return LabelColumns(joined, place=place, notes=notes, kinds=kinds)


def without_missing(
    table: Mapping[str, Sequence[str | None]],
    missing: Sequence[str],
    place: str,
    *,
    counted: Collection[str] | None = None,
) -> tuple[dict[str, list[str | None]], list[str]]:
    """Return columns with the cells in `missing` as None, and a sentence that counts them.

    Spellings of one value are one text: ``-999`` stands for ``-999.0`` too.

    Parameters
    ----------
    table : mapping of column to texts or None
    missing : sequence of str
    place : str
        For the sentence.
    counted : collection of str, optional
        The columns that the sentence is about; all of them by default.
    """
    known = {value_key(clean_text(text)): text for text in missing}
    times: Counter[str] = Counter()
    result: dict[str, list[str | None]] = {}
    for name, values in table.items():
        keys = {text: value_key(text) for text in set(values) if text is not None} if missing else {}
        gone = {text for text, key in keys.items() if key in known}
        if gone and (counted is None or name in counted):
            times.update(known[keys[text]] for text in values if text is not None and text in gone)
        result[name] = [None if text in gone else text for text in values] if gone else list(values)
    notes = [
        f"{place}: {text!r} is read as missing in {count(times[text], 'cell')} (--missing)"
        if times[text]
        else f"{place}: no cell holds {text!r} (--missing)"
        for text in dict.fromkeys(missing)
    ]
    return result, notes


def text_columns(entries: Sequence[str], names: list[str]) -> set[str]:
    """Return the columns requested as classes or tags, whose cells stay as they are written.

    Parameters
    ----------
    entries : sequence of str
        As in `label_sets`: GLOB or GLOB:KIND.
    names : list of str
    """
    return {name for entry in entries if _TEXT_KIND.search(entry) for name in matches(entry, names)}


_TEXT_KIND = re.compile(r":(class|multi)\b")


def join_labels(
    ids: Sequence[str],
    table: Mapping[str, Mapping[str, str | None]],
    *,
    folder: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> LabelColumns:
    """Return the table's columns aligned with `ids`; an id that the table does not have gets None.

    Parameters
    ----------
    ids : sequence of str, length n
        Ids of the images: POSIX paths relative to the source.
    table : mapping of column -> {id: text or None}
        What `read_label_table` returns.
    folder : str, optional
        The folder that the images' ids are relative to, where they lie in one: absolute paths below it are ids.
    root : path, optional
        The folder that the table's ids are relative to, where that is another one.

    Returns
    -------
    LabelColumns
        column -> list of n texts or None; `.match` says which ids have no partner, on either side. An id without file
        ending is that of the only image of this name; `.notes` counts them.

    Raises
    ------
    LabelError
        No id of the table is an image: one id of each side is shown. Two images have the name of an id without file
        ending; two ids mean one image and their values differ.
    """
    place = getattr(table, "place", "") or "the label table"
    keys = [tidy_id(text) for text in ids]
    raw = dict.fromkeys(key for values in table.values() for key in values)
    matched = match_ids(raw, keys, place=place, folder=folder, root=root)
    tidy = matched.ids  # once per id, not once per id and column
    by_column = {name: _merged(name, values, tidy, place) for name, values in table.items()}
    known = dict.fromkeys(tidy.values())
    have = set(keys)
    strangers = [key for key in known if key not in have]
    if len(strangers) == len(known):
        raise _nothing_matches(keys, list(known), place, folder)
    absent = [name for key, name in zip(keys, ids, strict=True) if key not in known]
    match = IdMatch(
        place=place,
        table_ids=len(known),
        images=len(keys),
        strangers=len(strangers),
        stranger=strangers[0] if strangers else "",
        absent=len(absent),
        absentee=absent[0] if absent else "",
    )
    aligned = {name: [values.get(key) for key in keys] for name, values in by_column.items()}
    notes = (*getattr(table, "notes", ()), *matched.notes)
    return LabelColumns(aligned, place=place, notes=notes, match=match, kinds=getattr(table, "kinds", None))


@dataclass(frozen=True)
class MatchedIds:
    """The ids of a table in the form of the images' ids.

    Attributes
    ----------
    ids : dict of str
        Id as it is in the table -> id of the image, or the tidied id where there is no such image.
    notes : tuple of str
        How many ids were completed, in sentences.
    """

    ids: dict[str, str]
    notes: tuple[str, ...] = ()


def match_ids(
    raw: Iterable[str],
    keys: Sequence[str],
    *,
    place: str,
    folder: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> MatchedIds:
    """Return for each id of a table the image's id that it means: as written, as a path, or without file ending.

    Parameters
    ----------
    raw : iterable of str
        Ids of the table.
    keys : sequence of str
        Tidied ids of the images.
    place : str
        The table, for messages.
    folder, root
        See `join_labels`.

    Raises
    ------
    LabelError
        An id without file ending is the name of two images.
    """
    from pipeline.images import images_by_stem, is_absolute, relative_to, spellings

    have = set(keys)
    folders = () if folder is None else spellings(folder)
    stems: dict[str, list[str]] | None = None
    found: dict[str, str] = {}
    completed: list[str] = []
    for text in raw:
        key = tidy_id(text)
        if key not in have and folders:
            path = text.strip() if is_absolute(key) else None
            if path is None and root is not None:
                path = f"{spellings(root)[0]}/{key}"
            key = (path is not None and relative_to(path, folders)) or key
        if key not in have:
            stems = images_by_stem(keys) if stems is None else stems
            same = stems.get(key, [])
            if len(same) > 1:
                raise LabelError(
                    f"{place}: expected one image for the id {key!r}, got {len(same)}: {same[0]} and {same[1]}",
                    f"write the file ending, such as {same[0]}",
                )
            if same:
                completed.append(key)
                key = same[0]
        found[text] = key
    if not completed:
        return MatchedIds(found)
    have_none = "has no file ending and is" if len(completed) == 1 else "have no file ending and are"
    note = f"{place}: {len(completed)} of {count(len(found), 'id')} {have_none} matched by name, e.g. {completed[0]}"
    return MatchedIds(found, (note,))


def _merged(name: str, values: Mapping[str, str | None], ids: Mapping[str, str], place: str) -> dict[str, str | None]:
    """Return the values of a column by the image's id; an empty value does not disagree with another one."""
    merged: dict[str, str | None] = {}
    for text, value in values.items():
        key = ids[text]
        before = merged.get(key)
        if before is not None and value is not None and before != value:
            raise LabelError(
                f"{place}: rows of {key} disagree in column {name!r}: {before!r} and {value!r} (as {text})",
                "keep one row per image, or choose other columns with --column",
            )
        merged[key] = before if value is None else value
    return merged


def _nothing_matches(keys: list[str], known: list[str], place: str, folder: str | None) -> LabelError:
    """Return the error where no id of the table is an image, with the most likely fix."""
    from pipeline.images import is_absolute

    absolute = next((key for key in known if is_absolute(key)), None)
    if absolute is not None and all(map(is_absolute, known)):
        below = f"below {folder}" if folder is not None else f"such as {keys[0] if keys else 'none'}"
        return LabelError(
            f"{place}: expected ids of the {count(len(keys), 'image')} {below}, got "
            f"{count(len(known), 'absolute path')} (such as {absolute}) and none of these images",
            f"write the ids relative to {folder}" if folder is not None else "write the ids as the images have them",
        )
    image = keys[0] if keys else "no image"
    other = known[0] if known else "no id"
    step = "write the images' paths in the id column as they stand under the source, or name it with --id"
    by_name = {PurePosixPath(key).name: key for key in reversed(keys)}
    for key in known:
        same = by_name.get(PurePosixPath(key).name)
        if same is None:
            continue
        image, other = same, key
        if same.endswith("/" + key):
            folder = same[: -len(key) - 1]
            step = f"write the folder in front of the ids ({folder}/{key}), or pass the folder {folder} as the DATA"
        elif key.endswith("/" + same):
            step = f"take {key[: -len(same)]!r} off the front of the ids, or say what they are relative to: --root DIR"
        else:
            step = f"the names are alike but the folders differ: write {same} for {key}"
        break
    else:
        stems = {PurePosixPath(key).stem: key for key in reversed(keys)}
        for key in known:
            if key in stems or PurePosixPath(key).name in stems:
                image, other = stems.get(key) or stems[PurePosixPath(key).name], key
                step = f"ids are paths below the source: write {image} for {other}"
                break
    return LabelError(
        f"{place}: expected ids of the {count(len(keys), 'image')} (such as {image}), "
        f"got {count(len(known), 'id')} (such as {other}) and none in common",
        step,
    )
