"""The model folder: written whole, checked before it is read, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.backbone import Backbone
from pipeline.errors import ModelError
from pipeline.model.card import card
from pipeline.model.model import Model

FORMAT = 1
KIND = "transfer-pipeline model"
RECORD, HEAD, WEIGHTS, DIGESTS, CARD = (
    "model.json",
    "head.skops",
    "backbone.safetensors",
    "training.digests",
    "README.md",
)

# The types beyond skops's own list that heads of the catalogue are made of. It is fixed: a file's word on what
# should be trusted is never taken.
ALLOWED_TYPES = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)


def save(model: Model, path: Path, *, weights: bool) -> Path:
    """Write the folder under a temporary name, then give it its own. See `Model.save`."""
    import skops.io

    refuse_place(path)
    head = skops.io.dumps(model.estimator)
    _refuse_types(head, f"head {model.head!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        (temporary / HEAD).write_bytes(head)
        (temporary / DIGESTS).write_bytes(np.ascontiguousarray(model.training_digests).tobytes())
        if weights:
            model.backbone.save_weights(temporary / WEIGHTS)
        files = {item.name: _sha256(item.read_bytes()) for item in sorted(temporary.iterdir())}
        record = {
            "format": FORMAT,
            "kind": KIND,
            **model.as_dict(),
            "files": files,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False, default=str)
        (temporary / RECORD).write_text(text, encoding="utf-8")
        (temporary / CARD).write_text(card(model, path.name), encoding="utf-8")
        temporary.chmod(0o755)
        _put_in_place(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def load(path: Path) -> Model:
    """Read a model folder. See `Model.open`."""
    import skops.io

    record = _record(path)
    files = record["files"]
    head = _checked(path, HEAD, files)
    _refuse_other_sklearn(path, record)
    _refuse_types(head, f"{path / HEAD}")
    try:
        estimator = skops.io.loads(head, trusted=list(ALLOWED_TYPES))
    except Exception as error:
        raise ModelError(f"{path / HEAD}: wanted a stored head, found {type(error).__name__}", _again(path)) from error
    digests = np.frombuffer(_checked(path, DIGESTS, files), np.uint8).reshape(-1, 16)
    if WEIGHTS in files:
        _checked(path, WEIGHTS, files)
        backbone = Backbone.from_record(record["backbone"], path / WEIGHTS)
    else:
        backbone = Backbone.from_record(record["backbone"])
    return Model(
        label_set=record["label_set"],
        kind=record["task"],
        classes=tuple(record["classes"]),
        head=record["head"],
        estimator=estimator,
        params=record["params"],
        layer=record["layer"],
        backbone=backbone,
        recipe=record["recipe"],
        scores=tuple(record["scores"]),
        training_digests=digests,
        notes=tuple(record["notes"]),
        verdict=record["verdict"],
        versions=record["versions"],
    )


def refuse_place(path: str | os.PathLike[str]) -> None:
    """Raise `ModelError` where a model cannot be put because something else is there."""
    place = Path(path)
    if place.exists() and not (place / RECORD).is_file() and not (place.is_dir() and not any(place.iterdir())):
        raise ModelError(
            f"{place}: wanted a place for the model, found something that is not a model there",
            f"--out {place.with_suffix('.new.model')}",
        )


def refuse_unsavable(heads: Any) -> None:
    """Raise `ModelError` if one of these heads is of a type that a model folder may not hold."""
    import skops.io

    from pipeline.heads import fits, resolve_heads

    for head in [heads] if isinstance(heads, str) or not isinstance(heads, list | tuple) else heads:
        if head is None:
            continue
        for kind in ("class", "number"):
            if fits(head, kind):
                for resolved in resolve_heads([head], kind=kind):
                    _refuse_types(skops.io.dumps(resolved.estimator), f"head {resolved.name!r}")


def _record(path: Path) -> dict[str, Any]:
    file = path / RECORD
    if not path.exists():
        raise ModelError(f"{path}: wanted a model folder, found nothing there", "pipeline fit DATA --out BEES.model")
    if not file.is_file():
        raise ModelError(
            f"{path}: wanted a model folder, found no {RECORD} in it", "pipeline fit DATA --out BEES.model"
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        kind, number = record["kind"], record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: wanted a model's record, found {type(error).__name__}", _again(path)) from error
    if kind != KIND:
        raise ModelError(f"{file}: wanted a {KIND}, found {kind!r}", _again(path))
    if number != FORMAT:
        raise ModelError(
            f"{path}: wanted model format {FORMAT}, found {number!r}",
            "install the version of transfer-pipeline that wrote it",
        )
    missing = {
        "label_set", "task", "classes", "head", "params", "layer", "backbone", "recipe", "verdict", "scores",
        "notes", "versions", "files",
    } - record.keys()  # fmt: skip
    if missing:
        raise ModelError(f"{file}: wanted {', '.join(sorted(missing))}, found no such entry", _again(path))
    return record


def _checked(path: Path, name: str, files: Mapping[str, str]) -> bytes:
    """Return a file's bytes, the very ones that match the hash in the record."""
    try:
        content = (path / name).read_bytes()
    except OSError as error:
        raise ModelError(f"{path / name}: wanted a file of the model, found {error.strerror}", _again(path)) from error
    found, wanted = _sha256(content), files.get(name)
    if found != wanted:
        raise ModelError(
            f"{path / name}: wanted SHA-256 {str(wanted)[:12]}..., found {found[:12]}...: another file",
            _again(path),
        )
    return content


def _refuse_types(content: bytes, what: str) -> None:
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


def _refuse_other_sklearn(path: Path, record: Mapping[str, Any]) -> None:
    import sklearn

    wanted = ".".join(str(record["versions"].get("scikit-learn", "?")).split(".")[:2])
    found = ".".join(sklearn.__version__.split(".")[:2])
    if wanted != found:
        raise ModelError(
            f"{path}: wanted scikit-learn {wanted}, which fitted the head, found {found}",
            f"pip install 'scikit-learn=={wanted}.*', or fit the model again",
        )


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    path.rename(aside / path.name)
    try:
        temporary.rename(path)
    except OSError:
        (aside / path.name).rename(path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _cannot_write(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path}: wanted to write the model here, found {error.strerror or error}",
        "give a folder that you may write with --out",
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _again(path: Path) -> str:
    return f"copy the model folder again from where it was made, or fit it anew: pipeline fit DATA --out {path}"
