"""The two pages, each one text that loads nothing: the one for photos, and the one about the interface."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any


@cache
def front_page() -> tuple[str, str]:
    """Return the page on which a person drops photos, and its content security policy."""
    text = files("pipeline.server").joinpath("page.html").read_text(encoding="utf-8")
    return text, policy_of(text)


def policy_of(page: str) -> str:
    """Return the policy under which a page's own style and script run, known by their hashes, and nothing else does."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in found) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def documentation(schema: Mapping[str, Any]) -> str:
    """Return the page that says what an OpenAPI description says; everything in it is escaped."""
    frame = files("pipeline.server").joinpath("docs.html").read_text(encoding="utf-8")
    calls = "".join(
        _call(method, path, call) for path, methods in schema["paths"].items() for method, call in methods.items()
    )
    answers = "".join(_shape(name, shape) for name, shape in schema["components"]["schemas"].items() if _is_ours(name))
    about = f"<h1>{escape(schema['info']['title'])}</h1><p>{escape(schema['info']['description'])}</p>"
    return frame.replace("<!-- about -->", about).replace("<!-- calls -->", calls).replace("<!-- answers -->", answers)


def _is_ours(name: str) -> bool:
    return not name.endswith("ValidationError")  # FastAPI's own, which no answer here has


def _call(method: str, path: str, call: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(_type(one['schema']))}</td>"
        f"<td>{escape(one.get('description', 'In the ' + one['in']))}</td></tr>"
        for one in call.get("parameters", [])
    ]
    if "requestBody" in call:
        rows.append(
            f"<tr><td>body</td><td>{escape(', '.join(call['requestBody']['content']))}</td><td>The photo.</td></tr>"
        )
    answers = []
    for status, one in call["responses"].items():
        shapes = [content.get("schema", {}) for content in one.get("content", {}).values()]
        kind = ", ".join(_type(shape) for shape in shapes if shape)
        if status != "422" or "requestBody" in call:  # FastAPI adds one to whatever has parameters
            text = escape(one["description"]) if status != "200" else "The answer."
            answers.append(f"<tr><td><code>{escape(status)}</code></td><td>{escape(kind)}</td><td>{text}</td></tr>")
    tables = "".join(f"<table>{''.join(some)}</table>" for some in (rows, answers) if some)
    title = f"<h2><span>{escape(method.upper())}</span> <code>{escape(path)}</code></h2>"
    said = f"<p>{escape(call['summary'])}. {escape(call.get('description', ''))}</p>"
    return f"<section>{title}{said}{tables}</section>"


def _shape(name: str, shape: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(_type(one))}</td>"
        f"<td>{escape(one.get('description', ''))}</td></tr>"
        for field, one in shape.get("properties", {}).items()
    )
    return (
        f"<section><h3>{escape(name)}</h3><p>{escape(shape.get('description', ''))}</p><table>{rows}</table></section>"
    )


def _type(shape: Mapping[str, Any]) -> str:
    """Return a schema's type in a word or two."""
    if "$ref" in shape:
        return shape["$ref"].rpartition("/")[2]
    if "anyOf" in shape:
        return " or ".join(_type(one) for one in shape["anyOf"])
    if shape.get("type") == "array":
        return f"list of {_type(shape['items'])}"
    return str(shape.get("type", json.dumps(shape)))
