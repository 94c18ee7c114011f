"""Small cache files of known content, and ways to damage them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import CacheLock, CacheWriter, FeatureCache, create_cache
from pipeline.cache.reader import read_header
from pipeline.errors import SkipReason

IDS = ["a/1.png", "a/2 two.png", "b/3 é.png", "b/4.png", "c/5.png", "c/6.png"]
N = len(IDS)
STAT = np.stack([np.arange(N) + 100, np.arange(N) + 1_700_000_000_000_000_000], axis=1)
COLUMNS = {"label": ["a", "a", "b", "b", "c", None], "where": ["", "Größe", "蜂", None, "x", "y"]}
LAYERS = {"penultimate": 5, "blocks.3/conv": 3}
PROVENANCE = {"recipe": {"backbone": "planted", "store": "fp32"}, "place": "/photos", "source": "photos"}
ALWAYS = ["digest", "ids", "labels/label", "labels/where", "stat", "status"]
WHEN_STORED = ["features/blocks.3%2Fconv", "features/penultimate", "pixel_statistics"]
ROW_DATASETS = [*ALWAYS, *WHEN_STORED, "crc32"]
STATUS = np.array([1, 1, 1, SkipReason.EMPTY, 1, 1], np.uint8)


def values() -> dict[str, Any]:
    """What the rows of the cache made by `filled` hold."""
    features = {
        name: np.arange(N * width, dtype=np.float32).reshape(N, width) + width for name, width in LAYERS.items()
    }
    return {
        "status": STATUS,
        "digest": np.arange(N * 16, dtype=np.uint8).reshape(N, 16),
        "stat": STAT,
        "statistics": np.arange(N * 12, dtype=np.float32).reshape(N, 12) / 7,
        "features": features,
    }


def empty(path: Path, **changes: Any) -> Path:
    given = {"ids": IDS, "stat": STAT, "columns": COLUMNS, "layers": LAYERS, "store": "fp32", "provenance": PROVENANCE}
    create_cache(path, **{**given, **changes})
    return path


def filled(path: Path, rows: np.ndarray | None = None, **changes: Any) -> Path:
    empty(path, **changes)
    rows = np.arange(N) if rows is None else rows
    with CacheLock.exclusive(path) as lock, CacheWriter(FeatureCache.open(path), lock) as writer:
        writer.write(rows, **taken(values(), rows))
    return path


def taken(held: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    return {name: taken(value, rows) if isinstance(value, Mapping) else value[rows] for name, value in held.items()}


def flip(path: Path, name: str, row: int, byte: int = 0, mask: int = 0xFF) -> None:
    """Damage one byte of one row of a dataset."""
    field = read_header(path).fields[name]
    with open(path, "r+b") as file:
        file.seek(field.offset + row * field.row_bytes + byte)
        found = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([found ^ mask]))


def outside_datasets(path: Path) -> bytes:
    """Return the file's bytes with those of every dataset blanked: HDF5's own metadata."""
    content = bytearray(path.read_bytes())
    for field in read_header(path, provenance={}).fields.values():
        content[field.offset : field.end] = bytes(field.end - field.offset)
    return bytes(content)
