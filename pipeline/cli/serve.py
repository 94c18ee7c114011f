"""`pipeline serve`."""

from __future__ import annotations

import sys

from pipeline.cli import options as o
from pipeline.cli.terminal import Terminal


def command(
    model: o.ModelArgument,
    host: o.Host = "127.0.0.1",
    port: o.Port = 8000,
    token_file: o.TokenFile = None,
    cache: o.TrainingCache = "features_cache",
    device: o.Device = "auto",
    n_jobs: o.Jobs = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Answer over HTTP, with a page to drop photos on, until Ctrl-C; prints its address when it listens."""
    from pipeline.server import serve

    with Terminal(as_json=as_json, quiet=quiet) as terminal:

        def ready(url: str) -> None:
            if as_json:
                terminal.object({"url": url, "model": model})
            else:
                terminal.result(url)
            sys.stdout.flush()
            terminal.say("photos go on that page; programs find the interface at /docs; Ctrl-C ends it")

        serve(
            model,
            host=host,
            port=port,
            token_file=token_file,
            cache=cache,
            device=device,
            n_jobs=n_jobs,
            ready=ready,
            progress=terminal,
        )
