"""How is a network exported to ONNX and compared with torch, and how does a user save a network as a backbone?"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import fx, nn

from pipeline.arguments import check_arguments
from pipeline.backbone import (
    ENDING,
    INPUT,
    OUTPUTS,
    Backbone,
    check_preprocessing,
    is_graph_file,
    three_numbers,
    write_graph_file,
)
from pipeline.errors import BackboneError
from pipeline.provenance import Preprocessing
from pipeline.runtime.graph_cache import OPSET
from pipeline.runtime.onnx_runtime import OnnxRuntime
from pipeline.runtime.torch_runtime import Normalize, fold_batch_norm

TOLERANCE = 1e-5  # relative to a layer's largest value; 19 families differ by at most 2e-6

# A protobuf message is smaller than 2 GiB. Everything but the weights is small.
LARGEST = 2**31 - 2**26

# Numbers of images for the export and for the comparison; they differ, so that a batch size fixed in the graph fails.
_EXAMPLE, _COMPARED = 2, 3

# The exporter patches torch for the whole process while it traces.
_EXPORTING = threading.Lock()


class NotExportable(Exception):
    """A network cannot be run as an ONNX graph; the text is the reason."""


def export_graph(backbone: Backbone, layers: Sequence[str]) -> tuple[bytes, OnnxRuntime]:
    """Export these layers, and return the graph and a runtime with it, whose features equal torch's to 1e-5.

    It takes seconds: 3 for the bundled backbone, 18 for the largest shifted-window transformers.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.

    Raises
    ------
    NotExportable
        The exporter or ONNX Runtime fails, or the graph gives other features.
    BackboneError
        The weights are not available.
    """
    widths = backbone.resolve_layers(layers)
    with _EXPORTING, torch.no_grad():
        network = backbone.load(layers)
        module = PixelInput(network, backbone.preprocessing, list(widths))
        return _export_and_compare(module, widths, backbone.preprocessing.crop, fold=network)


def export_network(network: nn.Module, preprocessing: Preprocessing, widths: Mapping[str, int]) -> bytes:
    """Export a torch network that returns ``{layer: (b, width)}``, and compare as `export_graph` does.

    Raises
    ------
    NotExportable
        As for `export_graph`.
    """
    with _EXPORTING, torch.no_grad():
        module = PixelInput(network, preprocessing, list(widths))
        return _export_and_compare(module, widths, preprocessing.crop)[0]


def _export_and_compare(
    network: PixelInput, widths: Mapping[str, int], crop: int, *, fold: fx.GraphModule | None = None
) -> tuple[bytes, OnnxRuntime]:
    """Return the graph and a runtime with it; `fold` is the module whose batch normalisation may be folded."""
    noise = np.random.default_rng(0).integers(0, 256, (_COMPARED, crop, crop, 3), np.uint8)
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > LARGEST:
        raise NotExportable(f"its weights take {size / 1e9:.1f} GB, and an ONNX file holds 2")
    expected = dict(zip(widths, network(torch.from_numpy(noise)), strict=True))
    try:
        if fold is not None:
            # ONNX Runtime would fold too, with the same speed afterwards; but fewer nodes export in 80% of the time.
            fold_batch_norm(fold)
        model = _export(network, list(widths), crop)
        runtime = OnnxRuntime(model, layers=widths, crop=crop)
        found = [runtime(noise), runtime(noise[:1])]
    except Exception as error:  # the exporter runs the network's code, which may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise NotExportable(f"{type(error).__name__}: {reason}") from error
    for layer, values in expected.items():
        for features in found:
            _compare(layer, features[layer], values.numpy()[: len(features[layer])])
    return model, runtime


class PixelInput(nn.Module):
    """Map uint8 images (b, crop, crop, 3) to a tuple of embeddings (b, width), as `TorchRuntime` does."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, layers: list[str]) -> None:
        super().__init__()
        self.network = network
        self._normalise = Normalize(preprocessing, torch.device("cpu"))
        self._layers = layers
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Contiguous before the network: ONNX has no strides, and those of a view would be traced as a gather.
        images = pixels.permute(0, 3, 1, 2).contiguous()  # (b, h, w, 3) -> (b, 3, h, w)
        features = self.network(self._normalise(images))
        return tuple(features[layer] for layer in self._layers)


def _export(network: PixelInput, layers: list[str], crop: int) -> bytes:
    for module in network.modules():
        # In-place activations are first decomposed into a dozen operations, which doubles the time of the export.
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    program = torch.onnx.export(
        network,
        (torch.zeros(_EXAMPLE, crop, crop, 3, dtype=torch.uint8),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[f"{OUTPUTS}{layer}" for layer in layers],
        dynamic_shapes={INPUT: {0: torch.export.Dim("images")}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        # The exporter records each node's lines of source with their paths on this machine.
        part.ClearField("metadata_props")
    return model.SerializeToString(deterministic=True)


def _compare(layer: str, found: np.ndarray, expected: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):  # values that are not finite compare as unequal
        equal = found.shape == expected.shape and np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    if not equal:
        raise NotExportable(f"its graph gives other {layer} features than torch")


_TRIAL = 2  # images


@check_arguments
def save_backbone(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    resize: int,
    crop: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bilinear",
    value_range: float = 1.0,
) -> Backbone:
    """Save a torch network as an ONNX file that can be used as a backbone, and return the opened backbone.

    The file holds the network, its weights and its preprocessing, and runs without torch and without the network's
    code. It is written only if its features in ONNX Runtime equal torch's to 1e-5 of a layer's largest value.

    Parameters
    ----------
    network : nn.Module
        Maps normalised float32 images (b, 3, crop, crop) to embeddings (b, width), or to several by name,
        ``{layer: (b, width)}``. It is not changed, and runs in evaluation mode.
    path : path
        The file to write; it ends in ``.onnx``.
    resize, crop : int
        Pixels: a photo's short side is resized to `resize`, and the central square of side `crop` is the input.
    mean, std : sequence of 3 floats
        Each channel becomes ``(value - mean) / std``.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
    value_range : float
        The value of white before normalisation: 1, or 255 if `mean` and `std` are in grey levels.

    Returns
    -------
    Backbone

    Raises
    ------
    BackboneError
        The network returns something else, cannot be exported, or the file cannot be written.

    Examples
    --------
    >>> backbone = pl.save_backbone(  # doctest: +SKIP
    ...     network, "mine.onnx", resize=256, crop=224, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    ... )
    >>> pl.extract("photos/", backbone="mine.onnx")  # doctest: +SKIP
    """
    file = Path(path).expanduser()
    if not is_graph_file(file.name):
        raise BackboneError(
            f"{file}: expected a path that ends in {ENDING}, got {file.suffix or 'no ending'!r}",
            f"save_backbone(network, {str(file.with_suffix(ENDING))!r}, ...)",
        )
    preprocessing = _preprocessing(resize, crop, interpolation, mean, std, value_range, str(file))
    named = _NamedOutputs(copy.deepcopy(network).cpu().float()).eval().requires_grad_(False)
    widths = _widths(named, preprocessing.crop, str(file))
    try:
        graph = export_network(named, preprocessing, widths)
    except NotExportable as error:
        raise BackboneError(
            f"{file}: expected a network that can be exported to ONNX, but it cannot ({error})",
            "write its forward without branches on the values of its tensors: see torch.onnx.export",
        ) from error
    write_graph_file(file, graph, preprocessing)
    return Backbone.open(str(file))


class _NamedOutputs(nn.Module):
    """A network whose embeddings have names; a single embedding without a name is called ``penultimate``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
        found = self.network(images)
        return found if isinstance(found, Mapping) else {"penultimate": found}


def _preprocessing(
    resize: int,
    crop: int,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    value_range: float,
    origin: str,
) -> Preprocessing:
    try:
        means, stds = three_numbers(mean), three_numbers(std)
    except (TypeError, ValueError) as error:
        raise BackboneError(
            f"{origin}: expected mean and std as 3 numbers each, one per channel, got {mean!r} and {std!r}",
            "for torchvision's networks, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]",
        ) from error
    preprocessing = Preprocessing(int(resize), int(crop), interpolation, True, means, stds, float(value_range))
    check_preprocessing(preprocessing, origin)
    return preprocessing


def _widths(network: _NamedOutputs, crop: int, origin: str) -> dict[str, int]:
    """Run the network once and return ``{layer: width}``; raise `BackboneError` for other outputs than embeddings."""
    try:
        with torch.no_grad():
            found = network(torch.zeros(_TRIAL, 3, crop, crop))
    except Exception as error:  # the network's code may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise BackboneError(
            f"{origin}: expected a network of float32 (b, 3, {crop}, {crop}), got {type(error).__name__}: {reason}",
            "call the network on torch.zeros of that shape to see the error",
        ) from error
    for layer, values in found.items():
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else None
        if not isinstance(layer, str) or not layer or shape is None or len(shape) != 2 or shape[0] != _TRIAL:
            given = type(values).__name__ if shape is None else str(shape).replace(str(_TRIAL), "b", 1)
            raise BackboneError(
                f"{origin}: expected embeddings (b, width), got {given} as {layer!r}",
                "average maps over their positions: maps.mean((2, 3)); and give several as {name: (b, width)}",
            )
    if not found:
        raise BackboneError(
            f"{origin}: expected embeddings (b, width), got none", "return a tensor, or several by name"
        )
    return {layer: int(values.shape[1]) for layer, values in found.items()}
