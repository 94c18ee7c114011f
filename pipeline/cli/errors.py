"""What every command does with an error or a signal: two lines and an exit code, never a traceback for a mistake.

Ctrl-C and SIGTERM end a command in the same way, with the exit codes 130 and 143.
"""

from __future__ import annotations

import _thread
import atexit
import errno
import functools
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from pipeline.cli.console import escape_text
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


P = ParamSpec("P")
T = TypeVar("T")

GOODBYE = "nothing lost; run the same command to go on"
SHOW_CURSOR = "\x1b[?25h"

# Errors of the system that the user can fix. Any other OSError is a bug and keeps its traceback.
NEXT_STEPS = {
    errno.ENOSPC: "free space on the disk, then run the same command again",
    errno.EDQUOT: "free space within your quota, then run the same command again",
    errno.EROFS: "choose a folder that you may write to",
    errno.EACCES: "check its permissions (ls -l)",
    errno.EPERM: "check its permissions (ls -l)",
    errno.EMFILE: "allow more open files (ulimit -n 4096), then run the same command again",
}

PATIENCE = 3.0  # seconds to unwind in, before the interrupt is sent again; at the third time the process ends

_state = {"pressed": False, "again": False, "said": False, "leaving": False}
_exit_code = {"stopped": 130}  # 128 and the number of the signal that came first

# How libraries say that memory ran out, where they raise no MemoryError: torch on the CPU and on a GPU, ONNX Runtime
# and other C++ libraries, the loader of shared libraries, Python's threads, joblib's workers.
_NO_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "bad allocation",
    "bad_alloc",
    "Cannot allocate memory",
    "failed to map segment",
    "cannot create shared object",
    "can't start new thread",
    "Unable to allocate",
    "SIGKILL(-9)",
)
_SMALLER = "use a smaller --batch-size or --jobs 1, or allow more memory (ulimit -v, a larger machine)"


def handle_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Return the command with its errors turned into the two lines, and a stop by a signal into its exit code."""

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
        except Exception as error:
            if found := _found_no_memory(error):
                stop(f"expected enough memory for this command, got: {found}", _SMALLER)
            if isinstance(error, BrokenPipeError):
                # Not the reader of our output, which may leave: typer would end without a word.
                raise RuntimeError(f"another process closed its end of a pipe: {error}") from error
            if not isinstance(error, OSError) or error.errno not in NEXT_STEPS:
                raise
            where = f"{error.filename}: " if error.filename else ""
            stop(f"{where}the system refused: {error.strerror}", NEXT_STEPS[error.errno])

    return run


def stop(message: str, next_step: str, *, exit_code: int = 1) -> NoReturn:
    """Print the two lines of an error and end with its exit code."""
    sys.stderr.write(f"error: {_one_line(message)}\ntry: {_one_line(next_step)}\n")
    sys.exit(exit_code)


def describe_usage_error(error: Any) -> tuple[str, str]:
    """Return an error of Typer about the words of a command line as message and next step."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    command = context.command_path if context is not None else "pipeline"
    flag = ""
    if parameter is not None:
        flag = parameter.opts[0] if parameter.param_type_name == "option" else (parameter.metavar or parameter.name)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        near = (getattr(error, "possibilities", None) or [None])[0]
        return (
            f"{command}: there is no option {error.option_name}",
            f"{command} {near} ..." if near else f"{command} --help",
        )
    if kind == "MissingParameter":
        return f"{command}: expected {flag.strip('{}[].')}, got nothing", f"{command} --help"
    if kind == "BadParameter":
        reason = error.message[:1].lower() + error.message[1:]
        return f"{flag}: {reason.removeprefix('input ')}", f"{command} --help"
    unknown = re.fullmatch(r"No such command '(.*?)'\.(?: Did you mean '(.*?)'\?)?.*", error.message, re.DOTALL)
    if unknown:
        return f"{command}: there is no command {unknown[1]!r}", f"{command} {unknown[2] or '--help'}"
    extra = re.fullmatch(r"Got unexpected extra arguments? ?\(?s?\)? ?\((.*)\)", error.message, re.DOTALL)
    if extra:
        return f"{command}: expected no further argument, got {extra[1]}", f"{command} --help"
    return f"{command}: {error.format_message().rstrip('.')}", f"{command} --help"


def print_traceback(error: BaseException) -> None:
    """Print the traceback of a mistake of ours; its text comes from outside as any other."""
    sys.stderr.write(escape_text("".join(traceback.format_exception(error)), lines=True))


def escape_other_output() -> None:
    """Escape what Python and libraries print by themselves: warnings, errors of threads, and log messages."""
    plain = warnings.formatwarning
    warnings.formatwarning = lambda *about, **more: escape_text(plain(*about, **more), lines=True)
    threading.excepthook = _print_thread_error
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_EscapingFormatter())


class _EscapingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape_text(super().format(record), lines=True)


def _print_thread_error(about: threading.ExceptHookArgs) -> None:
    if about.exc_value is not None and not isinstance(about.exc_value, SystemExit):
        print_traceback(about.exc_value)


def _found_no_memory(error: BaseException) -> str:
    """Return what was refused, in one line, if an error or what caused it says that memory ran out."""
    for cause in _causes(error):
        text = next((line for line in str(cause).splitlines() if line.strip()), "")
        if isinstance(cause, MemoryError):
            return text or "the system allows no more"
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return cause.strerror or text
        if not isinstance(cause, PipelineError) and any(words in str(cause) for words in _NO_MEMORY):
            return text
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that it was raised for."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        yield following
        seen.append(following)
        following = following.__cause__ or following.__context__


def say_goodbye() -> NoReturn:
    """End after a signal, with the one line that says what became of the work."""
    _say_it()
    sys.exit(_exit_code["stopped"])


def leave() -> None:
    """End the process here if a signal stopped it; otherwise let Python end it, and a signal from now on do so."""
    _state["leaving"] = True
    if not _state["pressed"]:
        return
    _say_it()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()  # stops joblib's workers and removes their files
    # Python's own way out would tear down libraries under threads that are still within them, and abort.
    os._exit(_exit_code["stopped"])


def listen_for_signals() -> None:
    """Let the first Ctrl-C or SIGTERM end the work in order, and the second one end the process at once.

    Nothing on disk minds the second: every file is written whole, and a cache row by row.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # SIGINT is ignored in background jobs of a script
            signal.signal(number, _on_signal)
    sys.unraisablehook = _on_unraisable


def _say_it() -> None:
    if not _state["said"]:
        _state["said"] = True
        sys.stderr.write(f"\n{GOODBYE}\n")


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _state["again"] and not _state["leaving"]:
        _state["again"] = False
        raise KeyboardInterrupt
    if not _state["pressed"]:
        _exit_code["stopped"] = 128 + signum
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
        if dropped.exc_value is not None:
            print_traceback(dropped.exc_value)
    elif not _state["leaving"]:
        _interrupt_again()


def _interrupt_again() -> None:
    _state["again"] = True
    _thread.interrupt_main(signal.Signals(_exit_code["stopped"] - 128))  # SIGINT may be ignored where SIGTERM is not


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
    os._exit(_exit_code["stopped"])


def _stop_workers() -> None:
    """Stop joblib's worker processes; their unfinished work is discarded."""
    executor = getattr(sys.modules.get("joblib.externals.loky.reusable_executor"), "_executor", None)
    for worker in list(getattr(executor, "_processes", None) or {}):
        with suppress(OSError):
            os.kill(worker, getattr(signal, "SIGKILL", signal.SIGTERM))


def _one_line(text: str) -> str:
    return escape_text(" ".join(text.split()))
