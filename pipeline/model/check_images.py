"""The images that an exported model is checked on, with the model's own predictions; only an export needs them."""

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

MOST = 256  # photos; more would hold an export up and show nothing new
CROPS = 32
BUILTIN = "builtin:"


def check_images(model: ModelSpec, check: Any, progress: Progress) -> CheckImages:
    """Return the photos that an export is checked on, and what the model says of them.

    Parameters
    ----------
    model : ModelSpec
    check : path, ImageSource or None
        Photos, as for `predict`. By default those that the model learned from, where a cache in `features_cache` still
        leads to them; else the photographs that come with scikit-image; else generated images.
    progress : Progress

    Raises
    ------
    PipelineError
        The photos given cannot be opened, or none of them can be read.
    """
    if check is not None:
        source = ImageSource.open(check)
        found = _answered(model, source, f"photos of {source.name}", len(source), progress)
        if found is None:
            raise ExportError(
                f"--check {check}: expected photos to check the export on, got none of {len(source)} that can be read",
                "give other photos with --check DIR",
            )
        return found
    for source, which, of in _at_hand(model):
        found = _answered(model, source, which, of, progress)
        if found is not None:
            return found
    raise AssertionError("generated images can always be read")


def decode_check_images(model: ModelSpec) -> DecodeCheckImages:
    """Return images of the kinds that readers are known to read differently, with the pixels of exact decoding."""
    source = kinds_source()
    photos = [source.read(row) for row in range(len(source))]
    pixels = np.stack([prepare(photo, model.backbone.preprocessing)[0] for photo in photos])
    return DecodeCheckImages(source.ids, [bytes(photo.content) for photo in photos], pixels)


def _at_hand(model: ModelSpec) -> Iterator[tuple[ImageSource, str, int]]:
    """Give sources to try, the best first, each with what it is and how many of them there are."""
    learned = {digest.tobytes() for digest in model.training_digests}
    for cache in caches_in(Path(DEFAULT_FOLDER))[0]:
        source = _learned_from(cache, learned)
        if source is not None:
            yield source, "photos it learned from", len(learned)
    try:
        crops = ImageSource.open("photo-crops")
        step = len(crops) // CROPS
        yield crops.take(range(0, len(crops), step)), "crops of scikit-image's photographs", len(crops)
    except PipelineError:  # scikit-image is an extra
        pass
    yield ImageSource.open(_generated()), "generated images", CROPS


def _learned_from(cache: FeatureCache, learned: set[bytes]) -> ImageSource | None:
    """Return the images of a cache that the model learned from, where they still are; by content, not by name."""
    ids = [name for name, digest in zip(cache.ids, cache.digest, strict=True) if digest.tobytes() in learned]
    place = cache.place
    if not ids or not (place.startswith(BUILTIN) or Path(place).exists()):
        return None
    try:
        source = ImageSource.open(place.removeprefix(BUILTIN).partition("@")[0] if place.startswith(BUILTIN) else place)
    except PipelineError:
        return None
    known = set(ids)
    rows = _spread([row for row, name in enumerate(source.ids) if name in known])
    rows = [row for row in rows if _digest(source, row) in learned]
    return source.take(rows) if rows else None


def _digest(source: ImageSource, row: int) -> bytes:
    try:
        return source.read(row).digest
    except UnreadableImage:  # it is no witness
        return b""


def _answered(model: ModelSpec, source: ImageSource, which: str, of: int, progress: Progress) -> CheckImages | None:
    """Return those of the photos that can be read, with the model's answers; None where there are none."""
    source = source.take(_spread(range(len(source))))
    answer = predict_source(model, source, device="cpu", progress=progress)
    rows = [row for row, error in enumerate(answer.errors) if not error]
    if not rows:
        return None
    how, decode = model.backbone.preprocessing, decode_mode(str(model.recipe["decoder"]))
    pixels = np.stack([prepare(source.read(row), how, decode)[0] for row in rows])
    counted = f"{len(rows)} {which}" if len(rows) == of else f"{len(rows)} of {of:,} {which}"
    return CheckImages([source.ids[row] for row in rows], pixels, answer.predictions.take(np.array(rows)), counted)


def _spread(rows: Any) -> list[int]:
    """Return at most `MOST` of the rows, from the first to the last at equal distances."""
    rows = list(rows)
    if len(rows) <= MOST:
        return rows
    return [rows[place] for place in np.linspace(0, len(rows) - 1, MOST).astype(int)]


def _generated() -> np.ndarray:
    """Return images of soft coloured blots with noise on them, uint8 (n, 256, 256, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (CROPS, 8, 8, 3)).repeat(32, axis=1).repeat(32, axis=2)
    return (coarse + rng.normal(0, 20, coarse.shape)).clip(0, 255).astype(np.uint8)
