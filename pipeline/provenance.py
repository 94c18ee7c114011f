"""Which settings determine a feature: the `Recipe`, as pure data, and the cache key made of it.

A `Recipe` holds only settings that change a feature. Batch size, threads and, in fp32, the runtime change its last bits
alone; versions, time and host are for information. They are recorded beside the recipe and are not in the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

POOLING = "mean over positions"  # how a map (c, h, w) or tokens (t, c) become a vector (c,)


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the network's input; each set of weights has its own.

    The photo's short side is resized to `resize` (long side ``int(resize * long / short)``), the centre `crop`
    square is cut, and each channel becomes ``(value - mean) / std``, where the pixel value runs from 0 to
    `value_range` (1.0 for torchvision's presets, 255.0 where mean and std are given in grey levels).
    """

    resize: int
    crop: int
    interpolation: str  # "nearest", "bilinear", "bicubic", "lanczos"
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    value_range: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """All settings that change a feature, except the layer: a cache holds several layers of one recipe.

    Attributes
    ----------
    backbone : str
        Architecture, by its catalogue name.
    weights_sha256 : str
        Digest of the weights' bytes (of the tensors themselves for random weights).
    architecture : mapping
        Arguments that change the network but not its weights, such as ``transform_input``.
    preprocessing : Preprocessing
    decoder : str
        Fingerprint of how this machine's decoders and resizing turn bytes into pixels.
    photo_rules : str
        The rules for EXIF orientation, alpha, 16 bit, palettes and animations.
    precision : str
        "fp32", "bf16" or "fp16": the arithmetic of the network.
    store : str
        "fp32" or "fp16": the type of the stored features.
    runtime : str
        Empty in fp32, where runtimes agree to 2e-6; its name in lower precision.
    """

    backbone: str
    weights_sha256: str
    preprocessing: Preprocessing
    decoder: str
    photo_rules: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    store: str = "fp32"
    runtime: str = ""
    pooling: str = POOLING

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        return json.loads(canonical_json(asdict(self)))

    def key(self, place: str) -> str:
        """Return the 12 hexadecimal digits that name a cache of this recipe over the images at `place`."""
        return sha256_json({"recipe": self.as_dict(), "place": place})[:12]

    def differences(self, other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return ``{field: (value, other value)}`` for every field that differs from another recipe's `as_dict`."""
        values = self.as_dict()
        names = sorted(values.keys() | other.keys())
        return {name: (values.get(name), other.get(name)) for name in names if values.get(name) != other.get(name)}


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of the value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@cache  # a look-up takes a millisecond, and an upgrade does not change the modules of a running process
def installed(name: str) -> str:
    """Return the version of an installed distribution, ``unknown`` where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
