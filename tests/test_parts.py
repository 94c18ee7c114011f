"""A cache in parts: each made alone, all of them read as the one cache that would have been made of everything."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
from pathlib import Path

import fake_backbone
import numpy as np
import pytest
from fake_backbone import assert_planted, features_of, number_of

from pipeline.cache import FeatureCache, caches_in, resolve, retire
from pipeline.errors import CacheError, PipelineError, SourceError
from pipeline.evaluation import evaluate
from pipeline.images import ImageSource

COUNT = 40


@pytest.fixture
def photos(tmp_path) -> Path:
    return fake_backbone.folder_of(tmp_path / "photos", range(COUNT))


def shard(path: Path, numbers: list[int]) -> Path:
    """Write a tar of photos, ``c{n % 2}/{n:05d}.png`` as `fake_backbone.folder_of` names them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            content = io.BytesIO()
            fake_backbone.photo(number).save(content, "PNG")
            member = tarfile.TarInfo(f"c{number % 2}/{number:05d}.png")
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
    fake_backbone.touch(path)
    return path


@pytest.fixture
def shards(tmp_path) -> Path:
    for number in range(4):
        shard(tmp_path / "shards" / f"train-{number:03d}.tar", list(range(10 * number, 10 * number + 10)))
    return tmp_path / "shards"


def assert_whole(cache: FeatureCache, numbers: range | list[int], layer: str = "penultimate") -> None:
    """The cache of parts says of every image, by id, what one cache of all would say."""
    ids = sorted(f"c{number % 2}/{number:05d}.png" for number in numbers)
    assert cache.ids == ids
    found = [number_of(name) for name in ids]
    wanted = features_of(found, layer)
    assert np.array_equal(cache.features(layer), wanted)
    rows = np.array([len(ids) - 1, 0, 3])
    assert np.array_equal(cache.stored(layer)[rows], wanted[rows])
    assert cache.labels("label").tolist() == [f"c{number % 2}" for number in found]
    assert cache.complete and cache.is_sound() and not cache.damaged().size


# --- shares of a folder


def test_the_parts_of_a_folder_make_the_cache_of_the_folder(run, photos):
    whole = run(photos)
    for number in (1, 2, 3):
        cache = run(photos, part=f"{number}/3")
        assert cache.summary.images == cache.summary.reused + cache.summary.stored
        assert cache.summary.inferred == 0  # known by content from the whole
    assert_whole(cache, range(COUNT))
    assert np.array_equal(cache.digest, whole.digest)
    assert np.array_equal(cache.pixel_statistics(), whole.pixel_statistics())
    assert cache.features_key == whole.features_key
    assert [path.name.split("-")[0] for path in cache.files] == [f"part_0000{n}_of_00003" for n in (1, 2, 3)]


def test_each_image_is_in_one_part_and_is_inferred_there_alone(run, photos, network):
    seen = []
    for number in (1, 2, 3, 4):
        run(photos, part=f"{number}/4")
        seen.append(set(network.seen))
    assert sum(map(len, seen)) == COUNT and set.union(*seen) == set(range(COUNT))
    assert all(seen)


def test_a_new_photo_changes_one_part_and_moves_no_other(run, photos, network):
    for number in (1, 2, 3):
        run(photos, part=f"{number}/3")
    fake_backbone.put(photos / "c1" / "00099.png", 99)
    inferred = []
    for number in (1, 2, 3):
        cache = run(photos, part=f"{number}/3")
        inferred += network.seen
    assert inferred == [99]
    assert_whole(cache, [*range(COUNT), 99])
    assert len(cache.files) == 3


def test_parts_that_are_missing_are_named_and_nothing_is_read_without_them(run, photos):
    run(photos, part="1/3")
    cache = run(photos, part="3/3")
    assert cache.missing_parts == ["2/3"] and not cache.complete
    with pytest.raises(CacheError) as caught:
        cache.features()
    assert "expected every part, got 2; missing: 2/3" in caught.value.message
    assert caught.value.next_step == "run the same `pipeline extract` with --part 2/3"


def test_a_share_has_the_labels_of_the_whole_folder(run, tmp_path):
    """A share may hold one class alone, or no photo of the validation set; its labels do not change by that."""
    for number in range(12):
        fake_backbone.put(tmp_path / "photos" / "train" / f"c{number % 2}" / f"{number:05d}.png", number)
    fake_backbone.put(tmp_path / "photos" / "val" / "c0" / "00050.png", 50)
    for number in range(1, 7):
        source = ImageSource.open(tmp_path / "photos", share=(number, 6))
        assert set(source.columns) == {"split", "label"}
        assert source.columns["label"] == [name.split("/")[1] for name in source.ids]
        assert source.columns["split"] == [name.split("/")[0] for name in source.ids]


def test_a_share_of_a_table_or_of_a_part_of_a_source_is_a_share_of_its_ids(photos):
    source = ImageSource.open(photos)
    shares = [source.share(number, 3) for number in (1, 2, 3)]
    assert sorted(name for share in shares for name in share.ids) == source.ids
    assert {share.place for share in shares} == {f"{source.place} [share {number} of 3]" for number in (1, 2, 3)}
    for number, share in enumerate(shares, 1):
        assert ImageSource.open(photos, share=(number, 3)).ids == share.ids


def test_resuming_a_part_infers_only_what_is_missing(run, photos, network):
    run(photos, part="1/2")
    assert network.seen
    run(photos, part="1/2")
    assert not network.seen


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3"])
def test_a_part_that_cannot_be_is_refused(run, photos, text):
    with pytest.raises(PipelineError, match="expected I/N with I from 1 to N, got"):
        run(photos, part=text)


def test_a_share_without_images_is_an_error(run, tmp_path):
    fake_backbone.folder_of(tmp_path / "few", range(2))
    empty = next(n for n in range(1, 51) if not len(ImageSource.open(tmp_path / "few", share=(n, 50))))
    with pytest.raises(SourceError, match=f"part {empty}/50: expected a share of the images"):
        run(tmp_path / "few", part=f"{empty}/50")


# --- shards


def test_shards_are_parts_and_one_cache(run, shards, network):
    cache = run(shards)
    assert sorted(network.seen) == list(range(COUNT))
    assert_whole(cache, range(COUNT))
    assert (cache.summary.images, cache.summary.stored) == (COUNT, COUNT)
    assert [path.name.split("-")[0] for path in cache.files] == [f"part_train_00{n}" for n in range(4)]
    run(shards)
    assert not network.seen


def test_a_list_and_a_pattern_mean_the_same_parts_each_in_a_folder_of_its_own(run, shards, network):
    by_pattern = run(str(shards / "train-{000..003}.tar"))
    by_list = run([str(path) for path in sorted(shards.glob("*.tar"))])
    assert not network.seen  # lent by content
    assert not by_list.summary.notes
    assert by_pattern.path != by_list.path
    for cache in (by_pattern, by_list):
        assert_whole(cache, range(COUNT))


def test_a_job_array_over_shards_makes_each_of_them_once(run, shards, network):
    seen = []
    for number in (1, 2, 3):
        cache = run(shards, part=f"{number}/3")
        seen += network.seen
    assert sorted(seen) == list(range(COUNT))
    assert_whole(cache, range(COUNT))
    with pytest.raises(SourceError, match="part 5/9: expected at most as many parts as shards, got 4 shards"):
        run(shards, part="5/9")


def test_a_new_shard_is_a_new_part_and_one_that_is_gone_goes(run, shards, network):
    run(shards)
    shard(shards / "train-009.tar", [90, 91])
    cache = run(shards)
    assert sorted(network.seen) == [90, 91]
    assert_whole(cache, [*range(COUNT), 90, 91])
    (shards / "train-000.tar").unlink()
    cache = run(shards)
    assert not network.seen
    assert_whole(cache, [*range(10, COUNT), 90, 91])


def test_a_renamed_shard_infers_nothing(run, shards, network):
    run(shards)
    (shards / "train-000.tar").rename(shards / "train-100.tar")
    cache = run(shards)
    assert not network.seen
    assert_whole(cache, range(COUNT))


def test_ids_that_two_shards_share_are_refused_by_name(run, shards):
    shard(shards / "train-004.tar", [3])
    with pytest.raises(CacheError) as caught:
        run(shards).ids  # noqa: B018
    assert "expected ids that are unique, got 'c1/00003.png' in part_train_000-" in caught.value.message
    assert "and in part_train_004-" in caught.value.message


def test_extracting_the_opened_source_makes_the_same_parts(run, shards, network):
    source = ImageSource.open(shards)
    cache = run(source)
    assert cache.ids == source.ids
    assert cache.path == run(shards).path and not network.seen


def test_a_parquet_of_images_and_a_tar_are_shards_of_one_cache(run, shards):
    import pyarrow as pa
    from pyarrow import parquet

    content = []
    for number in (70, 71):
        file = io.BytesIO()
        fake_backbone.photo(number).save(file, "PNG")
        content.append(file.getvalue())
    table = pa.table({"id": ["c0/00070.png", "c1/00071.png"], "image": content, "label": ["c0", "c1"]})
    parquet.write_table(table, shards / "train-004.parquet")
    assert_whole(run(shards), [*range(COUNT), 70, 71])


# --- the folder of parts, wherever a cache is taken


def test_evaluate_reads_a_folder_of_parts_as_one_cache(run, photos):
    for number in (1, 2, 3):
        parts = run(photos, part=f"{number}/3")
    options = {"heads": "knn", "grid": ["knn.n_neighbors=1,3"], "cv": 2, "n_jobs": 1}
    of_parts, of_one = evaluate(str(parts.path), **options), evaluate(run(photos), **options)
    columns = ["label_set", "layer", "head", "scoring", "n", "mean", "low", "high"]
    assert of_parts.leaderboard()[columns].equals(of_one.leaderboard()[columns])


def test_evaluating_shards_joins_by_id_whatever_shard_holds_the_image(run, shards, tmp_path):
    rows = [f"c{n % 2}/{n:05d}.png,{'low' if n < 20 else 'high'}" for n in range(COUNT)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,half", *reversed(rows)]))
    found = evaluate(
        str(shards),
        labels=tmp_path / "labels.csv",
        backbone=fake_backbone.backbone(),
        cache=run.folder,
        heads="knn",
        grid=["knn.n_neighbors=1"],
        cv=2,
        n_jobs=1,
    )
    assert found.best("half").mean > 0.9  # a photo's number is its feature


def test_the_folder_is_found_by_its_short_name_listed_and_removed(run, shards):
    cache = run(shards)
    assert resolve("shards", run.folder).path == cache.path
    found, refused = caches_in(run.folder)
    assert [one.path for one in found] == [cache.path] and not refused
    assert found[0].describe()["parts"] == 4
    assert found[0].describe()["bytes"] == sum(path.stat().st_size for path in cache.files)
    assert retire(cache.path) and not cache.path.exists()


def test_damage_in_a_part_is_found_under_the_row_of_the_whole(run, shards):
    cache = run(shards)
    part = cache.parts[2]
    field = part.header.fields["features/penultimate"]
    with part.path.open("r+b") as file:
        file.seek(field.offset + 4 * field.row_bytes)
        file.write(b"\xff\xff")
    opened = FeatureCache.open(cache.path)
    (row,) = opened.damaged().tolist()
    assert opened.ids[row] == part.ids[4]
    assert_whole(run(shards), range(COUNT))  # mended


def test_another_number_of_parts_is_another_cache(run, photos, network):
    of_two = [run(photos, part=f"{number}/2") for number in (1, 2)][-1]
    assert sorted(network.seen)
    of_three = [run(photos, part=f"{number}/3") for number in (1, 2, 3)][-1]
    assert not network.seen  # lent by content
    assert_whole(FeatureCache.open(of_two.path), range(COUNT))
    assert_whole(of_three, range(COUNT))
    assert (of_two.path.name[-8:], of_three.path.name[-8:]) == ("-2_parts", "-3_parts")


def test_parquet_shards_keep_the_id_column_that_was_named(run, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "tables").mkdir()
    for shard_number in (0, 1):
        content = []
        for number in (2 * shard_number, 2 * shard_number + 1):
            file = io.BytesIO()
            fake_backbone.photo(number).save(file, "PNG")
            content.append(file.getvalue())
        columns = {"id": ["same", "twice"], "name": [f"{2 * shard_number + k:05d}" for k in (0, 1)], "image": content}
        parquet.write_table(pa.table(columns), tmp_path / "tables" / f"{shard_number}.parquet")
    source = ImageSource.open(tmp_path / "tables", id_column="name")
    assert source.ids == ["00000", "00001", "00002", "00003"]
    cache = run(source)
    assert cache.ids == source.ids and len(cache.files) == 2
    assert np.array_equal(cache.features(), features_of(range(4), "penultimate"))


def test_strangers_among_the_parts_are_refused(run, shards, photos, tmp_path):
    cache = run(shards)
    other = run(photos, part="1/2")
    shutil.copy(other.files[0], cache.path / other.files[0].name)
    with pytest.raises(CacheError, match="got another: they are parts of two caches"):
        FeatureCache.open(cache.path)
    (cache.path / other.files[0].name).unlink()
    shutil.copy(run(photos).path, cache.path / "part_x-y-z-00000000.h5")
    with pytest.raises(CacheError, match="expected a part of a cache, got a whole cache"):
        FeatureCache.open(cache.path)


def test_what_goes_to_a_worker_is_small_and_reads_the_same(run, shards):
    stored = run(shards).stored()
    sent = pickle.dumps(stored)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent)[5:9], stored[5:9])
    assert_planted(run(shards))
