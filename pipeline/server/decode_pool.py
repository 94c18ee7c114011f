"""How are photos of untrusted clients decoded, with a limit on time and memory?

In separate processes: a decoder can be stopped only by killing its process, and a damaged photo may crash it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import SkipReason
from pipeline.provenance import Preprocessing
from pipeline.server.decode_worker import LENGTH, PIXELS
from pipeline.server.limits import Limits, RequestError

_KINDS = "send a JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF photo"
_BUFFER = 1 << 20
_HOME = str(Path(__file__).parents[2])  # the folder of this package, so that the processes import the same one


class DecodePool:
    """Decoding processes, each of which decodes one photo at a time; used from one event loop.

    Parameters
    ----------
    preprocessing : Preprocessing
    decode : {"exact", "fast"}
    count : int
        Number of processes.
    limits : Limits
    """

    def __init__(self, preprocessing: Preprocessing, decode: str, *, count: int, limits: Limits) -> None:
        self._limits, self._crop = limits, preprocessing.crop
        self._settings = {
            "preprocessing": asdict(preprocessing),
            "decode": decode,
            "pixels": limits.pixels,
            "memory": limits.decoder_memory,
        }
        self._all = [_DecodeWorker(self._settings) for _ in range(count)]
        self._idle: asyncio.Queue[_DecodeWorker] = asyncio.Queue()
        for decoder in self._all:
            self._idle.put_nowait(decoder)

    async def start(self) -> None:
        """Start the processes; one that has ended is started again for its next photo."""
        await asyncio.gather(*(decoder.start() for decoder in self._all))

    async def stop(self) -> None:
        """Kill the processes, also those that are decoding."""
        for decoder in self._all:
            await decoder.end()

    async def decode(self, data: bytes) -> np.ndarray:
        """Decode and preprocess a photo, and return its pixels, uint8 (crop, crop, 3).

        Raises
        ------
        RequestError
            The file is not a photo, damaged, too large, or takes too long to decode.
        """
        decoder = await self._idle.get()
        try:
            async with asyncio.timeout(self._limits.decode_seconds):
                kind, payload = await decoder.decode(data)
        except TimeoutError:
            await decoder.end()
            seconds = self._limits.decode_seconds
            raise RequestError(
                422,
                f"expected a photo that decodes within {seconds:g} seconds, got one that does not",
                "send a smaller one",
            ) from None
        except (asyncio.IncompleteReadError, OSError):
            await decoder.end()
            raise RequestError(422, "expected a photo, got one that crashes the decoder", _KINDS) from None
        except BaseException:
            await decoder.end()  # the request was cancelled: a later request must not read its result
            raise
        finally:
            self._idle.put_nowait(decoder)
        if kind == PIXELS:
            return np.frombuffer(payload, np.uint8).reshape(self._crop, self._crop, 3)
        raise self._to_error(json.loads(payload))

    def _to_error(self, failure: Mapping[str, Any]) -> RequestError:
        reason, detail = SkipReason(failure["reason"]), failure["detail"]
        if reason == SkipReason.TOO_LARGE:  # by the limit of the server, which is lower than that for files
            most = self._limits.pixels / 1e6
            return RequestError(413, f"expected at most {most:g} megapixels, got {detail}", "send a smaller photo")
        # The detail of a file that is not a photo is its first bytes, which do not help the client.
        found = f"{reason.text} ({detail})" if detail and reason != SkipReason.NOT_AN_IMAGE else reason.text
        status = 415 if reason in (SkipReason.NOT_AN_IMAGE, SkipReason.NO_DECODER) else 422
        return RequestError(status, f"expected a photo, got: {found}", _KINDS)


class _DecodeWorker:
    """One decoding process, started when it is needed."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = json.dumps(settings)
        self._process: Process | None = None

    async def start(self) -> Process:
        """Return the process; start it if it does not run."""
        if self._process is None:
            # One thread each, because there is one process per core.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            path = os.pathsep.join(filter(None, (_HOME, os.environ.get("PYTHONPATH", ""))))
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pipeline.server.decode_worker",
                self._settings,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,  # C libraries print warnings about damaged photos
                env={**os.environ, **threads, "PYTHONPATH": path},
                limit=_BUFFER,
            )
        return self._process

    async def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Send a photo to the process, and return the kind and the payload of its answer."""
        process = await self.start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(len(data).to_bytes(LENGTH, "big"))
        process.stdin.write(data)
        await process.stdin.drain()
        head = await process.stdout.readexactly(1 + LENGTH)
        return head[:1], await process.stdout.readexactly(int.from_bytes(head[1:], "big"))

    async def end(self) -> None:
        """Kill the process, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(OSError):
            await process.stdin.wait_closed()
