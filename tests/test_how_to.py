"""The guide and the how-to pages: their commands parse, their Python compiles, and their output is what is printed.

`console` and `python` blocks run, in the order of their page, over the photos that the first page makes; their output
is compared with the page, except for figures. `sh` and `py` blocks need a network, a cluster or the reader's files:
they are only parsed and compiled. `record_markdown.py` writes new output into the pages.
"""

from __future__ import annotations

import ast
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from commands import done, pipeline
from markdown_commands import (
    blocks,
    commands,
    fenced,
    leaves,
    named_options,
    options,
    parse,
    sessions,
    spans,
    the_app,
    without_figures,
)

import pipeline as pl

DOCS = Path(__file__).parent.parent / "docs"
INDEX = DOCS / "how_to" / "index.md"
PAGES = [DOCS / "why_is_my_score_lower.md", DOCS / "guide.md", INDEX, *sorted((DOCS / "how_to").glob("[!i]*.md"))]
TEXT = {path.stem: path.read_text(encoding="utf-8") for path in PAGES}
# The name of a command without arguments is a mention, not an example.
COMMANDS = [
    (page, command) for page, text in TEXT.items() for command in commands(text) if command not in leaves(the_app())
]
RUN = ("console", "python")
GAP = "..."  # stands for lines that are not shown

page = pytest.mark.parametrize("page", TEXT)


@page
def test_a_page_starts_with_its_title(page: str) -> None:
    assert re.match(r"# \S.+\n\n", TEXT[page])
    assert not re.search(
        r"^# ", re.sub(r"^```.*?^```$", "", TEXT[page][1:], flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )


def test_the_first_page_names_all_others() -> None:
    (tree,) = blocks(TEXT["index"], "{toctree}")
    named = [line for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(named) == sorted(set(TEXT) - {"index", "guide", "why_is_my_score_lower"})
    for name in named:
        assert f"]({name}.md)" in TEXT["index"]


@page
def test_a_link_has_a_target(page: str) -> None:
    (path,) = [path for path in PAGES if path.stem == page]
    for target in re.findall(r"\]\(([^)]+)\)", TEXT[page]):
        if not target.startswith("https://"):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_parses(page: str, command: str) -> None:
    parse(command)


@page
def test_every_option_that_is_named_exists(page: str) -> None:
    assert named_options(spans(TEXT[page])) <= options(the_app()) | {"--help"}


@page
def test_python_compiles_and_uses_existing_names(page: str) -> None:
    for code in blocks(TEXT[page], "py", "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
                assert all(hasattr(pl, name.name) for name in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pl":
                assert hasattr(pl, node.attr), node.attr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the first page makes, with the cache of its photos, so that pages need no inference."""
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install 'transfer-pipeline[demo]'")
    folder = tmp_path_factory.mktemp("how_to")
    (folder / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "work")
        follow(TEXT["index"])
        done("extract", "photos/")
    shutil.copytree(folder / "work", folder / "kept")
    yield folder


@pytest.mark.parametrize("page", [name for name, text in TEXT.items() if name != "index" and any(blocks(text, *RUN))])
def test_what_is_shown_is_printed(page: str, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Always the same folder: the key of a cache contains the location of its photos.
    shutil.rmtree(prepared / "work")
    shutil.copytree(prepared / "kept", prepared / "work")
    monkeypatch.chdir(prepared / "work")
    for shown, printed in follow(TEXT[page]):
        lines = [skeleton(line) for line in printed]
        for line in shown:
            assert line == GAP or skeleton(line) in lines, (line, printed)


def skeleton(line: str) -> str:
    """Return a line without its figures, and without the key and version of a cache, which depend on the folder."""
    return without_figures(re.sub(r"-[0-9a-f]{8,12}\b", "-0", line))


def follow(text: str) -> list[tuple[list[str], list[str]]]:
    """Run a page in the current folder; return the lines that it shows and those that were printed."""
    found: list[tuple[list[str], list[str]]] = []
    names: dict[str, Any] = {}
    all_blocks = fenced(text)
    for number, (language, block) in enumerate(all_blocks):
        if language == "console":
            found += [(shown, typed(command, shown)) for command, shown in sessions(block)]
        elif language == "python":
            out = io.StringIO()
            with redirect_stdout(out):
                exec(compile(block, "page", "exec"), names)
            after, shown = all_blocks[number + 1] if number + 1 < len(all_blocks) else ("", "")
            found.append((shown.splitlines() if after == "text" else [], out.getvalue().splitlines()))
    return found


def typed(command: str, shown: list[str]) -> list[str]:
    """Return the lines that a command of a page prints; its exit code is 0 unless the page shows an error."""
    if not command.startswith("pipeline "):
        ended = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, check=True)
        return ended.stdout.splitlines()
    outcome = pipeline(*shlex.split(command, comments=True)[1:])
    wrong = any(line.startswith(("error: ", "try: ")) for line in shown)
    assert outcome.code == int(wrong), (command, outcome.err)
    return [*outcome.out.splitlines(), *outcome.err.splitlines()]
