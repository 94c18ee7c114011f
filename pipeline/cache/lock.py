"""How is it ensured that only one process writes a cache?

With an operating-system lock on a file beside the cache, which ends with the process that holds it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import portalocker
from portalocker import LockFlags

from pipeline.errors import CacheError, CacheLocked

# A process that cleans up takes a lock for an instant; a lock held for longer means that the cache is in use.
SECONDS_TO_WAIT = 0.3
_BETWEEN_TRIES = 0.02


class CacheLock:
    """A lock on a cache, held until `release` or until the process ends, however it ends.

    The locked file is ``X.h5.lock`` and not the cache, because a lock on the HDF5 file would conflict with h5py's own.
    """

    def __init__(self, cache: Path, handle: IO[bytes] | None) -> None:
        self.cache = cache
        self._handle = handle

    @classmethod
    def exclusive(cls, cache: Path, *, wait: float = SECONDS_TO_WAIT) -> CacheLock:
        """Lock a cache to create, write or remove it; wait up to `wait` seconds for a lock that another process holds.

        Raises
        ------
        CacheLocked
            Another process writes the cache, or reads it under a lock.
        OSError
            The folder cannot be written.
        """
        return cls(cache, _acquire(cache, LockFlags.EXCLUSIVE, wait))

    @classmethod
    def shared(cls, cache: Path) -> CacheLock:
        """Lock a cache against writing and removal while workers read it; any number of processes may hold this lock.

        It has no effect in a folder where no lock is possible: a read-only one, or one on a file system without locks.

        Raises
        ------
        CacheError
            Another process writes the cache, or the cache is gone.
        """
        try:
            lock = cls(cache, _acquire(cache, LockFlags.SHARED, SECONDS_TO_WAIT))
        except CacheLocked:
            raise
        except (OSError, CacheError, ImportError):  # on Windows a shared lock needs pywin32
            lock = cls(cache, None)
        if not cache.exists():
            lock.release_and_forget()
            raise CacheError(
                f"{cache}: expected a cache, got no file: it was removed, or replaced by a newer version",
                "run the same command again",
            )
        return lock

    def release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def release_and_forget(self) -> None:
        """Release the lock and remove its file, for a cache that is gone."""
        if self._handle is not None:
            with suppress(OSError):
                lock_path(self.cache).unlink(missing_ok=True)
        self.release()

    def __enter__(self) -> CacheLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock_path(cache: Path) -> Path:
    return cache.with_name(cache.name + ".lock")


def _acquire(cache: Path, kind: LockFlags, wait: float) -> IO[bytes]:
    path = lock_path(cache)
    give_up = time.monotonic() + wait
    while True:
        handle = _open(path, kind)
        try:
            portalocker.lock(handle, kind | LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked as error:
            handle.close()
            if time.monotonic() >= give_up:
                raise CacheLocked(
                    f"{cache}: another process is using this cache",
                    "wait until it has finished, then run the same command again",
                ) from error
            time.sleep(_BETWEEN_TRIES)
            continue
        except portalocker.LockException as error:
            handle.close()
            raise CacheError(
                f"{cache.parent}: expected a folder that can lock files, got one that cannot ({error})",
                "give a folder on a local disk with --cache DIR",
            ) from error
        except BaseException:
            handle.close()
            raise
        if _is_at(path, handle):
            return handle
        # The last holder removed the cache and its lock file between our open and our lock: a lock on the removed file
        # would exclude no other process.
        handle.close()


def _open(path: Path, kind: LockFlags) -> IO[bytes]:
    try:
        return open(path, "a+b")
    except OSError:
        if kind != LockFlags.SHARED:
            raise
        return open(path, "rb")  # the lock file of another user, in a folder that we can only read


def _is_at(path: Path, handle: IO[bytes]) -> bool:
    """Return whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False
