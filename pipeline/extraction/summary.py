"""What one run of `extract` did, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.cache import STORED, FeatureCache
from pipeline.extraction.work import EncodingOptions, ExtractionStats
from pipeline.runtime import has_bf16

SECONDS_WORTH_ADVICE = 5.0  # of a run; below that nothing needs to be faster


@dataclass(frozen=True)
class TimeSplit:
    """Where the time of all workers went, in shares that add up to 1.

    Attributes
    ----------
    decode : float
        From an image's bytes to the network's input.
    network : float
        In it, or waiting for it; not while it was loaded.
    write : float
        Checksums, writing and syncing of the one that writes.
    wait : float
        Reading bytes, and waiting for whatever else: a place, Python's lock, a core that others use.
    """

    decode: float
    network: float
    write: float
    wait: float

    @property
    def text(self) -> str:
        """The shares in one line."""
        return "time: " + " | ".join(f"{name} {share:.0%}" for name, share in asdict(self).items())


@dataclass(frozen=True)
class ExtractionSummary:
    """What one run of `extract` did. Always ``images == stored + reused + failed``.

    Attributes
    ----------
    images : int
        Images in the source.
    stored : int
        Features that this run computed and stored.
    reused : int
        Features that were there already, in this cache or in another one of the same recipe.
    failed : int
        Images without features; `FeatureCache.skipped` says why.
    inferred : int
        Images that went through the network in this run, to be stored.
    rechecked : int
        Reused rows that were computed once more and compared.
    seconds : float
    notes : tuple of str
        What the run announced.
    time : TimeSplit or None
        Where the time went; None where no image was decoded.
    runtime : str
        Name and version of what ran the network, empty where other processes or nobody did.
    advice : str
        What would make it faster; empty for a short run.
    ignored : dict of str to int
        Files of the source that are no images, by the ending of their names.
    ignored_text : str
        The same in one line, with one of the files; empty where there are none.
    """

    images: int
    stored: int
    reused: int
    failed: int
    inferred: int
    seconds: float
    rechecked: int = 0
    notes: tuple[str, ...] = ()
    time: TimeSplit | None = None
    runtime: str = ""
    advice: str = ""
    ignored: dict[str, int] = field(default_factory=dict)
    ignored_text: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def text(self) -> str:
        """The counts in one line."""
        again = f"{self.rechecked:,} rechecked; " if self.rechecked else ""
        return (
            f"{self.images:,} images: {self.stored:,} stored, {self.reused:,} reused, {self.failed:,} failed; "
            f"{self.inferred:,} went through the network; {again}{self.seconds:.1f} s"
        )


def summarise(
    caches: Sequence[FeatureCache], counts: ExtractionStats, seconds: float, how: EncodingOptions | None = None
) -> ExtractionSummary:
    """Return what a run came to: the caches that it was about, what it counted, and how unless nothing was run."""
    images = sum(map(len, caches))
    failed = sum(int((cache.status > STORED).sum()) for cache in caches)
    split = time_split(counts)
    return ExtractionSummary(
        images=images,
        stored=counts.stored,
        reused=images - counts.stored - failed,
        failed=failed,
        inferred=counts.inferred,
        rechecked=counts.rechecked,
        seconds=round(seconds, 3),
        notes=tuple(counts.notes),
        time=split,
        runtime="" if how is None else how.runtimes,
        advice=advice(split, how) if how is not None and split and counts.seconds > SECONDS_WORTH_ADVICE else "",
        ignored=dict(counts.ignored.kinds),
        ignored_text=counts.ignored.text,
    )


def time_split(counts: ExtractionStats) -> TimeSplit | None:
    """Return the shares of what was counted; None where no image was decoded."""
    decode, network = counts.spent.decode, counts.spent.network
    if not decode:
        return None
    # Clocks of several workers on shared cores add up to a little more than there was.
    wait = max(0.0, counts.working - decode - network)
    whole = decode + network + counts.writing + wait
    return TimeSplit(*(round(part / whole, 3) for part in (decode, network, counts.writing, wait)))


def advice(split: TimeSplit, how: EncodingOptions) -> str:
    """Return what would help most, in one line."""
    limit = max(("decode", "network", "write", "wait"), key=lambda name: getattr(split, name))
    on_gpu = how.device.startswith("cuda")
    own = how.backbone.is_graph  # on the CPU, in fp32
    lower = how.recipe.precision == "fp32" and (on_gpu or has_bf16()) and not own
    ways = {
        "decode": [
            *(["--decode fast"] if how.decode == "exact" else []),
            "more --jobs" if how.n_jobs else "a machine with more cores, or a cluster with --dask",
        ],
        "network": [
            *(["--precision bf16"] if lower else []),
            *([] if own else ["more GPUs" if on_gpu else "a GPU"]),
            "a smaller backbone",
        ],
        "write": [
            *(["--store fp16"] if how.recipe.store == "fp32" else []),
            "a folder on a faster disk with --cache DIR",
        ],
        "wait": ["photos on a faster disk", "fewer --jobs where other programs use the cores"],
    }[limit]
    said = {
        "decode": "decoding is the limit",
        "network": "the network is the limit",
        "write": "writing is the limit",
        "wait": "waiting is the limit, for files or for cores",
    }[limit]
    return f"{said}: {', or '.join(ways)}"
