"""What a cache file says of its origin: the recipe and the place of its images, and which part of what it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.errors import CacheError

MOST_PARTS = 1_000_000  # as many names are listed where parts are missing


def read_origin(path: Path, text: bytes, sha256: Any) -> dict[str, Any]:
    """Return a file's provenance, or refuse what is none.

    Parameters
    ----------
    path : Path
        Of the file.
    text : bytes
        JSON, as it is stored.
    sha256 : bytes or anything
        What the file says of the text.

    Raises
    ------
    CacheError
        It was changed since it was written, or does not say what a cache must.
    """
    if hashlib.sha256(text).hexdigest().encode() != sha256:
        raise CacheError(
            f"{path}: the provenance does not match its own SHA-256: the file is damaged", reextract_hint(path)
        )
    try:
        provenance = json.loads(text)
        known = isinstance(provenance["recipe"], dict) and all(
            isinstance(provenance[name], str) for name in ("place", "source")
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise CacheError(f"{path}: wanted a recipe and a place in the provenance, found others", reextract_hint(path))
    if "part" in provenance and not _is_part(provenance["part"]):
        found = f"{provenance['part']!r:.80}"
        raise CacheError(f"{path}: wanted to know which part of what this is, found {found}", reextract_hint(path))
    return provenance


def reextract_hint(path: Path) -> str:
    """Return the way out of a cache that cannot be trusted."""
    return f"pipeline cache remove {path}, then extract again"


def _is_part(part: Any) -> bool:
    """Whether this says which part of what a file is: shards have names, shares have numbers."""
    if not isinstance(part, dict) or not all(isinstance(part.get(name), str) for name in ("place", "source")):
        return False
    number, of = part.get("number"), part.get("of")
    return number is of is None or (type(number) is int and type(of) is int and 1 <= number <= of <= MOST_PARTS)
