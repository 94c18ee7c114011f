"""A file that nobody is to touch, and that tells who did."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import h5py
import numpy as np

_OPEN, _ACCESS, _MODIFY = 0x20, 0x1, 0x2


class Canary:
    """An HDF5 file that hostile files point to, watched by the system; and a place where hostile code would sing.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "canary.h5"
        self.song = folder / "song"
        with h5py.File(self.path, "w") as file:
            file["x"] = np.zeros((6, 5), "<f4")
        self._content = self.path.read_bytes()
        self._watch = -1
        if sys.platform == "linux":
            library = ctypes.CDLL(None, use_errno=True)
            self._watch = library.inotify_init1(os.O_NONBLOCK)
            added = library.inotify_add_watch(self._watch, os.fsencode(self.path), _OPEN | _ACCESS | _MODIFY)
            assert self._watch >= 0 and added >= 0, os.strerror(ctypes.get_errno())

    @property
    def touched(self) -> bool:
        """Whether anybody opened the file since this was asked last, or changed it, or sang."""
        opened = False
        if self._watch >= 0:
            try:
                opened = bool(os.read(self._watch, 4096))
            except BlockingIOError:
                opened = False
        whole = self.path.exists() and self.path.stat().st_size == len(self._content)
        return opened or not whole or self.song.exists()

    def close(self) -> None:
        if self._watch >= 0:
            os.close(self._watch)
        assert self.path.read_bytes() == self._content
