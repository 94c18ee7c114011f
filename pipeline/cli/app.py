"""The commands, and where each stands in the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.cli import maintenance, train, use
from pipeline.cli.errors import describe_usage_error, handle_errors, stop

MAIN, INSPECT, DEPLOY, MAINTENANCE = "Main", "Inspect", "Deploy", "Maintenance"


class Command(TyperCommand):
    """A command whose usage errors have the two lines of all errors."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""  # it takes no value
        return option


class Group(TyperGroup):
    """Commands whose usage errors have the two lines of all errors, control characters escaped."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with _two_line_errors():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with _two_line_errors():
            return super().invoke(ctx)

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


@contextmanager
def _two_line_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Typer has a copy of click in newer versions: its exceptions are known by what they can do.
        if getattr(error, "exit_code", None) != 2 or not hasattr(error, "format_message"):
            raise
        stop(*describe_usage_error(error), exit_code=2)


def _add(command: Callable[..., Any], name: str, panel: str, group: typer.Typer | None = None) -> None:
    """Add a command under its name; its docstring is the help, a paragraph per block of lines."""
    text = "\n\n".join(" ".join(block.split()) for block in inspect.cleandoc(command.__doc__ or "").split("\n\n"))
    (group or app).command(name, cls=Command, rich_help_panel=panel, help=text)(handle_errors(command))


app = typer.Typer(
    name="pipeline",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

cache_group = typer.Typer(cls=Group, no_args_is_help=True, help="List, inspect, verify and remove caches.")

_add(train.extract_command, "extract", MAIN)
_add(train.evaluate_command, "evaluate", MAIN)
_add(train.study_command, "study", MAIN)
_add(train.fit_command, "fit", MAIN)
_add(use.predict_command, "predict", MAIN)
_add(use.score_command, "score", MAIN)
_add(maintenance.demo_command, "demo", MAIN)
_add(use.report_command, "report", INSPECT)
app.add_typer(cache_group, name="cache", rich_help_panel=INSPECT)
_add(maintenance.backbones_command, "backbones", INSPECT)
_add(maintenance.heads_command, "heads", INSPECT)
_add(use.export_command, "export", DEPLOY)
_add(use.serve_command, "serve", DEPLOY)
_add(maintenance.doctor_command, "doctor", MAINTENANCE)
_add(maintenance.list_caches, "list", MAIN, cache_group)
_add(maintenance.info, "info", MAIN, cache_group)
_add(maintenance.verify, "verify", MAIN, cache_group)
_add(maintenance.remove, "remove", MAIN, cache_group)


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Train image classifiers on your own photos: a network computes features once, then heads are trained on them."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("transfer-pipeline"))
        raise typer.Exit
