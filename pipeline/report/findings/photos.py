"""The photos that a cache is about, opened where they were."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import FeatureCache
from pipeline.errors import PipelineError, SourceError
from pipeline.images import ImageSource
from pipeline.images.photo import FileReader

_SHARE = re.compile(r" \[share \d+ of \d+\]$")
_PART = re.compile(r"/\[\d+ of \d+: [0-9a-f]+\]$")  # some rows of a source
_FILES = re.compile(r"/\[\d+ files [0-9a-f]+\]$")  # a list of photos
_SHARDS = re.compile(r" \[\d+ shards: [0-9a-f]+\]$")  # a list of shards
_OVER = re.compile(r" over (.+)$")  # a table of ids in another folder
_STEP = "say where they are now: photos=DIR, or --photos DIR"


def open_photos(cache: FeatureCache, photos: Any = None) -> tuple[ImageSource | None, str]:
    """Return the photos of a cache, by the ids that they have there, or why they are not to be had.

    Parameters
    ----------
    cache : FeatureCache
    photos : path or ImageSource, optional
        Where they are now; by default where the cache says that they were.

    Returns
    -------
    (ImageSource or None, str)
        With a note, empty where all of them were found.
    """
    return photos_at(cache.place, cache.ids, cache.path.name, photos)


def photos_at(place: str, ids: Sequence[str], name: str, photos: Any = None) -> tuple[ImageSource | None, str]:
    """Return the photos of these ids, or why they are not to be had.

    Parameters
    ----------
    place : str
        Where they were, as `ImageSource.place` gives it.
    ids : sequence of str
    name : str
        What is about them, for a person.
    photos : path or ImageSource, optional
        Where they are now.
    """
    try:
        source = _opened(place, ids) if photos is None else ImageSource.open(photos)
    except PipelineError as error:
        return None, f"no photos are shown: {error.message}; {_STEP}"
    if source is None:
        return None, f"no photos are shown: {name} was made from an array in memory; {_STEP}"
    there = set(source.ids)
    missing = [name for name in ids if name not in there]
    if len(missing) == len(ids):
        return None, (
            f"no photos are shown: {source.place} has none of the {len(ids):,} ids of {name}, "
            f"e.g. {missing[0]}; {_STEP}"
        )
    if missing:
        return source, f"{len(missing):,} of {len(ids):,} photos are not in {source.place}, e.g. {missing[0]}; {_STEP}"
    return source, ""


def _opened(place: str, ids: Sequence[str]) -> ImageSource | None:
    """Return the source at the place that a cache names; None for an array in memory, which has none."""
    place = _PART.sub("", _SHARE.sub("", place))
    if place.startswith("array:"):
        return None
    if place.startswith("builtin:"):
        return ImageSource.open(place.removeprefix("builtin:").partition("@")[0])
    if _FILES.search(place):
        return _files(Path(_FILES.sub("", place)), ids)
    over = _OVER.search(place)
    if over and not Path(place).exists():
        return ImageSource.open(_OVER.sub("", place), root=over[1])
    return ImageSource.open(_SHARDS.sub("", place))  # of shards that were listed, the folder that all lie in


def _files(base: Path, ids: Sequence[str]) -> ImageSource:
    """Return the photos of a list, those that are still there: ids are relative to their folder."""
    there = [name for name in ids if (base / name).is_file()]
    if not there:
        raise SourceError(f"{base}: expected {len(ids):,} photos, got none of them", "name the folder they are in")
    stat = [(base / name).stat() for name in there]
    return ImageSource(
        name=base.name,
        place=str(base),
        ids=there,
        stat=np.array([(one.st_size, one.st_mtime_ns) for one in stat], np.int64),
        reader=FileReader(str(base)),
    )
