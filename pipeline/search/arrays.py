"""The arrays that a solver computes on: numpy's, or torch's on a device. The two name nearly everything alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Arrays:
    """A library of arrays and the device that they lie on.

    Parameters
    ----------
    xp : module
        `numpy` or `torch`. Solvers keep to the functions and operators that both spell the same way.
    device : str
    block : int
        Rows to work on at a time: few enough that on a CPU they stay in its caches.
    """

    xp: Any
    device: str
    block: int

    def array(self, values: Any) -> Any:
        """Return the values on the device, in their own type."""
        return self.xp.asarray(values, device=self.device)

    def float32(self, values: Any) -> Any:
        """Return the values on the device in float32."""
        return self.xp.asarray(values, dtype=self.xp.float32, device=self.device)

    def zeros(self, *shape: int) -> Any:
        """Return zeros of float32 on the device."""
        return self.xp.zeros(shape, dtype=self.xp.float32, device=self.device)

    def copied(self, values: Any) -> Any:
        """Return the values row after row in memory."""
        return np.ascontiguousarray(values) if self.xp is np else values.contiguous()

    def numpy(self, values: Any) -> np.ndarray:
        """Return the values as numpy's, in float64."""
        return np.asarray(values if self.xp is np else values.cpu(), dtype=np.float64)

    def eigenpairs(self, S: Any) -> tuple[Any, Any]:
        """Return eigenvalues (ascending) and eigenvectors of a symmetric matrix."""
        if self.xp is np:
            from scipy.linalg import eigh

            return eigh(S, driver="evd", check_finite=False)
        values, vectors = self.xp.linalg.eigh(S)
        return values, vectors


def arrays_on(device: str = "cpu") -> Arrays:
    """Return numpy's arrays for "cpu", torch's for "cuda", "cuda:1" and the like ("torch": torch on the CPU)."""
    if device == "cpu":
        return Arrays(np, "cpu", 2048)
    import torch

    return Arrays(torch, "cpu" if device == "torch" else device, 65536)
