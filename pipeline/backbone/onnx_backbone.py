"""What must an ONNX file contain to be used as a backbone, and how is it read and checked?

- One input, `pixels`: uint8 (b, crop, crop, 3), for any b; the graph contains the normalisation.
- An output ``features/<layer>`` for each layer: float32 (b, width).
- An entry `preprocessing` in its metadata: JSON, the fields of `Preprocessing`.

Weights, operations and preprocessing are all in the file, so its SHA-256 identifies everything that changes a feature.
A graph is data: only ONNX's own operators run, and a file that refers to other files is rejected.
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
_LARGEST_SIDE = 4096  # pixels; inputs of networks are smaller, and a size in an untrusted file must not fill the memory
_STEP = "make it with pl.save_backbone(network, FILE, resize=..., crop=..., mean=..., std=...)"


@dataclass(frozen=True)
class GraphFile:
    """A network in an ONNX file.

    Attributes
    ----------
    path : Path
    sha256 : str
        Of the file.
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
    """Return whether the text given for a backbone means an ONNX file."""
    return spec.lower().endswith(ENDING)


def read_bytes(path: Path, sha256: str = "") -> bytes:
    """Read a file, and check its SHA-256 if one is given.

    Raises
    ------
    BackboneError
        The file cannot be read, or has another hash.
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
    """Read and check the description of a network in an ONNX file, without building the network.

    Raises
    ------
    BackboneError
        The file is not ONNX, is incomplete, or keeps weights in other files.
    """
    import onnx
    from google.protobuf.message import DecodeError

    data = read_bytes(path)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise BackboneError(f"{path}: expected an ONNX file, got another file, or a damaged one", _STEP) from error
    in_functions = [tensor for function in model.functions for tensor in _tensors_of_nodes(function.node)]
    tensors = [*_tensors_of_graph(model.graph), *in_functions]
    outside = [tensor.name for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if outside:
        raise BackboneError(
            f"{path}: expected the whole network in one file, got weights in another: {outside[0]}",
            "save it with onnx.save(model, FILE), without save_as_external_data",
        )
    preprocessing = _preprocessing_in(model, path)
    _check_input(model.graph, preprocessing.crop, path)
    parameters = sum(_size(tensor.dims) for tensor in model.graph.initializer)
    return GraphFile(path, hashlib.sha256(data).hexdigest(), preprocessing, _layers(model.graph, path), parameters)


def write_graph_file(path: Path, graph: bytes, preprocessing: Preprocessing) -> None:
    """Write a graph with its preprocessing atomically.

    Raises
    ------
    BackboneError
        The file cannot be written.
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
    """Return the preprocessing with these values.

    Raises
    ------
    KeyError, TypeError, ValueError
        A value is missing or has the wrong type.
    """
    return Preprocessing(
        resize=int(values["resize"]),
        crop=int(values["crop"]),
        interpolation=str(values["interpolation"]),
        antialias=bool(values["antialias"]),
        mean=three_numbers(values["mean"]),
        std=three_numbers(values["std"]),
        value_range=float(values["value_range"]),
    )


def three_numbers(values: Any) -> tuple[float, float, float]:
    """Return three numbers, one per channel."""
    first, second, third = (float(value) for value in values)
    return first, second, third


def check_preprocessing(preprocessing: Preprocessing, origin: str) -> None:
    """Raise `BackboneError` for a preprocessing that cannot be applied to a photo."""
    p = preprocessing
    if p.interpolation not in INTERPOLATIONS:
        expected, found = f"the interpolation {', '.join(INTERPOLATIONS)}", repr(p.interpolation)
    elif not 1 <= p.crop <= p.resize <= _LARGEST_SIDE:
        expected = f"1 <= crop <= resize <= {_LARGEST_SIDE}"
        found = f"crop {p.crop} and resize {p.resize}"
    elif not (p.antialias or p.interpolation == "nearest"):
        expected, found = "antialias, as PIL resizes", "a preprocessing without it"
    elif not (min(p.std) > 0 and p.value_range > 0):
        expected, found = "std and value_range above 0", f"std {p.std} and value_range {p.value_range}"
    else:
        return
    raise BackboneError(f"{origin}: expected {expected}, got {found}", "see help(pl.save_backbone)")


def _preprocessing_in(model: onnx.ModelProto, path: Path) -> Preprocessing:
    texts = [entry.value for entry in model.metadata_props if entry.key == _ENTRY]
    if not texts:
        raise BackboneError(
            f"{path}: expected {_ENTRY!r} in its metadata, which describes how photos are prepared, got none",
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

    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    kinds = [(value.name, value.type.tensor_type.elem_type, _shape(value)) for value in inputs]
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
    for output in graph.output:
        shape = _shape(output)
        width = shape[1] if len(shape) == 2 else None
        kind = output.type.tensor_type.elem_type
        if not output.name.startswith(OUTPUTS) or kind != onnx.TensorProto.FLOAT or shape[0] is not None or not width:
            name = onnx.TensorProto.DataType.Name(kind).lower()
            raise BackboneError(
                f"{path}: expected outputs {OUTPUTS}LAYER float32 (b, width), got {output.name} {name} {_text(shape)}",
                _STEP,
            )
        found[output.name.removeprefix(OUTPUTS)] = width
    if not found or "" in found:
        raise BackboneError(f"{path}: expected an output {OUTPUTS}penultimate, got none", _STEP)
    return found


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Return the shape of an input or output, with None for a size that is not fixed."""
    return tuple(size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim)


def _text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('b' if size is None else str(size) for size in shape)})"


def _size(dims: Any) -> int:
    size = 1
    for length in dims:
        size *= int(length)
    return size


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a graph and of the graphs inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Any) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            only = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*only, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors_of_graph(inner)
