"""Which weights and layers does a backbone have, and are its weights on this machine?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.backbone import registry
from pipeline.backbone.onnx_backbone import is_graph_file, read_graph_file
from pipeline.provenance import Preprocessing


@dataclass(frozen=True)
class WeightsInfo:
    """One choice of weights for a backbone.

    Attributes
    ----------
    name : str
        The part of ``NAME:WEIGHTS`` after the colon.
    url : str
        The address of the file; empty for the bundled weights.
    file : Path
        The path of the file on this machine, also if it is not downloaded yet.
    at_hand : bool
        Whether the file exists.
    megabytes : float
        Size of the file, in MiB.
    classes : int
        Number of classes; 0 for weights without a classifier, which cannot be used.
    recommended : bool
        Whether the backbone's name without weights means these.
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
    """A backbone in the list of all backbones."""

    name: str
    weights: tuple[WeightsInfo, ...]

    @property
    def at_hand(self) -> bool:
        """Whether the recommended weights are on this machine."""
        return any(weights.at_hand and weights.recommended for weights in self.weights)


@dataclass(frozen=True)
class LayerInfo:
    """A layer whose output can be used as features.

    Attributes
    ----------
    name : str
        The node's name.
    shape : tuple of int
        Its output for one photo: (c, h, w), (h, w, c), (t, c) or (c,).
    width : int
        Length of the feature vector.
    depth : float
        Share of the layers with weights up to this one.
    called : tuple of str
        Those of the names early, middle, late and penultimate that mean this layer.
    """

    name: str
    shape: tuple[int, ...]
    width: int
    depth: float
    called: tuple[str, ...]


@dataclass(frozen=True)
class BackboneDescription:
    """A backbone with its recommended weights; for an ONNX file, `final_layer` is empty."""

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
    """Return backbones, by default all, with their weights and which are on this machine, without downloading."""
    return [BackboneSummary(name, _weights_of(name)) for name in (registry.catalogue() if names is None else names)]


def describe(name: str) -> BackboneDescription:
    """Return a backbone's weights and layers with their sizes, without downloading or reading torchvision's weights.

    Raises
    ------
    BackboneError
        There is no such backbone; the message lists the nearest names.
    """
    if is_graph_file(name):
        return _of_graph(Path(name))
    registry.check_name(name)
    weights = _weights_of(name)
    recommended = next(choice for choice in weights if choice.recommended)
    architecture = registry.architecture_of(name, recommended.name)
    classes = recommended.classes
    anatomy = registry.anatomy_of(name, classes=classes, architecture=architecture, crop=recommended.preprocessing.crop)
    network = registry.build_on_meta(name, classes=classes, architecture=architecture)
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
    return BackboneDescription(name, weights, registry.final_layer_of(name), parameters, layers)


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
    default = registry.default_enum(name)
    return tuple(
        WeightsInfo(
            name=enum.name,
            url=enum.url,
            file=registry.checkpoint_file(enum.url),
            at_hand=registry.checkpoint_file(enum.url).is_file(),
            megabytes=float(enum.meta["_file_size"]),
            classes=len(enum.meta.get("categories") or ()),
            recommended=enum is default,
            preprocessing=registry.preprocessing_of(name, enum.name),
        )
        for enum in registry.enums(name).values()
    )
