"""The cache when the power fails."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cachefiles
import fake_backbone
import numpy as np
import pytest
from collection import Collection, collection, order
from fault_process import FAIL
from fork_server import ForkServer
from power import Disk, Entry, read_log

from pipeline.cache import STORED, FeatureCache
from pipeline.cache.reader import valid_rows

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ROADS = ("made", "grown", "mended")


@pytest.fixture(scope="module")
def photos() -> Iterator[Collection]:
    with collection() as found:
        yield found


def set_out(photos: Collection, road: str, caches: Path) -> None:
    """Lay into `caches` what there is before the run."""
    if road == "grown":
        shutil.copytree(photos.before, caches)
    if road == "mended":
        path = shutil.copytree(photos.expected.path.parent, caches) / photos.expected.path.name
        for row, name in ((1, "features/early"), (4, "digest"), (7, "ids")):
            cachefiles.flip(path, name, row)
        for row in (2, 5, 6):
            cachefiles.flip(path, "status", row, mask=int(FeatureCache.open(path).status[row]))  # pending


def logged(
    fork_server: ForkServer, photos: Collection, road: str, folder: Path, **how: object
) -> tuple[list[Entry], str]:
    """Return what a run does to the disk, and its calls, each by its kind; `how` is how the system fails it."""
    folder.mkdir()
    set_out(photos, road, folder / "caches")
    log = folder.with_suffix(".log")
    told = {"watched": str(folder), "log": str(log), "blocks_a_sync": 2}
    said = fork_server.run(**order(photos, folder / "caches"), **told, **how)
    assert said["code"] == (1 if how else 0) and said["status"] == 0, said
    return read_log(log), said["calls"]


def acknowledged(log: list[Entry]) -> set[int]:
    """Return the rows of the new cache that the run took for safe."""
    return {row for entry in log if entry.kind == "X" for row in json.loads(entry.path)["rows"]}


@contextmanager
def power_fails(photos: Collection, road: str, folder: Path, log: list[Entry], chance: random.Random) -> Iterator[Path]:
    """Give the folder of caches as the disk has it if the power fails after the calls in the log."""
    with photos.caches(empty=True) as before, photos.caches(empty=True) as after:
        set_out(photos, road, before)
        disk = Disk(folder / "caches", before if before.exists() else None)
        for entry in log:
            disk.play(entry)
        disk.after(chance, after)
        yield after


def assert_survived(photos: Collection, caches: Path, rows: set[int], *, may_be_damaged: bool) -> None:
    """The rows are there; no row that counts is wrong; the next run completes it and infers none of them again."""
    safe = {photos.expected.ids[row] for row in rows}
    path = caches / photos.expected.path.name
    assert path.exists() or not rows
    for one in caches.glob("*.h5"):
        cache = FeatureCache.open(one)
        assert may_be_damaged or not cache.damaged().size, one
        counts = valid_rows(cache.header.take(slice(None)))
        if one == path:
            assert safe <= {cache.ids[row] for row in np.flatnonzero(counts)}
        stored = np.flatnonzero(counts & (cache.status == STORED))
        numbers = [fake_backbone.number_of(cache.ids[row]) for row in stored]
        for layer in cache.layers:
            assert np.array_equal(cache.header.features(layer)[stored], fake_backbone.features_of(numbers, layer)), (
                layer
            )
    seen = photos.resume(caches)
    assert not {fake_backbone.number_of(name) for name in safe} & set(seen), (
        "a row that was acknowledged is computed again"
    )


def test_a_power_failure_at_any_moment_loses_no_acknowledged_row(photos, shaken, tmp_path, promise, size):
    with promise(
        "the power fails at any moment, and of what was written since the last fsync any sectors are missing or old: "
        "the cache opens, acknowledged rows are there, no other row counts that is not whole, the next run completes it"
    ) as on_trial:
        logs = {road: logged(shaken(), photos, road, tmp_path / road)[0] for road in ROADS}
        assert all(acknowledged(log) for log in logs.values())
        for seed in range(size(quick=45, full=1002)):
            chance, road = random.Random(seed), ROADS[seed % len(ROADS)]
            # Half of them right before a sync, where most is at stake.
            syncs = [at for at, entry in enumerate(logs[road]) if entry.kind == "S"]
            log = logs[road][: chance.choice([chance.randint(0, len(logs[road])), chance.choice(syncs)])]
            with (
                on_trial.trial(f"seed {seed}, {road}, after {len(log)} of {len(logs[road])} calls"),
                power_fails(photos, road, tmp_path / road, log, chance) as after,
            ):
                # Mending writes where rows lie: until it is synced they are damaged as before, or pending.
                assert_survived(photos, after, acknowledged(log), may_be_damaged=road == "mended")


def test_a_power_failure_after_a_failed_sync_loses_no_acknowledged_row(photos, shaken, tmp_path, promise, size):
    with promise(
        "an fsync fails and what it was to write is lost, although the system goes on showing it; then the power "
        "fails: acknowledged rows are there, the next run completes the cache"
    ) as on_trial:
        for road in ("made", "grown"):
            calls = logged(shaken(), photos, road, tmp_path / f"{road}-undisturbed")[1]
            syncs = [at for at, kind in enumerate(calls, start=1) if kind == "S"]
            for at in syncs[:: size(quick=4, full=1)]:
                folder = tmp_path / f"{road}-{at}"
                log, _ = logged(shaken(), photos, road, folder, at=at, action=FAIL, error=errno.EIO, kinds="S")
                for seed in range(size(quick=2, full=20)):
                    with (
                        on_trial.trial(f"{road}, sync at call {at}, seed {seed}"),
                        power_fails(photos, road, folder, log, random.Random(seed)) as after,
                    ):
                        assert_survived(photos, after, acknowledged(log), may_be_damaged=False)
