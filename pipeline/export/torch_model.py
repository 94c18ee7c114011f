"""Backbone and head as a folder that plain torch and torchvision open: the network with its final layer replaced."""

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
# What the folder may hold: a folder with anything else in it is not ours to replace.
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
        how, state = _replaced(model, layer, model.backbone.load_network())
    record = {**record_of(model), "network": how}
    # Not `save_file`: whoever may read the folder is to read its weights too.
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()})
    (folder / standalone.WEIGHTS).write_bytes(content)
    (folder / standalone.RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(standalone.__file__, folder / CODE)
    shutil.copyfile(rgb.__file__, folder / standalone.PHOTO_READER)
    if model.backbone.name == registry.NAME:
        shutil.copyfile(efficientnet_lite.__file__, folder / standalone.OWN_ARCHITECTURE)
    _write_program(whole(folder), model, folder / PROGRAM)


def layer_of(model: ExportSpec) -> LinearLayer:
    """Return the head as the layer that is put in the final layer's place."""
    if model.backbone.is_graph:
        raise ExportError(
            f"expected a network of torchvision's, got {model.backbone.name}, which is an ONNX file", "--format onnx"
        )
    width = model.backbone.resolve_layers([model.layer])[model.layer]
    layer = fold(model.estimator, model.kind, width)
    if layer is None:
        raise ExportError(
            f"head {model.head!r}: expected a linear head, which can be a network's final layer, got one that is not",
            "--format onnx, or fit with --head logistic",
        )
    if model.recipe["store"] != "fp32":
        raise ExportError(
            "expected a head that learned from features stored in fp32, as the network makes them, got "
            f"{model.recipe['store']}",
            "--format onnx, which rounds them within, or fit again with --store fp32",
        )
    return layer


def whole(folder: Path) -> nn.Module:
    """Return the network of a written folder, from pixels to answers, as its own code loads it."""
    with torch.random.fork_rng(devices=[]):
        network = standalone.load(folder)
    return standalone.FromPixels(network, standalone.read_record(folder)).eval().requires_grad_(False)


def runner(network: Callable[[torch.Tensor], Mapping[str, torch.Tensor]]) -> Callable[[np.ndarray], dict[str, Any]]:
    """Return what runs a network on uint8 images."""

    def run(pixels: np.ndarray) -> dict[str, Any]:
        with torch.inference_mode():
            said = network(torch.from_numpy(pixels))
        return {name: values.numpy() for name, values in said.items()}

    return run


def reader(folder: Path) -> Callable[[bytes], np.ndarray]:
    """Return what makes pixels of a photo's file, by the record and the photo reader of a written folder."""
    record = standalone.read_record(folder)

    def read(data: bytes) -> np.ndarray:
        with Image.open(BytesIO(data)) as photo:
            return standalone.prepare(photo, record, folder)

    return read


def program_runner(path: Path) -> Callable[[np.ndarray], dict[str, Any]]:
    """Return what runs a written program on uint8 images."""
    return runner(torch.export.load(path).module())


def _replaced(
    model: ExportSpec, layer: LinearLayer, network: nn.Module
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return how `standalone` builds the network with this layer in its place, and its tensors.

    On the penultimate features that is the final layer itself; on any other layer's, what comes after it goes.
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
    # SqueezeNet's is a convolution over the map: the same numbers, seen as 1 x 1 kernels.
    state[f"{final}.weight"] = weight.reshape(outputs, *state[f"{final}.weight"].shape[1:])
    state[f"{final}.bias"] = bias
    how["bypassed"] = _after_convolution(network, final)
    return how, state


def _after_convolution(network: nn.Module, final: str) -> list[str]:
    """Return the ReLU that follows a final convolution, which would cut scores below zero off; none in all others."""
    parent, _, place = final.rpartition(".")
    if not isinstance(network.get_submodule(final), nn.Conv2d):
        return []
    following = f"{parent}.{int(place) + 1}"
    return [following] if isinstance(network.get_submodule(following), nn.ReLU) else []


def _write_program(network: nn.Module, model: ExportSpec, path: Path) -> None:
    crop = model.backbone.preprocessing.crop
    example = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)
    try:
        program = torch.export.export(network, (example,), dynamic_shapes={"pixels": {0: torch.export.Dim("images")}})
        torch.export.save(program, path)
    except Exception as error:  # the exporter raises whatever the network's own code runs into
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"expected {model.backbone.name} as an exported program, got {type(error).__name__}: {reason}",
            "--format onnx",
        ) from error


_MEANING = {
    linear.SOFTMAX: "One output a class; softmax makes probabilities of them.",
    linear.NEAREST: "Two outputs a class: the first half tells the class, by the distance to its centroid; softmax of"
    " the second half, the distances over the spread within classes, makes probabilities.",
    linear.ONE_VS_REST: "One output a class; their sigmoids, divided by their sum, are the probabilities.",
    linear.SCORES: "One output a class: a score, the largest of which tells the class. This head has no probabilities.",
    linear.TAGS: "One output a tag: above zero it is there; the sigmoid is its probability.",
    linear.TAG_SCORES: "One output a tag: a score, above zero it is there. This head has no probabilities.",
    linear.NUMBER: "One output: the number.",
}


def torch_readme(model: ExportSpec, name: str, answer: str, proofs: Sequence[ParityCheck]) -> str:
    """Return the text.

    Parameters
    ----------
    model : Exportable
    name : str
        The folder's.
    answer : str
        What the outputs mean.
    proofs : sequence of Proof
    """
    how = model.backbone.preprocessing
    own = model.backbone.name == registry.NAME
    fast = (
        ""
        if "fast" not in str(model.recipe["decoder"])
        else (" The model learned from photos resized with `--decode fast`, hardly a grey level away.")
    )
    lines = [
        f"# {name}",
        "",
        f"`{model.backbone.name}` with its final layer replaced by a `{model.head}` head, which answers"
        f" `{model.label_set}`.",
        *(["", f"> {model.verdict}"] if model.verdict else []),
        "",
        "```sh",
        "python model.py photo.jpg    # needs torch, torchvision, safetensors and Pillow",
        "```",
        "",
        "| file | what |",
        "|---|---|",
        "| `model.safetensors` | the tensors of the whole network |",
        "| `model.json` | class names, preprocessing, how the network is built, where it comes from |",
        "| `model.py` | reads those two: `load()` is the plain network, `FromPixels` the whole road from pixels |",
        f"| `{PHOTO_READER}` | reads photos: transparency on white, CMYK, palettes, 16 bits, EXIF orientation |",
        *([f"| `{OWN_ARCHITECTURE}` | the architecture, which torchvision does not have |"] if own else []),
        "| `model.pt2` | the whole road as one exported program, for torch alone |",
        "",
        "```python",
        "import torch",
        "",
        'whole = torch.export.load("model.pt2").module()',
        f"said = whole(pixels)  # uint8 (n, {how.crop}, {how.crop}, 3), any n, as `prepare` in model.py makes them",
        "```",
        "",
        _MEANING[answer],
        "",
        f"A photo becomes upright RGB (`{PHOTO_READER}`), is resized to {how.resize} pixels on its short side"
        f" ({how.interpolation}), and its centre {how.crop} x {how.crop} is cut out; normalisation is inside, but for"
        " `load()`, which wants"
        " (value - mean) / std." + fast,
        "",
        "Checked before this folder was put in place, against the model it was made from:",
        "",
        *(f"- {proof.text}" for proof in proofs),
        "",
    ]
    return "\n".join(lines)
