"""The demo: real photos, one cache, six label sets, a model, answers on quadrants that nothing learned from, a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from commands import done
from PIL import Image

import pipeline.demo as demo
from pipeline.errors import SkipReason, UnreadablePhoto
from pipeline.images import ImageSource, builtin
from pipeline.report import Tile, contact_sheet
from pipeline.report.contact_sheet import PAPER, RIGHT, WRONG
from pipeline.runs import CHOSEN, DUMMY, PIXELS

CROPS = 4  # of a quadrant, where the real demo has 20
COUNT = 18 * 4 * CROPS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where the demo ran once, with fewer crops and heads."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setattr(builtin, "CROPS", CROPS)
        patch.setattr(demo, "HEADS", ("ridge", "knn"))
        patch.setattr(demo, "GRID", {"ridge.alpha": [10, 1000], "knn.n_neighbors": [1], "knn.weights": ["uniform"]})
        builtin.draw.cache_clear()
        outcome = done("demo", "--json")
        (folder / "said.json").write_text(outcome.out)
        yield folder


@pytest.fixture(scope="module")
def said(place: Path) -> dict:
    return json.loads((place / "said.json").read_text())


def test_the_real_demo_has_enough_of_everything() -> None:
    assert len(demo.HEADS) >= 4
    assert demo.LABEL_SETS == ("photo", "kind", "colour", "orientation", "zoom", "random")
    assert len(ImageSource.open(demo.SOURCE)) == 1440


@pytest.mark.slow
class TestDemo:
    def test_six_label_sets_of_one_cache_beside_their_nulls(self, said: dict) -> None:
        assert [info["name"] for info in said["label_sets"]] == list(demo.LABEL_SETS)
        assert {info["kind"] for info in said["label_sets"] if info["name"] == "zoom"} == {"number"}
        for info in said["label_sets"]:
            mine = [row for row in said["results"] if row["label_set"] == info["name"]]
            assert {row["cache"] for row in mine} == {said["cache"]}
            heads = {(row["head"], row["layer"]) for row in mine if row["null"]}
            assert {layer for _, layer in heads} == {PIXELS, "none"} and (DUMMY, "none") in heads
            assert CHOSEN in {row["head"] for row in mine}
            assert all(row["low"] is not None and row["test_low"] is not None for row in mine if row["head"] != CHOSEN)

    def test_the_held_out_quadrants_are_unseen(self, said: dict, place: Path) -> None:
        assert {info["groups"] for info in said["label_sets"]} == {18 * 3}
        assert {(info["n"], info["test"]) for info in said["label_sets"]} == {(COUNT * 3 // 4, COUNT // 4)}
        assert said["asked"] == COUNT // 4
        source = ImageSource.open(demo.SOURCE)
        held_out = {source.read(row).digest for row, name in enumerate(source.ids) if f"/{demo.HELD_OUT}/" in name}
        learned = np.fromfile(place / said["model"] / "training.digests", np.uint8).reshape(-1, 16)
        assert len(learned) == COUNT * 3 // 4 and len(held_out) == COUNT // 4
        assert not held_out & {digest.tobytes() for digest in learned}
        import pandas as pd

        answers = pd.read_parquet(place / "demo/run/predictions.parquet")
        of_test = answers["id"].str.contains(f"/{demo.HELD_OUT}/")
        assert (answers["part"].eq("test") == of_test).all()
        # A photograph's quadrant is never on both sides of a fold.
        folds = answers[~of_test & answers["label_set"].eq("photo")]
        assert (folds.groupby([folds["head"], folds["id"].str.rpartition("/")[0]])["part"].nunique() == 1).all()

    def test_photos_are_recognised_and_noise_is_not(self, said: dict) -> None:
        def best(label_set: str, head: str, layer: str = "penultimate") -> dict:
            (row,) = [
                row
                for row in said["results"]
                if (row["label_set"], row["head"], row["scoring"]) == (label_set, head, "balanced_accuracy")
                and row["layer"] == layer
            ]
            return row

        assert best("photo", "ridge")["low"] > best("photo", "logistic", PIXELS)["mean"]
        assert said["right"] / said["asked"] > 0.6
        for head in ("ridge", "knn"):
            assert best("random", head)["low"] <= best("random", DUMMY, "none")["mean"]
        (verdict,) = [text for text in said["verdicts"] if text.startswith("random: ")]
        assert "no better than guessing" in verdict

    def test_the_right_ones_are_counted_on_the_held_out_quadrants_alone(self, said: dict) -> None:
        (row,) = [
            row
            for row in said["results"]
            if row["label_set"] == "photo" and row["scoring"] == "accuracy" and row["head"] == self.head(said)
        ]
        assert row["test"] == pytest.approx(said["right"] / said["asked"])

    @staticmethod
    def head(said: dict) -> str:
        rated = [row for row in said["results"] if row["label_set"] == "photo" and not row["null"]]
        return rated[0]["head"]

    def test_the_model_says_what_the_evaluation_found(self, said: dict, place: Path) -> None:
        record = json.loads((place / said["model"] / "model.json").read_text())
        assert record["label_set"] == "photo" and len(record["classes"]) == 18
        assert {row["label_set"] for row in record["scores"]} == {"photo"}
        assert record["verdict"].startswith("photo: ")
        mine = [(row["head"], row["scoring"], row["mean"]) for row in record["scores"]]
        assert mine == [(r["head"], r["scoring"], r["mean"]) for r in said["results"] if r["label_set"] == "photo"]

    def test_the_picture_shows_right_and_wrong(self, said: dict, place: Path) -> None:
        with Image.open(place / said["picture"]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10_000
        for colour in (RIGHT, WRONG):
            assert has(pixels, colour)

    def test_a_second_run_runs_no_inference_and_says_so(self, said: dict) -> None:
        assert said["extraction"]["inferred"] == COUNT
        outcome = done("demo")
        assert f"{COUNT} crops: every feature is in the cache, no inference" in outcome.err
        assert "on the quadrants held out of everything: right on " in outcome.err
        assert outcome.lines[-2:] == ["demo/photo.model", "demo/contact_sheet.png"]
        assert sum(line.startswith("dummy ") for line in outcome.lines) == 6
        assert outcome.next_command == ["pipeline", "predict", "demo/photo.model", "photo-crops"]
        assert len(done(*outcome.next_command[1:]).lines) == COUNT + 1


# --- the contact sheet


def has(pixels: np.ndarray, colour: str) -> bool:
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.uint8)
    return bool((pixels == wanted).all(axis=2).any())


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    for number in range(40):
        Image.new("RGB", (30, 20), (number * 6, 90, 120)).save(tmp_path / f"{number:02d}.png")
    return ImageSource.open(tmp_path)


def tiles(source: ImageSource, wrong: int) -> list[Tile]:
    return [Tile(name, "a", "b" if row < wrong else "a", 0.5 + row / 100) for row, name in enumerate(source.ids)]


@pytest.mark.parametrize("wrong", [0, 1, 20, 40])
def test_a_sheet_of_any_share_of_mistakes(source: ImageSource, wrong: int, tmp_path: Path) -> None:
    path = contact_sheet(source, tiles(source, wrong), tmp_path / "new folder" / "sheet.png", title="A title", most=16)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert has(pixels, WRONG) == (wrong > 0) and has(pixels, RIGHT) == (wrong < 40) and has(pixels, PAPER)
    assert [item.name for item in path.parent.iterdir()] == ["sheet.png"]


def test_the_surest_mistakes_come_first(source: ImageSource, tmp_path: Path) -> None:
    shown = []
    read = source.read

    def reading(row: int) -> object:
        shown.append(row)
        return read(row)

    object.__setattr__(source, "read", reading)
    contact_sheet(source, tiles(source, 20), tmp_path / "sheet.png", most=8)
    assert shown[:4] == [19, 18, 17, 16]
    assert len(shown) == 8 and all(row >= 20 for row in shown[4:])


def test_long_names_and_photos_that_are_gone_are_drawn_all_the_same(source: ImageSource, tmp_path: Path) -> None:
    long = [Tile(name, "t" * 80, "a" * 80, float("nan")) for name in source.ids]

    def reading(row: int) -> object:
        raise UnreadablePhoto(SkipReason.MISSING)

    object.__setattr__(source, "read", reading)
    path = contact_sheet(source, long, tmp_path / "sheet.png", title="x" * 500, most=8)
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] == 1538 or pixels.shape[1] > 1000
    white = np.array([255, 255, 255], np.uint8)
    assert (pixels[:, -8:] == white).all()  # nothing runs over the margin
