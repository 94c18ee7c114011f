"""Run commands in one process with hidden what Windows and macOS lack: the modules, calls and links of POSIX and Linux.

`python without_posix.py FOLDER` reads one command per line of ``FOLDER/commands.json`` (lists of words) and prints one
JSON object per command: its words, exit code and what went to stdout and stderr. A server is sent one photo and
stopped.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from pathlib import Path
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
CALLS = (
    "fork", "forkpty", "posix_fallocate", "posix_fadvise", "pwrite", "pwritev", "pread", "preadv", "memfd_create",
    "fdatasync", "sched_getaffinity", "sched_setaffinity", "sendfile", "copy_file_range",
)  # fmt: skip


def hide() -> None:
    """Hide them from this package; the standard library keeps what it has bound, or it would not be a Linux Python."""
    real = builtins.__import__

    def refuse(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        asker = str((globals or {}).get("__name__", ""))
        if name in MODULES and asker.partition(".")[0] == "pipeline":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = refuse
    for name in CALLS:
        if hasattr(os, name):
            delattr(os, name)

    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(1314, "A required privilege is not held by the client")

    os.symlink = no_links  # type: ignore[assignment]


def run(words: list[str]) -> dict[str, Any]:
    """Return what a command did; ``{cache}`` is the first cache there is."""
    from commands import pipeline

    caches = [str(path) for path in Path("features_cache").glob("*.h5")]
    outcome = pipeline(*(caches[0] if word == "{cache}" else word for word in words))
    return {"words": words, "code": outcome.code, "out": outcome.out, "err": outcome.err}


def serve(words: list[str]) -> dict[str, Any]:
    """Start the server that a `serve` command starts, send it one photo, stop it, and return what it answered."""
    import threading
    import time
    from http.client import HTTPConnection

    import uvicorn

    started: list[uvicorn.Server] = []
    whole = uvicorn.Server.run

    def note(server: uvicorn.Server, *given: Any, **options: Any) -> Any:
        started.append(server)
        return whole(server, *given, **options)

    answer: dict[str, Any] = {}

    def ask() -> None:
        while not (started and started[0].started):
            time.sleep(0.05)
        try:
            connection = HTTPConnection(started[0].url.removeprefix("http://"), timeout=300)
            photo = next(Path("new").rglob("*.png")).read_bytes()
            connection.request("POST", "/predict", photo, {"Content-Type": "image/png"})
            response = connection.getresponse()
            body = json.loads(response.read())
            answer.update(status=response.status, label=body.get("label"))
        finally:
            started[0].should_exit = True

    uvicorn.Server.run = note  # type: ignore[method-assign]
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        outcome = run(words)
    finally:
        uvicorn.Server.run = whole  # type: ignore[method-assign]
    if outcome["code"] == 0:
        asking.join()
    return {**outcome, **answer}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    # Libraries are loaded first: some of them ask for what a Linux Python always has.
    import h5py  # noqa: F401
    import joblib  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401

    hide()
    os.chdir(folder)
    for command in json.loads(Path("commands.json").read_text(encoding="utf-8")):
        print(json.dumps((serve if command[0] == "serve" else run)(command)), flush=True)
