"""HTTP with an end to patience: uvicorn itself waits for ever for the rest of a request that has begun."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


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
