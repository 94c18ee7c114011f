"""What a page tells of each label set of a run, and which photos it would show for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pipeline.errors import PipelineError
from pipeline.progress import Progress
from pipeline.report.findings.answers import Answers, NumberAnswers, TagRow
from pipeline.report.findings.confusion import ClassRow, Confusion
from pipeline.report.findings.copies import Pair
from pipeline.report.findings.evidence import Evidence, cache_at, evidence_with
from pipeline.report.findings.features import Features
from pipeline.report.findings.mistakes import Mistake, largest_errors, most_confident_mistakes
from pipeline.report.pages.ground import Ground, apart
from pipeline.runs import LabelSetInfo, Run

FEW = 6  # label sets, of each of which more is shown
STAGE = "label sets"
SUSPECTS, COPIES = 12, 8  # that have pictures
Wish = tuple[str, str]  # a shelf, which is the path of a cache, and an id


@dataclass(frozen=True, eq=False)
class Part:
    """What the best head said of the images out of fold, or of those of the test set.

    Attributes
    ----------
    on_test : bool
    shelf : str
        Where the photos that it was asked about are found.
    answers : Answers or None
    numbers : NumberAnswers or None
    tags : tuple of TagRow or None
    confusion : Confusion or None
    per_class : tuple of ClassRow or None
    mistakes : tuple of Mistake
    """

    on_test: bool
    shelf: str
    answers: Answers | None = field(repr=False)
    numbers: NumberAnswers | None = field(repr=False)
    tags: tuple[TagRow, ...] | None
    confusion: Confusion | None
    per_class: tuple[ClassRow, ...] | None
    mistakes: tuple[Mistake, ...] = ()

    @property
    def count(self) -> int:
        """How many images the head was asked about, where that is known."""
        return len(self.answers or self.numbers or ())


@dataclass(frozen=True, eq=False)
class Story:
    """One label set.

    Attributes
    ----------
    number : int
        Its own on the page.
    run : Run
        With the predictions of this label set alone.
    info : LabelSetInfo
    ground : Ground
    evidence : Evidence
    parts : tuple of Part
        The one that its verdict is about first.
    copies : tuple of Pair
        With this label set's labels, those that differ first.
    verdict : str
    """

    number: int
    run: Run = field(repr=False)
    info: LabelSetInfo
    ground: Ground = field(repr=False)
    evidence: Evidence = field(repr=False)
    parts: tuple[Part, ...] = field(repr=False)
    copies: tuple[Pair, ...] = field(repr=False)
    verdict: str

    @property
    def shelf(self) -> str:
        """Where the photos of the folds are found."""
        return self.ground.cache

    def wishes(self) -> Iterator[Wish]:
        """Give the photos that are to be shown, the ones that matter most first."""
        suspected = [one.id for one in (self.evidence.suspects or ())[:SUSPECTS]]
        rows = [part.mistakes for part in self.parts]
        for rank in range(max([len(suspected), *map(len, rows)])):
            for part in self.parts:
                for mistake in part.mistakes[rank : rank + 1]:
                    yield part.shelf, mistake.id
                    yield from ((self.shelf, near.id) for near in mistake.neighbours)
            yield from ((self.shelf, name) for name in suspected[rank : rank + 1])
        for pair in self.copies[:COPIES]:
            yield self.shelf, pair.one
            yield self.shelf, pair.other


def stories_of(run: Run, grounds: Sequence[Ground], progress: Progress) -> list[Story]:
    """Return what there is to tell of each label set, in the order of the run."""
    alone = apart(run)
    verdicts = dict(zip(((one.name, one.source) for one in run.label_sets), run.verdicts, strict=False))
    ground_of = {(info.name, info.source): ground for ground in grounds for info in ground.infos}
    few = len(run.label_sets) <= FEW
    stories = []
    for number, info in enumerate(run.label_sets):
        key = info.name, info.source
        stories.append(_story(number, alone[key], info, ground_of[key], verdicts.get(key, ""), few))
        progress.advance(STAGE, number + 1, len(run.label_sets))
    return stories


def in_turn(stories: Sequence[Story]) -> Iterator[Wish]:
    """Give the wishes of all label sets, one of each in turn: none is to be without pictures for another's sake."""
    waiting = [story.wishes() for story in stories]
    while waiting:
        left = []
        for one in waiting:
            wish = next(one, None)
            if wish is not None:
                yield wish
                left.append(one)
        waiting = left


def _story(number: int, run: Run, info: LabelSetInfo, ground: Ground, verdict: str, few: bool) -> Story:
    most, neighbours = (12, 3) if few else (6, 2)
    found = evidence_with(run, info, ground.features, most_mistakes=most, neighbours=neighbours)
    mistakes = found.mistakes
    if found.numbers is not None:
        mistakes = largest_errors(found.numbers, ground.features, most=most, neighbours=neighbours)
    parts = [
        Part(
            False, ground.cache, found.answers, found.numbers, found.tags, found.confusion, found.per_class, mistakes
        )
    ]  # fmt: skip
    if info.test is not None:
        parts.insert(0, _test_part(run, ground, found, most, neighbours))
    known = ground.labels.get(info.name, {})
    copies = () if ground.copies is None else ground.copies.pairs
    own = [
        replace(pair, label_of_one=_text(known[pair.one]), label_of_other=_text(known[pair.other]))
        for pair in copies
        if pair.one in known and pair.other in known
    ]
    own.sort(key=lambda pair: not pair.differs)
    prefix = f"{info.name}: "
    told = tuple(part for part in parts if part.count or part.tags is not None)
    return Story(number, run, info, ground, found, told, tuple(own), verdict.removeprefix(prefix))


def _test_part(run: Run, ground: Ground, found: Evidence, most: int, neighbours: int) -> Part:
    place = found.best.test_cache or ground.cache
    features = ground.features
    if found.best.test_cache:
        try:
            features = Features.of(cache_at(run.folder, place), ground.layer)
        except PipelineError:
            features = (
                None  # the mistakes have no neighbours then; that the photos are gone is said where they are sought
            )
    mistakes: tuple[Mistake, ...] = ()
    if found.test_answers is not None:
        trained = None if ground.features is None or found.answers is None else (found.answers, ground.features)
        asked = features if trained else None
        mistakes = most_confident_mistakes(
            found.test_answers, asked, most=most, neighbours=neighbours, trained=trained
        )  # fmt: skip
    elif found.test_numbers is not None:
        learned = None if ground.features is None or found.numbers is None else (found.numbers, ground.features)
        asked = features if learned else None
        mistakes = largest_errors(found.test_numbers, asked, most=most, neighbours=neighbours, trained=learned)
    return Part(
        True, place, found.test_answers, found.test_numbers, found.test_tags, found.test_confusion,
        found.test_per_class, mistakes,
    )  # fmt: skip


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
