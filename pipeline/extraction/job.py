"""`Work`: what one run of `extract` is to do, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import STORE_TYPES
from pipeline.errors import PipelineError, SourceError
from pipeline.extraction.batch import Timing
from pipeline.extraction.encoder import LazyNetwork
from pipeline.images import Ignored, ImageSource, decode_mode, skipped_text
from pipeline.parallel import check_jobs
from pipeline.progress import Progress
from pipeline.provenance import Recipe


@dataclass
class ExtractionStats:
    """What a run did so far."""

    stored: int = 0
    inferred: int = 0
    rechecked: int = 0
    fresh: dict[Path, list[np.ndarray]] = field(default_factory=dict)  # of each file, the rows that it got in this run
    notes: list[str] = field(default_factory=list)
    ignored: Ignored = field(default_factory=Ignored)  # files of the source that are no images
    spent: Timing = field(default_factory=Timing)  # by all workers together
    writing: float = 0.0  # seconds of the one that writes
    seconds: float = 0.0  # from the first image to the last, without loading the network
    working: float = 0.0  # seconds of all workers together, without their wait for the network to be loaded


@dataclass(frozen=True, eq=False, kw_only=True)
class EncodingOptions:
    """How images are to be run, whichever they are."""

    backbone: Backbone
    recipe: Recipe
    device: str
    batch_size: int | None
    n_jobs: int | None
    stop: bool  # at the first image that cannot be read
    rehash: bool
    graphs: Path  # where exported networks are kept
    progress: Progress
    _networks: dict[tuple[str, ...], LazyNetwork] = field(default_factory=dict, repr=False)

    def over(self, source: ImageSource, part: Mapping[str, Any] | None = None) -> ExtractionJob:
        """Return the work of running these images, which may be a part of a cache; the networks are shared."""
        return ExtractionJob(**vars(self), source=source, part=part or {})

    def note(self, text: str, counts: ExtractionStats) -> None:
        """Say a sentence, and keep it for the summary."""
        counts.notes.append(text)
        self.progress.note(text)

    def note_all(self, source: ImageSource, counts: ExtractionStats) -> None:
        """Say what there is to say of how a source was listed."""
        for text in source.notes:
            self.note(text, counts)
        if source.label_error is not None:
            self.note(
                f"no label is read from the folders: {source.label_error.message}; {source.label_error.next_step}",
                counts,
            )
        if source.ignored:
            counts.ignored.add_all(source.ignored)
        if source.skipped:
            self.note(f"{source.name}: {skipped_text(source.skipped)}", counts)

    def network(self, layers: Sequence[str], images: int) -> LazyNetwork:
        """Return the network up to these layers, loaded when the first image needs it, to run over so many."""
        key = tuple(layers)
        if key not in self._networks:
            self._networks[key] = LazyNetwork(
                self.backbone,
                key,
                device=self.device,
                precision=self.recipe.precision,
                runtime=self.recipe.runtime,
                images=images,
                graphs=self.graphs,
                progress=self.progress,
            )
        return self._networks[key]

    @property
    def open_network(self) -> LazyNetwork | None:
        """Return what is loaded in this process already, of several the one with most layers."""
        opened = [network for network in self._networks.values() if network.name]
        return max(opened, key=lambda network: len(network.layers), default=None)

    @property
    def runtimes(self) -> str:
        """What ran the images, such as ``onnxruntime-cpu 1.24``; empty where other processes or nobody did."""
        opened = {f"{network.name} {network.version}" for network in self._networks.values() if network.name}
        return ", ".join(sorted(opened))

    @property
    def decode(self) -> str:
        """How photos become pixels: ``exact`` or ``fast``."""
        return decode_mode(self.recipe.decoder)

    @property
    def store_type(self) -> np.dtype:
        return STORE_TYPES[self.recipe.store]


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtractionJob(EncodingOptions):
    """What one run of `extract` is to do: which images, and how.

    Attributes
    ----------
    source : ImageSource
    part : mapping
        What the source is a part of, as its cache's provenance will say; empty for a whole.
    """

    source: ImageSource
    part: Mapping[str, Any]


def check_numbers(batch_size: int | None, n_jobs: int | None) -> None:
    """Return if these are numbers to work with; raise `PipelineError` otherwise."""
    if batch_size is not None and batch_size < 1:
        raise PipelineError(f"batch_size: expected 1 or more, got {batch_size}", "leave out --batch-size")
    check_jobs(n_jobs)


def stopped_at(name: str, why: str) -> SourceError:
    """Return the error that ends a run with `on_error="stop"`."""
    return SourceError(f"{name}: {why}", "mend or remove the photo, or leave it out with --on-error skip")
