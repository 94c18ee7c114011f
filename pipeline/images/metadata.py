"""``metadata.jsonl`` beside images, as Hugging Face's imagefolder has it: what it records becomes columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pipeline.errors import SourceError
from pipeline.images.listing import Columns, Listing, printable
from pipeline.images.table import clean_text, find_id_column, read_text_table

NAME = "metadata.jsonl"

Source = TypeVar("Source", bound=Listing)


def attach_metadata(listing: Source, folder: str, *, whole: bool = True) -> Source:
    """Return the listing of a folder with the fields of its ``metadata.jsonl`` as columns, by file name.

    A file in the folder itself records paths from there; one in a folder below, such as ``train/``, from there. A field
    takes precedence over the column of the same name that folder names make; a note names it. A file that cannot be
    read as such a table is named in a note.

    Parameters
    ----------
    listing : Listing
        The images of the folder, or a share of them.
    folder : str
    whole : bool
        Whether these are all the images: names without an image are then counted.
    """
    tops = sorted({image_id.partition("/")[0] for image_id in listing.ids if "/" in image_id})
    files = [path for prefix in ("", *tops) if (path := Path(folder, prefix, NAME)).is_file()]
    if not files:
        return listing
    rows = {clean_text(image_id): row for row, image_id in enumerate(listing.ids)}
    found: Columns = {}
    notes = []
    for path in files:
        shown = printable(str(path))
        prefix = path.parent.relative_to(folder).as_posix()
        try:
            table = read_text_table(path)
            key = find_id_column(table, None, shown)
        except SourceError as error:
            notes.append(f"not used: {error.message}")
            continue
        strangers = []
        for at, name in enumerate(table[key]):
            full = name if name is None or prefix == "." else f"{prefix}/{name}"
            row = rows.get((full or "").replace("\\", "/").removeprefix("./"))
            if row is None:
                strangers.append(str(name))
                continue
            for field, cells in table.items():
                if field != key:
                    found.setdefault(field, [None] * len(listing))[row] = cells[at]
        notes += table.notes
        fields = ", ".join(field for field in table if field != key)
        replaced = [field for field in table if field in listing.columns]
        instead = f", {' and '.join(replaced)} in place of the folders' names" if replaced else ""
        notes.append(f"{shown}: its fields are read: {fields}{instead}")
        if strangers and whole:
            are = "is" if len(strangers) == 1 else "are"
            notes.append(
                f"{shown}: {len(strangers)} of {len(table[key])} names {are} no image here, e.g. {strangers[0]}"
            )
    return replace(
        listing,
        columns={**listing.columns, **found},
        kinds={name: kind for name, kind in listing.kinds.items() if name not in found},
        notes=[*listing.notes, *notes],
    )
