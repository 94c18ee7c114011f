"""Score a model on labelled photos, and say which of them it should not be judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, LabelError
from pipeline.evaluation.answers import widen
from pipeline.evaluation.collecting import Labelling, known_of, refuse_no_labels
from pipeline.evaluation.questions import encode, unknown_text
from pipeline.images import ImageSource
from pipeline.intervals import Score, score_with_interval
from pipeline.labels import group_codes
from pipeline.model.answering import answer_for
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
    scores_apart : tuple of Score
        The scores without those photos; empty where there are none, or no others.
    notes : tuple of str
    """

    label_set: str
    n: int
    scores: tuple[Score, ...]
    unknown_classes: Mapping[str, int]
    seen_in_training: tuple[str, ...]
    notes: tuple[str, ...]
    scores_apart: tuple[Score, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain JSON values; what cannot be said is None."""
        return {
            **asdict(self),
            **{
                name: [{key: _plain(value) for key, value in asdict(one).items()} for one in getattr(self, name)]
                for name in ("scores", "scores_apart")
            },
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
    beside = (groups,) if groups is not None else ()
    known = known_of(source, Labelling(labels, id_column, (), beside))
    refuse_no_labels(known)
    column = column or model.label_set
    for flag, name in (("column", column), ("groups", groups)):
        if name is not None and name not in known.columns:
            raise LabelError(
                f"--{flag}: wanted the column {name!r}, found {', '.join(map(repr, known.columns))}",
                f"name the column with --{flag}, or give a table with --labels",
            )
    labelled, y, unknown = encode(known, column, model.kind, model.classes, separator=model.separator)
    if not len(labelled):
        raise EvaluationError(
            f"wanted labelled photos to score, found none in column {column!r}", "give the labels with --labels TABLE"
        )
    answer = answer_for(model, source, **answering)
    ids, notes = known.ids, [*known.notes, *(known.match.notes if known.match else ())]
    if len(labelled) < len(ids):
        notes.append(f"{len(ids) - len(labelled)} of {len(ids)} photos have no label and are left out")
    answered = np.array([not answer.errors[row] for row in labelled])
    if not answered.all():
        failed = labelled[~answered]
        first = f"{ids[failed[0]]}: {answer.errors[failed[0]]}"
        if not answered.any():
            raise EvaluationError(
                f"wanted photos to score, found none of {len(labelled)} labelled ones readable, e.g. {first}",
                "mend the photos, or give others",
            )
        notes.append(f"{len(failed)} labelled photos have no answer and are left out, e.g. {first}")
    rows, y = labelled[answered], y[answered]
    codes = {name: len(model.classes) + number for number, name in enumerate(unknown)}
    found = {name: y[:, code] if model.kind == "multi" else y == code for name, code in codes.items()}
    unknown = {name: count for name, those in found.items() if (count := int(those.sum()))}
    if unknown:
        notes.append(unknown_text(unknown, model.kind))
    learned = {digest.tobytes() for digest in model.training_digests}
    new = np.array([answer.digests[row].tobytes() not in learned for row in rows], bool)
    seen = tuple(ids[row] for row in rows[~new])
    if seen:
        notes.append(
            f"{len(seen)} of {len(rows)} photos were in the training data, e.g. {seen[0]}: the score flatters"
            f"{', and is given without them too' if new.any() else ''}"
        )
    n_classes = len(model.classes) + len(codes)
    said = widen(answer.predictions.take(rows), n_classes)
    codes_of_groups = None if groups is None else group_codes(ids, known.columns, groups, rows=rows)

    def scores_of(these: np.ndarray) -> tuple[Score, ...]:
        return tuple(
            score_with_interval(
                scoring,
                y[these],
                said.take(these),
                kind=model.kind,
                n_classes=n_classes,
                groups=None if codes_of_groups is None else codes_of_groups[these],
                random_state=random_state,
            )
            for scoring in SCORINGS[model.kind]
            if said.probabilities is not None or not needs_probabilities(scoring)
        )

    scores = scores_of(np.arange(len(rows)))
    apart = scores_of(np.flatnonzero(new)) if seen and new.any() else ()
    return ModelScore(model.label_set, len(rows), scores, unknown, seen, tuple(notes), apart)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
