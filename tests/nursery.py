"""Processes that run `extract` and may be killed: started in milliseconds, because everything is imported already.

Run as a program, it reads a line of JSON a child, forks the child and prints its process id; ``{"wait": pid}`` prints
the child's exit status. The child writes what it did to the file ``report``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Nursery:
    """Start children from a test; use it as a context.

    Parameters
    ----------
    folder : Path
        Where the children's reports go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        self._listen()

    def start(self, photos: Path, caches: Path, layers: list[str], **how: Any) -> Child:
        """Start `extract` with the planted network.

        Parameters
        ----------
        slowness : float
            Seconds an image in the network.
        pause : float
            Seconds before every step that touches the disk for good.
        die_at : int
            The step at which the child kills itself; a write is then left half done.
        """
        self._count += 1
        report = self._folder / f"report-{self._count}.json"
        order = {"photos": str(photos), "caches": str(caches), "layers": layers, "report": str(report), **how}
        return Child(self, int(self._ask(order)), report)

    def run(self, photos: Path, caches: Path, layers: list[str], **how: Any) -> dict[str, Any]:
        """Return the report of a child that ran to its end, or died; `status` is its exit status."""
        return self.start(photos, caches, layers, **how).wait()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, order: dict[str, Any]) -> str:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._listen()

    def _listen(self) -> str:
        return self._process.stdout.readline().strip()


class Child:
    """A process that runs `extract`."""

    def __init__(self, nursery: Nursery, pid: int, report: Path) -> None:
        self.nursery, self.pid, self.report = nursery, pid, report

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)  # it is not reaped before `wait`, so the id is still its own

    def wait(self) -> dict[str, Any]:
        status = int(self.nursery._ask({"wait": self.pid}))
        said = json.loads(self.report.read_text()) if self.report.exists() else {}
        return {**said, "status": status}


class Steps:
    """Stand before every call that changes the disk: count it, pause before it, or die in it."""

    def __init__(self, pause: float, die_at: int | None) -> None:
        self.pause, self.die_at, self.names = pause, die_at, []

    def watch(self, name: str, half: Callable[..., Any] | None = None) -> None:
        whole = getattr(os, name)

        def step(*given: Any, **options: Any) -> Any:
            self.names.append(name)
            if self.pause and name != "pwrite":
                time.sleep(self.pause)
            if len(self.names) == self.die_at:
                if half is not None:
                    half(whole, *given)
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*given, **options)

        setattr(os, name, step)


def _extract(order: dict[str, Any]) -> None:
    from planted import Planted, backbone

    import pipeline.cache.writer as writer_room
    import pipeline.extraction.network as network_room
    from pipeline.errors import PipelineError
    from pipeline.extraction import extract

    network = network_room.open_runtime = Planted()
    network.slowness = order.get("slowness", 0.0)
    writer_room.SECONDS_BETWEEN_SYNCS = 0.02
    steps = Steps(order.get("pause", 0.0), order.get("die_at"))
    steps.watch("pwrite", half=lambda whole, file, data, place: whole(file, data[: len(data) // 2], place))
    for name in ("posix_fallocate", "fsync", "fdatasync", "replace", "unlink"):
        steps.watch(name)
    said: dict[str, Any] = {}
    try:
        cache = extract(
            order["photos"],
            backbone=backbone(),
            layer=order["layers"],
            cache=order["caches"],
            batch_size=2,
            n_jobs=2,
            recheck=0,  # what it computes once more would stand among what the network has seen
        )
        said = {"path": str(cache.path), "summary": cache.summary.as_dict()}
    except PipelineError as error:
        said = {"error": type(error).__name__, "message": error.message}
    except KeyboardInterrupt:
        said = {"error": "KeyboardInterrupt"}
    said |= {"seen": network.seen, "steps": steps.names}
    Path(order["report"]).write_text(json.dumps(said))


def _serve() -> None:
    from planted import backbone

    import pipeline.extraction
    from pipeline.images import decoder_fingerprint

    assert pipeline.extraction.extract and backbone() and decoder_fingerprint()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitpid(order["wait"], 0)[1], flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _extract(order)
                status = 0
            finally:
                os._exit(status)
        print(pid, flush=True)


if __name__ == "__main__":
    _serve()
