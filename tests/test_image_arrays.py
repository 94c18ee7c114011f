"""Rows of an array are images, in memory and in files, and nothing in a file is ever unpickled."""

from __future__ import annotations

import pickle
import threading
import zipfile

import numpy as np
import pytest
from test_images import planted, put, refused, why

from pipeline.errors import SkipReason
from pipeline.images import ImageSource


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 3), (5, 6, 7, 4)])
def test_an_array_gives_its_rows(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = ImageSource.open(images)
    assert source.ids == ["000000", "000001", "000002", "000003", "000004"]
    for row in range(5):
        found = np.asarray(source.read(row).pixels())
        if shape[-1] == 4:
            alpha = images[row, ..., 3:] / 255
            assert np.abs(found - (images[row, ..., :3] * alpha + 255 * (1 - alpha))).max() <= 0.51
        else:
            assert np.array_equal(found, np.broadcast_to(images[row].reshape(6, 7, -1), (6, 7, 3)))
    photo = source.read(2)
    assert (
        source.stat[2].tolist()
        == list(photo.stat)
        == [
            images[2].nbytes,
            int.from_bytes(photo.digest[:8], "little", signed=True),
        ]
    )
    part = source.take([1, 4])
    assert part.read(1).digest == source.read(4).digest
    assert part.read(1).digest != source.read(3).digest


def test_an_edited_array_is_another_place_and_one_row_another_digest():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    before = ImageSource.open(images)
    edited = images.copy()
    edited[2, 0, 0, 0] = 1
    after = ImageSource.open(edited)
    assert before.place != after.place
    assert [before.read(row).digest == after.read(row).digest for row in range(4)] == [True, True, False, True]
    flat = ImageSource.open(np.zeros((4, 64, 3), np.uint8)[:, :, :, None].repeat(3, 3))
    assert flat.read(0).digest != before.read(0).digest  # the same bytes in another shape are another image


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8)), "this array: expected images of uint8 (0 to 255), got float64 (2, 8, 8)"),
        (np.zeros((8, 8, 3), np.uint8), "got uint8 (8, 8, 3), which looks like one photo"),
        (np.zeros((2, 3, 8, 8), np.uint8), "got uint8 (2, 3, 8, 8), with the channels first"),
        (np.zeros((2, 8, 8, 5), np.uint8), "got uint8 (2, 8, 8, 5)"),
        (np.zeros((8, 8), np.uint8), "got uint8 (8, 8)"),
        (np.zeros((0, 8, 8), np.uint8), "got uint8 (0, 8, 8), which holds none"),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(images, message):
    error = refused(images)
    assert error.message.endswith(message)
    assert error.next_step


def test_a_long_or_thin_array_has_its_reason():
    assert why(ImageSource.open(np.zeros((1, 2, 101), np.uint8)), 0) == SkipReason.TOO_LONG


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_gives_images_labels_and_ids(tmp_path, save):
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)
    labels, weights = np.array(["a", " b", "nan"] * 4), np.array([0.5, 1, np.nan] * 4, np.float32)
    ids = np.array([f"x{11 - row:02d}" for row in range(12)])
    save(tmp_path / "set.npz", images=images, labels=labels, ids=ids, weights=weights, mean=np.zeros(3))
    source = ImageSource.open(tmp_path / "set.npz")
    assert source.ids == sorted(ids)
    assert source.columns == {"label": ([None, "b", "a"] * 4), "weights": ([None, "1", "0.5"] * 4)}
    assert source.name == "set"
    status = (tmp_path / "set.npz").stat()
    assert source.stat.tolist() == [[status.st_size, status.st_mtime_ns]] * 12
    for row in range(12):
        assert np.array_equal(np.asarray(source.read(row).pixels()), images[11 - row])
    in_memory = ImageSource.open(images)
    assert source.read(0).digest == in_memory.read(11).digest
    part = pickle.loads(pickle.dumps(source.take([3, 5])))
    assert np.array_equal(np.asarray(part.read(1).pixels()), images[6])
    assert len(pickle.dumps(part)) < 2000


def test_fortran_order_and_npy_files_are_mapped(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (3, 5, 6), dtype=np.uint8)
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(images), y=np.arange(3))
    np.save(tmp_path / "g.npy", images)
    for name in ("f.npz", "g.npy"):
        source = ImageSource.open(tmp_path / name)
        assert np.array_equal(np.asarray(source.read(2).pixels())[..., 1], images[2])
    assert ImageSource.open(tmp_path / "f.npz").columns == {"label": ["0", "1", "2"]}


def test_the_only_array_of_images_is_taken_and_two_are_refused(tmp_path):
    images = np.zeros((3, 5, 6), np.uint8)
    np.savez(tmp_path / "one.npz", pictures=images, more=np.zeros((3, 2)))
    assert len(ImageSource.open(tmp_path / "one.npz")) == 3
    np.savez(tmp_path / "two.npz", a=images, b=images)
    assert "got a uint8 (3, 5, 6), b uint8 (3, 5, 6)" in refused(tmp_path / "two.npz").message
    np.savez(tmp_path / "real.npz", images=images / 255)
    assert (
        "real.npz: images: expected images of uint8 (0 to 255), got float64" in refused(tmp_path / "real.npz").message
    )


def test_nothing_is_ever_unpickled(tmp_path):
    images, objects = np.zeros((3, 5, 6), np.uint8), np.array(["a", "b", None], dtype=object)
    np.savez(tmp_path / "o.npz", images=images, labels=objects)
    error = refused(tmp_path / "o.npz")
    assert "never unpickled" in error.message or "allow_pickle=False" in error.message


def test_a_damaged_npz_and_ids_that_repeat_are_refused(tmp_path):
    put(tmp_path / "bad.npz", b"PK rubbish")
    assert "bad.npz: expected a NumPy file of arrays, cannot read it" in refused(tmp_path / "bad.npz").message
    np.savez(tmp_path / "twice.npz", images=np.zeros((2, 5, 6), np.uint8), ids=np.array(["a", "a"]))
    assert "ids[1] 'a' occurs twice" in refused(tmp_path / "twice.npz").message


def with_header(header: bytes, version: tuple[int, int] = (1, 0), data: bytes = bytes(400)) -> bytes:
    """Return a .npy file with this header, as bytes."""
    length = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + header + data


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("header", "version", "why"),
    [
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 5, 6), }", (1, 0), "expected a shape of whole num"),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, -5, 6), }", (2, 0), "got (2, -5, 6)"),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 5, 6", (1, 0), ""),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 5, 6), ", (1, 0), ""),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 5, 6), }", (1, 0), ""),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (10**9, 5, 6), }", (1, 0), ""),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 5, 6), }", (1, 0), "30,000,000,000 bytes"),
        (b"{'descr': '|u1', 'fortran_order': False, 'shape': (9" + b"9" * 40 + b", 5, 6), }", (1, 0), " bytes for "),
        (b"{'descr': 'junk', 'fortran_order': False, 'shape': (3, 5, 6), }", (1, 0), ""),
        (b"{'descr': ['|u1', 'fortran_order': False, 'shape': (3, 5, 6), }", (1, 0), ""),
        (b"(" * 3000, (1, 0), ""),
        (b'"""', (1, 0), ""),
        (b"\xff\0{}", (1, 0), ""),
        (b"", (1, 0), ""),
        (b"{}", (3, 0), "expected an array of format 1.0 or 2.0, got 3.0"),
        (b"{}", (9, 0), "expected an array of format 1.0 or 2.0, got 9.0"),
    ],
)
def test_a_damaged_header_is_refused_in_words(tmp_path, header, version, why, inside):
    data = with_header(header, version)
    path = tmp_path / ("x.npz" if inside else "x.npy")
    if inside:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", data)
    else:
        path.write_bytes(data)
    error = refused(path)
    assert error.message.startswith(f"{path}: expected a NumPy file of arrays, cannot read it: ")
    assert why in error.message
    assert error.next_step == "write it with numpy.savez(path, images=..., labels=...)"


def test_an_npz_that_changed_after_it_was_listed_is_not_read(tmp_path):
    np.savez(tmp_path / "s.npz", images=np.zeros((2, 5, 6), np.uint8))
    source = ImageSource.open(tmp_path / "s.npz")
    np.savez(tmp_path / "s.npz", images=np.ones((2, 5, 7), np.uint8))
    assert why(source, 0) == SkipReason.UNREADABLE


def test_many_threads_load_a_compressed_array_once(tmp_path, monkeypatch):
    from pipeline.images import arrays

    np.savez_compressed(tmp_path / "s.npz", images=np.arange(600, dtype=np.uint8).reshape(20, 5, 6))
    source, loads, right = ImageSource.open(tmp_path / "s.npz"), [], arrays._load
    monkeypatch.setattr(arrays, "_load", lambda *names: loads.append(names) or right(*names))
    threads = [threading.Thread(target=source.read, args=(row,)) for row in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("x_train", "y_train", "x_test", "y_test"), ("train", "test")),
        (
            ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
            ("train", "val", "test"),
        ),
    ],
)
def test_arrays_of_the_parts_of_a_split_are_one_source(tmp_path, names, parts):
    """As tf.keras.datasets and MedMNIST save them: labels (n,) or (n, 1), one pair of arrays per part."""
    arrays = {}
    for at in range(len(parts)):
        images, labels = names[2 * at], names[2 * at + 1]
        arrays[images] = np.full((at + 2, 5, 6), 10 * at, np.uint8) + np.arange(at + 2, dtype=np.uint8)[:, None, None]
        arrays[labels] = np.arange(at + 2)[:, None] + 7 if len(parts) == 3 else np.arange(at + 2) + 7
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    source = ImageSource.open(tmp_path / "set.npz")
    expected = sorted(
        (f"{part}/{row:06d}", part, str(row + 7), 10 * at + row)
        for at, part in enumerate(parts)
        for row in range(at + 2)
    )
    assert source.ids == [image_id for image_id, *_ in expected]
    assert source.columns == {
        "split": [part for _, part, *_ in expected],
        "label": [label for _, _, label, _ in expected],
    }
    assert [planted(source, row) for row in range(len(source))] == [value for *_, value in expected]
    assert (source.kinds, source.reader.encoded) == ({"label": "class"}, False)
    assert source.notes == [f"{tmp_path}/set.npz: {', '.join(sorted(parts))} are read as a fixed split"]
    assert planted(source.take([1, 3]), 1) == expected[3][-1]


def test_tags_of_several_columns_and_one_hot_labels(tmp_path):
    images = np.zeros((3, 5, 6), np.uint8)
    np.savez(tmp_path / "tags.npz", images=images, labels=np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]))
    source = ImageSource.open(tmp_path / "tags.npz")
    assert (source.columns, source.kinds) == ({"label": ["0; 2", ";", "1"]}, {"label": "multi"})
    np.savez(tmp_path / "hot.npz", images=images, y=np.eye(3)[[2, 0, 1]])
    source = ImageSource.open(tmp_path / "hot.npz")
    assert (source.columns, source.kinds) == ({"label": ["2", "0", "1"]}, {"label": "class"})
    np.savez(tmp_path / "boxes.npz", images=images, y=np.arange(12).reshape(3, 4))
    source = ImageSource.open(tmp_path / "boxes.npz")
    assert source.columns == {}
    assert "expected one label per image, or columns of 0 and 1, got int64 (3, 4)" in source.notes[0]
    np.savez(tmp_path / "short.npz", x_train=images, y_train=np.arange(2), x_test=images, y_test=np.arange(3))
    assert "y_train: expected 3 labels, one per image, got the shape (2,)" in refused(tmp_path / "short.npz").message


def test_rows_of_cifar_are_images_with_the_channels_first(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    rows = images.transpose(0, 3, 1, 2).reshape(4, 3072)
    np.savez(tmp_path / "batch.npz", data=rows, fine_labels=[30, 2, 99, 2], coarse_labels=[1, 0, 3, 0])
    source = ImageSource.open(tmp_path / "batch.npz")
    assert source.columns == {"label": ["30", "2", "99", "2"], "coarse_labels": ["1", "0", "3", "0"]}
    for row in range(4):
        assert np.array_equal(np.asarray(source.read(row).pixels()), images[row])
    assert source.read(1).digest == ImageSource.open(images).read(1).digest
    assert source.notes == [
        f"{tmp_path}/batch.npz: data: rows of numbers are read as images of 32 x 32, 3 channels, channels first"
    ]
