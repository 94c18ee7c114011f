"""The cache, damaged on the disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cachefiles
import numpy as np
from collection import in_memory
from commands import pipeline

from pipeline.cache import PENDING, STORED, FeatureCache
from pipeline.cache.format import is_features
from pipeline.cache.reader import read_header
from pipeline.errors import CacheError

SECTOR = 512


def what_a_reader_sees(path: Path) -> dict[str, Any]:
    """Return all that the file says, unchecked: every dataset's values, types and order, and the provenance.

    The features and pixel statistics of an image that failed are no more than padding.

    Raises
    ------
    CacheError
        It cannot be opened.
    """
    header = read_header(path)
    seen: dict[str, Any] = {"provenance": dict(header.provenance), "rows": header.rows, "fields": list(header.fields)}
    for name in header.row_fields:
        field = header.fields[name]
        values = np.array(header.map(name))
        if is_features(name) or name == "pixel_statistics":
            values[header.map("status") > STORED] = 0
        seen[name] = (field.dtype.str, field.shape, values.tobytes())
    return seen


def verified(path: Path) -> bool:
    """Return whether `pipeline cache verify` would call the file sound."""
    try:
        cache = FeatureCache.open(path)
        return not cache.damaged().size and not (cache.status == PENDING).any()
    except CacheError:
        return False


READINGS: Mapping[str, Callable[[FeatureCache], Any]] = {
    "features": lambda cache: cache.features(),
    "stored": lambda cache: cache.stored(),
    "pixel_statistics": lambda cache: cache.pixel_statistics(),
    "stored_pixel_statistics": lambda cache: cache.stored_pixel_statistics(),
    "labels": lambda cache: cache.labels("label"),
}


def refuses_to_read(path: Path, reading: Callable[[FeatureCache], Any]) -> bool:
    try:
        reading(FeatureCache.open(path))
    except CacheError:
        return True
    return False


def damaged(content: bytes, places: list[list[tuple[int, int]]], chance: random.Random) -> bytes:
    """Return the file with a bit flipped, a stretch zeroed or its end cut off.

    `places` are ``(start, end)`` of what is not padding, kind by kind: most of the damage goes there.
    """
    start, end = chance.choice(chance.choice(places)) if chance.random() < 0.9 else (0, len(content))
    place = chance.randrange(start, end)
    kind = chance.random()
    if kind < 0.7:
        return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
    if kind < 0.95:
        length = chance.choice([1, 8, 64, SECTOR, 8 * SECTOR, 64 * SECTOR])
        if length >= SECTOR:
            place -= place % SECTOR
        length = min(length, len(content) - place)
        return content[:place] + bytes(length) + content[place + length :]
    return content[:place]


def places_in(path: Path) -> list[list[tuple[int, int]]]:
    """Return the stretches of a file that say something: of every dataset, and of HDF5's own blocks."""
    fields = [(field.offset, field.end) for field in read_header(path).fields.values()]
    metadata = np.flatnonzero(np.frombuffer(cachefiles.outside_datasets(path), np.uint8))
    blocks = np.split(metadata, np.flatnonzero(np.diff(metadata) > 64) + 1)
    return [fields, [(int(block[0]), int(block[-1]) + 1) for block in blocks]]


def test_no_damage_is_silent(promise, size):
    with (
        promise(
            "a flipped bit, a zeroed stretch or a cut-off end that changes anything a reader can see (ids, labels, "
            "status, provenance, features alike) is found by `verify`, nothing else is, no reading gives a damaged row"
        ) as on_trial,
        in_memory() as folder,
    ):
        # Many label columns, so that their names lie in a heap of their own.
        columns = {**cachefiles.COLUMNS, **{f"column {number}": ["x", "y"] * 3 for number in range(12)}}
        path = cachefiles.filled(folder / "x.h5", columns=columns)
        content, before, places = path.read_bytes(), what_a_reader_sees(path), places_in(path)
        assert verified(path) and not any(refuses_to_read(path, reading) for reading in READINGS.values())
        changed = 0
        for seed in range(size(quick=400, full=10_000)):
            with on_trial.trial(f"seed {seed}"):
                path.write_bytes(damaged(content, places, random.Random(seed)))
                try:
                    is_changed = what_a_reader_sees(path) != before
                except CacheError:
                    is_changed = True
                changed += is_changed
                assert verified(path) != is_changed
                if seed % 50 == 0:
                    assert pipeline("cache", "verify", path).code == int(is_changed)
                if is_changed:
                    tried = random.Random(seed).sample(list(READINGS), size(quick=1, full=len(READINGS)))
                    assert [name for name in tried if not refuses_to_read(path, READINGS[name])] == []
        assert changed > on_trial.trials / 2  # the damage does not lie in padding alone
