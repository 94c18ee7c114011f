"""`Work`: what one run of `extract` is to do, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs

from pipeline.backbone import Backbone
from pipeline.cache.layout import STORE_TYPES
from pipeline.errors import PipelineError, SourceError
from pipeline.images import ImageSource, decode_mode
from pipeline.progress import Progress
from pipeline.provenance import Recipe
from pipeline.runtime import Runtime, open_runtime


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be run over which images, and how."""

    source: ImageSource
    backbone: Backbone
    recipe: Recipe
    device: str
    batch_size: int | None
    n_jobs: int | None
    stop: bool  # at the first image that cannot be read
    rehash: bool
    graphs: Path  # where exported networks are kept
    progress: Progress
    _runtimes: dict[tuple[str, ...], Runtime] = field(default_factory=dict, repr=False)

    def runtime(self, layers: Sequence[str], images: int) -> Runtime:
        """Return the network up to these layers, loaded when it is first asked for, to run over so many images."""
        key = tuple(layers)
        if key not in self._runtimes:
            self._runtimes[key] = open_runtime(
                self.backbone,
                key,
                device=self.device,
                precision=self.recipe.precision,
                images=images,
                graphs=self.graphs,
                progress=self.progress,
            )
        return self._runtimes[key]

    @property
    def decode(self) -> str:
        return decode_mode(self.recipe.decoder)

    @property
    def store_type(self) -> np.dtype:
        return STORE_TYPES[self.recipe.store]


@dataclass
class Counts:
    """What a run did so far."""

    stored: int = 0
    inferred: int = 0
    notes: list[str] = field(default_factory=list)


def check_numbers(batch_size: int | None, n_jobs: int | None) -> None:
    """Return if these are numbers to work with; raise `PipelineError` otherwise."""
    if batch_size is not None and batch_size < 1:
        raise PipelineError(f"batch_size: wanted 1 or more, found {batch_size}", "leave out --batch-size")
    if n_jobs == 0:
        raise PipelineError("n_jobs: wanted a number of workers, found 0", "leave out --jobs to use every core")


def workers(n_jobs: int | None) -> int:
    """Return how many workers that makes: every core for None and -1, all but one for -2."""
    return effective_n_jobs(-1 if n_jobs is None else n_jobs)


def stopped_at(name: str, why: str) -> SourceError:
    """Return the error that ends a run with `on_error="stop"`."""
    return SourceError(f"{name}: {why}", "mend or remove the photo, or leave it out with --on-error skip")
