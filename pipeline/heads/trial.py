"""What an estimator turns out to be once it is fitted: tried on a few random rows, before any real work."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def has_method(estimator: Any, name: str) -> bool:
    """Return whether an estimator has a method, also where it shows it only once it is fitted.

    Parameters
    ----------
    estimator : estimator
        An unfitted one; a `StackingClassifier` without a final estimator of its own shows no `predict` yet.
    name : str
        Such as "predict".
    """
    from sklearn.base import is_classifier, is_regressor

    if callable(getattr(estimator, name, None)):
        return True
    if not callable(getattr(type(estimator), name, None)) or callable(getattr(estimator, "predict", None)):
        return False
    # Not even `predict` is shown, so what there is depends on the fit.
    kind = "class" if is_classifier(estimator) else "number" if is_regressor(estimator) else ""
    if not kind:
        return False
    return name == "predict" or callable(getattr(fitted_on_random_rows(estimator, kind), name, None))


def fitted_on_random_rows(estimator: Any, kind: str) -> Any:
    """Return the estimator fitted to 60 random rows of 64 columns, or as it is where it does not take them.

    Parameters
    ----------
    estimator : estimator
        It is cloned.
    kind : {"class", "number", "multi"}
    """
    from sklearn.base import clone

    rng = np.random.default_rng(0)
    # As many columns as make scikit-learn's "auto" choices those of real embeddings.
    X = rng.normal(size=(60, 64)).astype(np.float32)
    y = {
        "class": np.arange(60) % 2,
        "number": rng.normal(size=60),
        "multi": np.column_stack([np.arange(60) % 2, np.arange(60) % 3 == 0]).astype(np.int8),
    }[kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clone(estimator).fit(X, y)
    except Exception:
        return estimator
