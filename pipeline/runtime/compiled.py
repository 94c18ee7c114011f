"""A network that torch compiles, where it can."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.progress import Progress


class Compiled:
    """Run a network compiled for one batch size, the first it is called with; any other size runs as it comes.

    A collection is many blocks of one size and a last, smaller one: to compile again for that would take longer than
    to run it. A network that cannot be compiled runs as it comes, and that is said once.

    Parameters
    ----------
    network : nn.Module
    progress : Progress
    """

    def __init__(self, network: nn.Module, progress: Progress) -> None:
        self._network = network
        self._compiled = torch.compile(network, dynamic=False)
        self._progress = progress
        self._size: int | None = None
        self._failed = False

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._size is None:
            self._size = len(images)
        if self._failed or len(images) != self._size:
            return self._network(images)
        try:
            return self._compiled(images)
        except torch.OutOfMemoryError:  # says nothing of compiling
            self._size = None
            raise
        except Exception as error:  # the compiler raises whatever its back end runs into
            first, self._failed = not self._failed, True
            if first:
                reason = str(error).strip().partition("\n")[0]
                self._progress.note(f"torch.compile cannot ({type(error).__name__}: {reason}); running without it")
        return self._network(images)
