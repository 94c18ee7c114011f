"""Which files DATA means by shards, and that several of them are one source."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands import class_folders, done
from fake_backbone import Extractor, Planted, assert_planted, folder_of
from tars import write_parquet, write_tar
from test_images import planted, put, refused

from pipeline.errors import SourceError
from pipeline.images import ImageSource, shards_of
from pipeline.images import shards as shards_room


def meant(data: object) -> list[str] | None:
    """Return the names, without folders, of the shards that `data` means."""
    paths = shards_of(data)
    return None if paths is None else [path.rpartition("/")[2] for path in paths]


def not_meant(data: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        shards_of(data)
    return caught.value


@pytest.fixture
def shards(tmp_path):
    for number in range(12):
        write_tar(
            tmp_path / "s" / f"train-{number:03d}.tar", [(f"{number:03d}.png", number), (f"{number:03d}.cls", "x")]
        )
    return tmp_path / "s"


# --- which files ------------------------------------------------------------------------------------------------------


def test_a_folder_of_tars_and_tables_of_images_means_them(tmp_path):
    write_tar(tmp_path / "b.tar", [("b.png", 1)])
    write_parquet(tmp_path / "a.parquet", [1])
    write_parquet(tmp_path / "c.PQ", [1])
    put(tmp_path / "README.md", b"hello")
    put(tmp_path / "labels.csv", b"id,label\na,b\n")
    put(tmp_path / "._b.tar", b"")
    put(tmp_path / "nothing/here.txt", b"")
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": ["a"], "label": ["b"]}), tmp_path / "labels.parquet")
    assert meant(tmp_path) == meant(f"{tmp_path}/") == ["a.parquet", "b.tar", "c.PQ"]


def test_a_folder_with_images_is_a_folder_of_images_and_its_tars_are_named(tmp_path):
    write_tar(tmp_path / "one" / "b.tar", [("b.png", 1)])
    assert meant(tmp_path / "one") == ["b.tar"]
    assert ImageSource.open(tmp_path / "one").ids == ["b.png"]
    put(tmp_path / "one/deep/er/a.png", 2)
    assert meant(tmp_path / "one") is None
    source = ImageSource.open(tmp_path / "one")
    assert source.ids == ["deep/er/a.png"]
    assert source.notes[1:] == [f"{tmp_path / 'one'}: its photos are read, 1 tar file beside not"]
    put(tmp_path / "one/c.jpg", 2)
    write_tar(tmp_path / "one/deep/d.tar", [("d.png", 1)])
    assert meant(tmp_path / "one") is None
    assert (
        f"{tmp_path / 'one'}: its photos are read, 2 tar files beside not" in ImageSource.open(tmp_path / "one").notes
    )


def test_a_pattern_means_the_files_it_names(shards):
    three = ["train-000.tar", "train-001.tar", "train-002.tar"]
    assert meant(f"{shards}/train-{{000..002}}.tar") == three
    assert meant(shards / "train-{000..002}.tar") == three
    assert meant(f"{shards}/train-00[0-2].tar") == three
    assert meant(f"{shards}/train-00{{2,0,1}}.tar") == three
    assert meant(f"{shards}/train-0{{0,1}}{{0..1}}.tar") == [*three[:2], "train-010.tar", "train-011.tar"]
    assert meant(f"{shards}/train-{{009..010}}.tar") == ["train-009.tar", "train-010.tar"]
    assert meant(f"{shards}/train-00{{8..9}}.tar") == ["train-008.tar", "train-009.tar"]
    assert len(meant(f"{shards}/*.tar")) == 12
    assert meant(f"{shards}/train-{{000..000}}.tar") == ["train-000.tar"]
    assert len(ImageSource.open(f"{shards}/*.tar")) == 12


def test_leading_zeros_are_as_many_as_the_longer_end_has(tmp_path):
    for number in (9, 10, 99, 100):
        write_tar(tmp_path / f"a{number}.tar", [("1.png", 1)])
        write_tar(tmp_path / f"b{number:03d}.tar", [("1.png", 1)])
    assert meant(f"{tmp_path}/a{{9..10}}.tar") == ["a10.tar", "a9.tar"]
    assert meant(f"{tmp_path}/a{{99..100}}.tar") == ["a100.tar", "a99.tar"]
    assert meant(f"{tmp_path}/b{{099..100}}.tar") == ["b099.tar", "b100.tar"]


def test_the_first_shard_of_a_range_that_is_missing_is_named(shards):
    (shards / "train-003.tar").unlink()
    (shards / "train-005.tar").unlink()
    pattern = f"{shards}/train-{{000..011}}.tar"
    error = not_meant(pattern)
    assert error.message == f"{shards}/train-003.tar: no such shard, of those that {pattern} means"
    assert error.next_step == f"see what is there: ls {shards}"
    assert refused(pattern).message == error.message
    assert not_meant(f"{shards}/test-*.tar").message == f"{shards}/test-*.tar: no shard of such a name"
    assert not_meant(f"{shards}/no/{{0..1}}.tar").next_step == f"see what is there: ls {shards}"


def test_ranges_that_mean_nothing_or_too_much_are_refused(shards):
    pattern = f"{shards}/{{3..1}}.tar"
    error = not_meant(pattern)
    assert error.message == f"{pattern}: expected a range such as {{000..099}}, got {{3..1}}"
    assert error.next_step == "write the lower number first"
    pattern = f"{shards}/{{0..999}}{{0..999}}{{0..9}}.tar"
    assert not_meant(pattern).message == f"{pattern}: expected up to 1,000,000 shards, it means 10,000,000"
    assert "expected a range such as" in not_meant(f"{shards}/{{0..99999999999}}.tar").message


def test_a_pattern_of_tables_without_images_is_refused(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"id": ["a"]}), tmp_path / "a.parquet")
    error = not_meant(f"{tmp_path}/*.parquet")
    assert error.message == (
        f"{tmp_path}/a.parquet: expected a tar or a Parquet table with a column of images, got a table without images"
    )
    assert error.next_step == "name it alone: a table of paths is a source of its own"
    write_parquet(tmp_path / "b.parquet", [1])
    assert shards_of([tmp_path / "a.parquet", tmp_path / "b.parquet"]) is None


def test_a_list_of_shards_is_sorted_and_each_is_there_once(shards):
    paths = [shards / "train-001.tar", f"{shards}/train-000.tar", shards / "train-001.tar"]
    assert meant(paths) == ["train-000.tar", "train-001.tar"]
    assert meant([f"{shards}/train-{{000..001}}.tar", f"{shards}/*-011.tar"]) == [
        "train-000.tar",
        "train-001.tar",
        "train-011.tar",
    ]


def test_whatever_else_is_no_shards(shards, tmp_path):
    import numpy as np

    photo = put(tmp_path / "a.png", 1)
    odd = write_tar(tmp_path / "x[1]{a,b}.tar", [("a.png", 1)])  # a name that is there is no pattern
    others = [
        shards / "train-000.tar",
        [shards / "train-000.tar"],
        [shards / "train-000.tar", photo],
        [shards / "train-000.tar", shards / "gone.tar"],
        photo,
        tmp_path,
        tmp_path / "gone",
        f"{tmp_path}/*.png",
        "photo-crops",
        odd,
        np.zeros((2, 4, 4), np.uint8),
        [1, 2],
        [],
        None,
        "a\0*.tar",
    ]
    assert [shards_of(data) for data in others] == [None] * len(others)
    assert len(ImageSource.open(odd)) == 1
    assert "got " + str(shards / "train-000.tar") in refused([shards / "train-000.tar", photo]).message


# --- one source -------------------------------------------------------------------------------------------------------


def test_several_shards_are_one_source(tmp_path):
    one = write_tar(tmp_path / "one.tar", [("c.png", 3), ("a.png", 1), ("a.cls", "x"), ("../e.png", 9)])
    two = write_tar(tmp_path / "two.tar", [("b.png", 2), ("b.json", '{"who": "me"}')])
    three = write_parquet(tmp_path / "three.parquet", [5, 4], id=["e", "d"], label=["z", "y"])
    source = ImageSource.open([two, one, three])
    assert source.ids == ["a.png", "b.png", "c.png", "d", "e"]
    assert source.columns == {"label": ["x", None, None, "y", "z"], "who": [None, "me", None, None, None]}
    assert [planted(source, row) for row in range(5)] == [1, 2, 3, 4, 5]
    for row, path in enumerate([one, two, one, three, three]):
        assert source.stat[row].tolist() == [path.stat().st_size, path.stat().st_mtime_ns]
        assert source.read(row).stat == tuple(source.stat[row])
    assert source.skipped == [("one.tar: ../e.png", "its name leads out of the tar")]
    assert source.place.startswith(f"{tmp_path.resolve().as_posix()} [3 shards: ")
    assert source.place == ImageSource.open([one, two, three]).place != ImageSource.open([one, two]).place
    # A folder and a pattern keep their place when a shard joins them.
    assert ImageSource.open(tmp_path).place == tmp_path.resolve().as_posix()
    assert ImageSource.open(f"{tmp_path}/*.tar").place == f"{tmp_path.resolve().as_posix()}/*.tar"
    # one, then three, then two, each as it lies in the file
    assert [source.ids[row] for row in source.reading_order(range(5))] == ["c.png", "a.png", "e", "d", "b.png"]


def test_a_part_holds_the_shards_that_it_needs_alone(shards):
    source = ImageSource.open(shards)
    part = pickle.loads(pickle.dumps(source.take([10, 2])))
    assert [planted(part, row) for row in range(2)] == [2, 10]
    assert len(part.reader.readers) == 2
    again = part.take([1])
    assert planted(again, 0) == 10
    assert again.reading_order([0]).tolist() == [0]
    with ThreadPoolExecutor(8) as pool:
        rows = list(range(12)) * 5
        assert list(pool.map(lambda row: planted(source, row), rows)) == rows


def test_an_id_that_two_shards_have_is_refused_with_both(tmp_path):
    one = write_tar(tmp_path / "one.tar", [("a.png", 1), ("b.png", 2)])
    two = write_tar(tmp_path / "two.tar", [("b.png", 2)])
    error = refused(tmp_path)
    assert error.message == f"expected unique ids over 2 shards, got b.png in {one} and in {two}"
    assert error.next_step == "leave one of the shards out, or give each image a name of its own"


def test_tables_without_ids_do_not_share_any(tmp_path):
    for at in range(2):
        write_parquet(tmp_path / f"train-{at}.parquet", [2 * at, 2 * at + 1])
    source = ImageSource.open(tmp_path)
    assert source.ids == ["train-0/000000", "train-0/000001", "train-1/000000", "train-1/000001"]
    assert [planted(source, row) for row in range(4)] == [0, 1, 2, 3]


def test_folders_are_read_over_all_shards_together(tmp_path):
    write_tar(tmp_path / "0.tar", [("p/train/ants/1.png", 1), ("p/train/bees/2.png", 2)])
    write_tar(tmp_path / "1.tar", [("p/val/ants/3.png", 3)])
    source = ImageSource.open(tmp_path)
    assert source.columns == {"split": ["train", "train", "val"], "label": ["ants", "bees", "ants"]}
    assert source.notes == [f"{tmp_path}/p holds train and val: read as a fixed split, not as classes"]


def test_notes_of_many_shards_are_cut_short(tmp_path):
    for at in range(9):
        write_tar(tmp_path / f"{at}.tar", [(f"{at}.png", at), (f"{at}.json", "[]")])
    notes = ImageSource.open(tmp_path).notes
    assert len(notes) == shards_room.MOST_NOTES + 1
    assert notes[0] == f"{tmp_path}/0.tar: 0.json is not read: its JSON is no object of names and values"
    assert notes[-1] == "4 more such notes on other shards"


# --- downstream -------------------------------------------------------------------------------------------------------


def test_shards_are_inferred_once(tmp_path, monkeypatch):
    import pipeline.extraction.encoder as network_room

    network = Planted()
    monkeypatch.setattr(network_room, "open_runtime", network)
    extractor = Extractor(network, tmp_path / "caches")
    files = sorted(folder_of(tmp_path / "photos", range(20)).rglob("*.png"))
    for at in range(3):
        members = [(file.relative_to(tmp_path / "photos").as_posix(), file.read_bytes()) for file in files[at::3]]
        write_tar(tmp_path / "shards" / f"{at}.tar", members)
    cache = extractor(tmp_path / "shards")
    assert_planted(cache)
    assert cache.columns["label"] == ["c0"] * 10 + ["c1"] * 10
    assert sorted(network.seen) == list(range(20))
    by_pattern = extractor(f"{tmp_path}/shards/{{0..2}}.tar")
    assert network.seen == [] and by_pattern.features_key == cache.features_key


def test_the_command_line_takes_tars_tables_and_shards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = class_folders(tmp_path / "photos", 6)
    files = sorted(root.rglob("*.png"))
    members = [(file.relative_to(root).as_posix(), file.read_bytes()) for file in files]
    write_tar(tmp_path / "x.tar", members)
    for at in range(2):
        write_tar(tmp_path / "shards" / f"{at}.tar", members[at::2])
    write_parquet(tmp_path / "y.parquet", [data for _, data in members], label=[name[:4] for name, _ in members])
    assert "12 stored" in done("extract", "x.tar").err
    for data in ("x.tar", "y.parquet", "shards"):
        assert "0 stored, 12 reused, 0 failed; 0 went through the network" in done("extract", data).err, data
    heads = ["--head", "centroid", "--cv", "3"]
    for data in (["y.parquet"], ["shards/0.tar", "shards/1.tar"]):
        assert "right on " in done("evaluate", *data, *heads).err
    done("fit", "x.tar", *heads, "--out", "m.model")
    answers = done("predict", "m.model", "shards").lines
    assert [line.split(",")[0] for line in answers[1:]] == [name for name, _ in members]
