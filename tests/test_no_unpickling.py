"""Nothing in the project reads a file in a way that could run code: the source is read for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules whose whole use is to bring objects back to life.
MODULES = frozenset(("pickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "pickletools", "jsonpickle"))
NAMES = frozenset(("pickle.UnpicklingError",))  # of those, what may be said: an exception, to catch it

# Functions that run what they read, and the argument with which they do not.
CALLS: dict[str, dict[str, str]] = {
    "torch.load": {"weights_only": "True"},
    "numpy.load": {"allow_pickle": "False"},
    "skops.io.loads": {"trusted": "list(ALLOWED_TYPES)"},
}
FORBIDDEN = frozenset((
    "joblib.load", "pandas.read_pickle", "numpy.fromregex", "torch.hub.load", "torch.jit.load", "torch.package",
    "skops.io.load", "yaml.load", "yaml.unsafe_load", "eval", "exec", "builtins.eval", "builtins.exec",
    "os.system", "runpy.run_path",
))  # fmt: skip


def strange(source: str) -> Iterator[tuple[int, str]]:
    """Give the lines of a program that read files in a way that could run code, and what they call."""
    tree = ast.parse(source)
    known: dict[str, str] = {}  # a name here: what it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                top = one.name.partition(".")[0]
                known[one.asname or top] = one.name if one.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            if node.module.partition(".")[0] in MODULES:
                yield node.lineno, f"from {node.module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            name = _dotted(node, known)
            kin = name.partition(".")[0] in MODULES and "." in name and name not in NAMES
            if kin or (name in FORBIDDEN and name not in _defined(tree)):
                yield node.lineno, name
        for keyword in getattr(node, "keywords", ()):
            if keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False":
                yield node.lineno, "allow_pickle"
        if isinstance(node, ast.Call):
            name = _dotted(node.func, known)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if any(given.get(key) != value for key, value in CALLS.get(name, {}).items()):
                yield node.lineno, name


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    """Return the full name that an expression stands for, "" where it is none."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        of = _dotted(node.value, known)
        return f"{of}.{node.attr}" if of else ""
    return ""


def _defined(tree: ast.AST) -> set[str]:
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def programs(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("folder", ["pipeline", "benchmarks"])
def test_nothing_unpickles(folder: str) -> None:
    # An exported folder's own program, never run by this package, runs the architecture that was written beside it.
    allowed = {"standalone.py": {"runpy.run_path"}}
    for path in programs(folder):
        found = {what for _, what in strange(path.read_text(encoding="utf-8"))}
        assert found <= allowed.get(path.name, set()), path


def test_no_test_loads_a_file_that_could_run_code() -> None:
    """Tests pickle what travels to workers, ask what a hostile file would do, and run the programs of the README."""
    # numpy.load refuses objects unless it is told otherwise, and then it is `allow_pickle` that is found.
    allowed = {"eval", "exec", "skops.io.loads", "runpy.run_path", "numpy.load"}
    for path in programs("tests"):
        found = [what for _, what in strange(path.read_text(encoding="utf-8"))]
        assert {what for what in found if what.partition(".")[0] not in MODULES} <= allowed, path


@pytest.mark.parametrize(
    "line",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.load(file)",
        "from pickle import loads",
        "import cloudpickle\ncloudpickle.load(file)",
        "import joblib\njoblib.load('x')",
        "from joblib import load\nload('x')",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "from torch import load as read\nread('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import pandas as pd\npd.read_pickle('x')",
        "import skops.io\nskops.io.loads(b'', trusted=skops.io.get_untrusted_types(data=b''))",
        "import skops.io as sio\nsio.load('x')",
        "eval('1')",
    ],
)
def test_each_of_these_would_be_found(line: str) -> None:
    assert list(strange(line))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "network.eval()",
        "import safetensors.torch\nsafetensors.torch.load(b'')",
    ],
)
def test_and_none_of_these(line: str) -> None:
    assert not list(strange(line))
