"""The plan of an evaluation: which questions, which candidates, which folds. Pure data; nothing is fitted here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import FeatureCache, lookup
from pipeline.errors import EvaluationError, HeadError
from pipeline.evaluation.questions import Collection, Question, gather, questions
from pipeline.extraction import extract
from pipeline.heads import DEFAULT, Head, fits, resolve_heads
from pipeline.images import BUILTIN_NAMES, ImageSource
from pipeline.progress import Progress
from pipeline.runs import DUMMY, PIXELS
from pipeline.search import SCORINGS, check_scoring
from pipeline.splits import Split, outer_folds


@dataclass(frozen=True, eq=False)
class Candidate:
    """One head on one layer of one cache.

    Attributes
    ----------
    cache : FeatureCache
    layer : str
        ``pixel_statistics`` for the null that sees colours and brightness alone.
    head : Head
    null : bool
    """

    cache: FeatureCache
    layer: str
    head: Head
    null: bool = False

    @property
    def backbone(self) -> str:
        return str(self.cache.recipe["backbone"])

    @property
    def features(self) -> np.ndarray:
        """``(n, d)`` memory map over all rows of the cache."""
        return features_of(self.cache, self.layer)


@dataclass(frozen=True, eq=False)
class Task:
    """One question with its folds, and the candidates that answer it."""

    question: Question
    candidates: tuple[Candidate, ...]
    folds: tuple[Split, ...]  # positions into question.train
    scorings: tuple[str, ...]  # the first one chooses
    notes: tuple[str, ...]

    @property
    def choice(self) -> str:
        return self.scorings[0]

    @property
    def usual_choice(self) -> str:
        """What a null chooses by that cannot be scored by `choice`."""
        return SCORINGS[self.question.labels.kind][0]


def features_of(cache: FeatureCache, layer: str) -> np.ndarray:
    """Return a layer of a cache, or its pixel statistics, as a memory map over all its rows."""
    return cache.pixel_statistics() if layer in (PIXELS, "none") else cache.mapped(layer)


def open_collections(
    data: Any,
    *,
    backbone: str | Backbone | Sequence[str | Backbone],
    layer: str | Sequence[str] | None,
    cache: str | Path,
    labels: Any,
    id_column: str | None,
    column: Sequence[str],
    root: str | Path | None,
    extraction: Mapping[str, Any],
    progress: Progress,
) -> list[tuple[Collection, list[list[str]]]]:
    """Return each DATA's collection with the layers to evaluate of each of its caches; extract what is missing."""
    opened: list[tuple[Collection, list[list[str]]]] = []
    for one in data if isinstance(data, list | tuple) and not _is_photo_list(data) else [data]:
        source = as_cache(one, Path(cache))
        if not isinstance(source, FeatureCache):
            source = ImageSource.open(source, id_column=id_column, root=root)
        if isinstance(source, FeatureCache):
            caches = [source]
        else:
            backbones = [backbone] if isinstance(backbone, str | Backbone) else list(backbone)
            caches = [
                extract(
                    source,
                    backbone=name,
                    layer="penultimate" if layer is None else layer,
                    cache=cache,
                    progress=progress,
                    **extraction,
                )
                for name in backbones
            ]
            for made in caches:
                progress.note(made.summary.text)
        layers = [_layers(item, layer, source) for item in caches]
        collection = gather(source, caches, labels=labels, id_column=id_column, column=column)
        _merge(opened, collection, layers)
    return opened


def as_cache(data: Any, folder: Path) -> Any:
    """Return the cache that `data` means, or `data` itself where it means images."""
    if isinstance(data, FeatureCache | ImageSource) or not isinstance(data, str | Path):
        return data
    path = Path(data)
    if path.suffix == ".h5" and path.is_file():
        return FeatureCache.open(path)
    if not path.exists():
        found = lookup(str(data), folder) if str(data) not in BUILTIN_NAMES else None
        return data if found is None else found
    return data


def plan(
    collections: Sequence[tuple[Collection, list[list[str]]]],
    *,
    heads: Any,
    grid: Any,
    column: Sequence[str],
    groups: str | None,
    split: str | None,
    test: Collection | None,
    id_column: str | None,
    scoring: Sequence[str],
    cv: int,
    random_state: int,
) -> list[Task]:
    """Return one task a label set and collection.

    Raises
    ------
    PipelineError
        Labels, heads, scorings or folds that cannot be had, with the next step.
    """
    tasks = []
    for collection, layers in collections:
        for question in questions(
            collection, column=column, groups=groups, split=split, test=test, id_column=id_column
        ):
            labels = question.labels
            found, notes = _heads(heads, grid, labels.kind, labels.name, random_state)
            candidates = [
                Candidate(cache, name, head)
                for cache, names in zip(collection.caches, layers, strict=True)
                for name in names
                for head in found
            ]
            first = collection.caches[0]
            null = resolve_heads([DEFAULT[labels.kind]], kind=labels.kind, random_state=random_state)[0]
            dummy = resolve_heads([DUMMY], kind=labels.kind, random_state=random_state)[0]
            candidates += [Candidate(first, PIXELS, null, null=True), Candidate(first, "none", dummy, null=True)]
            folds, cut = outer_folds(
                labels.y[question.train],
                labels.kind,
                groups=None if question.groups is None else question.groups[question.train],
                cv=cv,
                random_state=random_state,
                classes=labels.classes,
            )
            scorings = _scorings(scoring, labels.kind, labels.name, len(labels.classes))
            tasks.append(Task(question, tuple(candidates), tuple(folds), scorings, (*question.notes, *notes, *cut)))
    return tasks


def _heads(heads: Any, grid: Any, kind: str, name: str, random_state: int) -> tuple[list[Head], list[str]]:
    """Return the heads for one kind of label set, and what was left out of those asked for."""
    if heads is None:
        return resolve_heads([DEFAULT[kind]], kind=kind, grid=grid, random_state=random_state), []
    asked = [heads] if isinstance(heads, str) or not isinstance(heads, Sequence) else list(heads)
    asked = [head for head in asked if head != DUMMY] or [DEFAULT[kind]]  # the dummy is always there, as a null
    fitting = [head for head in asked if fits(head, kind)]
    left_out = [str(head) for head in asked if head not in fitting]
    notes = []
    if not fitting:
        notes.append(f"{name}: {', '.join(left_out)} cannot learn {kind} labels; {DEFAULT[kind]} is used")
        fitting, grid = [DEFAULT[kind]], ()
    elif left_out:
        notes.append(f"{name}: {', '.join(left_out)} cannot learn {kind} labels and is left out")
    return resolve_heads(fitting, kind=kind, grid=grid, random_state=random_state), notes


def _scorings(asked: Sequence[str], kind: str, name: str, n_classes: int) -> tuple[str, ...]:
    """Return the scorings of a label set, the one that chooses first; the usual ones stand beside those asked for."""
    usual = SCORINGS[kind]
    if not asked:
        return usual
    fitting, refused = [], None
    for scoring in asked:
        try:
            check_scoring(scoring, kind, n_classes)
            fitting.append(scoring)
        except HeadError as error:
            refused = error
            if scoring_exists(scoring):
                continue
            raise
    if not fitting:
        assert refused is not None
        raise EvaluationError(
            f"label set {name!r}: {refused.message}",
            f"add a scoring for it, e.g. --scoring {usual[0]}, or choose columns with --column",
        )
    return tuple(dict.fromkeys([*fitting, *usual]))


def scoring_exists(scoring: str) -> bool:
    """Say whether scikit-learn has a scorer of this name, for whichever kind of label."""
    from sklearn.metrics import get_scorer_names

    return scoring in get_scorer_names()


def _layers(cache: FeatureCache, layer: str | Sequence[str] | None, source: Any) -> list[str]:
    if layer is None:
        return [cache.layer_name(None)]
    names = [layer] if isinstance(layer, str) else list(layer)
    if "all" in names:
        named = [name for name in ("early", "middle", "late", "penultimate") if name in cache.layers]
        names = [*named, *(name for name in names if name != "all")]
    return list(dict.fromkeys(cache.layer_name(name) for name in names))


def _merge(opened: list[tuple[Collection, list[list[str]]]], collection: Collection, layers: list[list[str]]) -> None:
    """Add a collection; one over the very same images joins the earlier one, so that both get the same folds."""
    for number, (other, their_layers) in enumerate(opened):
        if other.caches[0].ids == collection.caches[0].ids and other.columns == collection.columns:
            joined = Collection(other.name, (*other.caches, *collection.caches), other.columns, other.notes)
            opened[number] = (joined, [*their_layers, *layers])
            return
    opened.append((collection, layers))


def _is_photo_list(data: Sequence[Any]) -> bool:
    """Whether several DATA are simply several photos, which make one source."""
    return (
        len(data) > 0
        and all(isinstance(item, str | Path) and Path(item).is_file() for item in data)
        and not any(Path(item).suffix.lower() in (".h5", ".csv", ".tsv", ".parquet", ".npz", ".npy") for item in data)
    )
