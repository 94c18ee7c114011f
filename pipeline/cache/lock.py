"""One writer a cache: an operating-system lock on a file beside it, which dies with its holder."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import portalocker
from portalocker import LockFlags

from pipeline.errors import CacheError, CacheLocked

# Others take a lock for an instant when they tidy up; only who holds it longer is at work.
SECONDS_TO_WAIT = 0.3
_BETWEEN_TRIES = 0.02


class CacheLock:
    """Hold a lock on a cache until `release`, or until the process ends however it ends.

    The lock lies on ``X.h5.lock`` and not on the cache, because a lock on the HDF5 file fights h5py's own.
    """

    def __init__(self, cache: Path, handle: IO[bytes] | None) -> None:
        self.cache = cache
        self._handle = handle

    @classmethod
    def exclusive(cls, cache: Path, *, wait: float = SECONDS_TO_WAIT) -> CacheLock:
        """Lock for making, writing or removing; a lock that others hold is waited for `wait` seconds.

        Raises
        ------
        CacheLocked
            Somebody else writes, or reads under a lock.
        OSError
            The folder cannot be written.
        """
        return cls(cache, _acquire(cache, LockFlags.EXCLUSIVE, wait))

    @classmethod
    def shared(cls, cache: Path) -> CacheLock:
        """Lock against writing and removal while workers read; any number may.

        Without effect where there can be no lock: in a folder that is read-only, or cannot lock.

        Raises
        ------
        CacheError
            Somebody writes it, or it is gone.
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
                f"{cache}: expected to read the cache, but it is gone: removed, or followed by a newer one",
                "run the same command again",
            )
        return lock

    def release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def release_and_forget(self) -> None:
        """Release, and remove the lock file too: where there is no cache, there is nothing to lock."""
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
                    "wait for it to end, then run the same command again",
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
        if _is_still(path, handle):
            return handle
        # Its last holder removed the cache and the lock file between our open and our lock.
        handle.close()


def _open(path: Path, kind: LockFlags) -> IO[bytes]:
    try:
        return open(path, "a+b")
    except OSError:
        if kind != LockFlags.SHARED:
            raise
        return open(path, "rb")  # somebody else's lock file, in a folder that we may only read


def _is_still(path: Path, handle: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False
