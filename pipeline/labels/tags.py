"""Several tags per image: how a cell of them is read, and the indicator that they make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

# The first that occurs in a column splits it.
SEPARATORS = (";", "|", ",")
# For tags that contain those: a row of tags must be written so that it can be read again.
_RARE_SEPARATORS = (";", "|", ",", "/", "+", "~", " ; ", "\x1f")

_LIST_ENDS = {"[": "]", "{": "}", "(": ")"}
_QUOTED = re.compile(r'"(?:[^"\\]|\\.|"")*"|\'(?:[^\'\\]|\\.|\'\')*\'', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_MISSING_ITEMS = frozenset(("", "none", "null", "nan", "<na>"))


class CellError(ValueError):
    """A cell of tags that cannot be read completely; the text says why."""


def separator_of(texts: Iterable[str]) -> str | None:
    """Return the first of the separators that occurs in any of the cells; None where none does.

    Separators within quotes and within lists such as ``['a', 'b']`` do not count.
    """
    found = {mark for text in texts if not _is_whole_list(text) for mark in SEPARATORS if mark in _bare(text)}
    return next((mark for mark in SEPARATORS if mark in found), None)


def split_tags(text: str, separator: str) -> tuple[str, ...]:
    """Return the different tags of a cell that `joined_tags` wrote, sorted; a separator alone means no tag."""
    return tuple(sorted({tag for part in text.split(separator) if (tag := part.strip())}))


def read_tags(text: str, separator: str) -> tuple[str, ...]:
    """Return the different tags of a cell of a table, sorted.

    A cell is tags with separators between them, each of them quoted or not, or a list as Python, JSON, PostgreSQL or
    NumPy write it: ``['a', 'b']``, ``["a", "b"]``, ``{a,b}``, ``['a' 'b']``.

    Raises
    ------
    CellError
        Part of the cell would be lost, or would become a fragment such as ``['a``.
    """
    items = list_items(text)
    if items is None:
        inner = _unquoted(text)
        items = _split_quoted(text if inner is None else inner, separator)
    for item in items:
        if (
            item.count("[") != item.count("]")
            or item.count("{") != item.count("}")
            or item.count("(") > item.count(")")
        ):
            raise CellError(f"brackets that do not match in {item!r}")
        if item[:1] in "\"'" and item[:1]:
            raise CellError(f"a quote that is not closed in {item!r}")
    return tuple(sorted({item for item in items if item}))


def list_items(text: str) -> list[str] | None:
    """Return the items of a cell that is a list, None for a cell that is none.

    Raises
    ------
    CellError
        An item is missing (``None``, ``nan``): a list with a gap.
    """
    text = text.strip()
    if text[:1] not in _LIST_ENDS or not text[:1] or text[-1:] != _LIST_ENDS[text[0]]:
        return None
    body = text[1:-1].strip()
    if text[0] == "(" and not (_QUOTED.match(body) or not body):
        return None  # "(juvenile)" is a tag
    items, place, quoted_before = [], 0, False
    while place < len(body):
        if quote := _QUOTED.match(body, place):
            items.append(_unescaped(quote.group()))
            place = quote.end()
        else:
            end = body.find(",", place)
            bare = body[place : len(body) if end < 0 else end].strip()
            if any(mark in bare for mark in "[]{}\"'"):
                return None
            if bare.lower() in _MISSING_ITEMS:
                raise CellError(f"a list with a missing item: {text!r}")
            items.append(bare)
            place = len(body) if end < 0 else end
        quoted_before = quote is not None
        rest = body[place:].lstrip()
        place = len(body) - len(rest)
        if not rest:
            break
        if rest[0] == ",":
            rest = rest[1:].lstrip()
            place = len(body) - len(rest)
        elif not (quoted_before and rest[0] in "\"'"):  # NumPy writes no commas
            return None
    return [item.strip() for item in items]


def _is_whole_list(text: str) -> bool:
    try:
        return list_items(text) is not None
    except CellError:
        return True


def is_list(text: str) -> bool:
    """Return whether a cell is written as a list of quoted items, or of several."""
    try:
        items = list_items(text)
    except CellError:
        return True
    return items is not None and (len(items) > 1 or text.strip()[1:2] in ("'", '"'))


def _bare(text: str) -> str:
    """Return the cell without the tags that are quoted; of a cell that is one quoted text, what is in the quotes."""
    inner = _unquoted(text)
    return text if inner is None and text[:1] not in "\"'" else _QUOTED.sub("", text) if inner is None else inner


def _unquoted(text: str) -> str | None:
    """Return what is in the quotes of a cell that is quoted as a whole, as exports do that quote twice."""
    text = text.strip()
    quote = _QUOTED.fullmatch(text)
    # The whole cell must be one quoted text: "a";"b" begins and ends with quotes, too.
    return _unescaped(text) if quote and _QUOTED.match(text).end() == len(text) else None  # type: ignore[union-attr]


def _split_quoted(text: str, separator: str) -> list[str]:
    """Return the parts between separators, those within quotes left alone, and quotes around a part taken away."""
    parts, place = [], 0
    while place <= len(text):
        start = place
        while start < len(text) and text[start].isspace() and not text.startswith(separator, start):
            start += 1
        quote = _QUOTED.match(text, start)
        if quote is not None:
            rest = text[quote.end() :]
            behind = rest.lstrip() if not separator.isspace() else rest
            if not behind or behind.startswith(separator):
                parts.append(_unescaped(quote.group()).strip())
                if not behind:
                    return parts
                place = len(text) - len(behind) + len(separator)
                continue
        end = text.find(separator, place)
        end = len(text) if end < 0 else end
        parts.append(text[place:end].strip())
        place = end + len(separator)
    return parts


def _unescaped(quoted: str) -> str:
    mark = quoted[0]
    text = _ESCAPE.sub(_plain, quoted[1:-1].replace(mark * 2, mark))
    # JSON writes letters beyond 16 bits as two escapes.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(found: re.Match[str]) -> str:
    code = found.group(1)
    return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPED.get(code, code)


def writable_separator(separator: str, tags: Iterable[str]) -> str:
    """Return the separator, or another one where a tag contains it: rows of tags are written and read again."""
    tags = list(tags)
    return next(mark for mark in (separator, *_RARE_SEPARATORS) if not any(mark in tag for tag in tags))


def indicator(cells: Sequence[Iterable[str]], tags: Sequence[str]) -> np.ndarray:
    """Return which cell holds which tag, int8 of shape (n, c); tags beyond `tags` are passed over."""
    place = {tag: column for column, tag in enumerate(tags)}
    y = np.zeros((len(cells), len(tags)), np.int8)
    for row, cell in enumerate(cells):
        for tag in cell:
            if tag in place:
                y[row, place[tag]] = 1
    return y


def joined_tags(row: np.ndarray, tags: Sequence[str], separator: str) -> str:
    """Return a row of an indicator as a cell; one without tags is the separator alone, as in a table."""
    return separator.join(tag for tag, there in zip(tags, row, strict=True) if there) or separator
