"""What holds wherever work is done in processes apart: they may die, and must decode as this one does."""

from __future__ import annotations

from joblib.externals.loky.process_executor import BrokenProcessPool, ShutdownExecutorError

from pipeline.errors import PipelineError
from pipeline.images import decoder_of

DEATHS = 3  # of processes without anything done between them: the machine cannot do this work

#: What the work of a process raises that has died, or that was ended for somebody else's sake.
DEAD = (BrokenProcessPool, ShutdownExecutorError)


class CrashCounter:
    """Count the processes that die, and find out when there is no hope.

    Parameters
    ----------
    ways : str
        What a person can do about it.
    """

    def __init__(self, ways: str) -> None:
        self._ways, self._in_a_row = ways, 0

    def progress(self) -> None:
        """Say that something was done."""
        self._in_a_row = 0

    def add(self, error: BaseException) -> None:
        """Say that a process died; raise `PipelineError` where they do nothing else."""
        self._in_a_row += 1
        if self._in_a_row == DEATHS:
            raise PipelineError(
                f"wanted worker processes that live, found that they die: {str(error).partition(chr(10))[0]}",
                self._ways,
            ) from error


def check_same_decoder(mode: str, wanted: str) -> None:
    """Raise `PipelineError` where this process does not decode as features are keyed by."""
    found = decoder_of(mode)
    if found != wanted:
        raise PipelineError(
            f"wanted workers that decode photos as this machine does ({wanted}), found one that does not ({found})",
            "install the same Pillow on every worker",
        )
