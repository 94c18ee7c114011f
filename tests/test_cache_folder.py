"""The folder of caches: names, locks, what is found again, and what is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import portalocker
import pytest

from pipeline.cache import (
    CacheLock,
    CacheWriter,
    FeatureCache,
    caches_in,
    create_cache,
    file_stem,
    lookup,
    remove_left_over,
    resolve,
    retire,
    version_hash,
    version_path,
)
from pipeline.cache import lock as lock_room
from pipeline.errors import CacheError, CacheLocked
from pipeline.provenance import Preprocessing, Recipe

RECIPE = Recipe("net", "0" * 64, Preprocessing(8, 8, "bilinear", True, (0, 0, 0), (1, 1, 1)), "d", "r")
STAT = np.array([[1, 2], [3, 4]])
LOCK_IT = (
    "import sys\n"
    "from pathlib import Path\n"
    "from pipeline.cache import CacheLock\n"
    "lock = getattr(CacheLock, sys.argv[2])(Path(sys.argv[1]))\n"
    "print('held', flush=True)\n"
    "sys.stdin.read()\n"
)


def make(path: Path, *, complete: bool = True, place: str = "/photos") -> Path:
    provenance = {"recipe": RECIPE.as_dict(), "place": place, "source": "photos"}
    create_cache(path, ids=["a", "b"], stat=STAT, columns={}, layers={"late": 3}, store="fp32", provenance=provenance)
    if complete:
        with CacheLock.exclusive(path) as lock, CacheWriter(FeatureCache.open(path), lock) as writer:
            writer.write(
                np.arange(2),
                status=np.ones(2),
                digest=np.zeros((2, 16)),
                stat=STAT,
                statistics=np.zeros((2, 12)),
                features={"late": np.ones((2, 3))},
            )
    return path


@contextmanager
def another_process(path: Path, kind: str) -> Iterator[subprocess.Popen]:
    """Another process that holds a lock on the cache."""
    command = [sys.executable, "-c", LOCK_IT, str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def reading_alone(folder: Path, mode: int = 0o555) -> Iterator[None]:
    """Take the right to write a folder and its files away from this process, root or not."""
    if os.name != "posix":
        pytest.skip("permissions are those of POSIX")
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(mode)
    root = os.getuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_has_four_parts_that_hold_no_dash():
    stem = file_stem("my-photos (1) é", RECIPE, "/photos")
    assert stem == f"my_photos_1-net-{RECIPE.key('/photos')}"
    assert file_stem("蜂", RECIPE, "/photos").startswith("images-net-")
    assert version_path(Path("c"), stem, "0123abcd") == Path(f"c/{stem}-0123abcd.h5")


def test_the_generation_changes_with_ids_sizes_times_labels_and_layers_alone():
    def generation(**changes: Any) -> str:
        given = {"ids": ["a", "b"], "stat": STAT, "columns": {"x": ["1", None]}, "layers": {"late": 3, "early": 2}}
        return version_hash(**{**given, **changes})

    others = [
        generation(ids=["a", "c"]),
        generation(ids=["a\0b", ""]),
        generation(stat=STAT + 1),
        generation(columns={"x": ["1", "2"]}),
        generation(columns={"y": ["1", None]}),
        generation(columns={}),
        generation(columns={"x": ["1\0", ""]}),
        generation(layers={"late": 3}),
        generation(),
    ]
    assert len(set(others)) == len(others)
    assert generation(layers={"early": 2, "late": 3}) == generation()
    assert generation(columns={"x": ["1", ""]}) == generation()
    assert len(generation()) == 8


def test_caches_are_listed_newest_first_and_the_others_with_the_reason(tmp_path):
    for number, name in enumerate(["old.h5", "new.h5"]):
        os.utime(make(tmp_path / name), (number, number))
    (tmp_path / "text.h5").write_text("x")
    (tmp_path / ".hidden.h5").write_text("x")
    (tmp_path / "new.h5.lock").touch()
    found, refused = caches_in(tmp_path)
    assert [cache.path.name for cache in found] == ["new.h5", "old.h5"]
    assert {path.name: error.message.rpartition(", ")[2] for path, error in refused.items()} == {
        "text.h5": "got a file that is not HDF5"
    }
    assert caches_in(tmp_path / "nowhere") == ([], {})


def test_a_cache_is_found_by_its_path_its_name_and_the_beginning_of_its_name(tmp_path):
    path = make(tmp_path / "bees-net-0123-aa.h5")
    for name in ("bees", "bees-net", "bees-net-0123", "bees-net-0123-aa", "bees-net-0123-aa.h5", path, str(path)):
        assert resolve(name, tmp_path).path == path
    for name in ("be", "bees-n", "ees", "bees-net-0123-a", ""):
        with pytest.raises(CacheError) as caught:
            resolve(f"{name}", tmp_path / "empty" if name == "" else tmp_path)
        assert f"{name}: expected a cache, got none of that name in" in caught.value.message or name == ""


def test_a_name_that_fits_two_collections_is_refused_with_both(tmp_path):
    make(tmp_path / "bees-net-0123-aa.h5")
    make(tmp_path / "bees-net-4567-aa.h5")
    with pytest.raises(CacheError) as caught:
        lookup("bees", tmp_path)
    assert caught.value.message == "bees: expected one cache, got 2 of that name: bees-net-0123, bees-net-4567"
    assert caught.value.next_step == "give more of the name, e.g. bees-net-0123"


def test_of_two_generations_the_newest_complete_one_is_meant(tmp_path):
    for number, (name, complete) in enumerate([("aa", True), ("bb", True), ("cc", False)]):
        os.utime(make(tmp_path / f"bees-net-0123-{name}.h5", complete=complete), (number, number))
    assert resolve("bees", tmp_path).path.name == "bees-net-0123-bb.h5"
    make(tmp_path / "wasps-net-0123-aa.h5", complete=False)
    assert not resolve("wasps", tmp_path).complete


def test_a_name_that_fits_a_damaged_file_alone_says_what_is_wrong_with_it(tmp_path):
    (tmp_path / "bees-net-0123-aa.h5").write_text("x")
    with pytest.raises(CacheError, match="got a file that is not HDF5"):
        resolve("bees", tmp_path)


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused(tmp_path):
    path = make(tmp_path / "x.h5")
    with another_process(path, "exclusive"):
        for kind in (CacheLock.exclusive, CacheLock.shared):
            with pytest.raises(CacheLocked) as caught:
                kind(path)
            assert caught.value.message == f"{path}: another process is using this cache"
            assert caught.value.next_step == "wait until it has finished, then run the same command again"
        assert not retire(path)
        assert FeatureCache.open(path).is_sound()  # reading needs no lock
    CacheLock.exclusive(path).release()  # it died with its holder


def test_any_number_of_readers_keep_a_cache_from_being_removed(tmp_path):
    path = make(tmp_path / "x.h5")
    with another_process(path, "shared"), CacheLock.shared(path), CacheLock.shared(path):
        with pytest.raises(CacheLocked):
            CacheLock.exclusive(path)
        assert not retire(path) and path.exists()
    assert retire(path)
    assert not list(tmp_path.iterdir())
    assert retire(path), "gone is gone"


def test_a_lock_that_is_held_for_an_instant_is_waited_for(tmp_path, monkeypatch):
    path = make(tmp_path / "x.h5")
    held = CacheLock.exclusive(path)
    monkeypatch.setattr(time, "sleep", lambda seconds: held.release())
    CacheLock.exclusive(path).release()


def test_a_reader_of_a_cache_that_is_gone_is_told(tmp_path):
    with pytest.raises(CacheError, match="expected a cache, got no file"):
        CacheLock.shared(tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


def test_a_lock_file_that_was_removed_meanwhile_is_not_believed(tmp_path, monkeypatch):
    path = make(tmp_path / "x.h5")
    whole, calls = portalocker.lock, []

    def lock(handle: Any, flags: Any) -> None:
        whole(handle, flags)
        calls.append(handle)
        if len(calls) == 1:  # as if the last holder had removed it between our open and our lock
            lock_room.lock_path(path).unlink()

    monkeypatch.setattr(portalocker, "lock", lock)
    with CacheLock.exclusive(path):
        assert len(calls) == 2
        assert lock_room.lock_path(path).exists()


def test_a_folder_that_cannot_lock_may_be_read_and_not_written(tmp_path, monkeypatch):
    path = make(tmp_path / "x.h5")

    def cannot(*_: Any) -> None:
        raise portalocker.LockException("No locks available")

    monkeypatch.setattr(portalocker, "lock", cannot)
    with CacheLock.shared(path):
        assert FeatureCache.open(path).is_sound()
    with pytest.raises(CacheError, match=r"expected a folder that can lock files, got one that cannot \(No locks"):
        CacheLock.exclusive(path)


def test_a_shared_lock_that_the_system_does_not_have_is_done_without(tmp_path, monkeypatch):
    path = make(tmp_path / "x.h5")

    def needs_more(*_: Any) -> None:
        raise ImportError("pywin32")

    monkeypatch.setattr(portalocker, "lock", needs_more)
    CacheLock.shared(path).release()


def test_a_read_only_folder_is_read_and_says_so_when_written(shelf):
    path = make(shelf / "x.h5")
    lock_room.lock_path(path).unlink()
    with reading_alone(shelf):
        with CacheLock.shared(path):
            assert FeatureCache.open(path).is_sound()
        assert not retire(path)
        remove_left_over(shelf)
        assert [cache.path for cache in caches_in(shelf)[0]] == [path]
        with pytest.raises(CacheError) as caught:
            make(shelf / "y.h5")
        with pytest.raises(PermissionError):
            CacheLock.exclusive(path)
    assert caught.value.message == f"{shelf}: expected to write a cache here, got Permission denied"
    assert caught.value.next_step == "give a folder that you may write with --cache DIR"


def test_a_reader_without_the_right_to_write_holds_the_lock_all_the_same(shelf):
    path = make(shelf / "x.h5")
    with reading_alone(shelf):
        lock = CacheLock.shared(path)
    with pytest.raises(CacheLocked):
        CacheLock.exclusive(path)
    lock.release()
    CacheLock.exclusive(path).release()


def test_a_file_that_must_not_be_read_is_named(shelf):
    path = make(shelf / "x.h5")
    with reading_alone(shelf):
        os.seteuid(os.getuid())
        path.chmod(0o000)
        if os.getuid() == 0:
            os.seteuid(65534)
        ((found, error),) = caches_in(shelf)[1].items()
    assert (found, error.message) == (path, f"{path}: expected to read the cache, got no permission")


def test_a_folder_that_must_not_be_entered_is_named(shelf):
    folder = shelf / "caches"
    folder.mkdir()
    with reading_alone(folder, 0o000), pytest.raises(CacheError) as caught:
        caches_in(folder)
    assert caught.value.message == f"{folder}: expected to list the caches, got Permission denied"


# --- what is left over ------------------------------------------------------------------------------------------------


def test_what_dead_makers_left_is_removed_and_what_living_ones_make_is_not(tmp_path):
    dead, living = tmp_path / ".a-net-01-aa.h5.77.tmp", tmp_path / ".b-net-01-bb.h5.78.tmp"
    dead.write_text("x")
    living.write_text("x")
    (tmp_path / ".other.tmp").touch()
    (tmp_path / "c-net-01-cc.h5.lock").touch()
    kept = make(tmp_path / "d-net-01-dd.h5")
    with another_process(tmp_path / "b-net-01-bb.h5", "exclusive"):
        remove_left_over(tmp_path)
        assert not dead.exists() and living.exists()
    remove_left_over(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".other.tmp", kept.name, kept.name + ".lock"]
    remove_left_over(tmp_path / "nowhere")
