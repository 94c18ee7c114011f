"""`Backbone`: one pretrained network as a value, and the torch modules made of it on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arguments import check_arguments
from pipeline.backbone import onnx_backbone, registry
from pipeline.backbone import registry as known
from pipeline.backbone import weights as stored
from pipeline.errors import BackboneError, nearest
from pipeline.provenance import Preprocessing

if TYPE_CHECKING:
    from torch import fx, nn

    from pipeline.backbone.layers import Anatomy, Node

OWN = "own"  # the name of the weights in an ONNX file
NAMED_LAYERS = ("early", "middle", "late", "penultimate")


@dataclass(frozen=True)
class Backbone:
    """A pretrained network: what it is and where its weights are, never the tensors themselves.

    A small value: it pickles into a worker, which loads the network from it. Open one with `Backbone.open`.

    Attributes
    ----------
    name : str
        Its catalogue name, such as ``resnet50``, or that of an ONNX file, such as ``mine.onnx``.
    weights : str
        ``bundled``, a torchvision enum name, ``FILE@ENUM`` or ``random``; ``own`` in an ONNX file.
    weights_sha256 : str
        Digest of the weights file's bytes; of the tensors for random weights.
    preprocessing : Preprocessing
        What a photo goes through before it; it belongs to the weights.
    architecture : mapping
        Arguments that change the network but not its weights, such as ``transform_input``; of an ONNX file its layers
        with their widths.
    classes : int
        Number of outputs of the final layer; 0 for an ONNX file, which may have none.
    file : Path or None
        Where the tensors are; None for random weights.
    random_state : int or None
        Seed of random weights; None for all others.
    """

    name: str
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing
    architecture: Mapping[str, Any] = field(hash=False)
    classes: int
    file: Path | None = field(compare=False)
    random_state: int | None = None
    # What the file must still be when a worker reads it; empty where whoever opened the backbone vouches for it.
    file_sha256: str = field(default="", repr=False, compare=False)

    @classmethod
    @check_arguments
    def open(cls, spec: str | Backbone = registry.NAME, *, random_state: int = 0) -> Backbone:
        """Return the backbone of ``NAME[:WEIGHTS]``; the default one without importing torch.

        Parameters
        ----------
        spec : str
            A catalogue name; after a colon a torchvision enum name, a weights file (``FILE`` or ``FILE@ENUM``), or
            ``random``. Or an ONNX file that `save_backbone` wrote. An opened `Backbone` is returned as it is.
        random_state : int
            Seed of random weights; without effect on all others.

        Raises
        ------
        BackboneError
            If the name is not known, or the weights cannot be had or do not fit.
        """
        if isinstance(spec, Backbone):
            return spec
        if onnx_backbone.is_graph_file(spec):
            file = Path(spec).expanduser().resolve()
            return cls._of_graph(onnx_backbone.read_graph_file(file), file.name)
        name, _, wanted = spec.partition(":")
        known.check_name(name)
        found = stored.find_weights(name, wanted)
        preprocessing, classes = known.preprocessing_of(name, found.named), known.classes_of(name, found.named)
        if found.file is None:
            architecture = known.architecture_of(name, None)
            network = stored.random_network(name, classes=classes, architecture=architecture, random_state=random_state)
            digest = stored.tensors_sha256(network.state_dict())
            return cls(name, found.label, digest, preprocessing, architecture, classes, None, random_state)
        architecture = known.architecture_of(name, found.named)
        if "@" in found.label:  # torchvision's own files and the bundled one are vouched for by their hash
            state = stored.in_our_names(name, stored.read_tensors(found.file, found.sha256))
            classes = stored.number_of_classes(name, state, str(found.file))
            stored.network_of(name, state, classes=classes, architecture=architecture, origin=str(found.file))
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
        """Whether it is a network of a person's own in an ONNX file: on the CPU, in fp32, and nothing of torch."""
        return onnx_backbone.is_graph_file(self.name)

    def read_graph(self) -> bytes:
        """Return the ONNX file's bytes, the very ones that it was opened with.

        Raises
        ------
        BackboneError
            If the file is gone or another one.
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
            If there is no such layer; it lists the nearest names.
        """
        return {name: width for name, (_, width) in self._nodes(layers).items()}

    def layer_nodes(self, layers: Sequence[str]) -> dict[str, str]:
        """Return ``{layer: node}``, the step of the network that each layer reads; all else as for `resolve_layers`."""
        return {name: node for name, (node, _) in self._nodes(layers).items()}

    def node(self, layer: str) -> Node:
        """Return the step of the network that a layer reads, and how its output becomes a vector.

        Parameters
        ----------
        layer : str
            As for `resolve_layers`, but ``all``.
        """
        return self._anatomy().node(layer)

    def load(self, layers: Sequence[str]) -> fx.GraphModule:
        """Return the network cut off after the deepest of these layers, in evaluation mode, without gradients.

        Loading traces the network, which no other thread may do or use meanwhile: load first, then start threads.

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
        """Return the whole network with its final layer, on the CPU, in evaluation mode, without gradients.

        Raises
        ------
        BackboneError
            If the weights file is gone, has changed since the backbone was opened, or does not fit.
        """
        if self.is_graph:
            raise self._no_torch("a torch network")
        if self.file is None:
            return stored.random_network(
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
        state = stored.in_our_names(self.name, stored.read_tensors(self.file, self.file_sha256))
        return stored.network_of(
            self.name, state, classes=self.classes, architecture=self.architecture, origin=str(self.file)
        )

    def final_layer(self) -> str:
        """Return the qualified name of the final layer's module; no weights are read."""
        if self.is_graph:
            raise self._no_torch("a final layer")
        return known.final_layer_of(self.name)

    def categories(self) -> list[str] | None:
        """Return the names of the final layer's classes, where they are known: for ImageNet's weights."""
        from torchvision import models

        if self.is_graph:
            return None
        if self.weights == registry.WEIGHTS:
            return list(models.ResNet18_Weights.DEFAULT.meta["categories"])
        enum = known.enums(self.name).get(self.weights)
        return list(enum.meta["categories"]) if enum is not None else None

    @property
    def own_file(self) -> Path | None:
        """Where a person's own weights are, which no name leads to; None for those that are found by name."""
        return self.file if self.is_graph or "@" in self.weights else None

    def record(self) -> dict[str, Any]:
        """Return what `from_record` needs beside the weights' file, as plain JSON values."""
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
        """Write the network's tensors to a safetensors file, in the names that this package uses; ONNX as it is."""
        if self.is_graph:
            Path(path).write_bytes(self.read_graph())
            return
        import safetensors.torch

        state = {name: tensor.contiguous() for name, tensor in self.load_network().state_dict().items()}
        safetensors.torch.save_file(state, path)

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], weights_file: str | Path | None = None, *, file_sha256: str = ""
    ) -> Backbone:
        """Return the backbone of a record, its tensors in a file that `save_weights` wrote.

        `weights_sha256` stays that of the weights that the file was made from.

        Parameters
        ----------
        record : mapping
            What `record` gave.
        weights_file : path or None
            None finds the weights again by their name, and refuses any others.
        file_sha256 : str
            Digest of the file's bytes; when the tensors are loaded, another file is refused.

        Raises
        ------
        BackboneError
            If the record lacks something or names an unknown architecture, or the weights found are others.
        """
        try:
            name, weights, digest = str(record["name"]), str(record["weights"]), str(record["weights_sha256"])
            preprocessing = onnx_backbone.preprocessing_from(record["preprocessing"])
            architecture, classes = dict(record["architecture"]), int(record["classes"])
            random_state = None if record["random_state"] is None else int(record["random_state"])
        except (KeyError, TypeError, ValueError) as error:
            raise BackboneError(
                f"expected a backbone's record, got one that is damaged ({type(error).__name__}: {error})",
                "fit the model again",
            ) from error
        if onnx_backbone.is_graph_file(name):
            return cls._of_stored_graph(name, digest, weights_file)
        known.check_name(name)
        allowed = known.architecture_of(name, None)
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
                "ask for the model with its weights: pipeline fit without --no-weights",
            )
        return found

    @classmethod
    def _of_stored_graph(cls, name: str, digest: str, file: str | Path | None) -> Backbone:
        if file is None:
            raise _not_stored(name, "the ONNX file", digest)
        found = onnx_backbone.read_graph_file(Path(file))  # the file's own word on its layers, not the record's
        if found.sha256 != digest:
            raise BackboneError(
                f"backbone {name!r}: expected the ONNX file with SHA-256 {digest[:12]}..., "
                f"got {found.sha256[:12]}... in {file}",
                "put the original file back",
            )
        return cls._of_graph(found, name)

    def _nodes(self, layers: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return ``{layer: (node, width)}``."""
        asked = [layers] if isinstance(layers, str) else list(layers)
        names = [name for layer in asked for name in (NAMED_LAYERS if layer == "all" else (layer,))]
        if not names:
            raise BackboneError("expected at least one layer, got none", "--layer penultimate")
        if self.is_graph:
            return self._outputs(asked)
        if self.name == registry.NAME and all(name in registry.LAYERS for name in names):
            return {name: registry.LAYERS[name] for name in names}
        anatomy = self._anatomy()
        return {name: (anatomy.node(name).name, anatomy.node(name).width) for name in names}

    def _outputs(self, asked: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return the outputs of an ONNX file for layers by name; ``all`` is all of them."""
        widths = self.architecture["layers"]
        names = [name for layer in asked for name in (widths if layer == "all" else (layer,))]
        unknown = [name for name in names if name not in widths]
        if unknown:
            raise BackboneError(
                f"backbone {self.name!r} has no layer {unknown[0]!r}; {nearest(unknown[0], widths)}",
                f"--layer {next(iter(widths))}, or save it with more layers: see help(pl.save_backbone)",
            )
        return {name: (name, widths[name]) for name in names}

    def _no_torch(self, wanted: str) -> BackboneError:
        return BackboneError(
            f"backbone {self.name!r}: expected {wanted}, got an ONNX file, which has none",
            f"use a network of the catalogue, such as --backbone {registry.NAME}",
        )

    def _anatomy(self) -> Anatomy:
        if self.is_graph:
            raise self._no_torch("its layers in torch")
        return known.anatomy_of(
            self.name, classes=self.classes, architecture=self.architecture, crop=self.preprocessing.crop
        )


def _not_stored(name: str, what: str, digest: str) -> BackboneError:
    return BackboneError(
        f"backbone {name!r}: expected {what} (SHA-256 {digest[:12]}...), which was not stored",
        "ask for the model with its weights: pipeline fit without --no-weights",
    )
