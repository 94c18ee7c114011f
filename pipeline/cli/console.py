"""How commands speak: the result on stdout, everything else on stderr."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pipeline.progress import Progress

if TYPE_CHECKING:
    from pipeline.labels import JoinedLabelSet, JoinReport


# Everything that is obeyed or not seen: C0 and C1 controls, soft hyphen, bidirectional marks, embeddings, overrides and
# isolates, zero-width characters, line and paragraph separators, fillers that look like nothing, lone surrogates, tags.
_UNSAFE = (
    "\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_LINES = re.compile(f"[{_UNSAFE}]")
_LINE = re.compile(f"[\n{_UNSAFE}]")
# JSON escapes C0 controls by itself.
_JSON = _LINES
_JOINERS = "\u200c\u200d"  # Persian, the scripts of India and emoji need them between two of their own characters
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_text(text: str, *, lines: bool = False) -> str:
    """Return the text with every character that a terminal would obey or hide written as an escape.

    Parameters
    ----------
    text : str
    lines : bool
        Whether the text is made of lines, whose line breaks stay.

    Examples
    --------
    >>> escape_text("bees" + chr(27) + "[31m")
    'bees\\\\x1b[31m'
    """
    pattern = _LINES if lines else _LINE
    return text if text.isascii() and text.isprintable() else pattern.sub(_escaped, text)


def escape_json(text: str) -> str:
    """Return JSON of the same value with the characters that a terminal would obey or hide as JSON escapes."""
    return _JSON.sub(lambda found: _json_escape(found[0]), text)


def quote_shell(words: tuple[str, ...] | list[str]) -> str:
    """Return a command to paste, as `shlex.join` does; words with unsafe characters in the form ``$'...'``."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    safe = escape_text(word)
    if safe == word:
        return shlex.quote(word)
    kept = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{escape_text(kept)}'"


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character in _JOINERS and _joins(found):
        return character
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _joins(found: re.Match[str]) -> bool:
    """Return whether a joiner stands between two characters of scripts that use it, or between two pictures."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return _is_joined(before) and _is_joined(after)


def _is_joined(character: str) -> bool:
    # U+0590 and above: not Latin, Greek or Cyrillic, where a joiner changes nothing that is seen.
    return character >= "\u0590" and unicodedata.category(character)[0] in "LMS"


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


WIDTH_WHEN_PIPED = 200
GAP = 2  # between two columns
SECONDS_BETWEEN_LINES = 8.0  # below the ten that are promised: a line may be late on a busy machine


class RightAligned(str):
    """The name of a column whose cells are aligned to the right."""


class SafeConsole(RichConsole):
    """A console on which no text is markup, and whose text reaches the terminal escaped, whatever it is part of.

    Escape codes of rich's own (colours, the cursor of a progress bar) are no text, and are passed on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else escape_text(text, lines=True), style, control)


class Console(Progress):
    """Print results on stdout, and progress, notes and next commands on stderr, during one command; a context manager.

    Parameters
    ----------
    as_json : bool
        One JSON object is the result, and tables are not printed.
    quiet : bool
        Print only errors on stderr.
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

    def __enter__(self) -> Console:
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

        print_joined(self, reports)

    def advance(self, stage: str, done: int, total: int) -> None:
        if self._lines is not None:
            self._lines.advance(stage, done, total)
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line on stderr, for a person and not for the next program; a terminal gets it wrapped at words."""
        self.stderr.print(escape_text(text), soft_wrap=not self.stderr.is_terminal)

    def next(self, *words: str) -> None:
        """Print the command that a person most likely needs now."""
        self._command("next", words)

    def then(self, *words: str) -> None:
        """Print the command that comes after the next one."""
        self._command("then", words)

    def _command(self, when: str, words: Sequence[str]) -> None:
        # Never wrapped: an added line break would be pasted with the command.
        self.stderr.print(f"{when}: {quote_shell(list(words))}", soft_wrap=True)

    def result(self, text: str) -> None:
        """Print a line of the result: escaped on a console, exactly as it is to a file or a program."""
        sys.stdout.write((escape_text(text, lines=True) if sys.stdout.isatty() else text) + "\n")

    def paragraph(self, text: str, *, indent: int = 0) -> None:
        """Print a line of the result, wrapped at words and indented by `indent` columns."""
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
        """Print a table and return the names of the columns that a narrow terminal cannot show.

        Parameters
        ----------
        columns : sequence of str
            `RightAligned` ones are aligned to the right.
        rows : sequence of sequence of str
        to_stderr : bool
        spare : sequence of int
            Columns that may be left out, in this order; a table that is still too wide is folded.
        """
        target = self.stderr if to_stderr else self.stdout
        # Escaped before the widths are measured.
        columns = [type(name)(escape_text(name)) for name in columns]
        rows = [[escape_text(cell) for cell in row] for row in rows]
        shown, left_out = list(range(len(columns))), []
        for number in spare:
            if _natural_width(columns, rows, shown) <= target.width:
                break
            shown.remove(number)
            left_out.append(columns[number])
        target.print(_table(columns, rows, shown))
        return left_out


class ProgressLines:
    """Prints the progress as one line every few seconds, for log files.

    A thread prints, because one step of the work may take longer than the time between two lines.

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
        right = isinstance(columns[number], RightAligned)
        table.add_column(columns[number], justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[number] for number in shown))
    return table


def _width(stream: TextIO) -> int | None:
    """Return the width for tables: the terminal's own, or a wide one for a file or a pipe."""
    return None if stream.isatty() else WIDTH_WHEN_PIPED


MOST_NAMED = 4  # classes; more are counted


def print_joined(console: Console, reports: Sequence[JoinReport]) -> None:
    """Print the table on stderr, or for a single label set the few notes that it would come to."""
    reports = [report for report in reports if report.label_sets]
    if sum(len(report.label_sets) for report in reports) == 1:
        for note in reports[0].notes:
            console.note(note)
        return
    several = len(reports) > 1
    columns = [
        "label set",
        *(["images of"] if several else []),
        "kind",
        RightAligned("rows"),
        "classes",
        RightAligned("missing"),
    ]
    rows = [
        [
            label_set.name,
            *([report.source] if several else []),
            label_set.kind,
            f"{label_set.rows:,}",
            _describe_values(label_set),
            f"{label_set.missing:,}",
        ]
        for report in reports
        for label_set in report.label_sets
    ]
    console.table(columns, rows, to_stderr=True)
    for report in reports:
        for note in (*report.about_whole_numbers, *report.unmatched, *report.left_out):
            console.note(note)


def _describe_values(label_set: JoinedLabelSet) -> str:
    """Return the classes by name if they are few, else their number; of numbers the range."""
    if label_set.low is not None and label_set.high is not None:
        return f"{label_set.low:g} to {label_set.high:g}"
    if len(label_set.classes) <= MOST_NAMED and sum(map(len, label_set.classes)) <= 40:
        return ", ".join(label_set.classes)
    return f"{len(label_set.classes)} {'tags' if label_set.kind == 'multi' else 'classes'}"


GONE = frozenset((errno.EPIPE, errno.EBADF, *((errno.EINVAL,) if os.name == "nt" else ())))


def make_streams_forgiving() -> None:
    """Replace closed streams, and let writes to a reader that has gone be dropped.

    A name that the encoding of the stream lacks is written as an escape instead of raising.
    """
    open_closed_descriptors()
    sys.stdout = _forgiving(sys.stdout, 1, every_error=False)
    sys.stderr = _forgiving(sys.stderr, 2, every_error=True)


def open_closed_descriptors() -> None:
    """Open `os.devnull` on each of the descriptors 0, 1 and 2 that is closed.

    Otherwise the next file that is opened, such as a cache, would get its number, and messages would be written there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, and all below are open.
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


class _ForgivingFile(io.FileIO):
    """A descriptor whose failing writes are dropped, from the first failure on."""

    def __init__(self, number: int, *, every_error: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self._every_error = every_error

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self._drop()  # what is still buffered must not fail again while Python shuts down
            if not self._every_error and error.errno not in GONE:
                raise
            return len(content)

    def _drop(self) -> None:
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)


def _forgiving(stream: TextIO | None, number: int, *, every_error: bool) -> Any:
    encoding, unbuffered = "utf-8", False
    if stream is not None:  # it is None where it was closed before Python started
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if type(raw) is not io.FileIO:  # the console of Windows, or a stream of the caller's own
            reconfigure: Any = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
            return stream
        with suppress(OSError):
            stream.flush()
        number, encoding, unbuffered = raw.fileno(), stream.encoding, raw is buffer
    file: Any = _ForgivingFile(number, every_error=every_error)
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=every_error or file.isatty(),
        write_through=unbuffered,
    )
