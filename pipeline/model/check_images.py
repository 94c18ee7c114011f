"""On which images is an exported model compared with the original, and what does the original predict for them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import DEFAULT_FOLDER, FeatureCache, caches_in
from pipeline.errors import ExportError, PipelineError, UnreadableImage
from pipeline.export import CheckImages, DecodeCheckImages
from pipeline.images import ImageSource, decode_mode, kinds_source, prepare
from pipeline.model.predict import predict_source
from pipeline.model.spec import ModelSpec
from pipeline.progress import Progress

MOST = 256  # photos; more would slow the export down without finding other differences
CROPS = 32
BUILTIN = "builtin:"


def check_images(model: ModelSpec, check: Any, progress: Progress) -> CheckImages:
    """Return the photos that an export is checked on, with the model's predictions for them.

    Parameters
    ----------
    model : ModelSpec
    check : path, ImageSource or None
        Photos, as for `predict`. By default the training photos, if a cache in `features_cache` records where they are
        and they are unchanged; else crops of scikit-image's photographs; else generated images.
    progress : Progress

    Raises
    ------
    PipelineError
        The photos of `check` cannot be opened, or none of them can be read.
    """
    if check is not None:
        source = ImageSource.open(check)
        found = _predict(model, source, f"photos of {source.name}", len(source), progress)
        if found is None:
            raise ExportError(
                f"--check {check}: expected photos to check the export on, got none of {len(source)} that can be read",
                "give other photos with --check DIR",
            )
        return found
    for source, which, total in _available_sources(model):
        found = _predict(model, source, which, total, progress)
        if found is not None:
            return found
    raise AssertionError("generated images can always be read")


def decode_check_images(model: ModelSpec) -> DecodeCheckImages:
    """Return images that image libraries decode differently (CMYK, EXIF rotation, ...), with the expected pixels."""
    source = kinds_source()
    photos = [source.read(row) for row in range(len(source))]
    pixels = np.stack([prepare(photo, model.backbone.preprocessing)[0] for photo in photos])
    return DecodeCheckImages(source.ids, [bytes(photo.content) for photo in photos], pixels)


def _available_sources(model: ModelSpec) -> Iterator[tuple[ImageSource, str, int]]:
    """Yield image sources, the most relevant first, each with a description and its number of images."""
    training = {digest.tobytes() for digest in model.training_digests}
    for cache in caches_in(Path(DEFAULT_FOLDER))[0]:
        source = _open_training_images(cache, training)
        if source is not None:
            yield source, "training photos", len(training)
    try:
        crops = ImageSource.open("photo-crops")
        step = len(crops) // CROPS
        yield crops.take(range(0, len(crops), step)), "crops of scikit-image's photographs", len(crops)
    except PipelineError:  # scikit-image is an optional dependency
        pass
    yield ImageSource.open(_generate_images()), "generated images", CROPS


def _open_training_images(cache: FeatureCache, training: set[bytes]) -> ImageSource | None:
    """Return the training images that a cache was made of, matched by content; None if none of them is available."""
    ids = [name for name, digest in zip(cache.ids, cache.digest, strict=True) if digest.tobytes() in training]
    place = cache.place
    if not ids or not (place.startswith(BUILTIN) or Path(place).exists()):
        return None
    try:
        source = ImageSource.open(place.removeprefix(BUILTIN).partition("@")[0] if place.startswith(BUILTIN) else place)
    except PipelineError:
        return None
    names = set(ids)
    rows = _evenly_spaced([row for row, name in enumerate(source.ids) if name in names])
    rows = [row for row in rows if _digest(source, row) in training]
    return source.take(rows) if rows else None


def _digest(source: ImageSource, row: int) -> bytes:
    try:
        return source.read(row).digest
    except UnreadableImage:  # an unreadable image matches no digest
        return b""


def _predict(model: ModelSpec, source: ImageSource, which: str, total: int, progress: Progress) -> CheckImages | None:
    """Return the readable photos with the model's predictions; None if none of them can be read."""
    source = source.take(_evenly_spaced(range(len(source))))
    prediction = predict_source(model, source, device="cpu", progress=progress)
    rows = [row for row, error in enumerate(prediction.errors) if not error]
    if not rows:
        return None
    preprocessing, decode = model.backbone.preprocessing, decode_mode(str(model.recipe["decoder"]))
    pixels = np.stack([prepare(source.read(row), preprocessing, decode)[0] for row in rows])
    counted = f"{len(rows)} {which}" if len(rows) == total else f"{len(rows)} of {total:,} {which}"
    return CheckImages([source.ids[row] for row in rows], pixels, prediction.predictions.take(np.array(rows)), counted)


def _evenly_spaced(rows: Any) -> list[int]:
    """Return at most `MOST` of the rows, evenly spaced from the first to the last."""
    rows = list(rows)
    if len(rows) <= MOST:
        return rows
    return [rows[index] for index in np.linspace(0, len(rows) - 1, MOST).astype(int)]


def _generate_images() -> np.ndarray:
    """Return images of coarse color blocks with noise, uint8 (n, 256, 256, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (CROPS, 8, 8, 3)).repeat(32, axis=1).repeat(32, axis=2)
    return (coarse + rng.normal(0, 20, coarse.shape)).clip(0, 255).astype(np.uint8)
