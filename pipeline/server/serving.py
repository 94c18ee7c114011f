"""How is a server opened, and what is checked before it accepts requests?"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arguments import check_arguments
from pipeline.errors import ServerError
from pipeline.progress import SILENT, Progress
from pipeline.server.limits import Limits

if TYPE_CHECKING:
    from pipeline.model import Model

PORT = 8000
SHORTEST_TOKEN = 16
MANY = 1_000_000  # images that a server is assumed to get, so that exporting a graph always pays
SECONDS_TO_END = 10  # for running requests, after Ctrl-C


@check_arguments
def serve(
    model: str | os.PathLike[str] | Model,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    token_file: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] = "features_cache",
    device: str = "auto",
    n_jobs: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    ready: Callable[[str], None] = lambda url: None,
    progress: Progress = SILENT,
) -> None:
    """Serve predictions over HTTP until Ctrl-C; running requests finish first.

    Parameters
    ----------
    model : path or Model
    host : str
        Address to listen on. Any other than this machine's own needs a token.
    port : int
        0 for a free one.
    token_file : path, optional
        A file with the token that every request must send.
    cache : path
        The folder of caches. The training photos' embeddings are read from there if the model does not keep them, and
        exported networks are kept there.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    n_jobs : int, optional
        Number of decoding processes, and of threads that run the network; by default the number of cores.
    limits : Limits
    ready : callable
        Called with the URL when the server accepts requests.
    progress : Progress

    Raises
    ------
    PipelineError
        The model cannot be opened, the port is taken, a token is missing, or FastAPI is not installed.

    Examples
    --------
    >>> import pipeline as pl
    >>> pl.serve("runs/bees/label.model", port=8000)  # doctest: +SKIP
    """
    open_server(
        model,
        host=host,
        port=port,
        token_file=token_file,
        cache=cache,
        device=device,
        n_jobs=n_jobs,
        limits=limits,
        ready=ready,
        progress=progress,
    ).run()


@check_arguments
def open_server(
    model: str | os.PathLike[str] | Model,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    token_file: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] = "features_cache",
    device: str = "auto",
    n_jobs: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    ready: Callable[[str], None] = lambda url: None,
    progress: Progress = SILENT,
) -> Any:
    """Return a server with its network loaded and its port open; its `run` serves until `should_exit` is set.

    Parameters and errors as for `serve`.
    """
    token = None if token_file is None else _token(Path(token_file))
    if token is None and not _is_this_machine(host):
        raise ServerError(
            f"--host {host}: expected a token, because other machines can reach this address, got none",
            "write a secret into a file that only you can read, and pass it with --token-file FILE",
        )
    import uvicorn

    from pipeline.images import CHANGED_PHOTOS, EARLIER_RULES
    from pipeline.model import Model, decode_mode_of, network_of
    from pipeline.parallel import workers
    from pipeline.runtime import GRAPHS_FOLDER
    from pipeline.server.app import application
    from pipeline.server.batcher import MicroBatcher
    from pipeline.server.decode_pool import DecodePool
    from pipeline.server.security import AuthMiddleware, timeout_protocol

    opened = model if isinstance(model, Model) else Model.open(model)
    name = opened.label_set if isinstance(model, Model) else Path(model).name.removesuffix(".model")
    listening = _listen(host, port)
    try:
        training, why_not = opened.open_training_set(Path(cache))
        if why_not:
            progress.note(f"unfamiliar photos are not marked, and nearest training photos are not shown: {why_not}")
        graphs = Path(cache) / GRAPHS_FOLDER
        if opened.recipe["photo_rules"] in EARLIER_RULES:
            progress.note(f"the photo rules for {CHANGED_PHOTOS} have changed since the model was fitted")
        network = network_of(opened, images=MANY, device=device, graphs=graphs, progress=progress)
        network.open()
    except BaseException:
        listening.close()
        raise
    count = workers(n_jobs)
    batcher = MicroBatcher(opened, network, training, threads=count, neighbours=limits.neighbours)
    decoders = DecodePool(opened.backbone.preprocessing, decode_mode_of(opened), count=count, limits=limits)
    app = application(
        opened, name, batcher=batcher, decoders=decoders, training=training, why_not=why_not, limits=limits
    )
    address, found = listening.getsockname()[:2]
    url = f"http://{f'[{address}]' if ':' in address else address}:{found}"

    class Server(uvicorn.Server):
        """uvicorn's server on the socket that is open already; calls `ready` when it accepts requests."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(url)

        def run(self, sockets: list[socket.socket] | None = None) -> None:
            super().run(sockets or [listening])

    config = uvicorn.Config(
        AuthMiddleware(app, token=token, hosts=frozenset(("localhost", "127.0.0.1", "::1", host.lower()))),
        http=timeout_protocol(limits.request_seconds),
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    server = Server(config)
    server.url, server.batcher = url, batcher  # type: ignore[attr-defined]
    return server


def _is_this_machine(host: str) -> bool:
    """Return whether only this machine can reach a server that listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(path: Path) -> str:
    """Return the token in a file; raise `ServerError` if it is missing, too short or not plain ASCII."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "characters that are not ASCII"
        raise ServerError(
            f"--token-file {path}: expected a file with the token, got {found}", _make_token(path)
        ) from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        found = "blanks or control characters" if len(token) >= SHORTEST_TOKEN else f"{len(token)}"
        raise ServerError(
            f"--token-file {path}: expected at least {SHORTEST_TOKEN} characters without blanks, got {found}",
            _make_token(path),
        )
    return token


def _make_token(path: Path) -> str:
    return f"create one: python3 -c 'import secrets; print(secrets.token_urlsafe())' > {path}; chmod 600 {path}"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to this address."""
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        if listening is not None:
            listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ServerError(
            f"--host {host} --port {port}: expected to listen there, got: {reason}",
            f"--port {port + 1 if port < 65535 else 0}",
        ) from error
    return listening
