"""The server answers as `predict` does, takes on no more than it can, waits for nobody for ever, and ends in order."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from commands import class_folders, photo
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier

from pipeline.errors import ServerError
from pipeline.model import Model, fit
from pipeline.server import Limits, open_server

TOKEN = "correct-horse-battery-staple"
QUICK: dict[str, Any] = {"cv": 2, "n_jobs": 1, "device": "cpu", "heads": "logistic", "grid": {"logistic.C": 0.1}}


class Caller:
    """A client of a server that runs in a thread."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.host, self.port = server.url.removeprefix("http://").rsplit(":", 1)

    def __call__(
        self, path: str, body: bytes | None = None, *, method: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        status, _, content = self.whole(path, body, method=method, **headers)
        return status, json.loads(content)

    def whole(
        self, path: str, body: bytes | None = None, *, method: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, int(self.port), timeout=300)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def line(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection((self.host, int(self.port)), timeout=300)


@contextmanager
def running(model: Any, **options: Any) -> Iterator[Caller]:
    """Give a client of a server on a free port; it has ended when the context is left."""
    server = open_server(model, **{"port": 0, "n_jobs": 2, "device": "cpu", **options})
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 300
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        yield Caller(server)
    finally:
        server.should_exit = True
        thread.join(300)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a model that keeps them, one that does not, and new photos."""
    place = tmp_path_factory.mktemp("served")
    class_folders(place / "photos", 10)
    class_folders(place / "new", 5, first=70)
    fit(place / "photos", cache=place / "caches", out=place / "bees.model", keep_photos=True, **QUICK)
    fit(place / "photos", cache=place / "caches", out=place / "plain.model", weights=False, **QUICK)
    return place


@pytest.fixture(scope="module")
def call(place: Path) -> Iterator[Caller]:
    with running(place / "bees.model", cache=place / "caches") as caller:
        yield caller


def a_photo(kind: str = "ants", seed: int = 90) -> bytes:
    """Return a PNG of a photo that training never saw."""
    with TemporaryDirectory() as scratch:
        return photo(Path(scratch) / "a.png", kind, seed).read_bytes()


def flat_png(width: int, height: int, *, alpha: bool = False) -> bytes:
    """Return a PNG of one grey, or of nothing at all: a few kilobytes, whatever its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 4 if alpha else 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width * (1 + alpha))) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# What it answers


def test_it_answers_as_predict_does(call: Caller, place: Path) -> None:
    table = Model.open(place / "bees.model").predict(place / "new", neighbours=3, n_jobs=1)
    for row in table.itertuples():
        status, said = call("/predict", (place / "new" / row.id).read_bytes())
        assert status == 200
        assert (said["label"], said["unfamiliar"]) == (row.label, row.unfamiliar)
        assert [one["label"] for one in said["classes"]] == [row.label, row.label_2]
        assert [one["probability"] for one in said["classes"]] == pytest.approx(
            [row.probability, row.probability_2], rel=1e-4
        )
        assert [one["id"] for one in said["nearest"]] == [row.neighbour, row.neighbour_2, row.neighbour_3]
        assert [one["label"] for one in said["nearest"]] == [one["id"].partition("/")[0] for one in said["nearest"]]
        assert said["nearest"][0]["similarity"] == pytest.approx(row.similarity, abs=1e-5)
        assert said["value"] is None and said["labels"] is None


def test_the_nearest_have_their_pictures(call: Caller, place: Path) -> None:
    _, said = call("/predict?neighbours=2", (place / "photos" / "bees" / "03.png").read_bytes())
    assert said["nearest"][0]["id"] == "bees/03.png" and len(said["nearest"]) == 2
    status, headers, content = call.whole(said["nearest"][0]["thumbnail"])
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(content)), np.float64)
    wanted = np.asarray(Image.open(place / "photos" / "bees" / "03.png"), np.float64)
    assert np.abs(shown - wanted).mean() < 25  # a JPEG of noise
    for row in (-1, 20, 10**6):
        assert call(f"/thumbnails/{row}")[0] == 404


def test_without_the_training_photos_it_says_why(place: Path, tmp_path: Path) -> None:
    with running(place / "plain.model", cache=tmp_path) as call:
        status, said = call("/predict", a_photo())
        assert status == 200 and said["label"] == "ants" and said["unfamiliar"] is None and said["nearest"] == []
        _, about = call("/model")
        assert "not available" in about["unfamiliar"] and "not available" in about["nearest"]
    with running(place / "plain.model", cache=place / "caches") as call:
        _, said = call("/predict", a_photo())
        assert said["unfamiliar"] is False and said["nearest"][0]["thumbnail"] is None


def test_numbers_tags_and_scores_are_said_too(place: Path) -> None:
    model = Model.open(place / "bees.model")
    assert model.kept is not None
    X, y = model.kept.embeddings.astype(np.float32), np.arange(20) // 10
    tags = OneVsRestClassifier(LogisticRegression()).fit(X, np.column_stack([y, 1 - y]))
    options: dict[str, Any] = {"cache": place / "caches", "n_jobs": 1}
    with running(replace(model, kind="number", classes=(), estimator=Ridge().fit(X, 10.0 * y)), **options) as call:
        _, said = call("/predict", a_photo())
        assert isinstance(said["value"], float) and said["classes"] == [] and said["label"] is said["labels"] is None
    with running(replace(model, estimator=RidgeClassifier().fit(X, y)), **options) as call:
        _, said = call("/predict", a_photo())
        first, second = said["classes"]
        assert first["label"] == said["label"] and first["probability"] is None
        assert first["score"] == -second["score"]
    with running(replace(model, kind="multi", classes=("b", "a"), separator=";", estimator=tags), **options) as call:
        _, said = call("/predict", a_photo())
        assert said["label"] is said["value"] is None
        assert said["labels"] == [one["label"] for one in said["classes"] if one["probability"] > 0.5]


# What it refuses


def test_what_is_no_photo_is_refused_with_the_reason(call: Caller) -> None:
    whole = a_photo()
    for content, status, words in (
        (b"no photo at all", 415, "not an image"),
        (b"", 422, "empty file"),
        (whole[: len(whole) // 2], 422, "unreadable"),
        (flat_png(10_000, 100), 422, "too long"),
        (flat_png(8000, 7000), 413, "expected at most 50 megapixels, got 8000 x 7000 pixels"),
        (bytes(10_000_001), 413, "expected at most 10 MB, got more"),
    ):
        found, said = call("/predict", content)
        assert (found, set(said)) == (status, {"error", "try"}), said
        assert words in said["error"] and said["try"]
    assert call("/predict", whole)[0] == 200


def test_a_body_without_a_length_is_cut_off_where_it_is_too_large(call: Caller) -> None:
    with call.line() as line:
        line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(11):
            line.sendall(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")
        assert line.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_wrong_paths_methods_and_values_are_said_in_two_parts(call: Caller) -> None:
    for path, body, method, status in (
        ("/nothing", None, None, 404),
        ("/predict", None, "GET", 405),
        ("/predict?neighbours=99", b"x", None, 422),
        ("/thumbnails/first", None, None, 422),
    ):
        found, said = call(path, body, method=method)
        assert found == status and set(said) == {"error", "try"}


def test_a_photo_that_takes_too_long_ends_its_decoder_and_no_other(place: Path) -> None:
    with running(place / "bees.model", cache=place / "caches", n_jobs=1, limits=Limits(decode_seconds=0.0)) as call:
        status, said = call("/predict", a_photo())
        assert status == 422 and "decodes within 0 seconds" in said["error"]
        assert call("/health") == (200, {"status": "ok", "in_house": 0})


def test_a_decoder_that_breaks_down_is_replaced(place: Path, call: Caller) -> None:
    listing = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True, text=True)
    mine = [int(line.split()[0]) for line in listing.stdout.splitlines() if "pipeline.server.decode_worker" in line]
    assert len(mine) == 2
    for pid in mine:
        os.kill(pid, signal.SIGKILL)
    found = [call("/predict", a_photo())[0] for _ in range(6)]
    assert found.count(422) <= 2 and found[-1] == 200


def test_memory_that_a_photo_may_take_is_bounded(place: Path) -> None:
    limits = Limits(decoder_memory=600 << 20)
    with running(place / "bees.model", cache=place / "caches", n_jobs=1, limits=limits) as call:
        assert call("/predict", a_photo())[0] == 200
        assert call("/predict", flat_png(7000, 7000, alpha=True))[0] == 422  # takes 800 MB to put on white
        assert call("/predict", a_photo())[0] == 200


# Who may come in


def test_only_this_machine_is_served_without_a_token(place: Path, tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(
            ServerError, match="expected a token, because other machines can reach this address"
        ) as error:
            open_server(place / "bees.model", host=host, port=0)
        assert "--token-file" in error.value.next_step
    short = tmp_path / "token"
    for text, found in (
        ("short\n", "got 5"),
        ("", "got 0"),
        ("twenty letters or so", "got blanks or control characters"),
    ):
        short.write_text(text)
        with pytest.raises(ServerError, match=found):
            open_server(place / "bees.model", port=0, token_file=short)
    with pytest.raises(ServerError, match="got No such file"):
        open_server(place / "bees.model", port=0, token_file=tmp_path / "none")


def test_with_a_token_nothing_of_the_model_is_shown_without_it(place: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with running(place / "bees.model", host="0.0.0.0", cache=place / "caches", token_file=tmp_path / "token") as call:
        call.host = "127.0.0.1"
        for path, body in (("/predict", a_photo()), ("/model", None), ("/thumbnails/0", None), ("/nothing", None)):
            for shown in (
                {},
                {"Authorization": f"Bearer {TOKEN}x"},
                {"Authorization": f"Basic {TOKEN}"},
                {"Authorization": "Bearer "},
            ):
                status, headers, content = call.whole(path, body, **shown)
                assert status == 401 and headers["www-authenticate"] == "Bearer"
                assert b"bees" not in content
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert call("/predict", a_photo(), **right)[1]["label"] == "ants"
        assert call.whole("/thumbnails/0", **right)[0] == 200
        for path in ("/", "/health", "/docs", "/openapi.json"):
            status, _, content = call.whole(path, Host="any.name")
            assert status == 200 and b"ants" not in content


def test_a_name_or_a_page_of_elsewhere_is_sent_away(call: Caller) -> None:
    assert call("/model", Host="evil.example")[0] == 421
    assert call("/model", Host="127.0.0.1.evil.example")[0] == 421
    assert call("/model", Host=f"LOCALHOST:{call.port}")[0] == 200
    assert call("/predict", a_photo(), Origin="http://evil.example")[0] == 403
    assert call("/predict", a_photo(), Origin="null")[0] == 403
    assert call("/predict", a_photo(), Origin=f"http://{call.host}:{call.port}")[0] == 200


def test_a_taken_port_is_said(place: Path, call: Caller) -> None:
    with pytest.raises(
        ServerError, match=rf"--port {call.port}: expected to listen there, got: Address already in use"
    ):
        open_server(place / "bees.model", port=int(call.port), cache=place / "caches")


# Under load


def test_photos_that_wait_together_are_answered_together(place: Path) -> None:
    with running(place / "bees.model", cache=place / "caches", n_jobs=1) as call:
        batches = call.server.batcher.batches = []
        photos = [(place / "new" / name).read_bytes() for name in ("ants/70.png", "bees/71.png")]
        batcher = call.server.batcher
        with batcher._head, ThreadPoolExecutor(24) as pool:  # held up, so that the others have to wait
            found = [pool.submit(call, "/predict", photos[number % 2]) for number in range(24)]
            deadline = time.monotonic() + 300
            while batcher._waiting.qsize() < 24 - batcher._network.batch_size and time.monotonic() < deadline:
                time.sleep(0.01)
            batcher._head.release()
            said = [one.result() for one in found]
            batcher._head.acquire()
        assert sum(batches) == 24 and max(batches) == batcher._network.batch_size > 1 and len(batches) < 24
        assert [one[1]["label"] for one in said] == ["ants", "bees"] * 12


def test_more_than_the_house_holds_are_sent_away_and_the_others_answered(place: Path) -> None:
    with running(place / "bees.model", cache=place / "caches", limits=Limits(places=3)) as call:
        batcher = call.server.batcher
        with batcher._head, ThreadPoolExecutor(10) as pool:
            found = [pool.submit(call.whole, "/predict", a_photo()) for _ in range(10)]
            deadline = time.monotonic() + 300
            while sum(one.done() for one in found) < 7 and time.monotonic() < deadline:
                time.sleep(0.01)
            away = [one.result() for one in found if one.done()]
            assert call("/health")[1]["in_house"] == 3
            batcher._head.release()
            statuses = sorted(one.result()[0] for one in found)
            batcher._head.acquire()
        assert statuses == [200] * 3 + [503] * 7
        assert all(headers["retry-after"] == "1" for _, headers, _ in away)
        assert call("/health")[1]["in_house"] == 0


def test_who_sends_slowly_is_not_waited_for(place: Path) -> None:
    limits = Limits(body_seconds=0.5, request_seconds=2.5)
    with running(place / "bees.model", cache=place / "caches", limits=limits) as call:
        with call.line() as line:
            line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
            assert line.recv(1000).startswith(b"HTTP/1.1 408 ")
        for begun in (b"", b"POST /pre", b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"):
            with call.line() as line:
                line.sendall(begun)
                with suppress(ConnectionResetError):
                    assert line.recv(1000) == b""  # cut off without a word
        # A connection that is kept is given as long for every request.
        with closing(http.client.HTTPConnection(call.host, int(call.port), timeout=300)) as connection:
            for _ in range(3):
                connection.request("GET", "/health")
                assert connection.getresponse().read()
                time.sleep(1.0)
        assert call("/health")[1]["in_house"] == 0


def test_who_goes_away_leaves_no_place_taken(place: Path, call: Caller) -> None:
    for _ in range(5):
        with call.line() as line:
            line.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
    deadline = time.monotonic() + 300
    while call("/health")[1]["in_house"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert call("/health")[1]["in_house"] == 0


def test_an_answer_that_nobody_waits_for_harms_nobody(place: Path) -> None:
    limits = Limits(answer_seconds=0.5)
    with running(place / "bees.model", cache=place / "caches", n_jobs=1, limits=limits) as call:
        call("/predict", a_photo())  # everything is warm
        with call.server.batcher._head:
            assert [call("/predict", a_photo())[0] for _ in range(2)] == [503, 503]
        assert call("/predict", a_photo())[0] in (200, 503)
        deadline = time.monotonic() + 300
        while call("/predict", a_photo())[0] != 200:
            assert time.monotonic() < deadline


# The pages


def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere(call: Caller) -> None:
    for path in ("/", "/docs", "/openapi.json", "/health", "/model", "/nothing", "/thumbnails/0"):
        _, headers, content = call.whole(path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers and "access-control-allow-origin" not in headers
        if path in ("/", "/docs"):
            for mark in (
                b"src=",
                b"@import",
                b"url(",
                b"https://",
                b"innerHTML",
                b"insertAdjacentHTML",
                b"document.write",
            ):
                assert mark not in content, mark


def test_the_interface_is_described_and_its_page_escapes_it(call: Caller) -> None:
    _, schema = call("/openapi.json")
    assert set(schema["paths"]) == {"/predict", "/thumbnails/{row}", "/model", "/health"}
    assert schema["paths"]["/predict"]["post"]["requestBody"]["content"] == {
        "image/*": {"schema": {"type": "string", "format": "binary"}}
    }
    page = call.whole("/docs")[2].decode()
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in page
    for field in ("unfamiliar", "similarity", "in_house"):
        assert f"<code>{field}</code>" in page
    from pipeline.server.app import documentation

    prediction = schema["components"]["schemas"]["ImagePrediction"]
    schema["info"]["title"] = prediction["description"] = "<script>alert(1)</script>"
    assert "<script" not in documentation(schema)


# From the command line


def test_ctrl_c_answers_who_is_in_and_ends_everything(place: Path) -> None:
    words = ["serve", str(place / "bees.model"), "--port", "0", "--jobs", "1", "--cache", str(place / "caches")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    with closing(http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=300)) as connection:
        connection.request("POST", "/predict", a_photo())
        assert connection.getresponse().read()
        connection.putrequest("POST", "/predict")
        content = a_photo("bees")
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content[:-1])
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)  # to every process, as a terminal does
        time.sleep(1.0)
        connection.send(content[-1:])
        assert json.loads(connection.getresponse().read())["label"] == "bees"
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "Traceback" not in err and err.rstrip().endswith("nothing lost; run the same command to go on")
    left = subprocess.run(["ps", "-o", "pid=", "--sid", str(process.pid)], capture_output=True, text=True).stdout
    assert left.strip() == ""
