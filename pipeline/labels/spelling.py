"""How spellings of the same label are unified, within a table and between tables; ambiguous ones are errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import LabelError
from pipeline.images.values import CODE, NUMBER, plain_spelling, value_key
from pipeline.labels.join import count

#: Texts that often mean "not known" in exported tables, in lower case. They are reported, and read as missing
#: only with --missing.
LIKELY_MISSING = frozenset((
    "null", "none", "nil", "na", "nan", "n/a", "n.a.", "#n/a", "#na", "<na>", "nat", "#null!", "#value!", "#ref!",
    "#div/0!", "#name?", "#num!", "-", "--", ".", "?", "??", "\\n",
))  # fmt: skip
#: The same in a column of numbers; in a column of classes the additional ones are ordinary labels.
MISSING_AMONG_NUMBERS = LIKELY_MISSING | {"unknown", "missing", "not available", "not measured", "inf", "-inf"}


def likely_missing(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how often each text occurs that often means "not known"."""
    return {text: times for text, times in counts.items() if text.lower() in LIKELY_MISSING}


def unify(counts: Mapping[str, int], name: str) -> dict[str, str]:
    """Return the spelling that stands for each label of one column; only labels with a variant change.

    Parameters
    ----------
    counts : mapping of text to int
        How often each label occurs.
    name : str
        The column, for messages.

    Raises
    ------
    LabelError
        Two labels differ only in case or in spaces: these may be a slip or two classes.
    """
    spellings: dict[object, list[str]] = {}
    for text in counts:
        spellings.setdefault(value_key(text), []).append(text)
    chosen = {
        text: texts[0] if len(texts) == 1 else plain_spelling(min(texts))
        for texts in spellings.values()
        for text in texts
    }
    seen: dict[str, str] = {}
    for text in sorted(counts):
        other = seen.setdefault(_folded(chosen[text]), text)
        if chosen[other] != chosen[text]:
            raise LabelError(
                f"column {name!r}: labels differ {_difference(other, text)}: {other!r} "
                f"({count(counts[other], 'image')}) and {text!r} ({count(counts[text], 'image')})",
                "write them the same way (in the table, or as one class folder)",
            )
    return chosen


def match(texts: Iterable[str], classes: Sequence[str], what: str = "class") -> dict[str, str]:
    """Return the class that each text means, or the text itself where it means none of them.

    `1` and `1.0` are one class, and so are `true` and `True`, whichever table each spelling comes from.

    Raises
    ------
    LabelError
        A text differs from a class only in case, spaces or leading zeros, or one is a truth value and the other 0 or
        1: it may be a slip or another class.
    """
    exact = set(classes)
    by_value = {value_key(name): name for name in reversed(classes)}
    loose = {key: name for name in reversed(classes) for key in _loose_keys(name)}
    found: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        key = value_key(text)
        if text in exact or key in by_value:
            found[text] = text if text in exact else by_value[key]
            continue
        near = next((loose[loose_key] for loose_key in _loose_keys(text) if loose_key in loose), None)
        if near is not None:
            raise LabelError(
                f"expected the spelling of the {what} {near!r}, got {text!r}: they differ {_difference(near, text)}",
                f"write {near!r} where the same is meant, or another name where it is another {what}",
            )
        # Variants of a label that is no class are one unknown class, too.
        found[text] = by_value.setdefault(key, text)
    return found


def spelling_notes(name: str, chosen: Mapping[str, str], counts: Mapping[str, int]) -> list[str]:
    """Return a sentence that counts the cells whose spelling was replaced, and shows the first."""
    changed = {text: counts[text] for text, to in chosen.items() if to != text}
    if not changed:
        return []
    first = min(changed)
    more = f" (and {len(changed) - 1} more spellings)" if len(changed) > 1 else ""
    return [
        f"{name}: {first!r} in {count(changed[first], 'image')} is read as {chosen[first]!r}, "
        f"another spelling of the same value{more}"
    ]


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _loose_keys(text: str) -> list[object]:
    """Return keys that are equal for two labels that may be spellings of one label."""
    folded = _folded(text)
    keys: list[object] = [folded]
    if CODE.match(text) and NUMBER.fullmatch(text):
        keys.append(value_key(text.lstrip("+-").lstrip("0") or "0"))
    elif NUMBER.fullmatch(text):
        keys.append(value_key(text))
    elif folded in ("true", "false"):
        keys.append(value_key("1" if folded == "true" else "0"))
    return keys


def _difference(text: str, other: str) -> str:
    """Return how two labels differ that share a loose key."""
    if text.casefold() == other.casefold():
        return "only in case"
    if _folded(text) == _folded(other):
        return "only in spaces or case"
    if "true" in (text.lower(), other.lower()) or "false" in (text.lower(), other.lower()):
        return "only in that one is a truth value and the other a number"
    return "only in leading zeros"
