"""Write the shipped files of the bundled backbone: its graph without weights, and where its tensors are in their file.

    python -m pipeline.runtime.write_bundled_graph

There is one graph per named layer, cut behind it; it also has the outputs of the layers before. Batch normalisation is
not folded, so that the graph's initialisers are the tensors of the weights file. `bundled_graph` adds them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from onnx import TensorProto, helper

from pipeline.backbone import INPUT, OUTPUTS, efficientnet_lite, file_sha256, registry
from pipeline.backbone.bundled import GRAPHS, TABLE, graph_file
from pipeline.runtime.graph_cache import OPSET

IR_VERSION = 10  # what ONNX Runtime 1.24 reads


def main() -> None:
    """Write the files."""
    GRAPHS.mkdir(exist_ok=True)
    for layer in registry.LAYERS:
        graph_file(layer).write_bytes(structure(layer))
    TABLE.write_text(table_text(tensor_table(registry.weights_file())), encoding="utf-8")


def table_text(table: dict[str, Any]) -> str:
    """Return the table as JSON, one tensor per line."""
    rows = [f"{json.dumps(name)}: {json.dumps(place)}" for name, place in table["tensors"].items()]
    return f'{{"sha256": {json.dumps(table["sha256"])}, "tensors": {{\n' + ",\n".join(rows) + "\n}}\n"


class _Graph:
    """Nodes in order, with the constants and the weights that they read."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: list[float], shape: list[int], kind: int = TensorProto.FLOAT) -> str:
        self.constants.append(helper.make_tensor(name, kind, shape, values))
        return name

    def convolution(
        self, x: str, name: str, *, stride: int = 1, kernel: int = 1, groups: int = 1, activate: bool = True
    ) -> str:
        """Add convolution, batch normalisation and ReLU6, as `efficientnet_lite.convolution` with its padding."""
        left, right, top, bottom = efficientnet_lite.same_padding(kernel, stride)
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [top, left, bottom, right]}
        y = self.node("Conv", [x, f"{name}.0.weight"], f"{name}.0", group=groups, **shape)
        statistics = [f"{name}.1.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        y = self.node("BatchNormalization", [y, *statistics], f"{name}.1" if activate else name, epsilon=1e-3)
        return self.node("Clip", [y, "zero", "six"], name) if activate else y

    def output(self, x: str, layer: str) -> None:
        """Add a layer's output: the mean over the positions of a map."""
        self.node("ReduceMean", [x, "positions"], f"{OUTPUTS}{layer}", keepdims=0)


def structure(last: str) -> bytes:
    """Return the graph up to a layer as an ONNX model whose weights are missing."""
    graph, preprocessing = _Graph(), registry.PREPROCESSING
    for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        graph.constant(name, list(values), [1, 3, 1, 1])
    graph.constant("zero", [0.0], [])
    graph.constant("six", [6.0], [])
    graph.constant("positions", [2, 3], [2], TensorProto.INT64)
    x = graph.node("Cast", [INPUT], "values", to=TensorProto.FLOAT)
    x = graph.node("Transpose", [x], "images", perm=[0, 3, 1, 2])
    x = graph.node("Sub", [x, "mean"], "centred")
    x = graph.node("Div", [x, "std"], "normalised")
    x = graph.convolution(x, "stem", stride=2, kernel=3)
    layer_at = {node: layer for layer, (node, _) in registry.LAYERS.items()}
    done: list[str] = []

    def reached(node: str, value: str) -> bool:
        """Add the output of the layer that reads this node, and return whether it is the last one."""
        if node in layer_at:
            graph.output(value, layer_at[node])
            done.append(layer_at[node])
        return last in done

    blocks = [(stage, repeat) for stage in efficientnet_lite.STAGES for repeat in range(stage.repeats)]
    channels = efficientnet_lite.STEM
    for number, (stage, repeat) in enumerate(blocks):
        name, stride = f"blocks.{number}", stage.stride if repeat == 0 else 1
        wide, y = channels * stage.expansion, x
        if stage.expansion != 1:
            y = graph.convolution(y, f"{name}.expand")
            if reached(f"{name}.expand", y):
                break
        y = graph.convolution(y, f"{name}.depthwise", stride=stride, kernel=stage.kernel, groups=wide)
        y = graph.convolution(y, f"{name}.project", activate=False)
        if reached(f"{name}.project", y):
            break
        x = graph.node("Add", [x, y], name) if stride == 1 and channels == stage.channels else y
        channels = stage.channels
    else:
        reached("dropout", graph.convolution(x, "head"))
    crop = preprocessing.crop
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", crop, crop, 3])
    outputs = [
        helper.make_tensor_value_info(f"{OUTPUTS}{layer}", TensorProto.FLOAT, ["n", registry.LAYERS[layer][1]])
        for layer in done
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, registry.NAME, [pixels], outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="transfer-pipeline",
    )
    return model.SerializeToString(deterministic=True)


def tensor_table(path: Path) -> dict[str, Any]:
    """Return where each tensor of a file in torch's old format lies: type, shape, strides in items, byte offset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        state = torch.load(path, map_location="cpu", weights_only=True)
    data, tensors = path.read_bytes(), {}
    at = _storages_begin(data, state)
    for name, tensor in efficientnet_lite.from_package_names(state).items():
        begin = at[tensor.untyped_storage().data_ptr()] + tensor.storage_offset() * tensor.element_size()
        dtype = tensor.numpy().dtype.str
        tensors[name] = [dtype, list(tensor.shape), list(tensor.stride()), begin]
    return {"sha256": file_sha256(path), "tensors": dict(sorted(tensors.items()))}


def _storages_begin(data: bytes, state: dict[str, torch.Tensor]) -> dict[int, int]:
    """Return the byte at which each storage's items begin, by its address in memory.

    The storages are the end of the file, one after another, each after the number of its items in 8 bytes. Their order
    is not that of the state dict, so that each is looked for among those that are left.
    """
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in state.values()}
    content = {
        pointer: (
            (tensor.untyped_storage().nbytes() // tensor.element_size()).to_bytes(8, "little")
            + bytes(tensor.untyped_storage().tolist())
        )
        for pointer, tensor in storages.items()
    }
    begins, at = {}, len(data) - sum(map(len, content.values()))
    while content:
        pointer = next(pointer for pointer, block in content.items() if data.startswith(block, at))
        begins[pointer] = at + 8
        at += len(content.pop(pointer))
    assert at == len(data)
    return begins


if __name__ == "__main__":
    main()
