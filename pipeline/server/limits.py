"""What the server takes on at once, and how long it waits for anybody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what strangers can ask for.

    Attributes
    ----------
    bytes, pixels : int
        The largest photo.
    places : int
        Requests in the house: those beyond are sent away at once (503).
    connections : int
        Open at a time; requests on more of them are sent away.
    body_seconds : float
        For a client to send its photo.
    request_seconds : float
        For a client to send a whole request, its first line on: who needs longer is cut off.
    decode_seconds : float
        For a photo to become pixels; the process that needs longer is ended.
    answer_seconds : float
        For everything after the photo is here, waiting for others included.
    decoder_memory : int
        Bytes of address space that a decoding process may have.
    neighbours : int
        The most training photos that may be asked for.
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
    """One request is answered with an error; the server goes on.

    Parameters
    ----------
    status : int
        Of HTTP.
    error : str
        What was wanted and what was found.
    next_step : str
        What to do about it.
    """

    def __init__(self, status: int, error: str, next_step: str) -> None:
        super().__init__(status, error, next_step)
        self.status, self.error, self.next_step = status, error, next_step
