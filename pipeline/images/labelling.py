"""What the names of folders say of the images in them: a class, or a part of a fixed split and a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.errors import SourceError
from pipeline.images.listing import Columns
from pipeline.images.values import clean_text

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def folder_columns(ids: Sequence[str], folders: Iterable[str], shown: str) -> tuple[Columns, list[str]]:
    """Return the columns that the folders' names make, and what to say of them."""
    folders = sorted(folders)
    parts = [image_id.split("/", 2) for image_id in ids]
    tops = Counter(part[0] for part in parts if len(part) > 1)
    if not tops:
        return {}, []
    splits = {top: _SPLITS[top.lower()] for top in tops if top.lower() in _SPLITS}
    if len(splits) == len(tops):
        return _split_columns(parts, folders, splits, shown)
    if len(set(splits.values())) > 1 and "train" in splits.values():
        other = next(top for top in sorted(tops) if top not in splits)
        raise SourceError(
            f"{shown}: wanted split folders or class folders, found {_listed(sorted(splits))} beside {other}",
            f"move {shown}/{other} elsewhere, or into the split folders",
        )
    empty = [folder for folder in folders if "/" not in folder and folder not in tops]
    _refuse_empty(empty, len(tops), shown)
    loose = sum(len(part) == 1 for part in parts)
    names = {top: clean_text(top) for top in tops}
    notes = [f"{loose} images lie in {shown} itself, in no class folder: they have no label"] if loose else []
    return {"label": [names[part[0]] if len(part) > 1 else None for part in parts]}, notes


def folder_kinds(columns: Columns) -> dict[str, str]:
    """Return the kinds of columns made of folder names: the name of a class folder is a class, number or not."""
    return {"label": "class"} if "label" in columns else {}


def _split_columns(
    parts: list[list[str]], folders: list[str], splits: dict[str, str], shown: str
) -> tuple[Columns, list[str]]:
    """Return columns "split" and "label" of ``train/ants/1.jpg``; a class is never "train"."""
    full = {"/".join(part[:2]) for part in parts if len(part) > 2}
    empty = [
        folder for folder in folders if folder.partition("/")[0] in splits and "/" in folder and folder not in full
    ]
    if full:
        _refuse_empty(empty, len(full), shown)
    names = {part[1]: clean_text(part[1]) for part in parts if len(part) > 2}
    columns: Columns = {}
    if len(set(splits.values())) > 1 and "train" in splits.values():
        columns["split"] = [splits[part[0]] if len(part) > 1 else None for part in parts]
        notes = [f"{shown} holds {_listed(sorted(splits))}: read as a fixed split, not as classes"]
    else:
        notes = [f"{shown} holds {_listed(sorted(splits))} alone: read as a part of a split, not as a class"]
    if names:
        columns["label"] = [names[part[1]] if len(part) > 2 else None for part in parts]
        if loose := sum(len(part) < 3 for part in parts):
            notes.append(f"{loose} images lie in no class folder: they have no label")
    unused = [folder for folder in folders if "/" not in folder and folder not in splits]
    if unused:
        notes.append(f"no image in {_listed(unused)}: not used")
    return columns, notes


def _refuse_empty(empty: Sequence[str], full: int, shown: str) -> None:
    if empty:
        more = f" (and {len(empty) - 1} more such)" if len(empty) > 1 else ""
        raise SourceError(
            f"{shown}/{empty[0]}: an empty class folder{more}: no image in it, beside {full} with images",
            "put photos of this class into it, or remove the folder",
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def archive_columns(ids: Sequence[str], shown: str, *, labelled: bool) -> tuple[Columns, list[str]]:
    """Return what `folder_columns` makes of the paths inside an archive.

    An archive of one folder (``tar cf photos.tar photos``) is read from inside that folder. Folders without an image
    are no mistake here: a shard need not hold every class.

    Parameters
    ----------
    ids : sequence of str
    shown : str
    labelled : bool
        The labels are known otherwise, so that the folders are asked for the split alone.
    """
    wrapper = _wrapper(ids)
    inside = [image_id[len(wrapper) :] for image_id in ids]
    if labelled:
        tops = {image_id.partition("/")[0] for image_id in inside}
        if not tops <= {top for top in tops if top.lower() in _SPLITS}:
            return {}, []
        columns, notes = folder_columns(inside, (), f"{shown}/{wrapper}".rstrip("/"))
        return {name: column for name, column in columns.items() if name == "split"}, notes[:1]
    return folder_columns(inside, (), f"{shown}/{wrapper}".rstrip("/"))


def _wrapper(ids: Sequence[str]) -> str:
    """Return the one folder around all class folders or split folders, with its slash; "" where there is none."""
    first = ids[0].partition("/")[0]
    prefix = f"{first}/"
    if first.lower() in _SPLITS or not all(image_id.startswith(prefix) for image_id in ids):
        return ""
    seconds = [image_id[len(prefix) :].partition("/") for image_id in ids]
    folders = {folder for folder, slash, _ in seconds if slash}
    loose = any(not slash for _, slash, _ in seconds)
    return (
        prefix if not loose and (len(folders) > 1 or {folder.lower() for folder in folders} <= _SPLITS.keys()) else ""
    )
