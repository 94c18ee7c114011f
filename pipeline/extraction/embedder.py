"""`ImageEmbedder`: extraction as a step of a scikit-learn pipeline, answered from the cache by content."""

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
from pipeline.images import ImageSource, Photo
from pipeline.images.listing import printable
from pipeline.images.photo import FileReader, array_digest, array_stat
from pipeline.parallel import workers

NAME = "embedder"  # its caches' files start with it

_WANTED = "expected a list or 1-D array of paths, or a uint8 array of images (n, h, w) or (n, h, w, c)"


class ImageEmbedder(TransformerMixin, BaseEstimator):
    """Map images to their features under a frozen backbone; an image that any cache knows is not run again.

    Every image is read and known by its content, so it matters neither under which path it lies, nor in which fold
    it comes, nor how often; a file that was edited in place is another image. Nothing is learned by `fit`.

    Features come from any cache in the folder of the same recipe that holds the layer, those of `pipeline extract`
    included. Images that none of them knows are run through the network once, under a lock that processes of one
    recipe and layer hold by turns: of two folds at work at once, the second finds what the first has made. What is
    made is a cache of its own, into which those of earlier calls that are no larger are taken over. So a collection
    of n images lies in about log2(n) files however it grew, and each of its rows was copied no oftener than that.

    Parameters
    ----------
    backbone : str or Backbone
    layer : str
        One layer: ``early``, ``middle``, ``late``, ``penultimate``, or a node's exact name.
    cache : str or Path
        The folder of caches.
    precision, store, decode, batch_size, device, n_jobs
        As for `extract`. Only the first three change a feature.

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
        """Check that X names images and that there is such a layer; no image is read, nothing is learned.

        Parameters
        ----------
        X : sequence of n paths, or ndarray of uint8, (n, h, w) or (n, h, w, c)
        y : ignored

        Raises
        ------
        SourceError
            X is neither.
        BackboneError
            No such backbone or layer.
        """
        self._check()
        _images(X)
        _, self.n_features_out_ = self._layer(Backbone.open(self.backbone))
        return self

    def _check(self) -> None:
        """Raise `PipelineError` for a wrong parameter: scikit-learn's estimators are made without a check."""
        check_values(type(self).__init__, vars(self))
        check_options(
            on_error="stop",
            precision=self.precision,
            store=self.store,
            decode=self.decode,
            batch_size=self.batch_size,
            device=self.device,
            n_jobs=self.n_jobs,
        )

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of these images, float32 (n, d), in the order of X.

        Parameters
        ----------
        X : sequence of n paths, or ndarray of uint8, (n, h, w) or (n, h, w, c)
            In any order; images may be there more than once.

        Raises
        ------
        SourceError
            X is neither, or an image cannot be read: a transformer cannot leave out a row.
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
        found = _Collection(Path(self.cache), recipe.as_dict(), layer, width)

        which: dict[bytes, int] = {}  # digest: row of `features`
        contents: list[_Content] = []
        rows = np.zeros(len(images), np.int64)
        for row, (digest, stat) in enumerate(_identities(images, workers(self.n_jobs))):
            if digest not in which:
                which[digest] = len(contents)
                contents.append(_Content(digest, stat, images[row], _name(images, row)))
            rows[row] = which[digest]

        features, known = found.look_up(contents)
        if known.all():
            return features[rows]
        with _lock(found.folder, f"{NAME}-{recipe.key(layer)}.h5"):
            # Whoever held the lock before may have made them.
            features, known = found.look_up(contents)
            unknown = [one for one, is_known in zip(contents, known.tolist(), strict=True) if not is_known]
            if unknown:
                source, taken = found.growth(unknown)
                # What only a cache holds has no bytes to compute it from once more.
                options = {**choices, "batch_size": self.batch_size, "n_jobs": self.n_jobs, "recheck": 0}
                made = extract(source, backbone=network, layer=layer, cache=found.folder, **options).base
                for path in taken:
                    if path != made.path:
                        retire_unreferenced(path)
                _refuse_failed(unknown, made)
                features, known = found.look_up(contents)
        if not known.all():
            raise SourceError(f"{contents[int(np.argmin(known))].name}: changed while it was read", "run it again")
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
        """Return the one layer's name and width."""
        layers = network.resolve_layers([self.layer])
        if len(layers) != 1:
            raise BackboneError(
                f"layer: expected one layer, got {self.layer!r}, which is {len(layers)}",
                f"ImageEmbedder(layer={next(reversed(layers))!r}), and a FeatureUnion for several",
            )
        return next(iter(layers.items()))


@dataclass(frozen=True, eq=False)
class _Content:
    """One image by what it holds, and where that can be read: a file, an array's row, or only a cache."""

    digest: bytes
    stat: tuple[int, int]
    image: str | np.ndarray | None
    name: str = ""


@dataclass(frozen=True, eq=False)
class _ContentReader:
    """Reads images that lie anywhere; of one that only a cache holds it gives the digest, and no bytes."""

    contents: list[_Content]

    @property
    def encoded(self) -> bool:
        return not any(isinstance(one.image, np.ndarray) for one in self.contents)

    def read(self, row: int, image_id: str) -> Photo:
        one = self.contents[row]
        return Photo(one.digest, one.stat, b"") if one.image is None else _photo(one.image)

    def take(self, rows: Sequence[int]) -> _ContentReader:
        return _ContentReader([self.contents[row] for row in rows])


@dataclass(frozen=True, eq=False)
class _Collection:
    """What a folder of caches knows under one recipe of one layer."""

    folder: Path
    recipe: Mapping[str, Any]
    layer: str
    width: int

    @property
    def place(self) -> str:
        """What the place of every cache starts with that is of this collection, and of no source on disk."""
        return f"{NAME}:{self.layer}:"

    def caches(self) -> list[FeatureCache]:
        found = CacheCandidates.of(self.folder).found
        return [cache for cache in found if cache.recipe == self.recipe and self.layer in cache.layers]

    def look_up(self, contents: Sequence[_Content]) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of these contents, float32 (k, d), and which of them are known, bool (k,)."""
        features, has = np.zeros((len(contents), self.width), np.float32), np.zeros(len(contents), bool)
        held = []
        for cache in self.caches():
            with suppress(CacheError):  # taken over meanwhile by another process: what it held is in a later one
                cache.hold()
                held.append(cache)
        known = DigestIndex(held)
        entries = np.array([known.find(one.digest) for one in contents], np.int64)
        positions = np.flatnonzero(entries >= 0)
        for cache, which, rows in known.places(entries[positions]):
            at_once = cache.header.rows_at_once
            for start in range(0, len(which), at_once):
                at = positions[which[start : start + at_once]]
                block = read_rows(cache, rows[start : start + at_once], at, np.zeros((len(at), 2), np.int64))
                features[block.rows] = block.features[self.layer]
                has[block.rows] = True
        return features, has

    def growth(self, unknown: Sequence[_Content]) -> tuple[ImageSource, list[Path]]:
        """Return the source of these contents and of all that smaller caches hold, and those caches' files."""
        contents = {one.digest: one for one in unknown}
        taken = []
        mine = [cache for cache in self.caches() if cache.place.startswith(self.place)]
        for cache in sorted(mine, key=lambda cache: len(cache.rows)):
            # One that was never finished is of no use to keep.
            if len(cache.rows) > len(contents) and cache.complete:
                continue
            taken.append(cache.path)
            for row in cache.rows.tolist():
                size, time = cache.stat[row].tolist()
                one = _Content(cache.digest[row].tobytes(), (size, time), None)
                contents.setdefault(one.digest, one)
        ordered = [contents[digest] for digest in sorted(contents)]
        source = ImageSource(
            name=NAME,
            place=self.place + blake2b(b"".join(one.digest for one in ordered), digest_size=16).hexdigest(),
            ids=[one.digest.hex() for one in ordered],
            stat=np.array([one.stat for one in ordered], np.int64).reshape(-1, 2),
            reader=_ContentReader(ordered),
        )
        return source, taken


def _images(X: Any) -> list[str] | np.ndarray:
    """Return X as absolute paths or as an array of images, or raise `SourceError`."""
    if isinstance(X, np.ndarray) and X.dtype.kind not in "UO":
        if X.ndim < 3 or X.dtype != np.uint8:
            raise SourceError(f"X: {_WANTED}, got {X.dtype} {X.shape}", "give each image's path, or its pixels")
        ImageSource.open(X[:1] if len(X) else X)  # refuses the shapes that it cannot read
        return X
    if isinstance(X, str | bytes | os.PathLike | Mapping) or not hasattr(X, "__len__") or getattr(X, "ndim", 1) != 1:
        shape = f" {X.shape}" if hasattr(X, "shape") else ""
        raise SourceError(f"X: {_WANTED}, got {type(X).__name__}{shape}", "give a list of paths")
    paths = list(X)
    if not paths:
        raise SourceError(f"X: {_WANTED}, got none", "give one path or more")
    for path in paths:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise SourceError(f"X: {_WANTED}, got {path!r:.60} among them", "give paths alone")
    return [os.path.abspath(Path(path).expanduser()) for path in paths]  # noqa: PTH100 - links keep their name


def _identities(images: list[str] | np.ndarray, threads: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Give digest and stat of every row; a path that is there twice is read once."""
    paths = images if isinstance(images, list) else range(len(images))
    first = {path: row for row, path in reversed(list(enumerate(paths)))}

    def identity(row: int) -> tuple[bytes, tuple[int, int]]:
        try:
            photo = _photo(images[row])
        except UnreadableImage as error:
            raise _unreadable(_name(images, row), str(error)) from error
        return photo.digest, photo.stat

    # Both reading and hashing let other threads go on.
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


def _refuse_failed(asked: Sequence[_Content], made: FeatureCache) -> None:
    """Raise `SourceError` for the first image that has no features; those of the others are stored."""
    reasons: Mapping[str, SkipReason] = made.skipped
    for one in asked:
        if one.digest.hex() in reasons:
            raise _unreadable(one.name, reasons[one.digest.hex()].text)


def _unreadable(name: str, why: str) -> SourceError:
    return SourceError(f"{name}: {why}", "mend the photo, or leave it out of X and y: a transformer cannot drop a row")


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    """Let one process at a time make caches of this collection, and leave no lock file behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = CacheLock.exclusive(folder / name, wait=math.inf)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release_and_forget()
