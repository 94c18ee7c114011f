"""The one cache of these images under this recipe: found whole, or made and filled."""

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
from pipeline.extraction.job import EncodingOptions, ExtractionJob, ExtractionStats
from pipeline.images import (
    CHANGED_PHOTOS,
    EARLIER_RULES,
    PHOTO_RULES,
    ImageSource,
    decode_mode,
    decoder_of,
    name_and_place,
    shards_of,
)
from pipeline.images.listing import share_place
from pipeline.provenance import installed
from pipeline.runtime import PRECISIONS


@dataclass(frozen=True, eq=False)
class CacheCandidates:
    """What `complete` finds.

    Attributes
    ----------
    found : list of FeatureCache
        Of one file each, newest first.
    refused : mapping of Path to CacheError
        Files that are no caches.
    """

    found: list[FeatureCache]
    refused: Mapping[Path, CacheError] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> CacheCandidates:
        """Return what lies in a folder of caches."""
        found, refused = caches_in(folder)
        return cls([part for cache in found for part in cache.parts], refused)


class PartCacheCandidates:
    """What each part finds: its own earlier files, and all that is not another part of the same cache.

    Looked through once for all parts. The other parts are left out, because to compare each with all of them would cost
    the square of their number; but one whose shard is gone may be where a renamed shard was, and is kept.

    Parameters
    ----------
    folder : Path
        Of the parts.
    beside : Path
        The folder of caches that it lies in.
    places : container of str
        Of all parts there are to be.
    """

    def __init__(self, folder: Path, beside: Path, places: Container[str]) -> None:
        mine, refused = caches_in(folder)
        self._refused = refused
        self._own: dict[str, list[FeatureCache]] = {}
        self._others = [part for cache in caches_in(beside)[0] if cache.path != folder for part in cache.parts]
        self.orphans: list[FeatureCache] = []
        for cache in mine:
            if cache.place in places:
                self._own.setdefault(cache.place, []).append(cache)
            else:
                self.orphans.append(cache)

    def of(self, place: str) -> CacheCandidates:
        """Return what the part of the images at this place finds."""
        return CacheCandidates([*self._own.get(place, []), *self.orphans, *self._others], self._refused)


# A label, a group or a split is shorter. Texts are stored at the length of the longest, so that one report of a page
# in a table would make every row as long.
LONGEST_LABEL = 1000  # characters

_RECORDED = ("transfer-pipeline", "torch", "torchvision", "onnxruntime", "openvino", "pillow", "numpy", "h5py")

Columns = dict[str, list[str | None]]


def complete_cache(
    work: ExtractionJob, layers: Mapping[str, int], folder: Path, counts: ExtractionStats, shelf: CacheCandidates
) -> FeatureCache:
    """Return the cache of these images with no row pending.

    Parameters
    ----------
    work : Work
    layers : mapping of layer name to width
        Those that are wanted.
    folder : Path
        The folder of caches, or of parts.
    counts : Counts
        Added to.
    shelf : Shelf
        The caches that may lend rows.

    Raises
    ------
    PipelineError
        As `extract`.
    """
    source, recipe = work.source, work.recipe.as_dict()
    columns = _short_columns(work, counts)
    relatives = [cache for cache in shelf.found if cache.recipe == recipe]
    earlier_rules = [cache for cache in shelf.found if _differs_in_rules_alone(cache, work)]
    # The same images may be a part of another cache too, in a folder of its own, which is left alone.
    generations = [cache for cache in relatives if cache.place == source.place and cache.path.parent == folder]
    # A layer that was asked for once stays: what comes later never takes it away.
    for cache in generations:
        layers = {**layers, **cache.layers}
    stem = file_stem(source.name, work.recipe, source.place)
    generation = version_hash(source.ids, source.stat, columns, layers)
    path = version_path(folder, stem, generation)

    doubts = np.zeros(0, np.int64)
    if path.exists():
        cache = _open(path, work, generation)
        doubts = stale_rows(source, cache, rehash=work.rehash, n_jobs=work.n_jobs)
        if not doubts.size and cache.is_sound():
            _retire_others(generations, stem, path)
            return cache
    else:
        _tell_of_others(work, counts, shelf, generations, stem, layers)
        if not generations:
            _tell_of_earlier_rules(work, counts, earlier_rules, layers)

    lenders = list(_held(cache for cache in relatives if cache.path != path))
    earlier = [cache for cache in lenders if cache.place == source.place]
    remove_left_over(folder)
    # The lock comes before the file, so that two who start together do not both make it.
    with _locked(folder, path) as lock:
        made = not path.exists()
        if made:
            create_cache(
                path,
                ids=source.ids,
                stat=source.stat,
                columns=columns,
                layers=layers,
                store=work.recipe.store,
                provenance={**_provenance(work, layers), "generation": generation},
            )
        cache = _open(path, work, generation)
        with CacheWriter(cache, lock) as writer:
            if not made:
                # What is still pending may have been damaged too, and has no checksum yet to tell.
                pending = np.flatnonzero(cache.status == PENDING)
                again = np.unique(np.concatenate([doubts, cache.damaged(), pending]))
                writer.reset(again, source.ids, source.stat, columns)
            fill(work, writer, lenders, earlier, list(_held(earlier_rules)), counts)
    _retire_others(generations, stem, path)
    return FeatureCache.open(path)


def _open(path: Path, work: ExtractionJob, generation: str) -> FeatureCache:
    """Open the file of this name, and refuse it if it is not what its name says."""
    cache = FeatureCache.open(path)
    said = (cache.recipe, cache.place, cache.provenance.get("generation"), len(cache))
    if said != (work.recipe.as_dict(), work.source.place, generation, len(work.source)):
        raise CacheError(
            f"{path}: expected the features that this name stands for, got those of another cache under it",
            "give the file its own name back, or move it out of the folder",
        )
    return cache


@contextmanager
def _locked(folder: Path, path: Path) -> Iterator[CacheLock]:
    """Hold the lock for making and filling; a file in which nothing came to be stored does not stay behind."""
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
    """Give the caches opened in full, so that another process may retire them while we read; those gone are passed."""
    for cache in caches:
        with suppress(CacheError):
            cache.hold()
            yield cache


def _retire_others(generations: Sequence[FeatureCache], stem: str, path: Path) -> None:
    """Remove the earlier files of this collection that nothing needs, but none that a person has given another name."""
    for cache in generations:
        if cache.path != path and cache.path.name.startswith(f"{stem}-"):
            retire_unreferenced(cache.path)


def _short_columns(work: ExtractionJob, counts: ExtractionStats) -> Columns:
    """Return the source's columns without those that hold long texts, which are named."""
    kept: Columns = {}
    for name, values in work.source.columns.items():
        longest = max(map(len, filter(None, values)), default=0)
        if longest <= LONGEST_LABEL:
            kept[name] = values
        else:
            work.note(f"column {name!r} is not kept in the cache: a text of {longest:,} characters is no label", counts)
    return kept


def _tell_of_others(
    work: ExtractionJob,
    counts: ExtractionStats,
    shelf: CacheCandidates,
    generations: Sequence[FeatureCache],
    stem: str,
    layers: Mapping[str, int],
) -> None:
    """Note what becomes of an earlier cache of these images, or why the ones there cannot be used."""
    for path, error in shelf.refused.items():
        if path.name.startswith(f"{stem}-"):
            work.note(f"an earlier cache cannot be used: {error.message}", counts)
    if generations:
        size = len(work.source) * sum(layers.values()) * work.store_type.itemsize
        needed = is_referenced(generations[0].path)
        becomes = "the older file stays: a run, a score or a model was made from it"
        work.note(
            f"images, labels or layers have changed: what {generations[0].path.name} knows is copied into a new file "
            f"of {size / 1e6:,.1f} MB, and {becomes if needed else 'it is removed when nobody reads it'}",
            counts,
        )
    else:
        for note in _near_misses(work, shelf.found, layers):
            work.note(note, counts)


def _differs_in_rules_alone(cache: FeatureCache, work: ExtractionJob) -> bool:
    """Whether a cache is of the same recipe, made under earlier photo rules that its rows are still good for."""
    earlier = cache.recipe.get("photo_rules")
    return (
        work.recipe.photo_rules == PHOTO_RULES
        and earlier in EARLIER_RULES
        and cache.recipe == {**work.recipe.as_dict(), "photo_rules": earlier}
    )


def _tell_of_earlier_rules(
    work: ExtractionJob, counts: ExtractionStats, caches: Sequence[FeatureCache], layers: Mapping[str, int]
) -> None:
    """Note that rows of caches of the same images are reused although the photo rules have changed since."""
    names = [
        cache.path.name for cache in caches if cache.place == work.source.place and layers.keys() <= cache.layers.keys()
    ]
    if names:
        work.note(
            f"{names[0]} was made under earlier photo rules: its rows are reused, except those of {CHANGED_PHOTOS}, "
            "which are computed again",
            counts,
        )


def _near_misses(work: ExtractionJob, found: Sequence[FeatureCache], layers: Mapping[str, int]) -> list[str]:
    """Return a sentence for each cache of the same images and backbone under another recipe, with what differs."""
    wanted = work.recipe.as_dict()
    sentences: dict[str, str] = {}
    for cache in found:
        if cache.place != work.source.place or cache.recipe.get("backbone") != work.recipe.backbone:
            continue
        differs = cache.differences(wanted)
        if not differs:  # the same images in a cache of their own, or in parts: it lends its rows
            continue
        if _differs_in_rules_alone(cache, work) and layers.keys() <= cache.layers.keys():  # it lends them too
            continue
        sentence = f"{cache.path.name} holds these images too, but differs in {', '.join(differs)}"
        # Of values that there are alone: the sentence is there to be pasted, and the file may be a stranger's.
        choices = {"precision": PRECISIONS, "store": tuple(STORE_TYPES)}
        values = {name: cache.recipe.get(name) for name in differs if name in choices}
        flags = [f"--{name} {value}" for name, value in values.items() if value in choices[name]]
        told = {"precision", "store", "runtime"}
        decode = decode_mode(str(cache.recipe.get("decoder")))
        if decode != work.decode and _decodes_so_here(cache, decode):
            flags.append(f"--decode {decode}")
            told.add("decoder")
        if flags and set(differs) <= told:
            sentence += f"; {' '.join(flags)} would use it"
        sentences.setdefault(stem_of(cache.path), sentence)  # of several generations, the newest
    return list(sentences.values())


def _decodes_so_here(cache: FeatureCache, decode: str) -> bool:
    """Whether this mode makes the pixels that a cache was made of, on this machine too."""
    with suppress(SourceError):  # the library for it is not installed
        return decoder_of(decode) == cache.recipe.get("decoder")
    return False


def _provenance(work: ExtractionJob, layers: Mapping[str, int]) -> dict[str, Any]:
    """Return all that is recorded; of it, the recipe and the place are in the key."""
    return {
        "recipe": work.recipe.as_dict(),
        "place": work.source.place,
        "source": work.source.name,
        **({"part": dict(work.part)} if work.part else {}),
        "backbone": work.backbone.record(),
        # Beside the backbone's record, which travels in models: a place of this machine has no business there.
        **({"weights_file": str(work.backbone.own_file)} if work.backbone.own_file else {}),
        # Whether a column is classes by definition, such as class folders, cannot be told from its texts.
        "kinds": {name: kind for name, kind in work.source.kinds.items() if name in work.source.columns},
        "layers": dict(layers),
        "device": work.device,
        "batch_size": work.batch_size,
        "n_jobs": work.n_jobs,
        "versions": {name: installed(name) for name in _RECORDED},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class PartNumber:
    """Which part of how many: ``3/16`` is the third of sixteen.

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
        """Return the part of ``I/N``, or raise `PipelineError`."""
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        part = cls(int(found[1]), int(found[2])) if found else None
        if part is None or not 1 <= part.number <= part.of:
            raise PipelineError(f"part: expected I/N with I from 1 to N, got {text!r}", "--part 1/16")
        return part


@dataclass(frozen=True, eq=False)
class Partition:
    """How a collection comes in parts.

    Attributes
    ----------
    name : str
        Of the whole, fit for a file's name.
    place : str
        Of the whole, fit for a key.
    places : frozenset of str
        Of every part there is to be.
    sources : sequence of callable
        Each lists one of the parts that are to be made now.
    of : int or None
        How many parts the whole has, where its parts are numbered; None for shards, which have names.
    number : int or None
        Which of them is to be made now.
    whole : bool
        Whether every part there is to be is made now, so that what is left of others can go.
    """

    name: str
    place: str
    places: frozenset[str]
    sources: Sequence[Callable[[], ImageSource]]
    of: int | None = None
    number: int | None = None
    whole: bool = False


def partition_of(data: Any, part: PartNumber | None, **options: Any) -> Partition | None:
    """Return how DATA comes in parts, None where it is to be one file.

    Parameters
    ----------
    data : Any
        As for `ImageSource.open`.
    part : Part or None
        The share that is to be made; shards are shared out among as many by turns.
    **options
        Of `ImageSource.open`.

    Raises
    ------
    SourceError
        More parts were asked for than there are shards.
    """
    shards = list(data.shards) if isinstance(data, ImageSource) else shards_of(data)
    if shards:
        if isinstance(data, ImageSource):
            name, place = data.name, data.place
            options["id_column"], options["label_level"] = data.id_column, data.label_level
        else:
            name, place = name_and_place(data, shards)
        mine = shards if part is None else shards[part.number - 1 :: part.of]
        if not mine:
            raise SourceError(
                f"part {part.number}/{part.of}: expected a share of the shards, got {len(shards)} in all",  # type: ignore[union-attr]
                f"--part I/{len(shards)} at most",
            )
        return Partition(
            name,
            place,
            frozenset(_place_of(shard) for shard in shards),
            [partial(_shard, shard, **options) for shard in mine],
            whole=part is None,
        )
    if part is None:
        return None
    share = ImageSource.open(data, share=(part.number, part.of), **options)
    if not len(share):
        raise SourceError(
            f"part {part.number}/{part.of}: expected a share of the images at {share.place}, got none in it",
            "ask for fewer parts",
        )
    numbered = replace(share, name=f"{PREFIX}{part.number:05d}_of_{part.of:05d}")
    place = share.place.removesuffix(share_place("", part.number, part.of))
    every = frozenset(share_place(place, number, part.of) for number in range(1, part.of + 1))
    return Partition(share.name, place, every, [lambda: numbered], part.of, part.number)


def complete_parts(
    how: EncodingOptions, partition: Partition, layers: dict[str, int], folder: Path, counts: ExtractionStats
) -> tuple[FeatureCache, list[tuple[ExtractionJob, FeatureCache]]]:
    """Return the cache with the parts that are there, and those of them that this run was about.

    Parameters
    ----------
    how : How
    partition : Partition
    layers : dict of layer name to width
    folder : Path
        The folder of caches.
    counts : Counts
        Added to.
    """
    home = folder / file_stem(partition.name, how.recipe, partition.place)
    if partition.of is not None:
        home = home.with_name(f"{home.name}-{partition.of}_parts")  # as many as these: others are another cache
    shelf = PartCacheCandidates(home, folder, partition.places)
    whole: dict[str, Any] = {"place": partition.place, "source": partition.name}
    if partition.of is not None:
        whole |= {"number": partition.number, "of": partition.of}
    done = []
    for listed in partition.sources:
        source = listed()
        how.note_all(source, counts)
        work = how.over(source, whole)
        done.append((work, complete_cache(work, layers, home, counts, shelf.of(source.place))))
    if partition.whole:
        for orphan in shelf.orphans:
            retire_unreferenced(orphan.path)  # its shard is gone, and what it knew has been lent
    return FeatureCache.open(home), done


def _shard(path: str, **options: Any) -> ImageSource:
    source = ImageSource.open(path, **options)
    return replace(source, name=f"{PREFIX}{source.name}")


def _place_of(shard: str) -> str:
    return Path(shard).expanduser().resolve().as_posix()
