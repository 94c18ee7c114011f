"""What a model says of images: the same road as extraction, then the head."""

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
from pipeline.images import CHANGED_PHOTOS, EARLIER_RULES, ImageSource, decode_mode
from pipeline.images.listing import printable
from pipeline.labels import joined_tags
from pipeline.model.training_set import Neighbors, TrainingSet
from pipeline.progress import SILENT, Progress
from pipeline.runtime import GRAPHS_FOLDER
from pipeline.search import Predictions

if TYPE_CHECKING:
    from pipeline.model.spec import ModelSpec


STAGE = "predict"
BLOCK_ROWS = 256  # a head is asked about hundreds of rows in the time of a few
CACHE_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of n images.

    Attributes
    ----------
    predictions : Predictions
        Of all n; rows with an error hold nothing of meaning.
    errors : list of str, length n
        Empty where there is an answer.
    digests : ndarray of uint8, shape (n, 16)
        Content of the images; zeros where they could not be read.
    near : Near or None
        The training photos nearest to each, where they were given; rows with an error hold nothing of meaning.
    """

    predictions: Predictions
    errors: list[str]
    digests: np.ndarray
    near: Neighbors | None = None

    def take(self, rows: np.ndarray) -> Prediction:
        """Return the answers about these images, in this order; one may be there twice."""
        near = None if self.near is None else Neighbors(self.near.rows[rows], self.near.cosine[rows])
        errors = [self.errors[row] for row in rows.tolist()]
        return Prediction(self.predictions.take(rows), errors, self.digests[rows], near)


@dataclass(frozen=True, eq=False)
class _Features:
    """Features of k images: rows of the source, whether they are stored or why not, content, ``(k, d)``."""

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
    """Return what the model says of each image, in the source's order.

    Parameters
    ----------
    model : ModelSpec
    source : ImageSource or FeatureCache
    training : TrainingSet, optional
        Among which the nearest are looked for.
    neighbours : int
        How many of them.
    graphs : Path
        The folder of exported networks.
    batch_size, device, n_jobs, progress
        As for `extract`.

    Raises
    ------
    ModelError
        A cache whose features were made in another way than those that the model learned from.
    """
    n = len(source)
    errors, digests = [""] * n, np.zeros((n, 16), np.uint8)
    rows, said, near = [np.zeros(0, np.int64)], [], []
    if isinstance(source, FeatureCache):
        found = _from_cache(model, source)
    else:
        found = _from_images(model, source, graphs, batch_size, device, n_jobs, progress)
    done = 0
    for some in found:
        digests[some.rows] = some.digest
        ready = some.status == STORED
        for row, code in zip(some.rows[~ready].tolist(), some.status[~ready].tolist(), strict=True):
            errors[row] = some.details.get(row) or SkipReason(code).text
        if ready.any():
            rows.append(some.rows[ready])
            said.append(model.predict_features(some.X[ready]))
            if training is not None:
                near.append(training.nearest(some.X[ready], neighbours))
        done += len(some.rows)
        progress.advance(STAGE, done, n)
    if not said:  # not one answer: ask about zeros, to learn what the answers would look like
        widths = source.layers if isinstance(source, FeatureCache) else model.backbone.resolve_layers([model.layer])
        said = [model.predict_features(np.zeros((1, widths[model.layer]), np.float32)).take(np.zeros(0, np.int64))]
    answered = np.concatenate(rows)
    nearest = None
    if near:
        places, cosine = [one.rows for one in near], [one.cosine for one in near]
        nearest = Neighbors(_spread(n, answered, places), _spread(n, answered, cosine))
    return Prediction(_placed(n, answered, said), errors, digests, nearest)


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
        for together in _together(blocks):
            changed.update(*(block.read_differently for block in together))
            X = np.concatenate([block.features[model.layer] for block in together])
            yield _Features(
                rows=np.concatenate([block.rows for block in together]),
                status=np.concatenate([block.status for block in together]),
                digest=np.concatenate([block.digest for block in together]),
                # The features that the head learned from went through the same type.
                X=X.astype(store_type).astype(np.float32),
                details={row: text for block in together for row, text in block.details.items()},
            )
    if changed:
        progress.note(
            f"the photo rules for {CHANGED_PHOTOS} have changed since the model was fitted: {len(changed):,} of "
            f"{len(source):,} photos are read by the new ones, the first is {printable(source.ids[min(changed)])}; "
            "fit the model again for predictions that match"
        )


def network_of(model: ModelSpec, *, images: int, device: str, graphs: Path, progress: Progress = SILENT) -> LazyNetwork:
    """Return the model's network, to run over so many images; what this machine does otherwise is said.

    As in extraction, a graph is exported where there are images enough to pay for it, and kept in the folder.
    """
    precision, store = str(model.recipe["precision"]), str(model.recipe["store"])
    here = recipe_of(
        model.backbone, precision=precision, store=store, decode=decode_mode_of(model), device=device
    ).as_dict()
    differs = [name for name in here if here[name] != model.recipe.get(name)]
    if model.recipe.get("photo_rules") in EARLIER_RULES:
        # `_from_images` notes the photos that this concerns, and there may be none.
        differs = [name for name in differs if name != "photo_rules"]
    if differs:
        progress.note(
            f"this machine makes features a little otherwise than where the model was fitted: {', '.join(differs)}"
        )
    return LazyNetwork(
        model.backbone,
        [model.layer],
        device=device,
        precision=precision,
        runtime=here["runtime"],
        images=images,
        graphs=graphs,
        progress=progress,
    )


def decode_mode_of(model: ModelSpec) -> str:
    """Return how the model's photos became pixels: ``exact`` or ``fast``."""
    return decode_mode(str(model.recipe["decoder"]))


def _from_cache(model: ModelSpec, cache: FeatureCache) -> Iterator[_Features]:
    differs = cache.differences(model.recipe)
    if differs:
        raise ModelError(
            f"{cache.path}: expected features made as those that the model learned from, "
            f"got others: {', '.join(differs)} differ{'s' if len(differs) == 1 else ''}",
            "predict from the images themselves",
        )
    features, digest, status = cache.stored(model.layer), cache.digest, cache.status
    for start in range(0, len(cache), CACHE_ROWS):
        rows = np.arange(start, min(start + CACHE_ROWS, len(cache)))
        yield _Features(rows, status[rows], digest[rows], np.asarray(features[rows], np.float32))


def _together(blocks: Iterator[EncodedBatch]) -> Iterator[list[EncodedBatch]]:
    """Give several blocks at once, `BLOCK_ROWS` rows or more."""
    waiting: list[EncodedBatch] = []
    for block in blocks:
        waiting.append(block)
        if sum(len(one.rows) for one in waiting) >= BLOCK_ROWS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _placed(n: int, rows: np.ndarray, said: Sequence[Predictions]) -> Predictions:
    """Return predictions of n rows, those of `rows` filled in; the others hold zeros."""

    def place(parts: list[np.ndarray | None]) -> np.ndarray | None:
        there = [part for part in parts if part is not None]
        return _spread(n, rows, there) if len(there) == len(parts) else None

    labels = place([part.labels for part in said])
    assert labels is not None
    return Predictions(labels, place([part.probabilities for part in said]), place([part.scores for part in said]))


def _spread(n: int, rows: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return n rows, those of `rows` from the parts one after another, the others zeros."""
    values = np.concatenate(parts)
    whole = np.zeros((n, *values.shape[1:]), values.dtype)
    whole[rows] = values
    return whole


def prediction_frame(
    model: ModelSpec, ids: Sequence[str], answer: Prediction, training: TrainingSet | None, *, top: int, neighbours: int
) -> pd.DataFrame:
    """Return the table that `Model.predict` returns.

    Parameters
    ----------
    model : ModelSpec
    ids : sequence of str, length n
    answer : Answer
        About n images.
    training : TrainingSet or None
        Among which the nearest were looked for.
    top, neighbours
        As for `Model.predict`.
    """
    said = answer.predictions
    if model.kind == "number":
        columns: dict[str, Any] = {"value": said.labels}
    else:
        columns = _tagged(model, said, top) if model.kind == "multi" else _ranked(model, said, top)
    columns["unfamiliar"] = _unfamiliar(model, len(ids), answer.near)
    columns |= _neighbours(len(ids), answer.near, training, neighbours)
    table = pd.DataFrame({"id": ids, **columns, "error": answer.errors})
    table.loc[table["error"] != "", list(columns)] = None
    return table


def _ranked(model: ModelSpec, predictions: Predictions, top: int) -> dict[str, Any]:
    """Return the columns of the `top` likeliest classes, what the head predicts always first."""
    codes = predictions.labels.astype(np.int64)
    columns: dict[str, Any] = {"label": _texts(model.classes)[codes]}
    if predictions.ranks is None:
        return columns
    ranking = predictions.ranks.copy()
    ranking[np.arange(len(ranking)), codes] = np.inf
    return {**columns, **_named(model, "label", predictions, ranking, top)}


def _tagged(model: ModelSpec, predictions: Predictions, top: int) -> dict[str, Any]:
    """Return the column of all tags of each image, and those of the `top` likeliest tags."""
    columns: dict[str, Any] = {
        "label": [joined_tags(row, model.classes, model.separator) for row in predictions.labels]
    }
    if predictions.ranks is None:
        return columns
    return {**columns, **_named(model, "tag", predictions, predictions.ranks, top)}


def _named(model: ModelSpec, name: str, predictions: Predictions, ranking: np.ndarray, top: int) -> dict[str, Any]:
    """Return names and how sure the head is of each, the highest of the ranking, (n, n_classes), first."""
    values = predictions.ranks
    assert values is not None
    what = "probability" if predictions.probabilities is not None else "score"
    names, rows = _texts(model.classes), np.arange(len(values))
    order = np.argsort(-ranking, axis=1, kind="stable")
    columns = {}
    for place in range(min(top, len(model.classes))):
        columns[f"{name}{_suffix(place)}"] = names[order[:, place]]
        columns[f"{what}{_suffix(place)}"] = values[rows, order[:, place]]
    return columns


def _unfamiliar(model: ModelSpec, n: int, near: Neighbors | None) -> Any:
    """Return the column that says which images are unfamiliar, empty where that cannot be said."""
    said = None if near is None else model.is_novel(near)
    return pd.array([None] * n if said is None else said, dtype="boolean")


def _neighbours(n: int, near: Neighbors | None, training: TrainingSet | None, count: int) -> dict[str, Any]:
    """Return the columns of the nearest training photos, empty where there are none."""
    columns: dict[str, Any] = {}
    for place in range(count):
        names, similarity = np.full(n, None), np.full(n, np.nan, np.float32)
        if near is not None and training is not None and place < near.rows.shape[1]:
            names, similarity = _texts(training.ids)[near.rows[:, place]], near.cosine[:, place]
        columns[f"neighbour{_suffix(place)}"] = names
        columns[f"similarity{_suffix(place)}"] = similarity
    return columns


def _texts(names: Sequence[str]) -> np.ndarray:
    return np.array([*names], dtype=object)


def _suffix(place: int) -> str:
    return "" if place == 0 else f"_{place + 1}"
