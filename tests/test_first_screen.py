"""The picture of the guide is made by the tool itself, and shows the values of its run and study."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_caches import blobs, make_cache, names
from PIL import Image

from pipeline.evaluation import evaluate
from pipeline.images import ImageSource
from pipeline.studies import METHODS, Study
from pipeline.studies.results import Point

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide.md"
SCRIPT = ROOT / "docs" / "first_screen.py"
SIZES = (1, 5, 20)

mpl.use("Agg")


@pytest.fixture
def script() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("first_screen", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    plt.close("all")


def test_the_guide_shows_the_picture_that_the_script_makes(script: Any) -> None:
    ((alt, target),) = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", GUIDE.read_text(encoding="utf-8"))
    path = GUIDE.parent / target
    assert path == script.PICTURE and len(alt.split()) > 20
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:
        assert image.format == "PNG" and 1500 <= image.width <= 1700
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "white, on dark pages too"


def test_the_panels_show_a_study_a_map_and_a_leaderboard(script: Any, tmp_path: Path) -> None:
    X, y = blobs(60, d=8)
    cache = make_cache(tmp_path / "a.h5", X, {"photo": names(y)}, name="a")
    (tmp_path / "photos").mkdir()
    for row in range(60):
        Image.new("L", (16, 16), 3 * row + 20).save(tmp_path / "photos" / f"{row:05d}.jpg", quality=100)
    run = evaluate(cache, heads=["ridge", "centroid"], grid={"ridge.alpha": 1.0}, cv=3, n_jobs=1, out=tmp_path / "run")
    points = tuple(
        Point(
            method, "penultimate" if line < 2 else "", size, 3 * size, size == 20, 3, 0.1 * line + 0.01 * size, 0.0,
            1.0, 1.0, 1.0, 0.0,
        )
        for line, method in enumerate(METHODS)
        for size in SIZES
    )  # fmt: skip
    study = Study(
        name="made", label_set="photo", classes=("ant", "bee", "cat"), train=60, test=30, groups=None,
        backbone="planted:none", layer="penultimate", head="ridge", scoring="balanced_accuracy", points=points,
        crossovers=(), verdicts=(), summary="", about_depth="", interval="", budget={},
    )  # fmt: skip
    before = dict(mpl.rcParams)
    figure = script.picture(study, run, photos=ImageSource.open(tmp_path / "photos"), pictures=8)
    assert dict(mpl.rcParams) == before
    left, middle, right = figure.axes
    curves = {line.get_label(): list(line.get_ydata()) for line in left.lines}
    for line, method in enumerate(METHODS):
        assert curves[method] == [0.1 * line + 0.01 * size for size in SIZES]
    assert sum(len(one.get_offsets()) for one in middle.collections) == 60 and 3 < len(middle.images) <= 8
    levels = sorted(float(np.asarray(image.get_array()).mean()) for image in middle.images)
    assert all(abs((level - 20) / 3 - round((level - 20) / 3)) < 0.4 for level in levels) and len(set(levels)) > 3
    drawn = [float(line.get_xdata()[0]) for line in right.lines if line.get_marker() in ("o", "s")]
    assert drawn == [one.mean for one in sorted(run.of("photo"), key=lambda one: one.null)]
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[1].startswith("60 photos") and titles[2].startswith("2 heads")
    figure.canvas.draw()
    boxes = [ax._left_title.get_window_extent() for ax in figure.axes]
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.x1
