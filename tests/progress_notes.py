"""A progress that keeps the notes it gets."""

from __future__ import annotations

from pipeline.progress import Progress


class Notes(Progress):
    """Keep the texts of all notes, in order."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)
