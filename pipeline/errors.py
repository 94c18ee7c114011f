"""The errors of the package, each with a next step.

Every error that a user can cause is a `PipelineError`: a sentence "expected X, got Y", and one `next_step` to paste or
do. The command line prints the two as its two lines. The tree:

    PipelineError
    ├── SourceError       images
    ├── BackboneError     networks, layers, weights
    ├── CacheError        cache files
    │   └── CacheLocked   another process writes the cache
    ├── LabelError        labels
    ├── HeadError         heads, grids, scorings
    ├── EvaluationError   splits and scores
    ├── ModelError        model folders
    ├── ExportError       exported models
    ├── ReportError       pages and figures
    └── ServerError       the HTTP server
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "nearest: a, b, c" for an error's text, or the first few names where nothing is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    if close:
        return f"nearest: {', '.join(close)}"
    return f"there are: {', '.join(known[:6])}{', ...' if len(known) > 6 else ''}"


class PipelineError(Exception):
    """An error that a user can cause, with a next step.

    Parameters
    ----------
    message : str
        "expected X, got Y"; it names the file, row or value.
    next_step : str
        A command to paste, or an action.
    """

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\ntry: {self.next_step}"


class SourceError(PipelineError):
    """The images cannot be found or listed."""


class BackboneError(PipelineError):
    """The backbone, one of its layers or its weights is not available."""


class CacheError(PipelineError):
    """A cache cannot be made, opened or trusted."""


class CacheLocked(CacheError):
    """Another process is writing this cache."""


class LabelError(PipelineError):
    """The labels cannot be read, or do not fit the images."""


class HeadError(PipelineError):
    """A head, its grid or a scoring is unknown, or does not fit the labels or the options."""


class EvaluationError(PipelineError):
    """The rows cannot be split or scored with these options."""


class ModelError(PipelineError):
    """A model folder cannot be written, opened or trusted."""


class ExportError(PipelineError):
    """A model cannot be exported in this format, or the export does not predict what the model predicts."""


class ReportError(PipelineError):
    """A page or a figure cannot be made with these options."""


class ServerError(PipelineError):
    """The server cannot be started with these options."""


class SkipReason(IntEnum):
    """The reason why an image has no features. The values are part of cache format 1: never renumber, only add."""

    UNREADABLE = 2
    EMPTY = 3
    NOT_AN_IMAGE = 4
    TOO_LARGE = 5
    TOO_LONG = 6
    MISSING = 7
    FORBIDDEN = 8
    NO_DECODER = 9
    NOT_FINITE = 10
    NO_BYTES = 11

    @property
    def text(self) -> str:
        """The reason in words."""
        return _REASON_TEXT[self]


_REASON_TEXT = {
    SkipReason.UNREADABLE: "unreadable: truncated or damaged",
    SkipReason.EMPTY: "empty file",
    SkipReason.NOT_AN_IMAGE: "not an image",
    SkipReason.TOO_LARGE: "too large: over 200 megapixels, or over 64 from next to no bytes",
    SkipReason.TOO_LONG: "too long: aspect ratio over 50 to 1",
    SkipReason.MISSING: "file is missing",
    SkipReason.FORBIDDEN: "no permission to read the file",
    SkipReason.NO_DECODER: "needs a decoder that is not installed",
    SkipReason.NO_BYTES: "no bytes in the table's cell, at most a path",
    SkipReason.NOT_FINITE: "the network returned a value that is not finite",
}


class UnreadableImage(Exception):
    """An image has no features; the run records the reason and continues.

    Not a `PipelineError`: whether it stops the run is the caller's choice (`on_error`).
    """

    def __init__(self, reason: SkipReason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.text} ({self.detail})" if self.detail else self.reason.text
