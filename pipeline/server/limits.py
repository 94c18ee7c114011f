"""Which limits does the server set on photos, requests and time?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on untrusted clients.

    Attributes
    ----------
    bytes, pixels : int
        Size of the largest photo.
    places : int
        Number of requests that run at once; a further one gets 503.
    connections : int
        Number of open connections; a request on a further one gets 503.
    body_seconds : float
        Time for a client to send its photo.
    request_seconds : float
        Time for a client to send a whole request, from its first line; then the connection is closed.
    decode_seconds : float
        Time to decode a photo; then the decoding process is killed.
    answer_seconds : float
        Time for everything after the photo was received, waiting for other requests included.
    decoder_memory : int
        Address space of a decoding process, in bytes.
    neighbours : int
        The largest number of training photos in an answer.
    """

    bytes: int = 10_000_000
    pixels: int = 50_000_000
    places: int = 64
    connections: int = 256
    body_seconds: float = 20.0
    request_seconds: float = 30.0
    decode_seconds: float = 10.0
    answer_seconds: float = 60.0
    decoder_memory: int = 3 << 30
    neighbours: int = 20


class RequestError(Exception):
    """A request that gets an error response; the server goes on.

    Parameters
    ----------
    status : int
        HTTP status code.
    error : str
        What the server expected and got.
    next_step : str
        What the client can do.
    """

    def __init__(self, status: int, error: str, next_step: str) -> None:
        super().__init__(status, error, next_step)
        self.status, self.error, self.next_step = status, error, next_step
