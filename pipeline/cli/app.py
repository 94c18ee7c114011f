"""The commands, and where each stands in the help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.cli import maintenance, train, use
from pipeline.cli.console import escape_text
from pipeline.cli.errors import handle_errors

MAIN, SEE, AWAY, HOUSE = "Main", "See", "Take away", "Keep house"


class SafeGroup(TyperGroup):
    """Commands whose usage errors name what was given with its control characters escaped."""

    def make_context(self, *given: Any, **more: Any) -> Any:
        with _escaped_usage():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with _escaped_usage():
            return super().invoke(ctx)


@contextmanager
def _escaped_usage() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str) and hasattr(error, "format_message"):
            error.message = escape_text(error.message, lines=True)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="pipeline",
    cls=SafeGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

app.command("extract", rich_help_panel=MAIN)(handle_errors(train.extract_command))
app.command("evaluate", rich_help_panel=MAIN)(handle_errors(train.evaluate_command))
app.command("fit", rich_help_panel=MAIN)(handle_errors(train.fit_command))
app.command("predict", rich_help_panel=MAIN)(handle_errors(use.predict_command))
app.command("score", rich_help_panel=MAIN)(handle_errors(use.score_command))
app.command("study", rich_help_panel=SEE)(handle_errors(train.study_command))
app.command("report", rich_help_panel=SEE)(handle_errors(use.report_command))
app.command("export", rich_help_panel=AWAY)(handle_errors(use.export_command))
app.command("serve", rich_help_panel=AWAY)(handle_errors(use.serve_command))
app.add_typer(maintenance.cache_app, name="cache", rich_help_panel=HOUSE)
app.command("backbones", rich_help_panel=HOUSE)(handle_errors(maintenance.backbones_command))
app.command("heads", rich_help_panel=HOUSE)(handle_errors(maintenance.heads_command))
app.command("doctor", rich_help_panel=HOUSE)(handle_errors(maintenance.doctor_command))
app.command("demo", rich_help_panel=HOUSE)(handle_errors(maintenance.demo_command))


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", metavar="", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Run a frozen pretrained CNN over your images once; train, compare and take away scikit-learn heads."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("transfer-pipeline"))
        raise typer.Exit
