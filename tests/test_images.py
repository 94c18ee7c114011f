"""Sources: every image is found once, under its own id, with what the source knows of it, and read whole."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SkipReason, SourceError, UnreadableImage
from pipeline.images import ImageSource
from pipeline.images import folder as folder_room
from pipeline.images import photo as photo_room
from pipeline.images.decode import RAW_ENDINGS

on_posix = pytest.mark.skipif(os.name != "posix", reason="such files exist on POSIX systems alone")


def photo_bytes(value: int = 0, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 3), (value, value, value)).save(file, kind)
    return file.getvalue()


def put(path: Path, data: bytes | int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(photo_bytes(data) if isinstance(data, int) else data)
    return path


def planted(source: ImageSource, row: int) -> int:
    return source.read(row).pixels().getpixel((1, 1))[0]


def refused(data, **options) -> SourceError:
    with pytest.raises(SourceError) as caught:
        ImageSource.open(data, **options)
    return caught.value


def why(source: ImageSource, row: int) -> SkipReason:
    with pytest.raises(UnreadableImage) as caught:
        source.read(row).pixels()
    return caught.value.reason


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_class_folders_are_labels_and_ids_are_relative_sorted_paths(tmp_path):
    for place, name in enumerate(["wasps/x.png", "bees/deep/er/a.jpg", "bees/b.JPEG", "bees/x.png"]):
        put(tmp_path / "my photos" / name, place)
    source = ImageSource.open(tmp_path / "my photos")
    assert source.ids == ["bees/b.JPEG", "bees/deep/er/a.jpg", "bees/x.png", "wasps/x.png"]
    assert source.columns == {"label": ["bees", "bees", "bees", "wasps"]}
    assert [planted(source, row) for row in range(4)] == [2, 1, 3, 0]
    assert source.name == "my_photos"
    assert source.place == (tmp_path / "my photos").resolve().as_posix()
    assert source.skipped == []
    assert source.notes == [
        f"{tmp_path / 'my photos'}: the label is the folder at level 1 (2 classes: bees and wasps); other levels, "
        "e.g. 2: deep, 3: er: choose one with --label-level N"
    ]


def test_stat_is_the_file_s_and_belongs_to_the_digest(tmp_path):
    path = put(tmp_path / "a.png", 7)
    os.utime(path, ns=(1, 1234567890123456789))
    source = ImageSource.open(tmp_path)
    photo = source.read(0)
    assert source.stat.dtype == np.int64
    assert source.stat.tolist() == [[path.stat().st_size, 1234567890123456789]]
    assert photo.stat == tuple(source.stat[0])
    assert photo.digest == blake2b(path.read_bytes(), digest_size=16).digest()
    put(path, 8)  # edited after it was listed: the stat is that of the bytes which were read
    assert source.read(0).stat == (path.stat().st_size, path.stat().st_mtime_ns)
    assert source.read(0).digest == blake2b(photo_bytes(8), digest_size=16).digest()


def test_a_flat_folder_has_no_columns(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "notes").mkdir()
    assert ImageSource.open(tmp_path).columns == {}


def test_train_and_val_are_a_split_and_never_classes(tmp_path):
    for name in ["train/ants/1.png", "train/bees/1.png", "Val/ants/2.png", "Val/bees/2.png"]:
        put(tmp_path / "photos" / name)
    source = ImageSource.open(tmp_path / "photos")
    assert source.ids[0] == "Val/ants/2.png"
    assert source.columns == {
        "split": ["val", "val", "train", "train"],
        "label": ["ants", "bees", "ants", "bees"],
    }
    assert source.notes == [f"{tmp_path / 'photos'} holds Val and train: read as a fixed split, not as classes"]


def test_a_split_without_class_folders_has_no_labels(tmp_path):
    for name in ["train/ants/1.png", "train/bees/1.png", "test/2.png", "test/3.png"]:
        put(tmp_path / name)
    source = ImageSource.open(tmp_path)
    assert source.columns == {"split": ["test", "test", "train", "train"], "label": [None, None, "ants", "bees"]}
    assert source.notes[1] == "2 images lie in no class folder: they have no label"


def test_train_alone_is_no_class_either(tmp_path):
    put(tmp_path / "train/ants/1.png")
    put(tmp_path / "train/bees/1.png")
    source = ImageSource.open(tmp_path)
    assert source.columns == {"label": ["ants", "bees"]}
    assert "holds train alone" in source.notes[0]


def test_train_is_a_class_among_vehicles(tmp_path):
    for name in ["train/1.png", "bus/1.png"]:
        put(tmp_path / name)
    assert ImageSource.open(tmp_path).columns == {"label": ["bus", "train"]}


def test_a_split_beside_classes_is_refused(tmp_path):
    for name in ["train/a/1.png", "val/a/1.png", "more/1.png"]:
        put(tmp_path / name)
    source = ImageSource.open(tmp_path)
    assert source.columns == {}
    assert source.label_error is not None
    assert source.label_error.message == (
        f"{tmp_path}: expected split folders or class folders, got train and val beside more"
    )
    assert source.label_error.next_step == (
        f"move {tmp_path}/more elsewhere or into the split folders, or read all of them as classes: --label-level 1"
    )
    assert ImageSource.open(tmp_path, label_level=1).columns == {"label": ["more", "train", "val"]}


def test_a_folder_without_images_beside_a_split_is_named(tmp_path):
    for name in ["train/a/1.png", "val/a/1.png", "annotations/1.xml"]:
        put(tmp_path / name, b"<xml>" if name.endswith("xml") else 0)
    assert ImageSource.open(tmp_path).notes[1] == "no image in annotations: not used"


def test_images_beside_class_folders_have_no_label_and_are_counted(tmp_path):
    for name in ["ants/1.png", "2.png", "3.png"]:
        put(tmp_path / name)
    source = ImageSource.open(tmp_path)
    assert source.columns == {"label": [None, None, "ants"]}
    assert source.notes == [f"2 images lie in {tmp_path} itself, in no class folder: they have no label"]


def test_an_empty_class_folder_is_refused(tmp_path):
    put(tmp_path / "ants/1.png")
    (tmp_path / "wasps").mkdir()
    error = refused(tmp_path)
    assert error.message == f"{tmp_path}/wasps: an empty class folder: no image in it, beside 1 with images"
    assert error.next_step == "put photos of this class into it, or remove the folder"


def test_an_empty_class_folder_of_a_split_is_refused(tmp_path):
    for name in ["train/a/1.png", "train/b/1.png", "val/a/1.png"]:
        put(tmp_path / name)
    (tmp_path / "val/b").mkdir()
    assert refused(tmp_path).message.startswith(f"{tmp_path}/val/b: an empty class folder: ")


def test_no_image_in_the_folder_is_refused_with_what_is_there(tmp_path):
    put(tmp_path / "readme.txt", b"hello")
    error = refused(tmp_path)
    assert error.message == f"{tmp_path}: no image in this folder; 1 file ignored: 1 .txt, e.g. readme.txt"
    assert error.next_step.startswith("name a folder that holds photos")


def test_a_missing_source_is_refused_with_the_nearest_name(tmp_path):
    put(tmp_path / "photos/a.png")
    error = refused(tmp_path / "phtos")
    assert error.message == f"{tmp_path / 'phtos'}: no such file or folder"
    assert error.next_step == f"did you mean {tmp_path / 'photos'}?"
    assert refused(tmp_path / "nothing" / "like" / "it").next_step == f"see what is there: ls {tmp_path}"
    assert refused("photo-crop").next_step == "did you mean photo-crops?"
    assert str(refused(tmp_path / "phtos")).count("\n") == 1


@on_posix
def test_what_is_no_candidate_is_passed_by_and_named_where_it_matters(tmp_path):
    put(tmp_path / "a.png", 1)
    put(tmp_path / ".hidden.png")
    put(tmp_path / ".hidden/b.png")
    put(tmp_path / "__MACOSX/._a.png")
    put(tmp_path / "folder.png/c.png", 3)
    put(tmp_path / "raw.NEF", b"II*\0" + bytes(40))
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "folder.png/loop").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    with socket.socket(socket.AF_UNIX) as unix:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        unix.bind("sock.png")
        os.chdir(here)
        source = ImageSource.open(tmp_path)
    assert source.ids == ["a.png", "folder.png/c.png", "link.png"]
    assert [planted(source, row) for row in range(3)] == [1, 3, 1]
    assert source.skipped == [
        ("broken.png", "a link to nothing"),
        ("folder.png/loop", "a link to a folder that it lies in itself"),
        ("pipe.jpg", "not a regular file"),
        ("raw.NEF", "a camera's raw file, which is not read: export it as JPEG or TIFF"),
        ("sock.png", "not a regular file"),
    ]
    assert source.ignored.kinds == {"no regular file": 1}
    assert source.ignored.first == "pipe"
    assert "nef" in RAW_ENDINGS


@on_posix
def test_names_that_no_id_can_hold_are_listed_skips(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "Größe 1.png")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.png")).write_bytes(photo_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    put(tmp_path / "c\n.png")
    put(tmp_path / os.fsdecode(b"d\xfe") / "e.png")
    source = ImageSource.open(tmp_path)
    assert source.ids == ["Größe 1.png", "a.png"]
    assert source.skipped == [
        ("b\\xff.png", "its name is not UTF-8"),
        ("c\\x0a.png", "its name holds a control character or a line break"),
        ("d\\xfe", "its name is not UTF-8"),
    ]


def test_first_bytes_make_a_candidate_where_the_ending_does_not(tmp_path):
    put(tmp_path / "scan", 5)
    put(tmp_path / "photo.txt", photo_bytes(6, "JPEG"))
    put(tmp_path / "notes.txt", b"not one")
    put(tmp_path / "empty", b"")
    source = ImageSource.open(tmp_path)
    assert source.ids == ["photo.txt", "scan"]
    assert [planted(source, row) for row in range(2)] == [6, 5]


def test_a_file_the_cache_knows_is_not_opened_again(tmp_path, monkeypatch):
    for name in ["a.png", "deep/scan", "other"]:
        put(tmp_path / name)
    put(tmp_path / "a.txt", b"text")
    opened, asked = [], []
    right = folder_room._head
    monkeypatch.setattr(folder_room, "_head", lambda path: opened.append(Path(path).name) or right(path))

    def known() -> set[str]:
        asked.append(1)
        return {"deep/scan", "a.png"}

    assert ImageSource.open(tmp_path, known=known).ids == ["a.png", "deep/scan", "other"]
    assert sorted(opened) == ["a.txt", "other"]
    assert asked == [1]
    (tmp_path / "a.txt").unlink(), (tmp_path / "other").unlink(), (tmp_path / "deep/scan").unlink()
    (tmp_path / "deep").rmdir()
    ImageSource.open(tmp_path, known=known)
    assert asked == [1]  # every name was an image's, so nobody was asked


@settings(max_examples=25, deadline=None)
@given(st.sets(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12), max_size=8))
def test_any_name_is_an_id_or_a_named_skip_or_hidden(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("names")
    put(root / "always.png")
    made = {"always.png"}
    for name in names:
        name = name.strip(".")[:12] + ".png"
        if len(name.encode()) < 200:
            (root / name).write_bytes(photo_bytes())
            made.add(name)
    source = ImageSource.open(root)
    assert source.ids == sorted(source.ids)
    assert all((root / image_id).is_file() for image_id in source.ids)
    hidden = {name for name in made if name.startswith(".")}
    assert len(source.ids) + len(source.skipped) + len(hidden) == len(made)


# --- photos named one by one ------------------------------------------------------------------------------------------


def test_one_photo_and_several_keep_ids_below_their_common_folder(tmp_path):
    first, second = put(tmp_path / "a/1.png", 1), put(tmp_path / "b/deep/1.png", 2)
    one = ImageSource.open(str(first))
    assert (one.ids, one.name, one.columns) == (["1.png"], "1", {})
    assert one.place == first.resolve().as_posix()
    both = ImageSource.open([second, str(first)])
    assert both.ids == ["a/1.png", "b/deep/1.png"]
    assert [planted(both, row) for row in range(2)] == [1, 2]
    assert both.place != ImageSource.open([first, put(tmp_path / "b/2.png")]).place


def test_folders_among_the_photos_are_listed(tmp_path):
    put(tmp_path / "b/deep/1.png", 1)
    put(tmp_path / "b/notes.txt", b"text")
    put(tmp_path / "b/scan", 4)
    source = ImageSource.open([put(tmp_path / "a.png", 2), tmp_path / "b", put(tmp_path / "b/2.png", 3)])
    assert source.ids == ["a.png", "b/2.png", "b/deep/1.png", "b/scan"]
    assert [planted(source, row) for row in range(4)] == [2, 3, 1, 4]
    assert source.notes == ["1 of the photos were named twice and are read once"]
    known = ImageSource.open([tmp_path / "a.png", tmp_path / "b"], known=lambda: {"b/notes.txt"})
    assert "b/notes.txt" in known.ids


def test_a_file_named_by_hand_is_an_input_whatever_it_holds(tmp_path):
    text, empty, good = put(tmp_path / "text.md", b"text"), put(tmp_path / "e.jpg", b""), put(tmp_path / "g.png", 9)
    source = ImageSource.open([text, empty, good])
    assert source.ids == ["e.jpg", "g.png", "text.md"]
    assert why(source, 0) == SkipReason.EMPTY
    assert planted(source, 1) == 9
    assert why(source, 2) == SkipReason.NOT_AN_IMAGE
    assert why(ImageSource.open(text), 0) == SkipReason.NOT_AN_IMAGE


def test_a_raw_file_named_by_hand_is_not_read_as_its_thumbnail(tmp_path):
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    source = ImageSource.open(put(tmp_path / "shot.NEF", file.getvalue()))
    with pytest.raises(UnreadableImage, match="a camera's raw file: export it as JPEG or TIFF") as caught:
        source.read(0)
    assert caught.value.reason == SkipReason.NO_DECODER


def test_what_cannot_be_a_source_is_refused(tmp_path):
    good, table = put(tmp_path / "g.png"), put(tmp_path / "t.csv", b"id\ng.png\n")
    assert refused([good, tmp_path / "h.png"]).message == f"{tmp_path / 'h.png'}: no such file or folder"
    assert "got " + str(table) in refused([good, table]).message
    assert "got an empty list" in refused([]).message
    assert "got int 3" in refused(3).message
    assert "got NoneType None" in refused(None).message
    assert "got str ''" in refused("").message
    assert refused(put(tmp_path / "t.xlsx", b"PK")).next_step.startswith("save it as .xlsx or as CSV")


def test_a_source_opened_again_is_itself(tmp_path):
    put(tmp_path / "a.png")
    source = ImageSource.open(tmp_path)
    assert ImageSource.open(source) is source


# --- reading ----------------------------------------------------------------------------------------------------------


def test_each_failure_has_its_reason(tmp_path, monkeypatch):
    for name in ["gone", "empty", "text", "half", "closed"]:
        put(tmp_path / f"{name}.jpg", photo_bytes(3, "JPEG"))
    source = ImageSource.open(tmp_path)
    (tmp_path / "gone.jpg").unlink()
    put(tmp_path / "empty.jpg", b"")
    put(tmp_path / "text.jpg", b"this is a text")
    put(tmp_path / "half.jpg", photo_bytes(3, "JPEG")[:300])
    right = os.open

    def open_but_closed(path, flags, *rest, **options):
        if str(path).endswith("closed.jpg"):
            raise PermissionError(13, "Permission denied")
        return right(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", open_but_closed)
    reasons = {image_id: why(source, row) for row, image_id in enumerate(source.ids)}
    assert reasons == {
        "closed.jpg": SkipReason.FORBIDDEN,
        "empty.jpg": SkipReason.EMPTY,
        "gone.jpg": SkipReason.MISSING,
        "half.jpg": SkipReason.UNREADABLE,
        "text.jpg": SkipReason.NOT_AN_IMAGE,
    }


@on_posix
def test_a_pipe_in_a_photo_s_place_does_not_block(tmp_path):
    path = put(tmp_path / "a.png")
    source = ImageSource.open(tmp_path)
    path.unlink()
    os.mkfifo(path)
    assert why(source, 0) == SkipReason.NOT_AN_IMAGE
    path.unlink()
    path.mkdir()
    assert why(source, 0) == SkipReason.NOT_AN_IMAGE


def test_a_file_larger_than_memory_is_not_read(tmp_path, monkeypatch):
    put(tmp_path / "a.png")
    source = ImageSource.open(tmp_path)
    monkeypatch.setattr(photo_room, "MAX_BYTES", 10)
    assert why(source, 0) == SkipReason.TOO_LARGE


def test_a_source_travels_to_workers_as_paths(tmp_path):
    for value in range(20):
        put(tmp_path / f"{value:02d}.png", value)
    source = pickle.loads(pickle.dumps(ImageSource.open(tmp_path)))
    assert [planted(source, row) for row in range(20)] == list(range(20))
    part = source.take([17, 3])
    assert part.ids == ["03.png", "17.png"]
    assert [planted(part, row) for row in range(2)] == [3, 17]
    assert np.array_equal(part.stat, source.stat[[3, 17]])
    assert isinstance(part, ImageSource)


def test_no_heavy_library_is_loaded_by_the_door():
    import subprocess

    code = "import sys, pipeline.images as i; i.decoder_fingerprint(); print([m for m in %r if m in sys.modules])"
    heavy = ("torch", "sklearn", "skimage", "pandas", "pyarrow", "scipy")
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_that_bears_a_built_in_name_is_not_hidden_in_silence(tmp_path, monkeypatch):
    put(tmp_path / "digits/a.png")
    monkeypatch.chdir(tmp_path)
    assert ImageSource.open("digits").notes == [
        "digits is the built-in source; for the folder of that name write ./digits"
    ]
    assert ImageSource.open("./digits").ids == ["a.png"]


def test_links_in_a_circle_are_named_and_end_no_listing(tmp_path):
    put(tmp_path / "a" / "a.png")
    put(tmp_path / "a" / "z.png")
    (tmp_path / "a" / "one.png").symlink_to("two.png")
    (tmp_path / "a" / "two.png").symlink_to("one.png")
    source = ImageSource.open(tmp_path)
    assert source.ids == ["a/a.png", "a/z.png"]
    assert [name for name, _ in source.skipped] == ["a/one.png", "a/two.png"]
    assert all(why.startswith("a link that leads nowhere: ") for _, why in source.skipped)
