"""A cache in parts: one a tar shard, or one a share of the images, each made alone and complete in itself.

The parts lie in one folder, which is the cache. A part is listed when its turn comes, so none waits for the listing of
another, and a job array makes them on as many machines as there are (`--part I/N`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pipeline.cache import FeatureCache, file_stem, retire
from pipeline.cache.parts import PREFIX
from pipeline.errors import PipelineError, SourceError
from pipeline.extraction.completion import complete
from pipeline.extraction.shelf import PartsShelf
from pipeline.extraction.work import Counts, Work
from pipeline.images import ImageSource, shards_of, short_name


@dataclass(frozen=True)
class Part:
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
    def read(cls, text: str) -> Part:
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
    shards : bool
        Whether every part there is to be is made now, so that what is left of others can go.
    """

    name: str
    place: str
    places: frozenset[str]
    sources: Sequence[Callable[[], ImageSource]]
    of: int | None = None
    number: int | None = None
    whole: bool = False


def partition_of(data: Any, part: Part | None, **options: Any) -> Partition | None:
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
        name, place = _of_shards(data, shards)
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
            [lambda shard=shard: _shard(shard) for shard in mine],  # type: ignore[misc]
            whole=part is None,
        )
    if part is None:
        return None
    source = ImageSource.open(data, **options)
    share = source.share(part.number, part.of)
    if not len(share):
        raise SourceError(
            f"part {part.number}/{part.of}: wanted a share of {source.place}, found that its {len(source):,} images "
            "leave none for it",
            "ask for fewer parts",
        )
    numbered = replace(share, name=f"{PREFIX}{part.number:05d}_of_{part.of:05d}")
    return Partition(source.name, source.place, frozenset([share.place]), [lambda: numbered], part.of, part.number)


def complete_parts(
    work: Work, partition: Partition, layers: dict[str, int], folder: Path, counts: Counts
) -> tuple[FeatureCache, list[FeatureCache]]:
    """Return the cache with the parts that are there, and those of them that this run was about.

    Parameters
    ----------
    work : Work
        Its source is that of each part in turn.
    partition : Partition
    layers : dict of layer name to width
    folder : Path
        The folder of caches.
    counts : Counts
        Added to.
    """
    home = folder / file_stem(partition.name, work.recipe, partition.place)
    shelf = PartsShelf(home, folder, partition.places)
    whole = {"place": partition.place, "source": partition.name}
    if partition.of is not None:
        whole |= {"number": partition.number, "of": partition.of}
    done = []
    for source in _listed(partition):
        for note in source.notes:
            counts.notes.append(note)
            work.progress.note(note)
        one = replace(work, source=source, part=whole)
        done.append(complete(one, layers, home, counts, shelf.of(source.place)))
    if partition.whole:
        for orphan in shelf.orphans:
            retire(orphan.path)  # its shard is gone, and what it knew has been lent
    return FeatureCache.open(home), done


def _listed(partition: Partition) -> Iterator[ImageSource]:
    for listing in partition.sources:
        yield listing()


def _shard(path: str) -> ImageSource:
    source = ImageSource.open(path)
    return replace(source, name=f"{PREFIX}{source.name}")


def _place_of(shard: str) -> str:
    return Path(shard).expanduser().resolve().as_posix()


def _of_shards(data: Any, shards: Sequence[str]) -> tuple[str, str]:
    """Return the name and the place of all shards together: those of what was asked for, so that it may grow."""
    if isinstance(data, ImageSource):
        return data.name, data.place
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        named = re.split(r"[*?\[{]", path.name)[0].strip("-_. ") or path.parent.resolve().name
        return short_name(named), path.absolute().as_posix()
    homes = {Path(shard).resolve().parent for shard in shards}
    digest = blake2b("\0".join(map(_place_of, shards)).encode(), digest_size=8).hexdigest()
    home = os.path.commonpath(homes)
    return short_name(Path(home).name), f"{home} [{len(shards)} shards: {digest}]"
