"""Real embeddings by the thousand, from the built-in images: digits turned and shifted, crops of other seeds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform

from pipeline import FeatureCache, ImageSource, extract
from pipeline.images.builtin import photo_crops

SIDE = 32
SEEDS = 7  # of the crops: 10,080
COPIES = 6  # of a digit: 10,782


def embedded(data: str, folder: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return embeddings, the original that each row is a copy of, and columns, in a fixed random order.

    Parameters
    ----------
    data : {"digits", "photo-crops"}
    folder : Path
        Where the caches are kept: the first call runs the network, others read.
    """
    caches, originals, columns = (_digits if data == "digits" else _crops)(folder)
    X = np.concatenate([cache.features() for cache in caches])
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], originals[order], {name: column[order] for name, column in columns.items()}


def _digits(folder: Path) -> tuple[list[FeatureCache], np.ndarray, dict[str, np.ndarray]]:
    source = ImageSource.open("digits")
    images = np.stack(
        [np.asarray(source.reader.read(row, image_id).pixels().convert("L")) for row, image_id in enumerate(source.ids)]
    )
    labels = np.array([int(str(text)) for text in source.columns["label"]])
    rng = np.random.default_rng(0)
    copies = np.stack([moved(image, rng) for _ in range(COPIES) for image in images])
    found = extract(copies, cache=folder)
    return [found], np.tile(np.arange(len(images)), COPIES), {"digit": np.tile(labels, COPIES)}


def moved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image at four times its size, turned by up to 15 degrees, scaled by 15% and shifted by a pixel."""
    turn, zoom = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.85, 1.15) * image.shape[0] / SIDE
    matrix = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (image.shape[0] - 1) / 2 + rng.uniform(-1, 1, 2)
    offset = middle - matrix @ np.full(2, (SIDE - 1) / 2)
    return affine_transform(image, matrix, offset, output_shape=(SIDE, SIDE), order=1)


def _crops(folder: Path) -> tuple[list[FeatureCache], np.ndarray, dict[str, np.ndarray]]:
    sources = [ImageSource(**vars(photo_crops(seed))) for seed in range(SEEDS)]
    caches = []
    for seed, source in enumerate(sources):
        print(f"photo crops of seed {seed}", file=sys.stderr)
        caches.append(extract(source, cache=folder))
    columns = {
        name: np.concatenate([np.array([str(text) for text in source.columns[name]]) for source in sources])
        for name in ("photo", "kind", "quadrant", "orientation")
    }
    return caches, np.arange(len(columns["photo"])), columns
