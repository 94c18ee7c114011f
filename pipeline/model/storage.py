"""The model folder: written whole, checked before it is read, never unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
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
        raise ModelError(f"{file}: expected a stored head, got {type(error).__name__}", next_step) from error
    if not callable(getattr(head, "predict", None)):
        raise ModelError(
            f"{file}: expected a stored head, got a {type(head).__name__}, which predicts nothing", next_step
        )
    return head


def _refuse_unpacking(content: bytes, what: str, next_step: str) -> None:
    """Raise `ModelError` where the archive holds more than its own bytes: `stored_head` compresses nothing."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception as error:  # a damaged archive reaches every corner of the reader
        raise ModelError(f"{what}: expected a stored head, got {type(error).__name__}", next_step) from error
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > len(content):
        raise ModelError(
            f"{what}: expected a stored head, got an archive that unpacks to more than its own size", next_step
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
            f"{what}: expected a stored head, got {type(error).__name__}", "fit the model again"
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


FORMAT = 1
KIND = "transfer-pipeline model"
RECORD, HEAD, WEIGHTS, GRAPH, DIGESTS, PHOTOS, CARD = (
    "model.json",
    "head.skops",
    "backbone.safetensors",
    "backbone.onnx",  # in the weights' place, where the network is a person's own
    "training.digests",
    "training.photos.parquet",
    "README.md",
)
_OURS = frozenset((RECORD, HEAD, WEIGHTS, GRAPH, DIGESTS, PHOTOS, CARD))


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _all(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(one, kind) for one in value)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _is_recipe(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("store") in tuple(STORE_TYPES)
        and value.get("precision") in PRECISIONS
        and isinstance(value.get("decoder"), str)
    )


# What the record must hold, and how each is recognised: its hash says that it is whole, not that it makes sense.
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
# Those that came later: a record without them is read as one that says nothing of the matter, and an earlier reader
# passes them by.
_LATER: dict[str, Callable[[Any], bool]] = {
    "separator": _is(str),
    "evidence": _is(dict),
    "training": TrainingRef.reads,
}


def save_model(model: ModelSpec, path: Path, *, weights: bool) -> Path:
    """Write the folder under a temporary name, then give it its own. See `Model.save`."""
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
    # Each is read once, and what is parsed are the very bytes that were hashed. The README is a person's to add to.
    head, digests = (_bytes(path, name, files) for name in (HEAD, DIGESTS))
    for name in (WEIGHTS, GRAPH):
        if name not in files:
            continue
        with _checked(path, name, files):
            pass  # hashed again when it is loaded, which may be much later
    _refuse_other_sklearn(path, record)
    if len(digests) % 16:
        raise ModelError(f"{path / DIGESTS}: expected digests of 16 bytes, got {len(digests)} bytes", _again(path))
    training_digests = np.frombuffer(digests, np.uint8).reshape(-1, 16)
    estimator = load_head(head, path / HEAD, _again(path))
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
        return EmbeddedTrainingSet.read(file, digests, _again(path))


def _backbone(path: Path, record: Mapping[str, Any], files: Mapping[str, str]) -> Backbone:
    """Return the model's backbone, which refuses any other weights than these when it is loaded."""
    name = next((name for name in (WEIGHTS, GRAPH) if name in files), None)
    if name is None:
        return Backbone.from_record(record["backbone"])
    return Backbone.from_record(record["backbone"], path.absolute() / name, file_sha256=files[name])


def check_model_directory(path: str | os.PathLike[str]) -> None:
    """Raise `ModelError` where a model cannot be put: something else is there, or nothing may be written there.

    A model that is replaced takes with it all that its folder holds, so a file that is not the model's is something
    else.
    """
    place = Path(path)
    step = f"--out {place.with_suffix('.new.model')}"
    if place.is_dir():
        names = {item.name for item in place.iterdir()}
        strange = sorted(names - _OURS)
        if strange or (names and RECORD not in names):
            raise ModelError(
                f"{place}: expected a place for the model, got a folder that is not a model's alone: it holds "
                f"{(strange or sorted(names))[0]}",
                step,
            )
    elif place.exists() or place.is_symlink():
        raise ModelError(f"{place}: expected a place for the model, got a file there", step)
    above = place.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        found = "a folder that may not be written" if above.is_dir() else "a file"
        raise ModelError(
            f"{place}: expected to write the model here, got {found}: {above}",
            "give a folder that you may write with --out",
        )


def _record(path: Path) -> dict[str, Any]:
    """Return the model's record, itself checked against its own hash."""
    file, step = path / RECORD, "pipeline fit DATA --out BEES.model"
    if not path.exists():
        raise ModelError(f"{path}: expected a model folder, got nothing there", step)
    if not file.is_file():
        raise ModelError(f"{path}: expected a model folder, got no {RECORD} in it", step)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        kind, number = record["kind"], record["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{file}: expected a model's record, got {type(error).__name__}", _again(path)) from error
    if kind != KIND:
        raise ModelError(f"{file}: expected a {KIND}, got {kind!r}", _again(path))
    if number != FORMAT:
        raise ModelError(
            f"{path}: expected model format {FORMAT}, got {number!r}",
            "install the version of transfer-pipeline that wrote it",
        )
    wanted = record.pop("sha256", None)
    if wanted != sha256_json(record) or _ENTRIES.keys() - record.keys():
        raise ModelError(f"{file}: expected the record as it was written, got one that was changed since", _again(path))
    later = {name: fits for name, fits in _LATER.items() if name in record}
    strange = [name for name, fits in (_ENTRIES | later).items() if not fits(record[name])]
    if strange:
        raise ModelError(
            f"{file}: expected a {strange[0]} such as a model has, got {record[strange[0]]!r:.60}", _again(path)
        )
    return record


@contextmanager
def _checked(path: Path, name: str, files: Mapping[str, str]) -> Iterator[BinaryIO]:
    """Give a file of the model, open, once its bytes match the hash in the record."""
    with _told(path, name), open(path / name, "rb") as file:
        _refuse_other_hash(path, name, hashlib.file_digest(file, "sha256").hexdigest(), files)
        yield file


def _bytes(path: Path, name: str, files: Mapping[str, str]) -> bytes:
    """Return a file's bytes, the very ones that match the hash in the record."""
    with _told(path, name):
        content = (path / name).read_bytes()
    _refuse_other_hash(path, name, hashlib.sha256(content).hexdigest(), files)
    return content


@contextmanager
def _told(path: Path, name: str) -> Iterator[None]:
    """Let a file that cannot be read be told in the words of a model."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path / name}: expected a file of the model, got {error.strerror or error}", _again(path)
        ) from error


def _refuse_other_hash(path: Path, name: str, found: str, files: Mapping[str, str]) -> None:
    wanted = str(files.get(name))
    if found != wanted:
        raise ModelError(
            f"{path / name}: expected SHA-256 {wanted[:12]}..., got {found[:12]}...: another file", _again(path)
        )


def _refuse_other_sklearn(path: Path, record: Mapping[str, Any]) -> None:
    import sklearn

    wanted = ".".join(str(record["versions"].get("scikit-learn", "?")).split(".")[:2])
    found = ".".join(sklearn.__version__.split(".")[:2])
    if wanted != found:
        raise ModelError(
            f"{path}: expected scikit-learn {wanted}, which fitted the head, got {found}",
            f"pip install 'scikit-learn=={wanted}.*', or fit the model again",
        )


def _cannot_write(path: Path, error: OSError) -> ModelError:
    return ModelError(
        f"{path}: expected to write the model here, got {error.strerror or error}",
        "give a folder that you may write with --out",
    )


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _again(path: Path) -> str:
    return f"copy the model folder again from where it was made, or fit it anew: pipeline fit DATA --out {path}"
