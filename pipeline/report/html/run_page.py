"""The page of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PipelineError
from pipeline.images import ImageSource
from pipeline.progress import SILENT, Progress
from pipeline.provenance import installed
from pipeline.report.diagnostics.predictions import StoredFeatures, open_cache_images
from pipeline.report.diagnostics.summary import find_cache
from pipeline.report.html.charts import Chart
from pipeline.report.html.content import STAGE, LabelSetSection, build_sections, round_robin
from pipeline.report.html.frame import flatten, headline, number, render_page, sentence, span
from pipeline.report.html.images import SourceImages, collect_images, told
from pipeline.report.html.map_layer import build_map_layers
from pipeline.report.html.sections import SetView, baseline_of, result_name, set_view, shown_score
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
    map_layers = build_map_layers(run, most=MOST_POINTS)
    sections = build_sections(run, map_layers, progress)
    providers, gone = _shelves(run, sections, photos)
    mapped = [map_layer for map_layer in map_layers if map_layer.map is not None]
    images, unseen = collect_images(providers, round_robin(sections), mapped, progress)
    notes = list(dict.fromkeys([*gone, *(note for map_layer in map_layers for note in map_layer.notes)])) + unseen
    if len(sections) == 1:
        notes += sections[0].diagnostics.notes
    for note in notes:
        progress.note(note)

    charts: list[Chart] = []
    several = len({info.source for info in run.label_sets}) > 1
    views = [set_view(section, images, charts, several_sources=several) for section in sections]
    grounded = {map_layer.number: told(map_layer, images) for map_layer in mapped}
    first, rest = _headline(run)
    return render_page(
        "run.jinja",
        charts,
        images.pictures,
        title=f"{run.name}: what was evaluated",
        map_layers=grounded,
        run=run,
        said={"first": first, "rest": rest},
        facts=_facts(run),
        places=_places(views, notes or run.notes),
        index=[_index_row(run, number, info) for number, info in enumerate(run.label_sets)],
        several_sources=several,
        views=views,
        notes=[sentence(text) for text in (*notes, *run.notes)],
        made=_provenance(run),
    )


def _shelves(run: Run, sections: Sequence[LabelSetSection], photos: Any) -> tuple[dict[str, SourceImages], list[str]]:
    """Return the photos of all caches that the run names, and why some are not to be had."""
    providers: dict[str, SourceImages] = {}
    notes = []
    places = [section.provider for section in sections] + [
        part.provider for section in sections for part in section.parts
    ]
    for place in dict.fromkeys(places):
        source, digests, note = _photos_at(run, place, photos)
        if source is not None:
            providers[place] = SourceImages(source, digests)
        if note:
            notes.append(note)
    return providers, notes


def _photos_at(run: Run, place: str, photos: Any) -> tuple[ImageSource | None, Mapping[str, bytes], str]:
    try:
        cache = find_cache(run.folder, place)
    except PipelineError as error:
        if photos is None:
            return None, {}, f"no photos are shown: {error.message}; say where they are: --photos DIR"
        return ImageSource.open(photos), {}, ""
    source, note = open_cache_images(cache, photos)
    if source is None and photos is not None:
        # A test set's photos may be where they were while the others have moved.
        other, _ = open_cache_images(cache)
        source, note = (other, "") if other is not None else (source, note)
    features = StoredFeatures.of(cache)
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
    low, dummy = shown_score(run, info)[2], baseline_of(run, info, NOTHING)
    guessing = _baseline_score(run, info, NOTHING)
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


def _baseline_score(run: Run, info: LabelSetInfo, layer: str) -> float | None:
    null = baseline_of(run, info, layer)
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
        best=result_name(best, heads),
        scoring=info.scoring,
        score=number(value),
        interval=span(low, high),
        dummy=number(_baseline_score(run, info, NOTHING)),
        pixels=number(_baseline_score(run, info, PIXELS)),
        verdict=headline(verdict.removeprefix(f"{info.name}: "))[0],
    )


def _provenance(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = [("", [("run", str(run.folder))] if run.folder is not None else [])]
    for place in dict.fromkeys(one.cache for one in run.results):
        try:
            said = dict(find_cache(run.folder, place).provenance)
        except PipelineError:
            continue  # that it is gone stands among the notes
        groups.append((f"The features: {place.rpartition('/')[2]}", flatten(said)))
    groups.append(("This page", [(name, installed(name) or "") for name in VERSIONS]))
    return [(name, pairs) for name, pairs in groups if pairs]
