"""Which requests does the server handle, and with which pages and responses?"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipeline.model import Model, TrainingSet
from pipeline.provenance import installed
from pipeline.server.batcher import MicroBatcher
from pipeline.server.decode_pool import DecodePool
from pipeline.server.limits import Limits, RequestError
from pipeline.server.schemas import ErrorBody, Health, ImagePrediction, ModelInfo, to_response


@cache
def front_page() -> tuple[str, str]:
    """Return the page on which the user drops photos, and its content security policy."""
    text = files("pipeline.server").joinpath("page.html").read_text(encoding="utf-8")
    return text, policy_of(text)


def policy_of(page: str) -> str:
    """Return the content security policy that allows the page's own styles and scripts, by hash, and no others."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in found) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def documentation(schema: Mapping[str, Any]) -> str:
    """Return the page that renders an OpenAPI description; everything in it is escaped."""
    frame = files("pipeline.server").joinpath("docs.html").read_text(encoding="utf-8")
    calls = "".join(
        _call(method, path, call) for path, methods in schema["paths"].items() for method, call in methods.items()
    )
    answers = "".join(
        _schema_section(name, shape) for name, shape in schema["components"]["schemas"].items() if _is_used(name)
    )
    about = f"<h1>{escape(schema['info']['title'])}</h1><p>{escape(schema['info']['description'])}</p>"
    return frame.replace("<!-- about -->", about).replace("<!-- calls -->", calls).replace("<!-- answers -->", answers)


def _is_used(name: str) -> bool:
    return not name.endswith("ValidationError")  # FastAPI adds this schema; no response here has it


def _call(method: str, path: str, call: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(_type(parameter['schema']))}</td>"
        f"<td>{escape(parameter.get('description', 'In the ' + parameter['in']))}</td></tr>"
        for parameter in call.get("parameters", [])
    ]
    if "requestBody" in call:
        rows.append(
            f"<tr><td>body</td><td>{escape(', '.join(call['requestBody']['content']))}</td><td>The photo.</td></tr>"
        )
    answers = []
    for status, response in call["responses"].items():
        shapes = [content.get("schema", {}) for content in response.get("content", {}).values()]
        kind = ", ".join(_type(shape) for shape in shapes if shape)
        if status != "422" or "requestBody" in call:  # FastAPI adds a 422 to every call with parameters
            text = escape(response["description"]) if status != "200" else "The answer."
            answers.append(f"<tr><td><code>{escape(status)}</code></td><td>{escape(kind)}</td><td>{text}</td></tr>")
    tables = "".join(f"<table>{''.join(table)}</table>" for table in (rows, answers) if table)
    title = f"<h2><span>{escape(method.upper())}</span> <code>{escape(path)}</code></h2>"
    summary = f"<p>{escape(call['summary'])}. {escape(call.get('description', ''))}</p>"
    return f"<section>{title}{summary}{tables}</section>"


def _schema_section(name: str, shape: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(field))}</td>"
        f"<td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in shape.get("properties", {}).items()
    )
    return (
        f"<section><h3>{escape(name)}</h3><p>{escape(shape.get('description', ''))}</p><table>{rows}</table></section>"
    )


def _type(shape: Mapping[str, Any]) -> str:
    """Return a schema's type in a word or two."""
    if "$ref" in shape:
        return shape["$ref"].rpartition("/")[2]
    if "anyOf" in shape:
        return " or ".join(_type(choice) for choice in shape["anyOf"])
    if shape.get("type") == "array":
        return f"list of {_type(shape['items'])}"
    return str(shape.get("type", json.dumps(shape)))


_PHOTO = {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorBody, "description": "The token is missing or wrong."},
    408: {"model": ErrorBody, "description": "The photo did not arrive in time."},
    413: {"model": ErrorBody, "description": "The photo is too large, in bytes or in pixels."},
    415: {"model": ErrorBody, "description": "The file is not a photo, or this server cannot decode its format."},
    422: {"model": ErrorBody, "description": "The photo is damaged, or takes too long to decode."},
    503: {"model": ErrorBody, "description": "Too many requests at once; try again in a second."},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "There is no such thumbnail."},
    401: _ERRORS[401],
}


def application(
    model: Model,
    name: str,
    *,
    batcher: MicroBatcher,
    decoders: DecodePool,
    training: TrainingSet | None,
    why_not: str,
    limits: Limits,
) -> FastAPI:
    """Return the application that serves a model.

    Parameters
    ----------
    model : Model
    name : str
        The name of the model, for the page.
    batcher : MicroBatcher
    decoders : DecodePool
    training : TrainingSet or None
    why_not : str
        The reason if there is no training set.
    limits : Limits
    """

    @asynccontextmanager
    async def open_and_close(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        await decoders.start()
        try:
            yield
        finally:
            await decoders.stop()
            await asyncio.to_thread(batcher.stop)

    app = FastAPI(
        title="transfer-pipeline serve",
        version=installed("transfer-pipeline"),
        description="Send one photo per request; the response holds the model's prediction.",
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere
        redoc_url=None,
        lifespan=open_and_close,
    )
    running = ConcurrencyLimit(limits.places)

    @app.post("/predict", responses=_ERRORS, openapi_extra={"requestBody": _PHOTO}, summary="Predict one photo")
    async def predict(
        request: Request,
        # `Query` is a default, not an annotation, because FastAPI evaluates annotations outside of this function.
        neighbours: int = Query(3, ge=0, le=limits.neighbours, description="How many training photos to return."),
    ) -> ImagePrediction:
        """The body is the photo itself, as in curl --data-binary @new.jpg"""
        with running:
            data = await _body(request, limits)
            try:
                async with asyncio.timeout(limits.answer_seconds):
                    row = await asyncio.wrap_future(batcher.submit(await decoders.decode(data)))
            except TimeoutError:
                raise _busy() from None
        if row is None:
            raise RequestError(
                422, "expected finite features, got a photo with features that are not finite", "send another photo"
            )
        return to_response(model, row, training, neighbours)

    @app.get(
        "/thumbnails/{row}", responses=_UNKNOWN, response_class=Response, summary="A training photo's small picture"
    )
    def thumbnail(row: int) -> Response:  # not async: FastAPI runs it on a thread, because it reads the disk
        """A JPEG; the answers of /predict hold the paths."""
        picture = training.thumbnail(row) if training is not None and 0 <= row < len(training) else b""
        if not picture:
            raise RequestError(
                404, f"expected the number of a training photo with a thumbnail, got {row}", "see /predict"
            )
        return Response(picture, media_type="image/jpeg")

    @app.get("/model", responses={401: _ERRORS[401]}, summary="Describe the model")
    async def about() -> ModelInfo:
        return ModelInfo(
            name=name,
            label_set=model.label_set,
            task=model.kind,
            classes=list(model.classes),
            head=model.head,
            backbone=model.backbone.name,
            verdict=model.verdict,
            training_images=len(model.training_digests),
            unfamiliar=why_not or (None if model.training.beyond is not None else "all training photos are duplicates"),
            nearest=why_not or None,
            megabytes=limits.bytes / 1e6,
            megapixels=limits.pixels / 1e6,
        )

    @app.get("/health", summary="Report that the server runs")
    async def health() -> Health:
        return Health(status="ok", in_house=running.count)

    front, front_policy = front_page()

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(front, headers={"content-security-policy": front_policy})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        text = documentation(app.openapi())
        return HTMLResponse(text, headers={"content-security-policy": policy_of(text)})

    _handle_errors(app)
    return app


class ConcurrencyLimit:
    """A context manager that counts requests and raises `RequestError` above a limit; used from one event loop."""

    def __init__(self, most: int) -> None:
        self._most, self.count = most, 0

    def __enter__(self) -> None:
        if self.count >= self._most:
            raise _busy()
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


def _busy() -> RequestError:
    return RequestError(503, "expected a free place, got too many requests at once", "send it again in a second")


async def _body(request: Request, limits: Limits) -> bytes:
    """Return the photo in a request's body, or raise `RequestError`; memory is bounded by the largest photo."""
    most = limits.bytes
    large = RequestError(413, f"expected at most {most / 1e6:g} MB, got more", "send a smaller photo")
    if int(request.headers.get("content-length", "0")) > most:
        raise large
    data = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > most:
                    raise large
    except TimeoutError:
        seconds = limits.body_seconds
        raise RequestError(
            408, f"expected the whole photo within {seconds:g} seconds, got part of it", "send it again"
        ) from None
    except ClientDisconnect:
        raise RequestError(400, "expected a photo, but the client disconnected", "send it again") from None
    return bytes(data)


def _handle_errors(app: FastAPI) -> None:
    """Make every error response a JSON object of `error` and `try`."""

    def to_json(status: int, error: str, next_step: str) -> JSONResponse:
        headers = {408: {"connection": "close"}, 503: {"retry-after": "1"}}.get(status)
        return JSONResponse({"error": error, "try": next_step}, status, headers)

    @app.exception_handler(RequestError)
    async def failed(_: Request, error: RequestError) -> Response:
        return to_json(error.status, error.error, error.next_step)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return to_json(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "see /docs")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return to_json(422, f"{where}: {first['msg']}", "see /docs")
