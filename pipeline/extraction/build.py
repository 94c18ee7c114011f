"""How does `extract` find or create the cache file of a source, or of each of its parts?

`complete_cache` completes one file; `partition_of` and `complete_parts` do so for a source in parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import (
    PENDING,
    PREFIX,
    STORE_TYPES,
    CacheLock,
    CacheWriter,
    FeatureCache,
    caches_in,
    cannot_write,
    create_cache,
    file_stem,
    is_referenced,
    make_folder,
    remove_left_over,
    retire_unreferenced,
    stem_of,
    version_hash,
    version_path,
)
from pipeline.errors import CacheError, PipelineError, SourceError
from pipeline.extraction.fill import fill, stale_rows
from pipeline.extraction.job import ExtractionJob, ExtractionStats
from pipeline.images import (
    CHANGED_PHOTOS,
    DECODES,
    EARLIER_RULES,
    FAST_FULL_SIZE,
    PHOTO_RULES,
    ImageSource,
    decode_mode,
    decoder_of,
    name_and_place,
    shards_of,
    share_place,
)
from pipeline.provenance import Recipe, installed
from pipeline.runtime import PRECISIONS


@dataclass(frozen=True, eq=False)
class CacheCandidates:
    """The existing caches that `complete_cache` may complete, replace, or reuse rows of.

    Attributes
    ----------
    found : list of FeatureCache
        Of one file each, newest first.
    unreadable : mapping of Path to CacheError
        Files that are not caches, with the reason.
    """

    found: list[FeatureCache]
    unreadable: Mapping[Path, CacheError] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> CacheCandidates:
        """Return the caches in a folder, those in parts as one candidate per part."""
        found, unreadable = caches_in(folder)
        return cls([part for cache in found for part in cache.parts], unreadable)


class PartCacheCandidates:
    """The candidates for every part of one cache, listed once for all parts.

    A part gets its own earlier files and every cache that is not a part of this one. The other parts are left out,
    because comparing each part with all others would take time in the square of their number. A part whose shard no
    longer exists is a candidate for all: its shard may have been renamed.

    Parameters
    ----------
    folder : Path
        The folder of the parts.
    parent : Path
        The folder of caches that holds it.
    places : container of str
        The places of all parts of the cache.
    """

    def __init__(self, folder: Path, parent: Path, places: Container[str]) -> None:
        parts, self._unreadable = caches_in(folder)
        self._by_place: dict[str, list[FeatureCache]] = {}
        self._others = [part for cache in caches_in(parent)[0] if cache.path != folder for part in cache.parts]
        self.orphans: list[FeatureCache] = []
        for cache in parts:
            if cache.place in places:
                self._by_place.setdefault(cache.place, []).append(cache)
            else:
                self.orphans.append(cache)

    def of(self, place: str) -> CacheCandidates:
        """Return the candidates for the part at this place."""
        return CacheCandidates([*self._by_place.get(place, []), *self.orphans, *self._others], self._unreadable)


# A label, a group or a split is shorter. Texts are stored at the length of the longest, so that a single long text in
# a table would make every row as long.
LONGEST_LABEL = 1000  # characters

_RECORDED = ("transfer-pipeline", "torch", "torchvision", "onnxruntime", "openvino", "pillow", "numpy", "h5py")

Columns = dict[str, list[str | None]]


def complete_cache(
    job: ExtractionJob, layers: Mapping[str, int], folder: Path, stats: ExtractionStats, candidates: CacheCandidates
) -> FeatureCache:
    """Return the complete cache of the job's images, creating or filling it as needed.

    Parameters
    ----------
    job : ExtractionJob
    layers : mapping of layer name to width
        The requested layers.
    folder : Path
        The folder of caches, or of parts.
    stats : ExtractionStats
        Updated.
    candidates : CacheCandidates
        The existing caches.

    Raises
    ------
    PipelineError
        As `extract`.
    """
    source, recipe = job.source, job.recipe.as_dict()
    columns = _short_columns(job, stats)
    compatible = [cache for cache in candidates.found if cache.recipe == recipe]
    earlier_pixels = [cache for cache in candidates.found if _differs_only_in_pixels(cache, job)]
    # Caches of the same images in another folder, such as a part of another cache, are not replaced.
    versions = [cache for cache in compatible if cache.place == source.place and cache.path.parent == folder]
    # Layers of an earlier version are kept: a request for other layers only adds to them.
    for cache in versions:
        layers = {**layers, **cache.layers}
    stem = file_stem(source.name, job.recipe, source.place)
    version = version_hash(source.ids, source.stat, columns, layers)
    path = version_path(folder, stem, version)

    stale = np.zeros(0, np.int64)
    if path.exists():
        cache = _open_version(path, job, version)
        stale = stale_rows(source, cache, rehash=job.rehash, n_jobs=job.n_jobs)
        if not stale.size and cache.is_sound():
            _retire_others(versions, stem, path)
            return cache
    else:
        _note_other_caches(job, stats, candidates, versions, stem, layers)
        if not versions:
            _note_earlier_pixels(job, stats, earlier_pixels, layers)

    source_caches = list(_held(cache for cache in compatible if cache.path != path))
    earlier = [cache for cache in source_caches if cache.place == source.place]
    remove_left_over(folder)
    # Locked before the file is created, so that of two processes that start together only one creates it.
    with _locked(folder, path) as lock:
        is_new = not path.exists()
        if is_new:
            create_cache(
                path,
                ids=source.ids,
                stat=source.stat,
                columns=columns,
                layers=layers,
                store=job.recipe.store,
                provenance={**_provenance(job, layers), "generation": version},
            )
        cache = _open_version(path, job, version)
        with CacheWriter(cache, lock) as writer:
            if not is_new:
                # Pending rows have no checksum, so damage to their ids or labels would not be found: write them again.
                pending = np.flatnonzero(cache.status == PENDING)
                to_reset = np.unique(np.concatenate([stale, cache.damaged(), pending]))
                writer.reset(to_reset, source.ids, source.stat, columns)
            fill(job, writer, source_caches, earlier, list(_held(earlier_pixels)), stats)
    _retire_others(versions, stem, path)
    return FeatureCache.open(path)


def _open_version(path: Path, job: ExtractionJob, version: str) -> FeatureCache:
    """Open the file of this version; raise `CacheError` if its content belongs to another name."""
    cache = FeatureCache.open(path)
    found = (cache.recipe, cache.place, cache.provenance.get("generation"), len(cache))
    if found != (job.recipe.as_dict(), job.source.place, version, len(job.source)):
        raise CacheError(
            f"{path}: expected the features that belong to this name, got those of another cache",
            "give the file its original name back, or move it out of the folder",
        )
    return cache


@contextmanager
def _locked(folder: Path, path: Path) -> Iterator[CacheLock]:
    """Hold the cache's lock while it is created and filled; after an error, remove a file without any stored row."""
    try:
        make_folder(folder)
        lock = CacheLock.exclusive(path)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield lock
    except BaseException:
        with suppress(CacheError, OSError):
            if path.exists() and (FeatureCache.open(path).status == PENDING).all():
                path.unlink()
        raise
    finally:
        if path.exists():
            lock.release()
        else:
            lock.release_and_forget()


def _held(caches: Iterable[FeatureCache]) -> Iterator[FeatureCache]:
    """Yield the caches with every dataset opened, so that their files may be removed meanwhile; skip those gone."""
    for cache in caches:
        with suppress(CacheError):
            cache.hold()
            yield cache


def _retire_others(versions: Sequence[FeatureCache], stem: str, path: Path) -> None:
    """Remove the other versions of this cache that nothing refers to, but no file that the user has renamed."""
    for cache in versions:
        if cache.path != path and cache.path.name.startswith(f"{stem}-"):
            retire_unreferenced(cache.path)


def _short_columns(job: ExtractionJob, stats: ExtractionStats) -> Columns:
    """Return the source's columns without those that hold long texts, each of which is noted."""
    kept: Columns = {}
    for name, values in job.source.columns.items():
        longest = max(map(len, filter(None, values)), default=0)
        if longest <= LONGEST_LABEL:
            kept[name] = values
        else:
            job.note(
                f"column {name!r} is not kept in the cache: a text of {longest:,} characters is not a label", stats
            )
    return kept


def _note_other_caches(
    job: ExtractionJob,
    stats: ExtractionStats,
    candidates: CacheCandidates,
    versions: Sequence[FeatureCache],
    stem: str,
    layers: Mapping[str, int],
) -> None:
    """Note what happens to an earlier version of the cache, or why existing caches of these images cannot be used."""
    for path, error in candidates.unreadable.items():
        if path.name.startswith(f"{stem}-"):
            job.note(f"an earlier cache cannot be used: {error.message}", stats)
    if versions:
        size = len(job.source) * sum(layers.values()) * job.store_type.itemsize
        if is_referenced(versions[0].path):
            outcome = "the older file stays: a run, a score or a model was made from it"
        else:
            outcome = "the older file is removed when no process reads it"
        job.note(
            f"images, labels or layers have changed: rows of {versions[0].path.name} are copied into a new file "
            f"of {size / 1e6:,.1f} MB, and {outcome}",
            stats,
        )
    else:
        for note in _near_misses(job, candidates.found, layers):
            job.note(note, stats)


def _differs_only_in_pixels(cache: FeatureCache, job: ExtractionJob) -> bool:
    """Return whether a cache has the job's recipe except for how an earlier version read some photos.

    Its rows can be reused for the other photos: see `EarlierPixels`.
    """
    expected = job.recipe.as_dict()
    earlier = {}
    if job.recipe.photo_rules == PHOTO_RULES and cache.recipe.get("photo_rules") in EARLIER_RULES:
        earlier["photo_rules"] = cache.recipe["photo_rules"]
    if job.decode == "fast" and _has_same_decoder(cache, FAST_FULL_SIZE):
        earlier["decoder"] = cache.recipe["decoder"]
    return bool(earlier) and cache.recipe == {**expected, **earlier}


def _note_earlier_pixels(
    job: ExtractionJob, stats: ExtractionStats, caches: Sequence[FeatureCache], layers: Mapping[str, int]
) -> None:
    """Note which rows of a cache of the same images cannot be reused because photos are read in another way since."""
    for cache in caches:
        if cache.place != job.source.place or not layers.keys() <= cache.layers.keys():
            continue
        before, changed = [], []
        if cache.recipe.get("photo_rules") != job.recipe.photo_rules:
            before.append("under earlier photo rules")
            changed.append(CHANGED_PHOTOS)
        if cache.recipe.get("decoder") != job.recipe.decoder:
            before.append("before `--decode fast` reduced large photos")
            changed.append("large JPEG photos")
        job.note(
            f"{cache.path.name} was made {' and '.join(before)}: its rows are reused, except those of "
            f"{' and of '.join(changed)}, which are computed again",
            stats,
        )
        return


def _near_misses(job: ExtractionJob, found: Sequence[FeatureCache], layers: Mapping[str, int]) -> list[str]:
    """Return a note for each cache of the same images and backbone under another recipe, with the differences."""
    recipe = job.recipe.as_dict()
    sentences: dict[str, str] = {}
    for cache in found:
        if cache.place != job.source.place or cache.recipe.get("backbone") != job.recipe.backbone:
            continue
        differs = cache.differences(recipe)
        if not differs:  # the same images alone or in parts: its rows are reused
            continue
        if _differs_only_in_pixels(cache, job) and layers.keys() <= cache.layers.keys():  # its rows are reused too
            continue
        sentence = f"{cache.path.name} holds these images too, but differs in {', '.join(differs)}"
        # Only values that the options have: the user may paste the flags, and the file is untrusted.
        choices = {"precision": PRECISIONS, "store": tuple(STORE_TYPES)}
        values = {name: cache.recipe.get(name) for name in differs if name in choices}
        flags = [f"--{name} {value}" for name, value in values.items() if value in choices[name]]
        settable = {"precision", "store", "runtime"}
        decode = decode_mode(str(cache.recipe.get("decoder")))
        if decode in DECODES and decode != job.decode and _has_same_decoder(cache, decode):
            flags.append(f"--decode {decode}")
            settable.add("decoder")
        if flags and set(differs) <= settable:
            sentence += f"; {' '.join(flags)} would use it"
        sentences.setdefault(stem_of(cache.path), sentence)  # candidates are newest first: the newest version is named
    return list(sentences.values())


def _has_same_decoder(cache: FeatureCache, decode: str) -> bool:
    """Return whether this decode mode gives the cache's pixels on this machine."""
    with suppress(SourceError):  # the library for it is not installed
        return decoder_of(decode) == cache.recipe.get("decoder")
    return False


def _provenance(job: ExtractionJob, layers: Mapping[str, int]) -> dict[str, Any]:
    """Return the provenance that is stored in the file; only the recipe and the place are part of its key."""
    return {
        "recipe": job.recipe.as_dict(),
        "place": job.source.place,
        "source": job.source.name,
        **({"part": dict(job.part)} if job.part else {}),
        "backbone": job.backbone.record(),
        # Outside the backbone's record: that is copied into models, which must not hold a path of this machine.
        **({"weights_file": str(job.backbone.own_file)} if job.backbone.own_file else {}),
        # A source may state that a column holds classes, such as class folders; its texts alone do not show it.
        "kinds": {name: kind for name, kind in job.source.kinds.items() if name in job.source.columns},
        "layers": dict(layers),
        "device": job.device,
        "batch_size": job.batch_size,
        "n_jobs": job.n_jobs,
        "versions": {name: installed(name) for name in _RECORDED},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class PartNumber:
    """The number of a part and of all parts: ``3/16`` is the third of sixteen.

    Attributes
    ----------
    number : int
        From 1.
    of : int
    """

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> PartNumber:
        """Parse ``I/N``; raise `PipelineError` for anything else."""
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        part = cls(int(found[1]), int(found[2])) if found else None
        if part is None or not 1 <= part.number <= part.of:
            raise PipelineError(f"part: expected I/N with I from 1 to N, got {text!r}", "--part 1/16")
        return part


@dataclass(frozen=True, eq=False)
class Partition:
    """The parts of a source and those of them that this run extracts.

    Attributes
    ----------
    name : str
        The name of the whole, for file names.
    place : str
        The place of the whole, for the key.
    places : frozenset of str
        The places of all parts.
    sources : sequence of callable
        Each opens the source of one part that this run extracts.
    of : int or None
        Number of parts, if parts are numbered shares; None for shards, which have names.
    number : int or None
        The share that this run extracts.
    whole : bool
        Whether this run extracts every part, so that leftover files of other parts can be removed.
    """

    name: str
    place: str
    places: frozenset[str]
    sources: Sequence[Callable[[], ImageSource]]
    of: int | None = None
    number: int | None = None
    whole: bool = False


def partition_of(data: Any, part: PartNumber | None, **options: Any) -> Partition | None:
    """Return the parts of a source, None if its cache is a single file.

    Parameters
    ----------
    data : Any
        As for `ImageSource.open`.
    part : PartNumber or None
        The share to extract; of shards, every N-th from the I-th.
    **options
        Of `ImageSource.open`.

    Raises
    ------
    SourceError
        There are more parts than shards or images.
    """
    shards = list(data.shards) if isinstance(data, ImageSource) else shards_of(data)
    if shards:
        if isinstance(data, ImageSource):
            name, place = data.name, data.place
            options["id_column"], options["label_level"] = data.id_column, data.label_level
        else:
            name, place = name_and_place(data, shards)
        selected = shards if part is None else shards[part.number - 1 :: part.of]
        if part is not None and not selected:
            raise SourceError(
                f"part {part.number}/{part.of}: expected at most as many parts as shards, got {len(shards)} shards",
                f"--part I/{len(shards)} at most",
            )
        return Partition(
            name,
            place,
            frozenset(_place_of(shard) for shard in shards),
            [partial(_open_shard, shard, **options) for shard in selected],
            whole=part is None,
        )
    if part is None:
        return None
    share = ImageSource.open(data, share=(part.number, part.of), **options)
    if not len(share):
        raise SourceError(
            f"part {part.number}/{part.of}: expected a share of the images at {share.place}, got no image in it",
            "use fewer parts",
        )
    numbered = replace(share, name=f"{PREFIX}{part.number:05d}_of_{part.of:05d}")
    place = share.place.removesuffix(share_place("", part.number, part.of))
    every = frozenset(share_place(place, number, part.of) for number in range(1, part.of + 1))
    return Partition(share.name, place, every, [lambda: numbered], part.of, part.number)


def complete_parts(
    make_job: Callable[..., ExtractionJob],
    partition: Partition,
    layers: dict[str, int],
    home: Path,
    folder: Path,
    stats: ExtractionStats,
) -> tuple[FeatureCache, list[tuple[ExtractionJob, FeatureCache]]]:
    """Return the cache with all parts that exist so far, and the job and cache of each part of this run.

    Parameters
    ----------
    make_job : callable
        Returns the job of a ``source=`` and ``part=``.
    partition : Partition
    layers : dict of layer name to width
    home : Path
        The folder of the parts.
    folder : Path
        The folder of caches.
    stats : ExtractionStats
        Updated.
    """
    candidates = PartCacheCandidates(home, folder, partition.places)
    part: dict[str, Any] = {"place": partition.place, "source": partition.name}
    if partition.of is not None:
        part |= {"number": partition.number, "of": partition.of}
    done = []
    for open_source in partition.sources:
        job = make_job(source=open_source(), part=part)
        job.note_source(stats)
        done.append((job, complete_cache(job, layers, home, stats, candidates.of(job.source.place))))
    if partition.whole:
        for orphan in candidates.orphans:
            retire_unreferenced(orphan.path)  # its shard no longer exists, and its rows have been reused
    return FeatureCache.open(home), done


def parts_folder(partition: Partition, recipe: Recipe, folder: Path) -> Path:
    """Return the folder of the parts; another number of shares is another cache."""
    home = folder / file_stem(partition.name, recipe, partition.place)
    return home if partition.of is None else home.with_name(f"{home.name}-{partition.of}_parts")


def _open_shard(path: str, **options: Any) -> ImageSource:
    source = ImageSource.open(path, **options)
    return replace(source, name=f"{PREFIX}{source.name}")


def _place_of(shard: str) -> str:
    return Path(shard).expanduser().resolve().as_posix()
