"""What bad input gets: two lines that name the file, row or value and the next step, exit code 1, never a traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from commands import class_folders, done, photo, pipeline, refused
from fake_backbone import Planted

import pipeline.cache.create as create
import pipeline.extraction.encoder as network_room
from pipeline.cache import CacheLock

LABELS = {f"{n:02d}.png": "ants" if n % 2 else "bees" for n in range(12)}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """Work in an empty folder, with a network that costs nothing."""
    monkeypatch.chdir(tmp_path)
    found = Planted()
    monkeypatch.setattr(network_room, "open_runtime", found)
    return found


@pytest.fixture(autouse=True)
def _network(network: Planted) -> None:
    """Every test here works so."""


def photos(*kinds: str, count: int = 6) -> str:
    class_folders(Path("photos"), count, kinds or ("ants", "bees"))
    return "photos"


def flat() -> str:
    """Twelve photos without class folders."""
    for name, kind in LABELS.items():
        photo(Path("flat", name), kind, int(name[:2]))
    return "flat"


def table(*lines: str, name: str = "labels.csv") -> str:
    Path(name).write_text("\n".join(lines) + "\n")
    return name


def labels(head: str = "id,label", *more: str, **changes: str) -> str:
    """Write a table of the flat photos' labels."""
    said = {**LABELS, **{name.replace("_", "."): text for name, text in changes.items()}}
    return table(head, *(f"{name},{text}" for name, text in said.items()), *more)


def the_cache() -> Path:
    (path,) = Path("features_cache").glob("*.h5")
    return path


class Case(NamedTuple):
    """One mistake, and what must stand in each of the two lines."""

    words: list[str]
    error: list[str]
    step: list[str]


def check(case: Case) -> None:
    error, step = refused(*case.words)
    for part in case.error:
        assert part in error
    for part in case.step:
        assert part in step
    assert not Path("runs").exists()


# --- images


def test_missing_source() -> None:
    check(Case(["extract", "nowhere/at/all"], ["nowhere/at/all: no such file or folder"], ["ls"]))
    photos()
    check(Case(["evaluate", "photo"], ["photo: no such file or folder"], ["did you mean photos?"]))
    check(Case(["evaluate", "photos", "--test", "valid"], ["valid: no such file or folder"], ["ls"]))


def test_no_image_in_the_source() -> None:
    Path("papers").mkdir()
    Path("papers", "a.txt").write_text("no photo")
    check(Case(["extract", "papers"], ["papers: no image in this folder", "a.txt"], ["photos"]))


def test_an_empty_class_folder() -> None:
    Path(photos(), "wasps").mkdir()
    check(Case(["evaluate", "photos"], ["photos/wasps: an empty class folder"], ["remove the folder"]))


def test_photos_that_cannot_be_read_are_listed_and_the_run_goes_on() -> None:
    photos()
    Path("photos", "ants", "text.jpg").write_text("no photo")
    Path("photos", "bees", "empty.jpg").touch()
    outcome = done("extract", "photos")
    assert "skipped: ants/text.jpg: not an image" in outcome.err
    assert "skipped: bees/empty.jpg: empty file" in outcome.err
    assert "14 images: 12 stored, 0 reused, 2 failed; 12 went through the network" in outcome.err
    error, step = refused("extract", "photos", "--on-error", "stop")
    assert "ants/text.jpg: not an image" in error and "--on-error skip" in step


def test_features_that_are_not_finite_are_a_listed_skip(network: Planted) -> None:
    import fake_backbone

    for number in range(12):
        fake_backbone.put(Path("planted", "c" + str(number % 2), f"{number:05d}.png"), number)
    network.spoilt = [5]
    outcome = done("extract", "planted")
    assert "skipped: c1/00005.png: the network returned a value that is not finite" in outcome.err
    assert "1 failed" in outcome.err
    outcome = done("evaluate", "planted", "--cv", "2", "--jobs", "1", "--head", "ridge")
    assert "1 of 12 images have no features and are left out, e.g. c1/00005.png" in outcome.err


# --- classes and folds


def test_one_class_only() -> None:
    photos("ants")
    check(Case(["evaluate", "photos"], ["got only 'ants' (6 images)"], ["second class"]))


def test_a_class_with_fewer_members_than_folds() -> None:
    photos()
    for number in range(2, 6):
        Path("photos", "bees", f"{number:02d}.png").unlink()
    check(Case(["evaluate", "photos"], ["got 2 images of 'bees'"], ["--cv 2"]))
    assert "--cv 2" in refused("fit", "photos", "--out", "m.model")[1]
    assert done("evaluate", "photos", "--cv", "2", "--jobs", "1", "--head", "ridge").out


# --- tables


def test_a_table_without_an_id_column() -> None:
    flat()
    labels("name,label")
    check(
        Case(
            ["evaluate", "flat", "--labels", "labels.csv"],
            ["labels.csv: expected an id column", "got the columns name, label"],
            ["--id"],
        )
    )
    assert done("evaluate", "flat", "--labels", "labels.csv", "--id", "name", "--head", "ridge", "--jobs", "1").out


def test_a_table_whose_ids_match_nothing() -> None:
    flat()
    table("id,label", "x00.png,ants", "x01.png,bees")
    check(
        Case(
            ["evaluate", "flat", "--labels", "labels.csv"],
            ["labels.csv: expected ids of the 12 images (such as 00.png)", "2 ids (such as x00.png)", "none in common"],
            ["id column"],
        )
    )


def test_duplicates_that_disagree() -> None:
    flat()
    labels("id,label", "00.png,ants")
    check(
        Case(
            ["evaluate", "flat", "--labels", "labels.csv"],
            ["labels.csv: rows of 00.png disagree in column 'label': 'bees' and 'ants'"],
            ["--column"],
        )
    )


def test_labels_that_differ_only_in_case() -> None:
    flat()
    labels(**{"01_png": "Ants"})
    check(
        Case(
            ["evaluate", "flat", "--labels", "labels.csv"],
            ["labels differ only in case: 'Ants' (1 image) and 'ants' (5 images)"],
            ["same way"],
        )
    )


def test_no_labels_at_all() -> None:
    check(Case(["evaluate", flat()], ["flat: expected labels, got none"], ["--labels TABLE"]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("gone.csv", None, "gone.csv: cannot read this table"),
        ("broken.parquet", b"PAR1", "broken.parquet: not a Parquet file"),
        ("binary.csv", bytes(range(256)), "binary.csv: "),
        ("empty.csv", b"", "empty.csv: "),
    ],
)
def test_an_unreadable_table(name: str, content: bytes | None, said: str) -> None:
    flat()
    if content is not None:
        Path(name).write_bytes(content)
    check(Case(["evaluate", "flat", "--labels", name], [said], [" "]))


NOT_THERE = (
    ["labels.csv: expected the images of its column id below", "got none of 12, e.g. 00.png"],
    ["--root DIR"],
)


@pytest.mark.parametrize("words", [["evaluate"], ["extract"], ["fit", "--out", "m.model"]], ids=lambda words: words[0])
def test_a_table_of_photos_that_are_not_there(words: list[str]) -> None:
    labels()
    check(Case([*words, "labels.csv"], *NOT_THERE))
    assert not Path("features_cache").exists() and not Path("m.model").exists()


def test_a_table_of_photos_of_which_some_are_not_there() -> None:
    labels()
    flat()
    Path("flat/00.png").unlink()
    outcome = done("extract", "labels.csv", "--root", "flat")
    assert "skipped: 00.png: file is missing" in outcome.err


# --- names that are not known

UNKNOWN = {
    "backbone": Case(["--backbone", "resnet51"], ["no backbone 'resnet51'", "resnet50"], ["pipeline backbones"]),
    "weights": Case(
        ["--backbone", "resnet18:V7"], ["no weights 'V7'", "IMAGENET1K_V1"], ["pipeline backbones resnet18"]
    ),
    "layer": Case(["--layer", "last"], ["no layer 'last'", "late"], ["pipeline backbones efficientnet_lite0"]),
    "head": Case(["--head", "logistik"], ["got 'logistik'"], ["--head logistic"]),
    "import path": Case(["--head", "sklearn.svm.SVX"], ["'SVX' in sklearn.svm"], ["sklearn.svm.SVC"]),
    "scoring": Case(["--scoring", "acuracy"], ["got 'acuracy'"], ["--scoring accuracy"]),
    "column": Case(["--column", "labl"], ["'labl'", "'label'"], ["did you mean 'label'?"]),
    "kind": Case(["--column", "label:number"], ["'label'", "a number"], ["--column label:class"]),
    "groups": Case(["--groups", "patient"], ["'patient'"], ["--labels TABLE"]),
    "split": Case(["--split", "part"], ["'part'"], ["--labels TABLE"]),
    "grid": Case(["--grid", "logistic.c=1"], ["got 'c'"], ["--grid logistic.C=..."]),
    "grid of another head": Case(["--grid", "knn.n_neighbors=1"], ["got 'knn'"], ["--head knn"]),
    "grid without values": Case(["--grid", "logistic"], ["HEAD.PARAM=VALUE"], ["logistic.C=0.01,0.1,1"]),
    "grid with a wrong value": Case(["--grid", "logistic.C=big"], ["logistic", "big"], ["--grid"]),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown_names_get_the_nearest(what: str) -> None:
    case = UNKNOWN[what]
    check(case._replace(words=["evaluate", photos(), "--jobs", "1", *case.words]))


def test_an_unknown_name_is_found_before_any_image_is_read(network: Planted) -> None:
    photos()
    for what in ("head", "scoring", "column", "groups", "split", "grid"):
        refused("evaluate", "photos", *UNKNOWN[what].words)
    assert network.seen == []


def test_one_label_set_is_wanted_for_a_model() -> None:
    flat()
    table("id,label,size", *(f"{name},{text},{n}.5" for n, (name, text) in enumerate(LABELS.items())))
    check(
        Case(
            ["fit", "flat", "--labels", "labels.csv", "--out", "m.model"],
            ["one label set, got 2: label, size"],
            ["--column label"],
        )
    )


def test_unknown_names_to_the_lists() -> None:
    check(Case(["backbones", "resnet51"], ["'resnet51'"], ["pipeline backbones"]))
    check(Case(["heads", "svm"], ["'svm'"], ["pipeline heads"]))
    check(Case(["cache", "info", "photos"], ["photos: expected a cache, got none"], ["pipeline cache list"]))


# --- caches


class TestCaches:
    @pytest.fixture(autouse=True)
    def cache(self) -> Path:
        done("extract", photos())
        return the_cache()

    def test_of_another_format(self, cache: Path) -> None:
        with h5py.File(cache, "r+") as file:
            file.attrs["format"] = np.int64(7)
        for words in (
            ["evaluate", str(cache)],
            ["evaluate", "photos-efficientnet_lite0"],
            ["cache", "info", str(cache)],
        ):
            check(Case(words, [f"{cache}: expected cache format 1, got format 7"], ["extract again"]))
        assert f"{cache}: expected cache format 1, got format 7" in done("cache", "list").err

    def test_truncated(self, cache: Path) -> None:
        os.truncate(cache, cache.stat().st_size // 2)
        for words in (["evaluate", str(cache)], ["cache", "verify", str(cache)]):
            check(Case(words, [f"{cache}: expected a cache, got a truncated file"], [f"cache remove {cache}"]))
        done("cache", "remove", cache)
        assert not cache.exists()

    def test_that_is_no_cache(self) -> None:
        Path("x.h5").write_text("something else")
        check(Case(["evaluate", "x.h5"], ["x.h5: expected a cache"], ["cache"]))

    def test_damaged(self, cache: Path) -> None:
        with h5py.File(cache, "r") as file:
            offset = file["features/penultimate"].id.get_offset()
        with cache.open("r+b") as raw:
            raw.seek(offset + 100)
            raw.write(b"\xff\xff\xff")
        check(Case(["evaluate", str(cache)], [f"{cache}: 1 of 12 rows are damaged"], ["pipeline extract"]))
        outcome = pipeline("cache", "verify", cache)
        assert outcome.code == 1
        assert outcome.out == f"{cache}: 12 rows, 1 damaged, 0 pending\n"
        assert outcome.err.splitlines()[-1].startswith("try: ")
        assert '"damaged": [0]' in pipeline("cache", "verify", cache, "--json").out

    def test_locked_by_another_writer(self, cache: Path) -> None:
        cache.unlink()
        with CacheLock.exclusive(cache):
            check(Case(["extract", "photos"], [f"{cache}: another process is using this cache"], ["wait"]))
        done("extract", "photos")
        with CacheLock.exclusive(cache):
            check(Case(["cache", "remove", str(cache)], [f"{cache}: another process is using"], ["wait"]))
        assert cache.exists()

    def test_several_of_one_name(self) -> None:
        done("extract", "photos", "--store", "fp16")
        check(Case(["cache", "info", "photos"], ["photos: expected one cache, got 2"], ["more of the name"]))


def test_no_disk_space_is_said_before_the_first_image(network: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int = 10**9
        used: int = 10**9
        free: int = 1000

    monkeypatch.setattr(create.shutil, "disk_usage", lambda _: Usage())
    check(Case(["extract", photos()], ["MB for the cache, got", "MB free"], ["--cache DIR", "--store fp16"]))
    assert network.seen == []


def test_a_cache_folder_that_cannot_be_one() -> None:
    photos()
    Path("file").touch()
    check(Case(["extract", "photos", "--cache", "file/caches"], ["file/caches: "], ["--cache DIR"]))


# --- models and outputs


class TestModels:
    @pytest.fixture(autouse=True)
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        photos()
        done("fit", "photos", "--out", "bees.model", "--head", "ridge", "--cv", "2", "--jobs", "1")
        shutil.rmtree("features_cache")
        return Path("bees.model")

    def test_whose_files_do_not_match_their_hashes(self, model: Path) -> None:
        for name in ("head.skops", "training.digests", "backbone.safetensors"):
            copy = Path(f"copy-{name}.model")
            shutil.copytree(model, copy)
            content = bytearray((copy / name).read_bytes())
            content[len(content) // 2] ^= 1
            (copy / name).write_bytes(content)
            for verb in ("predict", "score"):
                check(
                    Case([verb, str(copy), "photos"], [f"{copy / name}: expected SHA-256"], ["copy the model folder"])
                )

    def test_with_a_file_missing(self, model: Path) -> None:
        (model / "head.skops").unlink()
        check(Case(["predict", str(model), "photos"], [f"{model / 'head.skops'}: expected"], ["copy the model folder"]))

    def test_with_a_broken_record(self, model: Path) -> None:
        (model / "model.json").write_text("{")
        check(Case(["predict", str(model), "photos"], [f"{model / 'model.json'}: expected"], ["fit"]))

    def test_photos_that_are_missing(self, model: Path) -> None:
        check(Case(["predict", str(model), "new.jpg"], ["new.jpg: no such file"], ["ls"]))
        check(Case(["predict", str(model), "photos/ants/00.png", "new.jpg"], ["new.jpg: no such file"], ["ls"]))

    def test_a_table_of_photos_that_are_not_there(self, model: Path) -> None:
        labels()
        check(Case(["predict", str(model), "labels.csv"], *NOT_THERE))

    def test_labels_that_are_missing(self, model: Path) -> None:
        check(Case(["score", str(model), flat()], ["flat: expected labels, got none"], ["--labels"]))
        check(Case(["score", str(model), "photos", "--column", "sex"], ["'sex'", "label"], ["--column"]))

    def test_an_output_of_unknown_ending(self, model: Path) -> None:
        check(Case(["predict", str(model), "photos", "--out", "a.xlsx"], ["a.xlsx", ".csv"], ["--out predictions.csv"]))


def test_a_model_that_does_not_exist() -> None:
    photos()
    for verb in ("predict", "score"):
        check(
            Case(
                [verb, "gone.model", "photos"],
                ["gone.model: expected a model folder, got no such path"],
                ["pipeline fit"],
            )
        )
        check(
            Case([verb, "photos", "photos"], ["photos: expected a model folder, got no model.json"], ["pipeline fit"])
        )


OUTPUTS: dict[str, list[Any]] = {
    "evaluate": ["evaluate", "photos"],
    "fit": ["fit", "photos"],
    "predict": ["predict", "any.model", "photos"],
    "demo": ["demo"],
}


@pytest.mark.parametrize("verb", OUTPUTS)
def test_an_output_that_cannot_be_written_is_said_before_the_work(verb: str, network: Planted) -> None:
    photos()
    Path("file").touch()
    out = "file/answers.csv"
    check(Case([*OUTPUTS[verb], "--out", out], [f"--out {out}: expected to write", "file is a file"], ["--out"]))
    assert network.seen == []


def test_a_folder_of_other_things_is_said_before_the_work(network: Planted) -> None:
    photos()
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").touch()
    wanted = ["thesis: expected a run or an empty folder", "got chapter.tex and no run.json"]
    check(Case(["evaluate", "photos", "--out", "thesis"], wanted, ["--out thesis/run"]))
    assert network.seen == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("verb", OUTPUTS)
def test_a_read_only_folder_is_said_before_the_work(verb: str, network: Planted) -> None:
    photos()
    Path("closed").mkdir(mode=0o555)
    check(Case([*OUTPUTS[verb], "--out", "closed/a.csv"], ["no permission to write in"], ["--out"]))
    assert network.seen == []


def test_a_model_is_not_put_into_a_folder_of_something_else(network: Planted) -> None:
    photos()
    check(
        Case(
            ["fit", "photos", "--out", "photos"],
            ["photos: expected an empty folder or a model to replace, got"],
            ["--out photos"],
        )
    )
    assert network.seen == []
    assert len(list(Path("photos").rglob("*.png"))) == 12


# --- what nobody could have foreseen


def test_ctrl_c_ends_with_130_and_one_sentence(network: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    photos()

    def press(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(network_room, "open_runtime", press)
    monkeypatch.setattr("pipeline.cli.errors._state", {"said": False})
    outcome = pipeline("extract", "photos")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err.splitlines()[-1] == "nothing lost; run the same command to go on"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x/y"), MemoryError("out of 4 GB")])
def test_what_the_system_refuses_is_two_lines_too(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    photos()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(network_room, "open_runtime", fail)
    said, step = refused("extract", "photos")
    assert ("x/y: " in said and "No space left" in said) or "4 GB" in said
    assert step


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    photos()

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(network_room, "open_runtime", fail)
    with pytest.raises(ValueError, match="ours"):
        pipeline("extract", "photos")
