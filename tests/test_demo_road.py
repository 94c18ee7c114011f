"""The demo holds out what it says it holds out, and runs no inference the second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import demo
from pipeline.images import ImageSource


@pytest.mark.slow
def test_the_demo_runs_the_whole_road_and_no_inference_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "LABEL_SETS", ("photo", "random"))
    monkeypatch.setattr(demo, "HEADS", ("ridge", "centroid"))
    monkeypatch.setattr(demo, "GRID", {"ridge.alpha": [1000.0], "centroid.shrink_threshold": [None]})
    first = demo.run_demo("demo", n_jobs=1)
    assert first.cache.summary.inferred == len(first.cache) == 1440
    assert first.asked == 360
    assert first.right > 0.8 * first.asked

    photo, random = (first.run.best(name) for name in ("photo", "random"))
    pixels = next(r for r in first.run.of("photo") if r.layer == "pixel_statistics")
    assert photo.mean > 0.85 > pixels.mean
    assert random.low is not None
    assert random.low < 1 / 3 + 0.02

    source = ImageSource.open("photo-crops")
    held_out = {tile for tile in source.ids if f"/{demo.HELD_OUT}/" in tile}
    assert len(held_out) == 360
    learned = {digest.tobytes() for digest in first.model.training_digests}
    row_of = {name: row for row, name in enumerate(first.cache.ids)}
    assert not any(first.cache.digest[row_of[name]].tobytes() in learned for name in held_out)

    picture = np.asarray(Image.open(first.picture).convert("L"))
    assert picture.shape[0] > 500
    assert picture.std() > 20

    again = demo.run_demo("demo", n_jobs=1)
    assert again.cache.summary.inferred == 0
    assert again.right == first.right
