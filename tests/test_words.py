"""Markdown and the packages listed as clean use none of the words of `banned_words.toml`; class names are unique."""

from __future__ import annotations

import ast
import fnmatch
from collections import Counter
from pathlib import Path

import pytest
from count_words import BANNED, ROOT, banned_names, findings_in, markdown_files, package_files, serialised

PENDING = BANNED["markdown_pending"]["paths"]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", markdown_files(), ids=named)
def test_markdown_uses_no_banned_word(path: Path) -> None:
    if any(fnmatch.fnmatch(named(path), pattern) for pattern in PENDING):
        pytest.skip("listed in [markdown_pending]")
    assert not findings_in(path), "\n".join(map(str, findings_in(path)))


@pytest.mark.parametrize("package", BANNED["clean"]["packages"])
def test_a_clean_package_uses_no_banned_word(package: str) -> None:
    found = [finding for path in package_files()[package] for finding in findings_in(path)]
    assert not found, "\n".join(map(str, found))


def test_no_class_is_defined_twice() -> None:
    classes = Counter(
        node.name
        for paths in package_files().values()
        for path in paths
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    twice = {name for name, count in classes.items() if count > 1}
    assert twice <= set(BANNED["duplicate_classes"]["remaining"])


def test_every_exception_is_used_and_has_a_reason() -> None:
    paths = [*markdown_files(), *(path for paths in package_files().values() for path in paths)]
    for entry in BANNED.get("except", []):
        assert len(entry["reason"].split()) > 2
        used = [
            finding
            for path in paths
            if fnmatch.fnmatch(named(path), entry["path"])
            for finding in findings_in(path, all_of_them=True)
            if fnmatch.fnmatch(finding.word.lower(), entry["word"].lower())
        ]
        assert used, entry


def test_the_places_of_a_word_in_python_are_found(tmp_path: Path) -> None:
    source = '''"""Return what it said."""

# whoever reads this
# across lines, is told

def said_by(mine):
    """Do it.

    Examples
    --------
    >>> said_by("who asked")  # not prose
    """
    raise ValueError(f"wanted {mine} images, found {len(mine)}")


class Shelf:
    generation = {"key": "told", "`told`": "a `road` and an `asked`"}
'''
    path = tmp_path / "example.py"
    path.write_text(source, encoding="utf-8")
    found = {(finding.line, finding.kind, finding.word) for finding in findings_in(path, tmp_path)}
    assert found == {
        (1, "prose", "said"),
        (3, "prose", "whoever"),
        (3, "prose", "told"),
        (6, "identifier", "said_by"),
        (6, "identifier", "mine"),
        (13, "prose", "wanted"),
        (16, "identifier", "Shelf"),
    }


def test_the_places_of_a_word_in_markdown_and_templates_are_found(tmp_path: Path) -> None:
    text = "# A road\n\nOne line a class, [told](asked.md) and `said`.\n\n```sh\nsaid\n```\n\n| who | asked |\n"
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    found = [(finding.line, finding.word) for finding in findings_in(tmp_path / "page.md", tmp_path)]
    assert found == [(1, "road"), (3, "told"), (3, "line a class"), (9, "asked")]
    (tmp_path / "page.jinja").write_text(
        '<p class="said">{{ said }} told</p>\n<script>// a house\nlet road = "one asked"</script>', encoding="utf-8"
    )
    found = [(finding.line, finding.word) for finding in findings_in(tmp_path / "page.jinja", tmp_path)]
    assert found == [(1, "told"), (2, "house"), (3, "asked")]


def test_ordinary_uses_are_allowed(tmp_path: Path) -> None:
    text = (
        "JSON null, `copy=False`, a file that was not found, a null byte, found by its digest, what is a class? "
        "The test copies the file. Someone else may use it. Expected 3 images, got 2."
    )
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert findings_in(tmp_path / "page.md", tmp_path) == []


def test_serialised_names_are_excepted() -> None:
    assert {"generation", "null", "unfamiliar"} <= serialised()
    assert list(banned_names(ast.parse("nulls = 1\nnull: bool = True"))) == [(1, "nulls", "baseline")]
