"""The house keeps its plan: names flow downstream, and each room names only the libraries that are its own.

The source is read as text and never imported, so that a room that breaks the plan cannot hide by failing to load.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pipeline"

# In the order in which names flow: a room imports only from rooms above it. Then the libraries that it may name,
# beside the standard library and numpy.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "arguments": set(),
    "files": set(),
    "provenance": set(),
    "progress": set(),
    "parallel": {"joblib", "distributed"},
    "images": {"PIL", "pandas", "pyarrow", "openpyxl", "odf", "sklearn", "pillow_heif", "cykooz_resizer"},
    "backbone": {"torch", "torchvision", "safetensors", "onnx", "google"},  # protobuf's errors, onnx's own
    "runtime": {"torch", "onnxruntime", "openvino"},
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


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Give every dotted name that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides which room it reaches"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_every_file_belongs_to_a_room_of_the_plan() -> None:
    found = {room_of(path) for path in files()} - {"__init__", "__main__"}
    assert found == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(room: str) -> None:
    order = list(ROOMS)
    above = {*order[: order.index(room)], room}
    for path in files():
        if room_of(path) != room:
            continue
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] == "pipeline":
                assert parts[1] in above, f"{path}:{line}: {room} must not import {parts[1]}, which lies downstream"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_only_its_own_libraries(room: str) -> None:
    allowed = ROOMS[room] | set(sys.stdlib_module_names) | {"pipeline", "numpy"}
    for path in files():
        if room_of(path) == room:
            for name, line in imports(path):
                library = name.partition(".")[0]
                assert library in allowed, f"{path}:{line}: {room} must not name {library}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_outgrows_its_room(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_module_shadows_a_function_of_the_package() -> None:
    from_door = {"extract", "evaluate", "fit", "study"}
    assert not from_door & {path.stem for path in PACKAGE.glob("*.py")}
    assert not from_door & {path.name for path in PACKAGE.iterdir() if path.is_dir()}
