"""A worker that reads what may crash it: in a process of its own, with so much memory and so much time a piece.

Run as a program, ``sandbox.py NAME SECONDS``, it takes a path a line and answers with a line of JSON each: what the
reader `NAME` made of the file.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 5  # of the processor's time, a file
MEMORY = 1 << 30  # beyond what the worker has before it reads anything
PATIENCE = 120  # seconds by the clock, for what waits instead of working


class Contained:
    """Hand files to a worker, and start another one where it dies; use it as a context.

    Parameters
    ----------
    reader : str
        A name of `READERS`.
    seconds : float
        Of the processor's time, a file.
    """

    def __init__(self, reader: str, seconds: float = SECONDS) -> None:
        self._reader, self._seconds = reader, seconds
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, path: Path) -> dict[str, Any]:
        """Return what the reader says of a file, or ``{"died": how}``."""
        worker = self._process or self._start()
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(os.fsencode(path) + b"\n")
        worker.stdin.flush()
        ready, _, _ = select.select([worker.stdout], [], [], PATIENCE)
        line = worker.stdout.readline() if ready else b""
        if line:
            return json.loads(line)
        if not ready:
            worker.kill()
        status = worker.wait()
        self.__exit__()
        if not ready or status == -signal.SIGPROF:
            return {"died": f"still at it after {self._seconds} s of work, or {PATIENCE} s of waiting"}
        return {"died": signal.Signals(-status).name if status < 0 else f"exit code {status}"}

    def __enter__(self) -> Contained:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._reader, str(self._seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join((str(root), str(root / "tests"))),
            },
        )
        return self._process


def read_photo(path: str) -> dict[str, Any]:
    """Make of a photo what extraction makes of it."""
    from pipeline.errors import UnreadableImage
    from pipeline.images import prepare
    from pipeline.images.photo import read_file
    from pipeline.provenance import Preprocessing

    how = Preprocessing(32, 32, "bilinear", True, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    try:
        square, _ = prepare(read_file(path), how)
    except UnreadableImage as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from error
        return {"reason": error.reason.name, "detail": error.detail}
    return {"reason": None, "shape": square.shape}


def crash(path: str) -> dict[str, Any]:
    """Die as a decoder in C does."""
    if path != __file__:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def hang(path: str) -> dict[str, Any]:
    """Work without end."""
    while path != __file__:
        pass
    return {}


def gluttony(path: str) -> dict[str, Any]:
    """Take more than there is."""
    return {"bytes": len(bytearray(1 if path == __file__ else MEMORY + 1))}


READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "photo": read_photo,
    "crash": crash,
    "hang": hang,
    "gluttony": gluttony,
}


def answers(reader: Callable[[str], dict[str, Any]], seconds: float, first: str | None = None) -> Iterator[None]:
    """Answer for each path on stdin, under the limits."""
    if first is not None:
        reader(first)  # what it imports is not the files' to pay for
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            said = reader(os.fsdecode(line.rstrip(b"\n")))
        except MemoryError:
            said = {"died": f"expected more than {MEMORY >> 20} MB"}
        except Exception as error:
            said = {"died": f"{type(error).__name__}: {error}"[:300]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        out.write(json.dumps(said).encode() + b"\n")
        out.flush()
        yield


if __name__ == "__main__":
    for _ in answers(READERS[sys.argv[1]], float(sys.argv[2]), first=__file__):
        pass
