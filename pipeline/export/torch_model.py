"""How do backbone and head become a folder for plain torch and torchvision? The head replaces the final layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from pipeline.backbone import efficientnet_lite, registry
from pipeline.errors import ExportError
from pipeline.export import linear, standalone
from pipeline.export.linear import LinearLayer, fold
from pipeline.export.record import ExportSpec, record_of
from pipeline.export.standalone import OWN_ARCHITECTURE, PHOTO_READER
from pipeline.export.verify import ParityCheck
from pipeline.images import rgb

CODE, PROGRAM, README = "model.py", "model.pt2", "README.md"
# The files of an export: a folder with any other file is not replaced.
ENTRIES = frozenset(
    (
        CODE,
        PROGRAM,
        README,
        standalone.RECORD,
        standalone.WEIGHTS,
        standalone.OWN_ARCHITECTURE,
        standalone.PHOTO_READER,
        "__pycache__",
    )
)


def write_network(model: ExportSpec, folder: Path) -> None:
    """Write the network's weights, the record and the code that loads them, then the exported program.

    Raises
    ------
    ExportError
        The head is not linear, or the network cannot be exported as a program.
    """
    layer = layer_of(model)
    with torch.random.fork_rng(devices=[]):  # layers are initialised before they are filled
        how, state = _replace_final_layer(model, layer, model.backbone.load_network())
    record = {**record_of(model), "network": how}
    # `save_file` would make the file readable by its owner only; it must have the permissions of the other files.
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
    (folder / standalone.WEIGHTS).write_bytes(content)
    (folder / standalone.RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(standalone.__file__, folder / CODE)
    shutil.copyfile(rgb.__file__, folder / standalone.PHOTO_READER)
    if model.backbone.name == registry.NAME:
        shutil.copyfile(efficientnet_lite.__file__, folder / standalone.OWN_ARCHITECTURE)
    _write_program(whole(folder), model, folder / PROGRAM)


def layer_of(model: ExportSpec) -> LinearLayer:
    """Return the head as the layer that replaces the final layer."""
    if model.backbone.is_graph:
        raise ExportError(
            f"expected a torchvision network, got {model.backbone.name}, which is an ONNX file", "--format onnx"
        )
    width = model.backbone.resolve_layers([model.layer])[model.layer]
    layer = fold(model.estimator, model.kind, width)
    if layer is None:
        raise ExportError(
            f"head {model.head!r}: expected a linear head, which can be a network's final layer, got another head",
            "--format onnx, or fit with --head logistic",
        )
    if model.recipe["store"] != "fp32":
        raise ExportError(
            "expected a head that was trained on features stored in fp32, as the network computes them, got "
            f"{model.recipe['store']}",
            "--format onnx, which rounds the features itself, or fit again with --store fp32",
        )
    return layer


def whole(folder: Path) -> nn.Module:
    """Return the network of a written folder, from pixels to predictions, loaded by the folder's own code."""
    with torch.random.fork_rng(devices=[]):
        network = standalone.load(folder)
    return standalone.FromPixels(network, standalone.read_record(folder)).eval().requires_grad_(False)


def runner(network: Callable[[torch.Tensor], Mapping[str, torch.Tensor]]) -> Callable[[np.ndarray], dict[str, Any]]:
    """Return a function that runs a network on uint8 images."""

    def run(pixels: np.ndarray) -> dict[str, Any]:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(pixels))
        return {name: values.numpy() for name, values in outputs.items()}

    return run


def reader(folder: Path) -> Callable[[bytes], np.ndarray]:
    """Return a function from a photo's file to pixels, with the record and the photo reader of a written folder."""
    record = standalone.read_record(folder)

    def read(data: bytes) -> np.ndarray:
        with Image.open(BytesIO(data)) as photo:
            return standalone.prepare(photo, record, folder)

    return read


def program_runner(path: Path) -> Callable[[np.ndarray], dict[str, Any]]:
    """Return a function that runs a written program on uint8 images."""
    return runner(torch.export.load(path).module())


def _replace_final_layer(
    model: ExportSpec, layer: LinearLayer, network: nn.Module
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return how `standalone` builds the network with this layer, and its tensors.

    For penultimate features the layer replaces the final layer. For those of any other layer, it replaces everything
    after that layer.
    """
    backbone, outputs = model.backbone, len(layer.bias)
    arguments = {"num_classes": outputs, **backbone.architecture}
    if "transform_input" in arguments:
        arguments.update(aux_logits=False, init_weights=False)
    how: dict[str, Any] = {
        "builder": backbone.name,
        "arguments": arguments,
        "bypassed": [],
        "cut": None,
        "answer": layer.answer,
    }
    weight = torch.from_numpy(layer.weight).to(torch.float32)
    bias = torch.from_numpy(layer.bias).to(torch.float32)
    nodes = backbone.layer_nodes([model.layer, "penultimate"])
    if nodes[model.layer] != nodes["penultimate"]:
        node = backbone.node(model.layer)
        how["cut"] = {"node": node.name, "pooled": list(node.pooled), "width": node.width, "outputs": outputs}
        arguments["num_classes"] = backbone.classes
        body = standalone.Cut(network, **how["cut"])
        return how, {**body.state_dict(), "head.weight": weight, "head.bias": bias}
    final = backbone.final_layer()
    state = dict(network.state_dict())
    # SqueezeNet's final layer is a convolution: the weights become 1 x 1 kernels.
    state[f"{final}.weight"] = weight.reshape(outputs, *state[f"{final}.weight"].shape[1:])
    state[f"{final}.bias"] = bias
    how["bypassed"] = _relu_after_convolution(network, final)
    return how, state


def _relu_after_convolution(network: nn.Module, final: str) -> list[str]:
    """Return the name of the ReLU after a final convolution, which would set negative scores to zero; else nothing."""
    parent, _, index = final.rpartition(".")
    if not isinstance(network.get_submodule(final), nn.Conv2d):
        return []
    following = f"{parent}.{int(index) + 1}"
    return [following] if isinstance(network.get_submodule(following), nn.ReLU) else []


def _write_program(network: nn.Module, model: ExportSpec, path: Path) -> None:
    crop = model.backbone.preprocessing.crop
    example = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)
    try:
        program = torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("images")}})
        torch.export.save(program, path)
    except Exception as error:  # the exporter raises any error of the network's code
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"expected {model.backbone.name} as an exported program, got {type(error).__name__}: {reason}",
            "--format onnx",
        ) from error


_MEANING = {
    linear.SOFTMAX: "One output per class; their softmax gives the probabilities.",
    linear.NEAREST: "Two outputs per class. The largest of the first half (distances to the centroids) gives the class;"
    " the softmax of the second half (distances over the spread within classes) gives the probabilities.",
    linear.ONE_VS_REST: "One output per class; their sigmoids, divided by their sum, are the probabilities.",
    linear.SCORES: "One output per class, its score; the largest gives the class. This head has no probabilities.",
    linear.TAGS: "One output per tag: the tag is present if it is above zero; its sigmoid is the probability.",
    linear.TAG_SCORES: "One output per tag, its score: the tag is present if it is above zero."
    " This head has no probabilities.",
    linear.NUMBER: "One output: the number.",
}


def torch_readme(model: ExportSpec, name: str, answer: str, checks: Sequence[ParityCheck]) -> str:
    """Return the README of an exported folder.

    Parameters
    ----------
    model : ExportSpec
    name : str
        Name of the folder.
    answer : str
        The kind of outputs, a constant of `linear`.
    checks : sequence of ParityCheck
    """
    preprocessing, crop = model.backbone.preprocessing, model.backbone.preprocessing.crop
    bundled = model.backbone.name == registry.NAME
    fast = (
        ""
        if "fast" not in str(model.recipe["decoder"])
        else (
            " The model was trained on photos read with `--decode fast`; pixels differ by about one grey level, those"
            " of large JPEGs by a few."
        )
    )
    lines = [
        f"# {name}",
        "",
        f"`{model.backbone.name}` with its final layer replaced by a `{model.head}` head, which predicts"
        f" `{model.label_set}`.",
        *(["", f"> {model.verdict}"] if model.verdict else []),
        "",
        "```sh",
        "python model.py photo.jpg    # needs torch, torchvision, safetensors and Pillow",
        "```",
        "",
        "| file | content |",
        "|---|---|",
        "| `model.safetensors` | the tensors of the whole network |",
        "| `model.json` | class names, preprocessing, how the network is built, where it comes from |",
        "| `model.py` | reads those two: `load()` is the plain network, `FromPixels` the whole pipeline from pixels |",
        f"| `{PHOTO_READER}` | reads photos: transparency on white, CMYK, palettes, 16 bits, EXIF orientation |",
        *([f"| `{OWN_ARCHITECTURE}` | the architecture, which torchvision does not have |"] if bundled else []),
        "| `model.pt2` | the whole pipeline as one exported program, which needs only torch |",
        "",
        "```python",
        "import torch",
        "",
        'whole = torch.export.load("model.pt2").module()',
        f"prediction = whole(pixels)  # uint8 (n, {crop}, {crop}, 3), any n, as `prepare` in model.py makes them",
        "```",
        "",
        _MEANING[answer],
        "",
        f"A photo becomes upright RGB (`{PHOTO_READER}`), is resized to {preprocessing.resize} pixels on its short side"
        f" ({preprocessing.interpolation}), and its central {crop} x {crop} pixels are cropped. The network"
        " normalizes pixels itself, except for `load()`, which takes (value - mean) / std." + fast,
        "",
        "Checks against the original model, made before this folder was put in place:",
        "",
        *(f"- {check.text}" for check in checks),
        "",
    ]
    return "\n".join(lines)
