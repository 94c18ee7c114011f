"""The cache in company: other writers, readers, users and a full disk."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_backbone
import h5py
import numpy as np
import pytest
from collection import LAYERS, Collection, collection, order
from fork_server import ForkServer

from pipeline.cache import STORED, FeatureCache
from pipeline.errors import CacheError
from pipeline.evaluation import evaluate
from pipeline.progress import Progress
from pipeline.runs import Run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

NOBODY = 65534


@pytest.fixture(scope="module")
def photos() -> Iterator[Collection]:
    with collection() as found:
        found.photos.parent.chmod(0o755)  # other users are to see it
        yield found


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("reports")) as found:
        yield found


def assert_one_clear_line(said: dict[str, Any], *words: str) -> None:
    """The run ended with an error of ours that says these words, and with what to do."""
    assert said["status"] == 0 and "error" in said, said
    assert "\n" not in said["message"] and said["next_step"], said
    for word in words:
        assert word in said["message"], said


def test_two_writers_never_do_damage(photos, fork_server, promise, size):
    # They start within a few milliseconds, and most meet.
    with promise(
        "two runs over the same photos at once: one completes the cache, the other does too or says in one line that "
        "another process is using it; nothing is damaged"
    ) as on_trial:
        refused = 0
        for seed in range(size(quick=6, full=200)):
            chance = random.Random(seed)
            with on_trial.trial(f"seed {seed}"), photos.caches(empty=chance.random() < 0.5) as caches:
                told = order(photos, caches)
                both = [fork_server.start(**told, slowness=chance.choice([0.0, 0.01, 0.1]), pause=0.001)]
                time.sleep(chance.choice([0.0, 0.01, 0.05]))
                both.append(fork_server.start(**told, slowness=chance.choice([0.0, 0.01, 0.1])))
                said = [child.wait() for child in both]
                losers = [one for one in said if "error" in one]
                assert len(losers) < 2, said
                for one in losers:
                    assert_one_clear_line(one, "another process is using this cache")
                refused += len(losers)
                photos.assert_resumed(caches)
        assert refused, "they never met"


def test_a_reader_sees_whole_rows_while_the_cache_is_written(photos, fork_server, promise, size):
    with promise(
        "a reader while the cache is written: every row that counts is whole and right, what is not complete is "
        "refused in one line"
    ) as on_trial:
        looks = 0
        for seed in range(size(quick=3, full=50)):
            with on_trial.trial(f"seed {seed}"), photos.caches(empty=seed % 2 == 0) as caches:
                child = fork_server.start(**order(photos, caches), slowness=0.01, pause=0.001)
                path = caches / photos.expected.path.name
                while not child.report.exists() or not child.report.read_bytes():
                    looks += path.exists() and look(path)
                    time.sleep(0.002)
                assert child.wait()["status"] == 0
                photos.assert_resumed(caches)
        assert looks, "the reader always came too late"


def look(path: Path) -> bool:
    """Check what a reader gets; return whether the cache was not complete."""
    with h5py.File(path) as file:
        stored = np.flatnonzero(file["status"][:] == STORED)
        numbers = [fake_backbone.number_of(name.decode()) for name in file["ids"][:][stored]]
        for layer in LAYERS:
            assert np.array_equal(file[f"features/{layer}"][:][stored], fake_backbone.features_of(numbers, layer))
    cache = FeatureCache.open(path)
    assert not cache.damaged().size
    try:
        assert np.array_equal(cache.features("early"), fake_backbone.features_of(photos_in(cache), "early"))
    except CacheError as error:
        assert "still pending" in error.message and "\n" not in error.message
        return True
    return False


def photos_in(cache: FeatureCache) -> list[int]:
    return [fake_backbone.number_of(cache.ids[row]) for row in cache.rows]


def test_a_folder_or_a_file_that_is_not_ours_is_told_in_one_line(photos, fork_server, promise):
    with promise(
        "a read-only folder, another user's folder, cache file or lock: a complete cache is read, anything else is one "
        "clear line, and nothing is changed"
    ) as on_trial:
        if os.getuid() != 0:
            pytest.skip("only root can become another user")
        with on_trial.trial("a complete cache in a read-only folder"), photos.caches() as caches:
            photos.resume(caches)
            for lock in caches.glob("*.lock"):
                lock.unlink()
            caches.chmod(0o555)
            before = content_of(caches)
            said = fork_server.run(**order(photos, caches), user=NOBODY)
            assert said["status"] == 0 and said["summary"]["reused"] == len(photos.expected.rows), said
            assert content_of(caches) == before
        with on_trial.trial("a cache to be grown in another user's folder"), photos.caches() as caches:
            before = content_of(caches)
            said = fork_server.run(**order(photos, caches), user=NOBODY)
            assert_one_clear_line(said, f"{caches}: expected to write a cache here, got Permission denied")
            assert content_of(caches) == before
        with on_trial.trial("no folder where none may be made"), photos.caches() as caches:
            said = fork_server.run(**order(photos, caches / "new"), user=NOBODY)
            assert_one_clear_line(said, f"{caches / 'new'}: expected to write a cache here, got Permission denied")
        with on_trial.trial("another user's file that we may not read"), photos.caches() as caches:
            photos.resume(caches)
            (path,) = caches.glob("*.h5")
            path.chmod(0o600)
            caches.chmod(0o777)
            before = content_of(caches)
            said = fork_server.run(**order(photos, caches), user=NOBODY)
            assert_one_clear_line(said, f"{path}: expected to read the cache, got no permission")
            assert content_of(caches) == before
        with (
            on_trial.trial("another user's incomplete file that we may not write"),
            photos.caches() as caches,
        ):
            photos.resume(caches)
            (path,) = caches.glob("*.h5")
            make_pending(path, row=3)
            caches.chmod(0o777)
            for lock in caches.glob("*.lock"):
                lock.unlink()
            before = content_of(caches, "*.h5")
            said = fork_server.run(**order(photos, caches), user=NOBODY)
            assert_one_clear_line(said, f"{path}: expected to write the cache, got Permission denied")
            assert content_of(caches, "*.h5") == before
        with on_trial.trial("another user's lock"), photos.caches() as caches:
            photos.resume(caches)
            (path,) = caches.glob("*.h5")
            make_pending(path, row=3)
            caches.chmod(0o777)
            path.chmod(0o666)
            path.with_name(path.name + ".lock").touch(mode=0o600)
            said = fork_server.run(**order(photos, caches), user=NOBODY)
            assert_one_clear_line(said, "Permission denied")
            photos.assert_resumed(caches)


def make_pending(path: Path, row: int) -> None:
    from cachefiles import flip

    flip(path, "status", row, mask=int(FeatureCache.open(path).status[row]))


def content_of(folder: Path, names: str = "*") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(names)}


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Give a file system of its own; skip where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if not sys.platform.startswith("linux") or shutil.which("mount") is None or os.getuid() != 0:
        pytest.skip("a small file system is mounted by root on Linux alone")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line(photos, fork_server, tmp_path, promise):
    needed = photos.expected.path.stat().st_size
    with promise(
        "a disk too small for the cache (a real one of a few kilobytes): one clear line with what is needed, nothing "
        "left behind"
    ) as on_trial:
        for share in (0.1, 0.5, 0.9):
            with on_trial.trial(share), small_disk(tmp_path / str(share), int(needed * share) >> 10) as disk:
                said = fork_server.run(**order(photos, disk / "caches"))
                assert_one_clear_line(said, f"{disk}/caches: expected 0 MB for the cache, got ")
                assert not list((disk / "caches").glob("*.h5*")) and not list((disk / "caches").glob(".*"))
    with (
        promise(
            "a disk that others fill while the cache is written: its space was reserved, so it is completed"
        ) as on_trial,
        on_trial.trial(),
        small_disk(tmp_path / "filled", (needed >> 10) + 300) as disk,
    ):
        child = fork_server.start(**order(photos, disk / "caches"), slowness=0.02)
        while not list(disk.glob("caches/*.h5")):
            time.sleep(0.002)
        with open(disk / "more", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1 << 14))
        said = child.wait()
        assert said["status"] == 0 and "error" not in said, said
        photos.assert_resumed(disk / "caches")
    text = "a limit on the size of files: one clear line, nothing left behind, the next run completes it"
    with promise(text) as on_trial:
        for share in (0.1, 0.5, 0.9):
            with on_trial.trial(share), photos.caches() as caches:
                before = content_of(caches, "*.h5")
                said = fork_server.run(**order(photos, caches), largest_file=int(needed * share))
                assert_one_clear_line(said, "expected 0 MB for the cache, got File too large")
                assert content_of(caches, "*.h5") == before
                photos.assert_resumed(caches)


class _Update(Progress):
    """Add photos and extract again, once some of an evaluation is done."""

    def __init__(self, photos: Path, run: fake_backbone.Extractor) -> None:
        self.photos, self.run, self.made = photos, run, ""

    def advance(self, stage: str, done: int, total: int) -> None:
        if not self.made and 0 < done < total:
            fake_backbone.folder_of(self.photos, range(200, 220))
            self.made = self.run(self.photos, layer="early").path.name


def test_an_update_during_a_grid_search_leaves_the_search_its_own_generation(tmp_path, run, promise, size):
    with promise(
        "photos are added and extracted again while a grid search runs: the search ends right, on the generation it "
        "began with, which goes when nobody reads it"
    ) as on_trial:
        for n_jobs in size(quick=(1,), full=(1, 2)):
            with on_trial.trial(f"{n_jobs} jobs"):
                photos = fake_backbone.folder_of(tmp_path / f"photos{n_jobs}", range(40))
                run.folder = tmp_path / f"caches{n_jobs}"
                old = run(photos, layer="early").path
                undisturbed = search(FeatureCache.open(old), n_jobs)
                update = _Update(photos, run)
                found = search(FeatureCache.open(old), n_jobs, progress=update)
                assert update.made and update.made != old.name
                assert scores(found) == scores(undisturbed) and found.predictions.equals(undisturbed.predictions)
                assert sorted(run.caches()) == sorted([old.name, update.made])  # held by the search
                assert len(run(photos, layer="early")) == 60
                assert run.caches() == [update.made]


def search(cache: FeatureCache, n_jobs: int, **options: Any) -> Run:
    grid = {"logistic.C": [0.01, 1.0], "knn.n_neighbors": [1, 3]}
    return evaluate(cache, heads=["logistic", "knn"], grid=grid, cv=3, n_jobs=n_jobs, **options)


def scores(run: Run) -> list[tuple[Any, ...]]:
    return [(one.head, one.scoring, one.mean, one.low, one.high, one.params) for one in run.results]
