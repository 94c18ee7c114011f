"""A cache in parts: one a tar shard, or one a share of the images, each made alone and complete in itself.

The parts lie in one folder, which is the cache. A part is listed when its turn comes, so none waits for the listing of
another, and a job array makes them on as many machines as there are (`--part I/N`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cache import FeatureCache, file_stem, retire_unreferenced
from pipeline.cache.parts import PREFIX
from pipeline.errors import PipelineError, SourceError
from pipeline.extraction.completion import complete_cache
from pipeline.extraction.shelf import PartCacheCandidates
from pipeline.extraction.work import EncodingOptions, ExtractionJob, ExtractionStats
from pipeline.images import ImageSource, name_and_place, shards_of
from pipeline.images.listing import share_place


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
            raise PipelineError(f"part: wanted I/N with I from 1 to N, found {text!r}", "--part 1/16")
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
                f"part {part.number}/{part.of}: wanted a share of the shards, found {len(shards)} in all",  # type: ignore[union-attr]
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
            f"part {part.number}/{part.of}: wanted a share of the images at {share.place}, found none in it",
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
