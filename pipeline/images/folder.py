"""How a folder of images, or a list of files, is listed, and how folder names become labels and splits."""

from __future__ import annotations

import os
import re
import stat as modes
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from pipeline.errors import SourceError
from pipeline.images.decode import HEAD, IMAGE_ENDINGS, RAW_ENDINGS, ending, sniff
from pipeline.images.listing import (
    Columns,
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
from pipeline.images.split_names import is_fixed_split, resembles_part, split_part, split_parts
from pipeline.images.values import clean_text

MOST_LEVELS = 6  # that a note names an example of

Folders = tuple[str, ...]  # the folders that an image lies in, from the top


@dataclass(frozen=True)
class FolderLabels:
    """The columns that folder names give.

    Attributes
    ----------
    columns : dict of list
        "label", and "split" for a fixed split.
    notes : list of str
        How the names were read; the one about a split comes first.
    error : SourceError, optional
        Why no label can be read from them. It is raised only where labels are needed.
    """

    columns: Columns = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: SourceError | None = None


def folder_kinds(columns: Columns) -> dict[str, str]:
    """Return the kinds of columns made of folder names: the name of a class folder is a class, number or not."""
    return {"label": "class"} if "label" in columns else {}


def folder_columns(
    ids: Sequence[str],
    folders: Iterable[str],
    shown: str,
    *,
    level: int | None = None,
    unlisted: Mapping[str, str] | None = None,
) -> FolderLabels:
    """Return the columns that the names of the folders give.

    Parameters
    ----------
    ids : sequence of str
    folders : iterable of str
        All folders of the source, to find the class folders without an image; those of archives are not needed.
    shown : str
        The source's name, for messages.
    level : int, optional
        The level of the folders that name the classes; found from the names when not given.
    unlisted : mapping of str to str, optional
        Folders that could not be listed, and why.

    Raises
    ------
    SourceError
        A class folder holds no image or cannot be listed, or no image has a folder at this level.
    """
    places = [image_id.rpartition("/")[0] for image_id in ids]
    images = Counter(places)
    tree = {place: tuple(place.split("/")) if place else () for place in images}
    below = [tuple(folder.split("/")) for folder in sorted(folders)]
    made = _Tree(tree, images, below, shown, unlisted or {})
    if level is not None:
        return made.at_level(level, ids).columns_of(places)
    return made.guessed().columns_of(places)


def folder_labels(ids: Sequence[str], shown: str, *, level: int | None = None) -> FolderLabels:
    """Return what the folders in ids alone give; see `folder_columns`."""
    return folder_columns(ids, (), shown, level=level)


def archive_columns(ids: Sequence[str], shown: str, *, labelled: bool, level: int | None = None) -> FolderLabels:
    """Return what `folder_columns` makes of the paths inside an archive.

    Folders without an image are no mistake here: a shard need not hold every class.

    Parameters
    ----------
    ids : sequence of str
    shown : str
    labelled : bool
        The labels are known otherwise, so that the folders give the split alone, unless a level is given.
    level : int, optional
    """
    found = folder_columns(ids, (), shown, level=level)
    if not labelled or level is not None:
        return found
    if "split" not in found.columns:
        return FolderLabels()
    return FolderLabels({"split": found.columns["split"]}, found.notes[:1])


def with_folder_labels(listing: Listing, found: FolderLabels, level: int | None) -> Listing:
    """Return the listing with these columns; its own have precedence unless a level was requested.

    Parameters
    ----------
    listing : Listing
    found : FolderLabels
    level : int or None
        The requested level.
    """
    notes = list(found.notes)
    if level is not None and "label" in listing.columns:
        notes.append(f"{listing.name}: --label-level {level} replaces the label that the source gives")
    new = found.columns if level is not None else {k: v for k, v in found.columns.items() if k not in listing.columns}
    return replace(
        listing,
        columns={**listing.columns, **new},
        kinds={**listing.kinds, **folder_kinds(new)},
        notes=[*listing.notes, *notes],
        label_error=found.error,
    )


@dataclass(frozen=True)
class _LabelsFound:
    """Labels and parts of a split by folder; the columns follow from the folder that each image lies in."""

    label: Mapping[str, str | None] | None = None
    split: Mapping[str, str | None] | None = None
    notes: tuple[str, ...] = ()
    error: SourceError | None = None

    def columns_of(self, places: Sequence[str]) -> FolderLabels:
        columns: Columns = {}
        if self.split is not None:
            columns["split"] = [self.split[place] for place in places]
        if self.label is not None:
            columns["label"] = [self.label[place] for place in places]
        return FolderLabels(columns, list(self.notes), self.error)


@dataclass(frozen=True)
class _Tree:
    """The folders that hold images, how many each, and all folders there are."""

    paths: Mapping[str, Folders]
    images: Mapping[str, int]
    folders: Sequence[Folders]
    shown: str
    unlisted: Mapping[str, str]

    @property
    def depth(self) -> int:
        return max(map(len, self.paths.values()), default=0)

    def names(self, at: int, inside: Folders = ()) -> list[str]:
        """Return the names of the folders at index `at` that have images in or below them, sorted."""
        start = len(inside)
        return sorted({path[at] for path in self.paths.values() if len(path) > at and path[:start] == inside})

    def count(self, holds: Callable[[Folders], bool]) -> int:
        """Return how many images lie in folders for which `holds` is true."""
        return sum(self.images[place] for place, path in self.paths.items() if holds(path))

    def guessed(self) -> _LabelsFound:
        """Return labels from the level that the names suggest."""
        if not self.depth:
            return _LabelsFound()
        start = self._wrappers(0)
        inside = "/".join([self.shown, *next(iter(self.paths.values()))[:start]])
        tops = self.names(start)
        splits = split_parts(tops)
        if splits is not None:
            return self._split(start, splits, inside)
        strict = {top: part for top in tops if (part := split_part(top))}
        hints = {top: part for top in tops if (part := resembles_part(top))}
        if "train" in strict.values() and is_fixed_split(hints.values()):
            return _LabelsFound(
                error=self._mixed(sorted(hints), [top for top in tops if top not in hints], start, inside)
            )
        return self._classes(start, inside)

    def at_level(self, level: int, ids: Sequence[str]) -> _LabelsFound:
        """Return the names at the requested level as labels, and a split at another level if there is one."""
        at = level - 1 if level > 0 else level
        has = {
            place: level != 0 and (len(path) > at if at >= 0 else len(path) >= -at)
            for place, path in self.paths.items()
        }
        if not any(has.values()):
            example = next(iter(ids), "")
            found = (
                f"folders of {self.depth} {'level' if self.depth == 1 else 'levels'}" if self.depth else "no folders"
            )
            raise SourceError(
                f"{self.shown}: expected images in folders of level {level}, got {found}, e.g. {example}",
                f"pass a level from 1 to {self.depth}, or from -1 to -{self.depth}: --label-level 1"
                if self.depth
                else "put each class into a folder of its own, or give a table with --labels TABLE",
            )
        label = {place: clean_text(path[at]) if has[place] else None for place, path in self.paths.items()}
        if level > 0:
            full = {path[:level] for place, path in self.paths.items() if has[place]}
            self._check_no_empty([path for path in self.folders if len(path) == level and path not in full], full)
        split, notes = self._split_beside(at, has)
        notes += self._about_unlabelled(label, f"no folder of level {level}", ids)
        return _LabelsFound(label, split, tuple(notes))

    def _split_beside(self, at: int, has: Mapping[str, bool]) -> tuple[dict[str, str | None] | None, list[str]]:
        """Return the fixed split that the names at another level than the labels' spell out, None for none."""
        for other in range(self.depth):
            if all(len(path) <= other or (at if at >= 0 else len(path) + at) == other for path in self.paths.values()):
                continue
            names = self.names(other)
            parts = split_parts(names)
            if parts is not None and is_fixed_split(parts.values()):
                split = {place: parts[path[other]] if len(path) > other else None for place, path in self.paths.items()}
                return split, [self._about_split(names, self.shown)]
        return None, []

    def _wrappers(self, start: int) -> int:
        """Return the index of the first level below `start` at which there is more than one folder, or a split.

        ``start`` itself where images lie beside such a folder, or where the folders never branch.
        """
        at = start
        while all(len(path) > at for path in self.paths.values()):
            tops = self.names(at)
            if len(tops) > 1 or split_parts(tops) is not None:
                return at
            at += 1
        return start

    def _split(self, at: int, parts: Mapping[str, str], inside: str) -> _LabelsFound:
        """Return columns "split" and "label" of ``train/ants/1.jpg``; a class is never "train"."""
        names = self.names(at)
        split: dict[str, str | None] | None = None
        if is_fixed_split(parts.values()):
            split = {place: parts[path[at]] if len(path) > at else None for place, path in self.paths.items()}
            notes = [self._about_split(names, inside)]
        else:
            notes = [f"{inside} holds {_listed(names)} alone: read as a part of a split, not as a class"]
        level = at + 1
        while self._repeats(at, level, parts):
            level += 1  # seg_train/seg_train/ants
        first = level
        if any(len(path) > level for path in self.paths.values()):
            level = self._wrappers(level)
        label: dict[str, str | None] | None = None
        if any(len(path) > level for path in self.paths.values()):
            label = {
                place: clean_text(path[level]) if len(path) > level else None for place, path in self.paths.items()
            }
            full = {path[: level + 1] for path in self.paths.values() if len(path) > level}
            above = {path[:level] for path in full}
            empty = [path for path in self.folders if len(path) == level + 1 and path[:level] in above]
            self._check_no_empty([path for path in empty if path not in full], full)
            if loose := self.count(lambda path: len(path) <= level):
                notes.append(f"{loose} images lie in no class folder: they have no label")
            if level != at + 1 or first != at + 1 or self.depth > level + 1:
                notes.append(self._about_level(level))
        unused = [path[at] for path in self.folders if len(path) == at + 1 and path[at] not in parts]
        if unused:
            notes.append(f"no image in {_listed(unused)}: not used")
        return _LabelsFound(label, split, tuple(notes))

    def _repeats(self, at: int, level: int, parts: Mapping[str, str]) -> bool:
        """Return whether every part holds all of its images in a folder of its own name or meaning."""
        if not all(len(path) > level for path in self.paths.values()):
            return False
        return all(
            path[level] == path[at] or split_part(path[level]) == parts[path[at]] for path in self.paths.values()
        )

    def _classes(self, at: int, inside: str) -> _LabelsFound:
        """Return the names at index `at` as labels, unless those below are as good."""
        same = [] if len(self.names(at)) < 2 else self._same_inside(at)
        split: dict[str, str | None] | None = None
        notes: list[str] = []
        for level in same:
            names = self.names(level)
            parts = split_parts(names)
            if parts is None:
                return _LabelsFound(error=self._ambiguous(at, same, inside))
            if is_fixed_split(parts.values()):
                split = {place: parts[path[level]] if len(path) > level else None for place, path in self.paths.items()}
                notes.append(f"the class folders in {inside} hold {_listed(names)}: read as a fixed split")
        wrapper = self._start_of(at)
        full = {path[: at + 1] for path in self.paths.values() if len(path) > at}
        empty = [path for path in self.folders if len(path) == at + 1 and path[:at] == wrapper and path not in full]
        self._check_no_empty(empty, full)
        label = {place: clean_text(path[at]) if len(path) > at else None for place, path in self.paths.items()}
        if loose := self.count(lambda path: len(path) <= at):
            notes.append(f"{loose} images lie in {inside} itself, in no class folder: they have no label")
        if at or (self.depth > at + 1 and split is None) or self.depth > at + 2:
            notes.append(self._about_level(at))
        return _LabelsFound(label, split, tuple(notes))

    def _start_of(self, at: int) -> Folders:
        return next(iter(self.paths.values()))[:at]

    def _same_inside(self, at: int) -> list[int]:
        """Return the indices below `at` at which most images lie and the same names stand in every folder of `at`.

        The same: two names or more, and half of all names there, stand in every one of them.
        """
        total = sum(self.images.values())
        found = []
        for level in range(at + 1, self.depth):
            names: dict[str, set[str]] = {path[at]: set() for path in self.paths.values() if len(path) > at}
            for path in self.paths.values():
                if len(path) > level:
                    names[path[at]].add(clean_text(path[level]))
            common, every = set.intersection(*names.values()), set.union(*names.values())
            deep = sum(self.images[place] for place, path in self.paths.items() if len(path) > level)
            if len(common) > 1 and 2 * len(common) >= len(every) and 2 * deep > total:
                found.append(level)
        return found

    def _ambiguous(self, at: int, same: Sequence[int], inside: str) -> SourceError:
        levels = [at, *same]
        tops = self.names(at)
        readings = [f"level {level + 1} ({_counted(self.names(level))})" for level in levels]
        return SourceError(
            f"{inside}: expected one level of folders that can be the label, got the same folders "
            f"({_listed(self.names(same[0]), 3)}) inside each of {_listed(tops, 3)}: the label may be "
            f"{' or '.join(readings)}",
            f"choose the level: {' or '.join(f'--label-level {level + 1}' for level in levels)}",
        )

    def _mixed(self, parts: Sequence[str], others: Sequence[str], at: int, inside: str) -> SourceError:
        other = others[0] if others else next(name for name in parts if split_part(name) is None)
        return SourceError(
            f"{inside}: expected split folders or class folders, got {_listed([p for p in parts if p != other])} "
            f"beside {other}",
            f"move {inside}/{other} elsewhere or into the split folders, or read all of them as classes: "
            f"--label-level {at + 1}",
        )

    def _about_split(self, names: Sequence[str], inside: str) -> str:
        return f"{inside} holds {_listed(names)}: read as a fixed split, not as classes"

    def _about_level(self, at: int) -> str:
        """Return which level gives the label, with an example of every level."""
        classes = self.names(at)
        levels = ", ".join(
            f"{level + 1}: {self.names(level)[0]}" for level in range(min(self.depth, MOST_LEVELS)) if level != at
        )
        return (
            f"{self.shown}: the label is the folder at level {at + 1} ({_counted(classes)}); other levels, e.g. "
            f"{levels}: choose one with --label-level N"
        )

    def _about_unlabelled(self, label: Mapping[str, str | None], why: str, ids: Sequence[str]) -> list[str]:
        count = sum(self.images[place] for place, text in label.items() if text is None)
        if not count:
            return []
        first = next(image_id for image_id in ids if label[image_id.rpartition("/")[0]] is None)
        lie = "image lies" if count == 1 else "images lie"
        return [f"{self.shown}: {count} {lie} in {why} and {'has' if count == 1 else 'have'} no label, e.g. {first}"]

    def _check_no_empty(self, empty: Sequence[Folders], full: Sequence[Folders] | set[Folders]) -> None:
        names = ["/".join(path) for path in empty]
        for name in names:
            if name in self.unlisted:
                raise SourceError(f"{self.shown}/{name}: {self.unlisted[name]}", "check its permissions (ls -ld)")
        if names:
            more = f" (and {len(names) - 1} more such)" if len(names) > 1 else ""
            raise SourceError(
                f"{self.shown}/{names[0]}: an empty class folder{more}: no image in it, beside {len(full)} with images",
                "put photos of this class into it, or remove the folder",
            )


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {_listed(names, 3)}"


def _listed(names: Sequence[str], most: int = 100) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


Known = Callable[[], Container[str]]

# Folders that operating systems and archivers create beside photos; Synology's is full of thumbnails.
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
    """The state of a walk through a folder."""

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
    share: tuple[int, int] | None = None  # the requested share, and the number of shares
    other_shares: dict[str, str] = field(default_factory=dict)  # folder: an image in it that is in another share
    unlisted: dict[str, str] = field(default_factory=dict)  # folder: why it cannot be listed

    def knows(self, image_id: str) -> bool:
        """Return whether the cache has met this id as an image; its ids are read once, if at all."""
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
    if not found.ids and not found.other_shares:
        others = f"; {found.ignored.text}" if found.ignored else ""
        skipped = f"; skipped {found.skipped[0][0]}: {found.skipped[0][1]}" if found.skipped else ""
        raise SourceError(
            f"{printable(path)}: no image in this folder{others}{skipped}",
            "name a folder that holds photos (jpg, png, tif, webp, ...), itself or in folders below",
        )
    ids, stat = _sorted(found)
    shown = printable(path.rstrip("/") or "/")
    labels = folder_columns(
        [*ids, *found.other_shares.values()], found.folders, shown, level=level, unlisted=found.unlisted
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
    inputs: list[tuple[str, str]] = []  # each input as given, and the id of its image
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
            inputs += ((f"{folder}/{name}", f"{prefix}/{name}") for name in sorted(below.ids))
        elif Path(top).is_file():
            entry = Path(top).stat()
            new = {prefix: (entry.st_size, entry.st_mtime_ns)}
            inputs.append((called, prefix))
        else:
            raise SourceError(
                f"{printable(path)}: expected a photo or a folder, got neither a regular file nor a folder",
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
    single = len(ids) == 1
    listed = blake2b("\0".join(ids).encode(), digest_size=8).hexdigest()
    return Listing(
        name=short_name(Path(ids[0]).stem if single else Path(base).name),
        place=printable(f"{Path(base).resolve().as_posix()}/{ids[0] if single else f'[{len(ids)} files {listed}]'}"),
        ids=ids,
        stat=np.array([rows[name] for name in ids], dtype=np.int64),
        reader=FileReader(base),
        skipped=found.skipped,
        notes=[*notes, *([f"{twice} of the photos were named twice and are read once"] if twice else [])],
        ignored=found.ignored,
        requested=Requested.of([called for called, _ in inputs], [image_id for _, image_id in inputs], ids),
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
            found.other_shares.setdefault(prefix, image_id)
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
    if any(os.path.samestat(target, parent.stat()) for parent in above):
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
