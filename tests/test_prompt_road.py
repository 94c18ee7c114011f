"""The main road at the prompt, from a folder of photos to answers, as a person walks it."""

from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main

Answer = tuple[int, str, str]
Run = Callable[..., Answer]


def photo(path: Path, hue: str, rng: np.random.Generator) -> None:
    """Write a photo of blotches, reddish or bluish."""
    pixels = rng.integers(0, 90, (6, 6, 3), np.uint8)
    pixels[..., 0 if hue == "red" else 2] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((48, 48)).save(path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(10):
        photo(tmp_path / "photos" / "reds" / f"{number}.jpg", "red", rng)
        photo(tmp_path / "photos" / "blues" / f"{number}.jpg", "blue", rng)
    photo(tmp_path / "new" / "one.png", "red", rng)
    photo(tmp_path / "new" / "two.png", "blue", rng)
    (tmp_path / "new" / "three.jpg").write_text("not a photo")

    def go(*words: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["pipeline", *map(str, words)])
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return int(code or 0), said.out, said.err  # type: ignore[call-overload]

    return go


def test_from_photos_to_answers(run: Run, tmp_path: Path) -> None:
    code, out, err = run("extract", "photos", "--jobs", 1)
    assert code == 0, err
    assert out == f"{next((tmp_path / 'features_cache').glob('*.h5')).relative_to(tmp_path)}\n"
    assert "20 images: 20 stored, 0 reused, 0 failed; 20 went through the network" in err
    follow = err.splitlines()[-1]
    assert follow.startswith("next: pipeline evaluate ")

    code, out, err = run(*shlex.split(follow.removeprefix("next: pipeline ")), "--json", "--jobs", 1)
    assert code == 0, err
    results = json.loads(out)["results"]
    wanted = {
        "label_set", "cache", "backbone", "layer", "head", "n", "scoring", "mean", "low", "high", "nested",
        "test", "test_low", "test_high", "params", "seconds",
    }  # fmt: skip
    assert all(wanted <= result.keys() for result in results)
    best = results[0]
    assert (best["head"], best["n"], best["mean"], best["nested"], best["test"]) == ("logistic", 20, 1.0, True, None)
    assert {result["layer"] for result in results} == {"penultimate", "pixel_statistics", "none"}

    code, out, err = run("evaluate", "photos", "--jobs", 1)
    assert code == 0
    assert out.startswith("label ")
    assert "right on 100 of 100 new photos" in err
    follow = next(line for line in err.splitlines() if line.startswith("then: "))

    code, out, err = run(*shlex.split(follow.removeprefix("then: pipeline ")), "--jobs", 1)
    assert code == 0, err
    assert out == "photos.model\n"

    code, out, err = run("predict", "photos.model", "new", "--top", 1, "--jobs", 1)
    assert code == 0
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(out))}
    assert {name: row["label"] for name, row in rows.items()} == {
        "one.png": "reds",
        "two.png": "blues",
        "three.jpg": "",
    }
    assert rows["three.jpg"]["error"].startswith("not an image")
    assert rows["one.png"]["error"] == ""

    for ending in ("csv", "parquet", "jsonl"):
        code, out, _ = run("predict", "photos.model", "new", "--out", f"answers.{ending}", "--jobs", 1, "--quiet")
        assert (code, out) == (0, f"answers.{ending}\n")
        assert (tmp_path / f"answers.{ending}").stat().st_size

    code, out, _ = run("score", "photos.model", "photos", "--json", "--jobs", 1)
    said = json.loads(out)
    assert said["n"] == 20
    assert len(said["seen_in_training"]) == 20

    assert "photos-efficientnet_lite0" in run("cache", "list")[1]
    assert "sound" in run("cache", "verify", "photos")[1]
    assert "weights_sha256" in run("cache", "info", "photos")[1]
    assert run("cache", "remove", "photos")[0] == 0
    assert not list((tmp_path / "features_cache").glob("*.h5"))


def test_quiet_says_nothing_on_stderr(run: Run) -> None:
    assert run("extract", "photos", "--quiet", "--jobs", 1)[2] == ""


def test_heads_and_backbones_are_listed(run: Run) -> None:
    code, out, _ = run("heads", "--json")
    assert code == 0
    assert {"logistic", "ridge", "lda", "knn", "centroid", "dummy"} <= {
        head["name"] for head in json.loads(out)["heads"]
    }
    code, out, _ = run("backbones", "efficientnet_lite0", "--json")
    said = json.loads(out)
    called = {name: layer["width"] for layer in said["layers"] for name in layer["called"]}
    assert called == {"early": 40, "middle": 480, "late": 192, "penultimate": 1280}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['pipeline', '--help']\n"
        "import pipeline, pipeline.cli\n"
        "try:\n    pipeline.cli.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'sklearn', 'pandas', 'h5py'} & sys.modules.keys()\n"
        "print('heavy:', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")
    assert "extract" in done.stdout
