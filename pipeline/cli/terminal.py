"""How commands speak: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from pipeline.progress import Progress

WIDTH_WHEN_PIPED = 160


class Terminal(Progress):
    """Owns stdout and stderr for the length of one command; use it as a context.

    Parameters
    ----------
    as_json : bool
        One JSON object is the result, and tables are not printed.
    quiet : bool
        Nothing on stderr but errors.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.stderr = Console(stderr=True, highlight=False, quiet=quiet, width=_width(sys.stderr))
        self.stdout = Console(highlight=False, width=_width(sys.stdout))
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.stderr,
            transient=True,
            disable=quiet or not self.stderr.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._notes: set[str] = set()

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self.say(f"note: {text}")

    def advance(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line for the person, not for the next program."""
        self.stderr.print(text, markup=False, soft_wrap=True)

    def next(self, *words: str) -> None:
        """Print the command that a person most likely wants now."""
        self.say("next: " + shlex.join(words))

    def result(self, text: str) -> None:
        """Print a line of the result."""
        sys.stdout.write(text + "\n")

    def object(self, value: Mapping[str, Any]) -> None:
        """Print the one JSON object that is the result."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, to_stderr: bool = False) -> None:
        """Print a table; columns whose name ends in a colon are numbers, set right."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            number = column.endswith(":")
            table.add_column(column.rstrip(":"), justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        (self.stderr if to_stderr else self.stdout).print(table, markup=False)


def _width(stream: TextIO) -> int | None:
    """Return the width for tables: the terminal's own, or a wide one for a file or a pipe."""
    return None if stream.isatty() else WIDTH_WHEN_PIPED
