"""The methods of a study: what each sees of the images, and the lessons that it has to learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cache import FeatureCache
from pipeline.heads import Head, resolve_heads
from pipeline.studies.draws import LabelBudget
from pipeline.studies.lessons import AnyLesson, ScratchTrial, Trial, TrialData, TrialKey
from pipeline.studies.pixels import Pixels, PixelSizes, raw_features
from pipeline.studies.points import DUMMY, NO_LAYER, RAW, SCRATCH, STATISTICS
from pipeline.studies.subject import StudyData

DEPTH_AT = (5, 50)  # labels a class at which layers are compared, beside all of them
SCRATCH_DRAWS = {1: 5, 2: 5, 5: 5, 10: 5}  # as many as there is time for
FEWEST_SCRATCH_DRAWS = 3

Place = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Method:
    """One way to learn the labels.

    Attributes
    ----------
    name, layer : str
    material : Material
    text : str
        What names the material in the store: all that changes it.
    head : Head or None
        None for training from scratch.
    rungs : tuple of int
        Which rungs it learns.
    """

    name: str
    layer: str
    material: TrialData
    text: str
    head: Head | None
    rungs: tuple[int, ...]

    @property
    def place(self) -> Place:
        """What tells it from the others."""
        return self.name, self.layer


@dataclass(frozen=True, eq=False)
class TrialFactory:
    """Makes methods of what is known of the images of a subject.

    Attributes
    ----------
    subject : Subject
    head : Head
    rungs : sequence of Rung
    random_state : int
    """

    subject: StudyData
    head: Head
    rungs: Sequence[LabelBudget]
    random_state: int

    @property
    def every(self) -> tuple[int, ...]:
        """All rungs."""
        return tuple(range(len(self.rungs)))

    @property
    def some(self) -> tuple[int, ...]:
        """The few rungs at which layers are compared."""
        sizes = np.log([rung.per_class for rung in self.rungs])
        near = {int(np.argmin(np.abs(sizes - np.log(wanted)))) for wanted in DEPTH_AT}
        return tuple(sorted(near | {len(self.rungs) - 1}))

    def of_layer(
        self, name: str, layer: str, caches: tuple[FeatureCache, FeatureCache], rows: tuple[np.ndarray, np.ndarray],
        text: str, rungs: tuple[int, ...],
    ) -> Method:  # fmt: skip
        """Return a head on a layer of a backbone; `rows` are those of each cache."""
        X, asked = (np.asarray(cache.stored(layer)[at], np.float32) for cache, at in zip(caches, rows, strict=True))
        return Method(name, layer, self._material(X, asked), text, self.head, rungs)

    def of_statistics(self, caches: tuple[FeatureCache, FeatureCache], text: str) -> Method:
        """Return the head on the statistics of the pixels."""
        X, asked = (
            np.asarray(cache.stored_pixel_statistics()[side.part.rows], np.float32)
            for cache, side in zip(caches, (self.subject.train, self.subject.test), strict=True)
        )
        return Method(STATISTICS, NO_LAYER, self._material(X, asked), text, self.head, self.every)

    def of_pixels(self, train: Pixels, test: Pixels, text: str) -> list[Method]:
        """Return training from scratch, and the head on the raw pixels."""
        raw = raw_features(train.raw, test.raw)
        return [
            Method(SCRATCH, NO_LAYER, self._material(train.network, test.network), text, None, self.every),
            Method(RAW, NO_LAYER, self._material(*raw), f"raw {text}", self.head, self.every),
        ]

    def dummy(self) -> Method:
        """Return what always says the commonest class."""
        head = resolve_heads([DUMMY], kind="class", random_state=self.random_state)[0]
        nothing = (np.zeros((len(side.part), 1), np.float32) for side in (self.subject.train, self.subject.test))
        return Method(DUMMY, NO_LAYER, self._material(*nothing), "nothing", head, self.every)

    def lessons(self, methods: Sequence[Method], sizes: PixelSizes, *, budget: float, device: str) -> list[AnyLesson]:
        """Return every lesson of every method."""
        found: list[AnyLesson] = []
        for method in methods:
            for key, rows in self._draws(method):
                if method.head is not None:
                    found.append(Trial(key, rows, method.material, method.head, self.random_state))
                    continue
                seed = self.random_state * 1000 + key.draw
                found.append(ScratchTrial(key, rows, method.material, seed, sizes.small, budget, device))
        return found

    def _draws(self, method: Method) -> Iterator[tuple[TrialKey, np.ndarray]]:
        for number in method.rungs:
            rung = self.rungs[number]
            draws = len(rung.draws)
            if method.head is None:
                draws = min(draws, SCRATCH_DRAWS.get(round(rung.per_class), FEWEST_SCRATCH_DRAWS))
            elif rung.everything:
                draws = 1  # a head that learns the same rows again learns the same
            for draw in range(draws):
                yield TrialKey(method.name, method.layer, number, draw), rung.draws[draw]

    def _material(self, X: np.ndarray, asked: np.ndarray) -> TrialData:
        part = self.subject.train.part
        return TrialData(X, asked, part.y, part.groups, part.together, self.subject.question.n_classes)


def caches_of(subject: StudyData) -> tuple[FeatureCache, FeatureCache]:
    """Return the caches of the backbone over either side; the same one where the test set is part of the images."""
    train, test = (side.part.collection.caches[0] for side in (subject.train, subject.test))
    return train, test
