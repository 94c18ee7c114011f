"""Which photos a model calls unfamiliar: those held out of its own kind, and those of other subjects.

    python benchmarks/unfamiliar.py TRAIN VAL photo-crops

TRAIN is what the distance is measured among; of each other DATA the share beyond it is printed, with embeddings as they
are and less their mean.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from pipeline import extract
from pipeline.model.training_set import TrainingSet, novelty_threshold


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("others", nargs="+")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        train, *others = (extract(data, cache=Path(scratch)) for data in (arguments.train, *arguments.others))
        X = np.asarray(train.features(), np.float32)
        print(
            "| | distance | "
            + " | ".join(
                f"{Path(name).name}, {len(one)} photos" for name, one in zip(arguments.others, others, strict=True)
            )
            + " |"
        )
        print("|---|---|" + "---|" * len(others))
        for what, mean in (("as they are", np.zeros(X.shape[1], np.float32)), ("less their mean", X.mean(axis=0))):
            beyond = novelty_threshold(X - mean, np.arange(len(X)), np.asarray(train.digest)[train.rows])
            assert beyond is not None
            photos = TrainingSet(X - mean, np.arange(len(X)), train.ids, train.ids, place="")
            shares = [
                float((1 - photos.nearest(np.asarray(one.features(), np.float32) - mean).cosine[:, 0] > beyond).mean())
                for one in others
            ]
            print(f"| {what} | {beyond:.3f} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
