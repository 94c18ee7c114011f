"""The command line: parse, call, print. One command a file, no logic of its own."""

from __future__ import annotations

from pipeline.cli import guard


def main() -> None:
    """Run the command line: exit code 1 for an error, 2 for wrong usage, 130 after Ctrl-C."""
    guard.listen_for_ctrl_c()
    try:
        # Imported within, so that Ctrl-C while it loads ends as it does later.
        from pipeline.cli.app import app

        guard.make_streams_forgiving()
        app(prog_name="pipeline")
    finally:
        # Whatever the interrupt became on its way up: a library may turn it into an error of its own.
        guard.leave()
