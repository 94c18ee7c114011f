"""Other processes do what threads do: one a device, each opened once, and a death among them loses nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import fake_backbone
import numpy as np
import pytest
from fake_backbone import PlantedRuntime

import pipeline.extraction.encode as encode
from pipeline.cache import STORED, FeatureCache
from pipeline.errors import PipelineError
from pipeline.extraction import EncodedBatch, iter_batches
from pipeline.extraction.encoder import LazyNetwork, NetworkHandle, claim
from pipeline.extraction.reuse import DigestIndex
from pipeline.images import ImageSource
from pipeline.runtime import batch_size_of, devices_of


class InPlanted(NetworkHandle):
    """What travels: in the process it is a planted network that leaves a note of where it ran."""

    notes: str
    deadly: int | None = None

    def network(self) -> PlantedRuntime:
        key = (self.notes, self.claims)
        if key not in OPENED:
            number = claim(Path(self.claims))
            OPENED[key] = Noting(self.notes, self.devices[number % len(self.devices)], self.deadly)
        return OPENED[key]


OPENED: dict[tuple[str, str | None], PlantedRuntime] = {}


class Noting(PlantedRuntime):
    def __init__(self, notes: str, device: str, deadly: int | None) -> None:
        super().__init__({"early": 40})
        self.notes, self.device, self.deadly = Path(notes), device, deadly
        (self.notes / f"opened-{device}-{os.getpid()}").touch()

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        numbers = fake_backbone.numbers_in(pixels)
        if self.deadly in numbers:
            deaths = len(list(self.notes.glob("died-*")))
            if deaths < (1 if self.deadly >= 0 else 99):
                (self.notes / f"died-{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        for number in numbers:
            (self.notes / f"{self.device}-{number}").touch()
        return super().__call__(pixels)


class ManyDevices(LazyNetwork):
    """A network for two devices that are not there."""

    def __init__(self, notes: Path, deadly: int | None = None) -> None:
        super().__init__(fake_backbone.backbone(), ["early"], device="cpu", graphs=notes / "graphs")
        self.devices, self.notes, self.deadly = ["one", "two"], notes, deadly

    def make_handle(self, claims: Path | None) -> InPlanted:
        travelling = InPlanted((), tuple(self.devices), str(claims))
        travelling.notes, travelling.deadly = str(self.notes), self.deadly
        return travelling


@pytest.fixture(autouse=True)
def small_spans(monkeypatch) -> None:
    monkeypatch.setattr(encode, "BATCHES_PER_SPAN", 2)
    monkeypatch.setattr(encode, "SPANS_PER_WAVE", 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> ImageSource:
    return ImageSource.open(fake_backbone.folder_of(tmp_path_factory.mktemp("processes"), range(60)))


@pytest.fixture
def notes(tmp_path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


def all_of(source: ImageSource, network: LazyNetwork, **options: object) -> list[EncodedBatch]:
    with iter_batches(source, range(len(source)), network, fake_backbone.SMALL, batch_size=4, **options) as blocks:
        return list(blocks)


def assert_each_once(source: ImageSource, blocks: list[EncodedBatch]) -> None:
    rows = np.concatenate([block.rows for block in blocks])
    assert sorted(rows.tolist()) == list(range(len(source)))
    for block in blocks:
        numbers = [fake_backbone.number_of(source.ids[row]) for row in block.rows]
        assert (block.status == STORED).all()
        assert np.array_equal(block.features["early"], fake_backbone.features_of(numbers, "early"))
        assert np.array_equal(block.stat, source.stat[block.rows])


@pytest.mark.slow
def test_one_process_a_device_and_each_image_once(source, notes):
    blocks = all_of(source, ManyDevices(notes))
    assert_each_once(source, blocks)
    assert sum(block.inferred for block in blocks) == 60 and all(block.timing.decode > 0 for block in blocks)
    opened = [path.name.split("-")[1] for path in notes.glob("opened-*")]
    assert sorted(opened) == ["one", "two"]
    for device in ("one", "two"):
        assert list(notes.glob(f"{device}-*")), device


@pytest.mark.slow
def test_a_process_that_dies_loses_nothing(source, notes):
    assert_each_once(source, all_of(source, ManyDevices(notes, deadly=34)))
    assert len(list(notes.glob("died-*"))) == 1


@pytest.mark.slow
def test_processes_that_keep_dying_are_an_error_that_says_so(source, notes, monkeypatch):
    monkeypatch.setattr(encode, "_run_numbered", _die)
    with pytest.raises(PipelineError, match="worker processes keep crashing"):
        all_of(source, ManyDevices(notes))


def _die(number: int, task: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_whoever_leaves_early_is_let_go(source, notes):
    with iter_batches(source, range(60), ManyDevices(notes), fake_backbone.SMALL, batch_size=4) as blocks:
        next(blocks)


@pytest.mark.slow
def test_images_that_only_the_workers_do_not_see_end_the_run(source, notes, monkeypatch):
    monkeypatch.setattr(encode, "_run_numbered", _blind)
    with pytest.raises(PipelineError) as caught:
        all_of(source, ManyDevices(notes))
    assert ".png: expected workers that see the images under the same path, got one that" in caught.value.message


def _blind(number: int, task: encode._EncodeTask) -> tuple[int, EncodedBatch]:
    object.__setattr__(task.encoder.source.reader, "root", "/nowhere")
    return number, task.run()


@pytest.mark.slow
def test_content_that_a_cache_knows_is_known_to_the_workers_too(source, notes, tmp_path, monkeypatch):
    import pipeline.extraction.encoder as network_room

    network = fake_backbone.Planted()
    monkeypatch.setattr(network_room, "open_runtime", network)
    cache = fake_backbone.Extractor(network, tmp_path / "caches")(source.take(range(20)), layer="early")
    blocks = all_of(source, ManyDevices(notes), known=DigestIndex([FeatureCache.open(cache.path)]))
    assert sum(block.inferred for block in blocks) == 40
    known = {int(row) for block in blocks for row in block.rows[block.known >= 0]}
    assert known == set(range(20))


@pytest.mark.slow
def test_a_worker_that_decodes_otherwise_is_refused(source, notes, monkeypatch):
    monkeypatch.setattr(encode, "decoder_of", lambda mode: "of another Pillow")
    with pytest.raises(PipelineError, match="expected workers that decode photos as this machine does"):
        all_of(source, ManyDevices(notes))


def test_claims_are_numbered_and_each_is_given_once(tmp_path):
    assert [claim(tmp_path) for _ in range(4)] == [0, 1, 2, 3]


def test_one_device_needs_no_processes():
    assert devices_of("cpu") == ["cpu"]
    assert (batch_size_of("cpu", 224), batch_size_of("cpu", 448), batch_size_of("cuda:1", 224)) == (4, 1, 256)
