"""The types that a stored head may be made of: a fixed list, whatever a file says of itself."""

from __future__ import annotations

import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ModelError

# The types beyond skops's own list that heads of the catalogue are made of. It is fixed: a file's word on what
# should be trusted is never taken.
ALLOWED_TYPES = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)


def stored_head(estimator: Any, name: str) -> bytes:
    """Return the estimator as skops stores it.

    Raises
    ------
    ModelError
        It cannot be stored.
    """
    import skops.io

    try:
        return skops.io.dumps(estimator)
    except Exception as error:
        raise ModelError(
            f"head {name!r}: wanted one that can be stored without pickling, found {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}",
            "use a head of `pipeline heads`, or keep the estimator in Python",
        ) from error


def load_head(content: bytes, file: Path, next_step: str) -> Any:
    """Return the estimator in a stored head, its types looked at before anything is made of them."""
    import skops.io

    _refuse_unpacking(content, str(file), next_step)
    refuse_types(content, str(file))
    try:
        head = skops.io.loads(content, trusted=list(ALLOWED_TYPES))
    except Exception as error:
        raise ModelError(f"{file}: wanted a stored head, found {type(error).__name__}", next_step) from error
    if not callable(getattr(head, "predict", None)):
        raise ModelError(
            f"{file}: wanted a stored head, found a {type(head).__name__}, which predicts nothing", next_step
        )
    return head


def _refuse_unpacking(content: bytes, what: str, next_step: str) -> None:
    """Raise `ModelError` where the archive holds more than its own bytes: `stored_head` compresses nothing."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception as error:  # a damaged archive reaches every corner of the reader
        raise ModelError(f"{what}: wanted a stored head, found {type(error).__name__}", next_step) from error
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > len(content):
        raise ModelError(
            f"{what}: wanted a stored head, found an archive that unpacks to more than its own size", next_step
        )


def refuse_types(content: bytes, what: str) -> None:
    """Raise `ModelError` where a stored head is made of types that are not on the list."""
    import skops.io

    try:
        strange = set(skops.io.get_untrusted_types(data=content)) - set(ALLOWED_TYPES)
    except Exception as error:
        raise ModelError(
            f"{what}: wanted a stored head, found {type(error).__name__}", "fit the model again"
        ) from error
    if strange:
        raise ModelError(
            f"{what}: wanted types of scikit-learn alone, found {', '.join(sorted(strange))}",
            "use a head of `pipeline heads`, or keep the estimator in Python",
        )


def refuse_unsavable(heads: Any) -> None:
    """Raise `ModelError` if one of these heads is of a type that a model folder may not hold.

    A head that is not of the catalogue is fitted to a handful of random rows: some types appear only in what was
    learned.
    """
    from pipeline.heads import DEFAULT, fits, resolve_heads

    if heads is None:
        return
    for head in [heads] if isinstance(heads, str) or not isinstance(heads, list | tuple) else heads:
        for kind in DEFAULT:
            if fits(head, kind):
                for resolved in resolve_heads([head], kind=kind):
                    trial = resolved.estimator if isinstance(head, str) and "." not in head else _tried(resolved, kind)
                    refuse_types(stored_head(trial, resolved.name), f"head {resolved.name!r}")


def _tried(head: Any, kind: str) -> Any:
    """Return the head fitted to random rows, or as it is where it does not take them."""
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
            return clone(head.estimator).fit(X, y)
    except Exception:
        return head.estimator
