"""The page of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from pipeline.errors import PipelineError
from pipeline.images import ImageSource
from pipeline.progress import SILENT, Progress
from pipeline.report.diagnostics.predictions import StoredFeatures, open_cache_images
from pipeline.report.diagnostics.summary import find_cache
from pipeline.report.html.content import (
    STAGE,
    LabelSetSection,
    ProvenanceGroup,
    build_sections,
    describe_features,
    describe_versions,
    round_robin,
)
from pipeline.report.html.frame import flatten, render_page, sentence
from pipeline.report.html.images import SourceImages, collect_images, map_points
from pipeline.report.html.map_layer import build_map_layers
from pipeline.report.html.sections import COLUMN_HELP, PageData, SetView, set_view
from pipeline.runs import CHOSEN, NOTHING, PIXELS, LabelSetInfo, Run
from pipeline.runs.leaderboard import baseline_of, baseline_score, reported_result, result_name, scoring_name

MOST_POINTS = 20_000


def run_page(run: Run, *, photos: Any = None, progress: Progress = SILENT) -> str:
    """Return the page, one self-contained HTML text.

    Parameters
    ----------
    run : Run
    photos : path or ImageSource, optional
        Where the photos are now; by default where they were when their features were extracted.
    progress : Progress
        Gets the notes on what is left out, too.
    """
    progress.advance(STAGE, 0, len(run.label_sets))
    map_layers = build_map_layers(run, most=MOST_POINTS)
    sections = build_sections(run, map_layers, progress)
    providers, gone = _image_providers(run, sections, photos)
    mapped = [map_layer for map_layer in map_layers if map_layer.map is not None]
    cells = chain.from_iterable(part.cell_image_refs() for section in sections for part in section.parts)
    images, unseen = collect_images(providers, round_robin(sections), mapped, progress, cells=cells)
    notes = list(dict.fromkeys([*gone, *(note for map_layer in map_layers for note in map_layer.notes)])) + unseen
    if len(sections) == 1:
        notes += sections[0].diagnostics.notes
    for note in notes:
        progress.note(note)

    page = PageData()
    several = len({info.source for info in run.label_sets}) > 1
    views = [set_view(section, images, page, several_sources=several) for section in sections]
    first, rest = (views[0].first, views[0].rest) if len(views) == 1 else _headline(run)
    return render_page(
        "run.jinja",
        page.charts,
        images.pictures,
        cells=page.cells,
        title=f"{run.name}: evaluation report",
        map_layers={map_layer.number: map_points(map_layer, images) for map_layer in mapped},
        run=run,
        first=first,
        rest=rest,
        facts=_facts(run),
        places=_places(views, notes or run.notes),
        index=[_index_row(run, number, info) for number, info in enumerate(run.label_sets)],
        several_sources=several,
        views=views,
        help=COLUMN_HELP,
        notes=[sentence(text) for text in (*notes, *run.notes)],
        provenance=_provenance(run),
    )


def _image_providers(
    run: Run, sections: Sequence[LabelSetSection], photos: Any
) -> tuple[dict[str, SourceImages], list[str]]:
    """Return the photos of every cache that the run names, and notes on those that are not available."""
    providers: dict[str, SourceImages] = {}
    notes = []
    places = [section.provider for section in sections]
    places += [part.provider for section in sections for part in section.parts]
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
            return None, {}, f"no photos are shown: {error.message}; name their folder: --photos DIR"
        return ImageSource.open(photos), {}, ""
    source, note = open_cache_images(cache, photos)
    if source is None and photos is not None:
        # A test set's photos may be where they were while the others have moved.
        other, _ = open_cache_images(cache)
        source, note = (other, "") if other is not None else (source, note)
    features = StoredFeatures.of(cache)
    rows = [row for row, has in enumerate(features.has) if has]
    return source, {features.ids[row]: features.digests[row].tobytes() for row in rows}, note


def _headline(run: Run) -> tuple[str, tuple[str, ...]]:
    """Return the sentence to read first for several label sets, and the names of those that are no better."""
    above: list[str] = []
    level: list[str] = []
    for info in run.label_sets:
        (above if _is_better(run, info) else level).append(info.name)
    n = len(run.label_sets)
    if not level:
        return f"All {n:,} label sets are predicted better than by the baseline.", ()
    first = f"{len(above):,} of {n:,} label sets are predicted better than by the baseline."
    few = ", ".join(level[:6]) + (f" and {len(level) - 6:,} more" if len(level) > 6 else "")
    return first, (f"Not shown to be better: {few}.",)


def _is_better(run: Run, info: LabelSetInfo) -> bool:
    """Return whether a label set is predicted better than by the dummy, by the rule of the verdicts."""
    result, _ = reported_result(run, info)
    low = result.test_low if info.test is not None else result.low
    dummy = baseline_of(run, info, NOTHING)
    guessing = None if dummy is None else dummy.test if info.test is not None else dummy.mean
    if low is None or dummy is None or guessing is None or low <= guessing:
        return False
    tied = bool(dummy.tied) and (dummy.high is None or dummy.high >= low)
    return info.test is not None or not tied


def _facts(run: Run) -> list[tuple[str, str]]:
    infos = run.label_sets
    images = max(info.n + (info.test or 0) + info.unlabelled for info in infos)
    backbones = list(dict.fromkeys(result.backbone for result in run.results if not result.null))
    heads = list(dict.fromkeys(result.head for result in run.results if not result.null and result.head != CHOSEN))
    facts = [("photos", f"{images:,}")]
    facts += [("label sets", f"{len(infos):,}")] if len(infos) > 1 else []
    facts += [("classes", f"{len(infos[0].classes):,}")] if len(infos) == 1 and infos[0].kind == "class" else []
    facts += [("head" if len(heads) == 1 else "heads", f"{len(heads):,}")]
    return [*facts, ("", ", ".join(backbones[:3]) + (" ..." if len(backbones) > 3 else ""))]


def _places(views: Sequence[SetView], noted: Sequence[str]) -> list[tuple[str, str]]:
    """Return the links of the navigation: anchors and names, in the order of the page."""
    start = [("summary", "Summary")]
    end = [*([("notes", "Notes")] if noted else []), ("provenance", "Provenance")]
    if len(views) > 1:
        return [*start, ("index", "Label sets"), *end]
    (view,) = views
    places = [*start, ("leaderboard-0", "Leaderboard")]
    if view.parts:
        places += [("confusion-0", view.parts[0].kind_title)]
        places += [("mistakes-0", view.parts[0].cards_title)] if view.parts[0].cards_about else []
    places += [("label-errors-0", "Possible label errors")] if view.issues.about else []
    places += [("calibration-0", "Calibration")] if view.calibration else []
    places += [("map-0", "Map")] if view.map else []
    places += [("duplicates-0", "Duplicates")] if view.duplicates_about else []
    return [*places, *end]


def _index_row(run: Run, place: int, info: LabelSetInfo) -> dict[str, Any]:
    """Return one label set of the index."""
    best = run.best(info.name, source=info.source)
    heads = [result for result in run.of(info.name, source=info.source) if result.head != CHOSEN and not result.null]
    kinds = {"class": f"{len(info.classes):,} classes", "multi": f"{len(info.classes):,} tags"}
    return {
        "number": place,
        "name": info.name,
        "source": info.source,
        "kind": kinds.get(info.kind, "numbers"),
        "images": info.n + (info.test or 0),
        "best": result_name(best, heads),
        "scoring": scoring_name(info.scoring),
        "score": reported_result(run, info)[1],
        "dummy": baseline_score(run, info, NOTHING),
        "pixels": baseline_score(run, info, PIXELS),
    }


def _provenance(run: Run) -> list[ProvenanceGroup]:
    infos = run.label_sets
    heads = list(dict.fromkeys(result.head for result in run.results if not result.null and result.head != CHOSEN))
    evaluated = [("folder of the run", str(run.folder))] if run.folder is not None else []
    evaluated += [("label sets", ", ".join(f"{info.name} ({info.n:,} photos)" for info in infos[:12]))]
    evaluated += [("folds", ", ".join(dict.fromkeys(f"{info.folds}" for info in infos)))]
    evaluated += [("heads", ", ".join(heads))]
    groups = [ProvenanceGroup("Evaluation", evaluated)]
    for place in dict.fromkeys(result.cache for result in run.results):
        try:
            recorded = dict(find_cache(run.folder, place).provenance)
        except PipelineError:
            continue  # a note says that it is gone
        layers = dict.fromkeys(result.layer for result in run.results if result.cache == place and not result.null)
        groups.append(
            ProvenanceGroup(
                f"Features: {place.rpartition('/')[2]}", describe_features(recorded, list(layers)), flatten(recorded)
            )
        )
    return [*groups, ProvenanceGroup("This page", describe_versions())]
