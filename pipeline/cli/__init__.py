"""The command line: parse options, call the Python function, print its result."""

from __future__ import annotations

from pipeline.cli import console, errors


def main() -> None:
    """Run the command line: exit code 1 for an error, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM."""
    errors.listen_for_signals()
    try:
        console.make_streams_forgiving()
        errors.escape_other_output()
        # Imported within, so that a signal while it loads ends as it does later.
        from pipeline.cli.app import app

        app(prog_name="pipeline")
    except Exception as error:
        errors.print_traceback(error)
        raise SystemExit(1) from None
    finally:
        # Whatever the interrupt became on its way up: a library may turn it into an error of its own.
        errors.leave()
