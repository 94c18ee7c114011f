"""An estimator in one line."""

from __future__ import annotations

import inspect
from typing import Any


def estimator_text(estimator: Any) -> str:
    """Return the estimator in one line, as the code that makes it, with the parameters that are not defaults."""
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, Pipeline):
        return " + ".join(estimator_text(step) for _, step in estimator.steps)
    try:
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(type(estimator).__init__).parameters.items()
        }
    except (TypeError, ValueError):
        return type(estimator).__name__
    shown = []
    for name, value in estimator.get_params(deep=False).items():
        if name == "random_state" or _same(value, defaults.get(name)):
            continue
        shown.append(f"{name}={estimator_text(value) if hasattr(value, 'get_params') else repr(value)}")
    return f"{type(estimator).__name__}({', '.join(shown)})"


def _same(value: Any, default: Any) -> bool:
    return (
        value is default
        or (type(value) is type(default) and not hasattr(value, "__len__") and value == default)
        or (isinstance(value, str) and value == default)
    )
