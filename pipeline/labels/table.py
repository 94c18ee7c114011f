"""Label tables: read as text, rows of one id made one, joined to the images by id."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.errors import LabelError, SourceError
from pipeline.images.values import clean_text, value_key
from pipeline.labels.columns import count, matches
from pipeline.labels.joined import IdMatch


class LabelColumns(dict[str, Any]):
    """A dict of columns that also carries what is worth saying about them.

    Parameters
    ----------
    columns : mapping of str to anything
    place : str
        Where they come from, for error messages.
    notes : sequence of str
    match : Match or None
        Which ids were joined; None before they are.
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
    Columns
        column -> {id: text or None}, without the id column; `.notes`, `.place` and `.kinds` besides.

    Raises
    ------
    LabelError
        No id column, an empty table, or rows of one id that disagree.
    """
    from pipeline.images import find_id_column, read_text_table
    from pipeline.images.table import table_kinds

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
    """Return columns of text by id, rows of one id made one; what `read_label_table` does with a table that is read.

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
        Decisions that were made in reading it.
    """
    ids = [None if text is None else tidy_id(text) for text in raw_ids]
    notes = list(notes)
    without = sum(key is None for key in ids)
    if without:
        notes.append(f"{place}: {without} of {count(len(ids), 'row')} have no {id_name} and are left out")
    if without == len(ids):
        raise LabelError(
            f"{place}: wanted ids in column {id_name!r}, found no row that has one",
            "name the column that holds the image's path: --id COLUMN",
        )
    if not table:
        raise LabelError(
            f"{place}: wanted a column of labels beside the ids, found {id_name!r} alone", "add a column of labels"
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
            # A missing cell says nothing, so it does not disagree; the label of the other row counts.
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
                "keep one row an image, or choose other columns with --column",
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
    """Return the columns that are asked for as classes or tags, so that their cells stay as they are written.

    Parameters
    ----------
    entries : sequence of str
        As in `label_sets`: GLOB or GLOB:KIND.
    names : list of str
    """
    return {name for entry in entries if _TEXT_KIND.search(entry) for name in matches(entry, names)}


_TEXT_KIND = re.compile(r":(class|multi)\b")


def join(
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
    Columns
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
    tidy = matched.ids  # once an id, not once an id and column
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
        See `join`.

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
                "keep one row an image, or choose other columns with --column",
            )
        merged[key] = before if value is None else value
    return merged


def _nothing_matches(keys: list[str], known: list[str], place: str, folder: str | None) -> LabelError:
    """The error when no id of the table is an image, with the likeliest repair."""
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
        f"{place}: wanted ids of the {count(len(keys), 'image')} (such as {image}), "
        f"found {count(len(known), 'id')} (such as {other}) and none in common",
        step,
    )
