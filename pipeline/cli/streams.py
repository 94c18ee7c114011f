"""stdout and stderr that survive a reader that left, a closed descriptor and a full disk behind stderr.

The messages on stderr and the reader of stdout are never a reason to lose the work of a command. A disk that is full
is one for stdout, which carries the result.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

GONE = frozenset((errno.EPIPE, errno.EBADF, *((errno.EINVAL,) if os.name == "nt" else ())))


def make_streams_forgiving() -> None:
    """Replace closed streams, and let writes to a reader that has gone be dropped.

    A name that the encoding of the stream lacks is written as an escape instead of raising.
    """
    open_closed_descriptors()
    sys.stdout = _forgiving(sys.stdout, 1, every_error=False)
    sys.stderr = _forgiving(sys.stderr, 2, every_error=True)


def open_closed_descriptors() -> None:
    """Open the null device on each of the descriptors 0, 1 and 2 that is closed.

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
