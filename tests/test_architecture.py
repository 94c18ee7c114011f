"""Imports go one way, through the packages' public names, and each package imports only its own libraries.

The source is parsed and never imported, so that a package that breaks a rule cannot hide by failing to load.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline"

# In the order of imports: a package imports only from packages above it. Then the libraries that it may import, beside
# the standard library and numpy.
PACKAGES: dict[str, set[str]] = {
    "errors": set(),
    "arguments": set(),
    "files": set(),
    "provenance": set(),
    "progress": set(),
    "parallel": {"joblib", "distributed"},
    "images": {"PIL", "pandas", "pyarrow", "openpyxl", "odf", "sklearn", "pillow_heif", "cykooz_resizer"},
    "backbone": {"torch", "torchvision", "safetensors", "onnx", "google"},  # protobuf's errors, onnx's own
    "runtime": {"torch", "onnx", "onnxruntime", "openvino"},
    "cache": {"h5py", "portalocker"},
    "extraction": {"joblib", "sklearn"},
    "labels": {"pandas"},
    "near_duplicates": {"scipy"},
    "splits": {"sklearn"},
    "heads": {"sklearn"},
    "search": {"scipy", "sklearn", "threadpoolctl", "torch"},
    "intervals": {"scipy"},
    "runs": {"pandas"},
    "evaluation": {"joblib", "sklearn"},
    "export": {"torch", "torchvision", "safetensors", "onnx", "onnxruntime", "sklearn", "skl2onnx", "PIL"},
    "model": {"skops", "sklearn", "pandas", "pyarrow"},
    "studies": {"PIL", "joblib", "pandas", "scipy", "sklearn", "torch"},
    "report": {"PIL", "bokeh", "jinja2", "matplotlib", "mlflow", "pandas", "sklearn"},
    "doctor": {"packaging", "torch", "onnxruntime"},
    "server": {"fastapi", "starlette", "uvicorn", "h11", "pydantic"},
    "demo": set(),
    "cli": {"typer", "rich", "pandas"},
}
LONGEST = 800  # lines

# Modules that other packages may import from, each with the reason. Everything else comes from a package's __init__.
PUBLIC_MODULES = {
    "backbone.bundled": "how runtime reads the bundled backbone without torch",
    "backbone.efficientnet_lite": "the architecture's source, which exports copy",
    "backbone.registry": "the names and defaults of the bundled backbone",
    "evaluation.dataset": "data, labels and features, which fit, score and study load in the same way",
    "evaluation.leakage": "duplicates between training and test rows, which studies look for too",
    "evaluation.memo": "keys of stored results, which studies share",
    "evaluation.tasks": "label sets with their splits, which score and study build in the same way",
    "extraction.embedder": "it alone of its package needs scikit-learn",
    "images.rgb": "exports carry a copy of its source",
    "images.values": "the values of table cells, which labels reads by the same rules",
    "report.displays": "loads matplotlib",
    "report.html.write": "loads bokeh and Jinja2",
    "report.mlflow": "loads MLflow",
    "runs.directory": "names of the files of runs, scores and studies",
    "runs.leaderboard": "the rows and names that terminal, page, displays and MLflow show",
    "runtime.onnx_export": "it alone of its package needs torch",
    "search.shared_grid_search": "it alone of its package needs scikit-learn when it is imported",
    "studies.results": "the names of the methods, which tables and pages show",
}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every dotted name that a file imports, also inside functions, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides which package it reaches"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_every_file_belongs_to_a_package_of_the_plan() -> None:
    found = {package_of(path) for path in files()} - {"__init__", "__main__"}
    assert found == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_packages_above_it(package: str) -> None:
    order = list(PACKAGES)
    above = {*order[: order.index(package)], package}
    for path in files():
        if package_of(path) != package:
            continue
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "pipeline":
                assert parts[1] in above, f"{path}:{line}: {package} must not import {parts[1]}, which is below it"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_its_own_libraries(package: str) -> None:
    allowed = PACKAGES[package] | set(sys.stdlib_module_names) | {"pipeline", "numpy"}
    for path in files():
        if package_of(path) == package:
            for name, line in imports(path):
                library = name.partition(".")[0]
                assert library in allowed, f"{path}:{line}: {package} must not import {library}"


@cache
def exported(package: str) -> frozenset[str]:
    """Return the names in a package's `__all__`."""
    path = PACKAGE / package / "__init__.py"
    if not path.exists():
        return frozenset()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def module_of(name: str) -> str:
    """Return the module below `pipeline` that an imported name is, or is in: ``runs.leaderboard``."""
    parts = name.split(".")[1:]
    if len(parts) == 2 and parts[1] in exported(parts[0]):
        return parts[0]  # a function may have the name of its module
    while parts and not (PACKAGE.joinpath(*parts).is_dir() or PACKAGE.joinpath(*parts).with_suffix(".py").exists()):
        parts.pop()
    return ".".join(parts)


def test_other_packages_import_from_a_package_or_its_public_modules() -> None:
    used = set()
    for path in files():
        for name, line in imports(path):
            module = module_of(name) if name.startswith("pipeline.") else ""
            if "." in module and module.partition(".")[0] != package_of(path):
                assert module in PUBLIC_MODULES, (
                    f"{path}:{line}: import {name} from pipeline.{module.partition('.')[0]}, or list {module} as public"
                )
                used.add(module)
    assert used == set(PUBLIC_MODULES), "a module that no other package imports is not public"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_module_shadows_a_function_of_the_package() -> None:
    functions = {"extract", "evaluate", "fit", "study"}
    assert not functions & {path.stem for path in PACKAGE.glob("*.py")}
    assert not functions & {path.name for path in PACKAGE.iterdir() if path.is_dir()}
