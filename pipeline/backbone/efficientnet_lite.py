"""How is the default backbone, EfficientNet-Lite0, built from torchvision's blocks?

It is EfficientNet-B0 made for small devices: no squeeze-and-excitation, ReLU6 for swish, stem and head not scaled
(Tan and Le, "EfficientNet", ICML 2019; `tensorflow/tpu`, `models/official/efficientnet/lite`). The weights were
trained in TensorFlow, so two things follow TensorFlow: batch normalisation's epsilon is 1e-3, and padding is "same".

"Same" padding gives an output of ``ceil(size / stride)``. For an even input it adds ``kernel - stride`` zeros, the
smaller half before and the larger half after. At stride 1 the halves are equal, and the convolution itself can pad; at
stride 2 they are not, and a `ZeroPad2d` comes first. Every stride-2 convolution of this network gets an even size (224,
112, 56, 28, 14), so the padding is static: the network can be traced and exported without a size in its graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

STEM, HEAD, DROPOUT = 32, 1280, 0.2


class Stage(NamedTuple):
    """One row of the paper's Table 1: blocks of one width; only the first block has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def same_padding(kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Return TensorFlow's "same" padding (left, right, top, bottom) for an input of even size."""
    total = max(kernel - stride, 0)
    before, after = total // 2, total - total // 2
    return before, after, before, after


def convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1, activate: bool = True
) -> Conv2dNormActivation:
    """Return convolution, batch normalisation and optionally ReLU6; at stride 2 the input must be padded already."""
    return Conv2dNormActivation(
        channels_in,
        channels_out,
        kernel_size=kernel,
        stride=stride,
        padding=(kernel - 1) // 2 if stride == 1 else 0,
        groups=groups,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        activation_layer=nn.ReLU6 if activate else None,
    )


class InvertedResidual(nn.Module):
    """Expand, filter each channel separately, project; add the input if the shapes are equal."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = convolution(channels_in, wide, 1) if expansion != 1 else None
        self.pad = nn.ZeroPad2d(same_padding(kernel, stride)) if stride != 1 else None
        self.depthwise = convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.project = convolution(wide, channels_out, 1, activate=False)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, h, w) to (n, channels_out, ceil(h / stride), ceil(w / stride))."""
        y = x if self.expand is None else self.expand(x)
        y = y if self.pad is None else self.pad(y)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for square inputs whose side is a multiple of 32.

    Parameters
    ----------
    num_classes : int
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(same_padding(3, 2))
        self.stem = convolution(3, STEM, 3, stride=2)
        blocks, channels = [], STEM
        for stage in STAGES:
            for repeat in range(stage.repeats):
                blocks.append(
                    InvertedResidual(
                        channels,
                        stage.channels,
                        kernel=stage.kernel,
                        stride=stage.stride if repeat == 0 else 1,
                        expansion=stage.expansion,
                    )
                )
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = convolution(channels, HEAD, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(HEAD, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Fan-in keeps the variance in depthwise convolutions, unlike torchvision's fan-out, so that the
                # features of a network with random weights do not overflow.
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, 224, 224) to logits (n, num_classes)."""
        x = self.head(self.blocks(self.stem(self.pad(x))))  # (n, 1280, 7, 7)
        x = self.avgpool(x).flatten(1)  # (n, 1280, 1, 1) -> (n, 1280)
        return self.classifier(self.dropout(x))


_PACKAGE_NAMES = (
    (r"^_conv_stem\.", "stem.0."),
    (r"^_bn0\.", "stem.1."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.0."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.1."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.0."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.1."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.0."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.1."),
    (r"^_conv_head\.", "head.0."),
    (r"^_bn1\.", "head.1."),
    (r"^_fc\.", "classifier."),
)


def from_package_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state dict of the weights package under the names of this module; such names are kept."""
    return {_rename(name): tensor for name, tensor in state.items()}


def _rename(name: str) -> str:
    for pattern, replacement in _PACKAGE_NAMES:
        renamed, found = re.subn(pattern, replacement, name)
        if found:
            return renamed
    return name
