"""Cache files that somebody made to be opened."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from cachefiles import PROVENANCE, N, filled
from hdf5_checksums import forged

FEATURES = "features/penultimate"
V110 = ("v110", "v110")

Make = Callable[[Path, Path], None]  # a cache file, and the canary that it is to reach


def _in_place_of(name: str, put: Callable[[h5py.File, Path], Any]) -> Make:
    def make(path: Path, canary: Path) -> None:
        with h5py.File(path, "r+", libver=V110) as file:
            del file[name]
            put(file, canary)

    return make


def _virtual(file: h5py.File, canary: Path) -> None:
    layout = h5py.VirtualLayout((N, 5), "<f4")
    layout[:] = h5py.VirtualSource(canary, "x", (6, 5))[:N]
    file.create_virtual_dataset(FEATURES, layout)


def _unlimited_virtual(file: h5py.File, canary: Path) -> None:
    """One whose very size is looked up in the other file."""
    layout = h5py.VirtualLayout((N, 5), "<f4", maxshape=(None, 5))
    source = h5py.VirtualSource(canary, "x", (6, 5), maxshape=(None, 5))
    layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
    file.create_virtual_dataset(FEATURES, layout)


def _unknown_filter(file: h5py.File, _: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((N, 5))
    made.set_filter(32_123, h5py.h5z.FLAG_OPTIONAL, (1, 2, 3))
    h5py.h5d.create(file.id, FEATURES.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((N, 5)), made)


def _attribute(name: str, value: Any) -> Make:
    def make(path: Path, _: Path) -> None:
        with h5py.File(path, "r+", libver=V110) as file:
            del file.attrs[name]
            file.attrs[name] = value

    return make


def _overlapping(file: h5py.File, _: Path) -> None:
    file[FEATURES] = file["features/blocks.3%2Fconv"]  # a second name for one dataset


def _provenance(text: str) -> Make:
    def make(path: Path, _: Path) -> None:
        data = text.encode()
        with h5py.File(path, "r+", libver=V110) as file:
            del file["provenance"]
            file.create_dataset("provenance", data=np.frombuffer(data, np.uint8))
            file["provenance"].attrs["sha256"] = np.bytes_(hashlib.sha256(data).hexdigest())

    return make


def _user_block(path: Path, _: Path) -> None:
    path.write_bytes(bytes(512) + path.read_bytes())


def _superblock(field: str, at: int, value: int) -> Make:
    def make(path: Path, _: Path) -> None:
        content = bytearray(path.read_bytes())
        struct.pack_into(field, content, at, value)
        path.write_bytes(forged(bytes(content)))

    return make


def _pipe(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _beyond_the_end(path: Path, _: Path) -> None:
    """A dataset of a terabyte, of which the file that was sent has the first bytes, and says that it has all."""
    with h5py.File(path, "r+", libver=V110) as file:
        del file[FEATURES]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.CONTIGUOUS)
        made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((N, 1 << 35))
        h5py.h5d.create(file.id, FEATURES.encode(), h5py.h5t.IEEE_F32LE, space, made)
        start = file[FEATURES].id.get_offset()
    with open(path, "r+b") as raw:
        raw.truncate(start + 4096)
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, 28, len(content))  # the end of the file
    path.write_bytes(forged(bytes(content)))


_PART = {"place": "/photos", "source": "photos", "number": 1, "of": 10**9}

#: What was made, what `FeatureCache.open` says of it.
CACHES: dict[str, tuple[Make, str]] = {
    "an external link": (
        _in_place_of(FEATURES, lambda f, canary: f.__setitem__(FEATURES, h5py.ExternalLink(canary, "/x"))),
        "to be a link",
    ),
    "a soft link": (
        _in_place_of(FEATURES, lambda f, _: f.__setitem__(FEATURES, h5py.SoftLink("/stat"))),
        "to be a link",
    ),
    "external storage": (
        _in_place_of(FEATURES, lambda f, c: f.create_dataset(FEATURES, (N, 5), "<f4", external=[(c, 0, N * 20)])),
        "contiguous datasets within the file",
    ),
    "a virtual dataset": (_in_place_of(FEATURES, _virtual), "contiguous datasets within the file"),
    "a virtual dataset without end": (
        _in_place_of(FEATURES, _unlimited_virtual),
        "contiguous datasets within the file",
    ),
    "a named type": (
        _in_place_of(FEATURES, lambda f, _: f.__setitem__(FEATURES, np.dtype("<f4"))),
        "to be something else",
    ),
    "references": (
        _in_place_of("ids", lambda f, _: f.create_dataset("ids", (N,), h5py.ref_dtype)),
        "contiguous datasets within the file",
    ),
    "text of any length": (
        _in_place_of("ids", lambda f, _: f.create_dataset("ids", data=["a"] * N, dtype=h5py.string_dtype())),
        "got ids of object",
    ),
    "compression": (
        _in_place_of(FEATURES, lambda f, _: f.create_dataset(FEATURES, (N, 5), "<f4", compression="gzip")),
        "contiguous datasets within the file",
    ),
    "a filter that nobody knows": (_in_place_of(FEATURES, _unknown_filter), "contiguous datasets within the file"),
    "a circle of groups": (_in_place_of(FEATURES, lambda f, _: f.__setitem__("features/up", f["/"])), "something else"),
    "two names for one place": (_in_place_of(FEATURES, _overlapping), "expected datasets that do not overlap"),
    "rows beyond the end": (_beyond_the_end, "got"),
    "an end beyond the end": (_superblock("<Q", 28, 1 << 60), "got a truncated file"),
    "an extension of the superblock": (_superblock("<Q", 20, 4096), "another kind of HDF5 file"),
    "a base that is not the beginning": (_superblock("<Q", 12, 512), "another kind of HDF5 file"),
    "an older superblock": (_superblock("<B", 8, 2), "another kind of HDF5 file"),
    "a block of the user's own": (_user_block, "a file that is not HDF5"),
    "a name that is no text": (
        _in_place_of(FEATURES, lambda f, _: f["features"].create_dataset(b"\xff\xfe", (N, 5), "<f4")),
        "expected plain names",
    ),
    "a second spelling of a layer": (
        _in_place_of("labels/label", lambda f, _: f.__setitem__("features/penulti%6Date", np.zeros((N, 5), "<f4"))),
        "expected the datasets of cache format 1",
    ),
    "a pipe": (_pipe, "got no regular file"),
    "a long attribute": (_attribute("kind", np.bytes_(b"x" * 60_000)), "another kind of HDF5 file"),
    "a list for a number": (_attribute("format", np.arange(1000)), "expected cache format 1, got format None"),
    "an attribute of any length": (_attribute("kind", "transfer-pipeline feature cache"), "another kind of HDF5 file"),
    "a provenance without end": (_provenance("[" * 200_000), "expected a recipe, a place"),
    "a provenance of numbers": (
        _provenance('{"recipe": {}, "place": 7, "source": 8}'),
        "expected a recipe, a place",
    ),
    "one part of a billion": (
        _provenance(json.dumps({**PROVENANCE, "part": _PART})),
        "expected the number and the whole of this part",
    ),
}  # fmt: skip


def make(name: str, path: Path, canary: Path) -> str:
    """Write the hostile cache of this name; return what is to be said of it."""
    do, said = CACHES[name]
    filled(path)
    do(path, canary)
    return said
