"""What a long run tells while it works; the command line draws it, Python users may listen or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Progress:
    """Hear of a long run's progress; this one says nothing. Subclass it to show or log."""

    def note(self, text: str) -> None:
        """Hear one sentence that the user should read, before the work it is about."""

    def joined(self, reports: Sequence[Any]) -> None:
        """Hear what labels were joined to which images, a `pipeline.labels.Joined` each, before anything is trained."""

    def advance(self, stage: str, done: int, total: int) -> None:
        """Hear that `done` of `total` steps of `stage` are done."""


SILENT = Progress()
