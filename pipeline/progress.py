"""How a long run reports its progress: the command line draws it, Python users may pass their own `Progress`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Progress:
    """Receive the progress of a long run and ignore it. Subclass it to show or log progress."""

    def note(self, text: str) -> None:
        """Receive a sentence for the user, before the work that it is about."""

    def joined(self, reports: Sequence[Any]) -> None:
        """Receive one `pipeline.labels.JoinReport` per source of images, before any head is trained."""

    def advance(self, stage: str, done: int, total: int) -> None:
        """Receive that `done` of `total` steps of `stage` are complete."""


SILENT = Progress()
