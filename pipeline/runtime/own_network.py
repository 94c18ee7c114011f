"""`save_backbone`: a torch network of one's own, written so that it is a backbone like any other."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pipeline.arguments import check_arguments
from pipeline.backbone import Backbone
from pipeline.backbone.graph_file import ENDING, check_preprocessing, is_graph_file, three, write_graph_file
from pipeline.errors import BackboneError
from pipeline.provenance import Preprocessing
from pipeline.runtime.graph_export import NotExportable, export_network

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
            f"{place}: wanted a path that ends in {ENDING}, found {place.suffix or 'no ending'!r}",
            f"save_backbone(network, {str(place.with_suffix(ENDING))!r}, ...)",
        )
    how = _preprocessing(resize, crop, interpolation, mean, std, value_range, str(place))
    named = _NamedOutputs(copy.deepcopy(network).cpu().float()).eval().requires_grad_(False)
    widths = _widths(named, how.crop, str(place))
    try:
        graph = export_network(named, how, widths)
    except NotExportable as error:
        raise BackboneError(
            f"{place}: wanted a network that can be an ONNX graph, found that it cannot ({error})",
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
            f"{origin}: wanted mean and std as 3 numbers each, one a channel, found {mean!r} and {std!r}",
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
            f"{origin}: wanted a network of float32 (b, 3, {crop}, {crop}), found {type(error).__name__}: {reason}",
            "call it on torch.zeros of that shape, and see",
        ) from error
    for layer, values in found.items():
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else None
        if not isinstance(layer, str) or not layer or shape is None or len(shape) != 2 or shape[0] != _TRIAL:
            given = type(values).__name__ if shape is None else str(shape).replace(str(_TRIAL), "b", 1)
            raise BackboneError(
                f"{origin}: wanted embeddings (b, width), found {given} as {layer!r}",
                "average maps over their positions: maps.mean((2, 3)); and give several as {name: (b, width)}",
            )
    if not found:
        raise BackboneError(
            f"{origin}: wanted embeddings (b, width), found none", "return a tensor, or several by name"
        )
    return {layer: int(values.shape[1]) for layer, values in found.items()}
