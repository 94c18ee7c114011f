"""Processes that run `pipeline extract` while the system fails them: a fork_server, and `faults.c` below it.

The calls that touch the folder of caches are counted in order, whichever library makes them. One worker, blocks of two
photos and a clock that only counts make the order of calls the same in every run.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from fork_server import ForkServer, serve

SOURCE = Path(__file__).with_name("faults.c")

KILL, FAIL, SHORTEN = 1, 2, 3
CHANGES = "OWTASRUM"  # the kinds of calls that change the disk; see faults.c
ALWAYS = -1
BLOCKS_A_SYNC = 3


def changes(calls: str) -> list[tuple[int, str]]:
    """Return ``(k, kind)`` of the calls that change the disk; k is 1 for the first call of any kind."""
    return [(at, kind) for at, kind in enumerate(calls, start=1) if kind in CHANGES]


def build(folder: Path) -> Path:
    """Return the compiled shim; skip the test where there can be none."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("faults are put between a process and the system by a shim in C: needs Linux and a C compiler")
    shim = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(SOURCE), "-ldl"], check=True)
    return shim


def shaken(folder: Path) -> ForkServer:
    """Return the fork_server. Its children take, beside `photos`, `caches` and `layers`:

    at, action, error, times, kinds
        Of `faults_arm`.
    watched : str
        The folder whose calls count, where it is not that of the caches.
    log : str
        The file that all that is written goes to as well; see `power.py`.
    exit : bool
        Let Python end the process its own way, as after a command, instead of at once.
    """
    return ForkServer(folder, Path(__file__), {"LD_PRELOAD": str(build(folder))})


class _Clock:
    """Tells the time in blocks written, so that rows are acknowledged at the same places in every run."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 1
        return self._now


def _extract(order: dict[str, Any]) -> None:
    import fake_backbone

    import pipeline.cache.writer as writer_room
    import pipeline.extraction.api as extraction_room
    import pipeline.extraction.encoder as network_room
    from pipeline.cli.app import app

    network = network_room.open_runtime = fake_backbone.Planted()
    extraction_room.Backbone = _Bundled
    writer_room.time = _Clock()
    writer_room.SECONDS_BETWEEN_SYNCS = order.get("blocks_a_sync", BLOCKS_A_SYNC) - 0.5
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.faults_calls.restype = ctypes.c_char_p
    shim.faults_fired.restype = ctypes.c_long
    if order.get("log"):
        _mark_acknowledged(writer_room.CacheWriter, shim)
    words = ["extract", order["photos"], "--cache", order["caches"], "--batch-size", "2", "--jobs", "1"]
    words += [word for layer in order["layers"] for word in ("--layer", layer)]
    out, err = io.StringIO(), io.StringIO()
    shim.faults_arm(
        os.fsencode(order.get("watched", order["caches"])),
        ctypes.c_long(order.get("at", 0)),
        order.get("action", 0),
        order.get("error", 0),
        ctypes.c_long(order.get("times", 1)),
        order.get("kinds", CHANGES).encode(),
        os.fsencode(order.get("log", "")),
    )
    code: Any = "a traceback"
    try:
        with redirect_stdout(out), redirect_stderr(err):
            app(words, prog_name="pipeline")
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    calls, fired = shim.faults_calls().decode(), shim.faults_fired()
    if not order.get("exit"):
        shim.faults_disarm()
    said = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seen": network.seen}
    Path(order["report"]).write_text(json.dumps({**said, "calls": calls, "fired": fired}))
    if order.get("exit"):
        sys.exit(0)


class _Bundled:
    """The bundled backbone, with a preprocessing that costs nothing."""

    @staticmethod
    def open(*_: Any, **__: Any) -> Any:
        import fake_backbone

        return fake_backbone.backbone()


def _mark_acknowledged(writer: Any, shim: Any) -> None:
    """Put a line into the log whenever rows have been acknowledged: which file, which rows."""
    acknowledge = writer.acknowledge

    def told(self: Any) -> None:
        rows = [int(row) for some, _ in self._unacknowledged for row in some]
        acknowledge(self)
        shim.faults_mark(json.dumps({"file": self.cache.path.name, "rows": rows}).encode())

    writer.acknowledge = told


if __name__ == "__main__":
    serve(_extract)
