"""`extract`: fill the cache with whatever is missing, and with nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.backbone import Backbone
from pipeline.cache import DEFAULT_FOLDER, STORED, FeatureCache, caches_in
from pipeline.cache.layout import STORE_TYPES, SUFFIX
from pipeline.errors import CacheError, PipelineError, SourceError
from pipeline.extraction.completion import complete
from pipeline.extraction.doubts import recompute_and_compare
from pipeline.extraction.work import Counts, Work, check_numbers, stopped_at
from pipeline.images import DECODES, PHOTO_RULES, ImageSource, decoder_of
from pipeline.progress import SILENT, Progress
from pipeline.provenance import Recipe
from pipeline.runtime import GRAPHS_FOLDER, PRECISIONS, runtime_name


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
    decode: str = "exact",
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
        A folder, photos, a table, an array file, a built-in name. A cache, opened or by its file, is returned as it is.
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
    _check(on_error, precision, store, decode, recheck)
    check_numbers(batch_size, n_jobs)
    started = time.perf_counter()
    layers = [layer] if isinstance(layer, str) else list(layer)
    if isinstance(data, str | Path) and str(data).endswith(SUFFIX) and Path(data).is_file():
        data = FeatureCache.open(data)
    if isinstance(data, FeatureCache):
        return _as_it_is(data, layers, started)
    folder = Path(cache)
    source = ImageSource.open(data, id_column=id_column, root=root, known=_known_ids(data, folder))
    network = Backbone.open(backbone, random_state=random_state)
    work = Work(
        source,
        network,
        recipe_of(network, precision=precision, store=store, decode=decode, device=device),
        device=device,
        batch_size=batch_size,
        n_jobs=n_jobs,
        stop=on_error == "stop",
        rehash=rehash,
        graphs=folder / GRAPHS_FOLDER,
        progress=progress,
    )
    for note in source.notes:
        progress.note(note)
    counts = Counts()
    result = complete(work, network.resolve_layers(layers), folder, counts)
    if recheck:
        counts.inferred += recompute_and_compare(work, result, recheck, random_state)
    result.summary = _summary(result, counts, started, source.notes)
    if result.summary.failed and work.stop:
        name, reason = next(iter(result.skipped.items()))
        raise stopped_at(name, reason.text)
    return result


def _check(on_error: str, precision: str, store: str, decode: str, recheck: int) -> None:
    if on_error not in ("skip", "stop"):
        raise SourceError(f"on_error: wanted skip or stop, found {on_error!r}", "--on-error skip")
    if precision not in PRECISIONS:
        raise CacheError(f"precision: wanted {', '.join(PRECISIONS)}, found {precision!r}", "--precision fp32")
    if store not in STORE_TYPES:
        raise CacheError(f"store: wanted {' or '.join(STORE_TYPES)}, found {store!r}", "--store fp32")
    if decode not in DECODES:
        raise SourceError(f"decode: wanted {' or '.join(DECODES)}, found {decode!r}", "--decode exact")
    if recheck < 0:
        raise PipelineError(f"recheck: wanted a number of rows, found {recheck}", "--recheck 10")


def _as_it_is(cache: FeatureCache, layers: Sequence[str], started: float) -> FeatureCache:
    """Return a cache that was given as the data, if it has the layers and every row."""
    for name in layers:
        cache.layer_name(None if name == "all" else name)
    cache.check()
    cache.summary = _summary(cache, Counts(), started, ())
    return cache


def _known_ids(data: Any, folder: Path) -> Callable[[], Container[str]] | None:
    """Return what gives the ids that caches of this place know, so that they are listed without being opened."""
    if not isinstance(data, str | Path):
        return None

    def known() -> Container[str]:
        place = Path(data).expanduser().resolve().as_posix()
        return {name for cache in caches_in(folder)[0] if cache.place == place for name in cache.ids}

    return known


def _summary(cache: FeatureCache, counts: Counts, started: float, notes: Sequence[str]) -> ExtractionSummary:
    failed = int((cache.status > STORED).sum())
    return ExtractionSummary(
        images=len(cache),
        stored=counts.stored,
        reused=len(cache) - counts.stored - failed,
        failed=failed,
        inferred=counts.inferred,
        seconds=round(time.perf_counter() - started, 3),
        notes=(*notes, *counts.notes),
    )


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
