"""The page shell: templates, content security policy, number formats as Jinja filters, and tables."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pipeline.report import load_library
from pipeline.runs.leaderboard import scoring_help, scoring_name

if TYPE_CHECKING:
    import jinja2

    from pipeline.report.html.charts import Chart


_MARKUP = files("pipeline.report.html").joinpath("templates")
SHADES = 10  # of a confusion matrix, in the style sheet
_EARLY, _PAGE, _STYLE = "early.js", "page.js", "style.css"


def render_page(
    template: str,
    charts: Sequence[Chart],
    pictures: Sequence[str] = (),
    *,
    cells: Sequence[Mapping[str, Any]] = (),
    map_layers: Mapping[int, Any] | None = None,
    **values: Any,
) -> str:
    """Return a page: a template with what it says filled in, every text escaped.

    Parameters
    ----------
    template : str
        A file of ``markup/``.
    charts : sequence of Chart
        All that the page shows, in the order of their numbers.
    pictures : sequence of str
        JPEG files in base 64; the page's pictures name their place here.
    cells : sequence of mapping
        The photos of the cells of each confusion matrix.
    map_layers : mapping of int to mapping
        The points of each map.
    **values
        The values of the template; a missing one is an error.
    """
    from importlib.metadata import version

    scripts = [_text(_EARLY), *([_bokeh()] if charts else []), _text(_PAGE)]
    marked = {
        "charts": charts,
        "pictures": pictures,
        "style": _safe(_text(_STYLE)),
        "scripts": [_safe(text) for text in scripts],
        "version": version("transfer-pipeline"),
        **values,
        "cells": cells,
        "map_layers": map_layers or {},
    }
    made = _environment().get_template(template)
    # The number is a hash of all that the page says: a person who names a class cannot foresee it.
    nonce = b64encode(sha256(made.render(policy="", nonce="", **marked).encode()).digest()[:18]).decode()
    return made.render(policy=policy(scripts, nonce), nonce=nonce, **marked)


def policy(scripts: Sequence[str], nonce: str) -> str:
    """Return the policy under which these scripts run, these styles hold, and nothing else does."""
    hashes = " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'nonce-{nonce}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def sentence(text: str) -> str:
    """Return a text as a sentence of its own: with a capital and a full stop."""
    text = text.strip()
    return text and f"{text[0].upper()}{text[1:]}{'' if text[-1] in '.!?' else '.'}"


def flatten(values: Mapping[str, Any], within: str = "") -> list[tuple[str, str]]:
    """Return plain JSON values as pairs of a name and a text, what lies within one another under dotted names."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        name = f"{within}.{name}" if within else str(name)
        if isinstance(value, Mapping):
            pairs += flatten(value, name)
        elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
            pairs += [pair for place, part in enumerate(value, 1) for pair in flatten({str(place): part}, name)]
        elif isinstance(value, list | tuple):
            pairs.append((name, ", ".join(map(str, value))))
        elif value not in (None, ""):
            pairs.append((name, str(value)))
    return pairs


@cache
def _environment() -> jinja2.Environment:
    jinja2 = load_library("jinja2")
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report.html", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        data=_data,
        number=number,
        span=span,
        percent=_percent,
        count=_count,
        shade=_shade,
        capital=_capital,
        scoring=scoring_name,
        scoring_help=scoring_help,
    )
    return made


def _data(value: Any) -> Any:
    """Return a value as JSON that ends no script element, whatever it says."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _safe(text: str) -> Any:
    return load_library("markupsafe").Markup(text)


@cache
def _text(name: str) -> str:
    return _MARKUP.joinpath(name).read_text(encoding="utf-8")


@cache
def _bokeh() -> str:
    """Return Bokeh's own code without what it has no need of here: widgets, tables, WebGL (which would want eval)."""
    return str(load_library("bokeh.resources").Resources(mode="inline", components=["bokeh"], minified=True).js_raw[0])


def _percent(value: float | None, form: str = ".1%") -> str:
    return "" if value is None else f"{value:{form}}"


def _count(value: int) -> str:
    return f"{value:,}"


def _capital(text: str) -> str:
    """Return a text with its first letter in upper case; the others stay as they are."""
    return text[:1].upper() + text[1:]


def _shade(share: float, correct: bool) -> str:
    """Return the class of the style sheet for a cell of a confusion matrix: the deeper, the larger its share."""
    return f"{'on' if correct else 'off'}{math.ceil(float(share) * SHADES)}" if share else ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name : str
    right : bool
        Whether its cells are aligned to the right, as numbers are.
    help : str
        One line on what the column shows; empty where the name says it.
    """

    name: str
    right: bool = False
    help: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts; the first cell of each row is its header."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


def number(value: float | None, form: str = ".3f") -> str:
    """Return a figure, or nothing where there is none."""
    return "" if value is None else f"{value:{form}}"


def span(low: float | None, high: float | None, form: str = ".3f") -> str:
    """Return an interval in words, or nothing where there is none."""
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def first_rows(what: str, count: int, most: int) -> str:
    """Return the caption of a table that shows no more than so many of its rows."""
    if count == 1:
        return f"1 {what.removesuffix('s')}"
    return f"The first {most:,} of {count:,} {what}" if count > most else f"All {count:,} {what}"


def headline(text: str) -> tuple[str, str]:
    """Return what is to be read first, and the rest: two sentences.

    The claim ends at the first colon or semicolon; its figures follow.
    """
    places = [place for mark in (": ", "; ") if (place := text.find(mark)) > 0]
    if not places:
        return sentence(text), ""
    return sentence(text[: min(places)]), sentence(text[min(places) + 2 :])
