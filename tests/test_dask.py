"""A Dask cluster does what this machine does: the same features, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fake_backbone
import numpy as np
import pytest
from commands import refused
from fake_backbone import features_of, number_of
from made_caches import blobs, make_cache, names
from sklearn.naive_bayes import GaussianNB

import pipeline.extraction.encode as encode
from pipeline.errors import PipelineError
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.images import ImageSource
from pipeline.parallel import on_cluster, workers

pytest.importorskip("distributed")

COUNT = 96
PATIENCE = 300.0
HERE = Path(__file__).parent


class Cluster:
    """A scheduler and its workers, each a process of its own, over TCP on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
            "DASK_DISTRIBUTED__DASHBOARD__LINK": "",
        }
        self.processes: list[subprocess.Popen] = []
        place = folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", place)
        wait_for(lambda: place.exists() and place.stat().st_size > 0)
        import json

        self.address = json.loads(place.read_text())["address"]
        for number in (0, 1):
            self._start(
                *("worker", self.address, "--nthreads", "1", "--nworkers", "1", "--no-nanny", "--no-dashboard"),
                *("--name", str(number), "--local-directory", folder, "--death-timeout", "60"),
            )

    def _start(self, *words: object) -> None:
        command = [sys.executable, "-m", "dask", *map(str, words)]
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=self.folder)
            )

    def kill_a_worker(self) -> None:
        self.processes[1].send_signal(signal.SIGKILL)
        self.processes[1].wait()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def wait_for(condition: object) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)


def plant(notes: str, slowness: float) -> None:
    """Put the planted network in the place of the real one, in whatever process this runs."""
    import pipeline.extraction.encoder as network_room

    class Noting(fake_backbone.PlantedRuntime):
        def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
            found = super().__call__(pixels)
            for number in self.seen[-len(pixels) :]:
                Path(notes, f"{number}-{os.getpid()}").touch()
            return found

    def open_runtime(_: object, layers: list[str], **__: object) -> fake_backbone.PlantedRuntime:
        return Noting({layer: fake_backbone.WIDTHS[layer] for layer in layers}, slowness=slowness)

    network_room.open_runtime = open_runtime  # type: ignore[assignment]
    network_room._networks.clear()


class Noted(GaussianNB):
    """Leaves a note of the process that it was fitted in."""

    def __init__(self, folder: str = "") -> None:
        super().__init__()
        self.folder = folder

    def fit(self, X: np.ndarray, y: np.ndarray) -> Noted:
        Path(self.folder, str(os.getpid())).touch()
        return super().fit(X, y)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture
def small_spans(monkeypatch) -> None:
    monkeypatch.setattr(encode, "BATCHES_PER_SPAN", 2)
    monkeypatch.setattr(encode, "SPANS_PER_WAVE", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("small_spans")
def test_a_worker_killed_half_way_loses_nothing(cluster, tmp_path, monkeypatch):
    from distributed import Client

    import pipeline.extraction.encoder as network_room

    photos, notes = fake_backbone.folder_of(tmp_path / "photos", range(COUNT)), tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setattr(network_room, "open_runtime", fake_backbone.Planted())
    with Client(cluster.address) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        client.run(plant, str(notes), 0.02)

    def kill_half_way() -> None:
        wait_for(lambda: len(list(notes.iterdir())) > COUNT // 4)
        cluster.kill_a_worker()

    killer = threading.Thread(target=kill_half_way)
    killer.start()
    cache = extract(
        photos, backbone=fake_backbone.backbone(), cache=tmp_path / "caches", batch_size=4, dask=cluster.address
    )
    killer.join()
    numbers = [number_of(name) for name in cache.ids]
    assert numbers and len(cache) == COUNT and not cache.skipped
    assert np.array_equal(cache.features(), features_of(numbers, "penultimate"))
    who = {path.name.partition("-")[2] for path in notes.iterdir()}
    assert len(who) == 2, "both workers had a share before one was killed"
    one = extract(photos, backbone=fake_backbone.backbone(), cache=tmp_path / "alone")
    assert one.features_key == cache.features_key
    assert one.features().tobytes() == cache.features().tobytes()
    assert one.pixel_statistics().tobytes() == cache.pixel_statistics().tobytes()


@pytest.mark.slow
def test_the_real_network_gives_the_same_features_on_the_cluster(cluster, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 64, 64, 3), np.uint8)
    source = ImageSource.open(images)
    here = extract(source, cache=tmp_path / "here")
    there = extract(source, cache=tmp_path / "there", dask=cluster.address)
    assert there.ids == here.ids and there.recipe == here.recipe
    assert np.abs(there.features() - here.features()).max() <= 1e-5 * np.abs(here.features()).max()


@pytest.mark.slow
def test_evaluation_takes_the_cluster_too(cluster, tmp_path):
    X, y = blobs(2100, d=6)
    made = make_cache(tmp_path / "a.h5", X, {"kind": names(y)})
    (tmp_path / "fitted").mkdir()
    options = {"heads": ["knn", Noted(str(tmp_path / "fitted"))], "grid": ["knn.n_neighbors=1,5"], "cv": 3}
    here = evaluate(str(made.path), **options, n_jobs=1).leaderboard().drop(columns="seconds")
    assert {path.name for path in (tmp_path / "fitted").iterdir()} == {str(os.getpid())}
    there = evaluate(str(made.path), **options, dask=cluster.address).leaderboard().drop(columns="seconds")
    assert here.equals(there)
    assert {path.name for path in (tmp_path / "fitted").iterdir()} & {str(one.pid) for one in cluster.processes[1:]}


def test_without_a_cluster_work_stays_here():
    assert not on_cluster()
    assert workers(3) == 3


def test_a_scheduler_that_does_not_answer_is_said(monkeypatch, tmp_path):
    import pipeline.parallel as parallel

    monkeypatch.setattr(parallel, "SECONDS_TO_CONNECT", 0.5)
    fake_backbone.folder_of(tmp_path / "photos", range(2))
    said = refused("extract", tmp_path / "photos", "--cache", tmp_path / "caches", "--dask", "tcp://127.0.0.1:9")
    assert said[0].startswith("--dask tcp://127.0.0.1:9: expected a Dask scheduler, got none that answers")
    assert said[1] == "start one with `dask scheduler`, and give the address that it prints"


def test_workers_of_another_version_are_refused(monkeypatch):
    import pipeline.parallel as parallel

    class Strange:
        def wait_for_workers(self, *_: object, **__: object) -> None: ...

        def run(self, *_: object, **__: object) -> dict[str, object]:
            return {"tcp://1": parallel.package_version(), "tcp://2": ModuleNotFoundError("No module named 'pipeline'")}

    with pytest.raises(PipelineError) as caught:
        parallel._check_workers(Strange(), "tcp://0")
    assert "on the worker tcp://2, got none (No module named 'pipeline')" in caught.value.message
