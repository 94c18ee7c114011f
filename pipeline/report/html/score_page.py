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
from pipeline.model import NEIGHBOURS, EmbeddedTrainingSet, Model, ModelScore
from pipeline.progress import SILENT, Progress
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
    ClassPredictions,
    StoredFeatures,
    class_predictions_from,
    number_predictions_from,
    open_cache_images,
    open_images,
    tag_rows_from,
)
from pipeline.report.diagnostics.summary import find_cache, resolve_path
from pipeline.report.html.content import (
    PICTURED_ISSUES,
    ImageRef,
    PartPredictions,
    ProvenanceGroup,
    describe_features,
    describe_versions,
)
from pipeline.report.html.frame import Column, Table, first_rows, flatten, number, render_page, sentence, span
from pipeline.report.html.images import ImageBudget, ImageProvider, SourceImages, collect_images, map_points
from pipeline.report.html.map_layer import MapLayer
from pipeline.report.html.sections import (
    MistakeCard,
    PageData,
    PartView,
    Thumbnail,
    calibration_of,
    label_issues_view,
    map_of,
    part_view,
)
from pipeline.runs import LabelSetInfo
from pipeline.runs.leaderboard import LeaderboardScore, is_error, scoring_help, scoring_name, shown_score

if TYPE_CHECKING:
    import pandas as pd


MOST_POINTS = 20_000
MISTAKES = 12
PICTURED = 8  # training photos and unfamiliar ones that have thumbnails
SCORED, TRAINING = "scored", "training"  # image providers


@dataclass(frozen=True)
class ScoredImage:
    """A scored photo as texts: its label, its prediction with the probability, and the most similar training photos."""

    id: str
    true: str
    predicted: str
    probability: float
    near: tuple[SimilarImage, ...]


@dataclass(frozen=True, eq=False)
class ScoreDiagnostics:
    """The diagnostics of a score.

    Attributes
    ----------
    score : ModelScore
    info : LabelSetInfo
        Its classes are those of the model, then those that only the scored photos have.
    part : PartPredictions
        The predictions, with the mistakes.
    calibration : Calibration or None
        None where the head gives no probabilities.
    map_layer : MapLayer or None
        None where the cache of the photos is not available.
    learned : tuple of ScoredImage
        The scored photos that the model was trained on, each with that training photo.
    unfamiliar : tuple of ScoredImage or None
        Those that are the least like any training photo first; None where that is not known.
    label_issues : tuple of LabelIssue or None
        Possible label errors, the most likely first; None where the head gives no probabilities.
    notes : tuple of str
        Parts that are left out, each with the next step.
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
        """Yield the photos to show, the most important first."""
        kinds: tuple[Sequence[Any], ...] = (
            self.part.mistakes,
            (self.label_issues or ())[:PICTURED_ISSUES],
            (self.unfamiliar or ())[:PICTURED],
            self.learned[:PICTURED],
        )
        for rank in range(max(map(len, kinds))):
            for photos in kinds:
                for photo in photos[rank : rank + 1]:
                    yield SCORED, photo.id
                    yield from ((TRAINING, near.id) for near in _near(photo))


def diagnose_score(score: ModelScore) -> ScoreDiagnostics:
    """Return the diagnostics of a score; for a missing part there is a note instead."""
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
    learned = tuple(replace(photo, near=photo.near[:1]) for photo in duplicates)  # the training photo that it is
    unfamiliar = None
    if score.unfamiliar is not None:
        strange = [known[name] for name in table["id"][table["unfamiliar"].to_numpy(bool)]]
        unfamiliar = tuple(sorted(strange, key=lambda photo: photo.near[0].cosine if photo.near else 0.0))
    part, sure, issues = _part(score, info, known)
    return ScoreDiagnostics(score, info, part, sure, map_layer, learned, unfamiliar, issues, tuple(notes))


def image_providers(score: ModelScore, photos: Any = None) -> tuple[dict[str, ImageProvider], list[str]]:
    """Return the scored photos and the training photos, and notes on those that are not available.

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
            providers[TRAINING] = _training_images(score)
        except PipelineError as error:
            notes.append(f"training photos are named and not shown: {error.message}; {error.next_step}")
    return providers, notes


def prediction_table(score: ModelScore) -> pd.DataFrame:
    """Return the predictions of a score.

    Raises
    ------
    ReportError
        It was not written to a folder.
    """
    if score.predictions is None:
        raise ReportError(
            f"the report of {score.name}: expected a score with its predictions, got one without",
            "write it: Model.score(..., out=RUN), or pipeline score MODEL DATA --out RUN",
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


def _training_images(score: ModelScore) -> ImageProvider:
    """Return the training photos: those that the model holds, or those of their cache."""
    record = score.about["training"]
    if record.get("kept"):
        path = resolve_path(score.folder, score.about["model"]["path"])
        model = Model.open(path)
        if model.sha256 != score.about["question"]["model"] or model.kept is None:
            raise ModelError(
                f"{path}: expected the model that was scored, got another one",
                f"score it too: pipeline score {path} DATA --out RUN",
            )
        return EmbeddedThumbnails(model.kept)
    cache = find_cache(score.folder, record["place"])
    source, note = open_cache_images(cache)
    if source is None:
        raise ModelError(note.removeprefix("no photos are shown: ").partition("; ")[0], "fit with --keep-photos")
    features = StoredFeatures.of(cache)
    rows = [row for row, has in enumerate(features.has) if has]
    return SourceImages(source, {features.ids[row]: features.digests[row].tobytes() for row in rows})


def _part(
    score: ModelScore, info: LabelSetInfo, known: Mapping[str, ScoredImage]
) -> tuple[PartPredictions, Calibration | None, tuple[LabelIssue, ...] | None]:
    """Return the predictions with mistakes, their calibration, and possible label errors, which are no mistakes."""
    table, about = prediction_table(score), score.about["model"]
    facts = {
        "part": np.full(score.n, "test"),
        "head": about["head"],
        "layer": about["layer"],
        "cache": SCORED,
        "label_set": score.label_set,
        "source": score.name,
    }
    nothing = PartPredictions(True, SCORED, None, None, None, None, None)
    if score.kind == "multi":
        return replace(nothing, tags=tag_rows_from(table, info.classes, separator=score.separator)), None, None
    if score.kind == "number":
        numbers = number_predictions_from(table, **facts)
        mistakes = _beside(largest_errors(numbers, None, most=MISTAKES), known)
        return replace(nothing, numbers=numbers, mistakes=mistakes), None, None
    predictions = class_predictions_from(table, info.classes, **facts)
    issues = _label_issues(score, predictions)
    exclude = {issue.id for issue in issues or ()}
    mistakes = _beside(most_confident_mistakes(predictions, None, most=MISTAKES, exclude=exclude), known)
    if issues is not None:
        issues = tuple(replace(issue, neighbours=known[issue.id].near) for issue in issues)
    part = replace(
        nothing,
        predictions=predictions,
        confusion=confusion(predictions),
        per_class=per_class(predictions),
        mistakes=mistakes,
    )
    return part, calibration(predictions), issues


def _label_issues(score: ModelScore, predictions: ClassPredictions) -> tuple[LabelIssue, ...] | None:
    """Return possible label errors among the photos that the model can be held against.

    Left out are photos that it was trained on, whose labels it repeats, and those of classes that it does not have.
    """
    learned = prediction_table(score)["learned"].to_numpy(bool)
    rows = np.flatnonzero(~learned & (predictions.true < len(score.classes)))
    return label_issues(predictions.take(rows))


def _beside(mistakes: tuple[Mistake, ...], known: Mapping[str, ScoredImage]) -> tuple[Mistake, ...]:
    return tuple(replace(mistake, neighbours=known[mistake.id].near) for mistake in mistakes)


def _near(photo: Mistake | LabelIssue | ScoredImage) -> tuple[SimilarImage, ...]:
    return photo.near if isinstance(photo, ScoredImage) else photo.neighbours


def _scored_images(score: ModelScore) -> dict[str, ScoredImage]:
    """Return every photo as texts, by its id."""
    table = prediction_table(score)
    true, record = ("true_value", "predicted_value") if score.kind == "number" else ("true", "predicted")
    texts = [[_text(value) for value in table[name]] for name in (true, record)]
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
        return None, ["no map: the features of this machine differ from those of the model, so no cache has them"]
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
        return None, [*notes, f"no map of {len(at)} photos: it needs three"]
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
        Gets the notes on what is left out, too.
    """
    found = diagnose_score(score)
    providers, gone = image_providers(score, photos)
    mapped = [found.map_layer] if found.map_layer is not None else []
    cells = found.part.cell_image_refs()
    images, unseen = collect_images(providers, found.image_refs(), mapped, progress, cells=cells)
    notes = [*found.notes, *gone, *unseen]
    for note in notes:
        progress.note(note)
    page = PageData()
    head = score.about["model"]["head"]
    flagged = len(found.label_issues or ())
    part = part_view(
        found.part, images, page, title="Scored photos", where=f" of {score.name}", head=head, training=TRAINING,
        flagged=flagged,
    )  # fmt: skip
    issues = label_issues_view(
        found.label_issues, images, provider=SCORED, training=TRAINING, by=head, where="which was not trained on them"
    )
    sure, sure_about = calibration_of(found.calibration, head, page, where="On the scored photos")
    drawn, map_about, map_warning = (
        (None, "", "") if found.map_layer is None else map_of(found.map_layer, found.info, page)
    )
    first, rest = _headline(found)
    noted = [sentence(text) for text in (*notes, *score.notes)]
    return render_page(
        "score.jinja",
        page.charts,
        images.pictures,
        cells=page.cells,
        title=f"{score.name}: score of {_model_name(score)}",
        model=_model_name(score),
        score=score,
        first=first,
        rest=rest,
        facts=_facts(score),
        places=_places(part, bool(issues.about), drawn is not None, sure is not None, bool(noted)),
        scores=_scores(score),
        methods=_methods(score),
        part=part,
        issues=issues,
        calibration=sure,
        calibration_about=sure_about,
        map=drawn,
        map_about=map_about,
        map_warning=map_warning,
        map_layers={map_layer.number: map_points(map_layer, images) for map_layer in mapped},
        learned_about=_learned_about(found),
        learned=[_card(photo, images) for photo in found.learned[:PICTURED]],
        learned_table=_table("training photos", found.learned),
        strange_about=_strange_about(score),
        unfamiliar_about=_unfamiliar_about(found),
        unfamiliar=[_card(photo, images) for photo in (found.unfamiliar or ())[:PICTURED]],
        unfamiliar_table=_table("unfamiliar photos", found.unfamiliar or ()),
        notes=noted,
        provenance=_provenance(score),
    )


def _model_name(score: ModelScore) -> str:
    return Path(score.about["model"]["path"]).name or "a model"


def _headline(found: ScoreDiagnostics) -> tuple[str, list[str]]:
    """Return the sentence to read first, and the further ones."""
    score = found.score
    apart = [_apart(score)] if score.scores_apart else []
    if score.kind != "class":
        main = score.scores[0]
        rest = []
        numbers = found.part.numbers
        if numbers is not None:
            off, guessing = (
                float(abs(guess - numbers.true).mean()) for guess in (numbers.predicted, numbers.true.mean())
            )
            rest = [f"The mean error is {off:.3g}; always predicting the mean, it is {guessing:.3g}."]
        elif main.scoring in score.guessing:
            guess = number(_shown(main.scoring, score.guessing[main.scoring]).value)
            rest = [f"Baseline, always predicting how common each tag is here: {guess}."]
        return f"{scoring_name(main.scoring).capitalize()} {_figure(main)} on {score.n:,} photos.", [*rest, *apart]
    accuracy = next(interval for interval in score.scores if interval.scoring == "accuracy")
    predictions, confused = found.part.predictions, found.part.confusion
    assert predictions is not None and confused is not None
    times = Counter(predictions.true.tolist())
    most = max(times, key=lambda code: times[code])
    rest = [
        f"Baseline, always predicting {predictions.classes[most]}, the most common class: {times[most] / score.n:.1%}."
    ]
    worst = confused.commonest_mistakes[:1]
    rest += [f"Most confused: {label} predicted as {other}, {_times(often)}." for label, other, often in worst]
    first = (
        f"Correct on {score.n - len(predictions.wrong):,} of {score.n:,} photos, "
        f"{accuracy.value:.1%} ({span(accuracy.low, accuracy.high, '.1%')})."
    )
    return first, [*rest, *apart]


def _times(times: int) -> str:
    return f"{times:,} time{'s' if times != 1 else ''}"


def _apart(score: ModelScore) -> str:
    """Return the first score without the photos that the model was trained on."""
    shown = "accuracy" if score.kind == "class" else score.scores[0].scoring
    interval = next(interval for interval in score.scores_apart if interval.scoring == shown)
    figure = (
        f"{interval.value:.1%} ({span(interval.low, interval.high, '.1%')})"
        if score.kind == "class"
        else _figure(interval)
    )
    seen = len(score.seen_in_training)
    return f"Without the {f'{seen:,} photos' if seen > 1 else 'photo'} that it was trained on: {figure}."


def _shown(scoring: str, *values: float) -> LeaderboardScore:
    """Return a score with its interval as it is shown; what is not finite is left out."""
    value, low, high = (number if math.isfinite(number) else None for number in (*values, math.nan, math.nan)[:3])
    return shown_score(scoring, value, low, high)


def _figure(interval: ScoreInterval) -> str:
    shown = _shown(interval.scoring, interval.value, interval.low, interval.high)
    return f"{number(shown.value)} ({span(shown.low, shown.high)})" if shown.low is not None else number(shown.value)


def _facts(score: ModelScore) -> list[tuple[str, str]]:
    facts = [("photos", f"{score.n:,}")]
    if score.classes:
        facts.append(("tags" if score.kind == "multi" else "classes", f"{len(score.classes):,}"))
    facts += [("training photos", f"{score.about['model'].get('training_images', 0):,}")]
    return [*facts, ("", score.about["model"]["head"]), ("", score.about["model"]["backbone"])]


def _places(part: PartView, issues: bool, mapped: bool, calibrated: bool, noted: bool) -> list[tuple[str, str]]:
    places = [("summary", "Summary"), ("scores", "Scores"), ("confusion", part.kind_title)]
    places += [("mistakes", part.cards_title)] if part.cards_about else []
    places += [("label-errors", "Possible label errors")] if issues else []
    places += [("calibration", "Calibration")] if calibrated else []
    places += [("map", "Map")] if mapped else []
    places += [("limits", "Limits of this score")]
    return [*places, *([("notes", "Notes")] if noted else []), ("provenance", "Provenance")]


def _scores(score: ModelScore) -> Table:
    apart = {interval.scoring: interval for interval in score.scores_apart}
    meaning = "With 95% confidence the score on further photos of this kind lies in this range."
    columns = [
        Column("score"),
        Column("value", True, "The score of the model on these photos."),
        Column("95%", True, meaning),
        Column("baseline", True, "The score of the most common class, the mean, or how common each tag is."),
    ]
    new = Column("new photos only", True, "The score without the photos that the model was trained on.")
    columns += [new, Column("95%", True, meaning)] if apart else []
    rows = []
    for interval in score.scores:
        guess = number(_shown(interval.scoring, score.guessing.get(interval.scoring, math.nan)).value)
        row = [scoring_name(interval.scoring), *_cells(interval), guess]
        row += _cells(apart[interval.scoring]) if interval.scoring in apart else ["", ""] if apart else []
        rows.append(row)
    return Table("Scores with their intervals", columns, rows)


def _methods(score: ModelScore) -> str:
    """Return what the scores mean and how the intervals were made."""
    scorings: dict[str, list[str]] = {}
    for interval in score.scores:
        scorings.setdefault(interval.method, []).append(scoring_name(interval.scoring))
    methods = "; ".join(f"{_listed(names)}: {method}" for method, names in scorings.items())
    meaning = " ".join(
        f"{scoring_name(interval.scoring).capitalize()}: {scoring_help(interval.scoring)}" for interval in score.scores
    )
    guess = {"class": "the most common class", "number": "the mean", "multi": "how common each tag is"}[score.kind]
    errors = [scoring_name(interval.scoring) for interval in score.scores if is_error(interval.scoring)]
    better = f"Higher is better{f', except for {_listed(errors)}' if errors else ''}."
    return f"{meaning} {better} The baseline always predicts {guess} here. Intervals of {methods}."


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them: "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _cells(interval: ScoreInterval) -> list[str]:
    shown = _shown(interval.scoring, interval.value, interval.low, interval.high)
    return [number(shown.value), span(shown.low, shown.high)]


def _learned_about(found: ScoreDiagnostics) -> str:
    n, seen = found.score.n, len(found.learned)
    if not seen:
        return f"The model was trained on none of the {n:,} photos; their content was compared."
    apart = "the scores without them are in the table of scores" if found.score.scores_apart else "no photo is new"
    which = "one of the training photos" if seen == 1 else "training photos"
    are = "is" if seen == 1 else "are"
    return f"{seen:,} of the {n:,} photos {are} {which}, by content. The score on them is optimistic; {apart}."


def _strange_about(score: ModelScore) -> str:
    what = "tag" if score.kind == "multi" else "class"
    if score.kind == "number":
        return ""
    if not score.unknown_classes:
        return f"The model has every {what} of these photos."
    listed = ", ".join(f"{name} ({times:,})" for name, times in sorted(score.unknown_classes.items()))
    counted = "count as missed" if score.kind == "multi" else "count as wrong"
    return (
        f"{'Tags' if what == 'tag' else 'Classes'} that the model does not have {counted}, with their photos: {listed}."
    )


def _unfamiliar_about(found: ScoreDiagnostics) -> str:
    score = found.score
    if found.unfamiliar is None:
        why = score.about["training"]["why_not"] or "no training photo has another one that is no duplicate of it"
        return f"Not known: {why}."
    rule = "further from the nearest training photo than 99% of the training photos are from one another"
    if not found.unfamiliar:
        return f"None of the {score.n:,} photos is {rule}."
    count = len(found.unfamiliar)
    wrong = sum(photo.true != photo.predicted for photo in found.unfamiliar)
    mistaken = f" The model is wrong on {wrong:,} of them." if score.kind == "class" else ""
    return f"{count:,} of the {score.n:,} photos {'is' if count == 1 else 'are'} {rule}.{mistaken}"


def _card(photo: ScoredImage, images: ImageBudget) -> MistakeCard:
    near = tuple(
        Thumbnail(images.place(TRAINING, other.id), other.id, other.label, f"cosine {other.cosine:.2f}")
        for other in photo.near
    )
    sure = "" if math.isnan(photo.probability) else f"{photo.probability:.0%}"
    return MistakeCard(Thumbnail(images.place(SCORED, photo.id), photo.id, photo.true), photo.predicted, sure, near)


def _table(what: str, known: Sequence[ScoredImage]) -> Table:
    columns = (
        Column("photo"),
        Column("label"),
        Column("predicted"),
        Column("most similar training photo"),
        Column("cosine", True, "How alike the features of the two photos are: 1 is identical."),
    )
    rows = [
        (
            photo.id,
            photo.true,
            photo.predicted,
            photo.near[0].id if photo.near else "",
            f"{photo.near[0].cosine:.2f}" if photo.near else "",
        )
        for photo in known[:MOST_ROWS]
    ]
    return Table(first_rows(what, len(known), MOST_ROWS), columns, rows)


def _provenance(score: ModelScore) -> list[ProvenanceGroup]:
    about = score.about
    model, question, data = about["model"], about["question"], about["data"]
    recorded = {name: value for name, value in model.items() if name not in ("recipe", "versions")}
    photos = {
        **data,
        "labels": question["labels"],
        "column": question["column"],
        "groups": question["groups"],
        "classes": list(score.classes),
    }
    facts = [("folder of the score", str(score.folder))] if score.folder is not None else []
    facts += [("model", str(model["path"])), ("SHA-256 of the model", str(question["model"]))]
    facts += [("head", str(model["head"])), ("layer", str(model["layer"]))]
    facts += [("training photos", f"{model.get('training_images', 0):,}")]
    from_file = [
        ("photos", str(data.get("place", ""))),
        ("labels", str(question["labels"] or "")),
        ("column", str(question["column"] or "")),
    ]
    features = {**model, "recipe": model.get("recipe", {})}
    return [
        ProvenanceGroup("Model", facts, flatten(recorded)),
        ProvenanceGroup("Photos", [(name, text) for name, text in from_file if text], flatten(photos)),
        ProvenanceGroup("Features", describe_features(features), flatten(model.get("recipe", {}))),
        ProvenanceGroup(
            "Scoring",
            describe_versions(),
            flatten({**about["versions"], "random_state": about.get("random_state", "")}),
        ),
    ]
