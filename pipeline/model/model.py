"""`Model`: photos in, answers out, by the same road as extraction."""

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
        """Open a model folder, every file checked against its hash before it is read; nothing is unpickled.

        Raises
        ------
        ModelError
            No model there, damaged, made by another format or another scikit-learn, or holding a type that is not
            on the fixed list.
        """
        from pipeline.model.storage import load_model

        return cls(**vars(load_model(Path(path))))

    @check_arguments
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
        """Return one row an image, always: ``id, label, probability, label_2, ..., unfamiliar, error``.

        Parameters
        ----------
        data : as for `extract`, or a FeatureCache of the same recipe
        top : int
            How many classes to name, the likeliest first.
        neighbours : int
            How many of the most similar training photos to name, by the cosine of the embeddings, exactly.
        cache : path
            The folder of caches: the training photos' embeddings are looked for there where the model does not keep
            them, and exported networks are kept there.
        id_column, root, batch_size, device, n_jobs, dask, progress
            As for `extract`.

        Returns
        -------
        DataFrame
            In the source's order: of a list or a table (CSV, TSV, or one Parquet file) one row per input, in input
            order, with the id as given; an image that is there twice runs through the network once. Of a folder, a tar
            or several shards one row per image, sorted by id.

            Heads without probabilities have ``score`` columns instead; models of numbers
            have ``value``. Models of tags have ``label``, all tags of the image in one cell, and the likeliest tags,
            said of it or not: ``tag, probability, tag_2, probability_2, ...``. `unfamiliar` says whether an image lies
            further from the nearest training photo than 99% of those do from one another, and is empty where the
            training photos' embeddings are not at hand, which `progress` hears. Then come ``neighbour, similarity,
            neighbour_2, ...``. `error` says why an image has no answer, and is empty for the others.

        Raises
        ------
        PipelineError
            No images, a cache of another recipe, or less than one class to name.
        """
        from pipeline.model.predict import prediction_frame

        if top < 1:
            raise ModelError(f"top: expected 1 or more, got {top}", "--top 3")
        if neighbours < 0:
            raise ModelError(f"neighbours: expected 0 or more, got {neighbours}", "--neighbours 3")
        given = _open_data(data, id_column, root, with_columns=False)
        ids, rows = _requested(given)
        source = given.base if isinstance(given, FeatureCache) else given
        if isinstance(source, ImageSource) and source.skipped:
            progress.note(f"{source.name}: {skipped_text(source.skipped)}")
        training = self._training(Path(cache), neighbours, progress)
        with engine(dask):
            answer = predict_source(
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
            answer = answer.take(rows)
        return prediction_frame(self, ids, answer, training, top=top, neighbours=neighbours)

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
        """Return scores with intervals on labelled photos, with strange classes and photos seen in training named.

        Parameters
        ----------
        data : as for `predict`
        labels : path, DataFrame, Series, mapping, list or array, optional
            As for `evaluate`; the source's own labels when not given. Another spelling of a class, such as 1.0 for 1,
            is that class.
        column : str, optional
            The column of true labels; the one that the model learned when not given. NAME:multi(SEPARATOR) says what
            stands between tags.
        missing : str or sequence of str
            Texts that mean "not known", as for `evaluate`.
        groups : str, optional
            Column of groups that the intervals resample whole.
        label_level : int, optional
            The level of the folders whose names are the labels: 1 is the top level of `data`, -1 the folder that an
            image lies in. Found from the names when not given.
        cache : path
            The folder of caches: of exported networks, and with `out` of the features of these photos.
        out : path, optional
            A run's folder: the scores and all answers are kept there, for `write_report` and `ModelScore.open`. The
            features of the photos are then kept in `cache` as `extract` keeps them, and each photo is told from the
            training photos, where their embeddings are at hand.
        id_column, root, batch_size, device, n_jobs, dask, random_state, progress
            As for `extract`.

        Raises
        ------
        PipelineError
            No labels, none of that column, or nothing to score; a folder that holds anything but this model's score
            on these photos.

        Notes
        -----
        A score that is read back is equal to the one written, bit for bit. A score computed again is equal to within
        1e-5: batch size, threads and the runtime (torch, or ONNX Runtime where `cache` holds an exported network) move
        the last bits of fp32 features, and of the scores that use probabilities.
        """
        from pipeline.model.score import ScoreConfig, score_source

        answering = {"batch_size": batch_size, "device": device, "n_jobs": n_jobs, "progress": progress}
        asked = ScoreConfig(
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
            return score_source(self, _open_data(data, id_column, root, label_level), asked, answering)

    @check_arguments
    def export(
        self,
        out: str | os.PathLike[str],
        *,
        format: str = "onnx",
        check: Any = None,
        progress: Progress = SILENT,
    ) -> Exported:
        """Write backbone and head as one model that runs without this package; checked first, put in place only then.

        Parameters
        ----------
        out : path
            A file such as ``bees.onnx``, or for ``torch`` a folder such as ``bees.torch``; an earlier export there is
            replaced.
        format : {"onnx", "torch"}
            ``onnx``: one file, uint8 images (n, crop, crop, 3) in, answers out. ``torch``: the network with its final
            layer replaced, for plain torchvision, and the same as a `torch.export` program; for linear heads.
        check : as `data` for `extract`, optional
            Photos to check it on: the answers are to be those of `predict`, to 1e-4 and without a changed label. By
            default those it learned from, where they are at hand. Images that are transparent, CMYK, of 16 bits or
            turned by EXIF are always checked as well.
        progress : Progress

        Returns
        -------
        Exported
            The path, and the figures of the check.

        Raises
        ------
        ExportError
            It cannot be exported, or answers otherwise; nothing is left behind.
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

    def _training(self, folder: Path, neighbours: int, progress: Progress) -> TrainingSet | None:
        """Return the training photos; what cannot be said, and why, `progress` hears."""
        found, why_not = self.open_training_set(folder)
        unsaid = [name for name, there in (("unfamiliar", True), ("neighbours", neighbours > 0)) if there]
        if found is None:
            progress.note(f"nothing is said in {' and '.join(unsaid)}: {why_not}")
        elif self.training.beyond is None:
            progress.note("nothing is said in unfamiliar: no training photo has another one that is no copy of it")
        return found


def _requested(source: ImageSource | FeatureCache) -> tuple[Sequence[str], np.ndarray | None]:
    """Return the ids of the answers, and which image each is about; None where they are the images in their order."""
    if isinstance(source, FeatureCache):
        return source.ids, None if source.base is source else source.base_rows
    asked = source.requested
    return (source.ids, None) if asked is None else (asked.ids, asked.rows)


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
