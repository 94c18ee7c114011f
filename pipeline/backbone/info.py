"""What there is to know of a backbone before it is used: its weights, whether they are here, its layers and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.backbone import registry
from pipeline.backbone import registry as known
from pipeline.backbone.onnx_backbone import is_graph_file, read_graph_file
from pipeline.provenance import Preprocessing


@dataclass(frozen=True)
class WeightsInfo:
    """One choice of weights.

    Attributes
    ----------
    name : str
        What stands after the colon.
    url : str
        Where they come from; empty for the bundled ones.
    file : Path
        Where they are, or would be put.
    at_hand : bool
        Whether the file is there.
    megabytes : float
        Size of the file.
    classes : int
        Number of classes; 0 where there is no classifier, which makes them of no use as a backbone.
    recommended : bool
        Whether the backbone's bare name means these.
    preprocessing : Preprocessing
    """

    name: str
    url: str
    file: Path
    at_hand: bool
    megabytes: float
    classes: int
    recommended: bool
    preprocessing: Preprocessing


@dataclass(frozen=True)
class BackboneSummary:
    """One row of the list of all backbones."""

    name: str
    weights: tuple[WeightsInfo, ...]

    @property
    def at_hand(self) -> bool:
        """Whether the recommended weights are on this machine."""
        return any(weights.at_hand and weights.recommended for weights in self.weights)


@dataclass(frozen=True)
class LayerInfo:
    """One layer that can be asked for by name.

    Attributes
    ----------
    name : str
        The node's name.
    shape : tuple of int
        Its output for one photo: (c, h, w), (h, w, c), (t, c) or (c,).
    width : int
        Length of the vector that it gives.
    depth : float
        Share of the layers with weights that have run.
    called : tuple of str
        Which of early, middle, late and penultimate it is.
    """

    name: str
    shape: tuple[int, ...]
    width: int
    depth: float
    called: tuple[str, ...]


@dataclass(frozen=True)
class BackboneDescription:
    """One backbone in full, as its recommended weights make it; an ONNX file has no final layer."""

    name: str
    weights: tuple[WeightsInfo, ...]
    final_layer: str
    parameters: int
    layers: tuple[LayerInfo, ...]

    @property
    def named(self) -> dict[str, LayerInfo]:
        """The layers early, middle, late and penultimate."""
        return {called: layer for layer in self.layers for called in layer.called}


def summaries(names: Sequence[str] | None = None) -> list[BackboneSummary]:
    """Return backbones, all by default, with their weights, and which of them are at hand; nothing is downloaded."""
    return [BackboneSummary(name, _weights_of(name)) for name in (known.catalogue() if names is None else names)]


def describe(name: str) -> BackboneDescription:
    """Return a backbone's weights and layers with their sizes; no weights are downloaded, or read but an ONNX file's.

    Raises
    ------
    BackboneError
        If there is no such backbone; it lists the nearest names.
    """
    if is_graph_file(name):
        return _of_graph(Path(name))
    known.check_name(name)
    weights = _weights_of(name)
    recommended = next(choice for choice in weights if choice.recommended)
    architecture = known.architecture_of(name, recommended.name)
    classes = recommended.classes
    anatomy = known.anatomy_of(name, classes=classes, architecture=architecture, crop=recommended.preprocessing.crop)
    network = known.build_on_meta(name, classes=classes, architecture=architecture)
    layers = tuple(
        LayerInfo(
            node.name,
            node.shape,
            node.width,
            node.depth,
            tuple(called for called, named in anatomy.named.items() if named.name == node.name),
        )
        for node in anatomy.nodes
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return BackboneDescription(name, weights, known.final_layer_of(name), parameters, layers)


def _of_graph(path: Path) -> BackboneDescription:
    found = read_graph_file(path.expanduser().resolve())
    size = found.path.stat().st_size / 2**20
    weights = WeightsInfo("own", "", found.path, True, size, 0, True, found.preprocessing)
    layers = tuple(LayerInfo(name, (width,), width, 1.0, ()) for name, width in found.layers.items())
    return BackboneDescription(found.path.name, (weights,), "", found.parameters, layers)


def _weights_of(name: str) -> tuple[WeightsInfo, ...]:
    if name == registry.NAME:
        file = registry.weights_file()
        size = file.stat().st_size / 2**20
        return (WeightsInfo(registry.WEIGHTS, "", file, True, size, registry.CLASSES, True, registry.PREPROCESSING),)
    default = known.default_enum(name)
    return tuple(
        WeightsInfo(
            name=enum.name,
            url=enum.url,
            file=known.checkpoint_file(enum.url),
            at_hand=known.checkpoint_file(enum.url).is_file(),
            megabytes=float(enum.meta["_file_size"]),
            classes=len(enum.meta.get("categories") or ()),
            recommended=enum is default,
            preprocessing=known.preprocessing_of(name, enum.name),
        )
        for enum in known.enums(name).values()
    )
