"""The same architecture with random weights, and how long an image takes through a network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache
from pipeline.extraction import extract
from pipeline.images import ImageSource
from pipeline.progress import Progress
from pipeline.studies.points import RANDOM
from pipeline.studies.subject import SplitSide, StudyData

FEW, MORE = 8, 72  # images; what both runs need beside them, such as loading the weights, falls out of the difference


def untrained_features(
    backbone: Backbone, layer: str, subject: StudyData, extraction: Mapping[str, Any], progress: Progress
) -> tuple[tuple[FeatureCache, FeatureCache], tuple[np.ndarray, np.ndarray]]:
    """Return the features of the same network before any training: a cache and its rows for either side."""
    train, test = subject.train, subject.test
    random = Backbone.open(f"{backbone.name}:random", random_state=extraction["random_state"])

    def made(photos: ImageSource) -> FeatureCache:
        cache = extract(photos, backbone=random, layer=layer, progress=_BarsOnly(progress), **extraction)
        progress.note(f"{RANDOM}: {cache.summary.text}")
        return cache

    if train.photos is test.photos:
        rows = np.union1d(train.part.rows, test.part.rows)
        cache = made(train.photos.take(rows.tolist()))
        places = np.searchsorted(rows, train.part.rows), np.searchsorted(rows, test.part.rows)
        return (cache, cache), places
    caches = tuple(made(side.photos.take(side.part.rows.tolist())) for side in (train, test))
    return (caches[0], caches[1]), (np.arange(len(train.part)), np.arange(len(test.part)))


def seconds_an_image(
    backbone: Backbone, layer: str, side: SplitSide, extraction: Mapping[str, Any], device: str
) -> float:
    """Return how long an image takes from its file to its features: seconds of one core, or by the clock on a GPU.

    Measured by the difference between a few images and some more, all through the network anew.
    """
    from pipeline.studies.training import clock_of

    clock = clock_of(device)
    rows = side.part.rows
    counts = [min(FEW, len(rows) // 2), min(MORE, len(rows))]

    def spent(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            some = side.photos.take(rows[np.linspace(0, len(rows) - 1, count).astype(int)].tolist())
            # A worker a core, each with one thread: threads that wait for one another would count as work.
            options = {**extraction, "cache": folder, "n_jobs": None, "device": device}
            started = clock()
            extract(some, backbone=backbone, layer=layer, **options)
            return clock() - started

    spent(counts[0])  # for what is loaded once in a process
    return max(0.0, spent(counts[1]) - spent(counts[0])) / (counts[1] - counts[0])


class _BarsOnly(Progress):
    """Tells how far it is, and no notes: the same photos gave them with the pretrained network."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, stage: str, done: int, total: int) -> None:
        self._progress.advance(f"{stage}, {RANDOM}", done, total)
