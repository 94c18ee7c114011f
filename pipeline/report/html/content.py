"""The content of a report page: one section per label set, and the images it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from pipeline.errors import PipelineError
from pipeline.progress import Progress
from pipeline.provenance import installed
from pipeline.report.diagnostics.confusion import ClassRow, Confusion
from pipeline.report.diagnostics.mistakes import DuplicatePair, Mistake, largest_errors, most_confident_mistakes
from pipeline.report.diagnostics.predictions import ClassPredictions, NumberPredictions, StoredFeatures, TagRow
from pipeline.report.diagnostics.summary import Diagnostics, diagnose_predictions, find_cache
from pipeline.report.html.map_layer import MapLayer, split_by_label_set
from pipeline.runs import LabelSetInfo, Run

FEW = 6  # label sets, of each of which more is shown
STAGE = "label sets"
PICTURED_ISSUES, PICTURED_DUPLICATES = 12, 8  # that have thumbnails
PICTURED_IN_CELL, PICTURED_CORRECT = 12, 6  # per cell of a confusion matrix
ImageRef = tuple[str, str]  # an image provider, which is the path of a cache, and an id


@dataclass(frozen=True, eq=False)
class PartPredictions:
    """The predictions of the best head out of fold, or for the test set.

    Attributes
    ----------
    on_test : bool
    provider : str
        The image provider of its photos.
    predictions : ClassPredictions or None
    numbers : NumberPredictions or None
    tags : tuple of TagRow or None
    confusion : Confusion or None
    per_class : tuple of ClassRow or None
    mistakes : tuple of Mistake
    """

    on_test: bool
    provider: str
    predictions: ClassPredictions | None = field(repr=False)
    numbers: NumberPredictions | None = field(repr=False)
    tags: tuple[TagRow, ...] | None
    confusion: Confusion | None
    per_class: tuple[ClassRow, ...] | None
    mistakes: tuple[Mistake, ...] = ()

    def cells(self) -> dict[tuple[int, int], np.ndarray]:
        """Return the rows of each cell (label, prediction) of the confusion matrix that is not empty.

        Mistakes stand first, in the order of how often the cell occurs; in a cell of mistakes the most confident
        prediction is first, in a cell of correct predictions the least confident.
        """
        if self.predictions is None:
            return {}
        found = self.predictions
        wrong = found.true != found.predicted
        probability = np.nan_to_num(found.probability, nan=0.0)
        order = np.argsort(np.where(wrong, -probability, probability), kind="stable")
        cells: dict[tuple[int, int], list[int]] = {}
        for row in order.tolist():
            cells.setdefault((int(found.true[row]), int(found.predicted[row])), []).append(row)
        ranked = sorted(cells, key=lambda cell: (cell[0] == cell[1], -len(cells[cell]), cell))
        return {cell: np.array(cells[cell], np.int64) for cell in ranked}

    def cell_image_refs(self) -> Iterator[ImageRef]:
        """Yield the photos of the cells that get a thumbnail, the first of each cell before the second of any."""
        if self.predictions is None:
            return
        cells = self.cells()
        for rank in range(PICTURED_IN_CELL):
            for (label, prediction), rows in cells.items():
                if rank < len(rows) and (label != prediction or rank < PICTURED_CORRECT):
                    yield self.provider, self.predictions.ids[rows[rank]]

    @property
    def count(self) -> int:
        """Return the number of predictions; 0 for tags, which are counted per tag."""
        return len(self.predictions or self.numbers or ())


@dataclass(frozen=True, eq=False)
class LabelSetSection:
    """One label set.

    Attributes
    ----------
    number : int
        Its own on the page.
    run : Run
        With the predictions of this label set alone.
    info : LabelSetInfo
    map_layer : MapLayer
    diagnostics : Diagnostics
    parts : tuple of PartPredictions
        The one that the verdict reports is first.
    duplicates : tuple of DuplicatePair
        With this label set's labels, those that differ first.
    verdict : str
    """

    number: int
    run: Run = field(repr=False)
    info: LabelSetInfo
    map_layer: MapLayer = field(repr=False)
    diagnostics: Diagnostics = field(repr=False)
    parts: tuple[PartPredictions, ...] = field(repr=False)
    duplicates: tuple[DuplicatePair, ...] = field(repr=False)
    verdict: str

    @property
    def provider(self) -> str:
        """Return the image provider of the photos of the folds."""
        return self.map_layer.cache

    def flagged(self, predictions: ClassPredictions) -> int:
        """Return how many mistakes are possible label errors, which the page shows there and not as mistakes."""
        ids = {issue.id for issue in self.diagnostics.label_issues or ()}
        return sum(predictions.ids[row] in ids for row in predictions.wrong.tolist())

    def image_refs(self) -> Iterator[ImageRef]:
        """Yield the photos to show, the most important first."""
        issues = (self.diagnostics.label_issues or ())[:PICTURED_ISSUES]
        rows = [part.mistakes for part in self.parts]
        for rank in range(max([len(issues), *map(len, rows)])):
            for part in self.parts:
                for mistake in part.mistakes[rank : rank + 1]:
                    yield part.provider, mistake.id
                    yield from ((self.provider, near.id) for near in mistake.neighbours)
            for issue in issues[rank : rank + 1]:
                yield self.provider, issue.id
                yield from ((self.provider, near.id) for near in issue.neighbours)
        for pair in self.duplicates[:PICTURED_DUPLICATES]:
            yield self.provider, pair.first
            yield self.provider, pair.other


def build_sections(run: Run, map_layers: Sequence[MapLayer], progress: Progress) -> list[LabelSetSection]:
    """Return the section of each label set, in the order of the run."""
    separate = split_by_label_set(run)
    verdicts = dict(zip(((info.name, info.source) for info in run.label_sets), run.verdicts, strict=False))
    layer_of = {(info.name, info.source): map_layer for map_layer in map_layers for info in map_layer.infos}
    few = len(run.label_sets) <= FEW
    sections = []
    for number, info in enumerate(run.label_sets):
        key = info.name, info.source
        sections.append(_build_section(number, separate[key], info, layer_of[key], verdicts.get(key, ""), few))
        progress.advance(STAGE, number + 1, len(run.label_sets))
    return sections


def round_robin(sections: Sequence[LabelSetSection]) -> Iterator[ImageRef]:
    """Yield the images of all label sets in turn, so that no label set uses up the budget of the others."""
    waiting = [section.image_refs() for section in sections]
    while waiting:
        left = []
        for refs in waiting:
            ref = next(refs, None)
            if ref is not None:
                yield ref
                left.append(refs)
        waiting = left


def _build_section(
    number: int, run: Run, info: LabelSetInfo, map_layer: MapLayer, verdict: str, few: bool
) -> LabelSetSection:
    most, neighbours = (12, 3) if few else (6, 2)
    found = diagnose_predictions(
        run, info, map_layer.features, most_mistakes=most, neighbours=neighbours, separate_label_issues=PICTURED_ISSUES
    )
    mistakes = found.mistakes
    if found.numbers is not None:
        mistakes = largest_errors(found.numbers, map_layer.features, most=most, neighbours=neighbours)
    parts = [
        PartPredictions(
            False, map_layer.cache, found.predictions, found.numbers, found.tags, found.confusion, found.per_class,
            mistakes,
        )
    ]  # fmt: skip
    if info.test is not None:
        parts.insert(0, _test_part(run, map_layer, found, most, neighbours))
    known = map_layer.labels.get(info.name, {})
    duplicates = () if map_layer.duplicates is None else map_layer.duplicates.pairs
    own = [
        replace(pair, label_of_first=_text(known[pair.first]), label_of_other=_text(known[pair.other]))
        for pair in duplicates
        if pair.first in known and pair.other in known
    ]
    own.sort(key=lambda pair: not pair.differs)
    prefix = f"{info.name}: "
    shown = tuple(part for part in parts if part.count or part.tags is not None)
    return LabelSetSection(number, run, info, map_layer, found, shown, tuple(own), verdict.removeprefix(prefix))


def _test_part(run: Run, map_layer: MapLayer, found: Diagnostics, most: int, neighbours: int) -> PartPredictions:
    place = found.best.test_cache or map_layer.cache
    features = map_layer.features
    if found.best.test_cache:
        try:
            features = StoredFeatures.of(find_cache(run.folder, place), map_layer.layer)
        except PipelineError:
            features = None  # the mistakes have no neighbours then; that the photos are gone is noted elsewhere
    mistakes: tuple[Mistake, ...] = ()
    if found.test_predictions is not None:
        trained = (
            None if map_layer.features is None or found.predictions is None else (found.predictions, map_layer.features)
        )
        own = features if trained else None
        mistakes = most_confident_mistakes(
            found.test_predictions, own, most=most, neighbours=neighbours, trained=trained
        )  # fmt: skip
    elif found.test_numbers is not None:
        learned = None if map_layer.features is None or found.numbers is None else (found.numbers, map_layer.features)
        own = features if learned else None
        mistakes = largest_errors(found.test_numbers, own, most=most, neighbours=neighbours, trained=learned)
    return PartPredictions(
        True, place, found.test_predictions, found.test_numbers, found.test_tags, found.test_confusion,
        found.test_per_class, mistakes,
    )  # fmt: skip


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


PAGE_VERSIONS = ("transfer-pipeline", "scikit-learn", "numpy", "pillow", "bokeh")


@dataclass(frozen=True)
class ProvenanceGroup:
    """One part of the provenance of a page.

    Attributes
    ----------
    name : str
    pairs : sequence of (str, str)
        Facts for a person.
    recorded : sequence of (str, str)
        Every recorded value, to repeat the work exactly.
    """

    name: str
    pairs: Sequence[tuple[str, str]]
    recorded: Sequence[tuple[str, str]] = ()


def describe_features(recorded: Mapping[str, Any], layers: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return how the features of a cache were made, for a person.

    Parameters
    ----------
    recorded : mapping
        The provenance of the cache, or the recipe of a model.
    layers : sequence of str
        The layers that were used; by default all recorded ones.
    """
    recipe = recorded.get("recipe") or recorded
    backbone = recorded.get("backbone")
    backbone = backbone if isinstance(backbone, Mapping) else {"name": recipe.get("backbone", "")}
    sizes = recorded.get("layers") or {}
    layers = [layer for layer in layers if layer in sizes] or list(sizes)
    pairs = [
        ("photos", str(recorded.get("place", ""))),
        ("extracted", _date(str(recorded.get("created", "")))),
        ("network", str(backbone.get("name", ""))),
        ("weights", _weights(backbone, recipe)),
        ("layer", ", ".join(f"{layer} ({sizes[layer]:,} features per photo)" for layer in layers)),
        ("image size", _image_size(recipe.get("preprocessing") or {})),
        ("precision", str(recipe.get("precision", ""))),
        ("software", _software(recorded.get("versions") or {})),
    ]
    return [(name, text) for name, text in pairs if text]


def describe_versions(names: Sequence[str] = PAGE_VERSIONS) -> list[tuple[str, str]]:
    """Return the installed versions of the packages that made a page."""
    return [("software", _software({name: installed(name) or "" for name in names}))]


def _software(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _date(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%d %B %Y, %H:%M} UTC".lstrip("0")
    except ValueError:
        return text


def _weights(backbone: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    sha = str(backbone.get("weights_sha256") or recipe.get("weights_sha256") or "")
    name = str(backbone.get("weights") or "")
    return ", ".join(part for part in (name, f"SHA-256 {sha[:12]}…" if sha else "") if part)


def _image_size(preprocessing: Mapping[str, Any]) -> str:
    resize, crop = preprocessing.get("resize"), preprocessing.get("crop")
    how = preprocessing.get("interpolation")
    parts = [f"shorter side resized to {resize} pixels" + (f" ({how})" if how else "")] if resize else []
    parts += [f"center {crop} x {crop} pixels used"] if crop else []
    return ", ".join(parts)
