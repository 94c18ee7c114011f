"""The next command, with every option of this one that it needs too."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


# Options about the output of the present command alone.
NEVER = frozenset(("data", "model", "out", "as_json", "quiet", "weights", "ctx"))


def passed_options(
    context: typer.Context, *, without: Collection[str] = (), only: Collection[str] | None = None
) -> list[str]:
    """Return the words of the options that were given, for a command to paste.

    Parameters
    ----------
    context : typer.Context
        Of the command that is running.
    without : collection of str
        Python keywords to leave out.
    only : collection of str, optional
        Python keywords to choose from; all but the output's own when not given.
    """
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if name in NEVER or name in without or (only is not None and name not in only):
            continue
        if value is None or value == [] or value == parameter.default:
            continue
        if isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                words += [parameter.opts[0], str(item)]
    return words
