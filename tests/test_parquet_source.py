"""A Parquet table with a column of images is a source; its bytes are read a row group at a time."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fake_backbone import Extractor, Planted, assert_planted, folder_of, touch
from pyarrow import parquet
from tars import write_parquet
from test_images import photo_bytes, planted, put, refused, why

from pipeline.errors import SkipReason, SourceError
from pipeline.images import ImageSource, read_text_table
from pipeline.images import parquet as parquet_room


@pytest.fixture(autouse=True)
def _nothing_is_held_from_before(monkeypatch):
    monkeypatch.setattr(parquet_room, "_kept", parquet_room._RowGroups())


def struct(value: int | None, path: str | None = None) -> dict:
    """Return an image as Hugging Face's `datasets` keeps it."""
    return {"bytes": None if value is None else photo_bytes(value), "path": path}


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_a_column_of_bytes_is_the_images_and_the_others_say_what_is_known(tmp_path):
    path = write_parquet(
        tmp_path / "t.parquet", [2, 0, 1], id=["c", "a", "b"], label=[7, None, 0], weight=[0.5, 1.0, float("nan")]
    )
    source = ImageSource.open(path)
    assert source.ids == ["a", "b", "c"]
    assert source.columns == {"label": [None, "0", "7"], "weight": ["1", None, "0.5"]}
    assert [planted(source, row) for row in range(3)] == [0, 1, 2]
    assert source.read(1).digest == blake2b(photo_bytes(1), digest_size=16).digest()
    found = path.stat()
    assert source.stat.tolist() == [[found.st_size, found.st_mtime_ns]] * 3
    assert source.read(1).stat == (found.st_size, found.st_mtime_ns)
    assert (source.name, source.place) == ("t", path.resolve().as_posix())
    assert source.notes == source.skipped == []


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_bytes_of_every_type_are_read(tmp_path, kind, compression):
    table = pa.table({"id": ["a", "b"], "img": pa.array([photo_bytes(1), photo_bytes(2)], kind)})
    parquet.write_table(table, tmp_path / "t.pq", compression=compression)
    source = ImageSource.open(tmp_path / "t.pq")
    assert [planted(source, row) for row in range(2)] == [1, 2]


def test_paths_beside_the_bytes_are_ids_where_each_row_has_one_of_its_own(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", [struct(1, "b.png"), struct(0, "a.png")], label=[1, 0])
    source = ImageSource.open(path)
    assert source.ids == ["a.png", "b.png"]
    assert source.columns == {"label": ["0", "1"]}
    assert [planted(source, row) for row in range(2)] == [0, 1]
    assert source.notes == []


@pytest.mark.parametrize("paths", [["a.png", "a.png"], ["a.png", None], ["a.png", "b\n.png"]])
def test_rows_are_known_by_table_and_number_where_the_paths_do_not_tell_them_apart(tmp_path, paths):
    path = write_parquet(tmp_path / "train-00.parquet", [struct(at, name) for at, name in enumerate(paths)])
    source = ImageSource.open(path)
    assert source.ids == ["train-00/000000", "train-00/000001"]
    assert [planted(source, row) for row in range(2)] == [0, 1]
    assert source.notes == [
        f"{path}: the images' paths are not all there or not all different: rows are known by number"
    ]


def test_rows_are_known_by_number_where_nothing_else_is_said(tmp_path):
    for images in ([0, 1, 2], [struct(0), struct(1), struct(2)]):
        source = ImageSource.open(write_parquet(tmp_path / "t.parquet", images, label=["x", "y", "z"]))
        assert source.ids == ["t/000000", "t/000001", "t/000002"]
        assert source.columns == {"label": ["x", "y", "z"]}
        assert source.notes == []


def test_the_id_column_can_be_named(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", [struct(1, "p"), struct(0, "q")], name=["y", "x"], id=[1, 2])
    source = ImageSource.open(path, id_column="Name")
    assert (source.ids, source.columns) == (["x", "y"], {"id": ["2", "1"]})
    assert refused(path, id_column="nam").message == f"{path}: expected an id column 'nam', got the columns name, id"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", None], "row 2 has no id: its column id is empty"),
        (["a", "a"], "a stands in rows 1 and 2 of column id"),
        (["a", "b\n\tc"], "row 2: b\\x0a\\x09c cannot be an id: its name holds a control character or a line break"),
    ],
)
def test_ids_that_are_no_ids_are_refused_with_the_row(tmp_path, ids, message):
    path = write_parquet(tmp_path / "t.parquet", [0, 1], id=ids)
    error = refused(path)
    assert error.message == f"{path}: {message}"
    assert error.next_step == "give each image one id of its own, or name another column with --id"


def test_of_several_columns_of_images_the_one_named_so_is_taken_without_a_look(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "t.parquet", [1], mask=[photo_bytes(2)])
    right = parquet_room._holds_images
    monkeypatch.setattr(parquet_room, "_holds_images", None)
    source = ImageSource.open(path)
    assert planted(source, 0) == 1
    assert source.notes == [f"{path}: its columns mask hold no plain values and are left out"]
    monkeypatch.setattr(parquet_room, "_holds_images", right)
    parquet.write_table(pa.table({"left": [photo_bytes(1)], "right": [photo_bytes(2)]}), path)
    error = refused(path)
    assert error.message == f"{path}: expected one column of images, got 2: left, right"
    assert error.next_step == "call the one that is meant `image`, or leave the others out"
    parquet.write_table(pa.table({"left": [photo_bytes(1)], "sound": [{"bytes": b"RIFF", "path": "a.wav"}]}), path)
    assert planted(ImageSource.open(path), 0) == 1


def test_bytes_that_are_no_images_are_no_image_column(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", [1], checksum=[b"\x01\x02\x03"], box=[[1, 2]])
    source = ImageSource.open(path)
    assert planted(source, 0) == 1
    assert source.notes == [f"{path}: its columns checksum, box hold no plain values and are left out"]
    put(tmp_path / "a.png", 5)
    parquet.write_table(pa.table({"path": ["a.png"], "checksum": [b"\x01\x02"]}), path)
    source = ImageSource.open(path)
    assert (source.ids, source.columns, planted(source, 0)) == (["a.png"], {}, 5)


def test_a_root_makes_it_a_table_of_paths(tmp_path):
    put(tmp_path / "photos/a.png", 5)
    path = write_parquet(tmp_path / "t.parquet", [1], path=["a.png"], label=["x"])
    assert planted(ImageSource.open(path), 0) == 1
    source = ImageSource.open(path, root=tmp_path / "photos")
    assert (planted(source, 0), source.columns) == (5, {"label": ["x"]})


def test_a_label_table_leaves_its_images_out_unread(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "t.parquet", [struct(1), struct(2)], id=["a", "b"], label=["x", "y"])
    asked, right = [], parquet.ParquetFile.read
    monkeypatch.setattr(parquet.ParquetFile, "read", lambda self, **how: asked.append(how) or right(self, **how))
    assert read_text_table(path) == {"id": ["a", "b"], "label": ["x", "y"]}
    assert asked == [{"columns": ["id", "label"]}]
    write_parquet(path, [1, 2])
    with pytest.raises(Exception, match="column 'image' holds binary, expected text or numbers"):
        read_text_table(path)


def test_a_table_without_rows_and_one_that_is_damaged_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"image": pa.array([], pa.binary())}), path)
    assert refused(path).message == f"{path}: expected a table with rows, got none"
    data = write_parquet(path, [1, 2]).read_bytes()
    path.write_bytes(data[:-20])
    assert refused(path).message.startswith(f"{path}: not a Parquet file that can be read: ")


def test_a_cell_without_bytes_has_its_reason(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", [struct(None, "a"), struct(1, "b"), None, struct(2, "d")])
    source = ImageSource.open(path)
    assert [planted(source, row) for row in (1, 3)] == [1, 2]
    assert why(source, 0) == why(source, 2) == SkipReason.NO_BYTES
    source = ImageSource.open(write_parquet(path, [1, b"", b"no image"]))
    assert why(source, 1) == SkipReason.EMPTY
    assert why(source, 2) == SkipReason.NOT_AN_IMAGE


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch) -> list[int]:
    """Return the row groups that are read from now on."""
    groups, right = [], parquet_room.ParquetReader._load
    monkeypatch.setattr(
        parquet_room.ParquetReader, "_load", lambda self, group: groups.append(group) or right(self, group)
    )
    return groups


@pytest.fixture
def shuffled(tmp_path) -> Path:
    """Return 200 images in 10 row groups, whose ids are in no order."""
    ids = np.random.default_rng(0).permutation(200)
    return write_parquet(tmp_path / "t.parquet", ids.tolist(), rows=20, id=[f"{number:03d}" for number in ids])


def test_shuffled_ids_are_read_in_the_order_of_the_file_each_row_group_once(shuffled, loads):
    source = ImageSource.open(shuffled)
    assert source.ids == [f"{number:03d}" for number in range(200)]
    for row in source.reading_order(range(200)):
        assert planted(source, row) == row
    assert loads == list(range(10))


def test_row_groups_are_held_while_there_is_room_and_two_in_any_case(shuffled, loads, monkeypatch):
    source = ImageSource.open(shuffled)
    rows = source.reading_order(range(200))[::20]  # the first of each row group
    for _ in range(2):
        for row in rows:
            planted(source, row)
    assert loads == list(range(10))  # ten small ones
    monkeypatch.setattr(parquet_room, "KEPT_BYTES", 1)
    monkeypatch.setattr(parquet_room, "_kept", parquet_room._RowGroups())
    loads.clear()
    for group in (0, 1, 0, 1, 2, 1, 0):
        planted(source, rows[group])
    assert loads == [0, 1, 2, 0]
    assert len(parquet_room._kept._groups) == 2


def test_row_groups_that_are_too_large_are_named(shuffled, monkeypatch):
    monkeypatch.setattr(parquet_room, "LARGE_GROUP", 100)
    (note,) = ImageSource.open(shuffled).notes
    assert note.startswith(f"{shuffled}: row groups of up to 0.0 GB are held in memory whole")


def test_eight_threads_read_their_own_images_and_each_row_group_once(shuffled, loads):
    source = ImageSource.open(shuffled)
    rows = source.reading_order(range(200)).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: planted(source, row), rows)) == rows
    assert sorted(loads) == list(range(10))


def test_a_row_group_that_cannot_be_read_is_tried_again(shuffled, monkeypatch):
    source, right = ImageSource.open(shuffled), parquet_room.ParquetReader._load
    everyone = threading.Barrier(4)

    def failing(self, group):
        raise OSError("the disk is asleep")

    def ask(row: int) -> SkipReason:
        everyone.wait()
        return why(source, row)

    monkeypatch.setattr(parquet_room.ParquetReader, "_load", failing)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, [5] * 4)) == {SkipReason.UNREADABLE}
    monkeypatch.setattr(parquet_room.ParquetReader, "_load", right)
    assert planted(source, 5) == 5


def test_a_part_is_small_to_pickle_and_reads_the_same(shuffled):
    part = pickle.loads(pickle.dumps(ImageSource.open(shuffled).take([3, 150, 7])))
    assert part.ids == ["003", "007", "150"]
    assert [planted(part, row) for row in range(3)] == [3, 7, 150]
    assert len(pickle.dumps(part)) < 2000


def test_a_table_that_changed_after_it_was_listed_is_not_read(shuffled):
    source = ImageSource.open(shuffled)
    os.utime(shuffled, ns=(1, 1))
    assert why(source, 0) == SkipReason.UNREADABLE
    shuffled.unlink()
    assert why(source, 0) == SkipReason.MISSING


# --- extraction -------------------------------------------------------------------------------------------------------


def test_a_table_is_inferred_once_each_row_group_read_once_and_again_for_no_new_time(tmp_path, monkeypatch, loads):
    import pipeline.extraction.encoder as network_room

    network = Planted()
    monkeypatch.setattr(network_room, "open_runtime", network)
    extractor = Extractor(network, tmp_path / "caches")
    root = folder_of(tmp_path / "photos", range(40))
    files = np.random.default_rng(1).permutation(sorted(root.rglob("*.png"))).tolist()
    path = write_parquet(
        tmp_path / "t.parquet",
        [file.read_bytes() for file in files],
        rows=8,
        id=[file.relative_to(root).as_posix() for file in files],
        label=[file.parent.name for file in files],
    )
    cache = extractor(path, n_jobs=1)
    assert_planted(cache)
    assert cache.columns["label"] == [file.parent.name for file in files]  # in the order of the table
    assert cache.base.columns["label"] == ["c0"] * 20 + ["c1"] * 20
    assert loads == list(range(5))
    assert extractor(path).path == cache.path
    assert extractor.network.seen == []
    touch(path)
    assert_planted(extractor(path))
    assert extractor.network.seen == []
    assert_planted(extractor(root))  # the digests are the files'
    assert extractor.network.seen == []


def test_a_damaged_page_is_an_error_of_ours_and_not_of_arrows(tmp_path):
    path = write_parquet(tmp_path / "x.parquet", [1, 2], name=["a", "b"])
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes([content[4] ^ 0xFF]) + content[5:])  # the header of the first page
    with pytest.raises(SourceError, match=r"x\.parquet: not a Parquet file that can be read: ") as caught:
        ImageSource.open(path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("what", [b"plain", b"colour"])
def test_text_that_is_none_is_refused_in_names_and_in_cells(tmp_path, what):
    path = write_parquet(tmp_path / "x.parquet", [1, 2], colour=["plain", "plain"])
    path.write_bytes(path.read_bytes().replace(what, b"\x9c" + what[1:]))
    for read in (ImageSource.open, read_text_table):
        with pytest.raises(SourceError, match=r"x\.parquet: not a Parquet file that can be read: ") as caught:
            read(path)
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("more", [{}, {"colour": ["red", "blue"]}])
def test_a_table_that_says_it_has_more_rows_than_it_has_is_refused(tmp_path, more):
    path = write_parquet(tmp_path / "x.parquet", [1, 2], **more)
    content = path.read_bytes()
    two, three = b"\x16\x04\x19", b"\x16\x06\x19"  # the number of rows in the footer, before the list of row groups
    assert content.count(two) == 1
    path.write_bytes(content.replace(two, three))
    with pytest.raises(SourceError, match="expected as many rows as it says it has, 3, got others"):
        ImageSource.open(path)
