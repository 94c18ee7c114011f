"""Find the code blocks and commands of Markdown, and check that the command line accepts them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

SHELL = ("sh", "console")

# Names that a reader replaces, and an example for each.
PLACEHOLDERS = {"DATA": "photos/", "MODEL": "bees.model", "NAME": "photos", "RUN": "runs/photos"}


def fenced(text: str) -> list[tuple[str, str]]:
    """Return the language and the text of every fenced block."""
    return re.findall(r"^```([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> Iterator[str]:
    """Give the text of the fenced blocks in these languages."""
    for language, block in fenced(text):
        if language in languages:
            yield block


def spans(text: str) -> list[str]:
    """Return the inline code of prose and tables."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", prose)


def commands(text: str) -> list[str]:
    """Return every `pipeline ...` command, from the blocks and from the prose."""
    lines = [line for block in blocks(text, *SHELL) for line in block.splitlines()]
    lines = [line.removeprefix("$ ").removeprefix("next: ").removeprefix("then: ") for line in lines]
    return list(dict.fromkeys(line for line in [*lines, *spans(text)] if line.startswith("pipeline ")))


def sessions(block: str) -> list[tuple[str, list[str]]]:
    """Return each command of a console block with the output lines below it."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(lines[0], lines[1:]) for lines in (part.strip("\n").splitlines() for part in parts)]


def without_figures(line: str) -> str:
    """Return a line with `#` for each number and one blank for each gap."""
    return re.sub(r" +", " ", re.sub(r"\d[\d.,]*(?<=\d)", "#", line)).strip()


def the_app() -> Any:
    import typer.main

    from pipeline.cli.app import app

    return typer.main.get_command(app)


def leaves(command: Any, name: str = "pipeline") -> dict[str, Any]:
    """Return every command without subcommands, by its full name."""
    if not hasattr(command, "commands"):
        return {name: command}
    return {
        words: leaf for key, sub in command.commands.items() for words, leaf in leaves(sub, f"{name} {key}").items()
    }


def parse(command: str) -> None:
    """Parse a command without running it: options, their values, the number of arguments."""
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)]
    found = leaves(the_app())
    name = max((name for name in found if f"{' '.join(words)} ".startswith(f"{name} ")), key=len)
    found[name].make_context(name, words[len(name.split()) :])


def options(app: Any) -> set[str]:
    """Return every option of every command."""
    return {
        text
        for leaf in leaves(app).values()
        for parameter in leaf.params
        for text in (*parameter.opts, *parameter.secondary_opts)
    }


def named_options(pieces: Sequence[str]) -> set[str]:
    """Return the options in pieces of code."""
    return {word.partition("=")[0] for piece in pieces for word in piece.split() if word.startswith("--")}
