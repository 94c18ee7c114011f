"""Labels from the names of folders: parts of a split, the level that gives the label, links, and what is ignored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import class_folders, done
from fake_backbone import put
from made_caches import blobs, make_cache
from tars import write_tar

from pipeline.errors import CacheError, LabelError, SourceError
from pipeline.evaluation import evaluate
from pipeline.extraction import extract
from pipeline.images import ImageSource, is_fixed_split, split_parts
from pipeline.images.split_names import split_part
from pipeline.splits import parts_named

TRAIN = "train training Training_Set training-set seg_train train_images trainset trainImages train2017 TRAIN 01_train"
TEST = "test testing test_set seg_test TestImages test-dev tst holdout hold-out Held_Out test2017 testset"
VALIDATION = "val valid validation validation_set dev eval evaluation val2017 Val_Images"
CLASSES = "trains latest contest invalid bullet_train test_positive train1 retrain strain ants set train_test"


def tree(root: Path, *names: str) -> Path:
    """Write a photo of its own under each name."""
    for number, name in enumerate(names):
        put(root / name, number)
    return root


def of_folder_and_tar(root: Path, *names: str, **options: Any) -> ImageSource:
    """Return the source of these photos in a folder, after its labels were compared with those of a tar."""
    folder = ImageSource.open(tree(root / "x", *names), **options)
    tar = ImageSource.open(write_tar(root / "x.tar", [(name, at) for at, name in enumerate(names)]), **options)
    assert (tar.ids, tar.columns) == (folder.ids, folder.columns)
    about = [note.replace(f"{root / 'x'}", "x") for note in folder.notes]
    assert [note.replace(f"{root / 'x.tar'}", "x") for note in tar.notes] == about
    assert (tar.label_error is None) == (folder.label_error is None)
    return folder


# --- names of parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "part"), [(TRAIN, "train"), (TEST, "test"), (VALIDATION, "val"), (CLASSES, None)])
def test_names_of_parts_are_known_in_all_their_spellings_and_no_class_is_one(names: str, part: str | None) -> None:
    assert {name: split_part(name) for name in names.split()} == dict.fromkeys(names.split(), part)


def test_parts_may_share_any_other_word_and_all_names_must_be_parts() -> None:
    assert split_parts(["birds_train", "birds_test"]) == {"birds_train": "train", "birds_test": "test"}
    assert split_parts(["bullet train", "freight train"]) is None
    assert split_parts(["test_positive", "test_negative"]) is None
    assert split_parts(["train", "bus"]) is None
    assert is_fixed_split(["train", "val"]) and not is_fixed_split(["train"]) and not is_fixed_split(["val", "test"])


@pytest.mark.parametrize(
    ("train", "test", "part"),
    [("training_set", "test_set", "test"), ("seg_train", "seg_test", "test"), ("train", "eval", "val")],
)
def test_split_folders_are_no_classes(tmp_path: Path, train: str, test: str, part: str) -> None:
    names = [f"{train}/cats/1.png", f"{train}/dogs/2.png", f"{test}/cats/3.png", f"{test}/dogs/4.png"]
    source = of_folder_and_tar(tmp_path, *names)
    assert dict(zip(source.ids, source.columns["label"], strict=True)) == {name: name.split("/")[1] for name in names}
    assert dict(zip(source.ids, source.columns["split"], strict=True)) == {
        name: "train" if name.startswith(train) else part for name in names
    }
    first, second = sorted((train, test))
    assert source.notes == [f"{tmp_path / 'x'} holds {first} and {second}: read as a fixed split, not as classes"]


def test_a_column_of_parts_is_a_split_under_the_names_that_folders_have(tmp_path: Path) -> None:
    X, y = blobs(40)
    split = ["test_set" if row % 4 == 0 else "training_set" for row in range(40)]
    made = make_cache(tmp_path / "a.h5", X, {"kind": [f"class {code}" for code in y], "split": split})
    run = evaluate(made, heads="centroid", cv=2, n_jobs=1)
    assert [info.name for info in run.label_sets] == ["kind"]
    assert (run.info().n, run.info().test) == (30, 10)
    assert parts_named(["fit", "Holdout"]) == {"fit": "train", "Holdout": "test"}
    assert parts_named(["train", "ants"]) is None


def test_folders_of_the_parts_own_names_inside_are_passed_through(tmp_path: Path) -> None:
    source = of_folder_and_tar(
        tmp_path,
        "seg_train/seg_train/sea/1.png",
        "seg_train/seg_train/street/2.png",
        "seg_test/seg_test/sea/3.png",
        "seg_test/seg_test/street/4.png",
    )
    assert source.columns == {"split": ["test", "test", "train", "train"], "label": ["sea", "street"] * 2}
    assert source.notes[1] == (
        f"{tmp_path / 'x'}: the label is the folder at level 3 (2 classes: sea and street); other levels, e.g. "
        "1: seg_test, 2: seg_test: choose one with --label-level N"
    )


def test_classes_that_hold_the_parts_are_a_split_too(tmp_path: Path) -> None:
    source = of_folder_and_tar(tmp_path, "cats/train/1.png", "cats/test/2.png", "dogs/train/3.png", "dogs/test/4.png")
    assert source.columns == {"split": ["test", "train"] * 2, "label": ["cats", "cats", "dogs", "dogs"]}
    assert source.notes == [f"the class folders in {tmp_path / 'x'} hold test and train: read as a fixed split"]


# --- the level --------------------------------------------------------------------------------------------------------

PERIODS = ("old/cats/1.png", "old/dogs/2.png", "new/cats/3.png", "new/dogs/4.png")


def test_the_same_folders_in_every_folder_are_refused_with_both_readings(tmp_path: Path) -> None:
    source = of_folder_and_tar(tmp_path, *PERIODS)
    assert source.columns == {}
    with pytest.raises(SourceError) as caught:
        evaluate(tmp_path / "x", heads="centroid", cache=tmp_path / "caches")
    assert caught.value.message == (
        f"{tmp_path / 'x'}: expected one level of folders that can be the label, got the same folders (cats and dogs) "
        "inside each of new and old: the label may be level 1 (2 classes: new and old) or level 2 (2 classes: cats and "
        "dogs)"
    )
    assert caught.value.next_step == "choose the level: --label-level 1 or --label-level 2"


@pytest.mark.parametrize(
    ("level", "labels"),
    [
        (1, ["new", "new", "old", "old"]),
        (2, ["cats", "dogs"] * 2),
        (-1, ["cats", "dogs"] * 2),
        (-2, ["new", "new", "old", "old"]),
    ],
)
def test_the_level_asked_for_gives_the_label(tmp_path: Path, level: int, labels: list[str]) -> None:
    source = of_folder_and_tar(tmp_path, *PERIODS, label_level=level)
    assert source.columns == {"label": labels}
    assert source.notes == []
    assert source.label_error is None


def test_a_level_beside_a_split_leaves_the_split(tmp_path: Path) -> None:
    source = of_folder_and_tar(
        tmp_path, "train/a/ants/1.png", "train/a/bees/2.png", "test/b/ants/3.png", "test/b/bees/4.png", label_level=-1
    )
    assert source.columns == {"split": ["test", "test", "train", "train"], "label": ["ants", "bees"] * 2}


def test_images_without_a_folder_of_that_level_are_counted_and_a_level_without_images_is_refused(
    tmp_path: Path,
) -> None:
    source = of_folder_and_tar(tmp_path, "a/x/1.png", "b/2.png", "3.png", label_level=2)
    assert source.columns == {"label": [None, "x", None]}
    assert source.notes == [f"{tmp_path / 'x'}: 2 images lie in no folder of level 2 and have no label, e.g. 3.png"]
    for level in (3, 0, -3):
        with pytest.raises(SourceError) as caught:
            ImageSource.open(tmp_path / "x", label_level=level)
        assert caught.value.message == (
            f"{tmp_path / 'x'}: expected images in folders of level {level}, got folders of 2 levels, e.g. 3.png"
        )
        assert caught.value.next_step == "pass a level from 1 to 2, or from -1 to -2: --label-level 1"


def test_a_folder_around_the_classes_and_trees_of_sites_name_their_level(tmp_path: Path) -> None:
    source = of_folder_and_tar(tmp_path / "1", "data/cats/1.png", "data/dogs/2.png")
    assert source.columns == {"label": ["cats", "dogs"]}
    assert source.notes == [
        f"{tmp_path / '1' / 'x'}: the label is the folder at level 2 (2 classes: cats and dogs); other levels, e.g. "
        "1: data: choose one with --label-level N"
    ]
    source = of_folder_and_tar(
        tmp_path / "2", "lake/2019/ants/1.png", "lake/2020/bees/2.png", "wood/2021/ants/3.png", "wood/2022/moths/4.png"
    )
    assert source.columns == {"label": ["lake", "lake", "wood", "wood"]}
    assert source.notes == [
        f"{tmp_path / '2' / 'x'}: the label is the folder at level 1 (2 classes: lake and wood); other levels, e.g. "
        "2: 2019, 3: ants: choose one with --label-level N"
    ]


def test_a_table_s_label_is_replaced_where_a_level_is_asked_for(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\na/1.png,x\nb/2.png,y\n")
    source = ImageSource.open(table, label_level=1)
    assert source.columns["label"] == ["a", "b"]
    assert source.notes[-1] == "t: --label-level 1 replaces the label that the source gives"


def test_a_cache_gets_the_labels_of_another_level_without_its_images(tmp_path: Path) -> None:
    X, y = blobs(40)
    ids = [f"{'old' if row % 3 else 'new'}/{'cats' if code else 'dogs'}/{row:02d}.jpg" for row, code in enumerate(y)]
    order = np.argsort(ids)
    made = make_cache(tmp_path / "a.h5", X[order], {}, ids=[ids[row] for row in order])
    with pytest.raises(SourceError, match="the label may be level 1"):
        evaluate(made, heads="centroid", cv=2, n_jobs=1)
    two = evaluate(made, heads="centroid", cv=2, n_jobs=1, label_level=2, out=tmp_path / "run")
    assert two.info().classes == ("cats", "dogs")
    one = evaluate(made, heads="centroid", cv=2, n_jobs=1, label_level=1, out=tmp_path / "run1")
    assert one.info().classes == ("new", "old")
    assert two.info().n == one.info().n == 40
    with pytest.raises(LabelError, match="expected one source of labels, got both a table of labels and folders"):
        evaluate(made, labels={"kind": {}}, label_level=1)


def test_another_level_is_another_cache_of_the_same_features(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    class_folders(photos / "old", 2)
    class_folders(photos / "new", 2, first=2)
    caches = tmp_path / "caches"
    first = extract(photos, cache=caches, label_level=1, n_jobs=1)
    assert (sorted(set(first.columns["label"])), first.summary.inferred) == (["new", "old"], 8)
    second = extract(photos, cache=caches, label_level=2, n_jobs=1)
    assert (sorted(set(second.columns["label"])), second.summary.inferred) == (["ants", "bees"], 0)
    none = extract(photos, cache=caches, n_jobs=1)
    assert (dict(none.columns), none.summary.inferred) == ({}, 0)
    assert none.summary.notes[0].startswith("no label is read from the folders: ")
    again = extract(photos, cache=caches, label_level=2, n_jobs=1, rehash=True)
    assert (sorted(set(again.columns["label"])), again.summary.inferred) == (["ants", "bees"], 0)


def test_shards_keep_the_level_in_their_cache(tmp_path: Path) -> None:
    for shard, period in enumerate(("old", "new")):
        write_tar(
            tmp_path / "s" / f"{shard}.tar",
            [(f"{period}/{animal}/{shard}.png", 2 * shard + at) for at, animal in enumerate(("cats", "dogs"))],
        )
    source = ImageSource.open(tmp_path / "s", label_level=2)
    assert source.columns == {"label": ["cats", "dogs"] * 2}
    cache = extract(source, cache=tmp_path / "caches", n_jobs=1)
    assert cache.columns["label"] == ["cats", "dogs"] * 2
    with pytest.raises(CacheError, match="expected images to label by their folders, got a cache"):
        extract(cache, label_level=1)


# --- links and ignored files ------------------------------------------------------------------------------------------

on_posix = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


@on_posix
def test_linked_class_folders_are_followed_and_those_outside_are_named(tmp_path: Path) -> None:
    tree(tmp_path, "p/a/1.png", "elsewhere/c/2.png", "p/shared/3.png")
    (tmp_path / "p/c").symlink_to(tmp_path / "elsewhere/c")
    (tmp_path / "p/d").symlink_to("shared")
    source = ImageSource.open(tmp_path / "p")
    assert source.ids == ["a/1.png", "c/2.png", "d/3.png", "shared/3.png"]
    assert source.columns == {"label": ["a", "c", "d", "shared"]}
    assert source.notes == [f"{tmp_path / 'p'}: 1 link to a folder outside it is followed, e.g. c"]
    assert source.read(1).digest == ImageSource.open(tmp_path / "elsewhere").read(0).digest
    listed = ImageSource.open([tmp_path / "p/a", tmp_path / "p/c"])
    assert listed.ids == ["a/1.png", "c/2.png"]
    shares = [ImageSource.open(tmp_path / "p", share=(number, 2)) for number in (1, 2)]
    assert sorted(image_id for share in shares for image_id in share.ids) == source.ids


@on_posix
def test_loops_of_links_end_and_add_no_image(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/other").symlink_to(tmp_path / "b")
    (tmp_path / "b/other").symlink_to(tmp_path / "a")
    source = ImageSource.open(tmp_path)
    assert [image_id for image_id in source.ids if "up" not in image_id] == [
        "a/1.png",
        "a/other/2.png",
        "b/2.png",
        "b/other/1.png",
    ]
    assert dict(source.skipped) == dict.fromkeys(
        ("a/other/other", "a/up", "b/other/other", "b/other/up"), "a link to a folder that it lies in itself"
    )


@on_posix
def test_a_link_to_nothing_that_may_be_a_class_folder_stops(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b/notes.txt").symlink_to(tmp_path / "gone.txt")
    assert ImageSource.open(tmp_path).ignored.kinds == {"link to nothing": 1}
    (tmp_path / "c").symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError) as caught:
        ImageSource.open(tmp_path)
    assert caught.value.message == (
        "c: expected a file or a folder, got a link to nothing; the images of a class may be missing"
    )
    assert caught.value.next_step == "bring back what it leads to, or remove the link"


def test_a_class_folder_that_cannot_be_listed_is_not_called_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, "a/1.png", "b/2.png")
    scan = os.scandir

    def forbidden(path: Any) -> Any:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr("os.scandir", forbidden)
    with pytest.raises(SourceError) as caught:
        ImageSource.open(tmp_path)
    assert caught.value.message == f"{tmp_path}/b: cannot list this folder: Permission denied"


def test_ignored_files_are_counted_by_kind_in_folders_tars_and_shards(tmp_path: Path) -> None:
    tree(tmp_path / "p", "a/1.png", "b/2.png")
    for name in ("a/v.jxl", "b/d.dcm", "b/e.JXL", "b/README", ".hidden"):
        put(tmp_path / "p" / name, b"nothing that is read")
    source = ImageSource.open(tmp_path / "p")
    assert source.ignored.kinds == {".jxl": 2, ".dcm": 1, "no ending": 1}
    assert source.ignored.first in ("a/v.jxl", "b/d.dcm", "b/e.JXL", "b/README")
    for number in (1, 2):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.png", number), (f"{number}.exr", "no image")])
    one = ImageSource.open(tmp_path / "1.tar")
    assert one.ignored.text == "1 file ignored: 1 .exr, e.g. 1.exr"
    both = ImageSource.open([tmp_path / "1.tar", tmp_path / "2.tar"])
    assert both.ignored.text == "2 files ignored: 2 .exr, e.g. 1.tar: 1.exr"


def test_extract_prints_what_was_ignored_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "p", 2)
    put(tmp_path / "p/ants/v.tga", b"nothing that is read")
    outcome = done("extract", "p")
    assert "1 file ignored: 1 .tga, e.g. ants/v.tga" in outcome.err.splitlines()
    summary = extract("p", cache="features_cache").summary
    assert (summary.images, summary.reused, summary.ignored) == (4, 4, {".tga": 1})
    assert summary.as_dict()["ignored"] == {".tga": 1}
