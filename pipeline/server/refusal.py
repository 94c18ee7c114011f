"""`Refused`: why a request has no answer, in the two parts that all errors here have."""

from __future__ import annotations


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
