"""One rule finds the final layer of every backbone."""

from __future__ import annotations

from torch import nn

from pipeline.errors import BackboneError

# A prime that no layer inside any known network is as wide as, so that the rule has one answer.
UNMISTAKABLE_CLASSES = 997
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # GoogLeNet's and Inception v3's side branches, used in training only


def find_final_layer(network: nn.Module, num_classes: int, *, backbone: str = "") -> str:
    """Return the qualified name of the only Linear or Conv2d with `num_classes` outputs, auxiliary branches aside.

    The final layer applied to the penultimate embedding is the whole network's logits for every torchvision family
    but SqueezeNet: there the final layer is a convolution whose map goes through ReLU and only then through the mean.

    Raises
    ------
    BackboneError
        If no layer, or more than one, has that many outputs.
    """
    found = [
        name
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == num_classes)
        or (isinstance(module, nn.Conv2d) and module.out_channels == num_classes)
    ]
    found = [name for name in found if not name.startswith(AUXILIARY)]
    if len(found) != 1:
        what = f"found {len(found)}: {', '.join(found)}" if found else "found none"
        raise BackboneError(
            f"backbone {backbone or type(network).__name__!r}: wanted one Linear or Conv2d with {num_classes} "
            f"outputs as its final layer, {what}",
            "pipeline backbones",
        )
    return found[0]
