"""The page of a score: how a saved model performs on labeled images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cache import RowSubset
from pipeline.errors import ModelError, PipelineError, ReportError
from pipeline.intervals import ScoreInterval
from pipeline.model import Model, ModelScore
from pipeline.model.model_score import NEIGHBOURS
from pipeline.model.training_set import EmbeddedTrainingSet
from pipeline.progress import SILENT, Progress
from pipeline.provenance import installed
from pipeline.report.diagnostics.confusion import Calibration, calibration, confusion, per_class
from pipeline.report.diagnostics.embedding_map import embedding_map
from pipeline.report.diagnostics.mistakes import (
    LabelIssue,
    Mistake,
    SimilarImage,
    label_issues,
    largest_errors,
    most_confident_mistakes,
)
from pipeline.report.diagnostics.predictions import (
    StoredFeatures,
    class_predictions_from,
    number_predictions_from,
    open_cache_images,
    open_images,
    tag_rows_from,
)
from pipeline.report.diagnostics.summary import find_cache, there
from pipeline.report.html.charts import Chart
from pipeline.report.html.content import PICTURED_ISSUES, ImageRef, PartPredictions
from pipeline.report.html.frame import Column, Table, first_rows, flatten, number, render_page, sentence, span
from pipeline.report.html.images import ImageBudget, ImageProvider, SourceImages, collect_images, told
from pipeline.report.html.map_layer import MapLayer
from pipeline.report.html.run_page import VERSIONS
from pipeline.report.html.sections import (
    SCORINGS,
    MistakeCard,
    Thumbnail,
    calibration_of,
    label_issues_view,
    map_of,
    part_view,
)
from pipeline.runs import LabelSetInfo

if TYPE_CHECKING:
    import pandas as pd


MOST_POINTS = 20_000
MISTAKES = 12
PICTURED = 8  # photos that were learned from, and unfamiliar ones, that have pictures
SCORED, LEARNED = "scored", "learned from"  # shelves


@dataclass(frozen=True)
class ScoredImage:
    """One scored photo, in words: what it is, what was said of it, how sure, and what it is most like."""

    id: str
    true: str
    said: str
    probability: float
    near: tuple[SimilarImage, ...]


@dataclass(frozen=True, eq=False)
class ScoreDiagnostics:
    """What there is to show about a score.

    Attributes
    ----------
    score : ModelScore
    info : LabelSetInfo
        Its classes are those that were learned, then those that training never saw.
    part : PartPredictions
        The answers, with the mistakes.
    calibration : Calibration or None
        None where the head gives no probabilities.
    ground : MapLayer or None
        None where the cache of the photos is not at hand.
    learned : tuple of ScoredImage
        The photos that the model learned from, each with the training photo that it is.
    unfamiliar : tuple of ScoredImage or None
        Those that are the least like any training photo first; None where that is not known.
    suspects : tuple of LabelIssue or None
        Labels that may be wrong, the most suspicious first; None where the head gives no probabilities.
    notes : tuple of str
        What is left out, and the way to it.
    """

    score: ModelScore
    info: LabelSetInfo
    part: PartPredictions = field(repr=False)
    calibration: Calibration | None
    map_layer: MapLayer | None = field(repr=False)
    learned: tuple[ScoredImage, ...]
    unfamiliar: tuple[ScoredImage, ...] | None
    label_issues: tuple[LabelIssue, ...] | None = None
    notes: tuple[str, ...] = ()

    def image_refs(self) -> Iterator[ImageRef]:
        """Give the photos that are to be shown, the ones that matter most first."""
        kinds = (self.part.mistakes, (self.unfamiliar or ())[:PICTURED], self.learned[:PICTURED])
        for rank in range(max(map(len, kinds))):
            for some in kinds:
                for one in some[rank : rank + 1]:
                    yield SCORED, one.id
                    yield from ((LEARNED, near.id) for near in _near(one))
        yield from ((SCORED, one.id) for one in (self.label_issues or ())[:PICTURED_ISSUES])


def diagnose_score(score: ModelScore) -> ScoreDiagnostics:
    """Return what there is to show about a score. What is gone is a note, and all else is still there."""
    table = prediction_table(score)
    classes = (*score.classes, *score.unknown_classes)
    info = LabelSetInfo(
        name=score.label_set,
        kind=score.kind,
        n=score.n,
        classes=classes,
        unlabelled=0,
        groups=None,
        folds=0,
        test=score.n,
        scoring=score.scores[0].scoring,
        source=score.name,
    )
    map_layer, notes = _build_map_layer(score, info)
    known = _scored_images(score)
    duplicates = [known[name] for name in table["id"][table["learned"].to_numpy(bool)]]
    learned = tuple(replace(one, near=one.near[:1]) for one in duplicates)  # what it is a copy of
    unfamiliar = None
    if score.unfamiliar is not None:
        strange = [known[name] for name in table["id"][table["unfamiliar"].to_numpy(bool)]]
        unfamiliar = tuple(sorted(strange, key=lambda one: one.near[0].cosine if one.near else 0.0))
    part, sure = _part(score, info, known)
    return ScoreDiagnostics(
        score, info, part, sure, map_layer, learned, unfamiliar, _label_issues(score, part), tuple(notes)
    )


def image_providers(score: ModelScore, photos: Any = None) -> tuple[dict[str, ImageProvider], list[str]]:
    """Return the photos that were scored and those that were learned from, and why some are not to be had.

    Parameters
    ----------
    score : ModelScore
    photos : path or ImageSource, optional
        Where the scored photos are now; by default where they were.
    """
    table = prediction_table(score)
    ids = table["id"].tolist()
    providers: dict[str, ImageProvider] = {}
    source, note = open_images(score.about["data"]["place"], ids, score.name, photos)
    if source is not None:
        digests = {name: bytes.fromhex(text) for name, text in zip(ids, table["digest"], strict=True)}
        providers[SCORED] = SourceImages(source, digests)
    notes = [note] if note else []
    if "neighbour" in table:  # where there is none, the score's own notes say why
        try:
            providers[LEARNED] = _training_shelf(score)
        except PipelineError as error:
            notes.append(f"training photos are named and not shown: {error.message}; {error.next_step}")
    return providers, notes


def prediction_table(score: ModelScore) -> pd.DataFrame:
    """Return the predictions of a score that was kept.

    Raises
    ------
    ReportError
        It has none: it was never to be kept.
    """
    if score.predictions is None:
        raise ReportError(
            f"the report of {score.name}: expected a score with its answers, got one that was not kept",
            "keep it: Model.score(..., out=RUN), or pipeline score MODEL DATA --out RUN",
        )
    return score.predictions


class EmbeddedThumbnails:
    """The small pictures that a model keeps of its training photos."""

    def __init__(self, kept: EmbeddedTrainingSet) -> None:
        self._kept = kept
        self._row_of = {name: row for row, name in enumerate(kept.ids)}

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    def picture(self, name: str, side: int) -> bytes:
        """Return the picture as it is kept: about as large as a page's own."""
        return self._kept.thumbnail(self._row_of[name]) if name in self._row_of else b""


def _training_shelf(score: ModelScore) -> ImageProvider:
    """Return the photos that the model learned from: those it keeps, or those that their cache leads to."""
    said = score.about["training"]
    if said.get("kept"):
        path = there(score.folder, score.about["model"]["path"])
        model = Model.open(path)
        if model.sha256 != score.about["question"]["model"] or model.kept is None:
            raise ModelError(
                f"{path}: expected the model that was scored, got another one",
                f"score it too: pipeline score {path} DATA --out RUN",
            )
        return EmbeddedThumbnails(model.kept)
    cache = find_cache(score.folder, said["place"])
    source, note = open_cache_images(cache)
    if source is None:
        raise ModelError(note.removeprefix("no photos are shown: ").partition("; ")[0], "fit with --keep-photos")
    features = StoredFeatures.of(cache)
    rows = [row for row, has in enumerate(features.has) if has]
    return SourceImages(source, {features.ids[row]: features.digests[row].tobytes() for row in rows})


def _part(
    score: ModelScore, info: LabelSetInfo, known: Mapping[str, ScoredImage]
) -> tuple[PartPredictions, Calibration | None]:
    """Return the answers with their mistakes, each beside the training photos that it is most like."""
    table, about = prediction_table(score), score.about["model"]
    asked = {
        "part": np.full(score.n, "test"),
        "head": about["head"],
        "layer": about["layer"],
        "cache": SCORED,
        "label_set": score.label_set,
        "source": score.name,
    }
    nothing = PartPredictions(True, SCORED, None, None, None, None, None)
    if score.kind == "multi":
        return replace(nothing, tags=tag_rows_from(table, info.classes, separator=score.separator)), None
    if score.kind == "number":
        numbers = number_predictions_from(table, **asked)
        mistakes = _beside(largest_errors(numbers, None, most=MISTAKES), known)
        return replace(nothing, numbers=numbers, mistakes=mistakes), None
    predictions = class_predictions_from(table, info.classes, **asked)
    mistakes = _beside(most_confident_mistakes(predictions, None, most=MISTAKES), known)
    part = replace(
        nothing,
        predictions=predictions,
        confusion=confusion(predictions),
        per_class=per_class(predictions),
        mistakes=mistakes,
    )
    return part, calibration(predictions)


def _label_issues(score: ModelScore, part: PartPredictions) -> tuple[LabelIssue, ...] | None:
    """Return the labels that may be wrong, among the photos about which the model can be asked.

    Of a label that it learned it has learned to say so; of a class that it never saw it says something else anyhow.
    """
    if part.predictions is None:
        return None
    learned = prediction_table(score)["learned"].to_numpy(bool)
    asked = np.flatnonzero(~learned & (part.predictions.true < len(score.classes)))
    return label_issues(part.predictions.take(asked))


def _beside(mistakes: tuple[Mistake, ...], known: Mapping[str, ScoredImage]) -> tuple[Mistake, ...]:
    return tuple(replace(one, neighbours=known[one.id].near) for one in mistakes)


def _near(one: Mistake | ScoredImage) -> tuple[SimilarImage, ...]:
    return one.neighbours if isinstance(one, Mistake) else one.near


def _scored_images(score: ModelScore) -> dict[str, ScoredImage]:
    """Return every photo in words, by its id."""
    table = prediction_table(score)
    true, said = ("true_value", "predicted_value") if score.kind == "number" else ("true", "predicted")
    texts = [[_text(value) for value in table[name]] for name in (true, said)]
    sure = table["probability"].tolist() if score.kind == "class" else [float("nan")] * len(table)
    near = _neighbours(score)
    return {name: ScoredImage(name, *row) for name, *row in zip(table["id"].tolist(), *texts, sure, near, strict=True)}


def _neighbours(score: ModelScore) -> list[tuple[SimilarImage, ...]]:
    table = prediction_table(score)
    places = []
    for end in ("", *(f"_{place}" for place in range(2, NEIGHBOURS + 1))):
        if f"neighbour{end}" in table:
            columns = (table[f"neighbour{end}"], table[f"neighbour_label{end}"], table[f"similarity{end}"])
            places.append([SimilarImage(str(a), str(b), float(c)) for a, b, c in zip(*columns, strict=True)])
    return list(zip(*places, strict=True)) if places else [()] * len(table)


def _build_map_layer(score: ModelScore, info: LabelSetInfo) -> tuple[MapLayer | None, list[str]]:
    """Return the map of the scored photos, or why there is none."""
    table, place = prediction_table(score), score.about["data"]["cache"]
    layer = score.about["model"]["layer"]
    if not place:
        return None, ["no map: this machine makes features otherwise than the model's, so that no cache keeps them"]
    try:
        features = StoredFeatures.of(find_cache(score.folder, place), layer)
    except PipelineError as error:
        return None, [f"no map: {error.message}; {error.next_step}"]
    ids = table["id"].tolist()
    rows = features.rows(ids)
    same = np.array(
        [
            row >= 0 and features.digests[row].tobytes().hex() == digest
            for row, digest in zip(rows, table["digest"], strict=True)
        ]
    )
    at = np.flatnonzero(same)
    notes = []
    if len(at) < len(ids):
        notes.append(
            f"{len(ids) - len(at):,} of {len(ids):,} photos are not on the map: {place} has others of their ids"
        )
    names = [ids[row] for row in at]
    column = table["true_value" if score.kind == "number" else "true"].to_numpy()
    labels = column.astype(np.float64) if score.kind == "number" else column.astype(object).astype(str)
    drawn = embedding_map(RowSubset(features.X, rows[at]), names, labels[at], most=MOST_POINTS)
    if drawn is None:
        return None, [*notes, f"no map of {len(at)} photos: it wants three"]
    by_id = dict(zip(ids, labels.tolist(), strict=True))
    map_layer = MapLayer(0, score.name, SCORED, layer, (info,), features, drawn, None, {info.name: by_id})
    return map_layer, notes


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


MOST_ROWS = 200  # of a table of photos


def score_page(score: ModelScore, *, photos: Any = None, progress: Progress = SILENT) -> str:
    """Return the page, one self-contained HTML text.

    Parameters
    ----------
    score : ModelScore
        With its predictions.
    photos : path or ImageSource, optional
        Where the scored photos are now; by default where they were.
    progress : Progress
        Hears of what is left out, too.
    """
    found = diagnose_score(score)
    providers, gone = image_providers(score, photos)
    mapped = [found.map_layer] if found.map_layer is not None else []
    images, unseen = collect_images(providers, found.image_refs(), mapped, progress)
    notes = [*found.notes, *gone, *unseen]
    for note in notes:
        progress.note(note)
    charts: list[Chart] = []
    head = score.about["model"]["head"]
    part = part_view(
        found.part, images, charts, title="Right and wrong", where=f" of {score.name}", head=head, training=LEARNED
    )
    sure, sure_about = calibration_of(found.calibration, head, charts, where="On the scored photos")
    drawn, map_about = (None, "") if found.map_layer is None else map_of(found.map_layer, found.info, charts)
    first, rest = _headline(found)
    noted = [sentence(text) for text in (*notes, *score.notes)]
    return render_page(
        "score.jinja",
        charts,
        images.pictures,
        title=f"{_model_name(score)} on {score.name}: how it scored",
        model=_model_name(score),
        score=score,
        said={"first": first, "rest": rest},
        facts=_facts(score),
        places=_places(drawn is not None, sure is not None, bool(noted)),
        scores=_scores(score),
        methods=_methods(score),
        part=part,
        calibration=sure,
        calibration_about=sure_about,
        map=drawn,
        map_about=map_about,
        map_layers={map_layer.number: told(map_layer, images) for map_layer in mapped},
        learned_about=_learned_about(found),
        learned=[_card(one, images) for one in found.learned[:PICTURED]],
        learned_table=_table("photos that it learned from", found.learned),
        strange_about=_strange_about(score),
        unfamiliar_about=_unfamiliar_about(found),
        unfamiliar=[_card(one, images) for one in (found.unfamiliar or ())[:PICTURED]],
        unfamiliar_table=_table("unfamiliar photos", found.unfamiliar or ()),
        suspected=label_issues_view(
            found.label_issues, images, provider=SCORED, by=head, where="which had not seen them"
        ),
        notes=noted,
        made=_provenance(score),
    )


def _model_name(score: ModelScore) -> str:
    return Path(score.about["model"]["path"]).name or "a model"


def _headline(found: ScoreDiagnostics) -> tuple[str, str]:
    """Return what to read first, and what goes with it."""
    score = found.score
    said = [_apart(score)] if score.scores_apart else []
    if score.kind != "class":
        main = score.scores[0]
        name = SCORINGS.get(main.scoring, main.scoring)
        numbers = found.part.numbers
        if numbers is not None:
            off, guessing = (
                float(abs(guess - numbers.true).mean()) for guess in (numbers.predicted, numbers.true.mean())
            )
            said = [f"It is off by {off:.3g} on average; always saying their mean, by {guessing:.3g}.", *said]
        elif main.scoring in score.guessing:
            guess = number(_finite(score.guessing[main.scoring]))
            said = [f"Always saying how common each tag is here would score {guess}.", *said]
        return f"{sentence(name)[:-1]} {_figure(main)} on {score.n:,} photos.", " ".join(said)
    right = next(one for one in score.scores if one.scoring == "accuracy")
    predictions, confused = found.part.predictions, found.part.confusion
    assert predictions is not None and confused is not None
    times = Counter(predictions.true.tolist())
    most = max(times, key=lambda code: times[code])
    rest = [
        f"Always saying {predictions.classes[most]}, the commonest here, would be right on {times[most] / score.n:.1%}."
    ]
    worst = confused.commonest_mistakes[:1]
    rest += [f"Most confused: {was} taken for {taken}, {_times(often)}." for was, taken, often in worst]
    first = (
        f"Right on {score.n - len(predictions.wrong):,} of {score.n:,} photos, "
        f"{right.value:.1%} ({span(right.low, right.high, '.1%')})."
    )
    return first, " ".join([*rest, *said])


def _times(times: int) -> str:
    return f"{times:,} time{'s' if times != 1 else ''}"


def _apart(score: ModelScore) -> str:
    """Return what is left of the first score without the photos that were learned from."""
    shown = "accuracy" if score.kind == "class" else score.scores[0].scoring
    one = next(one for one in score.scores_apart if one.scoring == shown)
    figure = f"{one.value:.1%} ({span(one.low, one.high, '.1%')})" if score.kind == "class" else _figure(one)
    seen = len(score.seen_in_training)
    return f"Without the {f'{seen:,} photos' if seen > 1 else 'photo'} that it learned from: {figure}."


def _figure(one: ScoreInterval) -> str:
    low, high = _finite(one.low), _finite(one.high)
    return f"{number(_finite(one.value))} ({span(low, high)})" if low is not None else number(_finite(one.value))


def _facts(score: ModelScore) -> list[tuple[str, str]]:
    facts = [("photos", f"{score.n:,}")]
    if score.classes:
        facts.append(("tags" if score.kind == "multi" else "classes", f"{len(score.classes):,}"))
    facts += [("learned from", f"{score.about['model'].get('training_images', 0):,}")]
    return [*facts, ("", score.about["model"]["head"]), ("", score.about["model"]["backbone"])]


def _places(mapped: bool, calibrated: bool, noted: bool) -> list[tuple[str, str]]:
    places = [("scores", "Scores"), ("answers", "Mistakes")]
    places += [("calibration", "Calibration")] if calibrated else []
    places += [("map", "The map")] if mapped else []
    return [
        *places,
        ("care", "Handle with care"),
        *([("notes", "Notes")] if noted else []),
        ("made", "How it was made"),
    ]


def _scores(score: ModelScore) -> Table:
    apart = {one.scoring: one for one in score.scores_apart}
    columns = [Column("score"), Column("value", True), Column("95%", True), Column("guessing", True)]
    columns += [Column("not learned from", True), Column("95%", True)] if apart else []
    rows = []
    for one in score.scores:
        guess = number(_finite(score.guessing.get(one.scoring, math.nan)))
        row = [SCORINGS.get(one.scoring, one.scoring), *_cells(one), guess]
        row += _cells(apart[one.scoring]) if one.scoring in apart else ["", ""] if apart else []
        rows.append(row)
    return Table("Scores with their intervals", columns, rows)


def _methods(score: ModelScore) -> str:
    """Return how the intervals were made."""
    result_name: dict[str, list[str]] = {}
    for one in score.scores:
        result_name.setdefault(one.method, []).append(SCORINGS.get(one.scoring, one.scoring))
    told = "; ".join(f"{_listed(names)}: {method}" for method, names in result_name.items())
    guess = {"class": "the commonest class", "number": "the mean", "multi": "how common each tag is"}[score.kind]
    return f"Every score is better the higher it is; guessing is always saying {guess} here. Intervals of {told}."


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them: "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _cells(one: ScoreInterval) -> list[str]:
    return [number(_finite(one.value)), span(_finite(one.low), _finite(one.high))]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _learned_about(found: ScoreDiagnostics) -> str:
    n, seen = found.score.n, len(found.learned)
    if not seen:
        return f"None of the {n:,} photos is one that the model learned from, by content."
    some = f"{seen:,} of the {n:,} photos {'are ones' if seen > 1 else 'is one'} that the model learned from"
    apart = "the scores without them stand above" if found.score.scores_apart else "no photo is new"
    return f"{some}, by content: what it scores on them flatters; {apart}."


def _strange_about(score: ModelScore) -> str:
    what = "tag" if score.kind == "multi" else "class"
    if score.kind == "number":
        return ""
    if not score.unknown_classes:
        return f"Every {what} here is one that the model learned."
    listed = ", ".join(f"{name} ({times:,})" for name, times in sorted(score.unknown_classes.items()))
    counted = "count as missed" if score.kind == "multi" else "count as wrong"
    return f"{'Tags' if what == 'tag' else 'Classes'} that training never saw {counted}, with their photos: {listed}."


def _unfamiliar_about(found: ScoreDiagnostics) -> str:
    score = found.score
    if found.unfamiliar is None:
        why = score.about["training"]["why_not"] or "no training photo has another one that is no copy of it"
        return f"Not known: {why}."
    rule = "further from the nearest training photo than 99% of those lie from one another"
    if not found.unfamiliar:
        return f"None of the {score.n:,} photos lies {rule}."
    count = len(found.unfamiliar)
    wrong = sum(one.true != one.said for one in found.unfamiliar)
    mistaken = f" The model is wrong about {wrong:,} of them." if score.kind == "class" else ""
    return f"{count:,} of the {score.n:,} photos lie{'s' if count == 1 else ''} {rule}.{mistaken}"


def _card(one: ScoredImage, images: ImageBudget) -> MistakeCard:
    near = tuple(
        Thumbnail(images.place(LEARNED, other.id), other.id, other.label, f"cosine {other.cosine:.2f}")
        for other in one.near
    )
    sure = "" if math.isnan(one.probability) else f"{one.probability:.0%} sure"
    return MistakeCard(Thumbnail(images.place(SCORED, one.id), one.id, one.true), one.said, sure, near)


def _table(what: str, known: Sequence[ScoredImage]) -> Table:
    columns = (Column("photo"), Column("label"), Column("said"), Column("most like"), Column("cosine", True))
    rows = [
        (
            one.id,
            one.true,
            one.said,
            one.near[0].id if one.near else "",
            f"{one.near[0].cosine:.2f}" if one.near else "",
        )
        for one in known[:MOST_ROWS]
    ]
    return Table(first_rows(what, len(known), MOST_ROWS), columns, rows)


def _provenance(score: ModelScore) -> list[tuple[str, list[tuple[str, str]]]]:
    about = score.about
    model = {name: value for name, value in about["model"].items() if name not in ("recipe", "versions")}
    question = about["question"]
    data = {
        **about["data"],
        "labels": question["labels"],
        "column": question["column"],
        "groups": question["groups"],
        "classes": list(score.classes),
    }
    groups = [
        ("", [("run", str(score.folder))] if score.folder is not None else []),
        ("The model", flatten({**model, "sha256": question["model"]})),
        ("The photos", flatten(data)),
        ("The features", flatten(about["model"].get("recipe", {}))),
        ("Versions that fitted the model", flatten(about["model"].get("versions", {}))),
        ("Versions that scored it", flatten({**about["versions"], "random_state": about.get("random_state", "")})),
        ("This page", [(name, installed(name)) for name in VERSIONS]),
    ]
    return [(name, pairs) for name, pairs in groups if pairs]
