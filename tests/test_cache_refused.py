"""Files that are refused instead of believed, and caches that cannot be made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cachefiles import IDS, LAYERS, STAT, N, empty, filled, flip, outside_datasets, values

from pipeline.cache import PENDING, CacheLock, CacheWriter, FeatureCache
from pipeline.errors import CacheError


def refused(path: Path) -> str:
    with pytest.raises(CacheError) as caught:
        FeatureCache.open(path)
    return str(caught.value)


# --- files that are refused -------------------------------------------------------------------------------------------


def test_no_file_another_file_and_a_folder_are_refused(tmp_path):
    assert "expected a cache, but there is no such file" in refused(tmp_path / "x.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    assert "got a file that is not HDF5" in refused(tmp_path / "text.h5")
    (tmp_path / "nothing.h5").touch()
    assert "got a file that is not HDF5" in refused(tmp_path / "nothing.h5")
    (tmp_path / "folder.h5").mkdir()
    assert "expected a cache or a folder of its parts, got neither" in refused(tmp_path / "folder.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1]
    assert "expected a feature cache, got another kind of HDF5 file" in refused(tmp_path / "other.h5")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = empty(tmp_path / "x.h5", layers={**LAYERS, "late": 5000})
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    assert "truncated" in refused(path)
    assert f"pipeline cache remove {path}" in refused(path)


def test_another_format_number_is_refused(tmp_path):
    path = filled(tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        file.attrs.modify("format", np.int64(2))
    assert "expected cache format 1, got format 2" in refused(path)


def test_a_damaged_provenance_is_refused(tmp_path):
    path = filled(tmp_path / "x.h5")
    flip(path, "provenance", 7)
    assert "does not match its SHA-256" in refused(path)
    assert "expected a recipe, a place" in refused(empty(tmp_path / "y.h5", provenance={"recipe": "none"}))


def test_any_flipped_byte_of_the_metadata_is_an_error_or_changes_nothing(tmp_path):
    path = filled(tmp_path / "x.h5")
    whole = path.read_bytes()
    metadata = outside_datasets(path)
    cache = FeatureCache.open(path)
    expected = [np.array(cache.header.map(name)) for name in cache.header.row_fields]
    refusals = 0
    for place in [place for place, byte in enumerate(metadata) if byte][::7]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = FeatureCache.open(path)
        except CacheError:
            refusals += 1
            continue
        assert [
            np.array_equal(found.header.map(name), array)
            for name, array in zip(found.header.row_fields, expected, strict=True)
        ] == [True] * len(expected)
    assert refusals > 10


def _replace(name: str, make: Callable[[h5py.File, str], Any]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            make(file, name)

    return change


def _external_storage(file: h5py.File, name: str) -> None:
    shape = (N, 5)
    file.create_dataset(name, shape, "<f4", external=[("/etc/passwd", 0, N * 5 * 4)])


FEATURES = "features/penultimate"
STRANGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "soft link": ("to be a link", _replace(FEATURES, lambda f, n: f.__setitem__(n, h5py.SoftLink("/stat")))),
    "external link": (
        "to be a link",
        _replace(FEATURES, lambda f, n: f.__setitem__(n, h5py.ExternalLink("/etc/passwd", "/x"))),
    ),
    "external storage": ("contiguous datasets within the file", _replace(FEATURES, _external_storage)),
    "chunked": (
        "contiguous datasets within the file",
        _replace(FEATURES, lambda f, n: f.create_dataset(n, (N, 5), "<f4", chunks=(2, 5))),
    ),
    "compressed": (
        "contiguous datasets within the file",
        _replace(FEATURES, lambda f, n: f.create_dataset(n, (N, 5), "<f4", compression="gzip")),
    ),
    "never allocated": (
        "contiguous datasets within the file",
        _replace(FEATURES, lambda f, n: f.create_dataset(n, (N, 5), "<f4")),
    ),
    "variable length": (
        "got ids of object",
        _replace("ids", lambda f, n: f.create_dataset(n, data=IDS, dtype=h5py.string_dtype())),
    ),
    "wrong type": ("got stat of float64", _replace("stat", lambda f, n: f.create_dataset(n, data=STAT * 1.0))),
    "wrong rows": (
        "expected 6 rows in every dataset, got 5 in stat",
        _replace("stat", lambda f, n: f.create_dataset(n, data=STAT[1:])),
    ),
    "scalar": ("got stat of", _replace("stat", lambda f, n: f.create_dataset(n, data=np.int64(1)))),
    "missing": ("got no dataset digest", _replace("digest", lambda f, n: None)),
    "no features": ("got no features in it", _replace("features", lambda f, n: None)),
    "one more": ("got more of float64", _replace("labels/label", lambda f, n: f.create_dataset("more", data=[1.0]))),
    "a group below": (
        "got features/deep to be something else",
        _replace(FEATURES, lambda f, n: f.create_group("features/deep")),
    ),
    "text for the format": (
        "expected cache format 1, got format None",
        lambda path: _set_format(path, "1"),
    ),
}


def _set_format(path: Path, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = value


@pytest.mark.parametrize("what", STRANGE)
def test_what_format_1_does_not_have_is_refused_and_never_followed(tmp_path, what):
    text, change = STRANGE[what]
    path = filled(tmp_path / "x.h5")
    change(path)
    assert text in refused(path)


# --- making it --------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5_000_000})())
    with pytest.raises(CacheError) as caught:
        empty(tmp_path / "x.h5", layers={"penultimate": 1_000_000})
    assert caught.value.message == f"{tmp_path}: expected 24 MB for the cache, got 5 MB free"
    assert "--cache DIR" in caught.value.next_step
    assert not list(tmp_path.iterdir())


def test_space_that_cannot_be_reserved_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(CacheError, match="MB for the cache"):
        empty(tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_one_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError) as caught:
        empty(tmp_path / "file" / "x.h5")
    assert caught.value.message.startswith(f"{tmp_path / 'file'}: expected to write a cache here, got ")


@pytest.mark.parametrize("missing", [("posix_fallocate",), ("pwrite",), ("posix_fallocate", "pwrite", "fdatasync")])
def test_systems_without_these_functions_write_the_same_bytes(tmp_path, monkeypatch, missing):
    here = filled(tmp_path / "here.h5").read_bytes()
    for name in missing:
        monkeypatch.delattr(os, name)
    assert filled(tmp_path / "there.h5").read_bytes() == here


def test_a_file_system_that_cannot_reserve_gets_zeros(tmp_path, monkeypatch):
    here = filled(tmp_path / "here.h5").read_bytes()

    def cannot(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    assert filled(tmp_path / "there.h5").read_bytes() == here


def test_a_write_in_two_parts_is_finished(tmp_path, monkeypatch):
    here = filled(tmp_path / "here.h5").read_bytes()
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: whole(file, data[: max(1, len(data) // 2)], place))
    assert filled(tmp_path / "there.h5").read_bytes() == here


def test_an_error_of_the_disk_while_rows_are_written_is_told(tmp_path, monkeypatch):
    path = empty(tmp_path / "x.h5")

    def fail(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    with CacheLock.exclusive(path) as lock, CacheWriter(FeatureCache.open(path), lock) as writer:
        monkeypatch.setattr(os, "pwrite", fail)
        with pytest.raises(CacheError, match="expected to write the cache, got Input/output error"):
            writer.write(np.arange(N), **values())
    assert (FeatureCache.open(path).status == PENDING).all()


def test_rows_whose_sync_failed_are_not_acknowledged_by_the_next_one(tmp_path, monkeypatch):
    path, whole, calls = empty(tmp_path / "x.h5"), os.fdatasync, []

    def fail_once(file: int) -> None:
        calls.append(file)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")  # the system drops what it could not write, and says so once
        whole(file)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    with (
        pytest.raises(CacheError, match="expected to write the cache, got Input/output error"),
        CacheLock.exclusive(path) as lock,
        CacheWriter(FeatureCache.open(path), lock) as writer,
    ):
        writer.write(np.arange(N), **values())
        writer.acknowledge()
    assert calls
    assert (FeatureCache.open(path).status == PENDING).all()


def test_a_disk_that_cannot_be_read_is_no_damaged_file(tmp_path, monkeypatch):
    path = filled(tmp_path / "x.h5")

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(
            5, "[Errno 5] Unable to synchronously open file (errno = 5, error message = 'Input/output error')"
        )

    monkeypatch.setattr(h5py, "File", fail)
    assert refused(path) == (
        f"{path}: expected to read the cache, got Input/output error\ntry: check the disk, then run the same "
        "command again"
    )


def test_the_names_of_new_folders_are_synced_too(tmp_path, monkeypatch):
    synced, whole = [], os.fsync

    def heard(file: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        whole(file)

    monkeypatch.setattr(os, "fsync", heard)
    if not Path("/proc/self/fd").exists():
        pytest.skip("which file a descriptor stands for is asked of /proc")
    empty(tmp_path / "new" / "newer" / "x.h5")
    assert {str(tmp_path), str(tmp_path / "new"), str(tmp_path / "new" / "newer")} <= set(synced)
