"""`Answerer`: photos that wait at the same time are answered together."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from pipeline.cache import STORE_TYPES
from pipeline.extraction import LazyNetwork
from pipeline.model import Model
from pipeline.model.training_set import Neighbors, TrainingSet
from pipeline.search import Predictions


@dataclass(frozen=True, eq=False)
class PredictionRow:
    """What the model says of one photo.

    Attributes
    ----------
    predictions : Predictions
        One row.
    near : Near or None
        One row: the training photos that are most like it.
    """

    predictions: Predictions
    near: Neighbors | None


@dataclass(frozen=True, eq=False)
class _PendingImage:
    """A photo that waits: its pixels (crop, crop, 3), and where its answer is to go."""

    pixels: np.ndarray
    answer: Future[PredictionRow | None]


class MicroBatcher:
    """A thread a core, each of which takes what waits, up to a batch, and runs it through network and head at once.

    Parameters
    ----------
    model : Model
    network : Network
        The model's; its batch size is the largest batch.
    training : TrainingSet or None
    threads : int
    neighbours : int
        How many of the nearest training photos an answer holds.
    """

    def __init__(
        self, model: Model, network: LazyNetwork, training: TrainingSet | None, *, threads: int, neighbours: int
    ) -> None:
        self._model, self._network, self._training, self._neighbours = model, network, training, neighbours
        self._store = STORE_TYPES[str(model.recipe["store"])]
        self._waiting: SimpleQueue[_PendingImage | None] = SimpleQueue()
        # Heads are asked one at a time: the warnings that they give are caught for the whole process.
        self._head = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._sharing = ExitStack()
        self.batches: list[int] | None = None  # sizes, where somebody wants to know

    def start(self) -> None:
        """Start the threads; the network is open before the first photo comes."""
        self._network.open()
        self._sharing.enter_context(self._network.workers(len(self._threads)))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Answer what waits, and end the threads."""
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._sharing.close()

    def ask(self, pixels: np.ndarray) -> Future[PredictionRow | None]:
        """Return the answer to come about prepared pixels; None where the network gives values that are not finite."""
        asked = _PendingImage(pixels, Future())
        self._waiting.put(asked)
        return asked.answer

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            # Who no longer waits for an answer gets none; the others can no longer change their mind.
            together = [one for one in (first, *self._others()) if one.answer.set_running_or_notify_cancel()]
            if not together:
                continue
            if self.batches is not None:
                self.batches.append(len(together))
            try:
                said = self._answers(np.stack([one.pixels for one in together]))
            except BaseException as error:
                for one in together:
                    one.answer.set_exception(error)
            else:
                for one, answer in zip(together, said, strict=True):
                    one.answer.set_result(answer)
        self._waiting.put(None)  # for the other threads

    def _others(self) -> list[_PendingImage]:
        """Return what else waits, as much as a batch holds."""
        found: list[_PendingImage] = []
        while len(found) < self._network.batch_size - 1:
            try:
                one = self._waiting.get_nowait()
            except Empty:
                break
            if one is None:
                self._waiting.put(None)
                break
            found.append(one)
        return found

    def _answers(self, pixels: np.ndarray) -> list[PredictionRow | None]:
        """Return an answer for each of the photos, uint8 (b, crop, crop, 3)."""
        raw = self._network(pixels)[self._model.layer]
        with np.errstate(over="ignore"):
            X = raw.astype(self._store).astype(np.float32)  # as the features that the head learned from
        rows = np.flatnonzero(np.isfinite(X).all(axis=1))
        said: list[Any] = [None] * len(pixels)
        if len(rows):
            with self._head:
                predictions = self._model.predict_features(X[rows])
                near = None if self._training is None else self._training.nearest(X[rows], self._neighbours)
            for place, row in enumerate(rows.tolist()):
                one = slice(place, place + 1)
                its = None if near is None else Neighbors(near.rows[one], near.cosine[one])
                said[row] = PredictionRow(predictions.take(np.array([place])), its)
        return said
