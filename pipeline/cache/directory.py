"""The folder of caches: how a cache is named, found again, and retired when a newer one has taken its place."""

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


def generation_of(
    ids: Sequence[str],
    stat: np.ndarray,
    columns: Mapping[str, Sequence[str | None]],
    layers: Mapping[str, int],
) -> str:
    """Return the 8 hexadecimal digits that change with anything a published file's rows were made from.

    Ids, their sizes and times, labels and layers: a file under a given name is written once and never differs
    from what its name says, so a reader's memory map never changes under it.
    """
    digest = hashlib.blake2b(digest_size=4)
    digest.update(canonical_json([list(ids), sorted(layers)]).encode("utf-8", "surrogatepass"))
    for name in sorted(columns):
        values = [value or "" for value in columns[name]]  # a cache knows no difference between empty and none
        digest.update(canonical_json([name, values]).encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(stat, "<i8").tobytes())
    return digest.hexdigest()


def file_stem(name: str, recipe: Recipe, place: str) -> str:
    """Return the file name without generation: every generation of one collection under one recipe shares it."""
    return f"{_safe(name)}-{_safe(recipe.backbone)}-{recipe.key(place)}"


def generation_path(folder: Path, stem: str, generation: str) -> Path:
    return folder / f"{stem}-{generation}{SUFFIX}"


def caches_in(folder: Path) -> tuple[list[FeatureCache], dict[Path, CacheError]]:
    """Return the caches in `folder`, newest first, and the files that are not caches with the reason.

    Raises
    ------
    CacheError
        The folder is there and must not be looked into.
    """
    found: list[FeatureCache] = []
    refused: dict[Path, CacheError] = {}
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
                refused[path] = error
    return found, refused


def resolve(reference: str | Path, folder: str | Path = DEFAULT_FOLDER) -> FeatureCache:
    """Return the cache that a path, or a name without its tail, means.

    Raises
    ------
    CacheError
        No such cache, or the name fits several collections or recipes.
    """
    path = Path(reference)
    if path.is_file() or is_parts_folder(path):
        return FeatureCache.open(path)
    cache = lookup(str(reference), Path(folder))
    if cache is None:
        raise CacheError(f"{reference}: expected a cache, got none of that name in {folder}", "pipeline cache list")
    return cache


def lookup(name: str, folder: Path) -> FeatureCache | None:
    """Return the newest complete cache whose file name starts with `name` at a dash, None if there is none.

    Raises
    ------
    CacheError
        The name fits several collections or recipes, or only files that are no caches.
    """
    found, refused = caches_in(folder)
    fits = [cache for cache in found if _fits(cache.path, name)]
    if not fits:
        for path, error in refused.items():
            if _fits(path, name):
                raise error
        return None
    stems = {stem_of(cache.path) for cache in fits}
    if len(stems) > 1:
        raise CacheError(
            f"{name}: expected one cache, got {len(stems)} of that name: {', '.join(sorted(stems))}",
            f"give more of the name, e.g. {sorted(stems)[0]}",
        )
    return FeatureCache.open(next((cache for cache in fits if cache.complete), fits[0]).path)


def latest_version(path: Path) -> FeatureCache | None:
    """Return the newest complete version of the cache at a path that is gone, None where there is none."""
    if not path.name.endswith(SUFFIX):
        return None
    found, _ = caches_in(path.parent)
    for cache in found:
        if cache.path.name.endswith(SUFFIX) and stem_of(cache.path) == stem_of(path) and cache.complete:
            return FeatureCache.open(cache.path)
    return None


def cache_at(data: Any) -> FeatureCache | None:
    """Return the cache at a path, None where `data` is no path or something else lies there.

    Raises
    ------
    CacheError
        It is a cache, and damaged.
    """
    if not isinstance(data, str | os.PathLike):
        return None
    path = Path(data)
    return FeatureCache.open(path) if (path.suffix == SUFFIX and path.is_file()) or is_parts_folder(path) else None


def stem_of(path: Path) -> str:
    """Return the name that every generation of one collection under one recipe shares, from the path of a cache."""
    return path.stem.rpartition("-")[0] if path.name.endswith(SUFFIX) else path.name


def retire(path: Path) -> bool:
    """Remove a cache, a file or a folder of parts, if nobody uses it under a lock; return whether it is gone.

    Of a folder, the parts that nobody uses are gone even where others stay.
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
    """Remove a version as `retire` does, unless a saved run, score or model was made from it."""
    return not is_referenced(path) and retire(path)


def _fits(path: Path, name: str) -> bool:
    bare = path.name.removesuffix(SUFFIX)
    return name in (path.name, bare) or bare.startswith(f"{name}-")


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "images"
