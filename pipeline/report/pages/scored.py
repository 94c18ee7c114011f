"""All that a kept score, the model, the cache and the photos have to show, joined by the photos' ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cache import RowSubset
from pipeline.errors import ModelError, PipelineError, ReportError
from pipeline.model import Model, ModelScore
from pipeline.model.model_score import NEIGHBOURS
from pipeline.model.training_set import EmbeddedTrainingSet
from pipeline.report.findings.answers import answers_in, number_answers_in, tag_rows_in
from pipeline.report.findings.calibration import Calibration, calibration
from pipeline.report.findings.confusion import confusion, per_class
from pipeline.report.findings.embedding_map import embedding_map
from pipeline.report.findings.evidence import cache_at, there
from pipeline.report.findings.features import Features
from pipeline.report.findings.mistakes import Mistake, Neighbour, largest_errors, most_confident_mistakes
from pipeline.report.findings.photos import open_photos, photos_at
from pipeline.report.findings.suspects import Suspect, suspects
from pipeline.report.pages.ground import Ground
from pipeline.report.pages.stories import SUSPECTS, Part, Wish
from pipeline.report.pages.thumbnails import Shelf, Shown
from pipeline.runs import LabelSetInfo

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 20_000
MISTAKES = 12
PICTURED = 8  # photos that were learned from, and unfamiliar ones, that have pictures
SCORED, LEARNED = "scored", "learned from"  # shelves


@dataclass(frozen=True)
class Known:
    """One scored photo, in words: what it is, what was said of it, how sure, and what it is most like."""

    id: str
    true: str
    said: str
    probability: float
    near: tuple[Neighbour, ...]


@dataclass(frozen=True, eq=False)
class Findings:
    """What there is to show about a score.

    Attributes
    ----------
    score : ModelScore
    info : LabelSetInfo
        Its classes are those that were learned, then those that training never saw.
    part : Part
        The answers, with the mistakes.
    calibration : Calibration or None
        None where the head gives no probabilities.
    ground : Ground or None
        None where the cache of the photos is not at hand.
    learned : tuple of Known
        The photos that the model learned from, each with the training photo that it is.
    unfamiliar : tuple of Known or None
        Those that are the least like any training photo first; None where that is not known.
    suspects : tuple of Suspect or None
        Labels that may be wrong, the most suspicious first; None where the head gives no probabilities.
    notes : tuple of str
        What is left out, and the way to it.
    """

    score: ModelScore
    info: LabelSetInfo
    part: Part = field(repr=False)
    calibration: Calibration | None
    ground: Ground | None = field(repr=False)
    learned: tuple[Known, ...]
    unfamiliar: tuple[Known, ...] | None
    suspects: tuple[Suspect, ...] | None = None
    notes: tuple[str, ...] = ()

    def wishes(self) -> Iterator[Wish]:
        """Give the photos that are to be shown, the ones that matter most first."""
        kinds = (self.part.mistakes, (self.unfamiliar or ())[:PICTURED], self.learned[:PICTURED])
        for rank in range(max(map(len, kinds))):
            for some in kinds:
                for one in some[rank : rank + 1]:
                    yield SCORED, one.id
                    yield from ((LEARNED, near.id) for near in _near(one))
        yield from ((SCORED, one.id) for one in (self.suspects or ())[:SUSPECTS])


def findings_of(score: ModelScore) -> Findings:
    """Return what there is to show about a score. What is gone is a note, and all else is still there."""
    table = answers_table(score)
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
    ground, notes = _ground(score, info)
    known = _known(score)
    copies = [known[name] for name in table["id"][table["learned"].to_numpy(bool)]]
    learned = tuple(replace(one, near=one.near[:1]) for one in copies)  # what it is a copy of
    unfamiliar = None
    if score.unfamiliar is not None:
        strange = [known[name] for name in table["id"][table["unfamiliar"].to_numpy(bool)]]
        unfamiliar = tuple(sorted(strange, key=lambda one: one.near[0].cosine if one.near else 0.0))
    part, sure = _part(score, info, known)
    return Findings(score, info, part, sure, ground, learned, unfamiliar, _suspected(score, part), tuple(notes))


def shelves_of(score: ModelScore, photos: Any = None) -> tuple[dict[str, Shown], list[str]]:
    """Return the photos that were scored and those that were learned from, and why some are not to be had.

    Parameters
    ----------
    score : ModelScore
    photos : path or ImageSource, optional
        Where the scored photos are now; by default where they were.
    """
    table = answers_table(score)
    ids = table["id"].tolist()
    shelves: dict[str, Shown] = {}
    source, note = photos_at(score.about["data"]["place"], ids, score.name, photos)
    if source is not None:
        digests = {name: bytes.fromhex(text) for name, text in zip(ids, table["digest"], strict=True)}
        shelves[SCORED] = Shelf(source, digests)
    notes = [note] if note else []
    if "neighbour" in table:  # where there is none, the score's own notes say why
        try:
            shelves[LEARNED] = _training_shelf(score)
        except PipelineError as error:
            notes.append(f"training photos are named and not shown: {error.message}; {error.next_step}")
    return shelves, notes


def answers_table(score: ModelScore) -> pd.DataFrame:
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


class KeptShelf:
    """The small pictures that a model keeps of its training photos."""

    def __init__(self, kept: EmbeddedTrainingSet) -> None:
        self._kept = kept
        self._row_of = {name: row for row, name in enumerate(kept.ids)}

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    def picture(self, name: str, side: int) -> bytes:
        """Return the picture as it is kept: about as large as a page's own."""
        return self._kept.thumbnail(self._row_of[name]) if name in self._row_of else b""


def _training_shelf(score: ModelScore) -> Shown:
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
        return KeptShelf(model.kept)
    cache = cache_at(score.folder, said["place"])
    source, note = open_photos(cache)
    if source is None:
        raise ModelError(note.removeprefix("no photos are shown: ").partition("; ")[0], "fit with --keep-photos")
    features = Features.of(cache)
    rows = [row for row, has in enumerate(features.has) if has]
    return Shelf(source, {features.ids[row]: features.digests[row].tobytes() for row in rows})


def _part(score: ModelScore, info: LabelSetInfo, known: Mapping[str, Known]) -> tuple[Part, Calibration | None]:
    """Return the answers with their mistakes, each beside the training photos that it is most like."""
    table, about = answers_table(score), score.about["model"]
    asked = {
        "part": np.full(score.n, "test"),
        "head": about["head"],
        "layer": about["layer"],
        "cache": SCORED,
        "label_set": score.label_set,
        "source": score.name,
    }
    nothing = Part(True, SCORED, None, None, None, None, None)
    if score.kind == "multi":
        return replace(nothing, tags=tag_rows_in(table, info.classes, separator=score.separator)), None
    if score.kind == "number":
        numbers = number_answers_in(table, **asked)
        mistakes = _beside(largest_errors(numbers, None, most=MISTAKES), known)
        return replace(nothing, numbers=numbers, mistakes=mistakes), None
    answers = answers_in(table, info.classes, **asked)
    mistakes = _beside(most_confident_mistakes(answers, None, most=MISTAKES), known)
    part = replace(
        nothing, answers=answers, confusion=confusion(answers), per_class=per_class(answers), mistakes=mistakes
    )
    return part, calibration(answers)


def _suspected(score: ModelScore, part: Part) -> tuple[Suspect, ...] | None:
    """Return the labels that may be wrong, among the photos about which the model can be asked.

    Of a label that it learned it has learned to say so; of a class that it never saw it says something else anyhow.
    """
    if part.answers is None:
        return None
    learned = answers_table(score)["learned"].to_numpy(bool)
    asked = np.flatnonzero(~learned & (part.answers.true < len(score.classes)))
    return suspects(part.answers.take(asked))


def _beside(mistakes: tuple[Mistake, ...], known: Mapping[str, Known]) -> tuple[Mistake, ...]:
    return tuple(replace(one, neighbours=known[one.id].near) for one in mistakes)


def _near(one: Mistake | Known) -> tuple[Neighbour, ...]:
    return one.neighbours if isinstance(one, Mistake) else one.near


def _known(score: ModelScore) -> dict[str, Known]:
    """Return every photo in words, by its id."""
    table = answers_table(score)
    true, said = ("true_value", "predicted_value") if score.kind == "number" else ("true", "predicted")
    texts = [[_text(value) for value in table[name]] for name in (true, said)]
    sure = table["probability"].tolist() if score.kind == "class" else [float("nan")] * len(table)
    near = _neighbours(score)
    return {name: Known(name, *row) for name, *row in zip(table["id"].tolist(), *texts, sure, near, strict=True)}


def _neighbours(score: ModelScore) -> list[tuple[Neighbour, ...]]:
    table = answers_table(score)
    places = []
    for end in ("", *(f"_{place}" for place in range(2, NEIGHBOURS + 1))):
        if f"neighbour{end}" in table:
            columns = (table[f"neighbour{end}"], table[f"neighbour_label{end}"], table[f"similarity{end}"])
            places.append([Neighbour(str(a), str(b), float(c)) for a, b, c in zip(*columns, strict=True)])
    return list(zip(*places, strict=True)) if places else [()] * len(table)


def _ground(score: ModelScore, info: LabelSetInfo) -> tuple[Ground | None, list[str]]:
    """Return the map of the scored photos, or why there is none."""
    table, place = answers_table(score), score.about["data"]["cache"]
    layer = score.about["model"]["layer"]
    if not place:
        return None, ["no map: this machine makes features otherwise than the model's, so that no cache keeps them"]
    try:
        features = Features.of(cache_at(score.folder, place), layer)
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
    ground = Ground(0, score.name, SCORED, layer, (info,), features, drawn, None, {info.name: by_id})
    return ground, notes


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
