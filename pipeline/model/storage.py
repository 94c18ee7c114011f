"""How is a model folder written and read? It is written atomically, checked before it is read, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from pipeline.backbone import Backbone
from pipeline.cache import STORE_TYPES, add_reference
from pipeline.errors import ModelError
from pipeline.files import atomic_path
from pipeline.heads import DEFAULT
from pipeline.model.card import model_card
from pipeline.model.spec import ModelSpec
from pipeline.model.training_set import EmbeddedTrainingSet, TrainingRef
from pipeline.provenance import sha256_json
from pipeline.runtime import PRECISIONS

# The types that heads may contain besides those that skops trusts by default. The list is fixed, because a file
# must not decide which types are trusted. All are scikit-learn's own, and none runs code when it is built: skops sets
# their attributes, whose types are checked too. The types of calibration, of a `Bunch` (voting, stacking) and of a
# constant are Python classes without a `__setstate__` of their own.
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

_OTHER_HEAD = "use a head of `pipeline heads`, only score it with `pipeline evaluate`, or do not save it: fit(out=None)"


# Packages of scikit-learn that import an array library each.
_ADAPTERS = tuple(f"sklearn.externals.array_api_compat.{name}" for name in ("cupy", "dask", "dask.array", "torch"))


@cache
def _skops_io() -> Any:
    """Return `skops.io`, imported without torch and dask, which take two thirds of the time.

    Skops lists all estimators of scikit-learn, and for that scikit-learn imports every package below it, also its
    adapters to array libraries. Empty modules stand for those adapters meanwhile.
    """
    stubs = {name: ModuleType(name) for name in _ADAPTERS if name not in sys.modules}
    sys.modules.update(stubs)
    try:
        import skops.io
    finally:
        for name, stub in stubs.items():
            if sys.modules.get(name) is stub:
                del sys.modules[name]
    return skops.io


def stored_head(estimator: Any, name: str) -> bytes:
    """Return the estimator as bytes in the format of skops.

    Raises
    ------
    ModelError
        The estimator cannot be stored without pickling.
    """
    try:
        return _skops_io().dumps(estimator)
    except Exception as error:
        raise ModelError(
            f"head {name!r}: expected an estimator that can be saved without pickling, "
            f"got {type(error).__name__}: {str(error).partition(chr(10))[0]}",
            _OTHER_HEAD,
        ) from error


def load_head(content: bytes, file: Path, next_step: str) -> Any:
    """Return the estimator of a stored head; its types are checked before any object is built."""
    _check_uncompressed(content, str(file), next_step)
    check_types(content, str(file))
    try:
        head = _skops_io().loads(content, trusted=list(ALLOWED_TYPES))
    except Exception as error:
        raise ModelError(f"{file}: expected a stored head, got {type(error).__name__}", next_step) from error
    if not callable(getattr(head, "predict", None)):
        raise ModelError(
            f"{file}: expected a stored head, got a {type(head).__name__}, which predicts nothing", next_step
        )
    return head


def _check_uncompressed(content: bytes, what: str, next_step: str) -> None:
    """Raise `ModelError` if the archive unpacks to more than its own size; `stored_head` compresses nothing."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception as error:  # zipfile raises many types on damaged archives
        raise ModelError(f"{what}: expected a stored head, got {type(error).__name__}", next_step) from error
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > len(content):
        raise ModelError(
            f"{what}: expected a stored head, got an archive that unpacks to more than its own size", next_step
        )


def check_types(content: bytes, file: str) -> None:
    """Raise `ModelError` if a stored head contains types that are not on the list."""
    untrusted = _untrusted_types(content, file)
    if untrusted:
        raise ModelError(
            f"{file}: expected only types that a model may hold, got {', '.join(untrusted)}",
            "do not open this model; use a model that was fitted with a head of `pipeline heads`",
        )


def check_savable_head(content: bytes, name: str) -> None:
    """Raise `ModelError` if a model with this head could not be opened again."""
    untrusted = _untrusted_types(content, f"head {name!r}")
    if untrusted:
        raise ModelError(
            f"head {name!r}: expected only types that a model folder may hold, "
            f"got {', '.join(untrusted)} (other types are not built from a file)",
            _OTHER_HEAD,
        )


def _untrusted_types(content: bytes, what: str) -> list[str]:
    """Return the types in a stored head that are not on the list, sorted."""
    try:
        return sorted(set(_skops_io().get_untrusted_types(data=content)) - set(ALLOWED_TYPES))
    except Exception as error:
        raise ModelError(
            f"{what}: expected a stored head, got {type(error).__name__}", "fit the model again"
        ) from error


def check_savable(heads: Any) -> None:
    """Raise `ModelError` if one of these heads is of a type that a model folder may not hold.

    A head that is not in the catalog is fitted on a few random rows first: some types exist only after fitting.
    """
    from pipeline.heads import fits, fitted_on_random_rows, resolve_heads

    if heads is None:
        return
    for head in [heads] if isinstance(heads, str) or not isinstance(heads, list | tuple) else heads:
        for kind in DEFAULT:
            if fits(head, kind):
                for resolved in resolve_heads([head], kind=kind):
                    named = isinstance(head, str) and "." not in head
                    trial = resolved.estimator if named else fitted_on_random_rows(resolved.estimator, kind)
                    check_savable_head(stored_head(trial, resolved.name), resolved.name)


FORMAT = 1
KIND = "transfer-pipeline model"
RECORD, HEAD, WEIGHTS, GRAPH, DIGESTS, PHOTOS, CARD = (
    "model.json",
    "head.skops",
    "backbone.safetensors",
    "backbone.onnx",  # instead of the weights, for a user's own network
    "training.digests",
    "training.photos.parquet",
    "README.md",
)
_OURS = frozenset((RECORD, HEAD, WEIGHTS, GRAPH, DIGESTS, PHOTOS, CARD))


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _all(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, str) for entry in value.values())


def _is_recipe(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("store") in tuple(STORE_TYPES)
        and value.get("precision") in PRECISIONS
        and isinstance(value.get("decoder"), str)
    )


# The keys that the record must have, with a check of each value: a correct hash does not mean that values are valid.
_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "label_set": _is(str),
    "task": lambda value: value in tuple(DEFAULT),
    "classes": _all(str),
    "head": _is(str),
    "params": _is(dict),
    "layer": _is(str),
    "backbone": _is(dict),
    "recipe": _is_recipe,
    "verdict": _is(str),
    "scores": _all(dict),
    "notes": _all(str),
    "versions": _texts,
    "files": _texts,
}
# Keys of later versions: a record without them gets their defaults, and earlier versions ignore them.
_LATER: dict[str, Callable[[Any], bool]] = {
    "separator": _is(str),
    "evidence": _is(dict),
    "training": TrainingRef.is_valid_record,
}


def save_model(model: ModelSpec, path: Path, *, weights: bool) -> Path:
    """Write the folder under a temporary name, then rename it. See `Model.save`."""
    check_model_directory(path)
    head = stored_head(model.estimator, model.head)
    check_savable_head(head, model.head)
    try:
        with atomic_path(path, folder=True) as made:
            (made / HEAD).write_bytes(head)
            (made / DIGESTS).write_bytes(np.ascontiguousarray(model.training_digests).tobytes())
            if weights:
                model.backbone.save_weights(made / (GRAPH if model.backbone.is_graph else WEIGHTS))
            if model.kept is not None:
                model.kept.write(made / PHOTOS, model.training_digests)
            (made / CARD).write_text(model_card(model, path.name), encoding="utf-8")
            files = {item.name: _sha256(item) for item in sorted(made.iterdir())}
            record = {"format": FORMAT, "kind": KIND, **model.as_dict(), "files": files}
            record["sha256"] = sha256_json(record)
            text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
            (made / RECORD).write_text(text, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(path, error) from error
    if model.training.path:
        add_reference(model.training.path, path / RECORD)
    return path


def load_model(path: Path) -> ModelSpec:
    """Read a model folder. See `Model.open`."""
    record = _record(path)
    files = record["files"]
    # Each file is read once: the bytes that are parsed are those that were hashed. The README is not checked, because
    # users may edit it.
    head, digests = (_bytes(path, name, files) for name in (HEAD, DIGESTS))
    for name in (WEIGHTS, GRAPH):
        if name not in files:
            continue
        with _checked(path, name, files):
            pass  # the hash is checked again when the network is loaded, which may be much later
    _check_sklearn_version(path, record)
    if len(digests) % 16:
        raise ModelError(
            f"{path / DIGESTS}: expected digests of 16 bytes, got {len(digests)} bytes", _restore_hint(path)
        )
    training_digests = np.frombuffer(digests, np.uint8).reshape(-1, 16)
    estimator = load_head(head, path / HEAD, _restore_hint(path))
    return ModelSpec(
        label_set=record["label_set"],
        kind=record["task"],
        classes=tuple(record["classes"]),
        head=record["head"],
        estimator=estimator,
        params=record["params"],
        layer=record["layer"],
        backbone=_backbone(path, record, files),
        recipe=record["recipe"],
        scores=tuple(record["scores"]),
        training_digests=training_digests,
        notes=tuple(record["notes"]),
        verdict=record["verdict"],
        versions=record["versions"],
        separator=record.get("separator", ""),
        evidence=record.get("evidence", {}),
        training=TrainingRef.from_record(record),
        kept=_kept(path, training_digests, files) if PHOTOS in files else None,
        folder=path,
        sha256=sha256_json(record),
    )


def _kept(path: Path, digests: np.ndarray, files: Mapping[str, str]) -> EmbeddedTrainingSet:
    with _checked(path, PHOTOS, files) as file:
        return EmbeddedTrainingSet.read(file, digests, _restore_hint(path))


def _backbone(path: Path, record: Mapping[str, Any], files: Mapping[str, str]) -> Backbone:
    """Return the model's backbone; it raises when it loads weights with another hash than the recorded one."""
    name = next((name for name in (WEIGHTS, GRAPH) if name in files), None)
    if name is None:
        return Backbone.from_record(record["backbone"])
    return Backbone.from_record(record["backbone"], path.absolute() / name, file_sha256=files[name])


def check_model_directory(path: str | os.PathLike[str]) -> None:
    """Raise `ModelError` if a model cannot be written to this path: it holds other files, or it is not writable.

    Replacing a model deletes its folder, so the folder may hold no file that does not belong to the model.
    """
    folder = Path(path)
    step = f"--out {folder.with_suffix('.new.model')}"
    if folder.is_dir():
        names = {item.name for item in folder.iterdir()}
        foreign = sorted(names - _OURS)
        if foreign or (names and RECORD not in names):
            raise ModelError(
                f"{folder}: expected an empty folder or a model to replace, got a folder that also holds "
                f"{(foreign or sorted(names))[0]}",
                step,
            )
    elif folder.exists() or folder.is_symlink():
        raise ModelError(f"{folder}: expected a folder for the model, got a file", step)
    parent = folder.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        found = "a folder that is not writable" if parent.is_dir() else "a file"
        raise ModelError(
            f"{folder}: expected to write the model here, got {found}: {parent}",
            "give a folder that you may write with --out",
        )


def _record(path: Path) -> dict[str, Any]:
    """Return the model's record, checked against the hash that it contains."""
    file, step = path / RECORD, "pipeline fit DATA --out BEES.model"
    if not path.exists():
        raise ModelError(f"{path}: expected a model folder, got no such path", step)
    if not file.is_file():
        raise ModelError(f"{path}: expected a model folder, got no {RECORD} in it", step)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        kind, number = record["kind"], record["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{file}: expected a model's record, got {type(error).__name__}", _restore_hint(path)
        ) from error
    if kind != KIND:
        raise ModelError(f"{file}: expected a {KIND}, got {kind!r}", _restore_hint(path))
    if number != FORMAT:
        raise ModelError(
            f"{path}: expected model format {FORMAT}, got {number!r}",
            "install the version of transfer-pipeline that wrote it",
        )
    expected = record.pop("sha256", None)
    if expected != sha256_json(record) or _ENTRIES.keys() - record.keys():
        raise ModelError(f"{file}: expected an unchanged record, got one that was edited", _restore_hint(path))
    later = {name: is_valid for name, is_valid in _LATER.items() if name in record}
    invalid = [name for name, is_valid in (_ENTRIES | later).items() if not is_valid(record[name])]
    if invalid:
        raise ModelError(
            f"{file}: expected a valid {invalid[0]!r}, got {record[invalid[0]]!r:.60}", _restore_hint(path)
        )
    return record


@contextmanager
def _checked(path: Path, name: str, files: Mapping[str, str]) -> Iterator[BinaryIO]:
    """Open a file of the model whose bytes match the hash in the record."""
    with _model_errors(path, name), open(path / name, "rb") as file:
        _check_hash(path, name, hashlib.file_digest(file, "sha256").hexdigest(), files)
        yield file


def _bytes(path: Path, name: str, files: Mapping[str, str]) -> bytes:
    """Return the bytes of a file, which match the hash in the record."""
    with _model_errors(path, name):
        content = (path / name).read_bytes()
    _check_hash(path, name, hashlib.sha256(content).hexdigest(), files)
    return content


@contextmanager
def _model_errors(path: Path, name: str) -> Iterator[None]:
    """Raise `ModelError` instead of `OSError` for a file of the model that cannot be read."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path / name}: expected a file of the model, got {error.strerror or error}", _restore_hint(path)
        ) from error


def _check_hash(path: Path, name: str, found: str, files: Mapping[str, str]) -> None:
    expected = str(files.get(name))
    if found != expected:
        raise ModelError(
            f"{path / name}: expected SHA-256 {expected[:12]}..., got {found[:12]}...", _restore_hint(path)
        )


def _check_sklearn_version(path: Path, record: Mapping[str, Any]) -> None:
    import sklearn

    expected = ".".join(str(record["versions"].get("scikit-learn", "?")).split(".")[:2])
    found = ".".join(sklearn.__version__.split(".")[:2])
    if expected != found:
        raise ModelError(
            f"{path}: expected scikit-learn {expected}, which fitted the head, got {found}",
            f"pip install 'scikit-learn=={expected}.*', or fit the model again",
        )


def _cannot_write(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path}: expected to write the model here, got {error.strerror or error}",
        "give a folder that you may write with --out",
    )


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _restore_hint(path: Path) -> str:
    return f"copy the model folder again from where it was made, or fit it again: pipeline fit DATA --out {path}"
