"""The proof of an export: on the same photos it answers as the model does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.errors import ExportError
from pipeline.search import Predictions

TOLERANCE = 1e-4
_BATCH = 16  # and what is left over: a batch size frozen into the network is found out

Answers = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class CheckImages:
    """Photos that an export is checked on.

    Attributes
    ----------
    ids : list of str, length n
    pixels : ndarray of uint8, shape (n, crop, crop, 3)
        As the network takes them.
    wanted : Predictions
        What the model says of them.
    which : str
        In words, such as ``64 of the 245 photos it learned from``.
    """

    ids: list[str]
    pixels: np.ndarray
    wanted: Predictions
    which: str


@dataclass(frozen=True, eq=False)
class DecodeCheckImages:
    """Images of the kinds that readers are known to read differently; see `pipeline.images.check_images`.

    Attributes
    ----------
    names : list of str, length k
    files : list of bytes
    pixels : ndarray of uint8, shape (k, crop, crop, 3)
        As `predict` reads them with ``decode="exact"``.
    """

    names: list[str]
    files: list[bytes]
    pixels: np.ndarray


@dataclass(frozen=True)
class ParityCheck:
    """How an exported model's answers compare with the model's own.

    Attributes
    ----------
    what : str
        The file that was run.
    photos : int
    which : str
    changed : int
        Photos with another class, or another set of tags; 0 for numbers.
    largest : float
        Largest difference of a probability; of a score or number as a share of the largest one. Not-a-number where the
        head gives classes alone.
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
        """The figures in one line."""
        changed = "" if self.of == "number" else f", {self.changed} changed label{'' if self.changed == 1 else 's'}"
        if self.of == "label":
            return f"{self.what} checked on {self.which}{changed}"
        share = "" if self.of == "probability" else ", as a share of the largest"
        return (
            f"{self.what} checked on {self.which}: largest difference of a {self.of} {self.largest:.1e}{share}{changed}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {**asdict(self), "largest": self.largest if np.isfinite(self.largest) else None}


def check_parity(what: str, run: Callable[[np.ndarray], Answers], witnesses: CheckImages, kind: str) -> ParityCheck:
    """Run an exported model on the photos and return how it compares.

    Parameters
    ----------
    what : str
        Its file, for the figures and for errors.
    run : callable
        Maps uint8 (b, crop, crop, 3) to the exported model's outputs by name.
    witnesses : Witnesses
    kind : {"class", "number", "multi"}

    Raises
    ------
    ExportError
        It cannot be run, or answers otherwise.
    """
    wanted, n = witnesses.wanted, len(witnesses.pixels)
    try:
        parts = [run(witnesses.pixels[start : start + _BATCH]) for start in range(0, n, _BATCH)]
    except Exception as error:  # of whichever runtime
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"{what}: expected it to answer for {witnesses.which}, got {type(error).__name__}: {reason}", _TRY
        ) from error
    found = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    labels = found[{"class": "label", "multi": "tags", "number": "value"}[kind]]
    if kind == "number":
        changed = np.zeros(n, bool)
        proof = ParityCheck(what, n, witnesses.which, 0, _gap(labels, wanted.labels, relative=True), "number")
    else:
        changed = _differ(labels, wanted.labels)
        name, of = ("probabilities", "probability") if wanted.probabilities is not None else ("scores", "score")
        if wanted.ranks is None:
            of, largest = "label", float("nan")
        else:
            largest = _gap(found.get(name), wanted.ranks, relative=of == "score")
        proof = ParityCheck(what, n, witnesses.which, int(changed.sum()), largest, of)
    if proof.changed or proof.largest > TOLERANCE or (np.isnan(proof.largest) and proof.of != "label"):
        first = f", the first of them {witnesses.ids[int(np.flatnonzero(changed)[0])]}" if proof.changed else ""
        raise ExportError(
            f"{proof.text}{first}; expected differences up to {TOLERANCE:.0e} and no changed label: "
            "nothing was written",
            _TRY,
        )
    return proof


def check_decoding(what: str, read: Callable[[bytes], np.ndarray], kinds: DecodeCheckImages) -> None:
    """Return if every kind of image becomes the same pixels by an export as by `predict`, bit for bit.

    That the same pixels get the same prediction is what `prove` shows, on photos.

    Parameters
    ----------
    what : str
        Its file, for errors.
    read : callable
        Maps a photo's file to uint8 (crop, crop, 3), as the export has it read.
    kinds : Kinds

    Raises
    ------
    ExportError
        An image cannot be read, or has other pixels.
    """
    for name, file, expected in zip(kinds.names, kinds.files, kinds.pixels, strict=True):
        try:
            pixels = read(file)
        except Exception as error:  # of whichever reader
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"{what}: expected pixels of {name}, got {type(error).__name__}: {reason}; nothing was written", _REPORT
            ) from error
        if pixels.shape != expected.shape or (pixels != expected).any():
            gap = np.abs(pixels.astype(int) - expected).max() if pixels.shape == expected.shape else "another size"
            raise ExportError(
                f"{what}: expected the pixels that `pipeline predict` makes of {name}, got others (largest difference "
                f"of a grey level: {gap}); nothing was written",
                _REPORT,
            )


_REPORT = "update Pillow and numpy: pipeline doctor"
_TRY = "check on other photos with --check DIR (a tie may fall either way), or fit with another head: pipeline heads"


def _differ(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return which photos have another answer, (n,)."""
    if found.shape != wanted.shape:
        return np.ones(len(wanted), bool)
    return (found != wanted).reshape(len(wanted), -1).any(axis=1)


def _gap(found: np.ndarray | None, wanted: np.ndarray, *, relative: bool) -> float:
    """Return the largest difference; not-a-number where shapes or the values that are not finite differ."""
    if found is None or found.shape != wanted.shape:
        return float("nan")
    same = found == wanted  # infinite scores among them
    gap = float(np.abs(np.where(same, 0.0, found) - np.where(same, 0.0, wanted)).max(initial=0.0))
    largest = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
    return gap / largest if relative and largest > 0 else gap
