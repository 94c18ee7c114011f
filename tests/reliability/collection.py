"""A cache of photos that have changed since, and what an undisturbed run makes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import fake_backbone
import pytest

import pipeline.extraction.encoder as network_room
from pipeline.cache import FeatureCache

LAYERS = ["penultimate", "early"]


@dataclass
class Collection:
    """Ten photos whose cache lacks a layer, five of them changed or new: growing it takes every road there is.

    Attributes
    ----------
    photos : Path
    before : Path
        The folder of caches as it was before the photos changed.
    expected : FeatureCache
        What an undisturbed run makes of it.
    """

    photos: Path
    before: Path
    expected: FeatureCache
    run: fake_backbone.Extractor
    scratch: Path
    count: int = 0

    @contextmanager
    def caches(self, *, empty: bool = False) -> Iterator[Path]:
        """Give a fresh copy of the folder of caches, or a place where there is none yet; it is removed afterwards."""
        self.count += 1
        folder = self.scratch / str(self.count)
        if not empty:
            shutil.copytree(self.before, folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def resume(self, caches: Path) -> list[int]:
        """Run again, undisturbed: all is as it was to be, and nothing is left over. Return what the network saw."""
        self.run.folder = caches
        cache = self.run(self.photos, layer=LAYERS, batch_size=2, n_jobs=1)
        summary = cache.summary
        assert summary.images == summary.stored + summary.reused + summary.failed
        fake_backbone.assert_equal(cache, self.expected)
        # The empty lock of a cache that another run has removed may stay for a while.
        assert {entry.name for entry in caches.iterdir() if entry.suffix != ".lock"} == {cache.path.name}
        return self.run.network.seen

    def assert_resumed(self, caches: Path) -> None:
        """A broken run has left nothing wrong, and the next one completes it without computing a row that counted."""
        counted = fake_backbone.assert_nothing_wrong(caches) if caches.exists() else {}
        seen = self.resume(caches)
        kept = {
            number for path, numbers in counted.items() if path.name == self.expected.path.name for number in numbers
        }
        assert not kept & set(seen), "a row that counted was computed again"


@contextmanager
def in_memory() -> Iterator[Path]:
    """Give a folder that is removed afterwards, in memory where the system has such: thousands of fsyncs wait long."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="reliability-") as folder:
        yield Path(folder)


@contextmanager
def collection() -> Iterator[Collection]:
    """Give the collection; the planted network stands in for the real one as long as it is open."""
    with in_memory() as root, pytest.MonkeyPatch.context() as patch:
        photos, before = fake_backbone.folder_of(root / "photos", range(10)), root / "before"
        network = fake_backbone.Planted()
        patch.setattr(network_room, "open_runtime", network)
        run = fake_backbone.Extractor(network, before)
        run(photos, layer="penultimate")
        fake_backbone.folder_of(photos, range(40, 42))
        fake_backbone.put(photos / "c0" / "00002.png", 2, side=8)  # edited
        fake_backbone.touch(photos / "c0" / "00008.png")
        (photos / "c0" / "00004.png").rename(photos / "c1" / "00004.png")
        (photos / "c0" / "00006.png").unlink()
        fake_backbone.put(photos / "c1" / "00101.png", b"broken")
        run.folder = Path(shutil.copytree(before, root / "expected"))
        expected = run(photos, layer=LAYERS)
        (root / "scratch").mkdir()
        yield Collection(photos, before, expected, run, root / "scratch")


def order(collection: Collection, caches: Path) -> dict[str, object]:
    """Return what a child of a fork_server needs to be told, beside how it is to fail."""
    return {"photos": collection.photos, "caches": caches, "layers": LAYERS}
