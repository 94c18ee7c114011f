"""`Gate`: who may come in, and what every answer tells the browser. Plain ASGI, before anything else is looked at."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# What shows nothing of the model or of anybody's photos.
OPEN = frozenset(("/", "/health", "/docs", "/openapi.json"))

HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class AuthMiddleware:
    """The application behind a gate.

    Parameters
    ----------
    app : ASGI application
    token : str or None
        What everybody has to show, but for the pages that say nothing. Without one only this machine is served, under
        the names that are its own: a page elsewhere whose name is made to lead here is sent away.
    hosts : frozenset of str
        Those names.
    """

    def __init__(self, app: Any, *, token: str | None, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                added = {"content-security-policy": NOTHING_ELSE, **HEADERS}
                more = [(name.encode(), value.encode()) for name, value in added.items() if name.encode() not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            await self._app(scope, receive, guarded)
            return
        status, error, next_step = refusal
        body = json.dumps({"error": error, "try": next_step}).encode()
        said = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            said.append((b"www-authenticate", b"Bearer"))
        await guarded({"type": "http.response.start", "status": status, "headers": said})
        await guarded({"type": "http.response.body", "body": body})

    def _refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        """Return why a request may not come in, or None."""
        host = headers.get("host", "")
        if self._token is None and _name_of(host) not in self._hosts:
            return 421, f"expected a name of this machine, got {host[:80]!r}", "ask for 127.0.0.1"
        origin = headers.get("origin")
        # Who has the token may come from anywhere: no other page can make a browser show it.
        if self._token is None and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "expected a request from this server's own page, got one from another page", "use the page at /"
        if self._token is None or path in OPEN:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode("latin-1"), self._token):
            return None
        return 401, "expected the token, got none or another one", "send the header Authorization: Bearer TOKEN"


def _name_of(host: str) -> str:
    """Return a Host header's name without its port, in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def timeout_protocol(seconds: float) -> type[H11Protocol]:
    """Return the protocol that cuts off a client who takes longer to send a whole request."""

    class TimeoutProtocol(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._heed()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._heed()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def _heed(self) -> None:
            """Let the clock run while a request is on its way, and stop it when all of it is here."""
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._relax()
            elif self._patience is None:
                self._patience = self.loop.call_later(seconds, self._give_up)

        def _relax(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _give_up(self) -> None:
            self._patience = None
            if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
                self.transport.abort()

    return TimeoutProtocol
