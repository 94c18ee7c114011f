"""Read, decode and infer a handful of images: what every worker does, wherever it works."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import DIGEST_BYTES, STATISTICS, STORED
from pipeline.errors import BackboneError, SkipReason, UnreadableImage
from pipeline.extraction.batch import EncodedBatch, Timing
from pipeline.extraction.reuse import DigestIndex, DigestIndexFile
from pipeline.images import PHOTO_RULES, ImageSource, prepare, reads_alike
from pipeline.progress import SILENT, Progress
from pipeline.provenance import Preprocessing
from pipeline.runtime import Runtime, batch_size_of, devices_of, open_runtime


class LazyNetwork:
    """A `Runtime` that opens the real one when it is first called; safe to call from several threads at once.

    Its pickle carries what to open, not the weights: each process opens it once, whatever number of tasks it gets.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    device, precision
        As for `open_runtime`.
    runtime : str
        The name of the only runtime that will do, because it is part of the recipe; empty where any will.
    images : int or None
        How many are to be run; a graph is exported only for many.
    graphs : Path
        Where exported networks are kept.
    progress : Progress

    Attributes
    ----------
    name, version : str
        Of the runtime; empty before it is open.
    layers : dict of layer name to width
    batch_size : int
        How many images a call is best given.
    devices : list of str
        More than one where `device` means several GPUs: then each wants a process of its own.
    seconds_to_open : float
        What opening took; 0 before.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        *,
        device: str = "auto",
        precision: str = "fp32",
        runtime: str = "",
        images: int | None = None,
        graphs: Path,
        progress: Progress = SILENT,
    ) -> None:
        self.backbone, self.device, self.precision, self.graphs = backbone, device, precision, graphs
        self.layers = backbone.resolve_layers(layers)
        self.devices = devices_of("cpu" if backbone.is_graph else device)  # what it cannot do is said when it opens
        self.batch_size = batch_size_of(self.devices[0], backbone.preprocessing.crop, precision)
        self.name = self.version = ""
        self.seconds_to_open = 0.0
        self._wanted = runtime
        self._images, self._progress = images, progress
        self._runtime: Runtime | None = None
        self._opening = threading.Lock()
        self._shared: tuple[ExitStack, int] | None = None  # what to leave, and among how many the cores are shared

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Map prepared images, uint8 (b, crop, crop, 3), to ``{layer: float32 (b, width)}``; the first call opens."""
        return (self._runtime or self.open())(pixels)

    def open(self) -> Runtime:
        """Return the runtime, opened by whoever comes first."""
        with self._opening:
            if self._runtime is None:
                started = time.perf_counter()
                runtime = open_runtime(
                    self.backbone,
                    list(self.layers),
                    device=self.device,
                    precision=self.precision,
                    images=self._images,
                    graphs=self.graphs,
                    progress=self._progress,
                )
                if self._wanted not in ("", runtime.name):
                    raise BackboneError(
                        f"expected the runtime {self._wanted}, whose {self.precision} features are asked for, "
                        f"got {runtime.name}",
                        "install the same on every machine, or --precision fp32, in which runtimes agree",
                    )
                if self._shared is not None:
                    self._share(runtime)
                self._runtime, self.name, self.version = runtime, runtime.name, runtime.version
                self.seconds_to_open = time.perf_counter() - started
            return self._runtime

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """Share the cores among `count` callers at once, from when it is open."""
        with ExitStack() as left:
            with self._opening:
                self._shared = (left, count)
                if self._runtime is not None:
                    self._share(self._runtime)
            try:
                yield
            finally:
                self._shared = None

    def _share(self, runtime: Runtime) -> None:
        assert self._shared is not None
        left, count = self._shared
        left.enter_context(runtime.workers(count))

    def in_processes(self, claims: Path | None) -> NetworkHandle:
        """Return what travels to worker processes; with `claims`, an empty folder, each takes a device for itself."""
        graphs = str(self.graphs.resolve())
        where = (self.backbone, tuple(self.layers), self.device, self.precision, self._wanted, graphs)
        return NetworkHandle(where, tuple(self.devices), None if claims is None else str(claims))


class NetworkHandle:
    """Stands for a network in a task: the process that works on the task opens it once, and keeps it.

    Parameters
    ----------
    where : tuple
        Backbone, layers, device, precision, runtime and the folder of graphs.
    devices : tuple of str
        To choose among.
    claims : str or None
        Folder in which each process claims a device of its own.
    """

    def __init__(self, where: tuple[Any, ...], devices: tuple[str, ...], claims: str | None) -> None:
        self.where, self.devices, self.claims = where, devices, claims

    def network(self) -> LazyNetwork:
        """Return this process's network."""
        key = (repr(self.where), self.claims)
        with _opening:
            if key not in _networks:
                backbone, layers, device, precision, runtime, graphs = self.where
                if self.claims is not None:
                    device = self.devices[claim(Path(self.claims)) % len(self.devices)]
                _networks.clear()  # a process works for one run at a time: what it had is not needed any more
                _networks[key] = LazyNetwork(
                    backbone, layers, device=device, precision=precision, runtime=runtime, graphs=Path(graphs)
                )
            return _networks[key]


_networks: dict[tuple[str, str | None], LazyNetwork] = {}
_opening = threading.Lock()


def claim(folder: Path) -> int:
    """Return the lowest number that no other process has claimed in this folder."""
    number = 0
    while True:
        try:
            os.close(os.open(folder / str(number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            number += 1
        else:
            return number


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """What became of k images before the network saw those of them that it is to see, b in number.

    Attributes
    ----------
    rows, status, digest, stat, statistics, known
        As a `Block` has them.
    pixels : ndarray of uint8, shape (b, crop, crop, 3)
    positions : ndarray of int64, shape (b,)
        Which of the k images these pixels are of.
    details : mapping of position to str
        More about the images that failed.
    decoding : float
        Seconds from the files' bytes to the pixels.
    otherwise : tuple of int
        Positions of the images that the photo rules in `Embedding.rules` read differently.
    """

    rows: np.ndarray
    status: np.ndarray
    digest: np.ndarray
    stat: np.ndarray
    statistics: np.ndarray
    known: np.ndarray
    pixels: np.ndarray
    positions: np.ndarray
    details: Mapping[int, str]
    decoding: float
    otherwise: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class BatchEncoder:
    """How images become features.

    Attributes
    ----------
    source : ImageSource
    runtime : Runtime
    preprocessing : Preprocessing
    known : DigestIndex or DigestIndexFile, optional
        Content that needs no network because its features are stored somewhere.
    store_type : dtype, optional
        The type the features will be stored in; what does not fit into it is not finite.
    decode : {"exact", "fast"}
        How photos become pixels.
    rules : str
        The photo rules that the features are compared with; `PHOTO_RULES`, or those of an earlier version.
    """

    source: ImageSource
    runtime: Runtime
    preprocessing: Preprocessing
    known: DigestIndex | DigestIndexFile | None = None
    store_type: np.dtype | None = None
    decode: str = "exact"
    rules: str = PHOTO_RULES

    def block(self, rows: np.ndarray) -> EncodedBatch:
        """Return what becomes of the images in `rows`; one that fails is a row with its reason."""
        return self.infer(self.prepare(rows))

    def prepare(self, rows: np.ndarray, into: np.ndarray | None = None) -> DecodedBatch:
        """Return these images as the network takes them; one that fails has its reason.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
        into : ndarray of uint8, shape (k, crop, crop, 3), optional
            Where the pixels are to be put.
        """
        source, k, crop = self.source, len(rows), self.preprocessing.crop
        status = np.full(k, STORED, np.uint8)
        digest = np.zeros((k, DIGEST_BYTES), np.uint8)
        stat = np.array(source.stat[rows], np.int64)
        statistics = np.zeros((k, STATISTICS), np.float32)
        found = np.full(k, -1, np.int64)
        details: dict[int, str] = {}
        pixels = np.empty((k, crop, crop, 3), np.uint8) if into is None else into
        positions: list[int] = []
        otherwise: list[int] = []
        decoding = 0.0
        for position, row in enumerate(rows):
            try:
                photo = source.read(int(row))
                digest[position] = np.frombuffer(photo.digest, np.uint8)
                stat[position] = photo.stat
                if self.known is not None:
                    found[position] = self.known.find(photo.digest, photo.content)
                    if found[position] >= 0:
                        continue
                started = time.perf_counter()
                pixels[len(positions)], statistics[position] = prepare(photo, self.preprocessing, self.decode)
                decoding += time.perf_counter() - started
                positions.append(position)
                if self.rules != PHOTO_RULES and not reads_alike(photo.content, self.rules):
                    otherwise.append(position)
            except UnreadableImage as error:
                status[position] = error.reason
                details[position] = str(error)
        ready = np.array(positions, np.int64)
        made = pixels[: len(ready)]
        return DecodedBatch(
            rows, status, digest, stat, statistics, found, made, ready, details, decoding, tuple(otherwise)
        )

    def infer(self, prepared: DecodedBatch) -> EncodedBatch:
        """Return what becomes of prepared images: the network's features, of those that it can be asked about."""
        rows, at = prepared.rows, prepared.positions
        status, details = prepared.status.copy(), dict(prepared.details)
        features = {layer: np.zeros((len(rows), width), np.float32) for layer, width in self.runtime.layers.items()}
        started = opened = time.perf_counter()
        if len(at):
            if isinstance(self.runtime, LazyNetwork):
                self.runtime.open()  # here, so that loading is not taken for computing
                opened = time.perf_counter()
            inferred = self.runtime(prepared.pixels)  # (b, h, w, 3) uint8 -> {layer: (b, d)}
            finite = np.ones(len(at), bool)
            with np.errstate(over="ignore"):
                for values in inferred.values():
                    finite &= np.isfinite(values.astype(self.store_type or np.float32)).all(axis=1)
            for layer, values in inferred.items():
                features[layer][at[finite]] = values[finite]
            status[at[~finite]] = SkipReason.NOT_FINITE
            details.update(dict.fromkeys(at[~finite].tolist(), SkipReason.NOT_FINITE.text))
        return EncodedBatch(
            rows,
            status,
            prepared.digest,
            prepared.stat,
            prepared.statistics,
            features,
            prepared.known,
            len(at),
            {int(rows[position]): text for position, text in details.items()},
            Timing(prepared.decoding, time.perf_counter() - opened, opened - started),
            frozenset(rows[list(prepared.otherwise)].tolist()),
        )
