"""`extract`: fill the cache with whatever is missing, and with nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.arguments import check_arguments
from pipeline.backbone import Backbone
from pipeline.cache import DEFAULT_FOLDER, STORE_TYPES, STORED, FeatureCache, cache_at
from pipeline.errors import CacheError, PipelineError, SourceError
from pipeline.extraction.build import CacheCandidates, PartNumber, complete_cache, complete_parts, partition_of
from pipeline.extraction.fill import verify_rows
from pipeline.extraction.job import EncodingOptions, ExtractionJob, ExtractionStats, check_numbers, stopped_at
from pipeline.extraction.reuse import known_ids
from pipeline.images import DECODES, PHOTO_RULES, ImageSource, decoder_of
from pipeline.parallel import engine
from pipeline.progress import SILENT, Progress
from pipeline.provenance import Recipe
from pipeline.runtime import GRAPHS_FOLDER, PRECISIONS, devices_of, has_bf16, runtime_name

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


@check_arguments
def extract(
    data: Any,
    *,
    backbone: str | Backbone = "efficientnet_lite0",
    layer: str | Sequence[str] = "penultimate",
    cache: str | Path = DEFAULT_FOLDER,
    precision: str = "fp32",
    store: str = "fp32",
    decode: str = "exact",
    batch_size: int | None = None,
    on_error: str = "skip",
    rehash: bool = False,
    recheck: int | None = None,
    part: str | None = None,
    id_column: str | None = None,
    root: str | Path | None = None,
    label_level: int | None = None,
    device: str = "auto",
    n_jobs: int | None = None,
    dask: str | None = None,
    random_state: int = 0,
    progress: Progress = SILENT,
) -> FeatureCache:
    """Return the cache of these images' features; run the network only over the images that no cache knows.

    Parameters
    ----------
    data : str, Path, list of paths, ndarray of uint8, ImageSource or FeatureCache
        A folder, photos, a table, a tar or Parquet file of images or several such shards, an array file, a built-in
        name. A cache, opened or by its file, is returned as it is.
    backbone : str or Backbone
        ``NAME[:WEIGHTS]``; WEIGHTS is a torchvision enum name, a file, or ``random``.
    layer : str or sequence of str
        ``early``, ``middle``, ``late``, ``penultimate``, ``all``, or exact node names.
    cache : str or Path
        The folder of caches.
    precision : {"fp32", "bf16", "fp16"}
        The network's arithmetic; part of the key.
    store : {"fp32", "fp16"}
        The type of the stored features; part of the key.
    decode : {"exact", "fast"}
        Whether photos become torchvision's pixels bit for bit, or by a quicker resize that differs by a grey level
        here and there (extra ``fast``); part of the key.
    batch_size : int, optional
        Images that go through the network together; the runtime's own choice when not given.
    on_error : {"skip", "stop"}
        Whether an image that cannot be read is recorded with its reason, or ends the run.
    rehash : bool
        Read every image again and compare its content, instead of trusting size and time.
    recheck : int, optional
        Recompute this many reused rows, drawn at random, and compare; 0 for none. When not given, a few where the
        network is loaded for other images anyway.
    part : str, optional
        ``I/N``: make only the part I of N of the cache, from 1, so that N jobs make all of it; shards are shared out
        among the jobs.
    id_column, root
        Of a table; see `ImageSource.open`.
    label_level : int, optional
        The level of the folders whose names are the labels: 1 is the top level of `data`, -1 the folder that an image
        lies in. Found from the names when not given.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    n_jobs : int, optional
        Workers; the number of cores, or of the cluster's threads, when not given.
    dask : str, optional
        Address of a Dask scheduler whose workers do the work, and see the images under the same paths. A cluster that
        `joblib.parallel_config` names is used too.
    random_state : int
        Seeds random weights and the choice of rows to recheck.
    progress : Progress
        Hears notes and counts.

    Returns
    -------
    FeatureCache
        Complete; its `summary` is an `ExtractionSummary`. Of a list or a table (CSV, TSV, or one Parquet file) its rows
        are the inputs, one per input in input order, under the ids as given: an image that is named twice is computed
        and stored once, and is there twice. `FeatureCache.base` is the cache as stored.

    Raises
    ------
    PipelineError
        `SourceError`, `BackboneError` or `CacheError`, with the next step; among them, a reused row that is not what
        the network gives for its image now.
    """
    check_options(
        on_error=on_error,
        precision=precision,
        store=store,
        decode=decode,
        batch_size=batch_size,
        device=device,
        n_jobs=n_jobs,
    )
    if recheck is not None and recheck < 0:
        raise PipelineError(f"recheck: expected a number of rows, got {recheck}", "--recheck 10")
    wanted = None if part is None else PartNumber.read(part)
    layers = [layer] if isinstance(layer, str) else list(layer)
    started = time.perf_counter()
    given = data if isinstance(data, FeatureCache) else cache_at(data)
    if given is not None:
        if label_level is not None:
            raise CacheError(
                f"{given.path.name}: expected images to label by their folders, got a cache, which is not changed",
                f"pipeline evaluate {given.path} --label-level {label_level}",
            )
        return _use_existing_cache(given, layers, started)
    network = Backbone.open(backbone, random_state=random_state)
    how = EncodingOptions(
        backbone=network,
        recipe=recipe_of(network, precision=precision, store=store, decode=decode, device=device),
        device=device,
        batch_size=batch_size,
        n_jobs=n_jobs,
        stop=on_error == "stop",
        rehash=rehash,
        graphs=Path(cache) / GRAPHS_FOLDER,
        progress=progress,
    )
    counts = ExtractionStats()
    with engine(dask):
        widths = network.resolve_layers(layers)
        result, done = _made(
            how, data, wanted, widths, Path(cache), counts, id_column=id_column, root=root, label_level=label_level
        )
        for work, one in done:
            verify_rows(work, one, counts, recheck, random_state)
    mine = [one for _, one in done]
    result.summary = summarise(mine, counts, time.perf_counter() - started, how=how)
    if result.summary.failed and how.stop:
        name, reason = next(item for one in mine for item in one.skipped.items())
        raise stopped_at(name, reason.text)
    return result


def _made(
    how: EncodingOptions,
    data: Any,
    part: PartNumber | None,
    layers: dict[str, int],
    folder: Path,
    counts: ExtractionStats,
    **options: Any,
) -> tuple[FeatureCache, list[tuple[ExtractionJob, FeatureCache]]]:
    """Return the cache, and what of it this run was about: all of it, or the parts that were to be made."""
    options["known"] = known_ids(data, folder)
    partition = partition_of(data, part, **options)
    if partition is not None:
        return complete_parts(how, partition, layers, folder, counts)
    source = ImageSource.open(data, **options)
    how.note_all(source, counts)
    work = how.over(source)
    made = complete_cache(work, layers, folder, counts, CacheCandidates.of(folder))
    asked = source.requested
    return made if asked is None else made.view(asked.ids, asked.rows), [(work, made)]


def check_options(
    *, on_error: str, precision: str, store: str, decode: str, batch_size: int | None, device: str, n_jobs: int | None
) -> None:
    """Raise `PipelineError` for an option with a value that `extract` does not have."""
    if on_error not in ("skip", "stop"):
        raise SourceError(f"on_error: expected skip or stop, got {on_error!r}", "--on-error skip")
    if precision not in PRECISIONS:
        raise CacheError(f"precision: expected {', '.join(PRECISIONS)}, got {precision!r}", "--precision fp32")
    if store not in STORE_TYPES:
        raise CacheError(f"store: expected {' or '.join(STORE_TYPES)}, got {store!r}", "--store fp32")
    if decode not in DECODES:
        raise SourceError(f"decode: expected {' or '.join(DECODES)}, got {decode!r}", "--decode exact")
    check_numbers(batch_size, n_jobs)
    # An unknown name is an error even where every row is reused; whether there is such a GPU matters only for work.
    if device not in ("auto", "cpu") and not device.startswith("cuda"):
        devices_of(device)


def _use_existing_cache(cache: FeatureCache, layers: Sequence[str], started: float) -> FeatureCache:
    """Return a cache that was given as the data, if it has the layers and every row."""
    for name in layers:
        cache.layer_name(None if name == "all" else name)
    cache.check()
    cache.summary = summarise([cache], ExtractionStats(), time.perf_counter() - started)
    return cache


def recipe_of(
    backbone: Backbone,
    *,
    precision: str = "fp32",
    store: str = "fp32",
    decode: str = "exact",
    device: str = "auto",
) -> Recipe:
    """Return all that changes a feature of this backbone on this machine.

    Raises
    ------
    SourceError
        `decode` is "fast", and the library for it is not installed.
    """
    return Recipe(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        preprocessing=backbone.preprocessing,
        decoder=decoder_of(decode),
        photo_rules=PHOTO_RULES,
        architecture=dict(backbone.architecture),
        precision=precision,
        store=store,
        runtime="" if precision == "fp32" else runtime_name(device),
    )
