"""How are photos of different requests run through the network in one batch?"""

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
from pipeline.model import Model, Neighbors, TrainingSet
from pipeline.search import Predictions


@dataclass(frozen=True, eq=False)
class PredictionRow:
    """The prediction for one photo.

    Attributes
    ----------
    predictions : Predictions
        One row.
    near : Neighbors or None
        One row: the most similar training photos.
    """

    predictions: Predictions
    near: Neighbors | None


@dataclass(frozen=True, eq=False)
class _PendingImage:
    """A waiting photo: its pixels (crop, crop, 3) and the future of its prediction."""

    pixels: np.ndarray
    prediction: Future[PredictionRow | None]


class MicroBatcher:
    """Threads that take the waiting photos, up to a batch, and run them through network and head together.

    Parameters
    ----------
    model : Model
    network : LazyNetwork
        The model's network; its batch size is the largest batch.
    training : TrainingSet or None
    threads : int
        One per core.
    neighbours : int
        How many of the nearest training photos a prediction holds.
    """

    def __init__(
        self, model: Model, network: LazyNetwork, training: TrainingSet | None, *, threads: int, neighbours: int
    ) -> None:
        self._model, self._network, self._training, self._neighbours = model, network, training, neighbours
        self._store = STORE_TYPES[str(model.recipe["store"])]
        self._waiting: SimpleQueue[_PendingImage | None] = SimpleQueue()
        # One head predicts at a time: Python's warnings are caught for the whole process.
        self._head = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._sharing = ExitStack()
        self.batches: list[int] | None = None  # a list to which the size of each batch is appended, for tests

    def start(self) -> None:
        """Load the network and start the threads."""
        self._network.open()
        self._sharing.enter_context(self._network.workers(len(self._threads)))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Predict the photos that wait, and end the threads."""
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._sharing.close()

    def submit(self, pixels: np.ndarray) -> Future[PredictionRow | None]:
        """Return the future prediction for decoded pixels; its result is None if the features are not finite."""
        image = _PendingImage(pixels, Future())
        self._waiting.put(image)
        return image.prediction

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            # A future that was cancelled is dropped; after this call the others can no longer be cancelled.
            batch = [image for image in (first, *self._next()) if image.prediction.set_running_or_notify_cancel()]
            if not batch:
                continue
            if self.batches is not None:
                self.batches.append(len(batch))
            try:
                rows = self._predict(np.stack([image.pixels for image in batch]))
            except BaseException as error:
                for image in batch:
                    image.prediction.set_exception(error)
            else:
                for image, row in zip(batch, rows, strict=True):
                    image.prediction.set_result(row)
        self._waiting.put(None)  # for the other threads

    def _next(self) -> list[_PendingImage]:
        """Return the other photos that wait now, at most the rest of a batch."""
        found: list[_PendingImage] = []
        while len(found) < self._network.batch_size - 1:
            try:
                image = self._waiting.get_nowait()
            except Empty:
                break
            if image is None:
                self._waiting.put(None)
                break
            found.append(image)
        return found

    def _predict(self, pixels: np.ndarray) -> list[PredictionRow | None]:
        """Return the prediction for each photo, uint8 (b, crop, crop, 3); None where features are not finite."""
        raw = self._network(pixels)[self._model.layer]
        with np.errstate(over="ignore"):
            X = raw.astype(self._store).astype(np.float32)  # the head was trained on features of the stored type
        rows = np.flatnonzero(np.isfinite(X).all(axis=1))
        result: list[Any] = [None] * len(pixels)
        if len(rows):
            with self._head:
                predictions = self._model.predict_features(X[rows])
                near = None if self._training is None else self._training.nearest(X[rows], self._neighbours)
            for position, row in enumerate(rows.tolist()):
                only = slice(position, position + 1)
                neighbors = None if near is None else Neighbors(near.rows[only], near.cosine[only])
                result[row] = PredictionRow(predictions.take(np.array([position])), neighbors)
        return result
