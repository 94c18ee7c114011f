"""The content of a report page: one section per label set, and the images it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import PipelineError
from pipeline.progress import Progress
from pipeline.report.diagnostics.confusion import ClassRow, Confusion
from pipeline.report.diagnostics.mistakes import DuplicatePair, Mistake, largest_errors, most_confident_mistakes
from pipeline.report.diagnostics.predictions import ClassPredictions, NumberPredictions, StoredFeatures, TagRow
from pipeline.report.diagnostics.summary import Diagnostics, diagnose_predictions, find_cache
from pipeline.report.html.map_layer import MapLayer, apart
from pipeline.runs import LabelSetInfo, Run

FEW = 6  # label sets, of each of which more is shown
STAGE = "label sets"
PICTURED_ISSUES, PICTURED_DUPLICATES = 12, 8  # that have pictures
ImageRef = tuple[str, str]  # a shelf, which is the path of a cache, and an id


@dataclass(frozen=True, eq=False)
class PartPredictions:
    """What the best head said of the images out of fold, or of those of the test set.

    Attributes
    ----------
    on_test : bool
    shelf : str
        Where the photos that it was asked about are found.
    answers : ClassPredictions or None
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

    @property
    def count(self) -> int:
        """How many images the head was asked about, where that is known."""
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
    ground : MapLayer
    evidence : Diagnostics
    parts : tuple of PartPredictions
        The one that its verdict is about first.
    copies : tuple of DuplicatePair
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
        """Where the photos of the folds are found."""
        return self.map_layer.cache

    def image_refs(self) -> Iterator[ImageRef]:
        """Give the photos that are to be shown, the ones that matter most first."""
        suspected = [one.id for one in (self.diagnostics.label_issues or ())[:PICTURED_ISSUES]]
        rows = [part.mistakes for part in self.parts]
        for rank in range(max([len(suspected), *map(len, rows)])):
            for part in self.parts:
                for mistake in part.mistakes[rank : rank + 1]:
                    yield part.provider, mistake.id
                    yield from ((self.provider, near.id) for near in mistake.similar)
            yield from ((self.provider, name) for name in suspected[rank : rank + 1])
        for pair in self.duplicates[:PICTURED_DUPLICATES]:
            yield self.provider, pair.one
            yield self.provider, pair.other


def build_sections(run: Run, map_layers: Sequence[MapLayer], progress: Progress) -> list[LabelSetSection]:
    """Return what there is to tell of each label set, in the order of the run."""
    alone = apart(run)
    verdicts = dict(zip(((one.name, one.source) for one in run.label_sets), run.verdicts, strict=False))
    ground_of = {(info.name, info.source): map_layer for map_layer in map_layers for info in map_layer.infos}
    few = len(run.label_sets) <= FEW
    sections = []
    for number, info in enumerate(run.label_sets):
        key = info.name, info.source
        sections.append(_build_section(number, alone[key], info, ground_of[key], verdicts.get(key, ""), few))
        progress.advance(STAGE, number + 1, len(run.label_sets))
    return sections


def round_robin(sections: Sequence[LabelSetSection]) -> Iterator[ImageRef]:
    """Give the wishes of all label sets, one of each in turn: none is to be without pictures for another's sake."""
    waiting = [section.image_refs() for section in sections]
    while waiting:
        left = []
        for one in waiting:
            wish = next(one, None)
            if wish is not None:
                yield wish
                left.append(one)
        waiting = left


def _build_section(
    number: int, run: Run, info: LabelSetInfo, map_layer: MapLayer, verdict: str, few: bool
) -> LabelSetSection:
    most, similar = (12, 3) if few else (6, 2)
    found = diagnose_predictions(run, info, map_layer.features, most_mistakes=most, similar=similar)
    mistakes = found.mistakes
    if found.numbers is not None:
        mistakes = largest_errors(found.numbers, map_layer.features, most=most, similar=similar)
    parts = [
        PartPredictions(
            False, map_layer.cache, found.predictions, found.numbers, found.tags, found.confusion, found.per_class, mistakes
        )
    ]  # fmt: skip
    if info.test is not None:
        parts.insert(0, _test_part(run, map_layer, found, most, similar))
    known = map_layer.labels.get(info.name, {})
    duplicates = () if map_layer.duplicates is None else map_layer.duplicates.pairs
    own = [
        replace(pair, label_of_one=_text(known[pair.one]), label_of_other=_text(known[pair.other]))
        for pair in duplicates
        if pair.one in known and pair.other in known
    ]
    own.sort(key=lambda pair: not pair.differs)
    prefix = f"{info.name}: "
    told = tuple(part for part in parts if part.count or part.tags is not None)
    return LabelSetSection(number, run, info, map_layer, found, told, tuple(own), verdict.removeprefix(prefix))


def _test_part(run: Run, map_layer: MapLayer, found: Diagnostics, most: int, similar: int) -> PartPredictions:
    place = found.best.test_cache or map_layer.cache
    features = map_layer.features
    if found.best.test_cache:
        try:
            features = StoredFeatures.of(find_cache(run.folder, place), map_layer.layer)
        except PipelineError:
            features = (
                None  # the mistakes have no neighbours then; that the photos are gone is said where they are sought
            )
    mistakes: tuple[Mistake, ...] = ()
    if found.test_predictions is not None:
        trained = (
            None if map_layer.features is None or found.predictions is None else (found.predictions, map_layer.features)
        )
        asked = features if trained else None
        mistakes = most_confident_mistakes(
            found.test_predictions, asked, most=most, similar=similar, trained=trained
        )  # fmt: skip
    elif found.test_numbers is not None:
        learned = None if map_layer.features is None or found.numbers is None else (found.numbers, map_layer.features)
        asked = features if learned else None
        mistakes = largest_errors(found.test_numbers, asked, most=most, similar=similar, trained=learned)
    return PartPredictions(
        True, place, found.test_predictions, found.test_numbers, found.test_tags, found.test_confusion,
        found.test_per_class, mistakes,
    )  # fmt: skip


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
