"""Answers a second: `predict` against `extract`, `serve` against `predict`; and a server under requests of all kinds.

    python benchmarks/serve.py PHOTOS
    python benchmarks/serve.py PHOTOS --mixed 1000 --times 3      # the second part alone

PHOTOS is a folder of class folders. A model is fitted on it that keeps its photos. Then `extract` (into a new cache
each time), `predict` (with the nearest training photo looked for) and a server with 32 clients on this machine take
turns over copies of the photos, each in processes that have loaded everything; the median of the rounds counts.

The second part sends a server requests of all kinds, 64 clients at once: good photos, photos that are too large in
bytes and in pixels, broken ones, texts, and clients that send half a photo and then nothing. It counts the answers,
asks for the server's health after it, and adds up the memory of the server and its decoders between the thousands.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from extraction import copies
from turns import Contender, machine, median, serve, take_turns

HERE = Path(__file__).parent
EXTRACT, PREDICT, SERVE = "`extract`", "`predict`", "`serve`, 32 clients beside it"
CLIENTS, MIXED_CLIENTS = 32, 64
KINDS = {"good": 700, "too many bytes": 60, "too many pixels": 40, "broken": 100, "text": 60, "slow": 40}  # of 1,000
PATIENCE = 120  # seconds of a client


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--mixed", type=int, metavar="N", help="only the second part, with N requests")
    parser.add_argument("--times", type=int, default=3, help="how often the second part is done on one server")
    parser.add_argument("--child", choices=("extract", "predict", "serve"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        {"extract": extracting, "predict": predicting, "serve": serving}[arguments.child](Path(arguments.photos))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fitted(Path(arguments.photos), folder)
        if arguments.mixed is None:
            compared(Path(arguments.photos), folder, arguments.copies, arguments.rounds)
        mixed(Path(arguments.photos), folder, arguments.mixed or 1000, arguments.times)
    print(f"\n{machine()}")


def fitted(photos: Path, folder: Path) -> None:
    """Make the model, and leave the exported network where all find it."""
    from pipeline import fit

    fit(photos, cache=folder / "caches", out=folder / "b.model", keep_photos=True, heads="logistic", cv=2)


# Throughput


def compared(photos: Path, folder: Path, count: int, rounds: int) -> None:
    """Print images a second of the three, and the two ratios."""
    many = copies(photos, folder, count)
    words = {EXTRACT: "extract", PREDICT: "predict", SERVE: "serve"}
    contenders = {
        name: Contender(
            name, [sys.executable, str(HERE / "serve.py"), str(many), "--child", child], folder / f"{child}.log"
        )
        for name, child in words.items()
    }
    try:
        turns = take_turns(contenders, rounds)
    finally:
        for contender in contenders.values():
            contender.stop()
    speeds = {name: median(values) for name, values in turns.items()}
    print("| | images/s | rounds |\n|---|---|---|")
    for name, values in turns.items():
        print(f"| {name} | {speeds[name]:.1f} | {min(values):.1f} to {max(values):.1f} |")
    print(f"\n`predict` against `extract`: {speeds[PREDICT] / speeds[EXTRACT]:.2f}; ", end="")
    print(f"`serve` against `predict`: {speeds[SERVE] / speeds[PREDICT]:.2f}\n")


def extracting(many: Path) -> None:
    from pipeline import extract

    caches = many.parent / "extracted"  # where no cache knows the photos

    def run() -> int:
        for path in caches.glob("*.h5*"):
            path.unlink()
        cache = extract(many, cache=caches)
        assert cache.summary.inferred == len(cache) == len(cache.rows)
        return len(cache)

    serve(run)


def predicting(many: Path) -> None:
    from pipeline import Model

    model = Model.open(many.parent / "b.model")

    def run() -> int:
        table = model.predict(many, cache=many.parent / "caches")
        assert not (table["error"] != "").any() and not table["unfamiliar"].isna().any()
        return len(table)

    serve(run)


def serving(many: Path) -> None:
    photos = [path.read_bytes() for path in sorted(path for path in many.rglob("*") if path.is_file())]
    server = Server(many.parent)
    try:
        serve(lambda: server.answer_all(photos))
    finally:
        server.stop()


class Server:
    """`pipeline serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        words = ["serve", str(folder / "b.model"), "--port", "0", "--cache", str(folder / "caches")]
        self._process = subprocess.Popen([sys.executable, "-m", "pipeline", *words], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline().strip().rpartition(":")[2])

    def answer_all(self, photos: Sequence[bytes]) -> int:
        """Send all photos, a connection a client, and return how many were answered."""

        def client(mine: Sequence[bytes]) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            done = 0
            for photo in mine:
                connection.request("POST", "/predict?neighbours=1", photo)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status
                done += 1
            connection.close()
            return done

        with ThreadPoolExecutor(CLIENTS) as pool:
            return sum(pool.map(client, [photos[number::CLIENTS] for number in range(CLIENTS)]))

    def memory(self) -> float:
        """Return the resident megabytes of the server and its decoders."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (self._process.pid, *children)]
        return sum(pages) * 4096 / 1e6

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


# Requests of all kinds


def mixed(photos: Path, folder: Path, count: int, times: int) -> None:
    """Print what came back, kind by kind, and the memory after each time."""
    good = [path.read_bytes() for path in sorted(path for path in photos.rglob("*") if path.is_file())]
    server = Server(folder)
    answers: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    memory, well = [], []
    times_of_good: list[float] = []
    try:
        server.answer_all(good)
        memory.append(server.memory())
        for number in range(times):
            order = list(islice(cycle(kind for kind, share in KINDS.items() for _ in range(share)), count))
            random.Random(number).shuffle(order)
            with ThreadPoolExecutor(MIXED_CLIENTS) as pool:
                found = pool.map(lambda one: timed(server, one[1], good[one[0] % len(good)]), enumerate(order))
                for kind, (said, seconds) in zip(order, found, strict=True):
                    answers[kind][said] += 1
                    times_of_good += [seconds] if kind == "good" and said == "200" else []
            well.append(server.answer_all(good[:64]) == len(good[:64]))
            memory.append(server.memory())
    finally:
        server.stop()
    print(f"| {times} times {count} requests, {MIXED_CLIENTS} at once | answers |\n|---|---|")
    for kind, said in answers.items():
        print(f"| {kind} | {', '.join(f'{status}: {number:,}' for status, number in sorted(said.items()))} |")
    print(f"\nhealthy after each: {all(well)}; memory of server and decoders before and after each, MB: ", end="")
    print(", ".join(f"{value:.0f}" for value in memory), end="; ")
    tail = statistics.quantiles(times_of_good, n=100)
    print(f"a good photo's answer in {tail[49]:.2f} s (median), {tail[94]:.2f} s (95%)")


def timed(server: Server, kind: str, photo: bytes) -> tuple[str, float]:
    started = time.perf_counter()
    said = REQUESTS[kind](server, photo)
    return said, time.perf_counter() - started


def post(server: Server, body: bytes) -> str:
    """Return the status of the answer; it is read to its end."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("POST", "/predict", body)
        answer = connection.getresponse()
        json.loads(answer.read())
        return str(answer.status)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()


def slow(server: Server, photo: bytes) -> str:
    """Send half a photo and wait for what the server makes of it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as line:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(photo)}\r\n\r\n"
        line.sendall(head.encode() + photo[: len(photo) // 2])
        said = line.recv(12)
        return said[9:12].decode() or "closed"


def huge(width: int, height: int) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("L", (width, height)).save(content, "PNG")
    return content.getvalue()


TOO_MANY_PIXELS = huge(8000, 7000)
REQUESTS: dict[str, Callable[[Any, bytes], str]] = {
    "good": post,
    "too many bytes": lambda server, photo: post(server, photo + bytes(11_000_000)),
    "too many pixels": lambda server, _: post(server, TOO_MANY_PIXELS),
    "broken": lambda server, photo: post(server, photo[: len(photo) // 3]),
    "text": lambda server, _: post(server, b"no photo\n" * 100),
    "slow": slow,
}

if __name__ == "__main__":
    main()
