"""`ImageSource`: how any source of images is opened with one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.errors import SourceError
from pipeline.images.decode import ending
from pipeline.images.folder import folder_labels, with_folder_labels
from pipeline.images.listing import Listing, printable
from pipeline.images.shards import open_shards, shards_of
from pipeline.images.spreadsheet import split_sheet
from pipeline.images.tar import check_not_compressed, open_tar

BUILTIN_NAMES = ("photo-crops", "digits")


class ImageSource(Listing):
    """Images with ids in a fixed order; listed when it is opened, each image is read on request.

    See `Listing` for its attributes.
    """

    @classmethod
    @check_arguments
    def open(
        cls,
        data: Any,
        *,
        id_column: str | None = None,
        root: str | os.PathLike[str] | None = None,
        known: Callable[[], Container[str]] | None = None,
        share: tuple[int, int] | None = None,
        label_level: int | None = None,
        with_columns: bool = True,
    ) -> ImageSource:
        """Return the source that `data` names.

        Parameters
        ----------
        data : path, list of paths, ndarray or ImageSource
            A folder, with a ``metadata.jsonl`` in it or not; one photo or several, or folders among them; a table (CSV,
            TSV, Parquet, ``.xlsx``, ``.ods``, JSON Lines, or a text file of paths and labels) of ids or paths with any
            other columns; of a spreadsheet a
            sheet may be named as in ``labels.xlsx:Sheet2``; a plain `.tar` of images, where members of one key say what
            is known of each (WebDataset: `7.jpg`, `7.cls`, `7.json`, `7.txt`) or else their folders do; a Parquet table
            with a column of images as bytes; several of those as shards: a folder that holds them and no image, a list,
            or a pattern such as `train-{000..099}.tar` or `train-*.tar` (see `shards_of`); a `.npz` or `.npy` file or
            an array of uint8 images; "photo-crops" or "digits".
        id_column : str, optional
            The table's column of ids; by default its column id, path, file, filename, image or filepath. A table of
            images without one has the paths beside the bytes, or the numbers of its rows.
        root : path, optional
            The folder from which the table's ids start; by default the table's own. With it, a table is one of paths
            though it holds images too.
        known : callable, optional
            Returns the ids that a cache already knows to be images. It is called at most once, and only when a file
            without an image's ending is met, which is then not opened.

        share : (int, int), optional
            Which share (from 1) of how many; of a folder the other images are neither listed nor looked at.
        label_level : int, optional
            The level of the folders whose names are the labels: 1 is the top level of `data`, -1 the folder that an
            image lies in. Found from the names when not given; see `FolderLabels`.
        with_columns : bool
            Whether to read the other columns of a CSV or TSV table; without them, rows of one image may disagree.

        Raises
        ------
        SourceError
            There is nothing at that path, no image in it, or it cannot be read with these options.
        """
        check_root(root)
        if share is not None and isinstance(data, str | os.PathLike) and Path(data).expanduser().is_dir():
            from pipeline.images.folder import open_folder
            from pipeline.images.metadata import attach_metadata

            path = str(Path(data).expanduser())
            return cls(**vars(attach_metadata(open_folder(path, known, share, level=label_level), path, whole=False)))
        if isinstance(data, cls):
            found = data if label_level is None else cls(**vars(relabelled(data, label_level)))
        else:
            found = cls(**vars(_open(data, id_column, root, known, label_level, with_columns)))
        return found if share is None else found.share(*share)


def relabelled(listing: Listing, level: int) -> Listing:
    """Return the listing with the names of the folders at this level as labels, whatever labels it had.

    Raises
    ------
    SourceError
        No image has a folder at this level.
    """
    return with_folder_labels(listing, folder_labels(listing.ids, listing.name, level=level), level)


def check_root(root: str | os.PathLike[str] | None) -> None:
    """Raise `SourceError` where the folder that ids start from is not there."""
    if root is not None and not Path(root).expanduser().is_dir():
        raise SourceError(
            f"{printable(os.fspath(root))}: expected the folder that the ids start from, got none", "check --root"
        )


def _open(
    data: Any,
    id_column: str | None,
    root: str | os.PathLike[str] | None,
    known: Callable[[], Container[str]] | None,
    level: int | None,
    with_columns: bool,
) -> Listing:
    # Imported here, so that a folder of photos does not pay for the reader of arrays or the built-in sets.
    if isinstance(data, np.ndarray) and data.dtype.kind not in "UO":
        from pipeline.images.arrays import open_array

        return open_array(data)
    paths = _paths(data)
    # A built-in name or a single file is never a pattern of shards.
    if paths[0] not in BUILTIN_NAMES and (shards := shards_of(paths if len(paths) > 1 else paths[0])):
        if len(shards) > 1:
            return open_shards(shards, paths, id_column=id_column, level=level)
        paths = shards
    if len(paths) > 1:
        from pipeline.images.folder import open_files

        given, paths = paths, [str(Path(path).expanduser()) for path in paths]
        for path in paths:
            _check_exists(path)
            check_not_compressed(path)
            if ending(path) in _NOT_PHOTOS:
                raise SourceError(
                    f"expected photos or folders in a list of {len(paths)}, got {printable(path)}",
                    "name it alone: a table, a tar or an array file is a source of its own",
                )
        return _at_level(open_files(paths, known, given=given), level)
    (path,) = paths
    if path in BUILTIN_NAMES:
        from pipeline.images.builtin import BUILTIN

        listing = BUILTIN[path]()
        if Path(path).exists():
            listing.notes.append(f"{path} is the built-in source; for the folder of that name write ./{path}")
        return _at_level(listing, level)
    called, path = path, str(Path(path).expanduser())
    _check_exists(path)
    if Path(path).is_dir():
        from pipeline.images.folder import open_folder
        from pipeline.images.metadata import attach_metadata

        return attach_metadata(open_folder(path, known, level=level), path)
    if ending(Path(path).name) == "tar":
        return open_tar(path, level=level)
    return _at_level(_open_file(path, called, id_column, root, known, with_columns), level)


def _at_level(listing: Listing, level: int | None) -> Listing:
    return listing if level is None else relabelled(listing, level)


_NOT_PHOTOS = frozenset(
    ("csv", "tsv", "parquet", "pq", "tar", "npz", "npy", "xlsx", "xlsm", "xls", "ods", "jsonl", "ndjson")
)


def _open_file(
    path: str,
    given: str,
    id_column: str | None,
    root: str | os.PathLike[str] | None,
    known: Callable[[], Container[str]] | None,
    with_columns: bool,
) -> Listing:
    from pipeline.images.table import TABLE_ENDINGS, open_table

    tail = ending(Path(split_sheet(path)[0]).name)
    if tail in ("parquet", "pq") and root is None:
        from pipeline.images.parquet import image_column, open_parquet

        if column := image_column(path):
            return open_parquet(path, column, id_column=id_column)
    if tail in TABLE_ENDINGS:
        return open_table(path, id_column=id_column, root=root, with_columns=with_columns)
    if tail in ("npz", "npy"):
        from pipeline.images.arrays import open_array_file

        return open_array_file(path)
    check_not_compressed(path)
    from pipeline.images.folder import open_files

    return open_files([path], known, given=[given])


def _paths(data: Any) -> list[str]:
    """Return `data` as a list of paths, or raise `SourceError`."""
    if isinstance(data, str | os.PathLike):
        data = [data]
    if isinstance(data, Iterable) and not isinstance(data, bytes | dict):
        paths = list(data)
        if paths and all(isinstance(path, str | os.PathLike) for path in paths):
            texts = [os.fspath(path) for path in paths]
            if all(isinstance(text, str) and text and "\0" not in text for text in texts):
                return texts
        if not paths:
            raise SourceError("expected images, got an empty list", "name a folder, photos or a table")
        data = next((path for path in paths if not isinstance(path, str | os.PathLike) or not str(path)), paths[0])
    raise SourceError(
        f"expected a path, paths, a built-in name or an array of uint8 images, got {type(data).__name__} {data!r:.60}",
        "name a folder, photos or a table",
    )


def _check_exists(path: str) -> None:
    """Raise `SourceError` for a path where nothing is, with the nearest name that exists."""
    path = split_sheet(path)[0]
    if Path(path).exists():
        return
    place = Path(path)
    folder = place.parent
    if folder.is_dir():
        names = [entry.name for entry in os.scandir(folder)]
        near = get_close_matches(place.name, names, 1, 0.6)
        found = [str(folder / near[0])] if near else get_close_matches(path, BUILTIN_NAMES, 1, 0.6)
    else:
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        found = []
    what = "a link to nothing" if place.is_symlink() else "no such file or folder"
    raise SourceError(
        f"{printable(path)}: {what}",
        f"did you mean {printable(found[0])}?" if found else f"see what is there: ls {printable(str(folder))}",
    )
