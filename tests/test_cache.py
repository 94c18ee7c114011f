"""The cache file: what format 1 promises of the bytes on disk."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

import h5py
import numpy as np
import pytest
from cachefiles import (
    ALWAYS,
    COLUMNS,
    IDS,
    LAYERS,
    PROVENANCE,
    ROW_DATASETS,
    STAT,
    STATUS,
    WHEN_STORED,
    N,
    empty,
    filled,
    flip,
    outside_datasets,
    taken,
    values,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache import STORED, CacheLock, CacheWriter, FeatureCache
from pipeline.cache import format as layout_file
from pipeline.cache.reader import read_header
from pipeline.errors import CacheError, SkipReason

ROOT = Path(__file__).parents[1]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_plain_h5py_reads_every_dataset_as_documented(tmp_path):
    with h5py.File(filled(tmp_path / "x.h5")) as file:
        assert file.attrs["format"] == 1
        assert file.attrs["kind"] == b"transfer-pipeline feature cache"
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert sorted(names) == sorted([*ROW_DATASETS, "provenance"])
        held = values()
        ok = STATUS == STORED
        assert file["features/penultimate"].shape == (N, 5)
        assert np.array_equal(file["features/penultimate"][ok], held["features"]["penultimate"][ok])
        assert np.array_equal(file["pixel_statistics"][:], held["statistics"])
        assert [name.decode() for name in file["ids"]] == IDS
        assert [name.decode() for name in file["labels/where"]] == ["", "Größe", "蜂", "", "x", "y"]
        assert np.array_equal(file["digest"][:], held["digest"])
        assert np.array_equal(file["stat"][:], STAT)
        assert np.array_equal(file["status"][:], STATUS)
        types = {"ids": "|S11", "stat": "<i8", "digest": "|u1", "status": "|u1", "crc32": "<u4", "provenance": "|u1"}
        assert {name: file[name].dtype.str for name in types} == types
        text = file["provenance"][:].tobytes()
        assert json.loads(text) == PROVENANCE
        assert file["provenance"].attrs["sha256"].decode() == hashlib.sha256(text).hexdigest()


def test_every_dataset_is_contiguous_aligned_and_of_fixed_length(tmp_path):
    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            assert item.chunks is None and item.compression is None and item.external is None, name
            assert item.id.get_offset() % 4096 == 0, name
            assert item.dtype.kind in "Sfiu", name

    with h5py.File(filled(tmp_path / "x.h5")) as file:
        file.visititems(look)


def test_every_block_of_metadata_carries_a_checksum(tmp_path):
    """The blocks of HDF5 1.10 do; those of HDF5 1.6 (TREE, SNOD, HEAP, object headers without a name) do not."""
    content = filled(tmp_path / "x.h5", columns={f"column {number}": ["x"] * N for number in range(20)}).read_bytes()
    assert content[8] == 3  # the superblock's version
    with h5py.File(tmp_path / "x.h5") as file:
        names: list[str] = []
        file.visit(names.append)
    assert content.count(b"OHDR") == 1 + len(names)  # one an object, the root too
    assert not any(old in content for old in (b"TREE", b"SNOD", b"HEAP"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_disk_space_is_reserved_when_the_file_is_made(tmp_path):
    found = empty(tmp_path / "x.h5", layers={"penultimate": 50_000}).stat()
    assert found.st_size > N * 50_000 * 4
    assert found.st_blocks * 512 >= found.st_size


def test_filling_changes_no_byte_of_the_metadata(tmp_path):
    path = empty(tmp_path / "x.h5")
    before = outside_datasets(path)
    size = path.stat().st_size
    with CacheLock.exclusive(path) as lock, CacheWriter(FeatureCache.open(path), lock) as writer:
        writer.write(np.arange(N), **values())
        writer.acknowledge()
        writer.reset(np.array([1, 2, 5]), IDS, STAT, COLUMNS)
    assert outside_datasets(path) == before
    assert path.stat().st_size == size


def test_checksum_is_the_one_that_is_documented(tmp_path):
    with h5py.File(filled(tmp_path / "x.h5")) as file:
        for row in range(N):
            names = ALWAYS + (WHEN_STORED if file["status"][row] == 1 else [])
            content = b"".join(np.asarray(file[name][row : row + 1]).tobytes() for name in names)
            assert file["crc32"][row] == crc32(content), row


def test_what_was_written_comes_back(tmp_path):
    cache = FeatureCache.open(filled(tmp_path / "x.h5"))
    held, ok = values(), STATUS == STORED
    assert len(cache) == N
    assert cache.ids == IDS
    assert cache.layers == LAYERS
    assert cache.complete and cache.is_sound()
    assert cache.columns == {"label": COLUMNS["label"], "where": [None, "Größe", "蜂", None, "x", "y"]}
    assert np.array_equal(cache.rows, np.flatnonzero(ok))
    for layer in LAYERS:
        assert np.array_equal(cache.features(layer), held["features"][layer][ok])
        assert np.array_equal(cache.stored(layer)[cache.rows], held["features"][layer][ok])
    assert np.array_equal(cache.pixel_statistics(), held["statistics"][ok])
    assert cache.labels("label").tolist() == ["a", "a", "b", "c", None]
    assert cache.skipped == {"b/4.png": SkipReason.EMPTY}
    assert "6 images" in repr(cache)


def test_a_whole_layer_is_a_memory_map_that_cannot_be_written(tmp_path):
    path = empty(tmp_path / "x.h5")
    with CacheLock.exclusive(path) as lock, CacheWriter(FeatureCache.open(path), lock) as writer:
        writer.write(np.arange(N), **{**values(), "status": np.ones(N, np.uint8)})
    features = FeatureCache.open(path).features()
    assert isinstance(features, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1


def test_half_precision_is_stored_as_such(tmp_path):
    cache = FeatureCache.open(filled(tmp_path / "x.h5", store="fp16"))
    assert cache.features().dtype == np.float16
    assert np.array_equal(cache.features(), values()["features"]["penultimate"][STATUS == STORED].astype(np.float16))


def test_a_pickled_cache_carries_no_rows(tmp_path):
    path = empty(tmp_path / "x.h5", layers={"penultimate": 50_000})
    cache = FeatureCache.open(path)
    cache.header.hold()
    content = pickle.dumps(cache)
    assert len(content) < 10_000
    assert pickle.loads(content).ids == IDS


ODD = ["", ".", "..", "a/b", "/", "%", "%2F", "a b", "Größe", "蜂", "x\ty", "..." * 30, "name with 'quotes'", "\x7f"]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_any_name_makes_one_link_and_comes_back(name):
    link = layout_file.labels_name(name)
    assert link.count("/") == 1 and link.partition("/")[2] not in ("", ".", "..")
    assert "\0" not in link
    assert layout_file.plain_name(link) == name


def test_odd_names_of_columns_and_layers_come_back(tmp_path):
    columns = {name: [f"{name.strip()}{row}" or None for row in range(N)] for name in ODD}
    path = empty(tmp_path / "x.h5", columns=columns, layers=dict.fromkeys(ODD, 2))
    cache = FeatureCache.open(path)
    assert list(cache.layers) == ODD
    assert {name: [text.strip() for text in found] for name, found in cache.columns.items()} == columns
    with h5py.File(path) as file:
        assert file["labels/Größe"][1] == "Größe1".encode()


def test_odd_ids_come_back(tmp_path):
    ids = sorted(
        ["a b.png", " blank .png", "é", "e\u0301", "蜂/蜂.jpg", "'quoted\".png", "x" * 300, "😀.png", "%2F.png"]
    )
    stat = np.zeros((len(ids), 2), np.int64)
    cache = FeatureCache.open(empty(tmp_path / "x.h5", ids=ids, stat=stat, columns={}))
    assert cache.ids == ids
    assert cache.columns == {}
    with pytest.raises(CacheError, match="expected the label column 'label', got none"):
        cache.labels()


def test_a_text_longer_than_its_place_is_never_cut(tmp_path):
    path = empty(tmp_path / "x.h5")
    with (
        CacheLock.exclusive(path) as lock,
        CacheWriter(FeatureCache.open(path), lock) as writer,
        pytest.raises(ValueError, match="a text of 99 bytes does not fit into 11"),
    ):
        writer.reset(np.array([0]), ["x" * 99, *IDS[1:]], STAT, COLUMNS)


def test_a_strange_layer_is_refused_with_those_there_are(tmp_path):
    cache = FeatureCache.open(filled(tmp_path / "x.h5"))
    with pytest.raises(CacheError, match=r"expected layer 'late', got penultimate, blocks\.3/conv"):
        cache.features("late")
    assert cache.layer_name() == "penultimate"
    other = FeatureCache.open(empty(tmp_path / "y.h5", layers={"late": 2, "early": 2}))
    assert other.layer_name() == "late"


# --- rows that do not count -------------------------------------------------------------------------------------------


def test_a_row_counts_only_when_it_is_acknowledged(tmp_path):
    path = empty(tmp_path / "x.h5")
    cache = FeatureCache.open(path)
    with CacheLock.exclusive(path) as lock, CacheWriter(cache, lock) as writer:
        writer.write(np.array([1, 4]), **taken(values(), np.array([1, 4])))
        assert not cache.rows.size
        writer.acknowledge()
        assert cache.rows.tolist() == [1, 4]
    with pytest.raises(CacheError) as caught:
        cache.features()
    assert caught.value.message.endswith("expected a complete cache, got 4 of 6 images still pending")
    assert not cache.damaged().size


@pytest.mark.parametrize("name", ROW_DATASETS)
def test_a_flipped_byte_in_a_stored_row_is_found(tmp_path, name):
    path = filled(tmp_path / "x.h5")
    flip(path, name, 1)
    cache = FeatureCache.open(path)
    assert cache.damaged().tolist() == [1]
    assert not cache.is_sound()
    with pytest.raises(CacheError, match="1 of 6 rows are damaged, the first is row 1"):
        cache.features()
    assert len(cache.ids) == N  # shows what it can


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_any_row_is_found(tmp_path_factory, data):
    path = filled(tmp_path_factory.mktemp("flip") / "x.h5")
    header = read_header(path)
    row = data.draw(st.sampled_from(np.flatnonzero(STATUS == STORED).tolist()))
    name = data.draw(st.sampled_from([name for name in header.row_fields if name != "status"]))
    byte = data.draw(st.integers(0, header.fields[name].row_bytes - 1))
    flip(path, name, row, byte, 1 << data.draw(st.integers(0, 7)))
    assert FeatureCache.open(path).damaged().tolist() == [row]


def test_a_status_that_no_version_wrote_is_an_error(tmp_path):
    path = filled(tmp_path / "x.h5")
    flip(path, "status", 3)
    with pytest.raises(CacheError, match="expected a status of format 1 in row 3, got 252"):
        _ = FeatureCache.open(path).skipped


# --- readers ----------------------------------------------------------------------------------------------------------


def test_readers_of_another_process_see_whole_rows_while_it_is_written(tmp_path):
    path = empty(tmp_path / "x.h5")
    script = (
        "import h5py, sys\n"
        "with h5py.File(sys.argv[1]) as file:\n"
        "    print(file['status'][:].tolist(), file['features/penultimate'][:, 0].tolist())\n"
    )

    def read() -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        ).stdout.strip()

    with CacheLock.exclusive(path) as lock, CacheWriter(FeatureCache.open(path), lock) as writer:
        writer.write(np.array([2]), **taken(values(), np.array([2])))
        assert read().startswith("[0, 0, 0, 0, 0, 0]")
        writer.acknowledge()
        assert read() == "[0, 0, 1, 0, 0, 0] [0.0, 0.0, 15.0, 0.0, 0.0, 0.0]"


def test_what_was_opened_stays_readable_when_the_file_is_removed(tmp_path):
    path = filled(tmp_path / "x.h5")
    held, opened, glanced = FeatureCache.glance(path), FeatureCache.open(path), FeatureCache.glance(path)
    held.header.hold()
    path.unlink()
    if os.name == "posix":
        for cache in (held, opened):
            assert cache.is_sound()
            assert cache.ids == IDS
            assert np.array_equal(cache.features(), values()["features"]["penultimate"][STATUS == STORED])
    with pytest.raises(CacheError, match="it was removed, or replaced by a newer version"):
        _ = glanced.ids


def test_the_five_lines_of_the_readme_read_a_cache(tmp_path):
    text = (ROOT / "features_cache" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    path = filled(tmp_path / "x.h5")
    names: dict[str, Any] = {}
    exec(block.replace("CACHE.h5", str(path)), names)
    ok = STATUS == STORED
    assert np.array_equal(names["X"], values()["features"]["penultimate"][ok])
    assert names["ids"] == [name for name, stored in zip(IDS, ok, strict=True) if stored]
    assert names["y"] == ["a", "a", "b", "c", ""]


def test_the_readme_lists_every_status_and_dataset():
    text = (ROOT / "features_cache" / "README.md").read_text(encoding="utf-8")
    for reason in SkipReason:
        assert f"| {reason.value} | `{reason.name}` |" in text
    for name in layout_file.REQUIRED:
        assert f"`{name}`" in text
