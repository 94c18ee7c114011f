"""A network of one's own as one ONNX file: from uint8 images to features, with the preprocessing that it wants.

- One input, `pixels`: uint8 (b, crop, crop, 3), any number of them; the graph normalises by itself.
- An output ``features/<layer>`` for each layer: float32 (b, width).
- An entry `preprocessing` in its metadata: JSON, the fields of `Preprocessing`.

Weights, code and preprocessing are all in the file, so that its SHA-256 is all that could change a feature. A graph is
data: nothing in it is run but ONNX's own operators, and a file that points to other files is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import BackboneError
from pipeline.files import atomic_path
from pipeline.provenance import Preprocessing, canonical_json

if TYPE_CHECKING:
    import onnx


ENDING = ".onnx"
INPUT = "pixels"
OUTPUTS = "features/"  # and the layer's name, as in the cache file
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_ENTRY = "preprocessing"
_LARGEST_SIDE = 4096  # pixels; a network's photos are smaller, and a size from a file is not to fill the memory
_STEP = "make it with pl.save_backbone(network, FILE, resize=..., crop=..., mean=..., std=...)"


@dataclass(frozen=True)
class GraphFile:
    """What is known of a network in an ONNX file.

    Attributes
    ----------
    path : Path
    sha256 : str
        Digest of the file's bytes.
    preprocessing : Preprocessing
    layers : mapping of layer name to width
    parameters : int
    """

    path: Path
    sha256: str
    preprocessing: Preprocessing
    layers: Mapping[str, int]
    parameters: int


def is_graph_file(spec: str) -> bool:
    """Say whether what a person wrote for a backbone means an ONNX file."""
    return spec.lower().endswith(ENDING)


def read_bytes(path: Path, sha256: str = "") -> bytes:
    """Return the bytes of a file, those that have this digest where one is given.

    Raises
    ------
    BackboneError
        If it cannot be read, or is another file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BackboneError(
            f"{path}: expected a network as an ONNX file, got {error.strerror or error}", "pipeline backbones"
        ) from error
    if sha256 and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise BackboneError(
            f"{path}: changed since the backbone was opened: expected SHA-256 {sha256[:12]}..., got {found[:12]}...",
            "run the same command again",
        )
    return data


def read_graph_file(path: Path) -> GraphFile:
    """Return what an ONNX file says of itself; no network is made.

    Raises
    ------
    BackboneError
        If it is none, lacks something, or holds only a part of itself.
    """
    import onnx
    from google.protobuf.message import DecodeError

    data = read_bytes(path)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise BackboneError(f"{path}: expected an ONNX file, got something else, or damage", _STEP) from error
    tensors = list(_tensors(model.graph)) + [one for made in model.functions for one in _of_nodes(made.node)]
    outside = [one.name for one in tensors if one.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise BackboneError(
            f"{path}: expected the whole network in one file, got weights in another: {outside[0]}",
            "save it with onnx.save(model, FILE), without save_as_external_data",
        )
    preprocessing = _preprocessing_in(model, path)
    _check_input(model.graph, preprocessing.crop, path)
    parameters = sum(_size(one.dims) for one in model.graph.initializer)
    return GraphFile(path, hashlib.sha256(data).hexdigest(), preprocessing, _layers(model.graph, path), parameters)


def write_graph_file(path: Path, graph: bytes, preprocessing: Preprocessing) -> None:
    """Write a graph with its preprocessing, whole or not at all.

    Raises
    ------
    BackboneError
        If it cannot be written.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    entry = model.metadata_props.add()
    entry.key, entry.value = _ENTRY, canonical_json(asdict(preprocessing))
    try:
        with atomic_path(path) as made:
            made.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise BackboneError(
            f"{path}: expected to write the network here, got {error.strerror or error}", "give another path"
        ) from error


def preprocessing_from(values: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing of a mapping.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing, or is no such thing.
    """
    return Preprocessing(
        resize=int(values["resize"]),
        crop=int(values["crop"]),
        interpolation=str(values["interpolation"]),
        antialias=bool(values["antialias"]),
        mean=three(values["mean"]),
        std=three(values["std"]),
        value_range=float(values["value_range"]),
    )


def three(values: Any) -> tuple[float, float, float]:
    """Return three numbers, one a channel."""
    first, second, third = (float(value) for value in values)
    return first, second, third


def check_preprocessing(how: Preprocessing, origin: str) -> None:
    """Refuse a preprocessing that no photo could go through."""
    if how.interpolation not in INTERPOLATIONS:
        wanted, found = f"the interpolation {', '.join(INTERPOLATIONS)}", repr(how.interpolation)
    elif not 1 <= how.crop <= how.resize <= _LARGEST_SIDE:
        wanted = f"1 <= crop <= resize <= {_LARGEST_SIDE}"
        found = f"crop {how.crop} and resize {how.resize}"
    elif not (how.antialias or how.interpolation == "nearest"):
        wanted, found = "antialias, as PIL resizes", "a preprocessing without it"
    elif not (min(how.std) > 0 and how.value_range > 0):
        wanted, found = "std and value_range above 0", f"std {how.std} and value_range {how.value_range}"
    else:
        return
    raise BackboneError(f"{origin}: expected {wanted}, got {found}", "see help(pl.save_backbone)")


def _preprocessing_in(model: onnx.ModelProto, path: Path) -> Preprocessing:
    texts = [entry.value for entry in model.metadata_props if entry.key == _ENTRY]
    if not texts:
        raise BackboneError(
            f"{path}: expected {_ENTRY!r} in its metadata, which says how photos are prepared for it, got none",
            _STEP,
        )
    try:
        found = preprocessing_from(json.loads(texts[0]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(
            f"{path}: expected its preprocessing as JSON, got {type(error).__name__}: {error}", _STEP
        ) from error
    check_preprocessing(found, str(path))
    return found


def _check_input(graph: onnx.GraphProto, crop: int, path: Path) -> None:
    import onnx

    weights = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in weights]
    kinds = [(one.name, one.type.tensor_type.elem_type, _shape(one)) for one in inputs]
    if kinds != [(INPUT, onnx.TensorProto.UINT8, (None, crop, crop, 3))]:
        found = ", ".join(
            f"{name} {onnx.TensorProto.DataType.Name(kind).lower()} {_text(shape)}" for name, kind, shape in kinds
        )
        raise BackboneError(
            f"{path}: expected one input, {INPUT} uint8 (b, {crop}, {crop}, 3), got {found or 'none'}", _STEP
        )


def _layers(graph: onnx.GraphProto, path: Path) -> dict[str, int]:
    import onnx

    found: dict[str, int] = {}
    for one in graph.output:
        shape = _shape(one)
        width = shape[1] if len(shape) == 2 else None
        kind = one.type.tensor_type.elem_type
        if not one.name.startswith(OUTPUTS) or kind != onnx.TensorProto.FLOAT or shape[0] is not None or not width:
            name = onnx.TensorProto.DataType.Name(kind).lower()
            raise BackboneError(
                f"{path}: expected outputs {OUTPUTS}LAYER float32 (b, width), got {one.name} {name} {_text(shape)}",
                _STEP,
            )
        found[one.name.removeprefix(OUTPUTS)] = width
    if not found or "" in found:
        raise BackboneError(f"{path}: expected an output {OUTPUTS}penultimate, got none", _STEP)
    return found


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Return the shape of an input or output, None where it is open."""
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim)


def _text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('b' if size is None else str(size) for size in shape)})"


def _size(dims: Any) -> int:
    size = 1
    for one in dims:
        size *= int(one)
    return size


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Give every tensor that a graph holds, those of the graphs inside it too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for one in (*sparse, *attribute.sparse_tensors):
                yield from (one.values, one.indices)
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)
