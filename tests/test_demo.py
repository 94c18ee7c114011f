"""The demo trains on nothing it holds out, ends with a report page, and computes nothing the second time."""

from __future__ import annotations

from pathlib import Path

import pytest
from progress_notes import Notes

from pipeline import demo
from pipeline.images import ImageSource
from pipeline.runs import Run


@pytest.mark.slow
def test_the_demo_runs_the_whole_workflow_and_reuses_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "STEP", 4)
    monkeypatch.setattr(demo, "HEADS", ("ridge", "centroid"))
    monkeypatch.setattr(demo, "GRID", {"ridge.alpha": [1000.0], "centroid.shrink_threshold": [None]})
    first = demo.run_demo("demo", n_jobs=1)
    assert first.cache.summary.inferred == len(first.cache) == 360
    assert first.predicted == 90
    assert first.correct > 0.6 * first.predicted

    best = first.run.best("photo")
    pixels = next(r for r in first.run.of("photo") if r.layer == "pixel_statistics")
    assert best.mean > pixels.mean + 0.1
    assert len(Run.open("demo/run").leaderboard()) == len(first.run.leaderboard())

    held_out = {tile for tile in ImageSource.open("photo-crops").ids if f"/{demo.HELD_OUT}/" in tile}
    learned = {digest.tobytes() for digest in first.model.training_digests}
    row_of = {name: row for row, name in enumerate(first.cache.ids)}
    held_out_rows = [row_of[name] for name in held_out & row_of.keys()]
    assert len(held_out_rows) == 90
    assert not any(first.cache.digest[row].tobytes() in learned for row in held_out_rows)

    assert first.report == Path("demo/run/photo-crops-report.html")
    page = first.report.read_text(encoding="utf-8")
    assert "photo-crops" in page and page.count("data:image/") > 10

    notes = Notes()
    again = demo.run_demo("demo", n_jobs=1, progress=notes)
    assert again.cache.summary.inferred == 0
    assert again.correct == first.correct
    assert any("are stored from an earlier run and are not computed again" in note for note in notes.texts)
