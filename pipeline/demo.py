"""The main job on photographs that ship inside Python packages: nothing is downloaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import DEFAULT_FOLDER, FeatureCache
from pipeline.extraction import extract
from pipeline.images import ImageSource
from pipeline.model import Model
from pipeline.model.fitting import evaluate_and_fit
from pipeline.progress import SILENT, Progress
from pipeline.report.contact_sheet import Tile, contact_sheet
from pipeline.runs import Run

SOURCE = "photo-crops"
LABEL_SETS = ("photo", "kind", "colour", "orientation", "zoom", "random")
GROUP = "quadrant"
HELD_OUT = "q4"  # of every photograph: nothing is fitted or chosen on it

HEADS = ("logistic", "ridge", "knn", "centroid")
# Fewer values than the default grids: six label sets of 1,080 crops are to take a minute or two on two cores.
GRID = {"logistic.C": [0.001, 0.01, 0.1], "knn.n_neighbors": [1, 5, 20]}

TILES = 32


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes
    ----------
    cache : FeatureCache
    run : Run
        Six label sets, the nulls beside them.
    model : Model
        Of the label set `photo`.
    model_path, picture : Path
    asked, right : int
        Crops of the held-out quadrants, and how many the model named rightly.
    """

    cache: FeatureCache
    run: Run
    model: Model
    model_path: Path
    picture: Path
    asked: int
    right: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "cache": str(self.cache.path),
            "extraction": self.cache.summary.as_dict(),
            "model": str(self.model_path),
            "picture": str(self.picture),
            "asked": self.asked,
            "right": self.right,
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
    """Extract, evaluate, fit, save, predict on one held-out quadrant of every photograph, and draw what came out.

    Parameters
    ----------
    out : path
        Folder for the model, the results and the picture.
    cache, n_jobs, random_state, progress
        As for `extract`.
    """
    folder = Path(out)
    source = ImageSource.open(SOURCE)
    features = extract(source, cache=Path(cache), n_jobs=n_jobs, progress=progress)
    table = _table(source)
    run, model = evaluate_and_fit(
        features,
        "photo",
        column=LABEL_SETS,
        labels=table,
        groups=GROUP,
        split="part",
        heads=HEADS,
        grid=GRID,
        n_jobs=n_jobs,
        random_state=random_state,
        progress=progress,
    )
    run.save(folder / "run")
    path = model.save(folder / "photo.model")

    said = Model.open(path).predict(features, top=1).set_index("id")
    answers, sure = said["label"].astype(str), said.get("probability", said["error"].map(lambda _: float("nan")))
    held_out = [name for name in source.ids if table["part"][name] == "test"]
    tiles = [
        Tile(name, truth, answers[name], float(sure[name]))
        for name in held_out
        if (truth := table["photo"][name]) is not None
    ]
    right = sum(tile.truth == tile.answer for tile in tiles)
    title = f"Which photograph is it? Right on {right:,} of {len(tiles):,} crops of quadrants that were never learned"
    picture = contact_sheet(
        source, tiles, folder / "contact_sheet.png", title=title, most=TILES, random_state=random_state
    )
    return Demo(features, run, model, path, picture, len(tiles), right)


def _table(source: ImageSource) -> dict[str, dict[str, str | None]]:
    """Return the source's columns by id, and a column that holds out one quadrant of every photograph."""
    table = {name: dict(zip(source.ids, values, strict=True)) for name, values in source.columns.items()}
    parts = ["test" if str(group).endswith(HELD_OUT) else "train" for group in source.columns[GROUP]]
    return {**table, "part": dict(zip(source.ids, parts, strict=True))}
