"""`Model`: photos in, answers out, by the same road as extraction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import STORED, FeatureCache
from pipeline.cache.layout import STORE_TYPES
from pipeline.errors import ModelError, SkipReason
from pipeline.extraction import embed_blocks, recipe_of
from pipeline.images import ImageSource
from pipeline.progress import SILENT, Progress
from pipeline.runtime import open_runtime
from pipeline.search import Predictions, predict_all

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.model.scoring import ModelScore

STAGE = "predict"
ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Model:
    """A frozen backbone and the head that was trained on its features.

    Attributes
    ----------
    label_set : str
        The column it learned.
    kind : {"class", "number"}
    classes : tuple of str
        In the order of the head's codes; empty for numbers.
    head : str
        The head's name.
    estimator : fitted scikit-learn estimator
        Maps features ``(n, d)`` to codes into `classes`, or to numbers.
    params : dict
        What the search chose for it.
    layer : str
    backbone : Backbone
    recipe : mapping
        All that changes a feature, as it was for the training photos.
    scores : tuple of mapping
        The results of the evaluation it was chosen by: nested, with intervals, the nulls beside them.
    training_digests : ndarray of uint8, shape (m, 16)
        Content of the photos it learned from.
    notes : tuple of str
    versions : mapping
        Of the libraries it was fitted with.
    """

    label_set: str
    kind: str
    classes: tuple[str, ...]
    head: str
    estimator: Any = field(repr=False)
    params: Mapping[str, Any]
    layer: str
    backbone: Backbone = field(repr=False)
    recipe: Mapping[str, Any] = field(repr=False)
    scores: tuple[Mapping[str, Any], ...] = field(repr=False)
    training_digests: np.ndarray = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    verdict: str = ""
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Model:
        """Open a model folder, every file checked against its hash before it is read; nothing is unpickled.

        Raises
        ------
        ModelError
            No model there, damaged, made by another format or another scikit-learn, or holding a type that is not
            on the fixed list.
        """
        from pipeline.model.storage import load

        return load(Path(path))

    def save(self, path: str | os.PathLike[str], *, weights: bool = True) -> Path:
        """Write the model folder whole, or leave what was there; return its path.

        Parameters
        ----------
        path : path
            Such as ``bees.model``; an earlier model there is replaced.
        weights : bool
            Whether the backbone's weights go with it, so that it predicts on a machine without a network.

        Raises
        ------
        ModelError
            The folder holds something else, cannot be written, or the head cannot be stored safely.
        """
        from pipeline.model.storage import save

        return save(self, Path(path), weights=weights)

    def as_dict(self) -> dict[str, Any]:
        """Return what the model is and how it scored, as plain JSON values."""
        return {
            "label_set": self.label_set,
            "task": self.kind,
            "classes": list(self.classes),
            "head": self.head,
            "params": dict(self.params),
            "layer": self.layer,
            "backbone": self.backbone.record(),
            "recipe": dict(self.recipe),
            "verdict": self.verdict,
            "scores": [dict(score) for score in self.scores],
            "training_images": len(self.training_digests),
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }

    def predict(
        self,
        data: Any,
        *,
        top: int = 3,
        id_column: str | None = None,
        root: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        n_jobs: int | None = None,
        progress: Progress = SILENT,
    ) -> pd.DataFrame:
        """Return one row an image, always: ``id, label, probability, label_2, probability_2, ..., error``.

        Parameters
        ----------
        data : as for `extract`, or a FeatureCache of the same recipe
        top : int
            How many classes to name, the likeliest first.
        id_column, root, batch_size, device, n_jobs, progress
            As for `extract`.

        Returns
        -------
        DataFrame
            In the source's order. Heads without probabilities have ``score`` columns instead; models of numbers
            have ``id, value, error``. `error` says why an image has no answer, and is empty for the others.
        """
        import pandas as pd

        if top < 1:
            raise ModelError(f"top: wanted 1 or more, found {top}", "--top 3")
        source = self._open_data(data, id_column, root)
        ids, answers = self.answer(source, batch_size=batch_size, device=device, n_jobs=n_jobs, progress=progress)
        columns: dict[str, Any] = {"id": ids}
        if self.kind == "number":
            columns["value"] = answers.predictions.labels
        else:
            columns |= self._ranked(answers.predictions, top)
        table = pd.DataFrame(columns)
        failed = np.array([bool(error) for error in answers.errors])
        table = table.astype({name: object for name in table.columns if name.startswith("label")})
        table.loc[failed, [name for name in table.columns if name != "id"]] = None
        return table.assign(error=answers.errors)

    def score(
        self,
        data: Any,
        labels: Any = None,
        *,
        column: str | None = None,
        groups: str | None = None,
        id_column: str | None = None,
        root: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        n_jobs: int | None = None,
        random_state: int = 0,
        progress: Progress = SILENT,
    ) -> ModelScore:
        """Return scores with intervals on labelled photos, with strange classes and photos seen in training named.

        Parameters
        ----------
        data : as for `predict`
        labels : path or mapping, optional
            A table; the source's own labels when not given.
        column : str, optional
            The column of true labels; the one that the model learned when not given.
        groups : str, optional
            Column of groups that the intervals resample whole.
        id_column, root, batch_size, device, n_jobs, random_state, progress
            As for `extract`.
        """
        from pipeline.model.scoring import score

        source = self._open_data(data, id_column, root)
        return score(
            self,
            source,
            labels,
            column=column,
            groups=groups,
            id_column=id_column,
            random_state=random_state,
            answering={"batch_size": batch_size, "device": device, "n_jobs": n_jobs, "progress": progress},
        )

    def answer(
        self,
        source: ImageSource | FeatureCache,
        *,
        batch_size: int | None = None,
        device: str = "auto",
        n_jobs: int | None = None,
        progress: Progress = SILENT,
    ) -> tuple[list[str], Answer]:
        """Return the ids and what the head says of each, in the source's order."""
        if isinstance(source, FeatureCache):
            return source.ids, self._answer_cache(source)
        answer = Answer.empty(len(source), self)
        for note in self._strangeness(device):
            progress.note(note)
        runtime = open_runtime(self.backbone, [self.layer], device=device, precision=str(self.recipe["precision"]))
        store_type = STORE_TYPES[str(self.recipe["store"])]
        done = 0
        with embed_blocks(
            source,
            range(len(source)),
            runtime,
            self.backbone.preprocessing,
            batch_size=batch_size,
            n_jobs=n_jobs,
            store_type=store_type,
        ) as blocks:
            for rows, status, digest, X, details in _gathered(blocks, self.layer):
                answer.digests[rows] = digest
                for row, code in zip(rows[status > STORED], status[status > STORED], strict=True):
                    answer.errors[row] = details.get(int(row)) or SkipReason(int(code)).text
                ready = status == STORED
                if ready.any():
                    # Stored features of the training photos went through the same type.
                    features = X[ready].astype(store_type).astype(np.float32)
                    answer.put(rows[ready], self._ask(features))
                done += len(rows)
                progress.advance(STAGE, done, len(source))
        return source.ids, answer

    def _answer_cache(self, cache: FeatureCache) -> Answer:
        differs = cache.differences(self.recipe)
        if differs:
            raise ModelError(
                f"{cache.path}: wanted features made as the training photos' were, found others: {', '.join(differs)}",
                "predict from the images themselves",
            )
        features = cache.mapped(self.layer)
        answer = Answer.empty(len(cache), self)
        for name, reason in cache.skipped.items():
            answer.errors[cache.ids.index(name)] = reason.text
        answer.digests[:] = cache.digest
        rows = cache.rows
        for start in range(0, len(rows), 4096):
            some = rows[start : start + 4096]
            answer.put(some, self._ask(np.asarray(features[some], np.float32)))
        return answer

    def _ask(self, X: np.ndarray) -> Predictions:
        return predict_all(self.estimator, X, len(self.classes), self.kind)

    def _open_data(
        self, data: Any, id_column: str | None, root: str | os.PathLike[str] | None
    ) -> ImageSource | FeatureCache:
        if isinstance(data, FeatureCache):
            return data
        if isinstance(data, str | Path) and str(data).endswith(".h5") and Path(data).is_file():
            return FeatureCache.open(data)
        return ImageSource.open(data, id_column=id_column, root=root)

    def _strangeness(self, device: str) -> list[str]:
        """Return what differs between this machine's recipe and that of the training photos."""
        here = recipe_of(
            self.backbone, precision=str(self.recipe["precision"]), store=str(self.recipe["store"]), device=device
        ).as_dict()
        differs = [name for name in here if here[name] != self.recipe.get(name)]
        if not differs:
            return []
        return [f"this machine makes features a little otherwise than where the model was fitted: {', '.join(differs)}"]

    def _ranked(self, predictions: Predictions, top: int) -> dict[str, Any]:
        """Return the columns of the `top` likeliest classes, what the head predicts always first."""
        names = np.array([*self.classes], dtype=object)
        columns: dict[str, Any] = {"label": names[predictions.labels.astype(np.int64)]}
        values = predictions.probabilities if predictions.probabilities is not None else predictions.scores
        if values is None:
            return columns
        what = "probability" if predictions.probabilities is not None else "score"
        rows = np.arange(len(values))
        ranking = values.copy()
        ranking[rows, predictions.labels.astype(np.int64)] = np.inf
        order = np.argsort(-ranking, axis=1, kind="stable")
        for place in range(min(top, len(self.classes))):
            suffix = "" if place == 0 else f"_{place + 1}"
            columns[f"label{suffix}"] = names[order[:, place]]
            columns[f"{what}{suffix}"] = values[rows, order[:, place]]
        return columns


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of n images.

    Attributes
    ----------
    predictions : Predictions
        Of all n; rows with an error hold nothing of meaning.
    errors : list of str, length n
        Empty where there is an answer.
    digests : ndarray of uint8, shape (n, 16)
    """

    predictions: Predictions
    errors: list[str]
    digests: np.ndarray

    @classmethod
    def empty(cls, n: int, model: Model) -> Answer:
        """Return room for n answers, with the columns that this model's head gives."""
        k = len(model.classes)
        number = model.kind == "number"
        probabilities = not number and hasattr(model.estimator, "predict_proba")
        scores = not number and not probabilities and hasattr(model.estimator, "decision_function")
        return cls(
            Predictions(
                np.zeros(n, np.float64 if number else np.int64),
                np.zeros((n, k)) if probabilities else None,
                np.zeros((n, k)) if scores else None,
            ),
            [""] * n,
            np.zeros((n, 16), np.uint8),
        )

    def put(self, rows: np.ndarray, said: Predictions) -> None:
        self.predictions.labels[rows] = said.labels
        for mine, theirs in (
            (self.predictions.probabilities, said.probabilities),
            (self.predictions.scores, said.scores),
        ):
            if mine is not None and theirs is not None:
                mine[rows] = theirs


def _gathered(
    blocks: Iterator[Any], layer: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[int, str]]]:
    """Give several blocks at once: a head is asked about hundreds of rows in the time of a few."""

    def together(parts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[int, str]]:
        details = {row: text for part in parts for row, text in part.details.items()}
        return (
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.status for part in parts]),
            np.concatenate([part.digest for part in parts]),
            np.concatenate([part.features[layer] for part in parts]),
            details,
        )

    waiting: list[Any] = []
    for block in blocks:
        waiting.append(block)
        if sum(len(part.rows) for part in waiting) >= ROWS_AT_ONCE:
            yield together(waiting)
            waiting = []
    if waiting:
        yield together(waiting)
