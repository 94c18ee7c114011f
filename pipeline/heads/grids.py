"""Grids: values for an estimator's parameters, by the short names that a person writes."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import HeadError
from pipeline.heads.describe import estimator_text


def parse_grid(grid: Mapping[str, Any] | Sequence[str]) -> dict[str, list[Any]]:
    """Return {"head.param": values} from texts like "logistic.C=0.01,0.1,1" or from a mapping.

    Values are Python literals (1e-3, None, True, (64, 64)) where they read as such, otherwise text.
    """
    if isinstance(grid, Mapping):
        return {key: _as_list(values, key) for key, values in grid.items()}
    parsed: dict[str, list[Any]] = {}
    for text in [grid] if isinstance(grid, str) else grid:
        key, equals, values = text.partition("=")
        if not equals or "." not in key or not values.strip():
            raise HeadError(
                f"--grid {text}: wanted HEAD.PARAM=VALUE,VALUE, found {text!r}",
                "write it like --grid logistic.C=0.01,0.1,1",
            )
        parsed.setdefault(key.strip(), []).extend(_literal(value) for value in _split_values(values))
    return parsed


def own_name(estimator: Any, head: str, param: str) -> str:
    """Return the estimator's own name of a parameter given in short: C -> logisticregression__C."""
    names = list(estimator.get_params())
    if param in names:
        return param
    matches = [name for name in names if name.rpartition("__")[2] == param]
    if len(matches) > 1:  # the last step is the one that is meant; a nested estimator comes before its wrapper
        last = [name for name in matches if name.split("__")[0] == _last_step(estimator)]
        matches = last if len(last) == 1 else matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise HeadError(
            f"--grid {head}.{param}: wanted one parameter, found {', '.join(matches)}",
            f"write it in full: --grid {head}.{matches[0]}=...",
        )
    short = list(dict.fromkeys(name.rpartition("__")[2] for name in names if name.rpartition("__")[2]))
    folded = {name.casefold(): name for name in short}
    near = [folded[n] for n in difflib.get_close_matches(param.casefold(), list(folded), n=3, cutoff=0.5)]
    raise HeadError(
        f"--grid {head}.{param}: wanted a parameter of {estimator_text(estimator)}, found {param!r}",
        f"did you mean --grid {head}.{near[0]}=...?" if near else f"its parameters: {', '.join(short[:12])}",
    )


def _last_step(estimator: Any) -> str | None:
    from sklearn.pipeline import Pipeline

    return estimator.steps[-1][0] if isinstance(estimator, Pipeline) else None


def _as_list(values: Any, key: str) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        return [values]
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if not values:
        raise HeadError(f"--grid {key}: wanted at least one value, found none", "give a value, or leave the grid out")
    return values


def _split_values(text: str) -> list[str]:
    """Split at the commas that no bracket or quote encloses: "(64,),(128,64)" is two values."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
