"""The program of a decoding process: photos in, the network's pixels out, over its two standard streams.

It is a process of its own because a decoder cannot be stopped in any other way than by ending it, and because a
damaged photo may bring a decoder's C code down. What travels is lengths and bytes, nothing that could be code.

In: four bytes of length, the photo. Out: one byte, `PIXELS` or `REFUSED`, four bytes of length, and the pixels
(crop x crop x 3) or a JSON object of reason and detail.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from hashlib import blake2b
from typing import Any, BinaryIO

PIXELS, REFUSED = b"p", b"r"
LENGTH = 4  # bytes of a length


def main(settings: dict[str, Any], photos: BinaryIO, answers: BinaryIO) -> None:
    """Answer every photo until there are no more.

    Parameters
    ----------
    settings : dict
        `preprocessing`, `decode`, `pixels` (the most that a photo may have) and `memory` (bytes of address space).
    photos, answers : binary streams
    """
    from pipeline.errors import UnreadableImage
    from pipeline.images import Photo, squared
    from pipeline.provenance import Preprocessing

    how = Preprocessing(**settings["preprocessing"])
    _bound_memory(settings["memory"])
    while head := photos.read(LENGTH):
        data = photos.read(int.from_bytes(head, "big"))
        photo = Photo(blake2b(data, digest_size=16).digest(), (len(data), 0), data)
        try:
            kind, payload = PIXELS, squared(photo, how, settings["decode"], most_pixels=settings["pixels"]).tobytes()
        except UnreadableImage as error:
            said = {"reason": int(error.reason), "detail": error.detail}
            kind, payload = REFUSED, json.dumps(said).encode()
        answers.write(kind + len(payload).to_bytes(LENGTH, "big") + payload)
        answers.flush()


def _bound_memory(most: int) -> None:
    """Let the system refuse memory beyond so much, where it can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    # Ctrl-C and the stop of a service reach every process; this one ends when its input does, or is killed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    main(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
