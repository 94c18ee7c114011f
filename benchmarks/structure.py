"""Print how the source is built, as a Markdown table with one column per checkout.

    python benchmarks/structure.py                         # this checkout
    python benchmarks/structure.py ../before . --names before after
    python benchmarks/structure.py --json structure.json   # the figures, and the files behind them

Counted: files and code lines of `pipeline/`, files with one importer, class names that are defined more than once,
import cycles (every import counts: in a function and under `TYPE_CHECKING` too), the files of `pipeline/` that one
image crosses in `extract`, one label column in `evaluate` and one photo in `predict`, README's lines, banned words.

A file is crossed when one of its functions or methods runs, in any thread, after everything has been imported: each
command runs twice over different photos, and the second run is traced. Comprehensions and module code do not count.
The banned words are those of this checkout's `tests/banned_words.toml`, for every column alike.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


# What stands in the source


def code_lines(source: str) -> int:
    """Return the number of lines with code: neither blank, nor comment, nor docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def modules_of(tree: Path) -> dict[str, Path]:
    """Return the files of `pipeline/` by their dotted names; a package's `__init__` has the package's name."""
    return {
        ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((tree / "pipeline").rglob("*.py"))
    }


def imports_of(tree: Path) -> dict[str, set[str]]:
    """Return the modules of `pipeline` that each module names in an import, wherever in the file it stands."""
    modules = modules_of(tree)
    found: dict[str, set[str]] = {name: set() for name in modules}
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [name if name in modules else node.module for name in inner]
            found[module] |= {target for target in targets if target in modules and target != module}
    return found


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another (strongly connected components of two or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return groups


def class_names(tree: Path) -> dict[str, list[str]]:
    """Return the class names that are defined more than once in `pipeline/`, with the files."""
    where: dict[str, list[str]] = {}
    for path in modules_of(tree).values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(path.relative_to(tree).as_posix())
    return {name: paths for name, paths in sorted(where.items()) if len(paths) > 1}


# What runs


CROSSED = """
import contextlib, io, json, os, sys, threading
from pathlib import Path
import numpy as np
from PIL import Image
import pipeline as pl

work = Path(sys.argv[1])
package = str(Path(pl.__file__).parent) + os.sep
os.chdir(work)

def draw(path, seed, red):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 120, (96, 128, 3), dtype=np.uint8)
    pixels[..., 0 if red else 2] += 100
    Image.fromarray(pixels).save(path, quality=95)

def command(*words):
    from pipeline.cli.app import app
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = app(list(words), standalone_mode=False)
        except SystemExit as end:
            code = end.code
    if code:
        raise SystemExit(f"pipeline {' '.join(words)}: exit code {code}\\n{err.getvalue()}")

for seed in range(12):
    draw(Path(f"photos/{'ants' if seed % 2 else 'bees'}/{seed:02d}.jpg"), seed, seed % 2)
rows = [f"{kind}/{s:02d}.jpg,{kind},{'ab'[s // 2 % 2]}" for s in range(12) for kind in ["ants" if s % 2 else "bees"]]
Path("labels.csv").write_text("\\n".join(["id,species,site", *rows]))
for name, seed in (("one", 50), ("two", 51), ("three", 52), ("four", 53)):
    draw(Path(f"{name}/{name}.jpg"), seed, 1)

def evaluate(column):
    cache = max(Path("features_cache").glob("photos-*.h5"), key=os.path.getmtime)
    command("evaluate", str(cache), "--labels", "labels.csv", "--column", column, "--head", "logistic", "--cv", "2",
            "--jobs", "1")

steps = {
    "extract": [lambda photos=photos: command("extract", photos, "--jobs", "1") for photos in ("one/", "two/")],
    "evaluate": [lambda column=column: evaluate(column) for column in ("species", "site")],
    "predict": [lambda name=name: command("predict", "m.model", f"{name}/{name}.jpg") for name in ("three", "four")],
}

def traced(step):
    seen = set()
    def profile(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package) and not code.co_name.startswith("<"):
            seen.add(code.co_filename.removeprefix(package))
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(seen)

command("extract", "photos/", "--jobs", "1")
command("fit", "photos/", "--head", "logistic", "--cv", "2", "--jobs", "1", "--out", "m.model")
crossed = {}
for name, (first, second) in steps.items():
    first()  # imports everything
    crossed[name] = traced(second)
print(json.dumps(crossed))
"""


def crossed(tree: Path) -> dict[str, list[str]]:
    """Return the files that one image, one label column and one photo cross in `extract`, `evaluate` and `predict`."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", CROSSED, folder]
        ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
        if ended.returncode:
            raise SystemExit(ended.stderr)
        return json.loads(ended.stdout.splitlines()[-1])


# The table


def figures(tree: Path, *, run: bool = True) -> dict[str, Any]:
    """Return everything that the table shows of a checkout, and the names behind the figures."""
    sys.path.insert(0, str(ROOT / "tests"))
    from count_words import count

    sources = {path: path.read_text(encoding="utf-8") for path in modules_of(tree).values()}
    graph = imports_of(tree)
    importers = Counter(target for targets in graph.values() for target in targets)
    lines = [code_lines(source) for source in sources.values()]
    words = count(tree)
    return {
        "files": len(sources),
        "code lines": sum(lines),
        "median code lines per file": sorted(lines)[len(lines) // 2],
        "longest file, in lines": max(len(source.splitlines()) for source in sources.values()),
        "single-importer files": [name for name, count in sorted(importers.items()) if count == 1],
        "duplicate class names": class_names(tree),
        "import cycles": cycles(graph),
        "crossed": crossed(tree) if run else {},
        "README lines": len((tree / "README.md").read_text(encoding="utf-8").splitlines()),
        "banned words in prose": sum(found["prose"] for name, found in words.items() if name != "(Markdown)"),
        "banned words in identifiers": sum(found["identifier"] for found in words.values()),
        "banned words in Markdown": words["(Markdown)"]["prose"],
    }


def rows(found: dict[str, Any]) -> dict[str, str]:
    """Return the figures of a checkout as cells of the table."""
    loops = found["import cycles"]
    cells = {
        "files in `pipeline/`": found["files"],
        "code lines": found["code lines"],
        "median code lines per file": found["median code lines per file"],
        "longest file, in lines": found["longest file, in lines"],
        "files with exactly one importer": len(found["single-importer files"]),
        "class names defined more than once": len(found["duplicate class names"]),
        "import cycles (files in them)": f"{len(loops)} ({sum(map(len, loops))})",
        "files crossed by one image in `extract`": len(found["crossed"].get("extract", [])) or "-",
        "files crossed by one column in `evaluate`": len(found["crossed"].get("evaluate", [])) or "-",
        "files crossed by one photo in `predict`": len(found["crossed"].get("predict", [])) or "-",
        "lines of README": found["README lines"],
        "banned words in docstrings, comments, messages": found["banned words in prose"],
        "banned words in identifiers": found["banned words in identifiers"],
        "banned words in Markdown": found["banned words in Markdown"],
    }
    return {name: f"{cell:,}" if isinstance(cell, int) else str(cell) for name, cell in cells.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Count files, imports, crossed files and banned words.")
    parser.add_argument("trees", nargs="*", type=Path, default=[ROOT], help="checkouts (default: this one)")
    parser.add_argument("--names", nargs="*", default=[], help="headings of the columns")
    parser.add_argument("--json", type=Path, help="write the figures and the names behind them")
    parser.add_argument("--no-run", action="store_true", help="count the source alone, run nothing")
    arguments = parser.parse_args()
    names = [*arguments.names, *(tree.resolve().name for tree in arguments.trees[len(arguments.names) :])]
    found = [figures(tree.resolve(), run=not arguments.no_run) for tree in arguments.trees]
    if arguments.json:
        arguments.json.write_text(json.dumps(dict(zip(names, found, strict=True)), indent=1), encoding="utf-8")
    columns = [rows(entry) for entry in found]
    print("| | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main()
