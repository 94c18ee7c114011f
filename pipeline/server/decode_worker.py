"""The program of a decoding process (``python -m pipeline.server.decode_worker``); see `decode_pool`.

It reads photos from standard input and writes pixels to standard output. Both streams hold only lengths, bytes and
JSON, so neither side can make the other run code.

Input: four bytes of length, the photo. Output: one byte, `PIXELS` or `FAILED`, four bytes of length, and the pixels
(crop x crop x 3) or a JSON object with `reason` and `detail`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from hashlib import blake2b
from typing import Any, BinaryIO

PIXELS, FAILED = b"p", b"r"
LENGTH = 4  # number of bytes of a length


def main(settings: dict[str, Any], photos: BinaryIO, answers: BinaryIO) -> None:
    """Decode photos until the input ends.

    Parameters
    ----------
    settings : dict
        `preprocessing`, `decode`, `pixels` (of the largest photo) and `memory` (bytes of address space).
    photos, answers : binary streams
    """
    from pipeline.errors import UnreadableImage
    from pipeline.images import Photo, squared
    from pipeline.provenance import Preprocessing

    preprocessing = Preprocessing(**settings["preprocessing"])
    _limit_memory(settings["memory"])
    while head := photos.read(LENGTH):
        data = photos.read(int.from_bytes(head, "big"))
        photo = Photo(blake2b(data, digest_size=16).digest(), (len(data), 0), data)
        try:
            pixels = squared(photo, preprocessing, settings["decode"], most_pixels=settings["pixels"])
            kind, payload = PIXELS, pixels.tobytes()
        except UnreadableImage as error:
            failure = {"reason": int(error.reason), "detail": error.detail}
            kind, payload = FAILED, json.dumps(failure).encode()
        answers.write(kind + len(payload).to_bytes(LENGTH, "big") + payload)
        answers.flush()


def _limit_memory(most: int) -> None:
    """Limit the address space of this process to `most` bytes, on systems that can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    # Ctrl-C and the stop of a service send signals to every process; this one ends when its input ends, or is killed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    main(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
