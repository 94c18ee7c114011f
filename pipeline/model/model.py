"""`Model`: how does a user open, save, apply, score and export a trained model?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.cache import DEFAULT_FOLDER, FeatureCache, cache_at
from pipeline.errors import ModelError
from pipeline.images import ImageSource, skipped_text
from pipeline.model.predict import predict_source
from pipeline.model.spec import ModelSpec
from pipeline.model.training_set import TrainingSet
from pipeline.parallel import engine
from pipeline.progress import SILENT, Progress
from pipeline.runtime import GRAPHS_FOLDER

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.export import Exported
    from pipeline.model.model_score import ModelScore


@dataclass(frozen=True, eq=False)
class Model(ModelSpec):
    """A frozen backbone and the head that was trained on its features; see `ModelSpec` for the attributes.

    Examples
    --------
    >>> model = pl.fit("photos/", heads="logistic")  # doctest: +SKIP
    >>> model.predict("new_photos/")  # doctest: +SKIP
    """

    @classmethod
    @check_arguments
    def open(cls, path: str | os.PathLike[str]) -> Model:
        """Open a model folder; every file is checked against its hash before it is read, and nothing is unpickled.

        Raises
        ------
        ModelError
            The folder is missing or damaged, has another format, was fitted with another scikit-learn, or holds a type
            that is not on the fixed list.

        Examples
        --------
        >>> model = pl.Model.open("bees.model")  # doctest: +SKIP
        """
        from pipeline.model.storage import load_model

        return cls(**vars(load_model(Path(path))))

    @check_arguments
    def save(self, path: str | os.PathLike[str], *, weights: bool = True) -> Path:
        """Write the model folder and return its path; if it fails, an earlier folder is unchanged.

        Parameters
        ----------
        path : path
            For example ``bees.model``; an earlier model at this path is replaced.
        weights : bool
            Whether to include the backbone's weights, so that the model predicts without internet access.

        Raises
        ------
        ModelError
            The folder holds other files, it cannot be written, or the head cannot be stored without pickling.
        """
        from pipeline.model.storage import save_model

        return save_model(self, Path(path), weights=weights)

    @check_arguments
    def predict(
        self,
        data: Any,
        *,
        top: int = 3,
        neighbours: int = 0,
        cache: str | os.PathLike[str] = DEFAULT_FOLDER,
        id_column: str | None = None,
        root: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        n_jobs: int | None = None,
        dask: str | None = None,
        progress: Progress = SILENT,
    ) -> pd.DataFrame:
        """Return one row per image: ``id, label, probability, label_2, ..., unfamiliar, error``.

        Parameters
        ----------
        data : as for `extract`, or a FeatureCache of the same recipe
        top : int
            Number of classes per row, the most probable first.
        neighbours : int
            Number of most similar training photos per row, by the cosine of the embeddings (exact search).
        cache : path
            The folder of caches. The training photos' embeddings are read from it if the model does not keep them, and
            exported networks are kept in it.
        id_column, root, batch_size, device, n_jobs, dask, progress
            As for `extract`.

        Returns
        -------
        DataFrame
            For a list or a table (CSV, TSV, or one Parquet file): one row per input, in input order, with the id as
            given; a repeated image runs through the network once. For a folder, a tar or several shards: one row per
            image, sorted by id.

            Heads without probabilities have ``score`` columns instead; models of numbers have ``value``. Models of tags
            have ``label`` (all predicted tags in one cell) and the most probable tags, predicted or not: ``tag,
            probability, tag_2, probability_2, ...``. ``unfamiliar`` is true if an image is further from its nearest
            training photo than 99% of the training photos are from theirs; it is empty, with a note to `progress`, if
            the training photos' embeddings are not available. ``neighbour, similarity, neighbour_2, ...`` follow.
            ``error`` gives the reason why an image has no prediction, and is empty for the others.

        Raises
        ------
        PipelineError
            There are no images, the cache has another recipe, or `top` is below 1.

        Examples
        --------
        >>> model = pl.Model.open("bees.model")  # doctest: +SKIP
        >>> model.predict("new_photos/", top=1)  # doctest: +SKIP
        """
        from pipeline.model.predict import prediction_frame

        if top < 1:
            raise ModelError(f"top: expected 1 or more, got {top}", "--top 3")
        if neighbours < 0:
            raise ModelError(f"neighbours: expected 0 or more, got {neighbours}", "--neighbours 3")
        opened = _open_data(data, id_column, root, with_columns=False)
        ids, rows = _requested_rows(opened)
        source = opened.base if isinstance(opened, FeatureCache) else opened
        if isinstance(source, ImageSource) and source.skipped:
            progress.note(f"{source.name}: {skipped_text(source.skipped)}")
        training = self._open_training(Path(cache), neighbours, progress)
        with engine(dask):
            prediction = predict_source(
                self,
                source,
                training=training,
                neighbours=max(neighbours, 1),
                graphs=Path(cache) / GRAPHS_FOLDER,
                batch_size=batch_size,
                device=device,
                n_jobs=n_jobs,
                progress=progress,
            )
        if rows is not None:
            prediction = prediction.take(rows)
        return prediction_frame(self, ids, prediction, training, top=top, neighbours=neighbours)

    @check_arguments
    def score(
        self,
        data: Any,
        labels: Any = None,
        *,
        column: str | None = None,
        missing: str | Sequence[str] = (),
        groups: str | None = None,
        id_column: str | None = None,
        root: str | os.PathLike[str] | None = None,
        label_level: int | None = None,
        cache: str | os.PathLike[str] = DEFAULT_FOLDER,
        out: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        n_jobs: int | None = None,
        dask: str | None = None,
        random_state: int = 0,
        progress: Progress = SILENT,
    ) -> ModelScore:
        """Return scores with 95% intervals on labeled photos, with counts of unknown classes and training photos.

        Parameters
        ----------
        data : as for `predict`
        labels : path, DataFrame, Series, mapping, list or array, optional
            As for `evaluate`; the source's own labels when not given. Another spelling of a class, such as
            1.0 for 1, is read as that class.
        column : str, optional
            The column of true labels; by default that of the training labels. NAME:multi(SEPARATOR) gives the separator
            of tags.
        missing : str or sequence of str
            Texts that mean "no label", as for `evaluate`.
        groups : str, optional
            Column of groups; the bootstrap intervals resample whole groups.
        label_level : int, optional
            The level of the folders whose names are the labels: 1 is the top level of `data`, -1 the folder that an
            image is in. By default it is inferred from the names of the classes.
        cache : path
            The folder of caches. Exported networks are kept in it, and with `out` the features of these photos.
        out : path, optional
            A run directory: the scores and all predictions are written to it, for `write_report` and `ModelScore.open`.
            The features of the photos are then kept in `cache`, as by `extract`, and each photo is compared with the
            training photos if their embeddings are available.
        id_column, root, batch_size, device, n_jobs, dask, random_state, progress
            As for `extract`.

        Raises
        ------
        PipelineError
            There are no labels, the column is missing, or no photo can be scored; or `out` holds anything but this
            model's score on these photos.

        Notes
        -----
        A score that is read back is equal to the written one, bit for bit. A score computed again is equal to within
        1e-5: batch size, threads and the runtime (torch, or ONNX Runtime if `cache` holds an exported network) change
        the last bits of fp32 features, and of scores that use probabilities.

        Examples
        --------
        >>> model = pl.Model.open("bees.model")  # doctest: +SKIP
        >>> model.score("test_photos/", "labels.csv").table()  # doctest: +SKIP
        """
        from pipeline.model.score import ScoreConfig, score_source

        inference = {"batch_size": batch_size, "device": device, "n_jobs": n_jobs, "progress": progress}
        config = ScoreConfig(
            labels=labels,
            column=column,
            groups=groups,
            id_column=id_column,
            label_level=label_level,
            cache=Path(cache),
            out=None if out is None else Path(out),
            random_state=random_state,
            root=root,
            missing=(missing,) if isinstance(missing, str) else tuple(missing),
        )
        with engine(dask):
            return score_source(self, _open_data(data, id_column, root, label_level), config, inference)

    @check_arguments
    def export(
        self,
        out: str | os.PathLike[str],
        *,
        format: str = "onnx",
        check: Any = None,
        progress: Progress = SILENT,
    ) -> Exported:
        """Write backbone and head as one model that runs without this package; it is checked before it is put in place.

        Parameters
        ----------
        out : path
            A file such as ``bees.onnx``, or for ``torch`` a folder such as ``bees.torch``; an earlier export at this
            path is replaced.
        format : {"onnx", "torch"}
            ``onnx``: one file, uint8 images (n, crop, crop, 3) in, predictions out. ``torch``: the network with its
            final layer replaced, for plain torchvision, and as a `torch.export` program; linear heads only.
        check : as `data` for `extract`, optional
            Photos on which the export must agree with `predict`: to 1e-4, and without a changed label. By default the
            training photos, if they are available. Transparent, CMYK, 16-bit and EXIF-rotated images are always
            checked too.
        progress : Progress

        Returns
        -------
        Exported
            The path, and the results of the checks.

        Raises
        ------
        ExportError
            The model cannot be exported, or the export predicts something else; nothing is written then.

        Examples
        --------
        >>> pl.Model.open("bees.model").export("bees.onnx")  # doctest: +SKIP
        """
        from pipeline.export import export_model
        from pipeline.model.check_images import check_images, decode_check_images

        return export_model(
            self,
            Path(out),
            format,
            lambda: check_images(self, check, progress),
            kinds=lambda: decode_check_images(self),
            progress=progress,
        )

    def _open_training(self, folder: Path, neighbours: int, progress: Progress) -> TrainingSet | None:
        """Return the training photos; note to `progress` which columns stay empty without them, and why."""
        training, why_not = self.open_training_set(folder)
        empty = [name for name, requested in (("unfamiliar", True), ("neighbours", neighbours > 0)) if requested]
        if training is None:
            progress.note(f"{' and '.join(empty)} {'stay' if len(empty) > 1 else 'stays'} empty: {why_not}")
        elif self.training.beyond is None:
            progress.note("unfamiliar stays empty: every training photo is a duplicate of every other one")
        return training


def _requested_rows(source: ImageSource | FeatureCache) -> tuple[Sequence[str], np.ndarray | None]:
    """Return the requested ids and the image of each, (n,); None instead if they are the images in their order."""
    if isinstance(source, FeatureCache):
        return source.ids, None if source.base is source else source.base_rows
    requested = source.requested
    return (source.ids, None) if requested is None else (requested.ids, requested.rows)


def _open_data(
    data: Any,
    id_column: str | None,
    root: str | os.PathLike[str] | None,
    label_level: int | None = None,
    *,
    with_columns: bool = True,
) -> ImageSource | FeatureCache:
    cache = data if isinstance(data, FeatureCache) else cache_at(data)
    if cache is not None:
        return cache
    return ImageSource.open(data, id_column=id_column, root=root, label_level=label_level, with_columns=with_columns)
