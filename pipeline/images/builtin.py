"""Built-in sources: real images that ship inside other packages, so that nothing is downloaded."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from pipeline.errors import SourceError
from pipeline.images.arrays import open_array
from pipeline.images.decode import decode
from pipeline.images.listing import Columns, Listing
from pipeline.images.photo import Photo, array_digest

CROPS = 20  # of each quadrant
SIDE = 256  # of a crop, in pixels
MAX_ZOOM = 3.0
RANDOM_CLASSES = ("a", "b", "c")


class Photograph(NamedTuple):
    """A photograph inside a package."""

    file: str
    kind: str
    colour: str


PHOTOGRAPHS = {
    "astronaut": Photograph("skimage/data/astronaut.png", "people", "colour"),
    "brick": Photograph("skimage/data/brick.png", "material", "grey"),
    "camera": Photograph("skimage/data/camera.png", "people", "grey"),
    "cell": Photograph("skimage/data/cell.png", "microscope", "grey"),
    "chelsea": Photograph("skimage/data/chelsea.png", "animal", "colour"),
    "china": Photograph("sklearn/datasets/images/china.jpg", "place", "colour"),
    "coffee": Photograph("skimage/data/coffee.png", "object", "colour"),
    "coins": Photograph("skimage/data/coins.png", "object", "grey"),
    "flower": Photograph("sklearn/datasets/images/flower.jpg", "plant", "colour"),
    "grass": Photograph("skimage/data/grass.png", "material", "grey"),
    "gravel": Photograph("skimage/data/gravel.png", "material", "grey"),
    "hubble_deep_field": Photograph("skimage/data/hubble_deep_field.jpg", "space", "colour"),
    "ihc": Photograph("skimage/data/ihc.png", "microscope", "colour"),
    "moon": Photograph("skimage/data/moon.png", "space", "grey"),
    "motorcycle": Photograph("skimage/data/motorcycle_left.png", "object", "colour"),
    "retina": Photograph("skimage/data/retina.jpg", "microscope", "colour"),
    "rocket": Photograph("skimage/data/rocket.jpg", "place", "colour"),
    "text": Photograph("skimage/data/text.png", "writing", "grey"),
}

_TURNS = {
    0: None,
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


class Crop(NamedTuple):
    """Where a crop lies in its photograph, and what was drawn for it."""

    box: tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the photograph
    quadrant: tuple[int, int, int, int]  # likewise
    turn: int  # degrees, against the clock
    random: str

    @property
    def zoom(self) -> float:
        """The quadrant's short side over the crop's side: 1 to `MAX_ZOOM`."""
        left, top, right, bottom = self.quadrant
        return min(right - left, bottom - top) / (self.box[2] - self.box[0])


@dataclass(frozen=True)
class CropReader:
    """Makes a crop of a photograph when it is read."""

    seed: int

    encoded: ClassVar = False

    def read(self, row: int, image_id: str) -> Photo:
        pixels = cut(image_id, self.seed)
        return Photo(array_digest(pixels), _crop_stat(image_id, self.seed), pixels)

    def take(self, rows: Sequence[int]) -> CropReader:
        return self


def photo_crops(seed: int = 0) -> Listing:
    """Return 1,440 square crops of 18 photographs: random place, zoom and quarter turn, 20 of each quadrant.

    No crop crosses a quadrant, so column "quadrant" is the group that keeps an honest split: a photo's corner is to be
    recognised from its other three. The other columns are photo, kind, colour (the photo's: "colour" or "grey"),
    orientation (degrees against the clock), zoom (1 to 3, log-uniform: the quadrant's short side over the crop's) and
    random, which nothing can predict.
    """
    ids = [
        f"{photo}/q{quadrant}/{n:02d}"
        for photo in PHOTOGRAPHS
        for quadrant in (1, 2, 3, 4)
        for n in range(1, CROPS + 1)
    ]
    ids.sort()
    names = [image_id.split("/")[0] for image_id in ids]
    crops = [draw(image_id, seed) for image_id in ids]
    columns: Columns = {
        "photo": [*names],
        "kind": [PHOTOGRAPHS[name].kind for name in names],
        "colour": [PHOTOGRAPHS[name].colour for name in names],
        "orientation": [str(crop.turn) for crop in crops],
        "zoom": [f"{crop.zoom:.4f}" for crop in crops],
        "random": [crop.random for crop in crops],
        "quadrant": [image_id.rpartition("/")[0] for image_id in ids],
    }
    versions = ",".join(f"{name}-{version(name)}" for name in ("scikit-image", "scikit-learn"))
    return Listing(
        name="photo-crops",
        place=f"builtin:photo-crops@seed-{seed},{versions}",
        ids=ids,
        stat=np.array([_crop_stat(image_id, seed) for image_id in ids], dtype=np.int64),
        reader=CropReader(seed),
        columns=columns,
    )


@lru_cache(maxsize=4096)
def draw(image_id: str, seed: int) -> Crop:
    """Return what the seed draws for a crop; drawn from a hash, so that no library's version changes it."""
    photo, quadrant, _ = image_id.split("/")
    width, height = _photograph(photo).size
    column, row = (int(quadrant[1]) - 1) % 2, (int(quadrant[1]) - 1) // 2  # q1 q2 above, q3 q4 below
    left, right = (0, width // 2) if column == 0 else (width // 2, width)
    top, bottom = (0, height // 2) if row == 0 else (height // 2, height)
    bits = blake2b(f"photo-crops {seed} {image_id}".encode(), digest_size=40).digest()
    u = [int.from_bytes(bits[start : start + 8], "little") / 2**64 for start in range(0, 40, 8)]  # five in [0, 1)
    side = round(min(right - left, bottom - top) / MAX_ZOOM ** u[0])
    x = left + int(u[1] * (right - left - side + 1))
    y = top + int(u[2] * (bottom - top - side + 1))
    return Crop(
        box=(x, y, x + side, y + side),
        quadrant=(left, top, right, bottom),
        turn=90 * int(u[3] * 4),
        random=RANDOM_CLASSES[int(u[4] * len(RANDOM_CLASSES))],
    )


def cut(image_id: str, seed: int) -> np.ndarray:
    """Return the pixels of a crop, uint8, (256, 256, 3)."""
    crop = draw(image_id, seed)
    # Cut first, then enlarged: resizing with a box would look across the quadrant's border.
    square = _photograph(image_id.split("/")[0]).crop(crop.box).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    turn = _TURNS[crop.turn]
    return np.asarray(square if turn is None else square.transpose(turn))


def _crop_stat(image_id: str, seed: int) -> tuple[int, int]:
    """Return a stat that changes with the photograph's file and with what was drawn, without cutting the crop."""
    size = _package_file(PHOTOGRAPHS[image_id.split("/")[0]].file).stat().st_size
    drawn = blake2b(f"{size} {draw(image_id, seed)}".encode(), digest_size=8).digest()
    return SIDE * SIDE * 3, int.from_bytes(drawn, "little", signed=True)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(name: str) -> Image.Image:
    """Return the whole photograph, decoded once in a process (25 MB for all of them)."""
    return decode(_package_file(PHOTOGRAPHS[name].file).read_bytes())


_DISTRIBUTIONS = {
    "skimage": ("scikit-image", "pip install 'transfer-pipeline[demo]'"),
    "sklearn": ("scikit-learn", "pip install scikit-learn"),
}


@cache
def _package_file(file: str) -> Path:
    """Return the path of a file inside a package, which is looked up and not imported."""
    package, _, inside = file.partition("/")
    distribution, install = _DISTRIBUTIONS[package]
    spec = find_spec(package)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None:
        raise SourceError(f"this built-in source needs {distribution}, which is not installed", install)
    if not (folder / inside).is_file():
        raise SourceError(
            f"expected {inside} inside {distribution}, got none in version {version(distribution)}",
            f"install another version of it: pip install --upgrade {distribution}",
        )
    return folder / inside


def digits() -> Listing:
    """Return scikit-learn's 1,797 handwritten digits, 8 by 8 pixels, their 0..16 scaled to 0..255; column "label"."""
    with gzip.open(_package_file("sklearn/datasets/data/digits.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)  # (1797, 65)
    images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return open_array(
        images,
        name="digits",
        place=f"builtin:digits@scikit-learn-{version('scikit-learn')}",
        columns={"label": [str(label) for label in table[:, 64]]},
    )


BUILTIN: dict[str, Callable[[], Listing]] = {"photo-crops": photo_crops, "digits": digits}
