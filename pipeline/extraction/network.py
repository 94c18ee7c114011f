"""`Network`: a backbone up to some layers, loaded when the first image needs it, here or in a worker process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError
from pipeline.progress import SILENT, Progress
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
                        f"wanted the runtime {self._wanted}, whose {self.precision} features are asked for, "
                        f"found {runtime.name}",
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
