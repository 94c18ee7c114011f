"""The small network that is trained from scratch, and how its images are varied while it learns."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 128)
DROPOUT = 0.2
SCALE, TURN, SHIFT, LIGHT = 0.2, 10.0, 0.1, 0.3  # up to a fifth, ten degrees, a tenth of the side; spreads of pixels

_LARGE = 32  # sides above it are halved by the first layer already


class SmallNetwork(nn.Module):
    """Four convolutions of 3 x 3 with batch normalisation, a mean over positions, one linear layer: 240,000 weights.

    Parameters
    ----------
    side : int
        Of the images.
    classes : int
    """

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, stride in zip(WIDTHS, (2 if side > _LARGE else 1, 2, 2, 1), strict=True):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(before, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images, float32 (b, 3, side, side), to one number a class, (b, classes)."""
        return self.head(self.body(images).mean((2, 3)))  # (b, width, h, w) -> (b, width) -> (b, classes)


def normalize_images(pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 (b, side, side, 3) as float32 (b, 3, side, side), about -2 to 2."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def augment(images: torch.Tensor, generator: torch.Generator, *, flips: bool) -> torch.Tensor:
    """Return the images, each a little larger or smaller, turned, moved, in another light and, with flips, mirrored.

    Parameters
    ----------
    images : Tensor, float32 (b, 3, side, side)
    generator : Generator
        On the CPU: a GPU is to vary images as the CPU does.
    flips : bool
        Half of the images are mirrored; letters and digits suffer from it.
    """
    drawn = (torch.rand(len(images), 7, generator=generator) * 2 - 1).to(images.device)  # (b, 7), -1 to 1
    size, angle = 1 + SCALE * drawn[:, 0], math.radians(TURN) * drawn[:, 1]
    across = torch.sign(drawn[:, 2]) if flips else torch.ones_like(size)
    cos, sin = size * torch.cos(angle), size * torch.sin(angle)
    # In the coordinates of `affine_grid` the side is 2 long.
    rows = (
        torch.stack([across * cos, -sin, 2 * SHIFT * drawn[:, 3]], 1),
        torch.stack([across * sin, cos, 2 * SHIFT * drawn[:, 4]], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast, light = (LIGHT * drawn[:, number].view(-1, 1, 1, 1) for number in (5, 6))
    return moved * (1 + contrast) + light
