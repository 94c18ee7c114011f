"""How is a pretrained network opened, described and loaded?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arguments import check_arguments
from pipeline.backbone import bundled, onnx_backbone, registry
from pipeline.backbone import weights as weight_files
from pipeline.errors import BackboneError, nearest
from pipeline.provenance import Preprocessing

if TYPE_CHECKING:
    from torch import fx, nn

    from pipeline.backbone.layers import Anatomy, Node

OWN = "own"  # the name of the weights in an ONNX file; recorded in caches and models
NAMED_LAYERS = ("early", "middle", "late", "penultimate")


@dataclass(frozen=True)
class Backbone:
    """A pretrained network: its name, its preprocessing and the place of its weights, without the tensors.

    The value is small: it is pickled into workers, which load the network from it. Open one with `Backbone.open`.

    Attributes
    ----------
    name : str
        Its catalogue name, such as ``resnet50``, or the name of an ONNX file, such as ``mine.onnx``.
    weights : str
        ``bundled``, a torchvision enum name, ``FILE@ENUM`` or ``random``; ``own`` in an ONNX file.
    weights_sha256 : str
        SHA-256 of the weights file; for random weights, of the tensors.
    preprocessing : Preprocessing
        How a photo becomes the network's input; it belongs to the weights.
    architecture : mapping
        Arguments that change the network but not its weights, such as ``transform_input``; for an ONNX file, its
        layers with their widths.
    classes : int
        Number of outputs of the final layer; 0 for an ONNX file, which may have no final layer.
    file : Path or None
        The file of the tensors; None for random weights.
    random_state : int or None
        Seed of random weights; None for all others.

    Examples
    --------
    >>> import pipeline as pl
    >>> backbone = pl.Backbone.open("efficientnet_lite0")
    >>> backbone.resolve_layers(["middle", "penultimate"])
    {'middle': 480, 'penultimate': 1280}
    """

    name: str
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing
    architecture: Mapping[str, Any] = field(hash=False)
    classes: int
    file: Path | None = field(compare=False)
    random_state: int | None = None
    # SHA-256 that the file must have when a worker reads it; empty if the caller has checked the file.
    file_sha256: str = field(default="", repr=False, compare=False)

    @classmethod
    @check_arguments
    def open(cls, spec: str | Backbone = registry.NAME, *, random_state: int = 0) -> Backbone:
        """Open the backbone of ``NAME[:WEIGHTS]``; the default backbone opens without importing torch.

        Parameters
        ----------
        spec : str
            A catalogue name; after a colon a torchvision enum name, a weights file (``FILE`` or ``FILE@ENUM``), or
            ``random``. Or an ONNX file that `save_backbone` wrote. An opened `Backbone` is returned unchanged.
        random_state : int
            Seed of random weights; no effect on others.

        Raises
        ------
        BackboneError
            The name is unknown, or the weights are not available or do not fit the network.
        """
        if isinstance(spec, Backbone):
            return spec
        if onnx_backbone.is_graph_file(spec):
            file = Path(spec).expanduser().resolve()
            return cls._of_graph(onnx_backbone.read_graph_file(file), file.name)
        name, _, weights = spec.partition(":")
        registry.check_name(name)
        found = weight_files.find_weights(name, weights)
        preprocessing, classes = registry.preprocessing_of(name, found.named), registry.classes_of(name, found.named)
        if found.file is None:
            architecture = registry.architecture_of(name, None)
            network = weight_files.random_network(
                name, classes=classes, architecture=architecture, random_state=random_state
            )
            digest = weight_files.tensors_sha256(network.state_dict())
            return cls(name, found.label, digest, preprocessing, architecture, classes, None, random_state)
        architecture = registry.architecture_of(name, found.named)
        if "@" in found.label:  # the user's file: checked now, unlike files with a published hash
            state = weight_files.rename_tensors(name, weight_files.read_tensors(found.file, found.sha256))
            classes = weight_files.number_of_classes(name, state, str(found.file))
            weight_files.network_of(name, state, classes=classes, architecture=architecture, origin=str(found.file))
        return cls(
            name,
            found.label,
            found.sha256,
            preprocessing,
            architecture,
            classes,
            found.file,
            file_sha256=found.sha256,
        )

    @classmethod
    def _of_graph(cls, found: onnx_backbone.GraphFile, name: str) -> Backbone:
        architecture = {"layers": dict(found.layers)}
        return cls(
            name,
            OWN,
            found.sha256,
            found.preprocessing,
            architecture,
            classes=0,
            file=found.path,
            file_sha256=found.sha256,
        )

    @property
    def is_graph(self) -> bool:
        """Whether it is the user's network in an ONNX file: it runs on the CPU in fp32, without torch."""
        return onnx_backbone.is_graph_file(self.name)

    def read_graph(self) -> bytes:
        """Read the ONNX file; its bytes are those that the backbone was opened with.

        Raises
        ------
        BackboneError
            The file is gone or has changed.
        """
        assert self.file is not None
        return onnx_backbone.read_bytes(self.file, self.file_sha256)

    def resolve_layers(self, layers: Sequence[str]) -> dict[str, int]:
        """Return ``{layer: width}`` for layers by name; ``all`` is early, middle, late and penultimate.

        No weights are read; torch is not imported for the four names of the bundled backbone.

        Parameters
        ----------
        layers : sequence of str
            Any of the four names, torchvision's node names, or a module's name (its last node).

        Raises
        ------
        BackboneError
            There is no such layer; the message lists the nearest names.
        """
        return {name: width for name, (_, width) in self._nodes(layers).items()}

    def layer_nodes(self, layers: Sequence[str]) -> dict[str, str]:
        """Return ``{layer: node}``, the node of the network that each layer reads; otherwise as `resolve_layers`."""
        return {name: node for name, (node, _) in self._nodes(layers).items()}

    def node(self, layer: str) -> Node:
        """Return the node of the network that a layer reads, and how its output becomes a vector.

        Parameters
        ----------
        layer : str
            As for `resolve_layers`, except ``all``.
        """
        return self._anatomy().node(layer)

    def load(self, layers: Sequence[str]) -> fx.GraphModule:
        """Load the network up to the deepest of these layers, in evaluation mode, without gradients.

        Loading traces the network, and no other thread may trace or run one meanwhile: load before starting threads.

        Parameters
        ----------
        layers : sequence of str
            As for `resolve_layers`.

        Returns
        -------
        fx.GraphModule
            Maps a normalised float32 batch (b, 3, crop, crop) to ``{layer: (b, width)}``; maps and tokens are
            averaged over their positions.
        """
        from pipeline.backbone.layers import extractor

        names = list(self.resolve_layers(layers))
        return extractor(self.load_network(), names, self._anatomy())

    def load_network(self) -> nn.Module:
        """Load the whole network with its final layer, on the CPU, in evaluation mode, without gradients.

        Raises
        ------
        BackboneError
            The weights file is gone, has changed since the backbone was opened, or does not fit.
        """
        if self.is_graph:
            raise self._no_torch("a torch network")
        if self.file is None:
            return weight_files.random_network(
                self.name,
                classes=self.classes,
                architecture=self.architecture,
                random_state=self.random_state or 0,
            )
        if not self.file.is_file():
            raise BackboneError(
                f"backbone {self.name!r}: expected its weights at {self.file}, but there is no such file",
                f"put the file back, or --backbone {registry.NAME}",
            )
        state = weight_files.rename_tensors(self.name, weight_files.read_tensors(self.file, self.file_sha256))
        return weight_files.network_of(
            self.name, state, classes=self.classes, architecture=self.architecture, origin=str(self.file)
        )

    def final_layer(self) -> str:
        """Return the qualified name of the final layer's module, without reading weights."""
        if self.is_graph:
            raise self._no_torch("a final layer")
        return registry.final_layer_of(self.name)

    def categories(self) -> list[str] | None:
        """Return the class names of the final layer for ImageNet weights, otherwise None."""
        from torchvision import models

        if self.is_graph:
            return None
        if self.weights == registry.WEIGHTS:
            return list(models.ResNet18_Weights.DEFAULT.meta["categories"])
        enum = registry.enums(self.name).get(self.weights)
        return list(enum.meta["categories"]) if enum is not None else None

    @property
    def own_file(self) -> Path | None:
        """The user's weights file; None for weights that are found by their name."""
        return self.file if self.is_graph or "@" in self.weights else None

    def record(self) -> dict[str, Any]:
        """Return everything that `from_record` needs besides the weights file, as plain JSON values."""
        preprocessing = asdict(self.preprocessing)
        return {
            "name": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "preprocessing": {**preprocessing, "mean": list(preprocessing["mean"]), "std": list(preprocessing["std"])},
            "architecture": dict(self.architecture),
            "classes": self.classes,
            "random_state": self.random_state,
        }

    def save_weights(self, path: str | Path) -> None:
        """Write the network's tensors to a safetensors file under this package's names; an ONNX file is copied."""
        if self.is_graph:
            Path(path).write_bytes(self.read_graph())
            return
        if self.name == registry.NAME and self.file is not None:
            tensors = bundled.read_bundled_tensors(self.file, self.file_sha256)
            if tensors is not None:
                bundled.write_tensors(tensors, path)
                return
        import safetensors.torch

        state = {name: tensor.contiguous() for name, tensor in self.load_network().state_dict().items()}
        safetensors.torch.save_file(state, path)

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], weights_file: str | Path | None = None, *, file_sha256: str = ""
    ) -> Backbone:
        """Return the backbone of a record, with its tensors in a file that `save_weights` wrote.

        `weights_sha256` remains that of the weights from which the file was saved.

        Parameters
        ----------
        record : mapping
            The value of `record`.
        weights_file : path or None
            None to find the weights by their name; weights with another hash are an error.
        file_sha256 : str
            SHA-256 of the file, checked when the tensors are loaded.

        Raises
        ------
        BackboneError
            The record is incomplete or names an unknown architecture, or the weights have another hash.
        """
        try:
            name, weights, digest = str(record["name"]), str(record["weights"]), str(record["weights_sha256"])
            preprocessing = onnx_backbone.preprocessing_from(record["preprocessing"])
            architecture, classes = dict(record["architecture"]), int(record["classes"])
            random_state = None if record["random_state"] is None else int(record["random_state"])
        except (KeyError, TypeError, ValueError) as error:
            raise BackboneError(
                f"expected a backbone's record, got a damaged one ({type(error).__name__}: {error})",
                "fit the model again",
            ) from error
        if onnx_backbone.is_graph_file(name):
            return cls._of_stored_graph(name, digest, weights_file)
        registry.check_name(name)
        allowed = registry.architecture_of(name, None)
        if architecture.keys() != allowed.keys():
            raise BackboneError(
                f"backbone {name!r}: expected the architecture arguments {sorted(allowed)}, got {sorted(architecture)}",
                "fit the model again with this version",
            )
        if weights_file is not None:
            file = Path(weights_file)
            return cls(
                name, weights, digest, preprocessing, architecture, classes, file, random_state, file_sha256=file_sha256
            )
        if "@" in weights:
            raise _not_stored(name, f"the weights file {weights.rpartition('@')[0]!r}", digest)
        found = cls.open(f"{name}:{weights}", random_state=random_state or 0)
        if found.weights_sha256 != digest:
            raise BackboneError(
                f"backbone {name!r}: expected the weights {weights} with SHA-256 {digest[:12]}..., "
                f"got {found.weights_sha256[:12]}...",
                "get the model with its weights: pipeline fit without --no-weights",
            )
        return found

    @classmethod
    def _of_stored_graph(cls, name: str, digest: str, file: str | Path | None) -> Backbone:
        if file is None:
            raise _not_stored(name, "the ONNX file", digest)
        found = onnx_backbone.read_graph_file(Path(file))  # layers are read from the file, not from the record
        if found.sha256 != digest:
            raise BackboneError(
                f"backbone {name!r}: expected the ONNX file with SHA-256 {digest[:12]}..., "
                f"got {found.sha256[:12]}... in {file}",
                "put the original file back",
            )
        return cls._of_graph(found, name)

    def _nodes(self, layers: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return ``{layer: (node, width)}``."""
        requested = [layers] if isinstance(layers, str) else list(layers)
        names = [name for layer in requested for name in (NAMED_LAYERS if layer == "all" else (layer,))]
        if not names:
            raise BackboneError("expected at least one layer, got none", "--layer penultimate")
        if self.is_graph:
            return self._outputs(requested)
        if self.name == registry.NAME and all(name in registry.LAYERS for name in names):
            return {name: registry.LAYERS[name] for name in names}
        anatomy = self._anatomy()
        return {name: (anatomy.node(name).name, anatomy.node(name).width) for name in names}

    def _outputs(self, layers: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return the outputs of an ONNX file for layers by name; ``all`` is every output."""
        widths = self.architecture["layers"]
        names = [name for layer in layers for name in (widths if layer == "all" else (layer,))]
        unknown = [name for name in names if name not in widths]
        if unknown:
            raise BackboneError(
                f"backbone {self.name!r} has no layer {unknown[0]!r}; {nearest(unknown[0], widths)}",
                f"--layer {next(iter(widths))}, or save it with more layers: see help(pl.save_backbone)",
            )
        return {name: (name, widths[name]) for name in names}

    def _no_torch(self, expected: str) -> BackboneError:
        return BackboneError(
            f"backbone {self.name!r}: expected {expected}, got an ONNX file, which has none",
            f"use a network of the catalogue, such as --backbone {registry.NAME}",
        )

    def _anatomy(self) -> Anatomy:
        if self.is_graph:
            raise self._no_torch("its layers in torch")
        return registry.anatomy_of(
            self.name, classes=self.classes, architecture=self.architecture, crop=self.preprocessing.crop
        )


def _not_stored(name: str, what: str, digest: str) -> BackboneError:
    return BackboneError(
        f"backbone {name!r}: expected {what} (SHA-256 {digest[:12]}...), which was not stored",
        "get the model with its weights: pipeline fit without --no-weights",
    )
