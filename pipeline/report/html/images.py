"""Thumbnails of a page, made and counted within a size budget."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from pipeline.errors import UnreadableImage
from pipeline.images import ImageSource, thumbnail
from pipeline.parallel import workers
from pipeline.progress import SILENT, Progress
from pipeline.report.html.charts import HUES
from pipeline.report.html.map_layer import MapLayer, points, sample

LARGE, SMALL = 144, 72  # pixels of the long side: to be looked at, and to be met on the map
STAGE = "thumbnails"
_TOGETHER = 32  # photos that are read before the budget is looked at again


class ImageProvider(Protocol):
    """Photos that a page may show, by their ids."""

    def __contains__(self, name: str) -> bool: ...

    def picture(self, name: str, side: int) -> bytes:
        """Return the photo as a small JPEG, its long side so many pixels at most; empty where there is none."""


class SourceImages:
    """Photos of one source, by their ids.

    Parameters
    ----------
    source : ImageSource
    digests : mapping of str to bytes
        What the photos were when their features were extracted: one that has changed since is not shown. A photo whose
        digest is not known is taken as it is.
    """

    def __init__(self, source: ImageSource, digests: Mapping[str, bytes]) -> None:
        self._source, self._digests = source, digests
        self._row_of = {name: row for row, name in enumerate(source.ids)}

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    def picture(self, name: str, side: int) -> bytes:
        """Return the photo as a small JPEG; empty where it cannot be read, or is another one than it was."""
        try:
            photo = self._source.read(self._row_of[name])
            return thumbnail(photo, side) if self._digests.get(name, photo.digest) == photo.digest else b""
        except (KeyError, UnreadableImage):
            return b""


class ImageBudget:
    """The thumbnails of one page, each of them once.

    Attributes
    ----------
    pictures : list of str
        JPEG files in base 64.
    left_out : int
        Photos that do not fit the budget.
    gone : list of str
        Ids of photos that are missing, unreadable or changed.
    """

    def __init__(self) -> None:
        self.pictures: list[str] = []
        self.left_out = 0
        self.gone: list[str] = []
        self._place: dict[tuple[str, str], int] = {}
        self._gone: set[tuple[str, str]] = set()

    @property
    def bytes(self) -> int:
        """How much of the page the pictures are."""
        return sum(len(ref) + 3 for ref in self.pictures)

    def place(self, provider: str, name: str) -> int:
        """Return which of the pictures shows a photo, -1 for none."""
        return self._place.get((provider, name), -1)

    def fill(
        self,
        providers: Mapping[str, ImageProvider],
        refs: Iterable[tuple[str, str]],
        *,
        side: int,
        budget: int,
        progress: Progress = SILENT,
        stage: str = STAGE,
    ) -> None:
        """Add photos in this order until the budget is spent.

        Parameters
        ----------
        providers : mapping of str to ImageProvider
        photos : iterable of (str, str)
            Provider and id.
        side : int
            Pixels of the long side.
        budget : int
            Bytes of base 64.
        progress : Progress
        stage : str
            The name of the progress.
        """
        left = [ref for ref in dict.fromkeys(refs) if ref not in self._place]
        left = [ref for ref in left if ref[0] in providers and ref not in self._gone]
        spent, total = 0, len(left)
        with ThreadPoolExecutor(workers(None)) as pool:
            while left and spent < budget:
                batch, left = left[:_TOGETHER], left[_TOGETHER:]
                made = pool.map(lambda ref: providers[ref[0]].picture(ref[1], side), batch)
                for ref, picture in zip(batch, made, strict=True):
                    if not picture:
                        self._gone.add(ref)
                        self.gone.append(ref[1])
                        continue
                    text = b64encode(picture).decode()
                    if spent + len(text) > budget:
                        spent = budget  # a smaller one further down would be there by its size, not by its rank
                        self.left_out += 1
                        continue
                    spent += len(text)
                    self._place[ref] = len(self.pictures)
                    self.pictures.append(text)
                progress.advance(stage, total - len(left), total)
        self.left_out += len(left)


LOOKED_AT, CELLS, MET = 5_000_000, 1_500_000, 4_500_000  # bytes of thumbnails: of sections, cells and maps
MAP_PICTURES = "thumbnails of the map"
# Colours of numbers from low to high, in light and in dark: distinguished by lightness too.
RAMP = (
    ("#42127a", "#7f6cf5"),
    ("#8f2680", "#b565c9"),
    ("#cf4a6c", "#ea6f86"),
    ("#ee8047", "#f9a866"),
    ("#dfae2b", "#fbe08a"),
)


def collect_images(
    providers: Mapping[str, ImageProvider],
    refs: Iterable[tuple[str, str]],
    mapped: Sequence[MapLayer],
    progress: Progress = SILENT,
    *,
    cells: Iterable[tuple[str, str]] = (),
) -> tuple[ImageBudget, list[str]]:
    """Return the thumbnails of a page, and notes about the photos that have none.

    Parameters
    ----------
    providers : mapping of str to ImageProvider
    photos : iterable of (str, str)
        Provider and id of the photos of the sections, the most important first.
    mapped : sequence of MapLayer
        With a map; its provider is its cache.
    progress : Progress
    cells : iterable of (str, str)
        The photos of the cells of confusion matrices.
    """
    images = ImageBudget()
    images.fill(providers, refs, side=LARGE, budget=LOOKED_AT, progress=progress)
    left_out = images.left_out
    images.fill(providers, cells, side=LARGE, budget=CELLS, progress=progress)
    for map_layer in mapped:
        assert map_layer.map is not None
        met = ((map_layer.cache, name) for name in sample(map_layer.map))
        images.fill(providers, met, side=SMALL, budget=MET // len(mapped), progress=progress, stage=MAP_PICTURES)
    notes = []
    if images.gone:
        batch = f"{len(images.gone):,} photo{'s are' if len(images.gone) > 1 else ' is'} not shown"
        notes.append(f"{batch}, e.g. {images.gone[0]}: missing, unreadable, or not as when the features were extracted")
    if left_out:
        notes.append(
            f"{left_out:,} photos among mistakes, label errors and duplicates have no thumbnail: the page is full"
        )
    return images, notes


def map_points(map_layer: MapLayer, images: ImageBudget) -> dict[str, Any]:
    """Return the points of a map for the script of the page; the label sets of a layer share them."""
    assert map_layer.map is not None
    places = [images.place(map_layer.cache, name) for name in map_layer.map.ids]
    return {**points(map_layer.map, places), "inks": HUES, "ramp": RAMP}
