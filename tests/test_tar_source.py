"""A tar is a source: each image under its path, with what its neighbours say of it, or an error with the byte."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from fake_backbone import Extractor, Planted, assert_planted, folder_of, photo, put, touch
from hypothesis import given, settings
from hypothesis import strategies as st
from tars import BLOCK, header, with_checksum, write_tar
from test_images import on_posix, photo_bytes, planted, refused, why

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images import ImageSource
from pipeline.images import tar as tar_room
from pipeline.images.listing import name_trouble

# --- what is in it ----------------------------------------------------------------------------------------------------


def test_members_are_images_under_their_sorted_paths_with_the_bytes_of_the_files(tmp_path):
    folder_of(tmp_path / "photos", range(6))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("c1", "c0"):
            tar.add(tmp_path / "photos" / name, arcname=f"./{name}")
    source, folder = ImageSource.open(tmp_path / "x.tar"), ImageSource.open(tmp_path / "photos")
    assert source.ids == folder.ids
    assert source.columns == folder.columns == {"label": ["c0"] * 3 + ["c1"] * 3}
    for row in range(6):
        assert source.read(row).digest == folder.read(row).digest
        assert np.array_equal(np.asarray(source.read(row).pixels()), np.asarray(folder.read(row).pixels()))
    found = (tmp_path / "x.tar").stat()
    assert source.stat.tolist() == [[found.st_size, found.st_mtime_ns]] * 6
    assert source.read(3).stat == (found.st_size, found.st_mtime_ns)
    assert (source.name, source.place) == ("x", (tmp_path / "x.tar").resolve().as_posix())
    assert source.skipped == source.notes == []


def test_members_of_one_key_belong_together(tmp_path):
    path = write_tar(
        tmp_path / "w.tar",
        [
            ("b/02.json", '{"who": " Zoë ", "size": 3, "part": 0.50, "whole": 2.0, "new": true, "none": null}'),
            ("b/02.cls", "bee\n"),
            ("b/02.left.jpg", 2),
            ("b/02.right.JPG", 3),
            ("a.b/01.png", 1),
            ("a.b/01.cls", " 007 "),
            ("a.b/01.txt", "an ant,\non a leaf"),
            ("c/03.png", 4),
            ("c/03.cls", "NA"),
        ],
    )
    source = ImageSource.open(path)
    assert source.ids == ["a.b/01.png", "b/02.left.jpg", "b/02.right.JPG", "c/03.png"]
    assert source.columns == {
        "label": ["007", "bee", "bee", None],
        "text": ["an ant,\non a leaf", None, None, None],
        "who": [None, "Zoë", "Zoë", None],
        "size": [None, "3", "3", None],
        "part": [None, "0.5", "0.5", None],
        "whole": [None, "2", "2", None],
        "new": [None, "true", "true", None],
        "none": [None, None, None, None],
    }
    assert [planted(source, row) for row in range(4)] == [1, 2, 3, 4]
    part = source.take([1, 3])
    assert part.columns["label"] == ["bee", None]
    assert [planted(part, row) for row in range(2)] == [2, 4]


def test_fields_that_are_no_text_or_said_twice_are_left_out_and_named(tmp_path):
    path = write_tar(
        tmp_path / "w.tar", [("1.png", 1), ("1.cls", "a"), ("1.json", '{"label": "b", "box": [1, 2], "ok": "x"}')]
    )
    source = ImageSource.open(path)
    assert source.columns == {"label": ["a"], "ok": ["x"]}
    assert source.notes == [
        f"{path}: the JSON field 'box' is left out: it holds a list or an object",
        f"{path}: the JSON field 'label' is left out: the .cls members say it",
    ]
    many = "{" + ", ".join(f'"f{at}": 1' for at in range(300)) + "}"
    source = ImageSource.open(write_tar(path, [("1.png", 1), ("1.json", many)]))
    assert len(source.columns) == 256
    assert source.notes[0] == f"{path}: the JSON field 'f256' is left out: there are more than 256 fields"


def test_a_sidecar_that_cannot_be_read_is_named_and_says_nothing(tmp_path):
    path = write_tar(
        tmp_path / "w.tar",
        [
            *[(f"{at}.png", at) for at in range(5)],
            ("0.json", "{no"),
            ("1.json", "[1]"),
            ("2.cls", b"\xff"),
            ("3.txt", b"x" * (1 << 20) + b"x"),
            ("4.json", "[" * 100_000),
        ],
    )
    source = ImageSource.open(path)
    assert len(source) == 5
    assert source.columns == {"label": [None] * 5}
    reasons = dict(source.skipped)
    assert reasons["0.json"].startswith("no JSON: Expecting property name")
    assert reasons["1.json"] == "its JSON is no object of names and values"
    assert reasons["2.cls"] == "not UTF-8"
    assert reasons["3.txt"] == "1.0 MB"
    assert reasons["4.json"].startswith("no JSON: ")
    assert source.notes == [f"{path}: 0.json is not read: {reasons['0.json']} (and 4 more such)"]


WRAPPED = "x.tar: the label is the folder at level 2 (2 classes: ants and bees); other levels, e.g. 1: photos: "


@pytest.mark.parametrize(
    ("names", "columns", "note"),
    [
        (["ants/1.png", "bees/2.png"], {"label": ["ants", "bees"]}, None),
        (["photos/ants/1.png", "photos/bees/2.png"], {"label": ["ants", "bees"]}, WRAPPED),
        (["./photos/ants/1.png", "photos/bees//2.png"], {"label": ["ants", "bees"]}, WRAPPED),
        (["ants/deep/1.png", "ants/2.png"], {"label": ["ants", "ants"]}, "x.tar: the label is the folder at level 1"),
        (["1.png", "2.png"], {}, None),
        (
            ["p/train/ants/1.png", "p/val/ants/2.png"],
            {"split": ["train", "val"], "label": ["ants", "ants"]},
            "x.tar/p holds train and val: read as a fixed split, not as classes",
        ),
        (["train/ants/1.png", "train/bees/2.png"], {"label": ["ants", "bees"]}, "x.tar holds train alone: read as a "),
        (["ants/1.png", "2.png"], {"label": [None, "ants"]}, "1 images lie in x.tar itself, in no class folder"),
    ],
)
def test_folders_label_as_they_do_on_disk(tmp_path, monkeypatch, names, columns, note):
    monkeypatch.chdir(tmp_path)
    write_tar(Path("x.tar"), [(name, at) for at, name in enumerate(names)])
    source = ImageSource.open("x.tar")
    assert source.columns == columns
    assert [text[: len(note or "")] for text in source.notes] == ([note] if note else [])


def test_where_members_say_the_label_folders_say_the_split_alone(tmp_path):
    path = write_tar(
        tmp_path / "x.tar", [("train/1.png", 1), ("val/2.png", 2), ("train/1.cls", "a"), ("val/2.cls", "b")]
    )
    source = ImageSource.open(path)
    assert source.columns == {"label": ["a", "b"], "split": ["train", "val"]}
    source = ImageSource.open(write_tar(path, [("x/1.png", 1), ("x/1.cls", "a"), ("y/2.png", 2)]))
    assert source.columns == {"label": ["a", None]}


def test_folders_without_images_are_no_mistake_in_a_tar(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("wasps", header(tarfile.DIRTYPE)), ("ants/1.png", 1), ("notes/a.md", "x")])
    assert ImageSource.open(path).columns == {"label": ["ants"]}


def test_first_bytes_make_an_image_where_the_ending_does_not(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("scan", 5),
            ("a.txt", photo_bytes(6, "JPEG")),
            ("b.bin", b"no"),
            ("empty.png", b""),
            ("raw.NEF", b"II*\0" * 9),
        ],
    )
    source = ImageSource.open(path)
    assert source.ids == ["a.txt", "empty.png", "scan"]
    assert [planted(source, row) for row in (0, 2)] == [6, 5]
    assert why(source, 1) == SkipReason.EMPTY
    assert source.skipped == [("raw.NEF", "a camera's raw file, which is not read: export it as JPEG or TIFF")]


def test_what_is_no_regular_file_is_no_image_and_hidden_files_are_passed_by(tmp_path):
    path = write_tar(
        tmp_path / "x.tar",
        [
            ("a.png", 1),
            ("hard.png", header(tarfile.LNKTYPE, "a.png")),
            ("soft.png", header(tarfile.SYMTYPE, "/etc/passwd")),
            ("soft.md", header(tarfile.SYMTYPE, "a.png")),
            ("pipe.png", header(tarfile.FIFOTYPE)),
            ("disk.png", header(tarfile.BLKTYPE)),
            ("folder.png", header(tarfile.DIRTYPE)),
            ("holes.png", header(tarfile.GNUTYPE_SPARSE)),
            ("newer.png", header(tarfile.REGTYPE, GNU_sparse_major="1")),
            ("odd.png", header(b"Z")),
            ("._a.png", 2),
            (".hidden/b.png", 3),
            ("__MACOSX/c.png", 4),
            ("@eaDir/d.png", 5),
        ],
    )
    source = ImageSource.open(path)
    assert source.ids == ["a.png"]
    assert source.skipped == [
        ("disk.png", "not a regular file"),
        ("hard.png", "a link to another member, which is not followed"),
        ("holes.png", "a file with holes, which is not read: make the tar without --sparse"),
        ("newer.png", "a file with holes, which is not read: make the tar without --sparse"),
        ("odd.png", "a member of an unknown kind"),
        ("pipe.png", "not a regular file"),
        ("soft.png", "a link to another member, which is not followed"),
    ]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown", "reason"),
    [
        ("/etc/a.png", "/etc/a.png", "its name is an absolute path"),
        ("C:\\a.png", "C:\\a.png", "its name is an absolute path"),
        ("c:/a.png", "c:/a.png", "its name is an absolute path"),
        ("../a.png", "../a.png", "its name leads out of the tar"),
        ("x/../../a.png", "x/../../a.png", "its name leads out of the tar"),
        ("x\\..\\..\\a.png", "x\\..\\..\\a.png", "its name leads out of the tar"),
        ("a\nb.png", "a\\x0ab.png", "its name holds a control character or a line break"),
        ("a\x1b[2Jb.png", "a\\x1b[2Jb.png", "its name holds a control character or a line break"),
        ("a\x85b.png", "a\\x85b.png", "its name holds a control character or a line break"),
        ("a\udcffb.png", "a\\xffb.png", "its name is not UTF-8"),
        ("..", "..", "its name leads out of the tar"),
        (".", ".", "it has no name"),
    ],
)
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_hostile_names_are_never_ids_and_are_named(tmp_path, name, shown, reason, format):
    path = write_tar(tmp_path / "x.tar", [("good.png", 1), (name, 2)], format)
    source = ImageSource.open(path)
    assert source.ids == ["good.png"]
    assert source.skipped == [(shown, reason)]


def test_a_nul_in_an_extended_name_is_a_control_character(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("good.png", 1), ("b.png", header(tarfile.REGTYPE, path="a\0b.png"))])
    source = ImageSource.open(path)
    assert source.ids == ["good.png"]
    assert source.skipped == [("a\\x00b.png", "its name holds a control character or a line break")]


pieces = st.sampled_from([*"abé/.\\\n\x1b:~ ", "\udcff", "../", "./", "n" * 90])
names = st.lists(pieces, min_size=1, max_size=8).map("".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(names, max_size=6), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_whatever_the_names_every_id_is_safe_and_reads_its_own_bytes(tmp_path_factory, given, format):
    path = tmp_path_factory.mktemp("names") / "x.tar"
    members = [("0.png", 0), *((f"{name}{at}.png", at) for at, name in enumerate(given, 1))]
    write_tar(path, members, format)
    source = ImageSource.open(path)
    for row, image_id in enumerate(source.ids):
        assert name_trouble(image_id) is None
        assert not image_id.startswith("/") and ".." not in image_id.replace("\\", "/").split("/")
        assert planted(source, row) == int(image_id.removesuffix(".png")[-1])
    assert len(source) + len(source.skipped) <= len(members)


def test_two_members_of_one_name_are_refused(tmp_path):
    for one, other in (("a/1.png", "a/1.png"), ("a/1.png", "./a//1.png")):
        path = write_tar(tmp_path / "x.tar", [(one, 1), ("b.png", 2), (other, 3)])
        error = refused(path)
        assert error.message == f"{path}: two members are called a/1.png, of which tar keeps the last"
        assert error.next_step == "make the tar again, with each image under a name of its own"
    for kind in ("cls", "txt", "json"):
        path = write_tar(tmp_path / "x.tar", [("1.png", 1), (f"1.{kind}", "{}"), (f"1.{kind}", "{}")])
        assert f"two members are called 1.{kind}" in refused(path).message


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_lists_what_tarfile_lists(tmp_path, format):
    long = "/".join(["folder" * 8] * 3)  # longer than the 100 bytes of the first field
    names = ["short.png", f"{long}/a.png", f"{long}/Größe.png", "Größe 2.png", "x" * 90 + ".png"]
    path = write_tar(tmp_path / "x.tar", [(name, at) for at, name in enumerate(names)], format)
    source = ImageSource.open(path)
    with tarfile.open(path) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    assert source.ids == sorted(content) == sorted(names)
    for row, name in enumerate(source.ids):
        assert source.read(row).digest == blake2b(content[name], digest_size=16).digest()
        assert planted(source, row) == names.index(name)


def test_a_size_in_base_256_is_understood(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a.png", 1), ("b.png", 2)], tarfile.USTAR_FORMAT)
    data = path.read_bytes()
    size = int(data[124:135], 8)
    path.write_bytes(with_checksum(data[:124] + b"\x80" + size.to_bytes(11, "big") + data[136:BLOCK]) + data[BLOCK:])
    assert [planted(ImageSource.open(path), row) for row in range(2)] == [1, 2]


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "x.tar"
    write_tar(path, [(f"{at}.png", at) for at in range(4)] + [("é" * 60 + ".png", 5)])
    return path.read_bytes()


def _end(data: bytes) -> int:
    """Return where the mark of the end stands."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[-1]
    return last.offset_data + -(-last.size // BLOCK) * BLOCK


def _cut(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_tar_cut_anywhere_is_refused_or_says_that_its_end_is_missing(tmp_path, whole):
    end = _end(whole)
    path = tmp_path / "x.tar"
    for size in range(0, end + 1, 128):
        _cut(path, whole[:size])
        try:
            source = ImageSource.open(path)
        except SourceError as error:
            assert error.message.startswith(f"{path}: ")
            assert "is cut short" in error.message or "empty file" in error.message or "no image" in error.message
            assert error.next_step
            continue
        assert source.notes == [
            f"{path}: ends at byte {size:,} without the mark of its end: it may have been cut short"
        ]
        assert [planted(source, row) for row in range(len(source))] == [0, 1, 2, 3, 5][: len(source)]


def test_the_error_names_the_byte(tmp_path, whole):
    path = tmp_path / "x.tar"
    step = f"get or make it again; look: tar tvf {path}"
    second = whole.index(b"1.png\0")
    spoilt = whole[: second + 3] + b"?" + whole[second + 4 :]
    error = refused(_cut(path, spoilt))
    assert error.message == f"{path}: expected a whole tar, this one is damaged at byte {second:,}"
    assert error.next_step == step
    data = second + BLOCK
    error = refused(_cut(path, whole[: data + 10]))
    size = len(photo_bytes(1))
    assert error.message == (
        f"{path}: expected a whole tar, this one is cut short: '1.png' should end at byte {data + size:,}, "
        f"the file ends at byte {data + 10:,}"
    )
    error = refused(_cut(path, whole[: second + 10]))
    assert error.message == f"{path}: expected a whole tar, this one is cut short in the header at byte {second:,}"
    assert refused(_cut(path, b"")).message == f"{path}: expected a whole tar, this one is an empty file"
    assert refused(_cut(path, b"<html>" * 200)).message == (
        f"{path}: expected a whole tar, this one is no tar: it begins with b'<html><html>'"
    )


def test_what_stands_behind_the_end_is_not_left_out_in_silence(tmp_path, whole):
    path = tmp_path / "x.tar"
    end = _end(whole)
    error = refused(_cut(path, whole + whole))
    assert error.message == (
        f"{path}: ends at byte {end:,} of {2 * len(whole):,}, but more stands at byte {len(whole):,}: "
        "a hole in it, or two tars joined"
    )
    second = whole.index(b"1.png\0")
    hole = whole[:second] + bytes(BLOCK) + whole[second + BLOCK :]
    assert f"ends at byte {second:,} of" in refused(_cut(path, hole)).message


def test_extended_headers_that_are_damaged_or_huge_are_refused(tmp_path, whole):
    path = tmp_path / "x.tar"
    at = whole.index(b"path=")
    error = refused(_cut(path, whole[: at - 3] + b"xxx" + whole[at:]))
    assert "an extended header that cannot be read" in error.message
    block = with_checksum(whole[:124] + b"%011o\0" % (1 << 21) + whole[136:156] + b"x" + whole[157:BLOCK])
    error = refused(_cut(path, block + bytes(1 << 21) + whole))
    assert "is damaged at byte 0: an extended header of 2,097,152 bytes" in error.message


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.integers(0, 6000), st.integers(0, 255), min_size=1, max_size=4))
def test_wrong_bytes_are_refused_or_change_an_image_and_nothing_else_breaks(tmp_path_factory, whole, changes):
    data = bytearray(whole)
    for place, value in changes.items():
        data[place] = value
    path = _cut(tmp_path_factory.getbasetemp() / "spoilt.tar", bytes(data))
    try:
        source = ImageSource.open(path)
    except SourceError as error:
        assert error.message.startswith(f"{path}: ") and error.next_step
        return
    for row in range(len(source)):
        with contextlib.suppress(UnreadableImage):
            source.read(row).pixels()


@pytest.mark.parametrize(
    ("name", "head", "step"),
    [
        ("s.tar.gz", b"\x1f\x8b", "gunzip {}"),
        ("s.tgz", b"", "gunzip {}"),
        ("s.TAR.BZ2", b"", "bunzip2 {}"),
        ("s.tar.xz", b"", "unxz {}"),
        ("s.tar.zst", b"", "unzstd {}"),
        ("s.tar", b"\x1f\x8b\x08", "mv {} {}.gz && gunzip {}.gz"),
        ("t.tar", b"\x28\xb5\x2f\xfd", "mv {} {}.zst && unzstd {}.zst"),
    ],
)
def test_a_compressed_tar_is_refused_with_the_way_to_a_plain_one(tmp_path, name, head, step):
    path = _cut(tmp_path / name, head + b"rest")
    error = refused(path)
    assert error.message == (
        f"{path}: expected a plain tar, got a compressed one, in which no image can be reached without all before it"
    )
    assert error.next_step == step.replace("{}", str(path))
    assert str(path) in refused([path, put(tmp_path / "a.png", 1)]).message


def test_a_tar_without_images_says_what_it_holds(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("readme.md", "hello"), ("../a.png", 1)])
    error = refused(path)
    assert error.message == (
        f"{path}: no image in this tar; 1 file ignored: 1 .md, e.g. readme.md; "
        "skipped ../a.png: its name leads out of the tar"
    )
    assert error.next_step == f"see what is in it: tar tf {path}"


@on_posix
def test_a_tar_that_cannot_be_opened_says_why(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", [("a.png", 1)])

    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    error = refused(path)
    assert error.message == f"{path}: cannot read this tar: Permission denied"


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fifty(tmp_path) -> Path:
    return write_tar(tmp_path / "x.tar", [(f"{at:02d}.png", at) for at in reversed(range(50))])


@pytest.mark.parametrize("pread", [True, False])
def test_eight_threads_read_their_own_images(fifty, monkeypatch, pread):
    if not pread:
        monkeypatch.delattr(os, "pread", raising=False)
    source = ImageSource.open(fifty)
    rows = [row for row in range(50) for _ in range(6)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: planted(source, row), rows)) == rows


def test_one_descriptor_serves_a_process_and_closes_when_nobody_holds_it(fifty, monkeypatch):
    source, numbers, right = ImageSource.open(fifty), [], os.open
    tar_room.open_shared.cache_clear()
    monkeypatch.setattr(os, "open", lambda *given: numbers.append(right(*given)) or numbers[-1])
    for row in range(50):
        source.read(row)
    assert len(numbers) == 1
    os.fstat(numbers[0])
    tar_room.open_shared.cache_clear()
    with pytest.raises(OSError):
        os.fstat(numbers[0])


def test_a_part_is_small_to_pickle_and_reads_the_same(fifty):
    source = ImageSource.open(fifty)
    part = pickle.loads(pickle.dumps(source.take([3, 40])))
    assert [planted(part, row) for row in range(2)] == [3, 40]
    assert len(pickle.dumps(part)) < 1500
    assert len(pickle.dumps(source.reader)) < 50 * 16 + 800


def test_images_are_read_in_the_order_in_which_they_lie(fifty):
    source = ImageSource.open(fifty)
    assert source.reading_order(range(50)).tolist() == list(reversed(range(50)))
    assert source.reading_order([7, 9, 8]).tolist() == [9, 8, 7]
    assert source.take([4, 2, 6]).reading_order(range(3)).tolist() == [2, 1, 0]


def test_a_tar_that_changed_after_it_was_listed_is_not_read(fifty):
    source = ImageSource.open(fifty)
    planted(source, 1)
    data = fifty.read_bytes()
    os.utime(fifty, ns=(1, 1))  # the same bytes, in place
    assert why(source, 1) == SkipReason.UNREADABLE
    tar_room.open_shared.cache_clear()
    fifty.unlink()
    assert why(source, 1) == SkipReason.MISSING
    fifty.write_bytes(data[: len(data) // 2])
    assert why(source, 1) == SkipReason.UNREADABLE


def test_a_tar_that_is_written_to_while_it_is_listed_is_refused(fifty, monkeypatch):
    right = tar_room.members

    def growing(*given):
        yield from right(*given)
        touch(fifty)

    monkeypatch.setattr(tar_room, "members", growing)
    assert refused(fifty).message == f"{fifty}: was written to while it was listed"


# --- extraction -------------------------------------------------------------------------------------------------------


@pytest.fixture
def extractor(monkeypatch, tmp_path) -> Extractor:
    import pipeline.extraction.encoder as network_room

    network = Planted()
    monkeypatch.setattr(network_room, "open_runtime", network)
    return Extractor(network, tmp_path / "caches")


def test_a_tar_is_inferred_once_and_again_for_no_new_time_and_no_unpacking(tmp_path, extractor):
    folder_of(tmp_path / "photos", range(12))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "photos", arcname=".")
    cache = extractor(tmp_path / "x.tar")
    assert_planted(cache)
    assert cache.columns["label"] == ["c0"] * 6 + ["c1"] * 6
    assert sorted(extractor.network.seen) == list(range(12))
    assert extractor(tmp_path / "x.tar").path == cache.path
    assert extractor.network.seen == []
    touch(tmp_path / "x.tar")
    assert_planted(extractor(tmp_path / "x.tar"))
    assert extractor.network.seen == []
    assert_planted(extractor(tmp_path / "photos"))  # the digests are the files'
    assert extractor.network.seen == []


def test_an_image_more_in_the_tar_is_inferred_alone(tmp_path, extractor):
    folder_of(tmp_path / "photos", range(4))
    for number in (4, 5):
        photo(number).save(tmp_path / f"{number}.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "photos", arcname=".")
    extractor(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        tar.add(tmp_path / "5.png", arcname="c1/00005.png")
    touch(tmp_path / "x.tar")
    assert_planted(extractor(tmp_path / "x.tar"))
    assert extractor.network.seen == [5]
