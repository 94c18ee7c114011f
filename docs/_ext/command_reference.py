"""The directive ``{command-reference}``: every command with its arguments and options, as the app itself knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class CommandReference(SphinxDirective):
    """Write one section a command, in the order and under the headings of ``pipeline --help``."""

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(reference()), allow_section_headings=True)


def reference() -> Iterator[str]:
    """Give the lines of Markdown that describe every command."""
    import typer.main

    from pipeline.cli.app import app

    panel = None
    for name, command, here in leaves(typer.main.get_command(app)):
        if here != panel:
            panel = here
            yield from (f"## {panel}", "")
        yield from section(name, command)


def leaves(command: Any, name: str = "pipeline", panel: str = "") -> Iterator[tuple[str, Any, str]]:
    """Give every command that does something, with the words that reach it and its heading in the help."""
    if not hasattr(command, "commands"):
        yield name, command, panel
        return
    for key in command.list_commands(None):
        inner = command.commands[key]
        heading = getattr(inner, "rich_help_panel", None)
        yield from leaves(inner, f"{name} {key}", heading if isinstance(heading, str) else panel)


def section(name: str, command: Any) -> Iterator[str]:
    """Give the lines that describe one command."""
    context = command.make_context(name, [], resilient_parsing=True)
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([name, *map(written_argument, arguments), "[OPTIONS]"])
    yield from (f"### {name}", "", escaped(command.help), "", "```text", usage, "```", "")
    panel = None
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None:
            continue
        here = getattr(parameter, "rich_help_panel", None) or ("Arguments" if parameter in arguments else "Options")
        if here != panel:
            panel = here
            yield from (f"**{panel}**", "")
        written, said = record
        yield from (f"`{written_argument(parameter) if parameter in arguments else written}`", f": {escaped(said)}", "")


def written_argument(parameter: Any) -> str:
    """Return an argument as README writes it: ``DATA``, ``DATA...`` for several, ``[NAME]`` where it may be left."""
    name = (parameter.metavar or parameter.name).upper().strip("{}[]<>.")
    name += "..." if parameter.nargs == -1 else ""
    return name if parameter.required else f"[{name}]"


def escaped(text: str) -> str:
    """Return a help text as one line of Markdown that reads as it is written; what is in backticks stays code."""
    words = " ".join(text.split()).split("`")
    return "`".join(
        "".join(f"\\{letter}" if letter in "*_[]<>#|{}$" else letter for letter in piece) if at % 2 == 0 else piece
        for at, piece in enumerate(words)
    )


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
