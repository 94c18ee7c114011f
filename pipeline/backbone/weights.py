"""How are a backbone's weights found, verified and read?

``NAME`` alone means the recommended weights, ``NAME:ENUM`` weights of torchvision, ``NAME:FILE`` a file whose SHA-256
torchvision publishes, ``NAME:FILE@ENUM`` any other file with the preprocessing of ENUM, and ``NAME:random`` untrained
weights, a baseline. Files are read as tensors only: nothing is unpickled into other objects.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbone import registry
from pipeline.errors import BackboneError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

RANDOM = "random"
ENDINGS = (".safetensors", ".pth", ".pt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts save the state dict
_PREFIXES = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile add to every name


@dataclass(frozen=True)
class Weights:
    """The source of a backbone's tensors, and the named weights whose preprocessing they use.

    Attributes
    ----------
    label : str
        Their name in the provenance: ``bundled``, an enum name, ``FILE@ENUM`` or ``random``.
    named : str
        The named weights whose preprocessing they use.
    file : Path or None
        None for random weights.
    sha256 : str
        Of the file; empty for random weights, whose tensors are hashed instead.
    """

    label: str
    named: str
    file: Path | None
    sha256: str


def find_weights(name: str, weights: str) -> Weights:
    """Find the weights of a backbone; torchvision's are downloaded into torch.hub's folder if they are missing.

    Parameters
    ----------
    name : str
        A name of the catalogue.
    weights : str
        The part of ``NAME:WEIGHTS`` after the colon; empty for the recommended weights.

    Raises
    ------
    BackboneError
        There are no weights of that name, they cannot be downloaded, or the preprocessing of a file is unknown.
    """
    if name == registry.NAME:
        if weights in ("", "DEFAULT", registry.WEIGHTS):
            path = registry.weights_file()
            return Weights(registry.WEIGHTS, registry.WEIGHTS, path, file_sha256(path))
        default = registry.WEIGHTS
    else:
        default = registry.default_enum(name).name
        weights = default if weights in ("", "DEFAULT") else weights
    if weights == RANDOM:
        return Weights(RANDOM, default, None, "")
    if weights in registry.enums(name):
        return _torchvision_weights(name, weights)
    if _is_file_name(weights):
        return _local_weights(name, weights)
    raise BackboneError(
        f"backbone {name!r} has no weights {weights!r}; {nearest(weights, [*registry.weights_names(name), RANDOM])}",
        f"pipeline backbones {name}",
    )


def _is_file_name(weights: str) -> bool:
    file = weights.rpartition("@")[0] or weights
    return (
        any(part.lower().endswith(ENDINGS) for part in (weights, file))
        or any(separator in weights for separator in (os.sep, "/"))
        or Path(weights).expanduser().is_file()
    )


def _torchvision_weights(name: str, enum_name: str) -> Weights:
    enum = registry.enums(name)[enum_name]
    _check_has_final_layer(name, enum_name)
    path = registry.checkpoint_file(enum.url)
    prefix = registry.hash_prefix(enum.url)
    if not path.exists():
        _download(name, enum_name, enum.url, path, prefix)
    found = file_sha256(path)
    if not found.startswith(prefix):
        raise BackboneError(
            f"{path}: expected the weights {enum_name} of {name}, whose SHA-256 starts with {prefix}, "
            f"got {found[: len(prefix)]}",
            f"delete the file and run the same command again, to download it again from {enum.url}",
        )
    return Weights(enum_name, enum_name, path, found)


def _download(name: str, enum_name: str, url: str, path: Path, prefix: str) -> None:
    import torch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # torch.hub writes a temporary file, checks its hash, and renames it.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # URLError and HTTPError are OSErrors; a wrong hash is a RuntimeError
        raise BackboneError(
            f"backbone {name!r}: expected its weights {enum_name} from {url}, but could not download them ({error})",
            f"put the file at {path}, or use the bundled backbone: --backbone {registry.NAME}",
        ) from error


def _local_weights(name: str, weights: str) -> Weights:
    text, enum_name = weights, ""
    if "@" in weights and not Path(weights).expanduser().is_file():
        text, _, enum_name = weights.rpartition("@")
    path = Path(text).expanduser().resolve()
    choices = registry.weights_names(name)
    if not path.is_file():
        raise BackboneError(
            f"backbone {name!r}: expected a weights file at {path}, but there is no such file",
            f"pipeline backbones {name}",
        )
    if path.suffix.lower() not in ENDINGS:
        raise BackboneError(
            f"{path}: expected a weights file that ends in {', '.join(ENDINGS)}, got {path.suffix or 'no ending'!r}",
            "save the network's state_dict() with safetensors.torch.save_file, or with torch.save to a .pth file",
        )
    if enum_name and enum_name not in choices:
        raise BackboneError(
            f"{path}: expected the preprocessing of {enum_name!r}, but {name} has only {', '.join(choices)}",
            f"--backbone {name}:{text}@{choices[-1]}",
        )
    digest = file_sha256(path)
    recognised = _named_by_hash(name, digest)
    if recognised:
        _check_has_final_layer(name, recognised)
        if enum_name and enum_name != recognised:
            raise BackboneError(
                f"{path}: its SHA-256 is that of {recognised}, so it cannot have the preprocessing of {enum_name}",
                f"--backbone {name}:{text}",
            )
        enum_name = recognised
    if not enum_name:
        raise BackboneError(
            f"{path}: expected the name of the weights whose preprocessing the file uses, one of "
            f"{', '.join(choices)}, got a file alone, whose SHA-256 {digest[:8]}... is none of {name}'s",
            f"--backbone {name}:{text}@{choices[-1]}",
        )
    return Weights(f"{path.name}@{enum_name}", enum_name, path, digest)


def _named_by_hash(name: str, digest: str) -> str:
    """Return the named weights whose published hash a digest starts with, or an empty string."""
    if name == registry.NAME:
        return registry.WEIGHTS if digest.startswith(registry.hash_prefix(registry.FILE)) else ""
    matches = (key for key, enum in registry.enums(name).items() if digest.startswith(registry.hash_prefix(enum.url)))
    return next(matches, "")


def _check_has_final_layer(name: str, enum_name: str) -> None:
    if name != registry.NAME and not registry.has_classifier(registry.enums(name)[enum_name]):
        final = registry.final_layer_of(name)
        others = [key for key, enum in registry.enums(name).items() if registry.has_classifier(enum)]
        raise BackboneError(
            f"backbone {name!r}: the weights {enum_name} have no classifier: they lack valid values for the final "
            f"layer ({final}.weight, {final}.bias) and the layers before it",
            f"--backbone {name}:{others[-1]}",
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; the file is read again only when its size or time changes."""
    stat = path.stat()
    return _file_sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _file_sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of tensors: their names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_tensors(path: Path, sha256: str = "") -> dict[str, torch.Tensor]:
    """Read the state dict of a file, without the wrappers and prefixes of training scripts and DataParallel.

    The file is read once, so that the bytes that are parsed are those whose SHA-256 is checked.

    Raises
    ------
    BackboneError
        The file has another hash, is damaged, holds anything but tensors, or cannot be read.
    """
    import safetensors
    import safetensors.torch
    import torch

    try:
        data = path.read_bytes()
        if sha256 and (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise BackboneError(
                f"{path}: changed since the backbone was opened: expected SHA-256 {sha256[:12]}..., "
                f"got {found[:12]}...",
                "run the same command again",
            )
        if path.suffix.lower() == ".safetensors":
            content: Any = safetensors.torch.load(data)
        else:
            with warnings.catch_warnings():
                # torch warns about the pickle's protocol; a file that it cannot read is an error below.
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BackboneError(
            f"{path}: expected a weights file, but could not read it ({reason or type(error).__name__})",
            "check that the file is complete: compare its size, or copy it again",
        ) from error
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"{path}: expected a file with tensors only, got other Python objects, or a damaged file; "
            "such objects are never loaded, because they can run code",
            "save the network's state_dict() with safetensors.torch.save_file, or with torch.save",
        ) from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise BackboneError(
            f"{path}: expected a state dict (names and tensors), got {type(content).__name__}",
            "save the network's state_dict() with safetensors.torch.save_file, or with torch.save",
        )
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise BackboneError(
            f"{path}: expected a state dict (names and tensors), got entries that are not tensors: "
            f"{_first_names(others)}",
            "save the network's state_dict() with safetensors.torch.save_file, or with torch.save",
        )
    state = {str(key): value for key, value in content.items()}
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def rename_tensors(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict under the names of the network's modules, without auxiliary branches for training."""
    from pipeline.backbone.layers import AUXILIARY

    if name == registry.NAME:
        from pipeline.backbone.efficientnet_lite import from_package_names

        return from_package_names(state)
    if name.startswith("densenet"):  # old files have "norm.1" where the network has "norm1"
        old = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
        state = {old.sub(r"\1\2", key): value for key, value in state.items()}
    if name in ("googlenet", "inception_v3"):
        state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    return dict(state)


def number_of_classes(name: str, state: Mapping[str, torch.Tensor], origin: str) -> int:
    """Return the number of outputs of the final layer in a state dict that `rename_tensors` returned."""
    final = registry.final_layer_of(name)
    lacking = [key for key in (f"{final}.weight", f"{final}.bias") if key not in state]
    if lacking:
        raise BackboneError(
            f"{origin}: expected all tensors of {name} with its final layer, got a file that lacks "
            f"{_first_names(lacking)}",
            f"give the whole network's state_dict(), or --backbone {name}",
        )
    return int(state[f"{final}.weight"].shape[0])


def network_of(
    name: str, state: Mapping[str, torch.Tensor], *, classes: int, architecture: Mapping[str, Any], origin: str
) -> nn.Module:
    """Return the network of a backbone with tensors from `rename_tensors`, in evaluation mode, without gradients.

    Raises
    ------
    BackboneError
        A tensor is missing, unexpected, of another shape, or not finite; the message names it.
    """
    import torch

    network = registry.build_on_meta(name, classes=classes, architecture=architecture)
    expected = network.state_dict()
    # Tensors of every type run in float32; a value that is too large for it becomes infinite, which is an error below.
    state = {key: value.to(expected[key].dtype) if key in expected else value for key, value in state.items()}
    bad = [key for key, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise BackboneError(
            f"{origin}: expected finite weights for {name}, got values that are not finite in {_first_names(bad)}",
            f"get the file again, or --backbone {name}",
        )
    versioned = _Versioned(state)
    versioned._metadata = {"": {"version": network._version}}  # MNASNet does not load without a version
    try:
        missing, unexpected = network.load_state_dict(versioned, strict=False, assign=True)
    except RuntimeError as error:  # "size mismatch for fc.weight: copying a param with shape ..."
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise BackboneError(
            f"{origin}: its tensors do not fit {name}: {lines[0] if lines else error}",
            f"pipeline backbones {name}",
        ) from error
    for problem, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            raise BackboneError(
                f"{origin}: expected the {len(expected)} tensors of {name}, got {len(state)}: "
                f"{problem} {_first_names(keys)}",
                f"pipeline backbones {name}",
            )
    return network.eval().requires_grad_(False)


def random_network(name: str, *, classes: int, architecture: Mapping[str, Any], random_state: int) -> nn.Module:
    """Return the network of a backbone with random weights, without changing the caller's random state."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # Only the CPU's generator: torch.manual_seed would also seed the GPUs' generators, which are not restored.
        torch.default_generator.manual_seed(random_state)
        network = registry.build_network(name, classes=classes, architecture=architecture, initialise=True)
    return network.eval().requires_grad_(False)


class _Versioned(dict):
    """A state dict with the version metadata that `load_state_dict` reads."""

    _metadata: dict[str, dict[str, Any]]


def _first_names(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
