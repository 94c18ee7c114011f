"""`serve`: everything checked and loaded before the first request is listened to."""

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
MANY = 1_000_000  # images that a server is there for: a graph is worth exporting
SECONDS_TO_END = 10


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
    """Answer for photos over HTTP until Ctrl-C; requests in the house are answered before it ends.

    Parameters
    ----------
    model : path or Model
    host : str
        Where to listen. Anything but this machine itself needs a token.
    port : int
        0 takes a free one.
    token_file : path, optional
        A file that holds the token which every request has to show.
    cache : path
        The folder of caches: the training photos' embeddings are looked for there where the model does not keep them,
        and exported networks are kept there.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    n_jobs : int, optional
        Decoding processes, and threads that run the network; the number of cores when not given.
    limits : Limits
    ready : callable
        Hears the URL when requests are listened to.
    progress : Progress

    Raises
    ------
    PipelineError
        The model cannot be opened, the port is taken, a token is wanted, or FastAPI is not installed.
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
    """Return the server, its network loaded and its port taken: `run` answers until `should_exit` is set.

    Parameters and errors as for `serve`.
    """
    token = None if token_file is None else _token(Path(token_file))
    if token is None and not _is_this_machine(host):
        raise ServerError(
            f"--host {host}: expected a token, because others can reach it, got none",
            "write a secret into a file that only you may read, and pass it with --token-file FILE",
        )
    import uvicorn

    from pipeline.images import CHANGED_PHOTOS, EARLIER_RULES
    from pipeline.model import Model
    from pipeline.model.predict import decode_mode_of, network_of
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
            progress.note(f"nothing is said of unfamiliar photos and of the nearest training photos: {why_not}")
        graphs = Path(cache) / GRAPHS_FOLDER
        if opened.recipe["photo_rules"] in EARLIER_RULES:
            progress.note(f"the photo rules for {CHANGED_PHOTOS} have changed since the model was fitted")
        network = network_of(opened, images=MANY, device=device, graphs=graphs, progress=progress)
        network.open()
    except BaseException:
        listening.close()
        raise
    count = workers(n_jobs)
    answerer = MicroBatcher(opened, network, training, threads=count, neighbours=limits.neighbours)
    decoders = DecodePool(opened.backbone.preprocessing, decode_mode_of(opened), count=count, limits=limits)
    app = application(
        opened, name, answerer=answerer, decoders=decoders, training=training, why_not=why_not, limits=limits
    )
    address, found = listening.getsockname()[:2]
    url = f"http://{f'[{address}]' if ':' in address else address}:{found}"

    class Server(uvicorn.Server):
        """Says when it listens; knows where."""

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
    server.url, server.answerer = url, answerer  # type: ignore[attr-defined]
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
    """Return the secret in a file; `ServerError` where there is none worth the name."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else "something else than plain letters"
        raise ServerError(
            f"--token-file {path}: expected a file with the token, got {found}", _make_token(path)
        ) from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        found = "other characters" if len(token) >= SHORTEST_TOKEN else f"{len(token)}"
        raise ServerError(
            f"--token-file {path}: expected {SHORTEST_TOKEN} letters or more without blanks, got {found}",
            _make_token(path),
        )
    return token


def _make_token(path: Path) -> str:
    return f"make one: python3 -c 'import secrets; print(secrets.token_urlsafe())' > {path}; chmod 600 {path}"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound there."""
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
