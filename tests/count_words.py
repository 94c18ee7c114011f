"""Count the words and identifiers of `tests/banned_words.toml`: `python tests/count_words.py [--list PACKAGE] [TREE]`.

Prose (docstrings, comments, messages, templates, Markdown) and identifiers are searched apart. Code spans, code blocks
and link targets are not prose. Names that are serialised are no identifiers of this project: see `tests/pinned/`.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import io
import json
import os
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
ROOT = TESTS.parent
BANNED = tomllib.loads((TESTS / "banned_words.toml").read_text(encoding="utf-8"))
SKIPPED_FOLDERS = {".venv", "_build", ".git", "node_modules", "demo", "runs", ".pytest_cache", ".ruff_cache", "shared"}


@dataclass(frozen=True)
class Finding:
    """One banned word or identifier, where it is, and its replacement."""

    path: str
    line: int
    kind: str  # "prose" or "identifier"
    word: str
    use: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}, use {self.use}"


# Prose


@cache
def prose_patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(rf"(?<!\w)(?:{p})(?!\w)", re.IGNORECASE), use) for p, use in BANNED["prose"].items())


def without_code(text: str) -> str:
    """Return text with code spans, link targets, URLs and placeholders removed."""
    text = re.sub(r"``[^`]+``|`[^`]+`", "CODE", text)
    text = re.sub(r"(\]\()[^)\s]+(\))", r"\1\2", text)
    text = re.sub(r"https?://\S+", "", text)
    return re.sub(r"\{[^{}]*\}", "X", text)


def words_in(text: str) -> Iterator[tuple[str, str]]:
    """Give each banned piece of a paragraph and its replacement."""
    text = " ".join(without_code(text).split())
    for pattern, use in prose_patterns():
        for match in pattern.finditer(text):
            yield match[0], use


def markdown_paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Give each paragraph, list item, table row and heading of Markdown with its first line; code is left out."""
    lines: list[str] = []
    first = 1
    fence = ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        mark = re.match(r"^ *(`{3,}|~{3,})", line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
            continue
        starts = not line.strip() or mark or re.match(r"^\s*([-*|#>]|\d+\.) ?", line) or line.startswith("    ")
        if starts and lines:
            yield first, " ".join(lines)
            lines = []
        if mark:
            fence = mark[1]
        elif line.strip() and not line.startswith("    "):
            first = first if lines else number
            lines.append(re.sub(r"^\s*([-*#>]+|\d+\.) ", "", line).strip())


def python_paragraphs(source: str) -> Iterator[tuple[int, str]]:
    """Give each paragraph of the docstrings, each comment and each message of Python source, with its first line."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                docstrings.add(first.value)
    for node in docstrings:
        yield from _docstring_paragraphs(str(node.value), node.lineno)
    yield from _messages(tree, docstrings)
    yield from _comments(source)


def _docstring_paragraphs(text: str, line: int) -> Iterator[tuple[int, str]]:
    block: list[str] = []
    for number, row in enumerate([*text.splitlines(), ""]):
        row = row.strip()
        ends = not row or row.startswith((">>>", "...", "- ", "----"))
        if ends and block:
            yield line + number - len(block), " ".join(block)
            block = []
        if row and not row.startswith((">>>", "...", "----")):
            block.append(row.removeprefix("- "))


def _messages(tree: ast.AST, docstrings: set[Any]) -> Iterator[tuple[int, str]]:
    inner = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node in docstrings or node in inner:
                continue
            text = node.value
        else:
            continue
        if " " in text.strip() and re.search("[a-z]{2}", text):
            yield node.lineno, text


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Give comments, those of consecutive lines as one."""
    block: list[str] = []
    last = first = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"#\s*(noqa|type:|fmt:|ruff|pragma|!)", token.string):
            continue
        text = token.string.lstrip("# ").strip()
        line = token.start[0]
        own_line = token.line.lstrip().startswith("#")
        if block and own_line and line == last + 1:
            block.append(text)
        else:
            if block:
                yield first, " ".join(block)
            block, first = [text], line
        last = line if own_line else -1
    if block:
        yield first, " ".join(block)


def template_paragraphs(text: str, script: bool) -> Iterator[tuple[int, str]]:
    """Give the text between the tags of a template, and comments and strings of its scripts."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    if script:
        for match in re.finditer(r"//([^\n]*)|/\*(.*?)\*/|\"([^\"\n]* [^\"\n]*)\"|`([^`]* [^`]*)`", text, re.DOTALL):
            yield text.count("\n", 0, match.start()) + 1, next(group for group in match.groups() if group is not None)
        return
    for match in re.finditer(r"<script[^>]*>(.*?)</script>", text, re.DOTALL):
        for line, found in template_paragraphs(match[1], script=True):
            yield text.count("\n", 0, match.start()) + line, found
    text = re.sub(r"<(script|style)[^>]*>.*?</\1>", blank, text, flags=re.DOTALL)
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", lambda match: "X" + blank(match), text, flags=re.DOTALL)
    for number, line in enumerate(text.splitlines(), 1):
        if (plain := re.sub(r"<[^>]*>", " ", line)).strip():
            yield number, plain


# Identifiers


@cache
def serialised() -> frozenset[str]:
    """Return the names that stand in files, from the lists that hold them."""
    names: set[str] = set()
    for path in (TESTS / "pinned").glob("keys_*.json"):
        for values in json.loads(path.read_text(encoding="utf-8")).values():
            names |= {part for value in values for part in re.split(r"[./\[\]]+", str(value))}
    return frozenset(names)


@cache
def _whole(section: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), use) for pattern, use in BANNED[section].items())


def _parts(name: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Give the line, the name and the kind of every name that source defines: class, function, argument, variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, "class"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, "function"
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, "argument"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, "variable"
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, "variable"
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname, "variable"


def banned_names(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Give the line, the name and the replacement of each banned identifier."""
    for line, name, kind in defined_names(tree):
        if name in serialised() and kind != "class":
            continue
        tests = [*_whole("identifiers"), *(_whole("classes") if kind == "class" else ())]
        use = next((use for pattern, use in tests if pattern.fullmatch(name)), "")
        for pattern, instead in _whole("identifier_parts"):
            if not use and any(pattern.fullmatch(part) for part in _parts(name)):
                use = instead
        if use:
            yield line, name, use


# Files


def excepted(finding: Finding) -> bool:
    return any(
        fnmatch.fnmatch(finding.path, entry["path"]) and fnmatch.fnmatch(finding.word.lower(), entry["word"].lower())
        for entry in BANNED.get("except", [])
    )


def findings_in(path: Path, root: Path = ROOT, *, all_of_them: bool = False) -> list[Finding]:
    """Return what a file uses of the banned words, without the exceptions unless `all_of_them`."""
    name = path.relative_to(root).as_posix()
    text = path.read_text(encoding="utf-8")
    names: list[tuple[int, str, str]] = []
    if path.suffix == ".py":
        paragraphs = list(python_paragraphs(text))
        names = list(banned_names(ast.parse(text)))
    elif path.suffix == ".md":
        paragraphs = list(markdown_paragraphs(text))
    elif path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        paragraphs = [part for cell in cells for part in markdown_paragraphs("".join(cell["source"]))]
    else:
        paragraphs = list(template_paragraphs(text, script=path.suffix == ".js"))
    found = [Finding(name, line, "prose", word, use) for line, part in paragraphs for word, use in words_in(part)]
    found += [Finding(name, line, "identifier", word, use) for line, word, use in names]
    return [finding for finding in sorted(found, key=lambda f: f.line) if all_of_them or not excepted(finding)]


def markdown_files(root: Path = ROOT) -> list[Path]:
    """Return the Markdown files and notebooks whose prose is checked."""
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        paths += [Path(folder, name) for name in names if name.endswith((".md", ".ipynb"))]
    skipped = BANNED["markdown_not_checked"]
    return sorted(
        path for path in paths if not any(fnmatch.fnmatch(path.relative_to(root).as_posix(), p) for p in skipped)
    )


def package_files(root: Path = ROOT) -> dict[str, list[Path]]:
    """Return the sources and templates of `pipeline/` by package or top-level module."""
    files: dict[str, list[Path]] = {}
    for path in sorted((root / "pipeline").rglob("*")):
        if path.suffix in (".py", ".html", ".jinja", ".js") and "__pycache__" not in path.parts:
            package = path.relative_to(root / "pipeline").parts[0].removesuffix(".py")
            files.setdefault(package, []).append(path)
    return files


def count(root: Path = ROOT) -> dict[str, Counter[str]]:
    """Return how many banned words in prose and in identifiers each package has, and the Markdown."""
    groups = {**package_files(root), "(Markdown)": markdown_files(root)}
    return {
        group: Counter(finding.kind for path in paths for finding in findings_in(path, root))
        for group, paths in groups.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the banned words that remain.")
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT, help="a checkout (default: this one)")
    parser.add_argument("--list", metavar="PACKAGE", help="list each one of a package, of a path, or of all")
    options = parser.parse_args()
    root = options.tree.resolve()
    if options.list:
        groups = {**package_files(root), "markdown": markdown_files(root)}
        for group, paths in groups.items():
            for path in paths:
                if options.list in (group, "all") or path.relative_to(root).as_posix().startswith(options.list):
                    print(*findings_in(path, root), sep="\n", end="\n" if findings_in(path, root) else "")
        return
    table = count(root)
    clean = set(BANNED["clean"]["packages"])
    print(f"{'package':16} {'prose':>6} {'identifiers':>12}")
    for package, found in table.items():
        note = "  could be listed as clean" if not found and package not in clean and package[0] != "(" else ""
        print(f"{package:16} {found['prose']:6} {found['identifier']:12}{note}")
    total = sum(table.values(), Counter())
    print(f"{'sum':16} {total['prose']:6} {total['identifier']:12}")


if __name__ == "__main__":
    main()
