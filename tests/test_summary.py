"""Where the time of a run went, and what would help."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fake_backbone
import numpy as np
import pytest
from fake_backbone import Planted, PlantedRuntime

import pipeline.extraction.api as extraction_room
import pipeline.extraction.api as summary_room
import pipeline.extraction.encoder as network_room
from pipeline.extraction import recipe_of
from pipeline.extraction.api import TimeSplit, advice, time_split
from pipeline.extraction.batch import Timing
from pipeline.extraction.job import ExtractionJob, ExtractionStats
from pipeline.images import ImageSource
from pipeline.progress import SILENT


def job(**changes: object) -> ExtractionJob:
    backbone = fake_backbone.backbone()
    plain = ExtractionJob(
        source=ImageSource.open(np.zeros((1, 8, 8), np.uint8)),
        backbone=backbone,
        recipe=recipe_of(backbone),
        device="cpu",
        batch_size=None,
        n_jobs=None,
        stop=False,
        rehash=False,
        graphs=Path("graphs"),
        progress=SILENT,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_the_shares_are_of_all_workers_and_waiting_is_what_is_left() -> None:
    counts = ExtractionStats(timing=Timing(decode=3.0, network=5.0), writing=1.0, working=9.0)
    assert time_split(counts) == TimeSplit(decode=0.3, network=0.5, write=0.1, wait=0.1)
    assert time_split(counts).text == "time: decode 30% | network 50% | write 10% | wait 10%"  # type: ignore[union-attr]


def test_clocks_that_add_up_to_more_than_there_was_leave_no_time_below_zero() -> None:
    split = time_split(ExtractionStats(timing=Timing(decode=4.0, network=4.0), writing=0.0, working=7.9))
    assert split == TimeSplit(decode=0.5, network=0.5, write=0.0, wait=0.0)


def test_a_slow_network_is_found_to_be_the_limit(run, tmp_path, network) -> None:
    network.slowness = 0.02
    photos = fake_backbone.folder_of(tmp_path / "photos", range(40))
    summary = run(photos, batch_size=2, n_jobs=2).summary
    assert summary.time.network > summary.time.decode
    assert sum(asdict(summary.time).values()) == pytest.approx(1, abs=0.002)
    assert summary.runtime == "planted 1"
    assert summary.advice == ""  # a run of less than five seconds needs none


def test_loading_the_network_is_not_taken_for_computing(run, tmp_path, network, monkeypatch) -> None:
    class SlowToOpen(Planted):
        def __call__(self, *given: Any, **options: Any) -> PlantedRuntime:
            time.sleep(1.0)
            return super().__call__(*given, **options)

    monkeypatch.setattr(network_room, "open_runtime", SlowToOpen())
    counts: list[ExtractionStats] = []
    monkeypatch.setattr(extraction_room, "ExtractionStats", lambda: counts.append(ExtractionStats()) or counts[-1])
    photos = fake_backbone.folder_of(tmp_path / "photos", range(12))
    started = time.perf_counter()
    run(photos, batch_size=3, n_jobs=2)
    seconds = time.perf_counter() - started
    # The load is the longest step by far; bounds are measured in this run, as another machine may be much slower.
    assert 1.0 <= counts[0].timing.loading <= 2 * seconds  # of each worker that waited for it
    assert counts[0].timing.network < counts[0].timing.loading
    assert 0 <= counts[0].working <= 2 * seconds - counts[0].timing.loading and counts[0].seconds <= seconds - 1.0


def test_a_run_without_inference_has_no_split_and_opens_no_network(run, tmp_path, network) -> None:
    photos = fake_backbone.folder_of(tmp_path / "photos", range(6))
    run(photos)
    (photos / "c0" / "00000.png").rename(photos / "c1" / "00000.png")  # known by content, so it is read and no more
    summary = run(photos).summary
    assert (summary.inferred, summary.reused) == (0, 6)
    assert summary.time is None and summary.runtime == "" and summary.advice == ""
    assert network.opened == []


def test_a_long_run_is_given_advice(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(summary_room, "SECONDS_WORTH_ADVICE", 0.0)
    assert run(fake_backbone.folder_of(tmp_path / "photos", range(6))).summary.advice


@pytest.mark.parametrize(
    ("limit", "changes", "said"),
    [
        ("decode", {}, "decoding is the limit: --decode fast, or a machine with more cores, or a cluster with --dask"),
        ("decode", {"n_jobs": 1}, "decoding is the limit: --decode fast, or more --jobs"),
        ("write", {}, "writing is the limit: --store fp16, or a folder on a faster disk with --cache DIR"),
        (
            "wait",
            {},
            "waiting is the limit, for files or for cores: photos on a faster disk, or fewer --jobs",
        ),
    ],
)
def test_the_advice_is_about_what_takes_longest(limit: str, changes: dict, said: str) -> None:
    shares = dict.fromkeys(("decode", "network", "write", "wait"), 0.1) | {limit: 0.7}
    assert advice(TimeSplit(**shares), job(**changes)).startswith(said)


def test_the_network_s_advice_names_bf16_only_where_the_processor_has_it(monkeypatch) -> None:
    split = TimeSplit(decode=0.1, network=0.9, write=0.0, wait=0.0)
    monkeypatch.setattr(summary_room, "has_bf16", lambda: True)
    assert advice(split, job()) == "the network is the limit: --precision bf16, or a GPU, or a smaller backbone"
    monkeypatch.setattr(summary_room, "has_bf16", lambda: False)
    assert advice(split, job()) == "the network is the limit: a GPU, or a smaller backbone"
    on_gpu = advice(split, job(device="cuda"))
    assert on_gpu == "the network is the limit: --precision bf16, or more GPUs, or a smaller backbone"
