"""Processes that decode for a network on a GPU give what threads give, bit for bit, whatever becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pandas as pd
import pytest
from fake_backbone import Planted, PlantedRuntime, assert_equal
from joblib import Parallel, delayed
from joblib.externals.loky import reusable_executor
from joblib.externals.loky.process_executor import _ExecutorManagerThread
from PIL import Image
from tars import write_tar

import pipeline.extraction.api as extraction_room
import pipeline.extraction.encode as blocks_room
import pipeline.extraction.encode as encode
import pipeline.extraction.encoder as network_room
from pipeline.cache import STORED, FeatureCache
from pipeline.errors import BackboneError, PipelineError, SkipReason
from pipeline.extraction import EncodedBatch, LazyNetwork, iter_batches
from pipeline.extraction.encode import BATCHES_PER_DECODER
from pipeline.extraction.job import ExtractionStats
from pipeline.extraction.reuse import DigestIndex
from pipeline.images import ImageSource

pytestmark = pytest.mark.slow

ROADS: list[str] = []


@pytest.fixture(autouse=True)
def gpu(monkeypatch) -> Planted:
    """A planted network that says it is on a GPU, and roads that leave a note when they are taken."""
    opened = Planted()
    monkeypatch.setattr(network_room, "devices_of", lambda device: ["cuda"])
    monkeypatch.setattr(network_room, "open_runtime", opened)
    monkeypatch.setattr(blocks_room, "WORTH_DECODERS", 9)
    monkeypatch.setattr(blocks_room, "THREADS_ENOUGH", 1)
    ROADS.clear()
    for road in ("iter_batches_decoders", "iter_batches_threaded"):
        monkeypatch.setattr(blocks_room, road, _noted(road, getattr(blocks_room, road)))
    return opened


def _noted(name: str, road: Any) -> Any:
    def taken(*given: Any, **options: Any) -> Any:
        ROADS.append(name.removeprefix("iter_batches_"))
        return road(*given, **options)

    return taken


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ImageSource:
    return ImageSource.open(fake_backbone.folder_of(tmp_path_factory.mktemp("decoders"), range(60)))


@pytest.fixture
def notes(tmp_path, monkeypatch) -> Path:
    """A folder in which processes leave notes, which its name in the environment leads them to."""
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def network(folder: Path) -> LazyNetwork:
    return LazyNetwork(fake_backbone.backbone(), ["early"], graphs=folder / "graphs")


def blocks_of(source: ImageSource, folder: Path, **options: Any) -> list[EncodedBatch]:
    given = {"batch_size": 4, "n_jobs": 2, **options}
    with iter_batches(source, range(len(source)), network(folder), fake_backbone.SMALL, **given) as blocks:
        return list(blocks)


def rows_of(blocks: list[EncodedBatch]) -> dict[int, tuple]:
    """Return all that blocks say of each row, and that no row comes twice."""
    said = {}
    for block in blocks:
        for place, row in enumerate(block.rows.tolist()):
            assert row not in said
            values = (block.digest, block.stat, block.statistics, block.features["early"])
            bits = tuple(array[place].tobytes() for array in values)
            said[row] = (int(block.status[place]), int(block.known[place]), block.details.get(row), *bits)
    return said


def assert_each_once(source: ImageSource, blocks: list[EncodedBatch]) -> None:
    assert sorted(rows_of(blocks)) == list(range(len(source)))
    for block in blocks:
        numbers = [fake_backbone.number_of(source.ids[row]) for row in block.rows]
        assert (block.status == STORED).all()
        assert np.array_equal(block.features["early"], fake_backbone.features_of(numbers, "early"))


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Photos of many kinds: whole and broken ones, none at all, twice the same."""
    root = fake_backbone.folder_of(tmp_path_factory.mktemp("album"), range(12))
    chance = np.random.default_rng(0)
    for number in range(9):
        height, width = chance.integers(20, 90, 2)
        noise = Image.fromarray(chance.integers(0, 256, (height, width, 3), np.uint8))
        noise.save(root / "c0" / f"noise{number}.jpg", quality=80)
    whole = (root / "c0" / "noise3.jpg").read_bytes()
    fake_backbone.put(root / "c1" / "cut.jpg", whole[: len(whole) // 2])
    fake_backbone.put(root / "c1" / "copy.jpg", whole)
    fake_backbone.put(root / "c1" / "empty.png", b"")
    fake_backbone.put(root / "c1" / "text.png", b"no photo at all")
    return root


def sources(album: Path, folder: Path) -> dict[str, Any]:
    """Return the album as each kind of source."""
    paths = sorted(path for path in album.rglob("*") if path.is_file())
    names = [path.relative_to(album).as_posix() for path in paths]
    members = {name: path.read_bytes() for name, path in zip(names, paths, strict=True)}
    write_tar(folder / "a-0.tar", list(members.items())[:11])
    write_tar(folder / "a-1.tar", reversed(list(members.items())[11:]))
    pd.DataFrame({"path": names, "image": list(members.values())}).to_parquet(folder / "a.parquet", row_group_size=7)
    pd.DataFrame({"path": [*names, "c0/not there.png"]}).to_csv(folder / "a.csv", index=False)
    return {
        "folder": ImageSource.open(album),
        "tar": ImageSource.open(folder / "a-0.tar"),
        "shards": ImageSource.open([folder / "a-0.tar", folder / "a-1.tar"]),
        "parquet": ImageSource.open(folder / "a.parquet"),
        "table": ImageSource.open(folder / "a.csv", root=album),
    }


@pytest.mark.parametrize("kind", ["folder", "tar", "shards", "parquet", "table"])
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_what_processes_decode_is_what_threads_decode_bit_for_bit(album, tmp_path, gpu, monkeypatch, kind, decode):
    found = sources(album, tmp_path)[kind]
    by_decoders = blocks_of(found, tmp_path, decode=decode)
    monkeypatch.setattr(blocks_room, "WORTH_DECODERS", 1000)
    by_threads = blocks_of(found, tmp_path, decode=decode)
    assert ROADS == ["decoders", "threaded"]
    assert rows_of(by_decoders) == rows_of(by_threads)
    assert sorted(gpu.opened[0].batches) == sorted(gpu.opened[1].batches)
    status = {int(code) for block in by_decoders for code in block.status}
    assert kind == "tar" or status >= {STORED, SkipReason.EMPTY, SkipReason.NOT_AN_IMAGE}


def test_every_image_comes_once_from_few_blocks_and_from_many(source, tmp_path):
    for size in (1, 7, 60):
        assert_each_once(source, blocks_of(source, tmp_path, batch_size=size))
    assert ROADS == ["decoders"] * 3


def test_a_cache_made_by_processes_is_the_one_that_threads_make(album, tmp_path, gpu, monkeypatch):
    caches = []
    for worth, name in ((9, "by processes"), (1000, "by threads")):
        monkeypatch.setattr(blocks_room, "WORTH_DECODERS", worth)
        caches.append(fake_backbone.Extractor(gpu, tmp_path / name)(album, layer="early", n_jobs=2, batch_size=4))
    assert ROADS == ["decoders", "threaded"]
    assert_equal(*caches)
    assert caches[0].skipped == caches[1].skipped and caches[0].summary.failed == 3


@pytest.mark.parametrize("lack", ["no such call", "it is refused", "another process cannot open it"])
def test_the_pixels_travel_where_no_memory_can_be_shared(source, tmp_path, monkeypatch, lack):
    if lack == "no such call":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif lack == "it is refused":
        monkeypatch.setattr(os, "memfd_create", _refuse, raising=False)
    else:
        monkeypatch.setattr(os, "getpid", lambda: 0)
    assert_each_once(source, blocks_of(source, tmp_path))


def _refuse(name: str) -> int:
    raise PermissionError("not here")


def test_the_processes_never_import_torch_and_have_a_thread_each(source, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "_run_task", _look_around)
    assert_each_once(source, blocks_of(source, tmp_path))


def _look_around(task: encode._DecodeTask) -> Any:
    prepared = task.run()
    assert "torch" not in sys.modules and task.encoder.runtime is None
    assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert {signal.SIGINT, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert len(task.encoder.source) == len(task.rows) <= 4 and not len(prepared.pixels)
    return prepared


def test_what_is_known_by_content_is_not_decoded_though_its_cache_has_gone(source, tmp_path, gpu):
    cache = fake_backbone.Extractor(gpu, tmp_path / "caches")(source.take(range(20)), layer="early")
    known = DigestIndex([FeatureCache.open(cache.path)])
    cache.path.unlink()
    gpu.forget()
    blocks = blocks_of(source, tmp_path, known=known)
    assert {int(row) for block in blocks for row in block.rows[block.known >= 0]} == set(range(20))
    assert sorted(gpu.seen) == sorted(fake_backbone.number_of(name) for name in source.ids[20:])
    for block in blocks:
        for row, entry in zip(block.rows.tolist(), block.known.tolist(), strict=True):
            assert entry == (known.find(source.read(row).digest))


def test_where_all_is_known_no_network_is_loaded(source, tmp_path, gpu):
    run = fake_backbone.Extractor(gpu, tmp_path / "caches")
    run(source, layer="early", n_jobs=2)
    for name in source.ids:
        fake_backbone.touch(Path(source.reader.root) / name)
    again = run(ImageSource.open(source.reader.root), layer="early", n_jobs=2)
    assert (again.summary.reused, gpu.opened) == (60, [])
    assert ROADS == ["decoders", "decoders"]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("folder", {"n_jobs": 1}),
        ("array", {"n_jobs": 2}),
        ("photo-crops", {"n_jobs": 2}),
        ("few", {"n_jobs": 2}),
        ("worker", {"n_jobs": 2}),
    ],
)
def test_threads_are_enough_for(source, tmp_path, monkeypatch, data, options):
    found = source
    if data == "array":
        found = ImageSource.open(np.stack([np.asarray(fake_backbone.photo(number)) for number in range(12)]))
    elif data == "photo-crops":
        found = ImageSource.open("photo-crops").take(range(12))
    elif data == "few":
        found = source.take(range(8))
    elif data == "worker":
        monkeypatch.setattr(blocks_room, "parent_process", object)
    blocks_of(found, tmp_path, **options)
    assert ROADS == ["threaded"]


def test_a_process_killed_on_the_way_loses_nothing(source, tmp_path):
    with iter_batches(source, range(60), network(tmp_path), fake_backbone.SMALL, batch_size=2, n_jobs=2) as blocks:
        found = [next(blocks), next(blocks)]
        for worker in list(reusable_executor._executor._processes):
            os.kill(worker, signal.SIGKILL)
        found += blocks
    assert_each_once(source, found)


def test_a_process_that_dies_of_a_photo_and_not_of_it_again_loses_nothing(source, tmp_path, notes, monkeypatch):
    monkeypatch.setenv("TEST_NOTES", str(notes))
    monkeypatch.setattr(encode, "_run_task", _die_once)
    _new_processes()
    assert_each_once(source, blocks_of(source, tmp_path))
    assert len(list(notes.iterdir())) == 1


def _die_once(task: encode._DecodeTask) -> Any:
    if 30 in task.rows:
        try:
            (Path(os.environ["TEST_NOTES"]) / "died").touch(exist_ok=False)
        except FileExistsError:
            return task.run()
        os.kill(os.getpid(), signal.SIGKILL)
    return task.run()


def _new_processes() -> None:
    """End those of earlier runs, which have an earlier environment."""
    if reusable_executor._executor is not None:
        reusable_executor._executor.shutdown(kill_workers=True)


def test_processes_that_keep_dying_are_an_error_that_says_so(source, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "_run_task", _die)
    with pytest.raises(PipelineError, match="worker processes keep crashing"):
        blocks_of(source, tmp_path)


def _die(task: encode._DecodeTask) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_decodes_otherwise_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "decoder_of", lambda mode: "of another Pillow")
    with pytest.raises(PipelineError, match="expected workers that decode photos as this machine does"):
        blocks_of(source, tmp_path)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_whoever_leaves_early_leaves_nothing_running(source, tmp_path, monkeypatch, taken):
    with (
        monkeypatch.context() as slowly,
        iter_batches(source, range(60), network(tmp_path), fake_backbone.SMALL, batch_size=1, n_jobs=2) as blocks,
    ):
        slowly.setattr(encode, "_run_task", _slowly)
        for _ in range(taken):
            next(blocks)
        workers = list(reusable_executor._executor._processes.values()) if taken else []
    assert len(workers) == (2 if taken else 0) and not any(worker.is_alive() for worker in workers)
    assert_each_once(source, blocks_of(source, tmp_path))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_whoever_takes_the_blocks_comes_out(source, tmp_path, error):
    with (
        pytest.raises(error, match="mine"),
        iter_batches(source, range(60), network(tmp_path), fake_backbone.SMALL, batch_size=2, n_jobs=2) as blocks,
    ):
        next(blocks)
        raise error("mine")


def test_an_error_of_the_network_comes_out(source, tmp_path, monkeypatch):
    monkeypatch.setattr(PlantedRuntime, "__call__", _out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        blocks_of(source, tmp_path)


def _out_of_memory(self: PlantedRuntime, pixels: np.ndarray) -> Any:
    raise RuntimeError("out of memory")


def test_an_error_right_after_a_task_was_given_out_leaves_no_thread_in_trouble(source, tmp_path, monkeypatch):
    """loky's thread, asked to end before it has taken up a task, has failed with a KeyError."""
    infer, waited, calls = PlantedRuntime.__call__, _ExecutorManagerThread.wait_result_broken_or_wakeup, []

    def once(self: PlantedRuntime, pixels: np.ndarray) -> Any:
        calls.append(pixels)
        return infer(self, pixels) if len(calls) == 1 else _out_of_memory(self, pixels)

    def lagging(self: _ExecutorManagerThread) -> Any:
        told = waited(self)
        time.sleep(0.2)
        return told

    monkeypatch.setattr(PlantedRuntime, "__call__", once)
    monkeypatch.setattr(_ExecutorManagerThread, "wait_result_broken_or_wakeup", lagging)
    _new_processes()
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        iter_batches(source, range(60), network(tmp_path), fake_backbone.SMALL, batch_size=4, n_jobs=2) as blocks,
    ):
        next(blocks)
        while len(calls) < 2:  # the next block's error waits, and is met after the next task was given out
            time.sleep(0.5)
            next(blocks)


def test_a_network_that_cannot_be_loaded_is_tried_once(source, tmp_path, monkeypatch):
    tried = []

    def refuse(*given: Any, **options: Any) -> Any:
        tried.append(time.sleep(0.5))
        raise BackboneError("expected weights, got none", "find some")

    monkeypatch.setattr(network_room, "open_runtime", refuse)
    monkeypatch.setattr(encode, "_run_task", _slowly)
    with pytest.raises(BackboneError, match="expected weights, got none"):
        blocks_of(source, tmp_path)
    assert len(tried) == 1


def _slowly(task: encode._DecodeTask) -> Any:
    time.sleep(1.5)
    return task.run()


def test_no_more_blocks_pile_up_than_there_are_places(source, tmp_path, notes, monkeypatch):
    monkeypatch.setenv("TEST_NOTES", str(notes))
    monkeypatch.setattr(encode, "_run_task", _leave_a_note)
    _new_processes()
    with iter_batches(source, range(60), network(tmp_path), fake_backbone.SMALL, batch_size=1, n_jobs=2) as blocks:
        next(blocks)
        before = 0
        while before == 0 or before != len(list(notes.iterdir())):  # until nobody works any more
            before = len(list(notes.iterdir()))
            time.sleep(0.5)
        assert before <= 2 * BATCHES_PER_DECODER
        assert len(list(blocks)) == 59
    assert len(list(notes.iterdir())) == 60


def _leave_a_note(task: encode._DecodeTask) -> Any:
    (Path(os.environ["TEST_NOTES"]) / str(task.rows[0])).touch()
    return task.run()


def test_joblib_s_own_work_goes_before_after_and_between(source, tmp_path):
    for number in range(2):
        assert Parallel(n_jobs=2)(delayed(abs)(-one) for one in range(4)) == [0, 1, 2, 3], number
        assert_each_once(source, blocks_of(source, tmp_path))
    with iter_batches(source, range(60), network(tmp_path), fake_backbone.SMALL, batch_size=4, n_jobs=2) as blocks:
        found = [next(blocks)]
        assert Parallel(n_jobs=2)(delayed(abs)(-one) for one in range(4)) == [0, 1, 2, 3]
        found += blocks
    assert_each_once(source, found)


def test_shares_of_time_add_up_and_waiting_for_a_slow_network_is_the_network_s(source, tmp_path, gpu):
    gpu.slowness = 0.05
    summary = fake_backbone.Extractor(gpu, tmp_path / "slow")(source, layer="early", batch_size=2, n_jobs=2).summary
    assert ROADS == ["decoders"] and summary.time.network > summary.time.decode
    assert sum(asdict(summary.time).values()) == pytest.approx(1, abs=0.002)


def test_processes_that_wait_until_the_network_is_loaded_count_neither_for_it_nor_for_waiting(
    source, tmp_path, gpu, monkeypatch
):
    def slow_to_open(*given: Any, **options: Any) -> PlantedRuntime:
        time.sleep(3.0)
        return gpu(*given, **options)

    counts: list[ExtractionStats] = []
    monkeypatch.setattr(network_room, "open_runtime", slow_to_open)
    monkeypatch.setattr(extraction_room, "ExtractionStats", lambda: counts.append(ExtractionStats()) or counts[-1])
    blocks_of(source, tmp_path)  # so that the processes are there, and do their first blocks at once
    started = time.perf_counter()
    extract = fake_backbone.Extractor(gpu, tmp_path / "caches")
    extract(source, backbone=fake_backbone.backbone(), layer="early", batch_size=2, n_jobs=2)
    seconds = time.perf_counter() - started
    (found,) = counts
    assert 3.0 < found.timing.loading <= 2 * seconds  # both processes, as soon as all places were taken
    assert found.timing.network < found.timing.loading and found.timing.decode < found.working < 2 * seconds - 3.0


def test_shares_of_time_find_that_decoding_is_the_limit(tmp_path, gpu, monkeypatch):
    photos = ImageSource.open(fake_backbone.folder_of(tmp_path / "photos", range(12), side=2000))
    summary = fake_backbone.Extractor(gpu, tmp_path / "caches")(photos, layer="early", batch_size=2, n_jobs=2).summary
    assert ROADS == ["decoders"] and summary.time.decode > summary.time.network
    assert sum(asdict(summary.time).values()) == pytest.approx(1, abs=0.002)


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import fake_backbone
import pipeline.extraction.encode as blocks_room, pipeline.extraction.encoder as network_room
from pipeline.extraction import extract
network = fake_backbone.Planted()
network.slowness = 0.02
network_room.devices_of, network_room.open_runtime = (lambda device: ["cuda"]), network
blocks_room.WORTH_DECODERS = blocks_room.THREADS_ENOUGH = 1
extract({photos!r}, backbone=fake_backbone.backbone(), cache={caches!r}, layer="early", n_jobs=2, batch_size=4)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("ending", ["by itself", "by Ctrl-C"])
def test_a_run_ends_and_leaves_no_process_no_memory_and_no_warning(tmp_path, ending):
    photos = fake_backbone.folder_of(tmp_path / "photos", range(300 if ending == "by Ctrl-C" else 30))
    caches = tmp_path / "caches"
    script = SCRIPT.format(tests=str(Path(__file__).parent), photos=str(photos), caches=str(caches))
    shared = set(_shared())
    # Folders of its own for joblib: those in /dev/shm may be of tests that run at the same time.
    (tmp_path / "joblib").mkdir()
    environment = {**os.environ, "JOBLIB_TEMP_FOLDER": str(tmp_path / "joblib")}
    command = [sys.executable, "-W", "error", "-c", script]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    ) as process:
        if ending == "by Ctrl-C":
            give_up = time.monotonic() + 300
            while not any(FeatureCache.open(path).rows.size for path in caches.glob("*.h5")):
                assert time.monotonic() < give_up and process.poll() is None
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=300)[1]
    if ending == "by Ctrl-C":
        assert process.returncode in (-signal.SIGINT, 1) and said.rstrip().endswith("KeyboardInterrupt"), said
    else:
        assert process.returncode == 0 and not said, said
    assert "leaked" not in said and "Warning" not in said
    assert set(_shared()) <= shared
    assert not list((tmp_path / "joblib").iterdir())
    give_up = time.monotonic() + 300  # the trackers of resources end when they hear that their process has
    while found := _alive_in(process.pid):
        assert time.monotonic() < give_up, found
        time.sleep(0.05)
    (path,) = caches.glob("*.h5")
    assert not FeatureCache.open(path).damaged().size


def _alive_in(session: int) -> list[str]:
    """Return the processes of a session, without those that have ended and that nobody has asked about."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found.append((path.parent / "cmdline").read_text())
    return found


def _shared() -> list[str]:
    """Return the names in shared memory but joblib's folders, which the tested process has elsewhere."""
    folder = Path("/dev/shm")
    names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    return [name for name in names if not name.startswith("joblib_memmapping_folder_")]
