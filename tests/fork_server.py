"""Processes that run `extract` and may be killed: started in milliseconds, because everything is imported already.

Run as a program, it reads a line of JSON a child, forks the child and prints its process id; ``{"wait": pid}`` prints
the child's exit status. The child writes what it did to the file ``report``. `tests/reliability/fault_process.py` is
another such program.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class ForkServer:
    """Start children from a test; use it as a context.

    Parameters
    ----------
    folder : Path
        Where the children's reports go.
    program : Path
        Ends in a call of `serve`.
    environment : mapping, optional
        Added to this process's own.
    """

    def __init__(
        self, folder: Path, program: Path = Path(__file__), environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._count = 0
        path = os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent)))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path, **(environment or {})},
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
        user : int
            Whom the child becomes first, where we may.
        largest_file : int
            How many bytes a file of the child's may have.
        """
        self._count += 1
        report = self._folder / f"report-{self._count}.json"
        order = {"photos": str(photos), "caches": str(caches), "layers": layers, "report": str(report), **how}
        return Child(self, int(self._ask(order)), report)

    def run(self, photos: Path, caches: Path, layers: list[str], **how: Any) -> dict[str, Any]:
        """Return the report of a child that ran to its end, or died; `status` is its exit status."""
        return self.start(photos, caches, layers, **how).wait()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, order: dict[str, Any]) -> str:
        self._process.stdin.write(json.dumps(order, default=str) + "\n")
        self._process.stdin.flush()
        return self._listen()

    def _listen(self) -> str:
        return self._process.stdout.readline().strip()


class Child:
    """A process that runs `extract`."""

    def __init__(self, fork_server: ForkServer, pid: int, report: Path) -> None:
        self.fork_server, self.pid, self.report = fork_server, pid, report

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)  # it is not reaped before `wait`, so the id is still its own

    def wait(self) -> dict[str, Any]:
        status = int(self.fork_server._ask({"wait": self.pid}))
        text = self.report.read_text() if self.report.exists() else ""
        said = json.loads(text or "{}")
        return {**said, "status": status}


class Steps:
    """Stand before every call that changes the disk: note it, and pause before it."""

    def __init__(self, pause: float) -> None:
        self.pause, self.names = pause, []

    def watch(self, name: str) -> None:
        whole = getattr(os, name)

        def step(*given: Any, **options: Any) -> Any:
            self.names.append(name)
            if self.pause and name != "pwrite":
                time.sleep(self.pause)
            return whole(*given, **options)

        setattr(os, name, step)


def _extract(order: dict[str, Any]) -> None:
    from fake_backbone import Planted, backbone

    import pipeline.cache.writer as writer_room
    import pipeline.extraction.encoder as network_room
    from pipeline.errors import PipelineError
    from pipeline.extraction import extract

    network = network_room.open_runtime = Planted()
    network.slowness = order.get("slowness", 0.0)
    writer_room.SECONDS_BETWEEN_SYNCS = 0.02
    steps = Steps(order.get("pause", 0.0))
    for name in ("pwrite", "posix_fallocate", "fsync", "fdatasync", "replace", "unlink"):
        steps.watch(name)
    said: dict[str, Any] = {}
    report = open(order["report"], "w")  # noqa: SIM115 - before it may be somebody who must not
    _limit(order)
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
        said = {"error": type(error).__name__, "message": error.message, "next_step": error.next_step}
    except KeyboardInterrupt:
        said = {"error": "KeyboardInterrupt"}
    said |= {"seen": network.seen, "steps": steps.names}
    with report:
        json.dump(said, report)


def _limit(order: dict[str, Any]) -> None:
    if "largest_file" in order:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], order["largest_file"]))
    if "user" in order:
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])


def serve(work: Callable[[dict[str, Any]], None]) -> None:
    """Fork a child for every order that is read, and let it work."""
    from fake_backbone import backbone

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
            try:
                work(order)
            except SystemExit:  # the work wants Python to end the process its own way
                raise
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    serve(_extract)
