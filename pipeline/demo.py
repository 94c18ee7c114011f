"""`pipeline demo`: the main workflow on photographs that ship inside Python packages, so nothing is downloaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import DEFAULT_FOLDER, FeatureCache
from pipeline.extraction import extract
from pipeline.images import ImageSource
from pipeline.model import Model, evaluate_and_fit
from pipeline.progress import SILENT, Progress
from pipeline.report.html.write import write_report
from pipeline.runs import Run

SOURCE = "photo-crops"
LABEL_SET = "photo"
STEP = 2  # every second crop: 720 crops keep the demo under a minute on two cores
GROUP = "quadrant"
HELD_OUT = "q4"  # of every photograph: nothing is trained or selected on it

HEADS = ("logistic", "ridge")
# Fewer values than the default grid, for the same reason.
GRID = {"logistic.C": [0.001, 0.01, 0.1]}


@dataclass(frozen=True)
class Demo:
    """Results of the demo.

    Attributes
    ----------
    cache : FeatureCache
    run : Run
        Scores of two heads and of both baselines.
    model : Model
    model_path, report : Path
        The saved model, and the report page of the run.
    predicted, correct : int
        Number of crops in the held-out quadrants, and for how many of them the model predicts the right photograph.
    """

    cache: FeatureCache
    run: Run
    model: Model
    model_path: Path
    report: Path
    predicted: int
    correct: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "cache": str(self.cache.path),
            "extraction": self.cache.summary.as_dict(),
            "model": str(self.model_path),
            "report": str(self.report),
            "asked": self.predicted,
            "right": self.correct,
            **self.run.as_dict(),
        }


def run_demo(
    out: str | os.PathLike[str] = "demo",
    *,
    cache: str | os.PathLike[str] = DEFAULT_FOLDER,
    n_jobs: int | None = None,
    random_state: int = 0,
    progress: Progress = SILENT,
) -> Demo:
    """Extract, evaluate, fit, save, predict one held-out quadrant of every photograph, and write the report page.

    A second call reads the features from the cache and the scores from the run.

    Parameters
    ----------
    out : path
        Folder for the run with its report page, and for the model.
    cache, n_jobs, random_state, progress
        As for `extract`.

    Returns
    -------
    Demo
    """
    folder = Path(out)
    crops = ImageSource.open(SOURCE)
    source = crops.take(range(0, len(crops), STEP))
    features = extract(source, cache=Path(cache), n_jobs=n_jobs, progress=progress)
    table = _table(source)
    run, model = evaluate_and_fit(
        features,
        LABEL_SET,
        column=LABEL_SET,
        labels=table,
        groups=GROUP,
        split="part",
        heads=HEADS,
        grid=GRID,
        out=folder / "run",
        n_jobs=n_jobs,
        random_state=random_state,
        progress=progress,
    )
    path = model.save(folder / f"{LABEL_SET}.model")
    report = write_report(run, photos=source, progress=progress)

    predicted = Model.open(path).predict(features, top=1).set_index("id")["label"].astype(str)
    truth = {name: table[LABEL_SET][name] for name in source.ids if table["part"][name] == "test"}
    right = sum(predicted[name] == label for name, label in truth.items())
    return Demo(features, run, model, path, Path(report.path), len(truth), right)


def _table(source: ImageSource) -> dict[str, dict[str, str | None]]:
    """Return the source's columns by id, and a column that holds out one quadrant of every photograph."""
    table = {name: dict(zip(source.ids, values, strict=True)) for name, values in source.columns.items()}
    parts = ["test" if str(group).endswith(HELD_OUT) else "train" for group in source.columns[GROUP]]
    return {**table, "part": dict(zip(source.ids, parts, strict=True))}
