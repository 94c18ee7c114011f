"""`extract`: fill the cache with whatever is missing, and with nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.arguments import check_arguments
from pipeline.backbone import Backbone
from pipeline.cache import DEFAULT_FOLDER, FeatureCache, cache_at
from pipeline.cache.layout import STORE_TYPES
from pipeline.engines import engine
from pipeline.errors import CacheError, PipelineError, SourceError
from pipeline.extraction.completion import complete_cache
from pipeline.extraction.doubts import verify_rows
from pipeline.extraction.known import known_ids
from pipeline.extraction.parts import PartNumber, complete_parts, partition_of
from pipeline.extraction.shelf import CacheCandidates
from pipeline.extraction.summary import summarise
from pipeline.extraction.work import EncodingOptions, ExtractionJob, ExtractionStats, check_numbers, stopped_at
from pipeline.images import DECODES, PHOTO_RULES, ImageSource, decoder_of
from pipeline.progress import SILENT, Progress
from pipeline.provenance import Recipe
from pipeline.runtime import GRAPHS_FOLDER, PRECISIONS, devices_of, runtime_name


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
        raise PipelineError(f"recheck: wanted a number of rows, found {recheck}", "--recheck 10")
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
        raise SourceError(f"on_error: wanted skip or stop, found {on_error!r}", "--on-error skip")
    if precision not in PRECISIONS:
        raise CacheError(f"precision: wanted {', '.join(PRECISIONS)}, found {precision!r}", "--precision fp32")
    if store not in STORE_TYPES:
        raise CacheError(f"store: wanted {' or '.join(STORE_TYPES)}, found {store!r}", "--store fp32")
    if decode not in DECODES:
        raise SourceError(f"decode: wanted {' or '.join(DECODES)}, found {decode!r}", "--decode exact")
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
