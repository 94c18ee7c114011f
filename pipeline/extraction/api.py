"""What does `extract` do, and what does its summary report?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.arguments import check_arguments
from pipeline.backbone import Backbone
from pipeline.cache import DEFAULT_FOLDER, STORE_TYPES, STORED, FeatureCache, cache_at
from pipeline.errors import CacheError, PipelineError, SourceError
from pipeline.extraction.build import (
    CacheCandidates,
    PartNumber,
    complete_cache,
    complete_parts,
    partition_of,
    parts_folder,
)
from pipeline.extraction.fill import verify_rows
from pipeline.extraction.job import ExtractionJob, ExtractionStats, check_numbers, stopped_at
from pipeline.extraction.reuse import known_ids
from pipeline.images import DECODES, FAST_FULL_SIZE, PHOTO_RULES, ImageSource, decoder_of
from pipeline.parallel import engine
from pipeline.progress import SILENT, Progress
from pipeline.provenance import Recipe
from pipeline.runtime import GRAPHS_FOLDER, PRECISIONS, devices_of, has_bf16, runtime_name

SECONDS_WORTH_ADVICE = 5.0  # a shorter run gets no advice on speed

#: Options that `extract`, `evaluate`, `study` and `ImageEmbedder` share, and that are checked before any work.
CHECKED_OPTIONS = ("on_error", "precision", "store", "decode", "batch_size", "device", "n_jobs")


@dataclass(frozen=True)
class TimeSplit:
    """Shares of the time of all workers, which add up to 1.

    Attributes
    ----------
    decode : float
        From an image's bytes to the network's input.
    network : float
        In the network or waiting for it, without loading it.
    write : float
        Checksums, writing and syncing, in the process that writes.
    wait : float
        Everything else: reading files, waiting for other workers, for Python's lock, or for a core.
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
    """Counts, times and notes of one run of `extract`; ``images == stored + reused + failed``.

    Attributes
    ----------
    images : int
        Images in the source.
    stored : int
        Images whose features this run computed and stored.
    reused : int
        Images whose features existed already, in this cache or in another one of the same recipe.
    failed : int
        Images without features; `FeatureCache.skipped` has the reasons.
    inferred : int
        Images that went through the network in this run, to be stored.
    rechecked : int
        Reused rows that were computed again and compared.
    seconds : float
    notes : tuple of str
        The notes that the run reported.
    time : TimeSplit or None
        Shares of the time; None if no image was decoded.
    runtime : str
        Name and version of the runtime; empty if no network ran in this process.
    advice : str
        How to make it faster; empty for a short run.
    ignored : dict of str to int
        Number of files in the source that are not images, by file ending.
    ignored_text : str
        The same in one line, with the name of one file; empty if there are none.
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
        """Return the summary as plain JSON values."""
        return asdict(self)

    @property
    def text(self) -> str:
        """The stats in one line."""
        rechecked = f"{self.rechecked:,} rechecked; " if self.rechecked else ""
        return (
            f"{self.images:,} images: {self.stored:,} stored, {self.reused:,} reused, {self.failed:,} failed; "
            f"{self.inferred:,} went through the network; {rechecked}{self.seconds:.1f} s"
        )


def summarise(
    caches: Sequence[FeatureCache], stats: ExtractionStats, seconds: float, job: ExtractionJob | None = None
) -> ExtractionSummary:
    """Return the summary of a run.

    Parameters
    ----------
    caches : sequence of FeatureCache
        Those that the run completed, one per part.
    stats : ExtractionStats
    seconds : float
    job : ExtractionJob, optional
        Any job of the run; None for a run that only opened an existing cache.
    """
    images = sum(map(len, caches))
    failed = sum(int((cache.status > STORED).sum()) for cache in caches)
    split = time_split(stats)
    return ExtractionSummary(
        images=images,
        stored=stats.stored,
        reused=images - stats.stored - failed,
        failed=failed,
        inferred=stats.inferred,
        rechecked=stats.rechecked,
        seconds=round(seconds, 3),
        notes=tuple(stats.notes),
        time=split,
        runtime="" if job is None else job.runtimes,
        advice=advice(split, job) if job is not None and split and stats.seconds > SECONDS_WORTH_ADVICE else "",
        ignored=dict(stats.ignored.kinds),
        ignored_text=stats.ignored.text,
    )


def time_split(stats: ExtractionStats) -> TimeSplit | None:
    """Return the shares of the time; None if no image was decoded."""
    decode, network = stats.timing.decode, stats.timing.network
    if not decode:
        return None
    # The clocks of several workers on shared cores can add up to a little more than the time that passed.
    wait = max(0.0, stats.working - decode - network)
    total = decode + network + stats.writing + wait
    return TimeSplit(*(round(part / total, 3) for part in (decode, network, stats.writing, wait)))


def advice(split: TimeSplit, job: ExtractionJob) -> str:
    """Return in one line what limited the speed, and what would help most."""
    limit = max(("decode", "network", "write", "wait"), key=lambda name: getattr(split, name))
    on_gpu = job.device.startswith("cuda")
    is_graph = job.backbone.is_graph  # runs on the CPU in fp32 only
    can_use_bf16 = job.recipe.precision == "fp32" and (on_gpu or has_bf16()) and not is_graph
    options = {
        "decode": [
            *(["--decode fast"] if job.decode == "exact" else []),
            "more --jobs" if job.n_jobs else "a machine with more cores, or a cluster with --dask",
        ],
        "network": [
            *(["--precision bf16"] if can_use_bf16 else []),
            *([] if is_graph else ["more GPUs" if on_gpu else "a GPU"]),
            "a smaller backbone",
        ],
        "write": [
            *(["--store fp16"] if job.recipe.store == "fp32" else []),
            "a folder on a faster disk with --cache DIR",
        ],
        "wait": ["photos on a faster disk", "fewer --jobs where other programs use the cores"],
    }[limit]
    finding = {
        "decode": "decoding is the limit",
        "network": "the network is the limit",
        "write": "writing is the limit",
        "wait": "waiting is the limit, for files or for cores",
    }[limit]
    return f"{finding}: {', or '.join(options)}"


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
    """Compute the features of images and return their cache; the network runs only on images that no cache holds.

    Parameters
    ----------
    data : str, Path, list of paths, ndarray of uint8, ImageSource or FeatureCache
        A folder, photos, a table, a tar or Parquet file of images or several such shards, an array file, or a built-in
        name. A cache, opened or as a path, is checked and returned.
    backbone : str or Backbone
        ``NAME[:WEIGHTS]``; WEIGHTS is a torchvision enum name, a file, or ``random``.
    layer : str or sequence of str
        ``early``, ``middle``, ``late``, ``penultimate``, ``all``, or exact node names.
    cache : str or Path
        The folder of caches.
    precision : {"fp32", "bf16", "fp16"}
        The network's arithmetic; part of the cache key.
    store : {"fp32", "fp16"}
        The type of the stored features; part of the cache key.
    decode : {"exact", "fast"}
        ``exact`` gives torchvision's pixels bit for bit. ``fast`` decodes large JPEGs at a reduced scale and resizes
        faster; pixels differ by a few grey levels in places (extra ``fast``). Part of the cache key.
    batch_size : int, optional
        Images that go through the network together; by default the runtime chooses.
    on_error : {"skip", "stop"}
        Whether an image that cannot be read is recorded with its reason, or ends the run.
    rehash : bool
        Read every image again and compare its content, instead of trusting file size and time.
    recheck : int, optional
        Compute this many reused rows again, drawn at random, and compare; 0 for none. By default a few, if the network
        is loaded for other images anyway.
    part : str, optional
        ``I/N``: extract only part I of N, from 1, so that N jobs extract the whole; shards are distributed among the
        jobs.
    id_column, root
        For a table; see `ImageSource.open`.
    label_level : int, optional
        The level of the folders whose names are the labels: 1 is the top level of `data`, -1 the folder that holds an
        image. By default it is inferred from the names.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    n_jobs : int, optional
        Number of workers; by default the number of cores, or of the cluster's threads.
    dask : str, optional
        Address of a Dask scheduler whose workers do the work; they must see the images under the same paths. A cluster
        set with `joblib.parallel_config` is used too.
    random_state : int
        Seeds random weights and the choice of rows to recheck.
    progress : Progress
        Receives notes and counts.

    Returns
    -------
    FeatureCache
        Complete; its `summary` is an `ExtractionSummary`. For a list or a table (CSV, TSV, or one Parquet file) it has
        one row per input, in input order and under the ids as given: an image that is named twice is computed and
        stored once, and has two rows. `FeatureCache.base` is the cache as stored.

    Raises
    ------
    PipelineError
        `SourceError`, `BackboneError` or `CacheError`, with the next step. A reused row that differs from what the
        network computes now is a `CacheError`.

    Examples
    --------
    >>> import pipeline as pl
    >>> cache = pl.extract("photos", layer="penultimate")  # doctest: +SKIP
    >>> cache.features().shape  # doctest: +SKIP
    (348, 1280)
    """
    check_options(locals())  # here, no other name is bound yet
    if recheck is not None and recheck < 0:
        raise PipelineError(f"recheck: expected a number of rows, got {recheck}", "--recheck 10")
    part_number = None if part is None else PartNumber.read(part)
    layers = [layer] if isinstance(layer, str) else list(layer)
    started = time.perf_counter()
    existing = data if isinstance(data, FeatureCache) else cache_at(data)
    if existing is not None:
        if label_level is not None:
            raise CacheError(
                f"{existing.path.name}: expected images to label by their folders, got a cache, which is not changed",
                f"pipeline evaluate {existing.path} --label-level {label_level}",
            )
        return _use_existing_cache(existing, layers, started)
    network = Backbone.open(backbone, random_state=random_state)
    recipe = recipe_of(network, precision=precision, store=store, decode=decode, device=device)
    # Every setting but the images: a source in parts has one job per part.
    make_job = partial(
        ExtractionJob,
        backbone=network,
        recipe=recipe,
        device=device,
        batch_size=batch_size,
        n_jobs=n_jobs,
        stop=on_error == "stop",
        rehash=rehash,
        graphs=Path(cache) / GRAPHS_FOLDER,
        progress=progress,
        networks={},  # one dictionary, so that the jobs share their networks
    )
    stats, folder = ExtractionStats(), Path(cache)
    with engine(dask):
        widths = network.resolve_layers(layers)
        options: dict[str, Any] = {"id_column": id_column, "root": root, "label_level": label_level}
        options["known"] = known_ids(data, folder)
        partition = partition_of(data, part_number, **options)
        if partition is None:
            job = make_job(source=ImageSource.open(data, **options))
            job.note_source(stats)
            stored = complete_cache(job, widths, folder, stats, CacheCandidates.of(folder))
            rows = job.source.requested
            result, done = stored if rows is None else stored.view(rows.ids, rows.rows), [(job, stored)]
        else:
            home = parts_folder(partition, recipe, folder)
            result, done = complete_parts(make_job, partition, widths, home, folder, stats)
        for job, completed in done:
            verify_rows(job, completed, stats, recheck, random_state)
    caches = [completed for _, completed in done]
    result.summary = summarise(caches, stats, time.perf_counter() - started, done[0][0])
    if result.summary.failed and on_error == "stop":
        name, reason = next(item for completed in caches for item in completed.skipped.items())
        raise stopped_at(name, reason.text)
    return result


def check_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `extract` that `evaluate` and `study` pass on, checked; other arguments are left out.

    Parameters
    ----------
    arguments : mapping of str
        The arguments of a call by name; it has at least those of `CHECKED_OPTIONS`.

    Raises
    ------
    PipelineError
        `extract` does not accept the value of an option.
    """
    on_error, precision, store, decode, batch_size, device, n_jobs = (arguments[name] for name in CHECKED_OPTIONS)
    if on_error not in ("skip", "stop"):
        raise SourceError(f"on_error: expected skip or stop, got {on_error!r}", "--on-error skip")
    if precision not in PRECISIONS:
        raise CacheError(f"precision: expected {', '.join(PRECISIONS)}, got {precision!r}", "--precision fp32")
    if store not in STORE_TYPES:
        raise CacheError(f"store: expected {' or '.join(STORE_TYPES)}, got {store!r}", "--store fp32")
    if decode not in (*DECODES, FAST_FULL_SIZE):  # the last is the mode of models of earlier versions
        raise SourceError(f"decode: expected {' or '.join(DECODES)}, got {decode!r}", "--decode exact")
    check_numbers(batch_size, n_jobs)
    # An unknown name is an error even if every row is reused. Whether the GPU exists is checked when it is used.
    if device not in ("auto", "cpu") and not device.startswith("cuda"):
        devices_of(device)
    return {name: arguments[name] for name in (*CHECKED_OPTIONS, "random_state") if name in arguments}


def _use_existing_cache(cache: FeatureCache, layers: Sequence[str], started: float) -> FeatureCache:
    """Return a cache that was passed as the data, after checking its layers and rows."""
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
    """Return the recipe of this backbone's features on this machine: every setting that changes a feature.

    Raises
    ------
    SourceError
        `decode` is "fast" and the library for it is not installed.
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
