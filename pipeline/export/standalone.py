"""A trained model in plain torch and torchvision: this file reads the other files beside it.

    python model.py photo.jpg ...

In Python, with the folder on the path:

    from model import FromPixels, load, prepare

    network = load()              # nn.Module: normalised float32 (n, 3, crop, crop) to outputs (n, m)
    whole = FromPixels(network)   # nn.Module: uint8 (n, crop, crop, 3), as `prepare` makes them, to predictions

Needs torch, torchvision, safetensors and Pillow.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

HERE = Path(__file__).parent
RECORD, WEIGHTS, OWN_ARCHITECTURE = "model.json", "model.safetensors", "efficientnet_lite.py"
PHOTO_READER = "rgb.py"  # transparency, CMYK, palettes, 16 bits, EXIF orientation; and the resize


def read_record(folder: Path = HERE) -> dict[str, Any]:
    """Return `model.json`: class names, preprocessing, and how the network is built."""
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def load(folder: Path = HERE) -> nn.Module:
    """Return the network with its new final layer, in evaluation mode: float32 (n, 3, crop, crop) -> (n, m)."""
    network = build(read_record(folder)["network"], folder)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network.eval().requires_grad_(False)


def build(how: Mapping[str, Any], folder: Path = HERE) -> nn.Module:
    """Return the network without its weights."""
    if how["builder"] == "efficientnet_lite0":  # not in torchvision: its code is in the folder
        network = runpy.run_path(str(folder / OWN_ARCHITECTURE))["EfficientNetLite0"](**how["arguments"])
    else:
        network = models.get_model_builder(how["builder"])(weights=None, **how["arguments"])
    for name in how["bypassed"]:
        network.set_submodule(name, nn.Identity())
    if how["cut"] is not None:
        network = Cut(network.eval(), **how["cut"])
    return network


class Cut(nn.Module):
    """A network up to one layer, averaged over its positions, and a linear layer on that."""

    def __init__(self, network: nn.Module, node: str, pooled: Sequence[int], width: int, outputs: int) -> None:
        super().__init__()
        self.body = create_feature_extractor(network, [node])
        self.head = nn.Linear(width, outputs)
        self.node, self.pooled = node, tuple(pooled)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(images)[self.node]
        return self.head(features.mean(self.pooled) if self.pooled else features)  # (n, width) -> (n, outputs)


class FromPixels(nn.Module):
    """Images as uint8 (n, crop, crop, 3) to ``label``, ``tags`` or ``value``, and ``probabilities`` or ``scores``."""

    def __init__(self, network: nn.Module, record: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        record = read_record() if record is None else record
        preprocessing = record["preprocessing"]
        self.network, self.answer = network, str(record["network"]["answer"])
        self.grey_levels = 255.0 / preprocessing["value_range"]
        self.register_buffer("mean", torch.tensor(preprocessing["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(preprocessing["std"])[:, None, None])

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        images = pixels.permute(0, 3, 1, 2).to(torch.float32) / self.grey_levels  # (n, h, w, 3) -> (n, 3, h, w)
        return answers(self.network((images - self.mean) / self.std), self.answer)


def answers(outputs: torch.Tensor, answer: str) -> dict[str, torch.Tensor]:
    """Return predictions from the network's outputs, (n, m); `answer` is their kind in `model.json`."""
    if answer == "number":
        return {"value": outputs.squeeze(1)}
    if answer == "tags":
        return {"tags": (outputs > 0).long(), "probabilities": outputs.sigmoid()}
    if answer == "tag-scores":
        return {"tags": (outputs > 0).long(), "scores": outputs}
    if answer == "scores":
        return {"label": outputs.argmax(1), "scores": outputs}
    if answer == "one-vs-rest":
        each = outputs.sigmoid()
        return {"label": outputs.argmax(1), "probabilities": each / each.sum(1, keepdim=True)}
    if (
        answer == "nearest"
    ):  # the class by the distance to its centroid, the probabilities by that distance over the spread
        nearness, scored = outputs.chunk(2, dim=1)
        return {"label": nearness.argmax(1), "probabilities": scored.softmax(1)}
    return {"label": outputs.argmax(1), "probabilities": outputs.softmax(1)}


def prepare(photo: Image.Image, record: Mapping[str, Any] | None = None, folder: Path = HERE) -> np.ndarray:
    """Return a photo as network input: upright RGB, resized, cropped to the center; uint8 (crop, crop, 3).

    `photo` must be the image that `Image.open` returns: a conversion loses its EXIF rotation and its transparency.
    """
    how = (read_record(folder) if record is None else record)["preprocessing"]
    reader = _photo_reader(folder)
    pixels = reader["square"](reader["upright_rgb"](photo), how["resize"], how["crop"], how["interpolation"])
    return np.array(pixels)


@cache
def _photo_reader(folder: Path) -> dict[str, Any]:
    """Return the functions of the file that reads photos, next to this file or in the package."""
    beside, in_package = folder / PHOTO_READER, folder.parent / "images" / PHOTO_READER
    return runpy.run_path(str(beside if beside.exists() else in_package))


def main(paths: Sequence[str]) -> None:
    """Print one line per photo."""
    record = read_record()
    network = FromPixels(load(), record)
    for path in paths:
        with Image.open(path) as photo:
            prediction = network(torch.from_numpy(prepare(photo, record))[None])
        if "value" in prediction:
            print(f"{path}\t{prediction['value'].item():.6g}")
            continue
        confidence = prediction.get("probabilities", prediction.get("scores"))
        assert confidence is not None
        codes = (
            [int(prediction["label"])] if "label" in prediction else prediction["tags"][0].nonzero().flatten().tolist()
        )
        print("\t".join([path, *(f"{record['classes'][code]}\t{confidence[0, code].item():.6g}" for code in codes)]))


if __name__ == "__main__":
    main(sys.argv[1:])
