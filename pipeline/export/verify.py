"""How is an exported model checked? It must predict the same as the original model for the same photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.errors import ExportError
from pipeline.search import Predictions

TOLERANCE = 1e-4
_BATCH = 16  # the last batch is smaller, so that a batch size fixed in the exported network is found

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class CheckImages:
    """The photos that an export is checked on, with the predictions that it must reproduce.

    Attributes
    ----------
    ids : list of str, length n
    pixels : ndarray of uint8, shape (n, crop, crop, 3)
        Network input.
    expected : Predictions
        The original model's predictions.
    which : str
        A description, such as ``64 of 245 training photos``.
    """

    ids: list[str]
    pixels: np.ndarray
    expected: Predictions
    which: str


@dataclass(frozen=True, eq=False)
class DecodeCheckImages:
    """Images that image libraries decode differently, with the pixels that an export must read.

    Attributes
    ----------
    names : list of str, length k
    files : list of bytes
    pixels : ndarray of uint8, shape (k, crop, crop, 3)
        As `predict` decodes them with ``decode="exact"``.
    """

    names: list[str]
    files: list[bytes]
    pixels: np.ndarray


@dataclass(frozen=True)
class ParityCheck:
    """How the predictions of an exported model differ from those of the original model.

    Attributes
    ----------
    what : str
        The file that was run.
    photos : int
    which : str
    changed : int
        Number of photos with another class, or another set of tags; 0 for numbers.
    largest : float
        Largest difference of a probability; of a score or number relative to the largest one. NaN if the head returns
        only classes.
    of : {"probability", "score", "number", "label"}
    """

    what: str
    photos: int
    which: str
    changed: int
    largest: float
    of: str

    @property
    def text(self) -> str:
        """The result in one line."""
        changed = "" if self.of == "number" else f", {self.changed} changed label{'' if self.changed == 1 else 's'}"
        if self.of == "label":
            return f"{self.what} checked on {self.which}{changed}"
        share = "" if self.of == "probability" else ", as a share of the largest"
        return (
            f"{self.what} checked on {self.which}: largest difference of a {self.of} {self.largest:.1e}{share}{changed}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {**asdict(self), "largest": self.largest if np.isfinite(self.largest) else None}


def check_parity(what: str, run: Callable[[np.ndarray], Outputs], check_images: CheckImages, kind: str) -> ParityCheck:
    """Run an exported model on the photos and return how its predictions differ.

    Parameters
    ----------
    what : str
        Name of its file, for the result and for errors.
    run : callable
        Maps uint8 (b, crop, crop, 3) to the exported model's outputs by name.
    check_images : CheckImages
    kind : {"class", "number", "multi"}

    Raises
    ------
    ExportError
        The export cannot be run, or predicts something else.
    """
    expected, n = check_images.expected, len(check_images.pixels)
    try:
        parts = [run(check_images.pixels[start : start + _BATCH]) for start in range(0, n, _BATCH)]
    except Exception as error:  # each runtime has its own exception types
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{what}: expected predictions for {check_images.which}, got {type(error).__name__}: {reason}", _TRY
        ) from error
    found = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    labels = found[{"class": "label", "multi": "tags", "number": "value"}[kind]]
    if kind == "number":
        changed = np.zeros(n, bool)
        parity = ParityCheck(what, n, check_images.which, 0, _gap(labels, expected.labels, relative=True), "number")
    else:
        changed = _find_changed(labels, expected.labels)
        name, of = ("probabilities", "probability") if expected.probabilities is not None else ("scores", "score")
        if expected.ranks is None:
            of, largest = "label", float("nan")
        else:
            largest = _gap(found.get(name), expected.ranks, relative=of == "score")
        parity = ParityCheck(what, n, check_images.which, int(changed.sum()), largest, of)
    if parity.changed or parity.largest > TOLERANCE or (np.isnan(parity.largest) and parity.of != "label"):
        first = f", e.g. {check_images.ids[int(np.flatnonzero(changed)[0])]}" if parity.changed else ""
        raise ExportError(
            f"{parity.text}{first}; expected differences up to {TOLERANCE:.0e} and no changed label: "
            "nothing was written",
            _TRY,
        )
    return parity


def check_decoding(what: str, read: Callable[[bytes], np.ndarray], kinds: DecodeCheckImages) -> None:
    """Raise `ExportError` if an export decodes any kind of image to other pixels than `predict`.

    `check_parity` checks that equal pixels get equal predictions.

    Parameters
    ----------
    what : str
        Name of its file, for errors.
    read : callable
        Maps a photo's file to uint8 (crop, crop, 3), as users of the export read it.
    kinds : DecodeCheckImages

    Raises
    ------
    ExportError
        An image cannot be decoded, or has other pixels.
    """
    for name, file, expected in zip(kinds.names, kinds.files, kinds.pixels, strict=True):
        try:
            pixels = read(file)
        except Exception as error:  # each image library has its own exception types
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"{what}: expected pixels of {name}, got {type(error).__name__}: {reason}; nothing was written", _UPDATE
            ) from error
        if pixels.shape != expected.shape or (pixels != expected).any():
            gap = np.abs(pixels.astype(int) - expected).max() if pixels.shape == expected.shape else "another size"
            raise ExportError(
                f"{what}: expected the pixels that `pipeline predict` makes of {name}, got others (largest difference "
                f"of a grey level: {gap}); nothing was written",
                _UPDATE,
            )


_UPDATE = "update Pillow and numpy: pipeline doctor"
_TRY = "check on other photos with --check DIR (a tie may fall either way), or fit with another head: pipeline heads"


def _find_changed(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return which photos have another prediction, (n,)."""
    if found.shape != expected.shape:
        return np.ones(len(expected), bool)
    return (found != expected).reshape(len(expected), -1).any(axis=1)


def _gap(found: np.ndarray | None, expected: np.ndarray, *, relative: bool) -> float:
    """Return the largest difference; NaN if the shapes or the non-finite values differ."""
    if found is None or found.shape != expected.shape:
        return float("nan")
    same = found == expected  # also equal infinite scores, whose difference would be NaN
    gap = float(np.abs(np.where(same, 0.0, found) - np.where(same, 0.0, expected)).max(initial=0.0))
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    return gap / largest if relative and largest > 0 else gap
