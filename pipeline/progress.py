"""What a long run tells while it works; the command line draws it, Python users may listen or not."""

from __future__ import annotations


class Progress:
    """Hear of a long run's progress; this one says nothing. Subclass it to show or log."""

    def note(self, text: str) -> None:
        """Hear one sentence that the user should read, before the work it is about."""

    def advance(self, stage: str, done: int, total: int) -> None:
        """Hear that `done` of `total` steps of `stage` are done."""


SILENT = Progress()
