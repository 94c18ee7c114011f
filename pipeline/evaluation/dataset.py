"""Which images, labels and caches does each DATA have? Opens DATA, joins labels by id, attaches features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache, cache_at, lookup
from pipeline.errors import BackboneError, CacheError, EvaluationError, LabelError
from pipeline.extraction import extract, known_ids
from pipeline.images import (
    BUILTIN_NAMES,
    EARLIER_RULES,
    PHOTO_RULES,
    ImageSource,
    check_root,
    decode_mode,
    folder_labels,
    image_folder,
    is_fixed_split,
    shards_of,
)
from pipeline.images.values import plain_spelling, value_key
from pipeline.labels import (
    IdMatch,
    JoinReport,
    OneHot,
    given_labels,
    is_in_order,
    join_labels,
    match_ids,
    merge_one_hot,
    one_hot_notes,
    read_label_table,
    split_one_hot,
    text_columns,
    tidy_id,
    without_missing,
)
from pipeline.labels import LabelColumns as LabelColumns
from pipeline.near_duplicates import CrossDuplicates
from pipeline.progress import Progress
from pipeline.splits import parts_named

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
class Dataset:
    """The images of one DATA with their columns, and the caches of their features.

    Attributes
    ----------
    name : str
    ids : sequence of str, length n
    columns : mapping of column name to n texts
    caches : tuple of FeatureCache
        One per backbone, all over these images in this order; none before the features are extracted.
    layers : tuple of tuple of str
        The layers to evaluate, one tuple per cache.
    notes : tuple of str
    match : IdMatch or None
        Which ids a label table shares with the images; None where the labels are the source's own.
    kinds : mapping of column name to kind
        The kinds that the source or the table states, such as "class" for class folders.
    """

    name: str
    ids: Sequence[str]
    columns: Columns
    caches: tuple[FeatureCache, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    match: IdMatch | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> np.ndarray:
        """Rows that every cache has features for, ascending; all of them before anything is extracted."""
        rows = np.arange(len(self.ids))
        for cache in self.caches:
            rows = np.intersect1d(rows, cache.rows)
        return rows


@dataclass(frozen=True)
class LabelConfig:
    """Where the labels come from.

    Attributes
    ----------
    labels : path, DataFrame, Series, mapping, list, array or None
        The source's own when None; see `given_labels`.
    id_column : str or None
    used : tuple of str
        Columns that will be used, as in `read_label_table`; empty for all.
    beside : tuple of str
        Columns that are taken from the source where the table does not have them: groups and split.
    root : path or None
        The folder that the table's ids are relative to; that of the images when None.
    level : int or None
        The level of the folders whose names are the labels; found from the names when None.
    missing : tuple of str
        Texts that mean "not known".
    one_hot : OneHot or None
        Columns that are read as one label set.
    """

    labels: Any = None
    id_column: str | None = None
    used: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    root: str | os.PathLike[str] | None = None
    level: int | None = None
    missing: tuple[str, ...] = ()
    one_hot: OneHot | None = None

    @classmethod
    def of(
        cls,
        labels: Any,
        *,
        id_column: str | None,
        columns: Sequence[str],
        beside: Sequence[str],
        root: str | os.PathLike[str] | None,
        level: int | None,
        missing: str | Sequence[str],
    ) -> LabelConfig:
        """Return where the labels of these entries of ``--column`` come from."""
        entries, one_hot = split_one_hot(columns)
        if one_hot is not None:
            entries = (*entries[:-1], *one_hot.globs)
        return cls(
            labels=labels,
            id_column=id_column,
            used=(*entries, *beside) if columns else (),
            beside=tuple(beside),
            root=root,
            level=level,
            missing=(missing,) if isinstance(missing, str) else tuple(missing),
            one_hot=one_hot,
        )

    def bound_to(self, source: Source) -> LabelConfig:
        """Return the labelling with a table that is read once for all sources, and with labels in order joined by id.

        A test set has other ids: what is given in the order of the training images must not reach it by position.
        """
        if isinstance(self.labels, str | os.PathLike) or is_in_order(self.labels):
            return replace(self, labels=self.table_for(source))
        return self

    def table_for(self, source: Source) -> LabelColumns:
        """Return the labels as columns by id."""
        how: dict[str, Any] = {"id_column": self.id_column, "columns": self.used, "missing": self.missing}
        if isinstance(self.labels, str | os.PathLike):
            return read_label_table(self.labels, **how)
        requested = source.requested if isinstance(source, ImageSource) else None
        ids = source.ids if requested is None else requested.ids
        return given_labels(self.labels, ids, **how)


@dataclass(frozen=True)
class FeatureConfig:
    """Which features are used, and how `extract` makes those that are missing.

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


def open_data(data: Any, folder: Path, labelling: LabelConfig, *, root: str | Path | None) -> list[Source]:
    """Return the sources that DATA names: one, or one an item of a list; a list of photos or of shards is one source.

    Of the labelling, the id column and the level are looked at.

    Raises
    ------
    PipelineError
        There is nothing of that name, or nothing was named.
    """
    check_root(root)
    several = isinstance(data, list | tuple) and not _is_photo_list(data) and shards_of(data) is None
    items = list(data) if several else [data]
    if not items:
        raise EvaluationError("expected images or a cache, got an empty list", "name a folder, a table or a cache")
    found = (resolve_cache(item, folder) for item in items)
    return [
        item
        if isinstance(item, FeatureCache)
        else ImageSource.open(
            item,
            id_column=labelling.id_column,
            root=root,
            known=known_ids(item, folder),
            label_level=labelling.level,
        )
        for item in found
    ]


def resolve_cache(data: Any, folder: Path) -> Any:
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


def load_labels(source: Source, labelling: LabelConfig, *, own_if_strange: bool = False) -> Dataset:
    """Return what is known of the images, labels joined by id and one-hot columns made one; no features yet.

    Labels come from the table where one is given, otherwise from the source itself; from the cache only where the
    cache is all there is, so an edited table is never stale.

    Parameters
    ----------
    source : ImageSource or FeatureCache
    labelling : LabelConfig
    own_if_strange : bool
        Use the source's own labels where the table has none of its ids: a test set may have class folders while the
        table is about the training set.
    """
    found = _known_of(source, labelling, own_if_strange)
    if labelling.one_hot is not None:
        columns = merge_one_hot(found.ids, found.columns, labelling.one_hot)
        return replace(found, columns=columns, kinds={**found.kinds, labelling.one_hot.name: "class"})
    return found if labelling.used else replace(found, notes=(*found.notes, *one_hot_notes(found.columns)))


def _known_of(source: Source, labelling: LabelConfig, own_if_strange: bool) -> Dataset:
    if labelling.labels is not None and labelling.level is not None and not own_if_strange:
        raise LabelError(
            f"expected one source of labels, got both a table of labels and folders of level {labelling.level}",
            "leave out --labels or --label-level",
        )
    given: dict[str, str] = {}  # tidied id as given: id in the collection
    repeated: tuple[str, ...] = ()
    table = None if labelling.labels is None else labelling.table_for(source)
    if isinstance(source, FeatureCache):
        name = str(source.provenance["source"])
        stored = source.base
        if stored is not source:
            given = _given_ids(source.ids, source.base_rows, stored.ids)
            if repeats := len(source) - len(np.unique(source.base_rows)):
                repeated = (f"{name}: {repeats} rows repeat an image and are used once",)
        source = stored
    else:
        name = source.name
        if source.requested is not None:
            given = _given_ids(source.requested.ids, source.requested.rows, source.ids)
    own: Columns = {**source.columns, **_written(source, labelling.used)}
    notes = repeated
    kinds = dict(source.kinds)
    if isinstance(source, FeatureCache):
        own, about = _labels_of_cache(source, name, labelling)
        notes = (*repeated, *about)
        if labelling.level is not None:
            kinds["label"] = "class"
    own, missing_notes = without_missing(own, labelling.missing, name)
    merge_groups = partial(_merge_spellings, columns=labelling.beside)
    collection = Dataset(name, source.ids, merge_groups(own), notes=notes, kinds=kinds)
    if table is None:
        if isinstance(source, ImageSource) and source.label_error is not None:
            raise source.label_error
        return replace(collection, notes=(*notes, *missing_notes))
    if given:
        table = _with_own_ids(table, source.ids, given)
    where: dict[str, Any] = {"folder": image_folder(source.place), "root": labelling.root}
    if own_if_strange and own and not _shares_ids(source.ids, table, **where):
        note = f"{name}: the label table has none of its ids; its own labels are used"
        return replace(collection, notes=(*repeated, note))
    joined = join_labels(source.ids, table, **where)
    # Split folders still say what they say, and groups may be in the source alone; the table has precedence.
    split = [SPLIT] if is_split_column(own.get(SPLIT, ())) else []
    beside = {key: own[key] for key in (*labelling.beside, *split) if key in own}
    kinds = {key: kind for key, kind in source.kinds.items() if key in beside} | joined.kinds
    columns = merge_groups({**beside, **joined})
    return replace(collection, columns=columns, notes=(*repeated, *joined.notes), match=joined.match, kinds=kinds)


def _merge_spellings(table: Mapping[str, Sequence[str | None]], columns: Sequence[str]) -> Columns:
    """Return the table with the spellings of one value made one in these columns.

    Patient `1` and patient `1.0` are one group; as two they would stand on both sides of a split.
    """
    merged = dict(table)
    for name in columns:
        if name not in merged:
            continue
        spellings: dict[object, set[str]] = {}
        for text in set(merged[name]) - {None}:
            assert text is not None
            spellings.setdefault(value_key(text), set()).add(text)
        plain = {text: plain_spelling(text) for texts in spellings.values() if len(texts) > 1 for text in texts}
        if plain:
            merged[name] = [text if text is None else plain.get(text, text) for text in merged[name]]
    return merged


def _labels_of_cache(cache: FeatureCache, name: str, labelling: LabelConfig) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of a cache; with a level, its ids give the labels again, and no image is read."""
    columns: Columns = cache.columns
    if labelling.level is not None:
        found = folder_labels(cache.ids, name, level=labelling.level)
        return {**columns, **found.columns}, tuple(found.notes)
    if not columns and labelling.labels is None:
        # The folders were ambiguous when it was made: the same error as for the photos.
        error = folder_labels(cache.ids, name).error
        if error is not None:
            raise error
    return columns, ()


def attach_features(source: Source, collection: Dataset, features: FeatureConfig) -> Dataset:
    """Return the collection with its caches; what is missing is extracted."""
    if isinstance(source, FeatureCache):
        source = source.base
        source.check()
        return replace(collection, caches=(source,), layers=(_layers(source, features.layers),))
    caches = [_extract(source, backbone, features.layers, features) for backbone in dict.fromkeys(features.backbones)]
    return replace(collection, caches=tuple(caches), layers=tuple(_layers(cache, features.layers) for cache in caches))


def attach_test_features(source: Source, collection: Dataset, trained: Dataset, features: FeatureConfig) -> Dataset:
    """Return a test collection with one cache for each of those that are trained on, made the same way.

    Raises
    ------
    EvaluationError
        The test set is a cache of another recipe.
    """
    caches, notes = [], list(collection.notes)
    for cache, layers in zip(trained.caches, trained.layers, strict=True):
        found = source.base if isinstance(source, FeatureCache) else _extract_as(source, cache, layers, features)
        differs = found.differences(cache.recipe)
        rules = {str(made.recipe.get("photo_rules")) for made in (found, cache)}
        # The test images may be extracted by a later version than the training images were.
        allowed = MACHINE_FIELDS | ({"photo_rules"} if rules <= {PHOTO_RULES, *EARLIER_RULES} else set())
        if set(differs) - allowed or _decode(found) != _decode(cache):
            raise EvaluationError(
                f"{found.path.name}: expected test features made as those of {cache.path.name}, got others: "
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


def merge_datasets(collections: Sequence[Dataset]) -> list[Dataset]:
    """Return the collections, those over the very same images and labels as one, so that they get the same folds.

    Two datasets of one name get a number each.
    """
    found: list[Dataset] = []
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
        raise CacheError(f"{cache.path.name}: expected the backbone's record, got none in its provenance", step)
    expected = str(record["weights_sha256"])
    try:
        own = cache.provenance.get("weights_file")
        if "@" not in str(record["weights"]):
            return Backbone.from_record(record, own)
        file, _, named = str(record["weights"]).rpartition("@")
        found = Backbone.open(f"{record['name']}:{own or file}@{named}")
    except BackboneError as error:
        raise CacheError(f"{cache.path.name}: {error.message}", step) from error
    if found.weights_sha256 != expected:
        raise CacheError(
            f"{cache.path.name}: expected the weights that made these features (SHA-256 {expected[:12]}...), "
            f"got others ({found.weights_sha256[:12]}...) in {found.own_file or found.weights}",
            step,
        )
    return found


def is_split_column(values: Sequence[str | None]) -> bool:
    """Say whether a column names training rows and others, and nothing else."""
    parts = parts_named(text.strip() for text in values if text and text.strip())
    return parts is not None and is_fixed_split(parts.values())


def _extract(
    source: ImageSource, backbone: str | Backbone, layers: Sequence[str] | None, features: FeatureConfig, **options: Any
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
    if made.summary.ignored_text:
        features.progress.note(made.summary.ignored_text)
    return made.base  # in the order of the source's ids, each image once


def _extract_as(
    source: ImageSource, cache: FeatureCache, layers: Sequence[str], features: FeatureConfig
) -> FeatureCache:
    """Extract a test set by the recipe of a cache, whatever the options would say."""
    recipe = cache.recipe
    alike = {"precision": str(recipe.get("precision")), "store": str(recipe.get("store")), "decode": _decode(cache)}
    return _extract(source, backbone_of(cache), layers, features, **alike)


def _decode(cache: FeatureCache) -> str:
    return decode_mode(str(cache.recipe.get("decoder")))


def _layers(cache: FeatureCache, requested: Sequence[str] | None) -> tuple[str, ...]:
    if requested is None:
        return (cache.layer_name(None),)
    if "all" in requested:
        named = [name for name in ("early", "middle", "late", "penultimate") if name in cache.layers]
        if not named:
            raise CacheError(
                f"{cache.path.name}: expected the layers early, middle, late and penultimate, "
                f"got {', '.join(cache.layers)}",
                f"--layer {next(iter(cache.layers))}",
            )
        requested = [*named, *(name for name in requested if name != "all")]
    return tuple(dict.fromkeys(cache.layer_name(name) for name in requested))


def _joined(first: Dataset, other: Dataset) -> Dataset:
    """Return one collection with the caches of both, each once."""
    pairs = {
        cache.path: (cache, layers)
        for cache, layers in zip((*first.caches, *other.caches), (*first.layers, *other.layers), strict=True)
    }
    caches, layers = zip(*pairs.values(), strict=True)
    return replace(first, caches=caches, layers=layers, notes=tuple(dict.fromkeys((*first.notes, *other.notes))))


def _same_images(first: Dataset, other: Dataset) -> bool:
    return (
        list(first.ids) == list(other.ids)
        and dict(first.columns) == dict(other.columns)
        and np.array_equal(first.caches[0].digest, other.caches[0].digest)
    )


def _given_ids(given: Sequence[str], rows: np.ndarray, ids: Sequence[str]) -> dict[str, str]:
    """Return ``{tidied id as given: id}`` of every input."""
    return {tidy_id(text): ids[row] for text, row in zip(given, rows.tolist(), strict=True)}


def _with_own_ids(table: LabelColumns, ids: Sequence[str], given: Mapping[str, str]) -> LabelColumns:
    """Return a label table by the source's own ids where its ids are those that the inputs were given by.

    An id may be the one that a photo was given by, and another photo's own: the reading that fits more ids is taken.
    """
    keys = {key: tidy_id(key) for key in dict.fromkeys(key for values in table.values() for key in values)}
    own = {tidy_id(name) for name in ids}
    renamed = {key: given[tidy] for key, tidy in keys.items() if tidy in given}
    if len(renamed) < sum(tidy in own for tidy in keys.values()) or not renamed:
        return table
    columns = {name: {renamed.get(key, key): text for key, text in values.items()} for name, values in table.items()}
    return LabelColumns(columns, place=table.place, notes=table.notes, kinds=table.kinds)


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
    """Return the source's columns that are requested as classes or tags, without points for decimal commas."""
    verbatim = source.verbatim if isinstance(source, ImageSource) else {}
    return {name: verbatim[name] for name in text_columns(used, list(verbatim))}


def _is_photo_list(data: Sequence[Any]) -> bool:
    """Whether several DATA are simply several photos, which make one source."""
    return len(data) > 0 and all(
        isinstance(item, str | os.PathLike) and Path(item).is_file() and Path(item).suffix.lower() not in _NOT_PHOTOS
        for item in data
    )


def check_has_labels(collection: Dataset) -> None:
    """Raise `LabelError` where nothing at all is known of the images."""
    if not collection.columns:
        raise LabelError(
            f"{collection.name}: expected labels, got none: {len(collection.ids):,} images and no class folders",
            "put each class into a folder of its own, or give a table with --labels TABLE",
        )


@dataclass(frozen=True, eq=False)
class LabeledRows:
    """Labelled images of one collection: for training or for testing.

    Attributes
    ----------
    collection : Dataset
    rows : ndarray of int64, shape (m,)
        Rows of the collection and of its caches.
    y : ndarray, shape (m,) or (m, c)
        Codes, numbers, or an indicator of tags.
    groups : ndarray of str, shape (m,), or None
        Names of the groups.
    together : ndarray of int64, shape (m,), or None
        One code per set of duplicates, which stay on one side of every split; None where there are no duplicates.
    """

    collection: Dataset
    rows: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None
    together: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return [self.collection.ids[row] for row in self.rows]

    def digests(self) -> np.ndarray:
        """Return the content of the images, ``(m, 16)`` uint8."""
        return np.ascontiguousarray(self.collection.caches[0].digest[self.rows])

    def take(self, positions: np.ndarray) -> LabeledRows:
        groups = None if self.groups is None else self.groups[positions]
        together = None if self.together is None else self.together[positions]
        return replace(self, rows=self.rows[positions], y=self.y[positions], groups=groups, together=together)


@dataclass(frozen=True, eq=False)
class Task:
    """One label set of one dataset: its training rows and its test rows.

    Attributes
    ----------
    name : str
    kind : {"class", "number", "multi"}
    classes : tuple of str
        Those that can be learned; y holds codes into them, or a column for each tag.
    unlabelled : int
        Images without a label, which are left out.
    train : LabeledRows
        The training rows.
    test : LabeledRows or None
        Scored once.
    unknown_classes : tuple of str
        In the test set alone; their codes or columns follow those of `classes`, so that no head is ever right on them.
    twins : CrossDuplicates or None
        The test rows that duplicate training rows, if any.
    notes : tuple of str
        About this label set, without its name.
    general : tuple of str
        What holds for all label sets of the collection.
    joined : JoinReport or None
        What was joined to the collection; the same for all its label sets.
    separator : str
        Between the tags of a cell; empty for the other kinds.
    requested : bool
        Whether the column was requested by its exact name or with a kind.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    unlabelled: int
    train: LabeledRows
    test: LabeledRows | None = None
    unknown_classes: tuple[str, ...] = ()
    twins: CrossDuplicates | None = None
    notes: tuple[str, ...] = ()
    general: tuple[str, ...] = ()
    joined: JoinReport | None = None
    separator: str = ""
    requested: bool = True

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def tested_on_new_groups(self) -> bool:
        """Whether the test set, or else every fold, holds groups that are not in training."""
        if self.train.groups is None:
            return False
        if self.test is None:
            return True
        return self.test.groups is not None and not np.isin(self.test.groups, self.train.groups).any()
