"""How are images predicted and classes ranked? Images run through the extraction pipeline, then through the head.

`Model.predict`, scoring, the checks of an export and the server use these functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.cache import DEFAULT_FOLDER, STORE_TYPES, STORED, FeatureCache
from pipeline.errors import ModelError, SkipReason
from pipeline.extraction import EncodedBatch, LazyNetwork, iter_batches, recipe_of
from pipeline.images import CHANGED_PHOTOS, EARLIER_RULES, ImageSource, decode_mode, printable
from pipeline.labels import joined_tags
from pipeline.model.training_set import Neighbors, TrainingSet
from pipeline.progress import SILENT, Progress
from pipeline.runtime import GRAPHS_FOLDER
from pipeline.search import Predictions

if TYPE_CHECKING:
    from pipeline.model.spec import ModelSpec


STAGE = "predict"
BLOCK_ROWS = 256  # a head predicts hundreds of rows in about the time of a few
CACHE_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predictions of a model for n images.

    Attributes
    ----------
    predictions : Predictions
        For all n images; rows with an error hold zeros.
    errors : list of str, length n
        Why an image has no prediction; empty if it has one.
    digests : ndarray of uint8, shape (n, 16)
        Content of the images; zeros for images that cannot be read.
    near : Neighbors or None
        The nearest training photos of each image, if they were given; rows with an error hold zeros.
    """

    predictions: Predictions
    errors: list[str]
    digests: np.ndarray
    near: Neighbors | None = None

    def take(self, rows: np.ndarray) -> Prediction:
        """Return the predictions for these images, in this order; a row may be repeated."""
        near = None if self.near is None else Neighbors(self.near.rows[rows], self.near.cosine[rows])
        errors = [self.errors[row] for row in rows.tolist()]
        return Prediction(self.predictions.take(rows), errors, self.digests[rows], near)


@dataclass(frozen=True, eq=False)
class _Features:
    """Features X of k images, ``(k, d)``, with their source rows, status codes and content digests."""

    rows: np.ndarray
    status: np.ndarray
    digest: np.ndarray
    X: np.ndarray
    details: Mapping[int, str] = field(default_factory=dict)


def predict_source(
    model: ModelSpec,
    source: ImageSource | FeatureCache,
    *,
    training: TrainingSet | None = None,
    neighbours: int = 1,
    graphs: Path = Path(DEFAULT_FOLDER) / GRAPHS_FOLDER,
    batch_size: int | None = None,
    device: str = "auto",
    n_jobs: int | None = None,
    progress: Progress = SILENT,
) -> Prediction:
    """Return the predictions of the model for each image, in the source's order.

    Parameters
    ----------
    model : ModelSpec
    source : ImageSource or FeatureCache
    training : TrainingSet, optional
        The photos that nearest neighbours are searched in.
    neighbours : int
        Number of nearest training photos per image.
    graphs : Path
        Folder of exported networks (ONNX graphs).
    batch_size, device, n_jobs, progress
        As for `extract`.

    Raises
    ------
    ModelError
        The features of the cache were made with another recipe than the training features.
    """
    n = len(source)
    errors, digests = [""] * n, np.zeros((n, 16), np.uint8)
    rows, predictions, near = [np.zeros(0, np.int64)], [], []
    if isinstance(source, FeatureCache):
        blocks = _from_cache(model, source)
    else:
        blocks = _from_images(model, source, graphs, batch_size, device, n_jobs, progress)
    done = 0
    for block in blocks:
        digests[block.rows] = block.digest
        ready = block.status == STORED
        for row, code in zip(block.rows[~ready].tolist(), block.status[~ready].tolist(), strict=True):
            errors[row] = block.details.get(row) or SkipReason(code).text
        if ready.any():
            rows.append(block.rows[ready])
            predictions.append(model.predict_features(block.X[ready]))
            if training is not None:
                near.append(training.nearest(block.X[ready], neighbours))
        done += len(block.rows)
        progress.advance(STAGE, done, n)
    if not predictions:  # no image can be read: predict zeros to get arrays of the right shape and type, and no rows
        widths = source.layers if isinstance(source, FeatureCache) else model.backbone.resolve_layers([model.layer])
        zeros = np.zeros((1, widths[model.layer]), np.float32)
        predictions = [model.predict_features(zeros).take(np.zeros(0, np.int64))]
    predicted = np.concatenate(rows)
    nearest = None
    if near:
        indices, cosine = [part.rows for part in near], [part.cosine for part in near]
        nearest = Neighbors(_scatter_rows(n, predicted, indices), _scatter_rows(n, predicted, cosine))
    return Prediction(_scatter_predictions(n, predicted, predictions), errors, digests, nearest)


def _from_images(
    model: ModelSpec,
    source: ImageSource,
    graphs: Path,
    batch_size: int | None,
    device: str,
    n_jobs: int | None,
    progress: Progress,
) -> Iterator[_Features]:
    store_type = STORE_TYPES[str(model.recipe["store"])]
    with iter_batches(
        source,
        range(len(source)),
        network_of(model, images=len(source), device=device, graphs=graphs, progress=progress),
        model.backbone.preprocessing,
        batch_size=batch_size,
        n_jobs=n_jobs,
        store_type=store_type,
        decode=decode_mode_of(model),
        rules=str(model.recipe["photo_rules"]),
    ) as blocks:
        changed: set[int] = set()
        for merged in _merge_batches(blocks):
            changed.update(*(block.read_differently for block in merged))
            X = np.concatenate([block.features[model.layer] for block in merged])
            yield _Features(
                rows=np.concatenate([block.rows for block in merged]),
                status=np.concatenate([block.status for block in merged]),
                digest=np.concatenate([block.digest for block in merged]),
                # The training features were rounded to the same type.
                X=X.astype(store_type).astype(np.float32),
                details={row: text for block in merged for row, text in block.details.items()},
            )
    if changed:
        progress.note(
            f"the photo rules for {CHANGED_PHOTOS} have changed since the model was fitted: {len(changed):,} of "
            f"{len(source):,} photos are read by the new rules, the first is {printable(source.ids[min(changed)])}; "
            "fit the model again for predictions that match"
        )


def network_of(model: ModelSpec, *, images: int, device: str, graphs: Path, progress: Progress = SILENT) -> LazyNetwork:
    """Return the model's network for this number of images; note to `progress` how this machine's features differ.

    As in extraction, a graph is exported if there are enough images to save time overall, and kept in `graphs`.
    """
    precision, store = str(model.recipe["precision"]), str(model.recipe["store"])
    here = recipe_of(
        model.backbone, precision=precision, store=store, decode=decode_mode_of(model), device=device
    ).as_dict()
    differs = [name for name in here if here[name] != model.recipe.get(name)]
    if model.recipe.get("photo_rules") in EARLIER_RULES:
        # `_from_images` notes the photos that the changed rules apply to; there may be none.
        differs = [name for name in differs if name != "photo_rules"]
    if differs:
        progress.note(
            f"features differ slightly from those of the machine that fitted the model, in {', '.join(differs)}"
        )
    return LazyNetwork(
        model.backbone,
        [model.layer],
        device=device,
        precision=precision,
        runtime=here["runtime"],
        images=images,
        graphs=graphs,
        may_emulate=True,
        progress=progress,
    )


def decode_mode_of(model: ModelSpec) -> str:
    """Return how the model's photos are decoded: ``exact`` or ``fast``."""
    return decode_mode(str(model.recipe["decoder"]))


def _from_cache(model: ModelSpec, cache: FeatureCache) -> Iterator[_Features]:
    differs = cache.differences(model.recipe)
    if differs:
        raise ModelError(
            f"{cache.path}: expected features made with the model's recipe, "
            f"got another recipe: {', '.join(differs)} differ{'s' if len(differs) == 1 else ''}",
            "predict from the images themselves",
        )
    features, digest, status = cache.stored(model.layer), cache.digest, cache.status
    for start in range(0, len(cache), CACHE_ROWS):
        rows = np.arange(start, min(start + CACHE_ROWS, len(cache)))
        yield _Features(rows, status[rows], digest[rows], np.asarray(features[rows], np.float32))


def _merge_batches(batches: Iterator[EncodedBatch]) -> Iterator[list[EncodedBatch]]:
    """Yield lists of batches that hold `BLOCK_ROWS` rows or more together."""
    waiting: list[EncodedBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(len(batch.rows) for batch in waiting) >= BLOCK_ROWS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _scatter_predictions(n: int, rows: np.ndarray, parts: Sequence[Predictions]) -> Predictions:
    """Return predictions for n rows: the parts in order at `rows`, zeros elsewhere."""

    def scatter(values: list[np.ndarray | None]) -> np.ndarray | None:
        present = [value for value in values if value is not None]
        return _scatter_rows(n, rows, present) if len(present) == len(values) else None

    labels = scatter([part.labels for part in parts])
    assert labels is not None
    probabilities, scores = scatter([part.probabilities for part in parts]), scatter([part.scores for part in parts])
    return Predictions(labels, probabilities, scores)


def _scatter_rows(n: int, rows: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return n rows: the concatenated parts at `rows`, zeros elsewhere."""
    values = np.concatenate(parts)
    whole = np.zeros((n, *values.shape[1:]), values.dtype)
    whole[rows] = values
    return whole


def prediction_frame(
    model: ModelSpec,
    ids: Sequence[str],
    prediction: Prediction,
    training: TrainingSet | None,
    *,
    top: int,
    neighbours: int,
) -> pd.DataFrame:
    """Return the table that `Model.predict` returns.

    Parameters
    ----------
    model : ModelSpec
    ids : sequence of str, length n
    prediction : Prediction
        For n images.
    training : TrainingSet or None
        The photos that nearest neighbours were searched in.
    top, neighbours
        As for `Model.predict`.
    """
    predictions = prediction.predictions
    if model.kind == "number":
        columns: dict[str, Any] = {"value": predictions.labels}
    else:
        multi = model.kind == "multi"
        columns = _tag_columns(model, predictions, top) if multi else _class_columns(model, predictions, top)
    columns["unfamiliar"] = novelty_column(model, len(ids), prediction.near)
    columns |= _neighbour_columns(len(ids), prediction.near, training, neighbours)
    table = pd.DataFrame({"id": ids, **columns, "error": prediction.errors})
    table.loc[table["error"] != "", list(columns)] = None
    return table


def rank_classes(predictions: Predictions, kind: str) -> np.ndarray | None:
    """Return the codes of all classes or tags for each image, the most probable first.

    The predicted class always comes first: some heads predict by another rule than the largest probability.

    Parameters
    ----------
    predictions : Predictions
        For n images.
    kind : {"class", "multi", "number"}

    Returns
    -------
    ndarray of int64, shape (n, n_classes), or None
        None if the head has neither probabilities nor scores.
    """
    ranks = predictions.ranks
    if ranks is None:
        return None
    if kind == "class":
        others = np.arange(ranks.shape[1])[None, :] != predictions.labels.astype(np.int64)[:, None]  # (n, n_classes)
    else:
        others = np.zeros(ranks.shape, bool)
    # The last key is the primary one. The sort is stable: classes with equal ranks stay in the order of their codes.
    return np.lexsort((-ranks, others), axis=1)


def _class_columns(model: ModelSpec, predictions: Predictions, top: int) -> dict[str, Any]:
    """Return the columns of the `top` most probable classes, the predicted class first."""
    codes = predictions.labels.astype(np.int64)
    return {"label": _texts(model.classes)[codes], **_ranked_columns(model, "label", predictions, top)}


def _tag_columns(model: ModelSpec, predictions: Predictions, top: int) -> dict[str, Any]:
    """Return the column of all predicted tags, and the columns of the `top` most probable tags."""
    tags = [joined_tags(row, model.classes, model.separator) for row in predictions.labels]
    return {"label": tags, **_ranked_columns(model, "tag", predictions, top)}


def _ranked_columns(model: ModelSpec, name: str, predictions: Predictions, top: int) -> dict[str, Any]:
    """Return the columns of the `top` classes with their probabilities or scores; none if the head has neither."""
    order, values = rank_classes(predictions, model.kind), predictions.ranks
    if order is None or values is None:
        return {}
    value_name = "probability" if predictions.probabilities is not None else "score"
    names, rows = _texts(model.classes), np.arange(len(values))
    columns = {}
    for rank in range(min(top, len(model.classes))):
        columns[f"{name}{rank_suffix(rank)}"] = names[order[:, rank]]
        columns[f"{value_name}{rank_suffix(rank)}"] = values[rows, order[:, rank]]
    return columns


def novelty_column(model: ModelSpec, n: int, near: Neighbors | None) -> Any:
    """Return whether each of n images is unlike the training photos; all missing if their embeddings are."""
    novel = None if near is None else model.is_novel(near)
    return pd.array([None] * n if novel is None else novel, dtype="boolean")


def _neighbour_columns(n: int, near: Neighbors | None, training: TrainingSet | None, count: int) -> dict[str, Any]:
    """Return the columns of the nearest training photos; missing values if there are none."""
    columns: dict[str, Any] = {}
    for rank in range(count):
        names, similarity = np.full(n, None), np.full(n, np.nan, np.float32)
        if near is not None and training is not None and rank < near.rows.shape[1]:
            names, similarity = _texts(training.ids)[near.rows[:, rank]], near.cosine[:, rank]
        columns[f"neighbour{rank_suffix(rank)}"] = names
        columns[f"similarity{rank_suffix(rank)}"] = similarity
    return columns


def _texts(names: Sequence[str]) -> np.ndarray:
    # An object array can be indexed with an array of codes.
    return np.array([*names], dtype=object)


def rank_suffix(rank: int) -> str:
    """Return the end of a column's name: nothing for the first, then ``_2``, ``_3``, ..."""
    return "" if rank == 0 else f"_{rank + 1}"
