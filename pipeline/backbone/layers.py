"""Which layers of a network can be used as features, and how are they extracted?

A network is traced once (`torch.fx`, evaluation mode); its nodes have torchvision's names
(`torchvision.models.feature_extraction`). Four names are defined for every backbone:

- ``penultimate`` is the input of the final layer.
- ``early``, ``middle`` and ``late`` are the last cut points within the first quarter, half and three quarters of the
  network. A cut point is a node on every path from the image to the final layer whose output is a feature map or a
  sequence of tokens. Depth is counted in layers with weights (convolutions, linear layers) that have run.

Feature maps and tokens become vectors by their mean over positions.
"""

from __future__ import annotations

import inspect
import math
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torchvision
from torch import fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from pipeline.errors import BackboneError, nearest

QUARTERS = {"early": 0.25, "middle": 0.5, "late": 0.75}

_BATCH = 5  # a batch size that no channel count, token count or window count of a network is likely to equal
# Tracing patches `nn.Module.__call__` for the whole process, so two threads must not trace at once.
_TRACING = threading.Lock()


@dataclass(frozen=True)
class Node:
    """A node of the network whose output can be used as one vector per photo.

    Attributes
    ----------
    name : str
        torchvision's node name.
    shape : tuple of int
        Output shape of one photo: (c, h, w), (h, w, c), (t, c) or (c,).
    pooled : tuple of int
        Axes of the batch's output that are averaged away.
    width : int
        Length of the vector.
    depth : float
        Share of the layers with weights that have run after this node.
    cut : bool
        Whether every path from the image to the final layer runs through it.
    """

    name: str
    shape: tuple[int, ...]
    pooled: tuple[int, ...]
    width: int
    depth: float
    cut: bool


@dataclass(frozen=True)
class Anatomy:
    """The usable nodes of a network, in order of execution, and its four named layers."""

    backbone: str
    nodes: tuple[Node, ...]
    named: dict[str, Node]
    _by_name: dict[str, Node] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {node.name: node for node in self.nodes})

    def node(self, layer: str) -> Node:
        """Return the node of a layer: one of the four names, a node's exact name, or a module's (its last node).

        Raises
        ------
        BackboneError
            There is no such layer; the message lists the nearest names.
        """
        if layer in self.named:
            return self.named[layer]
        if layer in self._by_name:
            return self._by_name[layer]
        inside = [node for node in self.nodes if node.name.startswith(f"{layer}.")]
        if inside and layer:
            return inside[-1]
        names = [*self.named, *self._by_name]
        raise BackboneError(
            f"backbone {self.backbone!r} has no layer {layer!r}; {nearest(layer, names)}",
            f"pipeline backbones {self.backbone}",
        )


def trace(network: nn.Module, backbone: str) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Return the network's graph in evaluation mode, and torchvision's name of each node.

    Raises
    ------
    BackboneError
        The network cannot be traced.
    """
    leaves = [kind for _, kind in inspect.getmembers(torchvision.ops, inspect.isclass) if issubclass(kind, nn.Module)]
    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops), leaf_modules=leaves)
    with _TRACING:
        try:
            graph = tracer.trace(network.eval())
        except Exception as error:  # tracing runs the network's code, which may raise anything
            raise BackboneError(
                f"backbone {backbone!r}: its layers cannot be read, torch.fx cannot trace it ({error})",
                "pipeline backbones",
            ) from error
    return graph, dict(tracer.node_to_qualname)


def anatomy(network: nn.Module, *, backbone: str, crop: int, final_layer: str) -> Anatomy:
    """Return the usable nodes and named layers of a network; on the meta device this costs no arithmetic.

    Parameters
    ----------
    network : nn.Module
        On the meta device, or on the CPU.
    backbone : str
        Its name, for errors.
    crop : int
        Side of the square input.
    final_layer : str
        Qualified name of the final layer's module.
    """
    graph, names = trace(network, backbone)
    shapes = _Shapes(fx.GraphModule(network, graph))
    device = next(network.parameters()).device
    with torch.no_grad():
        shapes.run(torch.empty(_BATCH, 3, crop, crop, device=device))
    final = next(node for node in graph.nodes if node.op == "call_module" and node.target == final_layer)
    ancestors = _upstream(final)
    from_image = _downstream(next(node for node in graph.nodes if node.op == "placeholder"), shapes.tensors)
    cuts = _cut_points(graph, final, ancestors & from_image)
    depth = _depths(graph, network, ancestors)
    penultimate = final.args[0]
    assert isinstance(penultimate, fx.Node)

    nodes = {}
    for node in graph.nodes:
        shape = shapes.tensors.get(node)
        if node not in ancestors or node not in from_image or node is final or not shape or node not in names:
            continue
        if shape[0] != _BATCH or len(shape) not in (2, 3, 4):
            continue  # windows of tokens, or one number per photo: there is no vector per photo
        pooled = _pooled_axes(shape)
        if pooled is None:
            continue
        width = next(size for axis, size in enumerate(shape) if axis and axis not in pooled)
        nodes[node] = Node(names[node], shape[1:], pooled, width, depth[node], node in cuts)
    return Anatomy(backbone, tuple(nodes.values()), named_layers(list(nodes.values()), nodes[penultimate]))


def named_layers(nodes: Sequence[Node], penultimate: Node) -> dict[str, Node]:
    """Return ``early``, ``middle``, ``late`` and ``penultimate`` by the rule at the top of this file."""
    candidates = [node for node in nodes if node.cut and node.pooled and node.depth > 0]
    named = {}
    for name, share in QUARTERS.items():
        within = [node for node in candidates if node.depth <= share]
        # A network too short to have a cut point within the share gives its first one.
        named[name] = within[-1] if within else next(iter(candidates), penultimate)
    return {**named, "penultimate": penultimate}


def extractor(network: nn.Module, layers: Sequence[str], plan: Anatomy) -> fx.GraphModule:
    """Return a network that computes ``{layer: (b, width)}`` in one pass and stops at the deepest of these layers.

    Each layer is pooled directly after its node, because later nodes of torchvision's networks overwrite some outputs
    in place.
    """
    graph, names = trace(network, plan.backbone)
    by_name = {name: node for node, name in names.items()}
    for step in reversed(graph.nodes):
        # Assertions on the input's size count as side effects, and would keep layers that are not needed.
        if step.op == "output" or step.target is torch._assert:
            graph.erase_node(step)
    pooled: dict[str, fx.Node] = {}
    outputs = {}
    for layer in layers:
        node = plan.node(layer)
        if node.name not in pooled:
            source = by_name[node.name]
            with graph.inserting_after(source):
                if node.pooled:
                    pooled[node.name] = graph.call_function(torch.mean, (source,), {"dim": node.pooled})
                else:
                    pooled[node.name] = graph.call_function(torch.clone, (source,))
        outputs[layer] = pooled[node.name]
    graph.output(outputs)
    module = fx.GraphModule(network, graph, class_name=f"{type(network).__name__}Layers")
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module.eval().requires_grad_(False)


class _Shapes(fx.Interpreter):
    """Run a graph and keep the shape of every tensor in it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.tensors: dict[fx.Node, tuple[int, ...]] = {}  # () for lists of tensors

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.tensors[n] = tuple(result.shape)
        elif isinstance(result, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in result):
            self.tensors[n] = ()
        return result


def _upstream(final: fx.Node) -> set[fx.Node]:
    """Return the nodes that the final layer's output depends on, itself included."""
    seen, stack = {final}, [final]
    while stack:
        for node in stack.pop().all_input_nodes:
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return seen


def _downstream(image: fx.Node, tensors: dict[fx.Node, tuple[int, ...]]) -> set[fx.Node]:
    """Return the nodes that depend on the image through tensors, not only through its size."""
    seen, stack = {image}, [image]
    while stack:
        for node in stack.pop().users:
            if node not in seen and node in tensors:
                seen.add(node)
                stack.append(node)
    return seen


def _cut_points(graph: fx.Graph, final: fx.Node, path: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes of `path` that no edge within it bypasses."""
    order = [node for node in graph.nodes if node in path]
    position = {node: i for i, node in enumerate(order)}
    cuts, furthest = set(), 0
    for node in order:
        if furthest <= position[node]:
            cuts.add(node)
        furthest = max([furthest, *(position[user] for user in node.users if user in path)])
    return cuts


def _depths(graph: fx.Graph, network: nn.Module, ancestors: set[fx.Node]) -> dict[fx.Node, float]:
    """Return for each node the share of the layers with weights that have run after it."""
    weighted = {name for name, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    done: set[str] = set()
    counts = {}
    for node in graph.nodes:
        if node not in ancestors:
            continue
        done.update(_weights_of(node, weighted))
        counts[node] = len(done)
    return {node: count / len(done) for node, count in counts.items()}


def _weights_of(node: fx.Node, weighted: set[str]) -> Iterable[str]:
    """Return the layers with weights that run in this node: those of its module, or those whose weight it takes."""
    if node.op == "call_module":
        target = str(node.target)
        return {name for name in weighted if name == target or name.startswith(f"{target}.")}
    if node.op == "call_function":
        targets = (str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
        return {name for name in (re.sub(r"\.weight$", "", target) for target in targets) if name in weighted}
    return ()


def _pooled_axes(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the axes of positions: of a map two adjacent axes of equal size, preferably the last; of tokens the first.

    None for four axes without equal neighbours, which are windows of tokens.
    """
    if len(shape) == 4:
        return (2, 3) if shape[2] == shape[3] else (1, 2) if shape[1] == shape[2] else None
    return (1,) if len(shape) == 3 else ()


# A prime number that is not the width of any layer of these networks, so that only the final layer has this size.
UNMISTAKABLE_CLASSES = 997
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # GoogLeNet's and Inception v3's side branches, used in training only


def find_final_layer(network: nn.Module, num_classes: int, *, backbone: str = "") -> str:
    """Return the qualified name of the only Linear or Conv2d with `num_classes` outputs, without auxiliary branches.

    The final layer applied to the penultimate embedding gives the network's logits for every torchvision family except
    SqueezeNet, where the final layer is a convolution, followed by ReLU and only then by the mean over positions.

    Raises
    ------
    BackboneError
        No layer, or more than one, has that many outputs.
    """
    found = [
        name
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == num_classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == num_classes)
    ]
    found = [name for name in found if not name.startswith(AUXILIARY)]
    if len(found) != 1:
        got = f"{len(found)}: {', '.join(found)}" if found else "none"
        raise BackboneError(
            f"backbone {backbone or type(network).__name__!r}: expected one Linear or Conv2d with {num_classes} "
            f"outputs as its final layer, got {got}",
            "pipeline backbones",
        )
    return found[0]
