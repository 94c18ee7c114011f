"""Make the picture of docs/guide.md with the displays, from installed data: python docs/first_screen.py

Every number in it comes from the study and the run that it draws. It takes some minutes on two cores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

import pipeline as pl

PICTURE = Path(__file__).with_name("first_screen.png")
EVERY = 4  # crops: a part of them is enough to see it
COLUMN, GROUPS = "photo", "quadrant"  # crops of one quadrant of a photograph stay on one side of a split
HEADS = ("logistic", "ridge", "lda", "knn", "centroid")
FOLDS = 8
LOOK = {
    "font.size": 15,
    "axes.titlesize": 18,
    "xtick.labelsize": 14,
    "ytick.labelsize": 15,
    "axes.labelsize": 14,
    "figure.dpi": 100,
}


def found(folder: Path) -> tuple[pl.Study, pl.Run]:
    """Return the study and the run to draw, stored in a folder."""
    crops = pl.ImageSource.open("photo-crops")
    crops = crops.take(range(0, len(crops), EVERY))
    study = pl.study(crops, column=COLUMN, groups=GROUPS, head="ridge", cache=folder / "caches", out=folder / "study")
    cache = pl.extract(crops, cache=folder / "caches")
    run = pl.evaluate(cache, column=COLUMN, groups=GROUPS, heads=HEADS, cv=FOLDS, out=folder / "run")
    return study, run


def picture(study: pl.Study, run: pl.Run, *, photos: Any = None, pictures: int = 120) -> Any:
    """Return the figure: learning curves, the map of the embeddings, the leaderboard."""
    import matplotlib.pyplot as plt

    with mpl.rc_context(LOOK):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(16, 5.4), layout="constrained", width_ratios=(1.0, 1.28, 0.76), facecolor="white"
        )
        figure.get_layout_engine().set(w_pad=0.14, h_pad=0.14, wspace=0.03)
        pl.LearningCurveDisplay.from_study(study).plot(left)
        shown = pl.EmbeddingMapDisplay.from_run(run, pictures=pictures, photos=photos, side=0.08)
        shown.plot(middle)
        pl.LeaderboardDisplay.from_run(run).plot(right)
        if middle.get_legend() is not None:
            middle.get_legend().remove()  # the photos show the classes
        entitle(left, "Was transfer worth it?")
        entitle(middle, f"{len(shown.map):,} photos as the network sees them")
        entitle(right, f"{len(heads(run))} heads and baselines")
        share = 100 * sum(shown.map.explained)
        middle.set(xlabel=f"two principal components, {share:.0f}% of the variance", ylabel="")
        middle.set_anchor("N")  # its title beside those of the others
        right.set_xlabel(right.get_xlabel().partition(" out of fold")[0] + ", 95% interval")
    return figure


def entitle(ax: Any, title: str) -> None:
    ax.set_title(title, loc="left", fontweight="bold", fontsize=LOOK["axes.titlesize"] - 2, pad=14)


def heads(run: pl.Run) -> list[str]:
    """Return the heads of the run, nulls and the choice among them left out."""
    rated = run.of(run.info().name)
    return [one.head for one in rated if not one.null and one.head != "chosen"]


def main() -> None:
    """Write the picture."""
    mpl.use("Agg")
    with tempfile.TemporaryDirectory() as folder:
        study, run = found(Path(folder))
        print(study.summary, *run.verdicts, sep="\n")
        picture(study, run).savefig(PICTURE, dpi=LOOK["figure.dpi"])
    print(f"{PICTURE.name}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
