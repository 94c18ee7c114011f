"""Photos that say which photo they are, and a runtime whose features say which photo they saw."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from pipeline.backbone import Backbone
from pipeline.cache import STORED, FeatureCache
from pipeline.extraction import extract
from pipeline.provenance import Preprocessing

# Small, so that a test of a hundred photos takes no time; `REAL` is what the bundled weights want.
SMALL = Preprocessing(16, 16, "bilinear", True, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), 255.0)
REAL = Backbone.open().preprocessing
WIDTHS = {"early": 40, "middle": 480, "late": 192, "penultimate": 1280}

# Four flat quarters of three colours, each of four levels that no resize mistakes for one another: 24 bits.
_LEVELS = 85
_CELLS = 12

_clock = itertools.count(1_700_000_000)


def backbone(**changes: Any) -> Backbone:
    """Return the bundled backbone with a preprocessing that costs nothing."""
    return replace(Backbone.open(), **{"preprocessing": SMALL, **changes})


def photo(number: int, side: int = 16) -> Image.Image:
    """Return the photo that says `number`."""
    cells = np.array([number >> 2 * place & 3 for place in range(_CELLS)], np.uint8).reshape(2, 2, 3) * _LEVELS
    return Image.fromarray(cells.repeat(side // 2, axis=0).repeat(side // 2, axis=1))


def put(path: Path, number: int | bytes, side: int = 16) -> Path:
    """Write a photo, or any bytes, with a modification time that no other file has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(number, bytes):
        path.write_bytes(number)
    else:
        photo(number, side).save(path, "PNG")
    touch(path)
    return path


def touch(path: Path) -> None:
    """Give the file a modification time that no other file has."""
    moment = next(_clock) * 1_000_000_000
    os.utime(path, ns=(moment, moment))


def folder_of(root: Path, numbers: Sequence[int], classes: int = 2, side: int = 16) -> Path:
    """Write photos into class folders; the one that says n is ``c{n % classes}/{n:05d}.png``."""
    for number in numbers:
        put(root / f"c{number % classes}" / f"{number:05d}.png", number, side)
    return root


def numbers_in(pixels: np.ndarray) -> np.ndarray:
    """Return what prepared photos say, uint8 (b, h, w, 3) -> int64 (b,)."""
    height, width = pixels.shape[1:3]
    rows, columns = [height // 4, 3 * height // 4], [width // 4, 3 * width // 4]
    cells = np.rint(pixels[:, rows][:, :, columns] / _LEVELS).astype(np.int64).reshape(len(pixels), _CELLS)
    return (cells << 2 * np.arange(_CELLS)).sum(axis=1)


def features_of(numbers: Sequence[int] | np.ndarray, layer: str, width: int | None = None) -> np.ndarray:
    """Return the features of photos that say these numbers, float32 (k, width)."""
    width = width or WIDTHS[layer]
    start = np.asarray(numbers, np.float64)[:, None] / 64 + len(layer)
    return (start + np.arange(width) / 4096).astype(np.float32)


def number_of(image_id: str) -> int:
    """Return what the photo of an id says, where the id was made by `folder_of`."""
    return int(Path(image_id).stem)


class PlantedRuntime:
    """A network whose features are the number that the photo says.

    Parameters
    ----------
    layers : dict of layer name to width
    slowness : float
        Seconds an image.
    spoilt : set of int
        Photos for which it answers with something that is not finite.
    """

    name = "planted"
    version = "1"
    batch_size = 4

    def __init__(self, layers: dict[str, int], *, slowness: float = 0.0, spoilt: Sequence[int] = ()) -> None:
        self.layers = layers
        self.slowness = slowness
        self.spoilt = np.array(sorted(spoilt), np.int64)
        self.seen: list[int] = []
        self.batches: list[int] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def workers(self, count: int) -> Iterator[None]:
        yield

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        numbers = numbers_in(pixels)
        if self.slowness:
            time.sleep(self.slowness * len(numbers))
        with self._lock:
            self.seen += numbers.tolist()
            self.batches.append(len(numbers))
        answer = {layer: features_of(numbers, layer, width) for layer, width in self.layers.items()}
        for values in answer.values():
            values[np.isin(numbers, self.spoilt), -1] = np.nan
        return answer


class Planted:
    """Stands where `open_runtime` stood, and remembers what every runtime it opened has seen."""

    def __init__(self) -> None:
        self.opened: list[PlantedRuntime] = []
        self.spoilt: Sequence[int] = ()
        self.slowness = 0.0

    def __call__(self, backbone: Backbone, layers: Sequence[str], **_: Any) -> PlantedRuntime:
        widths = {layer: WIDTHS[layer] for layer in layers}
        self.opened.append(PlantedRuntime(widths, slowness=self.slowness, spoilt=self.spoilt))
        return self.opened[-1]

    @property
    def seen(self) -> list[int]:
        return [number for runtime in self.opened for number in runtime.seen]

    def forget(self) -> None:
        self.opened.clear()


class Extractor:
    """`extract` with the planted network into one folder of caches; forgets what the network saw before."""

    def __init__(self, network: Planted, folder: Path) -> None:
        self.network, self.folder = network, folder

    def __call__(self, data: Any, **options: Any) -> FeatureCache:
        self.network.forget()
        # What a recheck computes once more would stand among what the network has seen.
        return extract(data, **{"backbone": backbone(), "cache": self.folder, "recheck": 0, **options})

    def caches(self) -> list[str]:
        """Return the names of the cache files, sorted."""
        return sorted(path.name for path in self.folder.glob("*.h5"))


def assert_planted(cache: FeatureCache, failed: Sequence[str] = ()) -> None:
    """Every image's features say which image it is, and the counts add up."""
    summary = cache.summary
    assert summary.images == len(cache) == summary.stored + summary.reused + summary.failed
    assert sorted(cache.skipped) == sorted(failed)
    numbers = [number_of(cache.ids[row]) for row in cache.rows]
    for layer in cache.layers:
        found = cache.features(layer)
        assert np.array_equal(found, features_of(numbers, layer).astype(found.dtype))


def assert_nothing_wrong(caches: Path) -> dict[Path, list[int]]:
    """Every file opens with plain h5py, and every row that counts is the right one; return what the rows say."""
    counted = {}
    for path in caches.glob("*.h5"):
        with h5py.File(path) as file:
            stored = file["status"][:] == STORED
            numbers = [number_of(name.decode()) for name in file["ids"][:][stored]]
            for layer, dataset in file["features"].items():
                assert np.array_equal(dataset[:][stored], features_of(numbers, layer)), (path, layer)
        assert not FeatureCache.open(path).damaged().size, path
        counted[path] = numbers
    return counted


def assert_equal(found: FeatureCache, expected: FeatureCache) -> None:
    """Two caches hold the same bits in every row."""
    assert found.path.name == expected.path.name
    assert found.header.row_fields == expected.header.row_fields
    for name in found.header.row_fields:
        assert np.array_equal(found.header.map(name), expected.header.map(name)), name
