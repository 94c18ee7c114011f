"""Runtimes that would report on whoever runs them do not: photos and what is done with them are nobody else's."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def no_telemetry() -> Iterator[None]:
    """Import ONNX Runtime or OpenVINO here, and neither numbers its users nor tells its maker what they run.

    On import, ONNX Runtime (from 1.29 on) makes a device's number under ``~/.cache/Microsoft`` and uploads what it
    runs, and OpenVINO makes one under ``~/intel`` and sends an event. A user who sets ``ORT_DISABLE_TELEMETRY=0``
    himself has it his way.
    """
    # Read when ONNX Runtime starts, by the processes that start from this one too; so it stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say: not there
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
