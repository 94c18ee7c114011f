"""What every command does with an error: two lines and an exit code, never a traceback for a user's mistake."""

from __future__ import annotations

import _thread
import atexit
import errno
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

P = ParamSpec("P")
T = TypeVar("T")

GOODBYE = "nothing lost; run the same command to go on"
SHOW_CURSOR = "\x1b[?25h"

# What the system refuses and the user can mend; any other OSError is a mistake of ours and keeps its traceback.
WAY_OUT = {
    errno.ENOSPC: "make room on the disk, then run the same command again",
    errno.EDQUOT: "make room within your quota, then run the same command again",
    errno.EROFS: "choose a folder that you may write",
    errno.EACCES: "check its permissions (ls -l)",
    errno.EPERM: "check its permissions (ls -l)",
    errno.EMFILE: "allow more open files (ulimit -n 4096), then run the same command again",
}

PATIENCE = 3.0  # seconds to unwind in, before the interrupt is sent again; at the third time the process ends

_state = {"pressed": False, "again": False, "said": False, "leaving": False}


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Return the command with its errors turned into the two lines, and Ctrl-C into exit code 130."""

    @functools.wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> T:
        try:
            result = command(*args, **options)
            sys.stdout.flush()  # here, where a reader that has gone is no surprise
            return result
        except PipelineError as error:
            stop(error.message, error.next_step)
        except KeyboardInterrupt:
            say_goodbye()
        except BrokenPipeError:
            # Whoever read our output has gone; Python must not complain about it again while it shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except MemoryError as error:
            stop(f"wanted more memory than there is: {error}", "--jobs 1, or a smaller --batch-size")
        except OSError as error:
            if error.errno not in WAY_OUT:
                raise
            where = f"{error.filename}: " if error.filename else ""
            stop(f"{where}the system refused: {error.strerror}", WAY_OUT[error.errno])

    return run


def stop(message: str, next_step: str) -> NoReturn:
    """Print the two lines and end with exit code 1."""
    sys.stderr.write(f"error: {_one_line(message)}\ntry: {_one_line(next_step)}\n")
    sys.exit(1)


def say_goodbye() -> NoReturn:
    """End after Ctrl-C, with the one line that says what became of the work."""
    _say_it()
    sys.exit(130)


def leave() -> None:
    """End the process here if Ctrl-C was pressed; otherwise let Python end it, and a Ctrl-C from now on do so."""
    _state["leaving"] = True
    if not _state["pressed"]:
        return
    _say_it()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()  # stops joblib's workers and removes their files
    # Python's own way out would tear down libraries under threads that are still within them, and abort.
    os._exit(130)


def listen_for_ctrl_c() -> None:
    """Let the first Ctrl-C end the work in order, and the second one end the process at once.

    Nothing on disk minds the second: every file is written whole, and a cache row by row.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # `nohup` and background jobs of a script
        signal.signal(signal.SIGINT, _on_ctrl_c)
        sys.unraisablehook = _on_unraisable


def make_streams_forgiving() -> None:
    """Let a name that the terminal's encoding lacks be written as an escape instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _say_it() -> None:
    if not _state["said"]:
        _state["said"] = True
        sys.stderr.write(f"\n{GOODBYE}\n")


def _on_ctrl_c(signum: int, frame: FrameType | None) -> None:
    if _state["again"] and not _state["leaving"]:
        _state["again"] = False
        raise KeyboardInterrupt
    if _state["pressed"] or _state["leaving"]:
        _end_now()
    _state["pressed"] = True
    # First of all: a worker that starts while this process takes its queues apart would print a traceback.
    _stop_workers()
    threading.Thread(target=_insist, daemon=True).start()
    raise KeyboardInterrupt


def _on_unraisable(dropped: UnraisableHookArgs) -> None:
    """Interrupt again at once where Python itself drops the interrupt, as it does in a finaliser."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
    elif not _state["leaving"]:
        _interrupt_again()


def _interrupt_again() -> None:
    _state["again"] = True
    _thread.interrupt_main()


def _insist() -> None:
    """Interrupt again what swallowed the first interrupt: a library's callback may drop any exception."""
    for _ in range(2):
        time.sleep(PATIENCE)
        _interrupt_again()
    time.sleep(PATIENCE)
    _end_now()


def _end_now() -> NoReturn:
    """End without unwinding."""
    _stop_workers()
    cursor = SHOW_CURSOR if os.isatty(2) else ""
    os.write(2, (cursor + ("" if _state["said"] else f"\n{GOODBYE}\n")).encode())
    os._exit(130)


def _stop_workers() -> None:
    """Stop joblib's worker processes; what they were at is of use to nobody."""
    executor = getattr(sys.modules.get("joblib.externals.loky.reusable_executor"), "_executor", None)
    for worker in list(getattr(executor, "_processes", None) or {}):
        with suppress(OSError):
            os.kill(worker, getattr(signal, "SIGKILL", signal.SIGTERM))


def _one_line(text: str) -> str:
    return " ".join(text.split())
