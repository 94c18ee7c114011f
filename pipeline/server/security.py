"""Which requests may reach the application, and which security headers does every response have?

Plain ASGI and protocol code, so that it runs before FastAPI reads anything of a request.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Paths that need no token, because they show nothing of the model or of its photos.
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
    """Check each request's token, host and origin, and add security headers to each response.

    Parameters
    ----------
    app : ASGI application
    token : str or None
        Required of every request but those to `OPEN`. Without a token, only requests to the names in `hosts` are
        served: a page on another site whose name resolves to this machine (DNS rebinding) gets an error.
    hosts : frozenset of str
        The names of this machine.
    """

    def __init__(self, app: Any, *, token: str | None, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                defaults = {"content-security-policy": NOTHING_ELSE, **HEADERS}
                added = [
                    (key.encode(), value.encode()) for key, value in defaults.items() if key.encode() not in present
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._find_problem(scope["path"], headers)
        if problem is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, error, next_step = problem
        body = json.dumps({"error": error, "try": next_step}).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            fields.append((b"www-authenticate", b"Bearer"))
        await send_with_headers({"type": "http.response.start", "status": status, "headers": fields})
        await send_with_headers({"type": "http.response.body", "body": body})

    def _find_problem(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        """Return the status, error and next step of a request that is not allowed, otherwise None."""
        host = headers.get("host", "")
        if self._token is None and _name_of(host) not in self._hosts:
            return 421, f"expected a name of this machine, got {host[:80]!r}", "use http://127.0.0.1"
        origin = headers.get("origin")
        # With a token the origin does not matter: another page cannot make a browser send the token.
        if self._token is None and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "expected a request from this server's own page, got one from another page", "use the page at /"
        if self._token is None or path in OPEN:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode("latin-1"), self._token):
            return None
        return 401, "expected the token, got none or a wrong one", "send the header Authorization: Bearer TOKEN"


def _name_of(host: str) -> str:
    """Return a Host header's name without its port, in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def timeout_protocol(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a limit on the time that a client takes to send a whole request."""

    class TimeoutProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._update_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._update_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _update_timer(self) -> None:
            """Start the timer while a request is incomplete, and stop it when the request is complete."""
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._stop_timer()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self._abort)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _abort(self) -> None:
            self._timer = None
            if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
                self.transport.abort()

    return TimeoutProtocol
