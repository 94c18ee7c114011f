"""`Split`: rows to learn from and rows to be tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to learn from and rows to be tested on: int64 positions into y, ascending, none in both."""

    train: np.ndarray
    test: np.ndarray


def class_name(code: int, classes: Sequence[str]) -> str:
    """Return a class by its name, or by its code where it has none."""
    return repr(classes[code]) if code < len(classes) else f"class {code}"
