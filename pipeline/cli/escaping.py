"""Text from outside (class names, columns, notes, file names) made safe to print on a terminal.

A control character in a name would be obeyed by the terminal, and a bidirectional override shows a name in another
order than it is stored. Both are printed as Python escapes, such as ``\\x1b`` and ``\\u202e``. Letters of every script,
right-to-left ones included, are printed as they are.
"""

from __future__ import annotations

import re
import shlex
import unicodedata

# Everything that is obeyed or not seen: C0 and C1 controls, soft hyphen, bidirectional marks, embeddings, overrides and
# isolates, zero-width characters, line and paragraph separators, fillers that look like nothing, lone surrogates, tags.
_UNSAFE = (
    "\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_LINES = re.compile(f"[{_UNSAFE}]")
_LINE = re.compile(f"[\n{_UNSAFE}]")
# JSON escapes C0 controls by itself.
_JSON = _LINES
_JOINERS = "\u200c\u200d"  # Persian, the scripts of India and emoji need them between two of their own characters
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape_text(text: str, *, lines: bool = False) -> str:
    """Return the text with every character that a terminal would obey or hide written as an escape.

    Parameters
    ----------
    text : str
    lines : bool
        Whether the text is made of lines, whose line breaks stay.

    Examples
    --------
    >>> escape_text("bees" + chr(27) + "[31m")
    'bees\\\\x1b[31m'
    """
    pattern = _LINES if lines else _LINE
    return text if text.isascii() and text.isprintable() else pattern.sub(_escaped, text)


def escape_json(text: str) -> str:
    """Return JSON of the same value with the characters that a terminal would obey or hide as JSON escapes."""
    return _JSON.sub(lambda found: _json_escape(found[0]), text)


def quote_shell(words: tuple[str, ...] | list[str]) -> str:
    """Return a command to paste, as `shlex.join` does; words with unsafe characters in the form ``$'...'``."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    safe = escape_text(word)
    if safe == word:
        return shlex.quote(word)
    kept = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{escape_text(kept)}'"


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if character in _JOINERS and _joins(found):
        return character
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _joins(found: re.Match[str]) -> bool:
    """Return whether a joiner stands between two characters of scripts that use it, or between two pictures."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return _is_joined(before) and _is_joined(after)


def _is_joined(character: str) -> bool:
    # U+0590 and above: not Latin, Greek or Cyrillic, where a joiner changes nothing that is seen.
    return character >= "\u0590" and unicodedata.category(character)[0] in "LMS"


def _json_escape(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
