"""Names that mean a part of a fixed split: ``train``, ``training_set``, ``seg_test``, ``valImages``, ``test2017``."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PARTS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
}

# Words that say nothing beside the name of a part. Any other word may be a class: "test_positive", "bullet train".
_FILLERS = frozenset(
    [
        "set",
        "sets",
        "split",
        "data",
        "dataset",
        "subset",
        "part",
        "folder",
        "dir",
        "image",
        "images",
        "img",
        "imgs",
        "picture",
        "pictures",
        "pic",
        "pics",
        "photo",
        "photos",
        "sample",
        "samples",
        "file",
        "files",
        "seg",
        "cls",
        "jpg",
        "jpeg",
        "png",
    ]
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_GLUED = re.compile(rf"({'|'.join(sorted(_PARTS, key=len, reverse=True))})(sets?|data|dataset|images?|imgs?|photos?)")
_YEAR = re.compile(r"(19|20)\d\d")


def split_part(name: str) -> str | None:
    """Return "train", "val" or "test" for a name that means such a part of a split and nothing else, otherwise None.

    Case, separators, years and words such as "set" or "images" do not matter.
    """
    part, rest = _taken_apart(name)
    return part if not rest else None


def resembles_part(name: str) -> str | None:
    """Return the part of a split that a name has a word for, whatever its other words: "test" for ``test_b``."""
    return _taken_apart(name)[0]


def split_parts(names: Iterable[str]) -> dict[str, str] | None:
    """Return the part of a split that each name means; None unless every one of them means a part.

    Names may share any other words: ``birds_train`` and ``birds_test``. ``test_positive`` and ``test_negative`` do not.
    """
    taken = {name: _taken_apart(name) for name in names}
    rests = {rest for _, rest in taken.values()}
    parts = {part for part, _ in taken.values()}
    if not taken or None in parts or not (rests == {()} or (len(rests) == 1 and len(parts) > 1)):
        # Some with fillers alone, others with the words that all of the rest share, is too far a guess.
        return None
    return {name: part for name, (part, _) in taken.items() if part is not None}


def is_fixed_split(parts: Iterable[str]) -> bool:
    """Return whether these parts make a fixed split: something to train on, and something else."""
    parts = set(parts)
    return "train" in parts and len(parts) > 1


def _taken_apart(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the part of a split that a name holds a word for, None for none, and its other words without fillers."""
    found: set[str] = set()
    rest: list[str] = []
    # "hold-out" is one word.
    name = re.sub(r"^\d+[\W_]+", "", name)  # "01_train" is a place in a list
    for word in _WORD.findall(re.sub(r"(?i)(hold|held)[\W_]?out", r"\1out", name)):
        word = word.casefold()
        glued = _GLUED.fullmatch(word)
        if word in _PARTS or glued:
            found.add(_PARTS[glued[1] if glued else word])
        elif word not in _FILLERS and not _YEAR.fullmatch(word):
            rest.append(word)
    if not found or len(found) == 3:
        return None, tuple(rest)
    if len(found) == 1:
        return found.pop(), tuple(rest)
    # "train_val" is trained on and "test-dev" is tested; "train_test" says nothing.
    part = {frozenset(("train", "val")): "train", frozenset(("test", "val")): "test"}.get(frozenset(found))
    return part, tuple(rest)
