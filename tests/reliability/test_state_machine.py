"""A collection that lives: photos come, go and change, runs are killed, files are damaged, heads are fitted."""

from __future__ import annotations

import csv
import itertools
import shutil
from collections import Counter
from pathlib import Path

import fake_backbone
import numpy as np
import pytest
from cachefiles import flip
from fork_server import ForkServer
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.neighbors import KNeighborsClassifier

from pipeline.cache import FeatureCache
from pipeline.errors import CacheError, PipelineError
from pipeline.model import Model, fit

LAYER = "penultimate"
LAST = 60  # what a photo can say: few, so that one content comes under several names

_NUMBERS = st.integers(0, LAST)
_CLASSES = st.sampled_from(["ant", "bee", "=cat"])


class Collection(RuleBasedStateMachine):
    """The plain model is two dicts: what each photo says (None: it cannot be read), and its label."""

    network: fake_backbone.Planted
    fork_server: ForkServer
    scratch: Path
    tried: Counter[str]  # how often each of the things that the pipeline does was done

    def __init__(self) -> None:
        super().__init__()
        self.root = self.scratch / str(next(_count))
        self.run = fake_backbone.Extractor(self.network, self.root / "caches")
        self.photos: dict[str, int | None] = {}
        self.labels: dict[str, str] = {}
        self.names = itertools.count()
        self.known: set[int] | None = set()  # contents that need no network; None: nobody can say
        self.cache: FeatureCache | None = None  # the last one extracted, until something changes
        self.hurt: set[Path] = set()  # files that were damaged; the next extraction heals them or makes others
        self.model: Model | None = None

    # --- what people do with photos

    @initialize(numbers=st.lists(_NUMBERS, min_size=6, max_size=10, unique=True))
    def begin(self, numbers: list[int]) -> None:
        for place, number in enumerate(numbers):
            self.add(number, "ant" if place % 2 else "bee")

    @rule(number=_NUMBERS, label=_CLASSES)
    def add(self, number: int, label: str) -> None:
        name = f"{'ab'[number % 2]}/{next(self.names):03d}.png"
        fake_backbone.put(self.folder / name, number)
        self.photos[name], self.labels[name] = number, label
        self._changed()

    @rule()
    def add_what_cannot_be_read(self) -> None:
        name = f"a/{next(self.names):03d}.png"
        fake_backbone.put(self.folder / name, b"\x89PNG\r\n\x1a\n damaged")
        self.photos[name] = None
        self._changed()

    @precondition(lambda self: len(self.photos) > 2)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = self._one(data)
        (self.folder / name).unlink()
        del self.photos[name]
        self._tidy()

    @precondition(lambda self: self.photos)
    @rule(data=st.data(), number=_NUMBERS)
    def edit(self, data: st.DataObject, number: int) -> None:
        name = self._one(data)
        fake_backbone.put(self.folder / name, number)
        self.photos[name] = number
        self._changed()

    @precondition(lambda self: self.photos)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        old, new = self._one(data), f"b/{next(self.names):03d}.png"
        (self.folder / "b").mkdir(exist_ok=True)
        (self.folder / old).rename(self.folder / new)
        self.photos[new] = self.photos.pop(old)
        self._tidy()

    @precondition(lambda self: self.photos)
    @rule(data=st.data(), label=st.none() | _CLASSES)
    def relabel(self, data: st.DataObject, label: str | None) -> None:
        name = self._one(data)
        self.labels.pop(name, None)
        if label is not None:
            self.labels[name] = label

    # --- what the pipeline does, and what happens to it

    @precondition(lambda self: self._can_be_extracted())
    @rule()
    def extract(self) -> None:
        """Resume too, where the run before was killed."""
        self.tried["extract"] += 1
        cache = self.run(self.folder)
        done = cache.summary
        assert cache.ids == sorted(self.photos)
        assert sorted(cache.skipped) == sorted(name for name, number in self.photos.items() if number is None)
        good = [self.photos[cache.ids[row]] for row in cache.rows]
        assert np.array_equal(cache.features(), fake_backbone.features_of(good, LAYER))
        assert done.images == len(self.photos) == done.stored + done.reused + done.failed
        assert set(self.network.seen) <= set(good)
        if self.known is not None:
            assert set(self.network.seen) == set(good) - self.known, "what is known needs no network, all else does"
        assert not cache.damaged().size
        self.known, self.cache, self.hurt = set(good), cache, set()

    @precondition(lambda self: self._can_be_extracted())
    @rule(step=st.integers(1, 25))
    def kill(self, step: int) -> None:
        self.tried["kill"] += 1
        said = self.fork_server.run(self.folder, self.root / "caches", [LAYER], die_at=step)
        assert "error" not in said, said
        for path in (self.root / "caches").glob("*.h5"):  # whatever is under its own name opens, and no row is wrong
            assert path in self.hurt or not FeatureCache.open(path).damaged().size
        self.known, self.cache = None, None

    @precondition(lambda self: self._can_be_extracted())
    @rule(data=st.data(), bit=st.integers(0, 7))
    def damage(self, data: st.DataObject, bit: int) -> None:
        self.tried["damage"] += 1
        cache = self._extracted()
        header = cache.header
        name = data.draw(st.sampled_from(sorted(header.row_fields)))
        row = data.draw(st.integers(0, len(cache) - 1))
        stored = row in cache.rows
        if name in ("features/penultimate", "pixel_statistics") and not stored:
            return  # a row without features may hold whatever it holds
        byte = data.draw(st.integers(0, header.fields[name].row_bytes - 1))
        flip(cache.path, name, row, byte, 1 << bit)
        self.hurt.add(cache.path)
        found = FeatureCache.open(cache.path)
        pending = found.status[row] == 0
        assert pending or found.damaged().tolist() == [row]
        with pytest.raises(CacheError):
            found.features()
        self.known, self.cache = None, None

    @precondition(lambda self: self._can_be_learned())
    @rule()
    def fit_and_save(self) -> None:
        self.tried["fit"] += 1
        cache = self._extracted()
        table = self.root / "labels.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "kind"])
            # As a spreadsheet that is careful would have written them.
            writer.writerows((name, label.replace("=", "'=")) for name, label in self.labels.items())
        nearest = KNeighborsClassifier(n_neighbors=1, algorithm="brute")
        try:
            model = fit(cache, labels=table, column="kind", heads=nearest, cv=2, n_jobs=1)
        except PipelineError as error:
            # What leaves no honest split is refused, and here that is copies alone.
            assert "copies" in error.message, error
            self.tried["refused"] += 1
            return
        self.model = Model.open(model.save(self.root / "kinds.model", weights=False))
        self.learned = {name: label for name, label in self.labels.items() if self.photos.get(name) is not None}
        self.said = {name: self.photos[name] for name in self.learned}
        assert set(self.model.classes) == set(self.learned.values())
        assert len(self.model.training_digests) == len(self.learned)

    @precondition(lambda self: self.model is not None and self._can_be_extracted())
    @rule()
    def predict(self) -> None:
        self.tried["predict"] += 1
        assert self.model is not None
        table = self.model.predict(self._extracted())
        assert table["id"].tolist() == sorted(self.photos)
        for name, label, error in zip(table["id"], table["label"], table["error"], strict=True):
            number = self.photos[name]
            assert (number is None) == bool(error)
            if number is not None:
                distance = min(abs(other - number) for other in self.said.values())
                nearest = {self.learned[one] for one, other in self.said.items() if abs(other - number) == distance}
                assert label in nearest

    def teardown(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def folder(self) -> Path:
        return self.root / "photos"

    def _one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.photos)))

    def _changed(self) -> None:
        self.cache = None

    def _tidy(self) -> None:
        """Remove a class folder that has become empty, which would be refused."""
        for folder in self.folder.iterdir():
            if not any(folder.iterdir()):
                folder.rmdir()
        self._changed()

    def _extracted(self) -> FeatureCache:
        if self.cache is None:
            self.extract()
        assert self.cache is not None
        return self.cache

    def _can_be_extracted(self) -> bool:
        return any(number is not None for number in self.photos.values())

    def _can_be_learned(self) -> bool:
        counts: dict[str, set[int]] = {}
        for name, label in self.labels.items():
            number = self.photos.get(name)
            if number is not None:
                counts.setdefault(label, set()).add(number)
        return len(counts) > 1 and min(map(len, counts.values())) > 1


_count = itertools.count()


def test_a_living_collection_agrees_with_a_plain_model(promise, size, network, tmp_path):
    tried: Counter[str] = Counter()
    with (
        promise("extract, kill, damage, resume, fit and predict agree with two dicts in memory") as on_trial,
        ForkServer(tmp_path) as fork_server,
    ):
        given = {"network": network, "fork_server": fork_server, "scratch": tmp_path, "tried": tried}
        run_state_machine_as_test(
            type("LivingCollection", (Collection,), given),
            settings=settings(
                max_examples=size(quick=8, full=200),
                stateful_step_count=size(quick=25, full=40),
                phases=(Phase.explicit, Phase.generate),  # a failing life is told step by step, and shrinks slowly
                database=None,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        on_trial.held(tried.total())
        assert {"extract", "kill", "damage", "fit", "predict"} <= tried.keys(), tried
        assert tried["refused"] < tried["fit"], tried
