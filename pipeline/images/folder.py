"""A folder of images, or files named one by one: listed with scandir, labelled by class folders."""

from __future__ import annotations

import os
import re
import stat as modes
from array import array
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.labelling import folder_columns, folder_kinds
from pipeline.images.listing import (
    Ignored,
    Listing,
    Requested,
    in_share,
    name_trouble,
    printable,
    share_place,
    short_name,
)
from pipeline.images.photo import FileReader
from pipeline.images.sniff import HEAD, IMAGE_ENDINGS, RAW_ENDINGS, ending, sniff

Known = Callable[[], Container[str]]

# What operating systems and archives leave beside photos; Synology's folder is full of thumbnails.
SYSTEM_FOLDERS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))


MOST_LINKS = 4  # to folders, one inside another: folders that link to each other would never end

_FILE_ENDING = re.compile(r"[A-Za-z][A-Za-z0-9]{0,5}")  # "v1.2" is a folder


@dataclass(frozen=True)
class _PendingFolder:
    """A folder that is still to be listed."""

    prefix: str  # of the ids of its images
    path: str
    links: int = 0  # to folders, on the way to it


@dataclass
class _FolderWalk:
    """What a walk through a folder has met so far."""

    known: Known | None
    root: Path = field(default_factory=Path)
    ids: list[str] = field(default_factory=list)
    stat: array[int] = field(default_factory=lambda: array("q"))  # size, mtime, size, mtime, ...
    folders: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    tars: int = 0  # files that hold images of their own
    ignored: Ignored = field(default_factory=Ignored)
    outside: list[str] = field(default_factory=list)  # links to folders outside the source
    known_ids: Container[str] | None = None
    share: tuple[int, int] | None = None  # which share of how many is wanted
    witnesses: dict[str, str] = field(default_factory=dict)  # folder: an image in it that is in another share
    unlisted: dict[str, str] = field(default_factory=dict)  # folder: why it cannot be listed

    def knows(self, image_id: str) -> bool:
        """Return whether the cache has met this id as an image; it is asked for its ids once, if at all."""
        if self.known_ids is None:
            self.known_ids = self.known() if self.known else ()
        return image_id in self.known_ids


def open_folder(
    path: str, known: Known | None = None, share: tuple[int, int] | None = None, *, level: int | None = None
) -> Listing:
    """Return every image below the folder, labelled by class folders, or by split and class folders.

    Of a share, the labels are those that its images have in the whole folder. Links to folders are followed.

    Parameters
    ----------
    path : str
    known : callable, optional
        Returns the ids that a cache knows to be images.
    share : (int, int), optional
        Which share (from 1) of how many.
    level : int, optional
        Of the folders that name the classes, see `folder_columns`; found from their names when not given.

    Raises
    ------
    SourceError
        No image, a folder that cannot be listed, or a link to nothing where a class folder may have been.
    """
    root = Path(path).resolve()
    found = _walk(str(root), known, share)
    if not found.ids and not found.witnesses:
        others = f"; {found.ignored.text}" if found.ignored else ""
        skipped = f"; skipped {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise SourceError(
            f"{printable(path)}: no image in this folder{others}{skipped}",
            "name a folder that holds photos (jpg, png, tif, webp, ...), itself or in folders below",
        )
    ids, stat = _sorted(found)
    shown = printable(path.rstrip("/") or "/")
    labels = folder_columns(
        [*ids, *found.witnesses.values()], found.folders, shown, level=level, unlisted=found.unlisted
    )
    columns = {name: values[: len(ids)] for name, values in labels.columns.items()}
    notes = labels.notes
    if found.outside:
        count = len(found.outside)
        verb = "link to a folder outside it is" if count == 1 else "links to folders outside it are"
        notes.append(f"{shown}: {count} {verb} followed, e.g. {found.outside[0]}")
    if found.tars:
        notes.append(
            f"{shown}: its photos are read, {found.tars} tar {'file' if found.tars == 1 else 'files'} beside not"
        )
    return Listing(
        name=short_name(root.name),
        place=printable(root.as_posix()) if share is None else share_place(printable(root.as_posix()), *share),
        ids=ids,
        stat=stat,
        reader=FileReader(str(root)),
        columns=columns,
        kinds=folder_kinds(columns),
        skipped=sorted(found.skipped),
        notes=notes,
        ignored=found.ignored,
        label_error=labels.error,
    )


def open_files(paths: Sequence[str], known: Known | None = None, *, given: Sequence[str] | None = None) -> Listing:
    """Return the files named one by one, images or not, and every image below the folders among them.

    Parameters
    ----------
    paths : sequence of str
    known : callable, optional
        As for `ImageSource.open`.
    given : sequence of str, optional
        The paths as they were given, which become the ids of `Listing.requested`; `paths` by default.
    """
    tops = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - links keep the name they were called by
    base = os.path.commonpath({str(Path(top).parent) for top in tops})
    found = _FolderWalk(known)
    rows: dict[str, tuple[int, int]] = {}
    twice = 0
    notes: list[str] = []
    asked: list[tuple[str, str]] = []  # each input as given, and the id of its image
    for called, path, top in zip(given or paths, paths, tops, strict=True):
        prefix = os.path.relpath(top, base).replace(os.sep, "/")
        if trouble := name_trouble(prefix):
            found.skipped.append((printable(path), trouble))
            continue
        if Path(top).is_dir():
            below = _walk(top, (lambda: _IdsBelow(prefix, found)) if known else None)  # noqa: B023 - called at once
            found.skipped += [(f"{prefix}/{what}", why) for what, why in below.skipped]
            found.ignored.add_all(below.ignored, f"{prefix}/")
            if below.outside:
                notes.append(f"{prefix}: links to folders outside it are followed, e.g. {below.outside[0]}")
            pairs = zip(below.stat[::2], below.stat[1::2], strict=True)
            new = {f"{prefix}/{name}": pair for name, pair in zip(below.ids, pairs, strict=True)}
            folder = called.rstrip("/") if called.strip("/") else ""
            asked += ((f"{folder}/{name}", f"{prefix}/{name}") for name in sorted(below.ids))
        elif Path(top).is_file():
            entry = Path(top).stat()
            new = {prefix: (entry.st_size, entry.st_mtime_ns)}
            asked.append((called, prefix))
        else:
            raise SourceError(
                f"{printable(path)}: wanted a photo or a folder, found neither a regular file nor a folder",
                "name files or folders",
            )
        twice += len(rows.keys() & new.keys())
        rows |= new
    if not rows:
        why = f"; skipped {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise SourceError(
            f"no image in {', '.join(map(printable, paths[:3]))}{why}", "name photos, or a folder of them"
        )
    ids = sorted(rows)
    one = len(ids) == 1
    listed = blake2b("\0".join(ids).encode(), digest_size=8).hexdigest()
    return Listing(
        name=short_name(Path(ids[0]).stem if one else Path(base).name),
        place=printable(f"{Path(base).resolve().as_posix()}/{ids[0] if one else f'[{len(ids)} files {listed}]'}"),
        ids=ids,
        stat=np.array([rows[name] for name in ids], dtype=np.int64),
        reader=FileReader(base),
        skipped=found.skipped,
        notes=[*notes, *([f"{twice} of the photos were named twice and are read once"] if twice else [])],
        ignored=found.ignored,
        requested=Requested.of([one for one, _ in asked], [image_id for _, image_id in asked], ids),
    )


@dataclass(frozen=True)
class _IdsBelow:
    """The known ids as seen from a folder below the source."""

    prefix: str
    found: _FolderWalk

    def __contains__(self, image_id: object) -> bool:
        return self.found.knows(f"{self.prefix}/{image_id}")


def _walk(root: str, known: Known | None, share: tuple[int, int] | None = None) -> _FolderWalk:
    """Return the images below the folder; a file is opened only where neither its name nor the cache knows it."""
    found = _FolderWalk(known, share=share, root=Path(root).resolve())
    folders = [_PendingFolder("", root)]
    while folders:
        folder = folders.pop()
        prefix, path = folder.prefix, folder.path
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    _meet(entry, folder, found, folders)
        except OSError as error:
            if not prefix:
                raise SourceError(
                    f"{printable(root)}: cannot list this folder: {error.strerror}",
                    "check its permissions (ls -ld)",
                ) from error
            why = f"cannot list this folder: {error.strerror}"
            found.skipped.append((prefix, why))
            found.unlisted[prefix.rstrip("/")] = why
    return found


def _meet(entry: os.DirEntry[str], folder: _PendingFolder, found: _FolderWalk, folders: list[_PendingFolder]) -> None:
    """Take one entry of a folder into `found`, or push it onto `folders`, or pass it by."""
    name, prefix = entry.name, folder.prefix
    if name[0] == "." or name in SYSTEM_FOLDERS:
        return
    if trouble := name_trouble(name):
        found.skipped.append((printable(prefix + name), trouble))
        return
    image_id = prefix + name
    if entry.is_dir(follow_symlinks=False):
        folders.append(_PendingFolder(image_id + "/", entry.path, folder.links))
        found.folders.append(image_id)
        return
    named = (tail := ending(name)) in IMAGE_ENDINGS
    if entry.is_symlink() and _follows(entry, image_id, folder, found, folders):
        return
    if found.share is not None and not in_share(image_id, *found.share):
        if prefix and (named or not tail):
            found.witnesses.setdefault(prefix, image_id)
        return
    if not entry.is_file():
        if named:
            found.skipped.append((image_id, "not a regular file"))
        else:
            found.ignored.add("no regular file", image_id)
        return
    if tail == "tar":
        found.tars += 1
        return
    try:
        stat = entry.stat()
        if not named:
            if tail in RAW_ENDINGS:
                found.skipped.append((image_id, "a camera's raw file, which is not read: export it as JPEG or TIFF"))
                return
            if stat.st_size == 0 or not (found.knows(image_id) or sniff(_head(entry.path))):
                found.ignored.add_named(image_id)
                return
    except FileNotFoundError:  # gone since it was listed
        return
    except OSError as error:
        found.skipped.append((image_id, f"cannot tell whether it is an image: {error.strerror}"))
        return
    found.ids.append(image_id)
    found.stat.append(stat.st_size)
    found.stat.append(stat.st_mtime_ns)


def _follows(
    entry: os.DirEntry[str], image_id: str, folder: _PendingFolder, found: _FolderWalk, folders: list[_PendingFolder]
) -> bool:
    """Return whether a link was dealt with: it leads to a folder, which is then listed, or to nothing.

    Raises
    ------
    SourceError
        It leads to nothing, and its name is not that of a file: the images of a class may be gone.
    """
    try:
        target = os.stat(entry.path)  # noqa: PTH116 - one call for both kinds of target
        why = ""
    except FileNotFoundError:
        why = "a link to nothing"
    except OSError as error:  # a circle of links; it must not end the listing of what lies beside it
        why = f"a link that leads nowhere: {error.strerror}"
    if why:
        tail = ending(entry.name)
        if tail in IMAGE_ENDINGS:
            found.skipped.append((image_id, why))
        elif _FILE_ENDING.fullmatch(tail):
            found.ignored.add("link to nothing", image_id)
        else:
            raise SourceError(
                f"{printable(image_id)}: expected a file or a folder, got {why}; the images of a class may be missing",
                "bring back what it leads to, or remove the link",
            )
        return True
    if not modes.S_ISDIR(target.st_mode):
        return False
    place = Path(entry.path).resolve()
    # The folders that the link lies in, as they were reached.
    above = [Path(folder.path), *Path(folder.path).parents][: folder.prefix.count("/") + 1]
    if any(os.path.samestat(target, one.stat()) for one in above):
        found.skipped.append((image_id, "a link to a folder that it lies in itself"))
    elif folder.links == MOST_LINKS:
        found.skipped.append((image_id, f"a link to a folder inside {MOST_LINKS} others, which is not followed"))
    else:
        if not place.is_relative_to(found.root):
            found.outside.append(image_id)
        folders.append(_PendingFolder(image_id + "/", entry.path, folder.links + 1))
        found.folders.append(image_id)
    return True


def _head(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        return os.read(descriptor, HEAD)
    finally:
        os.close(descriptor)


def _sorted(found: _FolderWalk) -> tuple[list[str], np.ndarray]:
    order = sorted(range(len(found.ids)), key=found.ids.__getitem__)
    stat = np.frombuffer(found.stat, dtype=np.int64).reshape(-1, 2)  # (n, 2)
    return [found.ids[row] for row in order], stat[order]
