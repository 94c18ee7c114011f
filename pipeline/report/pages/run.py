"""The page of an evaluation: what it found, and the photos behind the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PipelineError
from pipeline.images import ImageSource
from pipeline.progress import SILENT, Progress
from pipeline.provenance import installed
from pipeline.report.findings.evidence import cache_at
from pipeline.report.findings.features import Features
from pipeline.report.findings.photos import open_photos
from pipeline.report.pages.album import filled_album, told
from pipeline.report.pages.canvas import Chart
from pipeline.report.pages.frame import flat, framed, sentence
from pipeline.report.pages.ground import grounds_of
from pipeline.report.pages.leaderboard import named, null_of, shown_score
from pipeline.report.pages.set_view import SetView, set_view
from pipeline.report.pages.stories import STAGE, Story, in_turn, stories_of
from pipeline.report.pages.tables import headline, number, span
from pipeline.report.pages.thumbnails import Shelf
from pipeline.runs import CHOSEN, NOTHING, PIXELS, LabelSetInfo, Run

MOST_POINTS = 20_000
VERSIONS = ("transfer-pipeline", "scikit-learn", "numpy", "pillow", "bokeh")


@dataclass(frozen=True)
class IndexRow:
    """One label set in the index."""

    number: int
    name: str
    source: str
    kind: str
    images: str
    best: str
    scoring: str
    score: str
    interval: str
    dummy: str
    pixels: str
    verdict: str


def run_page(run: Run, *, photos: Any = None, progress: Progress = SILENT) -> str:
    """Return the page, one self-contained HTML text.

    Parameters
    ----------
    run : Run
    photos : path or ImageSource, optional
        Where the photos are now; by default where they were when their features were extracted.
    progress : Progress
        Hears of what is left out, too.
    """
    progress.advance(STAGE, 0, len(run.label_sets))
    grounds = grounds_of(run, most=MOST_POINTS)
    stories = stories_of(run, grounds, progress)
    shelves, gone = _shelves(run, stories, photos)
    mapped = [ground for ground in grounds if ground.map is not None]
    album, unseen = filled_album(shelves, in_turn(stories), mapped, progress)
    notes = list(dict.fromkeys([*gone, *(note for ground in grounds for note in ground.notes)])) + unseen
    if len(stories) == 1:
        notes += stories[0].evidence.notes
    for note in notes:
        progress.note(note)

    charts: list[Chart] = []
    several = len({info.source for info in run.label_sets}) > 1
    views = [set_view(story, album, charts, several_sources=several) for story in stories]
    grounded = {ground.number: told(ground, album) for ground in mapped}
    first, rest = _headline(run)
    return framed(
        "run.jinja",
        charts,
        album.pictures,
        title=f"{run.name}: what was evaluated",
        grounds=grounded,
        run=run,
        said={"first": first, "rest": rest},
        facts=_facts(run),
        places=_places(views, notes or run.notes),
        index=[_index_row(run, number, info) for number, info in enumerate(run.label_sets)],
        several_sources=several,
        views=views,
        notes=[sentence(text) for text in (*notes, *run.notes)],
        made=_made(run),
    )


def _shelves(run: Run, stories: Sequence[Story], photos: Any) -> tuple[dict[str, Shelf], list[str]]:
    """Return the photos of all caches that the run names, and why some are not to be had."""
    shelves: dict[str, Shelf] = {}
    notes = []
    places = [story.shelf for story in stories] + [part.shelf for story in stories for part in story.parts]
    for place in dict.fromkeys(places):
        source, digests, note = _photos_at(run, place, photos)
        if source is not None:
            shelves[place] = Shelf(source, digests)
        if note:
            notes.append(note)
    return shelves, notes


def _photos_at(run: Run, place: str, photos: Any) -> tuple[ImageSource | None, Mapping[str, bytes], str]:
    try:
        cache = cache_at(run.folder, place)
    except PipelineError as error:
        if photos is None:
            return None, {}, f"no photos are shown: {error.message}; say where they are: --photos DIR"
        return ImageSource.open(photos), {}, ""
    source, note = open_photos(cache, photos)
    if source is None and photos is not None:
        # A test set's photos may be where they were while the others have moved.
        other, _ = open_photos(cache)
        source, note = (other, "") if other is not None else (source, note)
    features = Features.of(cache)
    rows = [row for row, has in enumerate(features.has) if has]
    return source, {features.ids[row]: features.digests[row].tobytes() for row in rows}, note


def _headline(run: Run) -> tuple[str, str]:
    """Return the verdict to read first, and what goes with it."""
    if len(run.label_sets) == 1:
        info = run.label_sets[0]
        return headline((run.verdicts or (info.name,))[0].removeprefix(f"{info.name}: "))
    above: list[str] = []
    level: list[str] = []
    for info in run.label_sets:
        (above if _is_better(run, info) else level).append(info.name)
    n = len(run.label_sets)
    if not level:
        return f"All {n:,} label sets are told better than by guessing.", ""
    first = f"{len(above):,} of {n:,} label sets are told better than by guessing."
    few = ", ".join(level[:6]) + (f" and {len(level) - 6:,} more" if len(level) > 6 else "")
    return first, f"Not shown to be better: {few}."


def _is_better(run: Run, info: LabelSetInfo) -> bool:
    """Return whether a label set is told better than by the dummy, by the rule of the verdicts."""
    low, dummy = shown_score(run, info)[2], null_of(run, info, NOTHING)
    guessing = _null_value(run, info, NOTHING)
    if low is None or dummy is None or guessing is None or low <= guessing:
        return False
    tied = bool(dummy.tied) and (dummy.high is None or dummy.high >= low)
    return info.test is not None or not tied


def _facts(run: Run) -> list[tuple[str, str]]:
    infos = run.label_sets
    images = max(info.n + (info.test or 0) + info.unlabelled for info in infos)
    backbones = list(dict.fromkeys(one.backbone for one in run.results if not one.null))
    heads = list(dict.fromkeys(one.head for one in run.results if not one.null and one.head != CHOSEN))
    facts = [("images", f"{images:,}")]
    facts += [("label sets", f"{len(infos):,}")] if len(infos) > 1 else []
    facts += [("classes", f"{len(infos[0].classes):,}")] if len(infos) == 1 and infos[0].kind == "class" else []
    facts += [("head" if len(heads) == 1 else "heads", f"{len(heads):,}")]
    return [*facts, ("", ", ".join(backbones[:3]) + (" ..." if len(backbones) > 3 else ""))]


def _places(views: Sequence[SetView], noted: Sequence[str]) -> list[tuple[str, str]]:
    end = [*([("notes", "Notes")] if noted else []), ("made", "How it was made")]
    if len(views) > 1:
        return [("index", "Label sets"), *end]
    (one,) = views
    places = [("leaderboard-0", "Leaderboard")]
    places += [("mistakes-0", "Mistakes")] if one.parts else []
    places += [("calibration-0", "Calibration")] if one.calibration else []
    places += [("map-0", "The map")] if one.map else []
    places += [("suspects-0", "Doubtful labels")] if one.suspects_about else []
    places += [("copies-0", "Copies")] if one.copies_about else []
    return [*places, *end]


def _null_value(run: Run, info: LabelSetInfo, layer: str) -> float | None:
    null = null_of(run, info, layer)
    return None if null is None else null.test if info.test is not None else null.mean


def _index_row(run: Run, place: int, info: LabelSetInfo) -> IndexRow:
    best = run.best(info.name, source=info.source)
    heads = [one for one in run.of(info.name, source=info.source) if one.head != CHOSEN and not one.null]
    _, value, low, high = shown_score(run, info)
    verdict = run.verdicts[place] if place < len(run.verdicts) else ""
    return IndexRow(
        number=place,
        name=info.name,
        source=info.source,
        kind={"class": f"{len(info.classes):,} classes", "multi": f"{len(info.classes):,} tags"}.get(
            info.kind, "numbers"
        ),
        images=f"{info.n + (info.test or 0):,}",
        best=named(best, heads),
        scoring=info.scoring,
        score=number(value),
        interval=span(low, high),
        dummy=number(_null_value(run, info, NOTHING)),
        pixels=number(_null_value(run, info, PIXELS)),
        verdict=headline(verdict.removeprefix(f"{info.name}: "))[0],
    )


def _made(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = [("", [("run", str(run.folder))] if run.folder is not None else [])]
    for place in dict.fromkeys(one.cache for one in run.results):
        try:
            said = dict(cache_at(run.folder, place).provenance)
        except PipelineError:
            continue  # that it is gone stands among the notes
        groups.append((f"The features: {place.rpartition('/')[2]}", flat(said)))
    groups.append(("This page", [(name, installed(name) or "") for name in VERSIONS]))
    return [(name, pairs) for name, pairs in groups if pairs]
