"""Export a backbone to one ONNX graph, from uint8 images to embeddings, proven equal to torch before it is used."""

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
from pipeline.backbone import Backbone
from pipeline.backbone.onnx_backbone import (
    ENDING,
    INPUT,
    OUTPUTS,
    check_preprocessing,
    is_graph_file,
    three,
    write_graph_file,
)
from pipeline.errors import BackboneError
from pipeline.provenance import Preprocessing
from pipeline.runtime.graph_cache import OPSET
from pipeline.runtime.onnx_runtime import OnnxRuntime
from pipeline.runtime.torch_runtime import Normalize, fold_batch_norm

TOLERANCE = 1e-5  # of a layer's largest value; 19 families differ by 2e-6 at most

# protobuf holds no message of 2 GiB. What is beside the weights is small.
LARGEST = 2**31 - 2**26

_EXAMPLE, _PROOF = 2, 3  # images; different, so that a batch size frozen into the graph is found out

# The exporter patches torch for the whole process while it traces.
_EXPORTING = threading.Lock()


class NotExportable(Exception):
    """This backbone cannot be run as an ONNX graph; the text says why."""


def export_graph(backbone: Backbone, layers: Sequence[str]) -> tuple[bytes, OnnxRuntime]:
    """Return the graph of these layers, and a runtime made of it that gives what torch gives, to 1e-5.

    A few seconds: 3 for the bundled backbone, 18 for the largest shifted-window transformers.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.

    Raises
    ------
    NotExportable
        If the exporter or ONNX Runtime cannot, or the graph gives something else.
    BackboneError
        If the weights cannot be had.
    """
    widths = backbone.resolve_layers(layers)
    with _EXPORTING, torch.no_grad():
        network = backbone.load(layers)
        wanted = PixelInput(network, backbone.preprocessing, list(widths))
        return _proven(wanted, widths, backbone.preprocessing.crop, fold=network)


def export_network(network: nn.Module, how: Preprocessing, widths: Mapping[str, int]) -> bytes:
    """Return the graph of a torch network that gives ``{layer: (b, width)}``, proven like `export_graph`'s.

    Raises
    ------
    NotExportable
        As for `export_graph`.
    """
    with _EXPORTING, torch.no_grad():
        return _proven(PixelInput(network, how, list(widths)), widths, how.crop)[0]


def _proven(
    network: PixelInput, widths: Mapping[str, int], crop: int, *, fold: fx.GraphModule | None = None
) -> tuple[bytes, OnnxRuntime]:
    """Return the graph, and a runtime made of it; what can be folded is, after torch has said what is wanted."""
    noise = np.random.default_rng(0).integers(0, 256, (_PROOF, crop, crop, 3), np.uint8)
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > LARGEST:
        raise NotExportable(f"its weights take {size / 1e9:.1f} GB, and an ONNX file holds 2")
    wanted = dict(zip(widths, network(torch.from_numpy(noise)), strict=True))
    try:
        if fold is not None:
            # ONNX Runtime would fold as well, at the same speed; fewer nodes export in four fifths of the time.
            fold_batch_norm(fold)
        model = _export(network, list(widths), crop)
        runtime = OnnxRuntime(model, layers=widths, crop=crop)
        found = [runtime(noise), runtime(noise[:1])]
    except Exception as error:  # the exporter raises whatever the network's own code runs into
        reason = str(error).strip().partition("\n")[0]
        raise NotExportable(f"{type(error).__name__}: {reason}") from error
    for layer, values in wanted.items():
        for features in found:
            _prove(layer, features[layer], values.numpy()[: len(features[layer])])
    return model, runtime


class PixelInput(nn.Module):
    """uint8 images (b, crop, crop, 3) to a tuple of embeddings (b, width): the road of `TorchRuntime` as one module."""

    def __init__(self, network: nn.Module, how: Preprocessing, layers: list[str]) -> None:
        super().__init__()
        self.network = network
        self._normalise = Normalize(how, torch.device("cpu"))
        self._layers = layers
        self.eval().requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Contiguous before the network: ONNX knows no strides, and those of a view would be traced as a gather.
        images = pixels.permute(0, 3, 1, 2).contiguous()  # (b, h, w, 3) -> (b, 3, h, w)
        features = self.network(self._normalise(images))
        return tuple(features[layer] for layer in self._layers)


def _export(network: PixelInput, layers: list[str], crop: int) -> bytes:
    for module in network.modules():
        # In-place activations are decomposed into a dozen operations first: twice the time of the whole export.
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
        # The exporter notes for each node the lines of source that it came from, with their place on this machine.
        part.ClearField("metadata_props")
    return model.SerializeToString(deterministic=True)


def _prove(layer: str, found: np.ndarray, wanted: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):  # values that are not finite compare as unequal
        equal = found.shape == wanted.shape and np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
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
    """Write a torch network as one ONNX file that is taken wherever a backbone is, and return it opened.

    The file holds the network, its weights and how photos are prepared for it, and runs without torch and without the
    network's code. Before it is put in place, ONNX Runtime must give with it what torch gives, to 1e-5.

    Parameters
    ----------
    network : nn.Module
        Maps normalised float32 images (b, 3, crop, crop) to embeddings (b, width), or to several by name,
        ``{layer: (b, width)}``. It stays as it is, and is run in evaluation mode.
    path : path
        Where to write it; ends in ``.onnx``.
    resize, crop : int
        A photo's short side is resized to `resize`, and the centre `crop` square is what the network sees.
    mean, std : sequence of 3 floats
        Each channel becomes ``(value - mean) / std``.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
    value_range : float
        What white is before that: 1, or 255 where mean and std are in grey levels.

    Returns
    -------
    Backbone

    Raises
    ------
    BackboneError
        If the network gives anything else, cannot be exported, or the file cannot be written.

    Examples
    --------
    >>> mine = pl.save_backbone(  # doctest: +SKIP
    ...     network, "mine.onnx", resize=256, crop=224, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    ... )
    >>> pl.extract("photos/", backbone="mine.onnx")  # doctest: +SKIP
    """
    place = Path(path).expanduser()
    if not is_graph_file(place.name):
        raise BackboneError(
            f"{place}: expected a path that ends in {ENDING}, got {place.suffix or 'no ending'!r}",
            f"save_backbone(network, {str(place.with_suffix(ENDING))!r}, ...)",
        )
    how = _preprocessing(resize, crop, interpolation, mean, std, value_range, str(place))
    named = _NamedOutputs(copy.deepcopy(network).cpu().float()).eval().requires_grad_(False)
    widths = _widths(named, how.crop, str(place))
    try:
        graph = export_network(named, how, widths)
    except NotExportable as error:
        raise BackboneError(
            f"{place}: expected a network that can be an ONNX graph, but it cannot ({error})",
            "write its forward without branches on the values of its tensors: see torch.onnx.export",
        ) from error
    write_graph_file(place, graph, how)
    return Backbone.open(str(place))


class _NamedOutputs(nn.Module):
    """A network whose embeddings have names; the only one is the penultimate layer's."""

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
        means, stds = three(mean), three(std)
    except (TypeError, ValueError) as error:
        raise BackboneError(
            f"{origin}: expected mean and std as 3 numbers each, one a channel, got {mean!r} and {std!r}",
            "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225] is what torchvision's networks have",
        ) from error
    how = Preprocessing(int(resize), int(crop), interpolation, True, means, stds, float(value_range))
    check_preprocessing(how, origin)
    return how


def _widths(network: _NamedOutputs, crop: int, origin: str) -> dict[str, int]:
    """Return ``{layer: width}`` as a first run gives it; whatever else a network gives is refused."""
    try:
        with torch.no_grad():
            found = network(torch.zeros(_TRIAL, 3, crop, crop))
    except Exception as error:  # whatever the network's own code runs into
        reason = str(error).strip().partition("\n")[0]
        raise BackboneError(
            f"{origin}: expected a network of float32 (b, 3, {crop}, {crop}), got {type(error).__name__}: {reason}",
            "call it on torch.zeros of that shape, and see",
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
