"""One writer a cache: an operating-system lock on a file beside it, which dies with its holder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

import portalocker

from pipeline.errors import CacheLocked


class CacheLock:
    """Hold a lock on a cache until `release`, or until the process ends however it ends.

    The lock lies on ``X.h5.lock`` and not on the cache, because a lock on the HDF5 file fights h5py's own.
    """

    def __init__(self, cache: Path, handle: IO[bytes] | None) -> None:
        self.cache = cache
        self._handle = handle

    @classmethod
    def exclusive(cls, cache: Path) -> CacheLock:
        """Lock for writing or removing; `CacheLocked` if anybody else writes or reads under a lock."""
        return cls(cache, _acquire(cache, portalocker.LockFlags.EXCLUSIVE))

    @classmethod
    def shared(cls, cache: Path) -> CacheLock:
        """Lock against removal while workers read; without effect where the folder is read-only."""
        try:
            return cls(cache, _acquire(cache, portalocker.LockFlags.SHARED))
        except PermissionError:
            return cls(cache, None)

    def release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def release_and_forget(self) -> None:
        """Release, and remove the lock file too: for a cache that was removed under this lock."""
        with suppress(OSError):
            lock_path(self.cache).unlink(missing_ok=True)
        self.release()

    def __enter__(self) -> CacheLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_path(cache: Path) -> Path:
    return cache.with_name(cache.name + ".lock")


def _acquire(cache: Path, kind: portalocker.LockFlags) -> IO[bytes]:
    path = lock_path(cache)
    while True:
        handle = open(path, "a+b")  # noqa: SIM115  (it lives as long as the lock)
        try:
            portalocker.lock(handle, kind | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException as error:
            handle.close()
            raise CacheLocked(
                f"{cache}: another process is using this cache", "wait for it to end, then run the same command again"
            ) from error
        if _is_still(path, handle):
            return handle
        # Its last holder removed the cache and the lock file between our open and our lock.
        handle.close()


def _is_still(path: Path, handle: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False
