"""How does one worker turn images into features, and how does it get its network?

`BatchEncoder` reads, decodes and infers the images of one batch, in whatever thread or process it is called.
`LazyNetwork` opens the network on its first use, and `NetworkHandle` is what other processes get instead of it.
"""

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
from pipeline.runtime import Runtime, batch_size_of, devices_of, emulates, open_runtime


class LazyNetwork:
    """A `Runtime` that loads its network on the first call; several threads may call it at once.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    device, precision
        As for `open_runtime`.
    runtime : str
        The name of the runtime if it is part of the recipe; empty if any will do.
    images : int or None
        How many images there are; a graph is exported only for many.
    graphs : Path
        The folder of exported networks.
    may_emulate : bool
        Whether to compute in a precision that the device emulates, slower than fp32. A model that was fitted in bf16
        predicts so on any machine.
    progress : Progress

    Attributes
    ----------
    name, version : str
        Of the runtime; empty before it is open.
    layers : dict of layer name to width
    batch_size : int
        How many images per call should get.
    devices : list of str
        Several if `device` means several GPUs; each of them needs its own process.
    seconds_to_open : float
        How long loading took; 0 before.
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
        may_emulate: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        self.backbone, self.device, self.precision, self.graphs = backbone, device, precision, graphs
        self.layers = backbone.resolve_layers(layers)
        # An ONNX backbone runs on the CPU only; a device that it cannot use is an error when it is opened.
        self.devices = devices_of("cpu" if backbone.is_graph else device)
        self.batch_size = batch_size_of(self.devices[0], backbone.preprocessing.crop, precision)
        self.name = self.version = ""
        self.seconds_to_open = 0.0
        self._required, self._may_emulate = runtime, may_emulate
        self._images, self._progress = images, progress
        self._runtime: Runtime | None = None
        self._opening = threading.Lock()
        self._shared: tuple[ExitStack, int] | None = None  # the stack to close, and how many callers share the cores

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Map prepared images, uint8 (b, crop, crop, 3), to ``{layer: float32 (b, width)}``; the first call opens."""
        return (self._runtime or self.open())(pixels)

    def open(self) -> Runtime:
        """Return the runtime; the first caller loads it, and the others wait."""
        with self._opening:
            if self._runtime is None:
                self._check_speed()
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
                if self._required not in ("", runtime.name):
                    raise BackboneError(
                        f"expected the runtime {self._required} for {self.precision} features, got {runtime.name}",
                        "install the same runtime on every machine, or use --precision fp32, in which runtimes agree",
                    )
                if self._shared is not None:
                    self._share(runtime)
                self._runtime, self.name, self.version = runtime, runtime.name, runtime.version
                self.seconds_to_open = time.perf_counter() - started
            return self._runtime

    def _check_speed(self) -> None:
        """Raise `BackboneError` if the device emulates the precision."""
        if not self._may_emulate and emulates(self.precision, self.devices[0]):
            name = "CPU" if self.devices[0] == "cpu" else "GPU"
            raise BackboneError(
                f"expected a {name} with {self.precision} instructions, got one that emulates them, slower than fp32",
                "--precision fp32",
            )

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """Share the cores among `count` simultaneous callers, as soon as the network is loaded."""
        with ExitStack() as stack:
            with self._opening:
                self._shared = (stack, count)
                if self._runtime is not None:
                    self._share(self._runtime)
            try:
                yield
            finally:
                self._shared = None

    def _share(self, runtime: Runtime) -> None:
        assert self._shared is not None
        stack, count = self._shared
        stack.enter_context(runtime.workers(count))

    def make_handle(self, claims: Path | None) -> NetworkHandle:
        """Return a small object from which worker processes open the network; see `NetworkHandle` for `claims`."""
        self._check_speed()  # here, before any process starts
        graphs = str(self.graphs.resolve())
        spec = (self.backbone, tuple(self.layers), self.device, self.precision, self._required, graphs)
        return NetworkHandle(spec, tuple(self.devices), None if claims is None else str(claims))


class NetworkHandle:
    """The description of a network in a task; the process that runs the task opens the network once and keeps it.

    Its pickle holds no weights.

    Parameters
    ----------
    spec : tuple
        Backbone, layers, device, precision, runtime and the folder of graphs.
    devices : tuple of str
        The devices of the run.
    claims : str or None
        Folder, empty at first, in which each process claims one of the devices for itself.
    """

    def __init__(self, spec: tuple[Any, ...], devices: tuple[str, ...], claims: str | None) -> None:
        self.spec, self.devices, self.claims = spec, devices, claims

    def network(self) -> LazyNetwork:
        """Return this process's network."""
        key = (repr(self.spec), self.claims)
        with _opening:
            if key not in _networks:
                backbone, layers, device, precision, runtime, graphs = self.spec
                if self.claims is not None:
                    device = self.devices[claim(Path(self.claims)) % len(self.devices)]
                _networks.clear()  # a process works for one run at a time, so the network of an earlier run can go
                _networks[key] = LazyNetwork(
                    backbone,
                    layers,
                    device=device,
                    precision=precision,
                    runtime=runtime,
                    graphs=Path(graphs),
                    may_emulate=True,  # checked before
                )
            return _networks[key]


_networks: dict[tuple[str, str | None], LazyNetwork] = {}
_opening = threading.Lock()


def claim(folder: Path) -> int:
    """Claim and return the lowest number that no other process has claimed in this folder."""
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
    """k images after decoding: the pixels of the b images that the network is to run on, and the state of the others.

    Attributes
    ----------
    rows, status, digest, stat, statistics, known
        As in `EncodedBatch`.
    pixels : ndarray of uint8, shape (b, crop, crop, 3)
    positions : ndarray of int64, shape (b,)
        Position among the k images of each of the b.
    details : mapping of position to str
        Reasons of the images that failed.
    decoding : float
        Seconds from the files' bytes to the pixels.
    read_differently : tuple of int
        Positions of the images that the photo rules in `BatchEncoder.rules` would read differently.
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
    read_differently: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class BatchEncoder:
    """Turn images of one source into features: `encode`, or in two steps `prepare` and `infer`.

    Attributes
    ----------
    source : ImageSource
    runtime : Runtime
    preprocessing : Preprocessing
    known : DigestIndex or DigestIndexFile, optional
        Images that need no network because a cache holds their features.
    store_type : dtype, optional
        The type in which features will be stored; a value that overflows it counts as not finite.
    decode : {"exact", "fast"}
        How photos become pixels.
    rules : str
        Photo rules to compare with: `PHOTO_RULES`, or those of an earlier version under which a model was fitted.
    """

    source: ImageSource
    runtime: Runtime
    preprocessing: Preprocessing
    known: DigestIndex | DigestIndexFile | None = None
    store_type: np.dtype | None = None
    decode: str = "exact"
    rules: str = PHOTO_RULES

    def encode(self, rows: np.ndarray) -> EncodedBatch:
        """Read, decode and infer these images; an image that fails keeps its row, with the reason."""
        return self.infer(self.prepare(rows))

    def prepare(self, rows: np.ndarray, into: np.ndarray | None = None) -> DecodedBatch:
        """Read and decode these images; an image that fails keeps its row, with the reason.

        Parameters
        ----------
        rows : ndarray of int64, shape (k,)
        into : ndarray of uint8, shape (k, crop, crop, 3), optional
            Memory for the pixels.
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
        read_differently: list[int] = []
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
                    read_differently.append(position)
            except UnreadableImage as error:
                status[position] = error.reason
                details[position] = str(error)
        ready = np.array(positions, np.int64)
        made = pixels[: len(ready)]
        return DecodedBatch(
            rows, status, digest, stat, statistics, found, made, ready, details, decoding, tuple(read_differently)
        )

    def infer(self, decoded: DecodedBatch) -> EncodedBatch:
        """Run the network on decoded images and return their features; images that failed before keep their reason."""
        rows, at = decoded.rows, decoded.positions
        status, details = decoded.status.copy(), dict(decoded.details)
        features = {layer: np.zeros((len(rows), width), np.float32) for layer, width in self.runtime.layers.items()}
        started = opened = time.perf_counter()
        if len(at):
            if isinstance(self.runtime, LazyNetwork):
                self.runtime.open()  # before the clock of `network` starts, so that loading is counted apart
                opened = time.perf_counter()
            inferred = self.runtime(decoded.pixels)  # (b, h, w, 3) uint8 -> {layer: (b, d)}
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
            decoded.digest,
            decoded.stat,
            decoded.statistics,
            features,
            decoded.known,
            len(at),
            {int(rows[position]): text for position, text in details.items()},
            Timing(decoded.decoding, time.perf_counter() - opened, opened - started),
            frozenset(rows[list(decoded.read_differently)].tolist()),
        )
