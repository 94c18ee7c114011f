"""Which images have no features? How many, the first with its reason, and the classes that only they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import EvaluationError, LabelError, PipelineError, SkipReason
from pipeline.evaluation.dataset import Dataset

MOST_CLASSES = 20  # a column of more values than that is not searched for classes
MOST_LOST = 3  # that a sentence names

_NEXT_STEPS = {
    SkipReason.NOT_AN_IMAGE: "look at that file: it may be a web page or a note with a photo's name; replace or remove "
    "such files",
    SkipReason.NO_BYTES: "write the bytes of the images into the table, or give a table of paths with --root DIR",
    SkipReason.MISSING: "check the paths, or name the folder that they start from with --root DIR",
    SkipReason.FORBIDDEN: "check the permissions (ls -l)",
    SkipReason.NO_DECODER: "install the decoder (pipeline doctor), or export the images as JPEG or PNG",
}


@dataclass(frozen=True)
class UnreadableImages:
    """The images of one collection without features.

    Attributes
    ----------
    collection : Collection
    rows : ndarray of int64
        In the collection, ascending; not empty.
    """

    collection: Dataset
    rows: np.ndarray

    @classmethod
    def of(cls, collection: Dataset) -> UnreadableImages | None:
        """Return the images without features, None where there are none."""
        rows = np.setdiff1d(np.arange(len(collection.ids)), collection.rows)
        return cls(collection, rows) if len(rows) else None

    @property
    def all(self) -> bool:
        return len(self.rows) == len(self.collection.ids)

    @property
    def reason(self) -> SkipReason | None:
        """Why the first of them has none; None where a cache has not come to it."""
        first = self.collection.ids[self.rows[0]]
        return next((cache.skipped[first] for cache in self.collection.caches if first in cache.skipped), None)

    @property
    def text(self) -> str:
        """How many images cannot be read, the first one and its reason."""
        return f"{self._count} cannot be read, {self._first}"

    @property
    def left_out(self) -> str:
        """The same as a note of a run that goes on without them."""
        return f"{self._count} have no features and are left out, {self._first}"

    @property
    def _count(self) -> str:
        return f"{self.collection.name}: {len(self.rows)} of {len(self.collection.ids)} images"

    @property
    def _first(self) -> str:
        reason = self.reason
        return f"e.g. {self.collection.ids[self.rows[0]]}: {'still pending' if reason is None else reason.text}"

    @property
    def next_step(self) -> str:
        reason = self.reason
        if reason is None:
            return "extract them: pipeline extract DATA"
        return _NEXT_STEPS.get(reason, "replace or remove these images")

    def lost_classes(self, column: str) -> dict[str, int]:
        """Return the classes of a column that only such images have, and how many images each has."""
        values = self.collection.columns[column]
        left = {values[row] for row in self.collection.rows}
        counts = Counter(text for row in self.rows if (text := values[row]) and text not in left)
        return dict(sorted(counts.items())) if len(left | counts.keys()) <= MOST_CLASSES else {}

    def about_lost(self, column: str) -> str:
        """Return a sentence on the classes of a column that are lost; empty where none is."""
        lost = self.lost_classes(column)
        if not lost:
            return ""
        named = ", ".join(f"{name!r} ({count})" for name, count in list(lost.items())[:MOST_LOST])
        if len(lost) > MOST_LOST:
            named += f" and {len(lost) - MOST_LOST} more"
        return f"no image of {named} can be read"


def explain_by_unreadable(
    error: LabelError | EvaluationError, collections: Sequence[Dataset], rehearse: Callable[[], object]
) -> PipelineError:
    """Return the error to raise: with the images that cannot be read named first, where they are the cause.

    Parameters
    ----------
    error : LabelError or EvaluationError
        Raised by what is possible with the images that have features.
    collections : sequence of Collection
        With features.
    rehearse : callable
        Does the same with all images; where that raises too, the images that cannot be read are not the cause.
    """
    found = [images for collection in collections if (images := UnreadableImages.of(collection)) is not None]
    if not found:
        return error
    whole = next((images for images in found if images.all), None)
    if whole is not None:
        return EvaluationError(whole.text, whole.next_step)
    try:
        rehearse()
    except PipelineError:
        return error
    texts = []
    for images in found:
        lost = next((text for column in images.collection.columns if (text := images.about_lost(column))), "")
        texts.append(f"{images.text}{f'; {lost}' if lost else ''}")
    return type(error)(f"{'; '.join(texts)}; so: {error.message}", found[0].next_step)
