"""How is extraction used as a transformer in a scikit-learn pipeline?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from pipeline.arguments import check_values
from pipeline.backbone import Backbone
from pipeline.cache import DEFAULT_FOLDER, CacheLock, FeatureCache, cannot_write, retire_unreferenced
from pipeline.errors import BackboneError, CacheError, SkipReason, SourceError, UnreadableImage
from pipeline.extraction.api import check_options, extract, recipe_of
from pipeline.extraction.build import CacheCandidates
from pipeline.extraction.reuse import DigestIndex, read_rows
from pipeline.images import FileReader, ImageSource, Photo, array_digest, array_stat, printable
from pipeline.parallel import workers

NAME = "embedder"  # the names of its caches start with it

_EXPECTED = "expected a list or 1-D array of paths, or a uint8 array of images (n, h, w) or (n, h, w, c)"


class ImageEmbedder(TransformerMixin, BaseEstimator):
    """Map images to the features of a frozen backbone; the network runs only on images that no cache holds.

    Images are read and identified by their content, whatever their path: an image that comes in several folds is
    computed once, and a file that was edited in place is another image. `fit` trains nothing.

    Features are taken from every cache in the folder that has the same recipe and holds the layer, including those of
    `pipeline extract`. Images in none of them are run through the network once. Processes with the same recipe and
    layer take turns under a lock, so that of two folds that run at once the second reuses the features of the first.
    New features are stored in a new cache, which takes over the rows of earlier caches of this class that are no
    larger. n images are thus stored in about log2(n) files, and each row is copied at most that often.

    Parameters
    ----------
    backbone : str or Backbone
    layer : str
        One layer: ``early``, ``middle``, ``late``, ``penultimate``, or the exact name of a node.
    cache : str or Path
        The folder of caches.
    precision, store, decode, batch_size, device, n_jobs
        As for `extract`; only the first three change a feature.

    Attributes
    ----------
    n_features_out_ : int
        The layer's width.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from pipeline import ImageEmbedder
    >>> model = make_pipeline(ImageEmbedder(layer="late"), LogisticRegression())
    >>> model[0].fit(["a.jpg", "b.jpg"]).n_features_out_
    192
    """

    def __init__(
        self,
        backbone: str | Backbone = "efficientnet_lite0",
        layer: str = "penultimate",
        cache: str | Path = DEFAULT_FOLDER,
        precision: str = "fp32",
        store: str = "fp32",
        decode: str = "exact",
        batch_size: int | None = None,
        device: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.layer = layer
        self.cache = cache
        self.precision = precision
        self.store = store
        self.decode = decode
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> ImageEmbedder:
        """Check X and the layer; no image is read and nothing is trained.

        Parameters
        ----------
        X : sequence of n paths, or ndarray of uint8, (n, h, w) or (n, h, w, c)
        y : ignored

        Raises
        ------
        SourceError
            X is neither paths nor images.
        BackboneError
            No such backbone or layer.
        """
        self._check()
        _images(X)
        _, self.n_features_out_ = self._layer(Backbone.open(self.backbone))
        return self

    def _check(self) -> None:
        """Raise `PipelineError` for an invalid parameter; scikit-learn requires that `__init__` does not check them."""
        check_values(type(self).__init__, vars(self))
        check_options({**vars(self), "on_error": "stop"})

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of these images, float32 (n, d), in the order of X.

        Parameters
        ----------
        X : sequence of n paths, or ndarray of uint8, (n, h, w) or (n, h, w, c)
            In any order; images may repeat.

        Raises
        ------
        SourceError
            X is neither paths nor images, or an image cannot be read: a transformer cannot leave out a row.
        BackboneError, CacheError
            As `extract`.
        """
        self._check()
        images = _images(X)
        network = Backbone.open(self.backbone)
        layer, width = self._layer(network)
        choices: dict[str, Any] = {
            "precision": self.precision,
            "store": self.store,
            "decode": self.decode,
            "device": self.device,
        }
        recipe = recipe_of(network, **choices)
        caches = _EmbedderCaches(Path(self.cache), recipe.as_dict(), layer, width)

        position: dict[bytes, int] = {}  # digest: row of `features`
        contents: list[_Content] = []
        rows = np.zeros(len(images), np.int64)
        for row, (digest, stat) in enumerate(_identities(images, workers(self.n_jobs))):
            if digest not in position:
                position[digest] = len(contents)
                contents.append(_Content(digest, stat, images[row], _name(images, row)))
            rows[row] = position[digest]

        features, found = caches.look_up(contents)
        if found.all():
            return features[rows]
        with _lock(caches.folder, f"{NAME}-{recipe.key(layer)}.h5"):
            # The process that held the lock before may have computed them.
            features, found = caches.look_up(contents)
            missing = [content for content, is_found in zip(contents, found.tolist(), strict=True) if not is_found]
            if missing:
                source, replaced = caches.merged_source(missing)
                # Rows are not rechecked: an image that only a cache holds has no bytes to compute its features from.
                options = {**choices, "batch_size": self.batch_size, "n_jobs": self.n_jobs, "recheck": 0}
                cache = extract(source, backbone=network, layer=layer, cache=caches.folder, **options).base
                for path in replaced:
                    if path != cache.path:
                        retire_unreferenced(path)
                _check_features(missing, cache)
                features, found = caches.look_up(contents)
        if not found.all():
            raise SourceError(f"{contents[int(np.argmin(found))].name}: changed while it was read", "run it again")
        return features[rows]

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return ``<layer>0`` to ``<layer>d-1``, an array of d texts; `input_features` is ignored."""
        layer, width = self._layer(Backbone.open(self.backbone))
        return np.array([f"{layer}{number}" for number in range(width)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.one_d_array = tags.input_tags.string = tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _layer(self, network: Backbone) -> tuple[str, int]:
        """Return the name and width of the layer; raise `BackboneError` unless it is exactly one."""
        layers = network.resolve_layers([self.layer])
        if len(layers) != 1:
            raise BackboneError(
                f"layer: expected one layer, got {self.layer!r}, which is {len(layers)}",
                f"ImageEmbedder(layer={next(reversed(layers))!r}), and a FeatureUnion for several",
            )
        return next(iter(layers.items()))


@dataclass(frozen=True, eq=False)
class _Content:
    """The content of an image, and where it can be read."""

    digest: bytes
    stat: tuple[int, int]
    image: str | np.ndarray | None  # a path or an array; None if only a cache holds its features
    name: str = ""


@dataclass(frozen=True, eq=False)
class _ContentReader:
    """The reader of an `ImageSource` of contents; for an image that only a cache holds it returns no bytes."""

    contents: list[_Content]

    @property
    def encoded(self) -> bool:
        """Whether every image is a file that has to be decoded."""
        return not any(isinstance(content.image, np.ndarray) for content in self.contents)

    def read(self, row: int, image_id: str) -> Photo:
        """Read one image."""
        content = self.contents[row]
        return Photo(content.digest, content.stat, b"") if content.image is None else _photo(content.image)

    def take(self, rows: Sequence[int]) -> _ContentReader:
        """Return the reader of these rows only."""
        return _ContentReader([self.contents[row] for row in rows])


@dataclass(frozen=True, eq=False)
class _EmbedderCaches:
    """The caches in a folder that hold one layer under one recipe."""

    folder: Path
    recipe: Mapping[str, Any]
    layer: str
    width: int

    @property
    def place(self) -> str:
        """The start of the place of every cache that an `ImageEmbedder` made; no source on disk has such a place."""
        return f"{NAME}:{self.layer}:"

    def caches(self) -> list[FeatureCache]:
        """Return the caches, those of `pipeline extract` included."""
        found = CacheCandidates.of(self.folder).found
        return [cache for cache in found if cache.recipe == self.recipe and self.layer in cache.layers]

    def look_up(self, contents: Sequence[_Content]) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of these contents, float32 (k, d), and which of them were found, bool (k,)."""
        features, found = np.zeros((len(contents), self.width), np.float32), np.zeros(len(contents), bool)
        held = []
        for cache in self.caches():
            with suppress(CacheError):  # replaced by another process meanwhile; its rows are in a newer cache
                cache.hold()
                held.append(cache)
        index = DigestIndex(held)
        entries = np.array([index.find(content.digest) for content in contents], np.int64)
        positions = np.flatnonzero(entries >= 0)
        for cache, selected, rows in index.by_cache(entries[positions]):
            at_once = cache.header.rows_at_once
            for start in range(0, len(selected), at_once):
                at = positions[selected[start : start + at_once]]
                batch = read_rows(cache, rows[start : start + at_once], at, np.zeros((len(at), 2), np.int64))
                features[batch.rows] = batch.features[self.layer]
                found[batch.rows] = True
        return features, found

    def merged_source(self, missing: Sequence[_Content]) -> tuple[ImageSource, list[Path]]:
        """Return a source of these contents and those of smaller caches, and the files of these caches."""
        contents = {content.digest: content for content in missing}
        replaced = []
        caches = [cache for cache in self.caches() if cache.place.startswith(self.place)]
        for cache in sorted(caches, key=lambda cache: len(cache.rows)):
            # An incomplete cache is replaced whatever its size: no later call would complete it.
            if len(cache.rows) > len(contents) and cache.complete:
                continue
            replaced.append(cache.path)
            for row in cache.rows.tolist():
                size, time = cache.stat[row].tolist()
                content = _Content(cache.digest[row].tobytes(), (size, time), None)
                contents.setdefault(content.digest, content)
        ordered = [contents[digest] for digest in sorted(contents)]
        source = ImageSource(
            name=NAME,
            place=self.place + blake2b(b"".join(content.digest for content in ordered), digest_size=16).hexdigest(),
            ids=[content.digest.hex() for content in ordered],
            stat=np.array([content.stat for content in ordered], np.int64).reshape(-1, 2),
            reader=_ContentReader(ordered),
        )
        return source, replaced


def _images(X: Any) -> list[str] | np.ndarray:
    """Return X as absolute paths or as an array of images, or raise `SourceError`."""
    if isinstance(X, np.ndarray) and X.dtype.kind not in "UO":
        if X.ndim < 3 or X.dtype != np.uint8:
            raise SourceError(f"X: {_EXPECTED}, got {X.dtype} {X.shape}", "give each image's path, or its pixels")
        ImageSource.open(X[:1] if len(X) else X)  # raises for shapes that it cannot read
        return X
    if isinstance(X, str | bytes | os.PathLike | Mapping) or not hasattr(X, "__len__") or getattr(X, "ndim", 1) != 1:
        shape = f" {X.shape}" if hasattr(X, "shape") else ""
        raise SourceError(f"X: {_EXPECTED}, got {type(X).__name__}{shape}", "give a list of paths")
    paths = list(X)
    if not paths:
        raise SourceError(f"X: {_EXPECTED}, got none", "give at least one path")
    for path in paths:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise SourceError(f"X: {_EXPECTED}, got {path!r:.60} among them", "give paths only")
    return [os.path.abspath(Path(path).expanduser()) for path in paths]  # noqa: PTH100 - links keep their name


def _identities(images: list[str] | np.ndarray, threads: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield the digest and stat of every row; a path that occurs twice is read once."""
    paths = images if isinstance(images, list) else range(len(images))
    first = {path: row for row, path in reversed(list(enumerate(paths)))}

    def identity(row: int) -> tuple[bytes, tuple[int, int]]:
        try:
            photo = _photo(images[row])
        except UnreadableImage as error:
            raise _unreadable(_name(images, row), str(error)) from error
        return photo.digest, photo.stat

    # Reading and hashing both release Python's lock, so threads are enough.
    with ThreadPoolExecutor(threads) as pool:
        read = dict(zip(first, pool.map(identity, first.values()), strict=True))
    return (read[path] for path in paths)


def _name(images: list[str] | np.ndarray, row: int) -> str:
    return printable(images[row]) if isinstance(images, list) else f"X[{row}]"


def _photo(image: str | np.ndarray) -> Photo:
    if isinstance(image, str):
        return FileReader("").read(0, image)
    digest = array_digest(image)
    return Photo(digest, array_stat(digest, image), image)


def _check_features(contents: Sequence[_Content], cache: FeatureCache) -> None:
    """Raise `SourceError` for the first image without features; the features of the others are stored."""
    reasons: Mapping[str, SkipReason] = cache.skipped
    for content in contents:
        if content.digest.hex() in reasons:
            raise _unreadable(content.name, reasons[content.digest.hex()].text)


def _unreadable(name: str, reason: str) -> SourceError:
    return SourceError(f"{name}: {reason}", "fix the photo, or leave it out of X and y: a transformer cannot drop rows")


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    """Let one process at a time compute these features, and remove the lock file afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = CacheLock.exclusive(folder / name, wait=math.inf)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release_and_forget()
