"""What every command does with an error: two lines and an exit code, never a traceback for a user's mistake."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from pipeline.errors import PipelineError

P = ParamSpec("P")
T = TypeVar("T")


def guarded(command: Callable[P, T]) -> Callable[P, T]:
    """Return the command with its errors turned into the two lines, and Ctrl-C into exit code 130."""

    @functools.wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> T:
        try:
            return command(*args, **options)
        except PipelineError as error:
            sys.stderr.write(f"error: {_one_line(error.message)}\ntry: {_one_line(error.next_step)}\n")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            sys.stderr.write("\nnothing lost; run the same command to go on\n")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Whoever read our output has gone; Python must not complain about it again while it shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    return run


def _one_line(text: str) -> str:
    return " ".join(text.split())
