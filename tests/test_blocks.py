"""The engine: blocks of images through all cores, and out of it again whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fake_backbone
import numpy as np
import pytest
from fake_backbone import PlantedRuntime

from pipeline.cache import STORED
from pipeline.errors import PipelineError, SkipReason
from pipeline.extraction import EncodedBatch, iter_batches
from pipeline.extraction.encode import BATCHES_IN_FLIGHT
from pipeline.images import ImageSource

PATIENCE = 600.0  # seconds after which something hangs


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ImageSource:
    return ImageSource.open(fake_backbone.folder_of(tmp_path_factory.mktemp("blocks"), range(80)))


@pytest.fixture
def runtime() -> PlantedRuntime:
    return PlantedRuntime({"early": 40})


def within_patience(work: Callable[[], Any]) -> Any:
    """Return what `work` returns or raises, and fail if it hangs; it runs in a thread of its own."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(work())
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it hangs"
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


@contextmanager
def no_worker_stays(runtime: PlantedRuntime) -> Iterator[None]:
    """Nobody is inside the network any more when the context of `iter_batches` has been left."""
    inside = threading.Semaphore(0)
    whole = type(runtime).__call__

    class Watched(PlantedRuntime):
        def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
            inside.release()
            try:
                return whole(self, pixels)
            finally:
                inside.acquire()

    runtime.__class__ = Watched
    yield
    assert not inside.acquire(blocking=False), "a worker is still inside the network"


def all_of(source: ImageSource, runtime: PlantedRuntime, rows: Any = None, **options: Any) -> list[EncodedBatch]:
    rows = range(len(source)) if rows is None else rows
    with iter_batches(source, rows, runtime, fake_backbone.SMALL, **options) as blocks:
        return list(blocks)


@pytest.mark.parametrize("n_jobs", [None, 1, 2, 7, -1, -2])
@pytest.mark.parametrize("batch_size", [None, 1, 9, 1000])
def test_every_image_comes_once_with_its_own_features(source, runtime, n_jobs, batch_size):
    blocks = within_patience(lambda: all_of(source, runtime, n_jobs=n_jobs, batch_size=batch_size))
    rows = np.concatenate([block.rows for block in blocks])
    assert sorted(rows.tolist()) == list(range(80))
    assert max(map(len, blocks)) <= (batch_size or runtime.batch_size)
    for block in blocks:
        numbers = [fake_backbone.number_of(source.ids[row]) for row in block.rows]
        assert np.array_equal(block.features["early"], fake_backbone.features_of(numbers, "early"))
        assert (block.status == STORED).all() and block.inferred == len(block)


def test_only_the_rows_that_were_asked_for_are_read(source, runtime):
    wanted = [3, 77, 5, 6, 40]
    blocks = all_of(source, runtime, wanted, batch_size=2)
    assert sorted(row for block in blocks for row in block.rows) == sorted(wanted)
    assert sorted(runtime.seen) == sorted(fake_backbone.number_of(source.ids[row]) for row in wanted)
    assert all_of(source, runtime, []) == []


def test_failed_images_are_rows_with_a_reason_and_do_not_reach_the_network(tmp_path, runtime):
    photos = fake_backbone.folder_of(tmp_path, range(10))
    fake_backbone.put(photos / "c0" / "00004.png", b"")
    runtime.spoilt = np.array([7])
    source = ImageSource.open(photos)
    (block,) = all_of(source, runtime, batch_size=10)
    status = {
        fake_backbone.number_of(source.ids[row]): int(code) for row, code in zip(block.rows, block.status, strict=True)
    }
    assert {number: code for number, code in status.items() if code != STORED} == {
        4: SkipReason.EMPTY,
        7: SkipReason.NOT_FINITE,
    }
    assert (block.inferred, runtime.batches) == (9, [9])
    assert {fake_backbone.number_of(source.ids[row]): text for row, text in block.details.items()} == {
        4: "empty file",
        7: "the network returned a value that is not finite",
    }
    failed = block.select(block.status != STORED)
    assert not failed.features["early"].any()


def test_no_more_blocks_pile_up_than_there_are_places(source, runtime):
    with iter_batches(source, range(80), runtime, fake_backbone.SMALL, batch_size=1, n_jobs=2) as blocks:
        next(blocks)
        before = -1
        while before != len(runtime.seen):  # until nobody works any more
            before = len(runtime.seen)
            time.sleep(0.2)
        assert before <= 2 * BATCHES_IN_FLIGHT + 1
        assert len(list(blocks)) == 79


@pytest.mark.parametrize("n_jobs", [1, 2, 6])
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_whoever_leaves_early_is_let_go(source, runtime, n_jobs, taken):
    def leave() -> None:
        with iter_batches(source, range(80), runtime, fake_backbone.SMALL, batch_size=1, n_jobs=n_jobs) as blocks:
            for _ in range(taken):
                next(blocks)

    with no_worker_stays(runtime):
        within_patience(leave)
    assert len(runtime.seen) <= taken + n_jobs * BATCHES_IN_FLIGHT + 1


@pytest.mark.parametrize("n_jobs", [1, 2, 6])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_whoever_takes_the_blocks_comes_out(source, runtime, n_jobs, error):
    def fail() -> None:
        with iter_batches(source, range(80), runtime, fake_backbone.SMALL, batch_size=1, n_jobs=n_jobs) as blocks:
            for number, _ in enumerate(blocks):
                if number == 3:
                    raise error("mine")

    with no_worker_stays(runtime), pytest.raises(error, match="mine"):
        within_patience(fail)


@pytest.mark.parametrize("n_jobs", [1, 2, 6])
@pytest.mark.parametrize("failing", ["first", "all", "last"])
def test_an_error_of_the_network_comes_out_of_a_worker(source, monkeypatch, n_jobs, failing):
    runtime = PlantedRuntime({"early": 40})
    last = fake_backbone.number_of(source.ids[-1])
    whole = PlantedRuntime.__call__

    def broken(self: PlantedRuntime, pixels: np.ndarray) -> dict[str, np.ndarray]:
        answer = whole(self, pixels)
        numbers = fake_backbone.numbers_in(pixels)
        if failing == "all" or (failing == "first" and 0 in numbers) or (failing == "last" and last in numbers):
            raise RuntimeError("out of memory")
        return answer

    monkeypatch.setattr(PlantedRuntime, "__call__", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        within_patience(lambda: all_of(source, runtime, batch_size=1, n_jobs=n_jobs))


def test_an_error_of_the_network_while_the_others_wait_for_a_place(source, monkeypatch):
    """Nobody takes blocks, all places are taken, and then a worker fails: those that wait must not wait for ever."""
    runtime = PlantedRuntime({"early": 40})
    whole = PlantedRuntime.__call__

    def broken(self: PlantedRuntime, pixels: np.ndarray) -> dict[str, np.ndarray]:
        answer = whole(self, pixels)
        if 78 in fake_backbone.numbers_in(pixels):  # in the last block of class folder c0
            raise RuntimeError("out of memory")
        return answer

    monkeypatch.setattr(PlantedRuntime, "__call__", broken)

    def slowly() -> None:
        with iter_batches(source, range(80), runtime, fake_backbone.SMALL, batch_size=1, n_jobs=4) as blocks:
            for _ in blocks:
                time.sleep(0.01)

    with pytest.raises(RuntimeError, match="out of memory"):
        within_patience(slowly)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"n_jobs": 0}])
def test_numbers_that_make_no_sense_are_refused(source, runtime, option):
    with pytest.raises(PipelineError, match="expected"):
        all_of(source, runtime, **option)


def test_images_of_an_array_in_memory_go_the_same_road(runtime):
    pixels = np.stack([np.asarray(fake_backbone.photo(number)) for number in range(9)])
    blocks = all_of(ImageSource.open(pixels), runtime, batch_size=4)
    for block in blocks:
        assert np.array_equal(block.features["early"], fake_backbone.features_of(block.rows, "early"))


def test_the_cores_are_shared_while_workers_work_and_given_back(source):
    events: list[Any] = []

    class Sharing(PlantedRuntime):
        @contextmanager
        def workers(self, count: int) -> Iterator[None]:
            events.append(count)
            yield
            events.append("back")

    all_of(source, Sharing({"early": 40}), n_jobs=3, batch_size=5)
    all_of(source, Sharing({"early": 40}), range(4), n_jobs=3, batch_size=2)
    assert events == [3, "back", 2, "back"]
