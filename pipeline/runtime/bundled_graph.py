"""How does the bundled backbone become an ONNX graph without torch, onnx or an export?

The shipped graph lacks its weights. Protobuf joins messages that are written one after another, so the weights are
appended as one more piece of the model: a `ModelProto` that holds a `GraphProto` with initialisers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.backbone import Backbone, registry
from pipeline.backbone.bundled import graph_file, read_bundled_tensors

# Numbers of fields in onnx.proto.
_GRAPH, _INITIALIZER = 7, 5  # of ModelProto, of GraphProto
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # of TensorProto
_FLOAT = 1  # TensorProto.DataType


def bundled_graph(backbone: Backbone, layers: Sequence[str]) -> bytes | None:
    """Return the bundled backbone as an ONNX model, cut behind the last of these layers.

    Its initialisers are the tensors of the weights file, bit for bit; the runtime folds batch normalisation.

    Returns
    -------
    bytes or None
        None for other backbones, for nodes without a name, and for tensors that only torch can read or that do not fit:
        torch's reader says what is wrong with them.
    """
    if backbone.name != registry.NAME or backbone.file is None:
        return None
    nodes = backbone.layer_nodes(layers)
    if any(registry.LAYERS.get(layer, ("",))[0] != node for layer, node in nodes.items()):
        return None
    tensors = read_bundled_tensors(backbone.file, backbone.file_sha256)
    if tensors is None:
        return None
    last = max(nodes, key=list(registry.LAYERS).index)
    model = graph_file(last).read_bytes()
    return model + append_initializers({name: values for name, values in tensors.items() if name.encode() in model})


def append_initializers(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return what adds float32 tensors to an ONNX model when it is appended to the model's bytes."""
    initializers = b"".join(_field(_INITIALIZER, _tensor(name, values)) for name, values in tensors.items())
    return _field(_GRAPH, initializers)


def _tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(_varint(_DIMS << 3) + _varint(side) for side in values.shape)
    kind = _varint(_DATA_TYPE << 3) + _varint(_FLOAT)
    return dims + kind + _field(_NAME, name.encode()) + _field(_RAW_DATA, values.astype("<f4").tobytes())


def _field(number: int, content: bytes) -> bytes:
    """Return a protobuf field that holds bytes: its number with the wire type 2, the length, the content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return a number as protobuf writes it: 7 bits per byte, the lowest first, the highest bit set but in the last."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
