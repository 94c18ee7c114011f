"""Score a model on labelled photos, and say which of them it should not be judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, LabelError
from pipeline.evaluation.answers import widen
from pipeline.images import ImageSource
from pipeline.intervals import Score, score_with_interval
from pipeline.labels import group_codes, join, read_label_table
from pipeline.search import SCORINGS, needs_probabilities

if TYPE_CHECKING:
    from pipeline.model.model import Model


@dataclass(frozen=True)
class ModelScore:
    """How a model does on labelled photos.

    Attributes
    ----------
    label_set : str
    n : int
        Photos scored.
    scores : tuple of Score
        Each with its 95% interval.
    unknown_classes : mapping of class to int
        Classes that training never saw: photos of them, all counted as wrong.
    seen_in_training : tuple of str
        Ids of photos whose content the model learned from; a score over them flatters.
    notes : tuple of str
    """

    label_set: str
    n: int
    scores: tuple[Score, ...]
    unknown_classes: Mapping[str, int]
    seen_in_training: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "scores": [
                {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
                for row in (asdict(score) for score in self.scores)
            ],
        }


def score(
    model: Model,
    source: ImageSource | FeatureCache,
    labels: Any,
    *,
    column: str | None,
    groups: str | None,
    id_column: str | None,
    random_state: int,
    answering: Mapping[str, Any],
) -> ModelScore:
    """Return the scores. See `Model.score`."""
    from pipeline.evaluation.questions import codes_of

    column = column or model.label_set
    columns, notes = dict(source.columns), []
    if labels is not None:
        table = labels if isinstance(labels, Mapping) else read_label_table(labels, id_column=id_column)
        joined = join(source.ids, table)
        columns, notes = dict(joined), [*getattr(joined, "notes", ())]
    for wanted in (column, groups):
        if wanted is not None and wanted not in columns:
            raise LabelError(
                f"wanted the column {wanted!r}, found {', '.join(sorted(columns)) or 'no labels at all'}",
                "name the column of true labels with --column, or give a table with --labels",
            )
    ids, answer = model.answer(source, **answering)
    texts = columns[column]
    failed = [row for row in range(len(ids)) if answer.errors[row] and texts[row] is not None]
    rows = np.array([row for row in range(len(ids)) if texts[row] is not None and not answer.errors[row]], np.int64)
    if not len(rows):
        raise EvaluationError(
            f"wanted labelled photos to score, found none in column {column!r}", "give the labels with --labels TABLE"
        )
    unlabelled = sum(text is None for text in texts)
    if unlabelled:
        notes.append(f"{unlabelled} of {len(ids)} photos have no label and are left out")
    if failed:
        first = f"{ids[failed[0]]}: {answer.errors[failed[0]]}"
        notes.append(f"{len(failed)} labelled photos have no answer and are left out, e.g. {first}")
    y, unknown = codes_of([str(texts[row]) for row in rows], [ids[row] for row in rows], model.kind, model.classes)
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        notes.append(f"classes that training never saw count as wrong: {listed}")
    learned = {digest.tobytes() for digest in model.training_digests}
    seen = tuple(ids[row] for row in rows if answer.digests[row].tobytes() in learned)
    if seen:
        notes.append(f"{len(seen)} of {len(rows)} photos were in the training data, e.g. {seen[0]}: the score flatters")
    n_classes = max(len(model.classes), int(y.max()) + 1) if model.kind == "class" else 0
    predictions = widen(answer.predictions.take(rows), n_classes)
    codes = None if groups is None else group_codes(ids, columns, groups, rows=rows)
    scores = tuple(
        score_with_interval(
            scoring, y, predictions, kind=model.kind, n_classes=n_classes, groups=codes, random_state=random_state
        )
        for scoring in SCORINGS[model.kind]
        if predictions.probabilities is not None or not needs_probabilities(scoring)
    )
    return ModelScore(model.label_set, len(rows), scores, unknown, seen, tuple(notes))
