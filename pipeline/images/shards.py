"""How several tars or Parquet tables are read as one source, and which files a pattern or folder means."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.decode import IMAGE_ENDINGS, ending
from pipeline.images.folder import archive_columns, with_folder_labels
from pipeline.images.listing import Ignored, Listing, Reader, printable, short_name
from pipeline.images.photo import Photo
from pipeline.images.tar import list_tar

SHARD_ENDINGS = frozenset(("tar", "parquet", "pq"))
MOST_SHARDS = 1_000_000  # that a pattern may mean
MOST_NOTES = 5  # that are repeated of all shards together

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def shards_of(data: Any) -> list[str] | None:
    """Return the paths of the shards that `data` means, sorted; None where it is anything else, one shard too.

    Parameters
    ----------
    data : anything that `ImageSource.open` takes
        Shards are meant by a folder that holds tars or Parquet tables of images, and no image; by a list of such
        files; and by a pattern of their names, ``train-{000000..000099}.tar`` or ``train-*.tar``.

    Raises
    ------
    SourceError
        A file of the pattern is missing, or is no shard.
    """
    if isinstance(data, str | os.PathLike):
        path = os.path.expanduser(os.fspath(data))  # noqa: PTH111 - a pattern is no path
        if not isinstance(path, str) or "\0" in path:
            return None
        if Path(path).is_dir():
            return _in_folder(path)
        return _expanded(path) if _is_pattern(path) and not Path(path).exists() else None
    if not isinstance(data, list | tuple) or not all(isinstance(item, str | os.PathLike) for item in data):
        return None
    names = [os.fspath(item) for item in data]
    if not all(isinstance(name, str) and "\0" not in name and ending(name) in SHARD_ENDINGS for name in names):
        return None
    expanded: list[str] = []
    for name in names:
        path = os.path.expanduser(name)  # noqa: PTH111
        expanded += _expanded(path) if _is_pattern(path) and not Path(path).exists() else [path]
    paths = list(dict.fromkeys(expanded))
    if len(paths) < 2 or not all(Path(path).is_file() and _is_shard(path) for path in paths):
        return None
    return sorted(paths)


def open_shards(
    paths: Sequence[str], called: Sequence[str], *, id_column: str | None = None, level: int | None = None
) -> Listing:
    """Return the images of all these shards as one source.

    Parameters
    ----------
    paths : sequence of str
    called : sequence of str
        DATA as given: their folder, a pattern, or the paths.
    id_column : str, optional
        Of Parquet tables.
    level : int, optional
        Of the folders in tars that name the classes.

    Raises
    ------
    SourceError
        A shard cannot be listed, or two hold an image of one id.
    """
    parts = [_listed(path, id_column) for path in paths]
    ids = [image_id for part in parts for image_id in part.ids]
    shard = np.repeat(np.arange(len(parts)), [len(part) for part in parts])  # (n,)
    inside = np.concatenate([np.arange(len(part)) for part in parts])  # (n,) rows of the shards
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    ids = [ids[row] for row in order]
    shard, inside = shard[order], inside[order]
    for at, (image_id, following) in enumerate(itertools.pairwise(ids)):
        if image_id == following:
            first, second = sorted((int(shard[at]), int(shard[at + 1])))
            raise SourceError(
                f"expected unique ids over {len(paths)} shards, got {image_id} in {printable(paths[first])} and "
                f"in {printable(paths[second])}",
                "leave one of the shards out, or give each image a name of its own",
            )
    names = dict.fromkeys(name for part in parts for name in part.columns)
    columns = {}
    for name in names:
        whole = [cell for part in parts for cell in part.columns.get(name, [None] * len(part))]
        columns[name] = [whole[row] for row in order]
    kinds = _kinds(parts, paths)
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    if len(notes) > MOST_NOTES:
        notes[MOST_NOTES:] = [f"{len(notes) - MOST_NOTES} more such notes on other shards"]
    ignored = Ignored()
    for path, part in zip(paths, parts, strict=True):
        ignored.add_all(part.ignored, f"{Path(path).name}: ")
    name, place = name_and_place(called, paths)
    listing = Listing(
        name=name,
        place=place,
        ids=ids,
        stat=np.concatenate([part.stat for part in parts])[order],
        reader=ShardReader(tuple(part.reader for part in parts), shard, inside),
        columns=columns,
        kinds=kinds,
        skipped=[
            (f"{Path(path).name}: {what}", why)
            for path, part in zip(paths, parts, strict=True)
            for what, why in part.skipped
        ],
        notes=notes,
        ignored=ignored,
        lies=_one_behind_the_other(parts)[order],
        shards=tuple(paths),
        id_column=id_column,
        label_level=level,
    )
    if not all(ending(path) == "tar" for path in paths):
        return listing
    # Over all of them together: a shard may hold one class alone, or train alone.
    shown = printable(called[0]) if len(called) == 1 else f"{printable(called[0])} and {len(called) - 1} more"
    found = archive_columns(ids, shown, labelled="label" in columns, level=level)
    return with_folder_labels(listing, found, level)


def _kinds(parts: Sequence[Listing], paths: Sequence[str]) -> dict[str, str]:
    """Return the kinds that the shards state; class names in one and their bare numbers in another are an error."""
    kinds = {name: kind for part in parts for name, kind in part.kinds.items()}
    for name in kinds:
        numbers = [_are_whole(part.columns.get(name, ())) for part in parts]
        stated = [name in part.kinds for part in parts]
        named = next((at for at in range(len(parts)) if stated[at] and numbers[at] is False), None)
        bare = next((at for at in range(len(parts)) if not stated[at] and numbers[at]), None)
        if named is not None and bare is not None:
            raise SourceError(
                f"expected class names in column {name!r} of all {len(paths)} shards, got names in "
                f"{printable(paths[named])} and numbers without names in {printable(paths[bare])}",
                "write the shards with the same schema",
            )
    return kinds


def _are_whole(values: Sequence[str | None]) -> bool | None:
    """Return whether all of these are whole numbers; None where there is no value."""
    different = set(values) - {None}
    return all(text.lstrip("-").isdigit() for text in different if text) if different else None


def name_and_place(called: Any, paths: Sequence[str]) -> tuple[str, str]:
    """Return the name and the place of shards together: of their folder or pattern, so that more may join them.

    Parameters
    ----------
    called : path or sequence of paths
        DATA as given.
    paths : sequence of str
        The shards that it means.
    """
    given = [called] if isinstance(called, str | os.PathLike) else list(called)
    if len(given) == 1:
        path = Path(given[0]).expanduser()
        home = path if path.is_dir() else path.parent
        resolved = home.resolve()
        named = "" if path.is_dir() else re.split(r"[*?\[{]", path.name)[0].strip("-_. ")
        place = resolved if path.is_dir() else resolved / path.name
        return short_name(named or resolved.name), printable(place.as_posix())
    places = [Path(path).resolve().as_posix() for path in paths]
    base = os.path.commonpath([Path(place).parent for place in places])
    digest = blake2b("\0".join(places).encode(), digest_size=8).hexdigest()
    return short_name(Path(base).name), printable(f"{base} [{len(paths)} shards: {digest}]")


@dataclass(frozen=True, eq=False)
class ShardReader:
    """Reads row i as row `inside[i]` of the reader of shard `shard[i]`."""

    readers: tuple[Reader, ...]
    shard: np.ndarray  # (n,) int64
    inside: np.ndarray  # (n,) int64

    @property
    def encoded(self) -> bool:
        return any(reader.encoded for reader in self.readers)

    def read(self, row: int, image_id: str) -> Photo:
        return self.readers[self.shard[row]].read(int(self.inside[row]), image_id)

    def take(self, rows: Sequence[int]) -> ShardReader:
        """Return the reader of these rows, without the shards and the places that they do not need."""
        shard, inside = self.shard[list(rows)], self.inside[list(rows)]
        kept = np.unique(shard)
        readers = []
        for number in kept:
            in_shard = shard == number
            readers.append(self.readers[number].take(inside[in_shard].tolist()))
            inside[in_shard] = np.arange(in_shard.sum())
        return ShardReader(tuple(readers), np.searchsorted(kept, shard), inside)


def _one_behind_the_other(parts: Sequence[Listing]) -> np.ndarray:
    """Return where each image lies if the shards are read one after another, (n,)."""
    lies, start = [], 0
    for part in parts:
        order = np.arange(len(part)) if part.lies is None else part.lies
        lies.append(start + np.argsort(np.argsort(order)))  # ranks
        start += len(part)
    return np.concatenate(lies)


def _listed(path: str, id_column: str | None) -> Listing:
    if ending(path) == "tar":
        return list_tar(path)
    from pipeline.images.parquet import image_column, open_parquet

    column = image_column(path)
    if column is None:
        raise _no_shard(path)
    return open_parquet(path, column, id_column=id_column)


def _in_folder(folder: str) -> list[str] | None:
    """Return the shards that lie in the folder itself, None where there are none or where there are images too."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                tail = ending(entry.name)
                if tail in IMAGE_ENDINGS and entry.name[0] != ".":
                    return None
                if tail in SHARD_ENDINGS and entry.name[0] != "." and entry.is_file():
                    found.append(entry.path)
    except OSError:  # listing the folder reports it
        return None
    if not found or _holds_image_below(folder):
        return None
    return sorted(path for path in found if _is_shard(path)) or None


def _holds_image_below(folder: str) -> bool:
    """Return whether a name in the folders below ends as an image's does; the search stops at the first."""
    seen: set[tuple[int, int]] = set()  # links are followed, as `open_folder` does
    for place, folders, files in os.walk(folder, followlinks=True):
        entry = os.stat(place)  # noqa: PTH116
        if (entry.st_dev, entry.st_ino) in seen:
            folders.clear()
            continue
        seen.add((entry.st_dev, entry.st_ino))
        folders[:] = [name for name in folders if name[0] != "."]
        if place != folder and any(ending(name) in IMAGE_ENDINGS and name[0] != "." for name in files):
            return True
    return False


def _is_shard(path: str) -> bool:
    if ending(path) == "tar":
        return True
    from pipeline.images.parquet import image_column

    return image_column(path) is not None


def _is_pattern(path: str) -> bool:
    return ending(path) in SHARD_ENDINGS and (_BRACES.search(path) is not None or glob.has_magic(path))


def _expanded(pattern: str) -> list[str]:
    """Return the shards that the pattern means, sorted."""
    paths: list[str] = []
    for name in _without_braces(pattern):
        if glob.has_magic(name):
            matches = sorted(glob.glob(name))  # noqa: PTH207 - a pattern of whole paths
            if not matches:
                raise SourceError(
                    f"{printable(name)}: no shard of such a name", f"see what is there: ls {_parent(name)}"
                )
            paths += matches
        elif Path(name).is_file():
            paths.append(name)
        else:
            raise SourceError(
                f"{printable(name)}: no such shard, of those that {printable(pattern)} means",
                f"see what is there: ls {_parent(name)}",
            )
    for path in paths:
        if not _is_shard(path):
            raise _no_shard(path)
    return sorted(dict.fromkeys(paths))


def _without_braces(pattern: str) -> list[str]:
    """Return every name that ``{000..099}`` and ``{a,b}`` stand for."""
    pieces = _BRACES.split(pattern)  # text, inside, text, inside, ..., text
    choices = [[piece] if at % 2 == 0 else _choices(piece, pattern) for at, piece in enumerate(pieces)]
    many = 1
    for choice in choices:
        many *= len(choice)
    if many > MOST_SHARDS:
        raise SourceError(
            f"{printable(pattern)}: expected up to {MOST_SHARDS:,} shards, it means {many:,}", "name fewer"
        )
    return ["".join(choice) for choice in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    if found := _RANGE.fullmatch(inside):
        first, last = int(found[1]), int(found[2])
        if not first <= last < first + MOST_SHARDS:
            raise SourceError(
                f"{printable(pattern)}: expected a range such as {{000..099}}, got {{{inside}}}",
                "write the lower number first",
            )
        width = max(map(len, found.groups())) if found[1][0] == "0" else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    return inside.split(",")


def _parent(name: str) -> str:
    folder = Path(name).parent
    while glob.has_magic(str(folder)) or not (folder.is_dir() or folder == folder.parent):
        folder = folder.parent
    return printable(str(folder))


def _no_shard(path: str) -> SourceError:
    return SourceError(
        f"{printable(path)}: expected a tar or a Parquet table with a column of images, got a table without images",
        "name it alone: a table of paths is a source of its own",
    )
