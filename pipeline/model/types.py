"""The types that a stored head may be made of: a fixed list, whatever a file says of itself."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError

# The types beyond skops's own list that heads may be made of. It is fixed: a file's word on what should be trusted is
# never taken. All are scikit-learn's own, and none runs code when it is built: they are filled with attributes, each of
# a type that is looked at too. Those of calibration, of a `Bunch` (voting, stacking) and of a constant are Python
# classes without a `__setstate__` that does anything.
ALLOWED_TYPES = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)

_OTHER_HEAD = (
    "use a head of `pipeline heads`; or only score it with `pipeline evaluate`, or keep it in Python with fit(out=None)"
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
            f"head {name!r}: expected an estimator that can be saved without pickling, "
            f"got {type(error).__name__}: {str(error).partition(chr(10))[0]}",
            _OTHER_HEAD,
        ) from error


def load_head(content: bytes, file: Path, next_step: str) -> Any:
    """Return the estimator in a stored head, its types looked at before anything is made of them."""
    import skops.io

    _refuse_unpacking(content, str(file), next_step)
    check_types(content, str(file))
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


def check_types(content: bytes, file: str) -> None:
    """Raise `ModelError` where a stored head is made of types that are not on the list."""
    strange = _strange_types(content, file)
    if strange:
        raise ModelError(
            f"{file}: expected only types that a model may hold, got {', '.join(strange)}",
            "do not open this model, or ask for one that was made with a head of `pipeline heads`",
        )


def check_savable_head(content: bytes, name: str) -> None:
    """Raise `ModelError` where a model with this head could not be opened again."""
    strange = _strange_types(content, f"head {name!r}")
    if strange:
        raise ModelError(
            f"head {name!r}: it cannot be saved: expected only types that a model may hold, "
            f"got {', '.join(strange)} (no other type is built from a file)",
            _OTHER_HEAD,
        )


def _strange_types(content: bytes, what: str) -> list[str]:
    """Return the types of a stored head that are not on the list."""
    import skops.io

    try:
        return sorted(set(skops.io.get_untrusted_types(data=content)) - set(ALLOWED_TYPES))
    except Exception as error:
        raise ModelError(
            f"{what}: wanted a stored head, found {type(error).__name__}", "fit the model again"
        ) from error


def check_savable(heads: Any) -> None:
    """Raise `ModelError` if one of these heads is of a type that a model folder may not hold.

    A head that is not of the catalogue is fitted to a handful of random rows: some types appear only in what was
    learned.
    """
    from pipeline.heads import DEFAULT, fits, fitted_on_random_rows, resolve_heads

    if heads is None:
        return
    for head in [heads] if isinstance(heads, str) or not isinstance(heads, list | tuple) else heads:
        for kind in DEFAULT:
            if fits(head, kind):
                for resolved in resolve_heads([head], kind=kind):
                    named = isinstance(head, str) and "." not in head
                    trial = resolved.estimator if named else fitted_on_random_rows(resolved.estimator, kind)
                    check_savable_head(stored_head(trial, resolved.name), resolved.name)
