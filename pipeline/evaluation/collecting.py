"""The images of each DATA with what is known of each, and the caches that hold their features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache, cache_at, lookup
from pipeline.errors import BackboneError, CacheError, EvaluationError, LabelError
from pipeline.extraction import extract, known_ids
from pipeline.images import BUILTIN_NAMES, ImageSource, check_root, decode_mode, image_folder, shards_of
from pipeline.labels import (
    Match,
    OneHot,
    join,
    match_ids,
    merge_one_hot,
    one_hot_notes,
    read_label_table,
    split_one_hot,
    text_columns,
    tidy_id,
)
from pipeline.progress import Progress
from pipeline.splits import TEST_NAMES, TRAIN_NAMES, VALIDATION_NAMES

SPLIT = "split"

# What differs from machine to machine and moves a feature a little: worth a note, no reason to refuse.
# A decoder of the other `--decode` is no matter of the machine, and is refused.
MACHINE_FIELDS = frozenset(("decoder", "runtime"))

_NOT_PHOTOS = frozenset(
    (".h5", ".csv", ".tsv", ".parquet", ".pq", ".npz", ".npy", ".xlsx", ".xlsm", ".xls", ".ods", ".jsonl", ".ndjson")
)

Columns = Mapping[str, Sequence[str | None]]
Source = ImageSource | FeatureCache


@dataclass(frozen=True, eq=False)
class Collection:
    """The images of one DATA, what is known of each, and where their features are.

    Attributes
    ----------
    name : str
    ids : sequence of str, length n
    columns : mapping of column name to n texts
    caches : tuple of FeatureCache
        One a backbone, all over these images in this order; none before the features are extracted.
    layers : tuple of tuple of str
        The layers to evaluate, one tuple a cache.
    notes : tuple of str
    match : Match or None
        Which ids a label table shares with the images; None where the labels are the source's own.
    """

    name: str
    ids: Sequence[str]
    columns: Columns
    caches: tuple[FeatureCache, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    match: Match | None = None

    @property
    def rows(self) -> np.ndarray:
        """Rows that every cache has features for, ascending; all of them before anything is extracted."""
        rows = np.arange(len(self.ids))
        for cache in self.caches:
            rows = np.intersect1d(rows, cache.rows)
        return rows


@dataclass(frozen=True)
class Labelling:
    """Where the labels come from.

    Attributes
    ----------
    labels : path, mapping or None
        The source's own when None.
    id_column : str or None
    used : tuple of str
        Columns that will be used, as in `read_label_table`; empty for all.
    beside : tuple of str
        Columns that are taken from the source where the table does not have them: groups and split.
    root : path or None
        The folder that the table's ids are relative to; that of the images when None.
    one_hot : OneHot or None
        Columns that are read as one label set.
    """

    labels: str | os.PathLike[str] | Mapping[str, Any] | None = None
    id_column: str | None = None
    used: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    root: str | os.PathLike[str] | None = None
    one_hot: OneHot | None = None

    @classmethod
    def of(
        cls,
        labels: Any,
        id_column: str | None,
        columns: Sequence[str],
        beside: Sequence[str],
        root: str | os.PathLike[str] | None,
    ) -> Labelling:
        """Return where the labels of these entries of ``--column`` come from."""
        entries, one_hot = split_one_hot(columns)
        if one_hot is not None:
            entries = (*entries[:-1], *one_hot.globs)
        return cls(labels, id_column, (*entries, *beside) if columns else (), tuple(beside), root, one_hot)


@dataclass(frozen=True)
class Features:
    """Which features are wanted, and how `extract` is to make those that are missing.

    Attributes
    ----------
    backbones : tuple of str or Backbone
    layers : tuple of str or None
        None for the penultimate one, or else the first that a cache has.
    folder : Path
        Of caches.
    extraction : mapping
        Keywords of `extract`.
    progress : Progress
    """

    backbones: tuple[str | Backbone, ...]
    layers: tuple[str, ...] | None
    folder: Path
    extraction: Mapping[str, Any]
    progress: Progress


def open_data(data: Any, folder: Path, *, id_column: str | None, root: str | Path | None) -> list[Source]:
    """Return the sources that DATA names: one, or one an item of a list; a list of photos or of shards is one source.

    Raises
    ------
    PipelineError
        There is nothing of that name, or nothing was named.
    """
    check_root(root)
    several = isinstance(data, list | tuple) and not _is_photo_list(data) and shards_of(data) is None
    items = list(data) if several else [data]
    if not items:
        raise EvaluationError("wanted images or a cache, found an empty list", "name a folder, a table or a cache")
    found = (as_cache(item, folder) for item in items)
    return [
        item
        if isinstance(item, FeatureCache)
        else ImageSource.open(item, id_column=id_column, root=root, known=known_ids(item, folder))
        for item in found
    ]


def as_cache(data: Any, folder: Path) -> Any:
    """Return the cache that `data` means, or `data` itself where it means images."""
    if not isinstance(data, str | os.PathLike):
        return data
    cache = cache_at(data)
    if cache is not None:
        return cache
    if Path(data).exists() or str(data) in BUILTIN_NAMES:
        return data
    found = lookup(str(data), folder)
    return data if found is None else found


def known_of(source: Source, labelling: Labelling, *, own_if_strange: bool = False) -> Collection:
    """Return what is known of the images, labels joined by id and one-hot columns made one; no features yet.

    Labels come from the table where one is given, otherwise from the source itself; from the cache only where the
    cache is all there is, so an edited table is never stale.

    Parameters
    ----------
    source : ImageSource or FeatureCache
    labelling : Labelling
    own_if_strange : bool
        Use the source's own labels where the table has none of its ids: a test set may have class folders while the
        table is about the training set.
    """
    found = _known_of(source, labelling, own_if_strange)
    if labelling.one_hot is not None:
        return replace(found, columns=merge_one_hot(found.ids, found.columns, labelling.one_hot))
    return found if labelling.used else replace(found, notes=(*found.notes, *one_hot_notes(found.columns)))


def _known_of(source: Source, labelling: Labelling, own_if_strange: bool) -> Collection:
    own: Columns = {**source.columns, **_written(source, labelling.used)}
    name = source.name if isinstance(source, ImageSource) else str(source.provenance["source"])
    collection = Collection(name, source.ids, own)
    if labelling.labels is None:
        return collection
    table = labelling.labels
    if not isinstance(table, Mapping):
        table = read_label_table(table, id_column=labelling.id_column, columns=labelling.used)
    where: dict[str, Any] = {"folder": image_folder(source.place), "root": labelling.root}
    if own_if_strange and own and not _shares_ids(source.ids, table, **where):
        note = f"{name}: the label table has none of its ids; its own labels are used"
        return replace(collection, notes=(note,))
    joined = join(source.ids, table, **where)
    # Split folders still say what they say, and groups may be in the source alone; the table has precedence.
    split = [SPLIT] if spells_split(own.get(SPLIT, ())) else []
    beside = {key: own[key] for key in (*labelling.beside, *split) if key in own}
    return replace(collection, columns={**beside, **joined}, notes=joined.notes, match=joined.match)


def with_features(source: Source, collection: Collection, features: Features) -> Collection:
    """Return the collection with its caches; what is missing is extracted."""
    if isinstance(source, FeatureCache):
        source.check()
        return replace(collection, caches=(source,), layers=(_layers(source, features.layers),))
    caches = [_extract(source, backbone, features.layers, features) for backbone in dict.fromkeys(features.backbones)]
    return replace(collection, caches=tuple(caches), layers=tuple(_layers(cache, features.layers) for cache in caches))


def with_features_as(source: Source, collection: Collection, trained: Collection, features: Features) -> Collection:
    """Return a test collection with one cache for each of those that are trained on, made the same way.

    Raises
    ------
    EvaluationError
        The test set is a cache of another recipe.
    """
    caches, notes = [], list(collection.notes)
    for cache, layers in zip(trained.caches, trained.layers, strict=True):
        found = source if isinstance(source, FeatureCache) else _extract_as(source, cache, layers, features)
        differs = found.differences(cache.recipe)
        if set(differs) - MACHINE_FIELDS or _decode(found) != _decode(cache):
            raise EvaluationError(
                f"{found.path.name}: wanted test features made as those of {cache.path.name}, found others: "
                f"{', '.join(differs)}",
                "give the test images themselves, so that they are extracted the same way",
            )
        if differs:
            notes.append(f"the features of {collection.name} were made a little otherwise: {', '.join(differs)}")
        found.check()
        for layer in layers:
            found.layer_name(layer)
        caches.append(found)
    return replace(collection, caches=tuple(caches), layers=trained.layers, notes=tuple(notes))


def merged(collections: Sequence[Collection]) -> list[Collection]:
    """Return the collections, those over the very same images and labels as one, so that they get the same folds.

    Two collections of one name are told apart by a number.
    """
    found: list[Collection] = []
    for collection in collections:
        twin = next((number for number, other in enumerate(found) if _same_images(other, collection)), None)
        if twin is not None:
            found[twin] = _joined(found[twin], collection)
            continue
        names = {other.name for other in found}
        name, n = collection.name, 2
        while name in names:
            name, n = f"{collection.name}-{n}", n + 1
        found.append(replace(collection, name=name))
    return found


def backbone_of(cache: FeatureCache) -> Backbone:
    """Return the backbone that made a cache's features, its weights found again and compared by hash.

    Raises
    ------
    CacheError
        The weights are gone, or are others now; or the cache does not say which they were.
    """
    record = cache.provenance.get("backbone")
    step = "put the original weights back, or extract the images again"
    if not isinstance(record, dict) or not {"name", "weights", "weights_sha256"} <= record.keys():
        raise CacheError(f"{cache.path.name}: wanted the backbone's record, found none in its provenance", step)
    wanted = str(record["weights_sha256"])
    try:
        own = cache.provenance.get("weights_file")
        if "@" not in str(record["weights"]):
            return Backbone.from_record(record, own)
        file, _, named = str(record["weights"]).rpartition("@")
        found = Backbone.open(f"{record['name']}:{own or file}@{named}")
    except BackboneError as error:
        raise CacheError(f"{cache.path.name}: {error.message}", step) from error
    if found.weights_sha256 != wanted:
        raise CacheError(
            f"{cache.path.name}: wanted the weights that made these features (SHA-256 {wanted[:12]}...), "
            f"found others ({found.weights_sha256[:12]}...) in {found.own_file or found.weights}",
            step,
        )
    return found


def spells_split(values: Sequence[str | None]) -> bool:
    """Say whether a column names training rows and others, and nothing else."""
    names = {text.strip().casefold() for text in values if text and text.strip()}
    train = set(TRAIN_NAMES)
    return bool(names & train and names - train) and names <= train | {*VALIDATION_NAMES, *TEST_NAMES}


def _extract(
    source: ImageSource, backbone: str | Backbone, layers: Sequence[str] | None, features: Features, **options: Any
) -> FeatureCache:
    made = extract(
        source,
        backbone=backbone,
        layer="penultimate" if layers is None else layers,
        cache=features.folder,
        progress=features.progress,
        **{**features.extraction, **options},
    )
    features.progress.note(made.summary.text)
    return made


def _extract_as(source: ImageSource, cache: FeatureCache, layers: Sequence[str], features: Features) -> FeatureCache:
    """Extract a test set by the recipe of a cache, whatever the options would say."""
    recipe = cache.recipe
    alike = {"precision": str(recipe.get("precision")), "store": str(recipe.get("store")), "decode": _decode(cache)}
    return _extract(source, backbone_of(cache), layers, features, **alike)


def _decode(cache: FeatureCache) -> str:
    return decode_mode(str(cache.recipe.get("decoder")))


def _layers(cache: FeatureCache, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return (cache.layer_name(None),)
    if "all" in wanted:
        named = [name for name in ("early", "middle", "late", "penultimate") if name in cache.layers]
        if not named:
            raise CacheError(
                f"{cache.path.name}: wanted the layers early, middle, late and penultimate, "
                f"found {', '.join(cache.layers)}",
                f"--layer {next(iter(cache.layers))}",
            )
        wanted = [*named, *(name for name in wanted if name != "all")]
    return tuple(dict.fromkeys(cache.layer_name(name) for name in wanted))


def _joined(one: Collection, other: Collection) -> Collection:
    """Return one collection with the caches of both, each once."""
    pairs = {
        cache.path: (cache, layers)
        for cache, layers in zip((*one.caches, *other.caches), (*one.layers, *other.layers), strict=True)
    }
    caches, layers = zip(*pairs.values(), strict=True)
    return replace(one, caches=caches, layers=layers, notes=tuple(dict.fromkeys((*one.notes, *other.notes))))


def _same_images(one: Collection, other: Collection) -> bool:
    return (
        list(one.ids) == list(other.ids)
        and dict(one.columns) == dict(other.columns)
        and np.array_equal(one.caches[0].digest, other.caches[0].digest)
    )


def _shares_ids(
    ids: Sequence[str],
    table: Mapping[str, Mapping[str, Any]],
    *,
    folder: str | None,
    root: str | os.PathLike[str] | None,
) -> bool:
    have = [tidy_id(name) for name in ids]
    keys = dict.fromkeys(key for values in table.values() for key in values)
    found = match_ids(keys, have, place="", folder=folder, root=root).ids.values()
    return not set(have).isdisjoint(found)


def _written(source: Source, used: Sequence[str]) -> Columns:
    """Return the source's columns that are asked for as classes or tags, without points for decimal commas."""
    verbatim = source.verbatim if isinstance(source, ImageSource) else {}
    return {name: verbatim[name] for name in text_columns(used, list(verbatim))}


def _is_photo_list(data: Sequence[Any]) -> bool:
    """Whether several DATA are simply several photos, which make one source."""
    return len(data) > 0 and all(
        isinstance(item, str | os.PathLike) and Path(item).is_file() and Path(item).suffix.lower() not in _NOT_PHOTOS
        for item in data
    )


def refuse_no_labels(collection: Collection) -> None:
    """Raise `LabelError` where nothing at all is known of the images."""
    if not collection.columns:
        raise LabelError(
            f"{collection.name}: wanted labels, found none: {len(collection.ids):,} images and no class folders",
            "put each class into a folder of its own, or give a table with --labels TABLE",
        )
