"""`extract`: fill the cache with whatever is missing, and with nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import (
    DEFAULT_FOLDER,
    STORED,
    CacheLock,
    CacheWriter,
    FeatureCache,
    caches_in,
    create,
    file_stem,
    generation_of,
    generation_path,
    retire,
)
from pipeline.cache.layout import STORE_TYPES
from pipeline.errors import CacheError, SkipReason, SourceError
from pipeline.extraction.filling import Counts, Work, fill, recompute_and_compare, stopped_at
from pipeline.extraction.known import to_try_again
from pipeline.images import PHOTO_RULES, ImageSource, decoder_fingerprint
from pipeline.progress import SILENT, Progress
from pipeline.provenance import Recipe
from pipeline.runtime import runtime_name

_RECORDED = ("transfer-pipeline", "torch", "torchvision", "pillow", "numpy", "h5py")


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
        Images that went through the network in this run.
    seconds : float
    notes : tuple of str
        What the run announced.
    """

    images: int
    stored: int
    reused: int
    failed: int
    inferred: int
    seconds: float
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def text(self) -> str:
        """The counts in one line."""
        return (
            f"{self.images:,} images: {self.stored:,} stored, {self.reused:,} reused, {self.failed:,} failed; "
            f"{self.inferred:,} went through the network; {self.seconds:.1f} s"
        )


def extract(
    data: Any,
    *,
    backbone: str | Backbone = "efficientnet_lite0",
    layer: str | Sequence[str] = "penultimate",
    cache: str | Path = DEFAULT_FOLDER,
    precision: str = "fp32",
    store: str = "fp32",
    batch_size: int | None = None,
    on_error: str = "skip",
    rehash: bool = False,
    recheck: int = 0,
    id_column: str | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    n_jobs: int | None = None,
    random_state: int = 0,
    progress: Progress = SILENT,
) -> FeatureCache:
    """Return the cache of these images' features; run the network only over the images that no cache knows.

    Parameters
    ----------
    data : str, Path, list of paths, ndarray of uint8, ImageSource or FeatureCache
        A folder, photos, a table, an array file, a built-in name. A cache is returned as it is.
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
    batch_size : int, optional
        Images that go through the network together; the runtime's own choice when not given.
    on_error : {"skip", "stop"}
        Whether an image that cannot be read is recorded with its reason, or ends the run.
    rehash : bool
        Read every image again and compare its content, instead of trusting size and time.
    recheck : int
        Recompute this many reused rows at random and compare.
    id_column, root
        Of a table; see `ImageSource.open`.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    n_jobs : int, optional
        Workers; the number of cores when not given.
    random_state : int
        Seeds random weights and the choice of rows to recheck.
    progress : Progress
        Hears notes and counts.

    Returns
    -------
    FeatureCache
        Complete; its `summary` is an `ExtractionSummary`.

    Raises
    ------
    PipelineError
        `SourceError`, `BackboneError` or `CacheError`, with the next step.
    """
    if on_error not in ("skip", "stop"):
        raise SourceError(f"on_error: wanted skip or stop, found {on_error!r}", "--on-error skip")
    if store not in STORE_TYPES:
        raise CacheError(f"store: wanted fp32 or fp16, found {store!r}", "--store fp32")
    layer = [layer] if isinstance(layer, str) else list(layer)
    if isinstance(data, FeatureCache):
        for name in layer:
            data.layer_name(name)
        return data
    started = time.perf_counter()
    source = ImageSource.open(data, id_column=id_column, root=root)
    network = backbone if isinstance(backbone, Backbone) else Backbone.open(backbone, random_state=random_state)
    recipe = recipe_of(network, precision=precision, store=store, device=device)
    work = Work(source, network, recipe, device=device, batch_size=batch_size, n_jobs=n_jobs, progress=progress)
    for note in source.notes:
        progress.note(note)
    result, counts = _complete(work, network.resolve_layers(layer), Path(cache), on_error == "stop", rehash)
    if recheck:
        counts.inferred += recompute_and_compare(work, result, recheck, random_state)

    status = result.status
    failed = int((status > STORED).sum())
    if failed and on_error == "stop":
        row = int(np.flatnonzero(status > STORED)[0])
        raise stopped_at(source.ids[row], SkipReason(int(status[row])).text)
    result.summary = ExtractionSummary(
        images=len(source),
        stored=counts.stored,
        reused=len(source) - counts.stored - failed,
        failed=failed,
        inferred=counts.inferred,
        seconds=round(time.perf_counter() - started, 3),
        notes=(*source.notes, *counts.notes),
    )
    return result


def recipe_of(backbone: Backbone, *, precision: str = "fp32", store: str = "fp32", device: str = "auto") -> Recipe:
    """Return all that changes a feature of this backbone on this machine."""
    return Recipe(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        preprocessing=backbone.preprocessing,
        decoder=decoder_fingerprint(),
        photo_rules=PHOTO_RULES,
        architecture=dict(backbone.architecture),
        precision=precision,
        store=store,
        runtime="" if precision == "fp32" else runtime_name(device),
    )


def _complete(
    work: Work, layers: Mapping[str, int], folder: Path, stop: bool, rehash: bool
) -> tuple[FeatureCache, Counts]:
    """Return the cache of these images with no row pending, and what it took."""
    source, counts = work.source, Counts()
    stem = file_stem(source.name, work.recipe, source.place)
    found, _ = caches_in(folder)
    relatives = [cache for cache in found if cache.recipe == work.recipe.as_dict()]
    generations = [cache for cache in relatives if cache.path.name.startswith(f"{stem}-")]
    # A layer that was asked for once stays: what comes later never takes it away.
    for cache in generations:
        layers = {**layers, **cache.layers}
    path = generation_path(folder, stem, generation_of(source.ids, source.stat, source.columns, layers))

    if path.exists() and not rehash:
        cache = FeatureCache.open(path)
        if cache.is_sound() and not to_try_again(cache.status).size:
            _retire_others(generations, path)
            return cache, counts
    if not generations:
        for note in _near_misses(work, found):
            counts.notes.append(note)
            work.progress.note(note)

    # The lock comes before the file, so that two who start together do not both make it.
    with _lock_in(folder, path) as lock:
        if not path.exists():
            create(
                path,
                ids=source.ids,
                stat=source.stat,
                columns=source.columns,
                layers=layers,
                store=work.recipe.store,
                provenance=_provenance(work, layers),
            )
        with CacheWriter(FeatureCache.open(path), lock) as writer:
            fill(work, writer, relatives, generations, counts, stop=stop, rehash=rehash)
    _retire_others(generations, path)
    return FeatureCache.open(path), counts


def _lock_in(folder: Path, path: Path) -> CacheLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return CacheLock.exclusive(path)
    except OSError as error:
        raise CacheError(
            f"{folder}: wanted to write a cache here, found {error.strerror or error}",
            "give a folder that you may write with --cache DIR",
        ) from error


def _retire_others(generations: Sequence[FeatureCache], path: Path) -> None:
    for cache in generations:
        if cache.path != path:
            retire(cache.path)


def _near_misses(work: Work, found: Sequence[FeatureCache]) -> list[str]:
    """Return a sentence for each cache of the same images under another recipe that a flag would reach."""
    wanted = work.recipe.as_dict()
    sentences = []
    for cache in found:
        if cache.provenance["place"] != work.source.place or cache.recipe["backbone"] != work.recipe.backbone:
            continue
        differs = cache.differences(wanted)
        sentence = f"{cache.path.name} holds these images too, but differs in {', '.join(differs)}"
        flags = [f"--{name} {cache.recipe[name]}" for name in differs if name in ("precision", "store")]
        if flags and set(differs) <= {"precision", "store", "runtime"}:
            sentence += f"; {' '.join(flags)} would use it"
        sentences.append(sentence)
    return sentences


def _provenance(work: Work, layers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "recipe": work.recipe.as_dict(),
        "place": work.source.place,
        "source": work.source.name,
        "backbone": work.backbone.record(),
        "layers": dict(layers),
        "device": work.device,
        "versions": {name: _version(name) for name in _RECORDED},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
