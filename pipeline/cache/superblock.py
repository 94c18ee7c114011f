"""The first bytes of a cache file, read before the HDF5 library sees them, and that library without its plugins."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from pipeline.cache.origin import reextract_hint
from pipeline.errors import CacheError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
_SUPERBLOCK = struct.Struct("<8s4B4Q")  # signature, version, two sizes, flags, base, extension, end of file, root group
_VERSION = 3  # what `libver=("v110", "v110")` writes: all metadata from there on has checksums


def check_superblock(path: Path) -> None:
    """Raise `CacheError` for a file that does not begin as those do that `create` writes.

    HDF5 looks for its signature further on too, and an extension of the superblock may name a file driver, a cache
    image or another place for the metadata: a cache has none of it, so the library never gets to act on it.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise CacheError(f"{path}: wanted a cache, found no regular file", "pipeline cache list")
    with open(path, "rb") as file:
        head = file.read(_SUPERBLOCK.size)
    if not head.startswith(_SIGNATURE):
        raise CacheError(f"{path}: wanted a cache, found a file that is not HDF5", "pipeline cache list")
    if len(head) < _SUPERBLOCK.size:
        raise CacheError(
            f"{path}: wanted a cache, found the file truncated at {len(head)} bytes",
            reextract_hint(path),
        )
    _, version, offsets, lengths, _, base, extension, _, _ = _SUPERBLOCK.unpack(head)
    if (version, offsets, lengths, base, extension) != (_VERSION, 8, 8, 0, _NOWHERE):
        raise CacheError(f"{path}: wanted a feature cache, found another kind of HDF5 file", "pipeline cache list")


@contextmanager
def disable_plugins() -> Iterator[None]:
    """Leave the HDF5 library no place to look for filters, so that no file can make it load one.

    The places are the whole process's, and other code may need them: under h5py's own lock they are taken away, and put
    back.
    """
    with h5py._objects.phil:
        places = [h5py.h5pl.get(number) for number in range(h5py.h5pl.size())]
        for _ in places:
            h5py.h5pl.remove(0)
        try:
            yield
        finally:
            for place in places:
                h5py.h5pl.append(place)
