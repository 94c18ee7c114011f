"""The command line: parse, call, print. One command a file, no logic of its own."""

from __future__ import annotations

import typer

from pipeline.cli import backbones, cache, demo, evaluate, extract, fit, heads, predict, score
from pipeline.cli.guard import guarded

app = typer.Typer(
    name="pipeline",
    help="Run a frozen pretrained CNN over your images once; train, compare and take away scikit-learn heads.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

app.command("extract", rich_help_panel="Main")(guarded(extract.command))
app.command("evaluate", rich_help_panel="Main")(guarded(evaluate.command))
app.command("fit", rich_help_panel="Main")(guarded(fit.command))
app.command("predict", rich_help_panel="Main")(guarded(predict.command))
app.command("score", rich_help_panel="Main")(guarded(score.command))
app.add_typer(cache.app, name="cache", rich_help_panel="Keep house")
app.command("backbones", rich_help_panel="Keep house")(guarded(backbones.command))
app.command("heads", rich_help_panel="Keep house")(guarded(heads.command))
app.command("demo", rich_help_panel="Keep house")(guarded(demo.command))


@app.callback(invoke_without_command=True)
def about(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True),
) -> None:
    """Run a frozen pretrained CNN over your images once; train, compare and take away scikit-learn heads."""
    if version:
        from importlib.metadata import version as version_of

        typer.echo(version_of("transfer-pipeline"))
        raise typer.Exit


def main() -> None:
    """Run the command line: exit code 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    app()
