"""How is a cache named, looked up in its folder, and removed?

A file name is ``NAME-BACKBONE-KEY-VERSION.h5``: the key is a hash of the recipe and of the place of the images, the
version a hash of the ids, file sizes, times, labels and layers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.feature_cache import FeatureCache, is_parts_folder, part_files
from pipeline.cache.format import SUFFIX
from pipeline.cache.lock import CacheLock
from pipeline.cache.references import forget_references, is_referenced
from pipeline.errors import CacheError
from pipeline.provenance import Recipe, canonical_json

DEFAULT_FOLDER = "features_cache"


def version_hash(
    ids: Sequence[str],
    stat: np.ndarray,
    columns: Mapping[str, Sequence[str | None]],
    layers: Mapping[str, int],
) -> str:
    """Return 8 hexadecimal digits that change with the ids, file sizes and times, labels or layers of a cache.

    They are part of the file name, so a file with a given name is written once and its content never changes: a
    reader's memory map stays valid.
    """
    digest = hashlib.blake2b(digest_size=4)
    digest.update(canonical_json([list(ids), sorted(layers)]).encode("utf-8", "surrogatepass"))
    for name in sorted(columns):
        values = [value or "" for value in columns[name]]  # a cache stores an empty text and None alike
        digest.update(canonical_json([name, values]).encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(stat, "<i8").tobytes())
    return digest.hexdigest()


def file_stem(name: str, recipe: Recipe, place: str) -> str:
    """Return the file name without the version hash, which all versions of one cache share."""
    return f"{_safe(name)}-{_safe(recipe.backbone)}-{recipe.key(place)}"


def version_path(folder: Path, stem: str, version: str) -> Path:
    """Return the path of one version of a cache."""
    return folder / f"{stem}-{version}{SUFFIX}"


def caches_in(folder: Path) -> tuple[list[FeatureCache], dict[Path, CacheError]]:
    """Return the caches in `folder`, newest first, and the files that are not caches with the reason.

    A folder that does not exist holds no caches.

    Raises
    ------
    CacheError
        The folder exists and cannot be listed.
    """
    found: list[FeatureCache] = []
    unreadable: dict[Path, CacheError] = {}
    times = {}
    try:
        paths = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        paths = []
    except OSError as error:
        raise CacheError(
            f"{folder}: expected to list the caches, got {error.strerror}", "give another folder with --cache DIR"
        ) from error
    for path in paths:
        if not path.name.startswith(".") and (path.name.endswith(SUFFIX) or is_parts_folder(path)):
            with suppress(FileNotFoundError):  # another process may retire a cache while we look
                times[path] = path.stat().st_mtime_ns
    for path in sorted(times, key=lambda path: (-times[path], path.name)):
        try:
            found.append(FeatureCache.glance(path))
        except CacheError as error:
            if path.exists():
                unreadable[path] = error
    return found, unreadable


def resolve(reference: str | Path, folder: str | Path = DEFAULT_FOLDER) -> FeatureCache:
    """Return the cache at a path, or the newest one whose name starts with the reference.

    Raises
    ------
    CacheError
        No such cache, or the name fits caches of several sources or recipes.
    """
    path = Path(reference)
    if path.is_file() or is_parts_folder(path):
        return FeatureCache.open(path)
    cache = lookup(str(reference), Path(folder))
    if cache is None:
        raise CacheError(f"{reference}: expected a cache, got none of that name in {folder}", "pipeline cache list")
    return cache


def lookup(name: str, folder: Path) -> FeatureCache | None:
    """Return the newest complete cache whose file name starts with `name` up to a dash, None if there is none.

    Raises
    ------
    CacheError
        The name fits caches of several sources or recipes, or only files that cannot be read.
    """
    found, unreadable = caches_in(folder)
    matches = [cache for cache in found if _matches(cache.path, name)]
    if not matches:
        for path, error in unreadable.items():
            if _matches(path, name):
                raise error
        return None
    stems = {stem_of(cache.path) for cache in matches}
    if len(stems) > 1:
        raise CacheError(
            f"{name}: expected one cache, got {len(stems)} of that name: {', '.join(sorted(stems))}",
            f"give more of the name, e.g. {sorted(stems)[0]}",
        )
    return FeatureCache.open(next((cache for cache in matches if cache.complete), matches[0]).path)


def latest_version(path: Path) -> FeatureCache | None:
    """Return the newest complete version of the cache that was at `path`, None if there is none."""
    if not path.name.endswith(SUFFIX):
        return None
    found, _ = caches_in(path.parent)
    for cache in found:
        if cache.path.name.endswith(SUFFIX) and stem_of(cache.path) == stem_of(path) and cache.complete:
            return FeatureCache.open(cache.path)
    return None


def cache_at(data: Any) -> FeatureCache | None:
    """Return the cache at a path, None if `data` is not a path or the path is not a cache.

    Raises
    ------
    CacheError
        The cache is damaged.
    """
    if not isinstance(data, str | os.PathLike):
        return None
    path = Path(data)
    return FeatureCache.open(path) if (path.suffix == SUFFIX and path.is_file()) or is_parts_folder(path) else None


def stem_of(path: Path) -> str:
    """Return the part of a cache's name that all its versions share."""
    return path.stem.rpartition("-")[0] if path.name.endswith(SUFFIX) else path.name


def retire(path: Path) -> bool:
    """Remove a cache file or a folder of parts unless a process has it locked; return whether it is gone.

    In a folder, each part that is not locked is removed, even if others stay.
    """
    if path.is_dir():
        gone = sum(not retire(part) for part in part_files(path)) == 0
        with suppress(OSError):
            path.rmdir()
        return gone
    try:
        lock = CacheLock.exclusive(path, wait=0)
    except (CacheError, OSError):
        return False
    try:
        path.unlink(missing_ok=True)
    except OSError:
        lock.release()
        return False
    lock.release_and_forget()
    forget_references(path)
    return True


def retire_unreferenced(path: Path) -> bool:
    """Remove a version as `retire` does, unless a saved run, score or model refers to it."""
    return not is_referenced(path) and retire(path)


def _matches(path: Path, name: str) -> bool:
    bare = path.name.removesuffix(SUFFIX)
    return name in (path.name, bare) or bare.startswith(f"{name}-")


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "images"
