"""How commands speak: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pipeline.cli.escaping import escape_json, escape_text, quote_shell
from pipeline.progress import Progress

WIDTH_WHEN_PIPED = 200
GAP = 2  # between two columns
SECONDS_BETWEEN_LINES = 8.0  # below the ten that are promised: a line may be late on a busy machine


class Number(str):
    """The name of a column whose cells are set right."""


class SafeConsole(Console):
    """A console on which no text is markup, and whose text reaches the terminal escaped, whatever it is part of.

    Escape codes of rich's own (colours, the cursor of a progress bar) are no text, and are passed on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_text(text, lines=True), style, control)


class Terminal(Progress):
    """Owns stdout and stderr for the length of one command; use it as a context.

    Parameters
    ----------
    as_json : bool
        One JSON object is the result, and tables are not printed.
    quiet : bool
        Nothing on stderr but errors.
    lines : bool
        Where stderr is no terminal and bars are not drawn, print how far the work is as a line every few seconds.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, lines: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.stderr = SafeConsole(stderr=True, quiet=quiet, width=_width(sys.stderr))
        self.stdout = SafeConsole(width=_width(sys.stdout))
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.stderr,
            transient=True,
            disable=quiet or not self.stderr.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._notes: set[str] = set()
        self._lines = ProgressLines(self.say) if lines and not quiet and not self.stderr.is_terminal else None

    def __enter__(self) -> Terminal:
        self._bars.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines is not None:
            self._lines.stop()
        self._bars.stop()

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self.say(f"note: {text}")

    def joined(self, reports: Sequence[Any]) -> None:
        from pipeline.cli.joined import print_joined

        print_joined(self, reports)

    def advance(self, stage: str, done: int, total: int) -> None:
        if self._lines is not None:
            self._lines.advance(stage, done, total)
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line for the person, not for the next program; a terminal gets it wrapped at words."""
        self.stderr.print(escape_text(text), soft_wrap=not self.stderr.is_terminal)

    def next(self, *words: str) -> None:
        """Print the command that a person most likely wants now."""
        self._command("next", words)

    def then(self, *words: str) -> None:
        """Print the command that comes after the next one."""
        self._command("then", words)

    def _command(self, when: str, words: Sequence[str]) -> None:
        # Never wrapped: a line break that we put in would be pasted too.
        self.stderr.print(f"{when}: {quote_shell(list(words))}", soft_wrap=True)

    def result(self, text: str) -> None:
        """Print a line of the result: escaped on a terminal, exactly as it is to a file or a program."""
        sys.stdout.write((escape_text(text, lines=True) if sys.stdout.isatty() else text) + "\n")

    def paragraph(self, text: str, *, indent: int = 0) -> None:
        """Print a line of the result, wrapped at words and set in by so many columns."""
        self.stdout.print(Padding(Text(escape_text(text)), (0, 0, 0, indent), expand=False))

    def object(self, value: Mapping[str, Any]) -> None:
        """Print the one JSON object that is the result."""
        sys.stdout.write(escape_json(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)) + "\n")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        to_stderr: bool = False,
        spare: Sequence[int] = (),
    ) -> list[str]:
        """Print a table and return the names of the columns that a narrow terminal has no room for.

        Parameters
        ----------
        columns : sequence of str
            Those that are a `Number` are set right.
        rows : sequence of sequence of str
        to_stderr : bool
        spare : sequence of int
            Columns that may be left out, the first to go first; what is too wide even so is folded.
        """
        console = self.stderr if to_stderr else self.stdout
        # Here, before the widths are measured.
        columns = [type(name)(escape_text(name)) for name in columns]
        rows = [[escape_text(cell) for cell in row] for row in rows]
        shown, left_out = list(range(len(columns))), []
        for number in spare:
            if _natural_width(columns, rows, shown) <= console.width:
                break
            shown.remove(number)
            left_out.append(columns[number])
        console.print(_table(columns, rows, shown))
        return left_out


class ProgressLines:
    """Prints how far the work is, as one line every few seconds, for log files.

    A thread does it: a step of the work may take longer than the time between two lines.

    Parameters
    ----------
    say : callable
        Prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._state: tuple[str, int, int] | None = None
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress lines", daemon=True)

    def start(self) -> None:
        """Begin to print."""
        self._started = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Print no more; returns when the last line is out."""
        self._ended.set()
        self._thread.join()

    def advance(self, stage: str, done: int, total: int) -> None:
        """Remember how far a stage is."""
        self._state = (stage, done, total)

    def _run(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            elapsed = time.monotonic() - self._started
            stage = "preparing" if self._state is None else "{}: {:,} of {:,}".format(*self._state)
            self._say(f"progress: {stage}, {elapsed:.0f} s elapsed")


def _natural_width(columns: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    widths = [max(cell_len(text) for text in (columns[n], *(row[n] for row in rows))) for n in shown]
    return sum(widths) + GAP * (len(widths) - 1)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for number in shown:
        right = isinstance(columns[number], Number)
        table.add_column(columns[number], justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[number] for number in shown))
    return table


def _width(stream: TextIO) -> int | None:
    """Return the width for tables: the terminal's own, or a wide one for a file or a pipe."""
    return None if stream.isatty() else WIDTH_WHEN_PIPED
