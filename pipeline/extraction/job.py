"""What is one extraction to do, and what has it done so far?

`ExtractionJob` holds the images and every setting; `ExtractionStats` counts what a run of `extract` did.
"""

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
    """Counts, times and notes of one run of `extract`."""

    stored: int = 0
    inferred: int = 0
    rechecked: int = 0
    fresh: dict[Path, list[np.ndarray]] = field(default_factory=dict)  # of each file, the rows that this run computed
    notes: list[str] = field(default_factory=list)
    ignored: Ignored = field(default_factory=Ignored)  # files of the source that are not images
    timing: Timing = field(default_factory=Timing)  # sum over all workers
    writing: float = 0.0  # seconds of the process that writes
    seconds: float = 0.0  # from the first image to the last, without loading the network
    working: float = 0.0  # seconds of all workers together, without their wait for the network to load


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtractionJob:
    """The images that go into one cache file, and how they are encoded.

    A source in parts has one job per part; the jobs of one run differ in `source` and `part` and share `networks`.

    Attributes
    ----------
    source : ImageSource
    part : mapping
        The number and the whole of this part, as its cache's provenance records them; empty for a whole.
    backbone : Backbone
    recipe : Recipe
    device : str
    batch_size, n_jobs : int or None
    stop : bool
        Whether the run ends at the first image that cannot be read.
    rehash : bool
        Whether every image is read again and its content compared.
    graphs : Path
        The folder of exported networks.
    progress : Progress
    networks : dict of layer names to LazyNetwork
        Filled by `network`.
    """

    source: ImageSource
    part: Mapping[str, Any] = field(default_factory=dict)
    backbone: Backbone
    recipe: Recipe
    device: str
    batch_size: int | None
    n_jobs: int | None
    stop: bool
    rehash: bool
    graphs: Path
    progress: Progress
    networks: dict[tuple[str, ...], LazyNetwork] = field(default_factory=dict, repr=False)

    def note(self, text: str, stats: ExtractionStats) -> None:
        """Report one sentence, and keep it for the summary."""
        stats.notes.append(text)
        self.progress.note(text)

    def note_source(self, stats: ExtractionStats) -> None:
        """Report the notes on how the source was listed."""
        for text in self.source.notes:
            self.note(text, stats)
        if self.source.label_error is not None:
            error = self.source.label_error
            self.note(f"no label is read from the folders: {error.message}; {error.next_step}", stats)
        if self.source.ignored:
            stats.ignored.add_all(self.source.ignored)
        if self.source.skipped:
            self.note(f"{self.source.name}: {skipped_text(self.source.skipped)}", stats)

    def network(self, layers: Sequence[str], images: int) -> LazyNetwork:
        """Return the network up to these layers, for `images` images; it is loaded when the first image needs it."""
        key = tuple(layers)
        if key not in self.networks:
            self.networks[key] = LazyNetwork(
                self.backbone,
                key,
                device=self.device,
                precision=self.recipe.precision,
                runtime=self.recipe.runtime,
                images=images,
                graphs=self.graphs,
                progress=self.progress,
            )
        return self.networks[key]

    @property
    def open_network(self) -> LazyNetwork | None:
        """The network with the most layers of those that this process has loaded, None if there is none."""
        opened = [network for network in self.networks.values() if network.name]
        return max(opened, key=lambda network: len(network.layers), default=None)

    @property
    def runtimes(self) -> str:
        """Name and version of the runtimes in this process, such as ``onnxruntime-cpu 1.24``; empty if none ran."""
        opened = {f"{network.name} {network.version}" for network in self.networks.values() if network.name}
        return ", ".join(sorted(opened))

    @property
    def decode(self) -> str:
        """How photos become pixels: ``exact`` or ``fast``."""
        return decode_mode(self.recipe.decoder)

    @property
    def store_type(self) -> np.dtype:
        """The type of the stored features."""
        return STORE_TYPES[self.recipe.store]


def check_numbers(batch_size: int | None, n_jobs: int | None) -> None:
    """Raise `PipelineError` for a batch size below 1 or an invalid number of workers."""
    if batch_size is not None and batch_size < 1:
        raise PipelineError(f"batch_size: expected 1 or more, got {batch_size}", "leave out --batch-size")
    check_jobs(n_jobs)


def stopped_at(name: str, reason: str) -> SourceError:
    """Return the error that ends a run with `on_error="stop"`."""
    return SourceError(f"{name}: {reason}", "fix or remove the photo, or leave it out with --on-error skip")
