"""Paths in a table: absolute ones made relative to the images' folder, and names without a file ending."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pipeline.errors import SourceError
from pipeline.images.decode import IMAGE_ENDINGS, ending
from pipeline.images.listing import printable


def is_absolute(text: str) -> bool:
    """Return whether a path is absolute on any system: ``/data/1.jpg``, ``C:\\data\\1.jpg``, ``\\\\server\\1.jpg``."""
    slashed = text.replace("\\", "/")
    return slashed.startswith("/") or (slashed[:1].isalpha() and slashed[1:3] == ":/")


def relative_to(text: str, folders: Iterable[str]) -> str | None:
    """Return an absolute path relative to the first of these folders that it lies below, None below none of them.

    Paths are compared as they are written, then with links in their folders resolved. The letter of a Windows drive
    is compared in any case, names only where the system itself compares them so.

    Parameters
    ----------
    text : str
    folders : iterable of str
        Absolute; as written and resolved, where links lead to them.
    """
    folders = list(folders)
    for path in (text, _resolved(text)):
        parts = _parts(path)
        for folder in folders:
            above = _parts(folder)
            if len(parts) > len(above) and _comparable(parts[: len(above)]) == _comparable(above):
                return "/".join(parts[len(above) :])
    return None


def spellings(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return a folder as it is written and with its links resolved, both absolute."""
    written = os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111 - keeps the name of a link
    return tuple(dict.fromkeys((written, os.path.realpath(written))))


def common_folder(paths: Sequence[str]) -> str | None:
    """Return the folder that all these absolute paths lie below, None where they have none in common."""
    try:
        found = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # of different drives
        return None
    return found or None


def _parts(path: str) -> list[str]:
    """Return drive or root, and the names of an absolute path."""
    slashed = unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))
    if slashed[1:2] == ":":
        return [slashed[:2].lower(), *filter(None, slashed[2:].split("/"))]
    root = "//" if slashed.startswith("//") else "/"
    return [root, *filter(None, slashed.split("/"))]


def _comparable(parts: list[str]) -> list[str]:
    return [os.path.normcase(part) for part in parts]


def _resolved(path: str) -> str:
    """Return the path with the links of its folder resolved; the file's own link keeps its name."""
    folder, name = os.path.split(path)
    return os.path.join(_resolved_folder(folder), name)  # noqa: PTH118


@lru_cache(maxsize=4096)
def _resolved_folder(folder: str) -> str:
    return os.path.realpath(folder)


class Stems:
    """Images by their name without the file ending, in the folders of one source; each folder is listed once."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str, where: str) -> str | None:
        """Return the only image of this name and any file ending, None where there is none.

        Raises
        ------
        SourceError
            Several images have this name.
        """
        if ending(name) in IMAGE_ENDINGS:
            return None
        folder, slash, stem = name.rpartition("/")
        if folder not in self._folders:
            try:
                names = sorted(os.listdir(os.path.join(self._base, folder)))  # noqa: PTH118, PTH208
            except OSError:
                names = []
            self._folders[folder] = images_by_stem(names)
        found = self._folders[folder].get(unicodedata.normalize("NFC", stem), [])
        check_unambiguous(name, found, where)
        return f"{folder}{slash}{found[0]}" if found else None


def images_by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of images by what stands before their file ending, in Unicode's composed form."""
    found: dict[str, list[str]] = {}
    for name in names:
        if ending(name) in IMAGE_ENDINGS:
            found.setdefault(unicodedata.normalize("NFC", name.rpartition(".")[0]), []).append(name)
    return found


def check_unambiguous(name: str, found: Sequence[str], where: str) -> None:
    """Raise `SourceError` where several images have a name that is given without file ending."""
    if len(found) > 1:
        raise SourceError(
            f"{where}: expected one image called {printable(name)}, got {len(found)}: {printable(found[0])} and "
            f"{printable(found[1])}",
            f"write the file ending, such as {printable(found[0])}",
        )
