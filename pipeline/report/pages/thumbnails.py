"""The pictures of a page: small copies of photos, as many as its budget has room for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pipeline.errors import UnreadableImage
from pipeline.images import ImageSource, thumbnail
from pipeline.parallel import workers
from pipeline.progress import SILENT, Progress

LARGE, SMALL = 144, 72  # pixels of the long side: to be looked at, and to be met on the map
STAGE = "thumbnails"
_TOGETHER = 32  # photos that are read before the budget is looked at again


class Shown(Protocol):
    """Photos that a page may show, by their ids."""

    def __contains__(self, name: str) -> bool: ...

    def picture(self, name: str, side: int) -> bytes:
        """Return the photo as a small JPEG, its long side so many pixels at most; empty where there is none."""


class Shelf:
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


class Album:
    """The pictures of one page, each of them once, whoever shows it.

    Attributes
    ----------
    pictures : list of str
        JPEG files in base 64.
    left_out : int
        Photos that would have been shown, were there room.
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
        return sum(len(one) + 3 for one in self.pictures)

    def place(self, shelf: str, name: str) -> int:
        """Return which of the pictures shows a photo, -1 for none."""
        return self._place.get((shelf, name), -1)

    def fill(
        self,
        shelves: Mapping[str, Shown],
        wanted: Iterable[tuple[str, str]],
        *,
        side: int,
        budget: int,
        progress: Progress = SILENT,
        stage: str = STAGE,
    ) -> None:
        """Add photos, the first that are wanted first, until as many bytes are spent.

        Parameters
        ----------
        shelves : mapping of str to Shown
        wanted : iterable of (str, str)
            Shelf and id.
        side : int
            Pixels of the long side.
        budget : int
            Bytes of base 64.
        progress : Progress
        stage : str
            What the progress is called.
        """
        left = [one for one in dict.fromkeys(wanted) if one not in self._place]
        left = [one for one in left if one[0] in shelves and one not in self._gone]
        spent, total = 0, len(left)
        with ThreadPoolExecutor(workers(None)) as pool:
            while left and spent < budget:
                some, left = left[:_TOGETHER], left[_TOGETHER:]
                made = pool.map(lambda one: shelves[one[0]].picture(one[1], side), some)
                for one, picture in zip(some, made, strict=True):
                    if not picture:
                        self._gone.add(one)
                        self.gone.append(one[1])
                        continue
                    text = b64encode(picture).decode()
                    if spent + len(text) > budget:
                        spent = budget  # a smaller one further down would be there by its size, not by its rank
                        self.left_out += 1
                        continue
                    spent += len(text)
                    self._place[one] = len(self.pictures)
                    self.pictures.append(text)
                progress.advance(stage, total - len(left), total)
        self.left_out += len(left)
