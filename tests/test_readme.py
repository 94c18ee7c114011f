"""README: its commands parse, its Python runs, its output is what the commands print, its links work, it is short."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import class_folders, done, photo, refused
from markdown_commands import (
    SHELL,
    blocks,
    commands,
    leaves,
    named_options,
    options,
    parse,
    sessions,
    spans,
    the_app,
    without_figures,
)
from PIL import Image
from test_architecture import PACKAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))


def test_readme_is_short_and_its_first_screen_has_a_picture_install_and_three_commands() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    first = "\n".join(lines[:40])
    ((alt, picture),) = re.findall(r"^!\[([^\]]+)\]\(([^)]+)\)", first, re.MULTILINE)
    assert len(alt.split()) > 20
    path = ROOT / picture
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width >= 900
    assert "pip install ." in first
    assert [command.split()[1] for command in commands(first)[:3]] == ["evaluate", "report", "fit"]


def test_readme_explains_a_word_before_it_is_used() -> None:
    glossary = re.findall(r"^\| ([a-z ]+) \| ", README.partition("| word |")[2].partition("\n\n")[0], re.MULTILINE)
    assert len(glossary) == 8
    for word in ("embedding", "head", "fold", "cache", "backbone"):
        first = re.search(rf"\b{word}s?\b", re.sub(r"!\[[^\]]*\]", "", README))
        assert word in glossary and first is not None
        assert README.index("| word |") < README.index(first[0], first.start()), word


def test_there_are_commands_to_check() -> None:
    assert len(commands(README)) > 12
    assert [command for command in commands(README) if command.startswith("pipeline evaluate photos/ --labels")]


@pytest.mark.parametrize("command", commands(README))
def test_a_command_parses(command: str) -> None:
    parse(command)


def test_the_guide_has_every_command() -> None:
    for name in leaves(the_app()):
        assert any(f"{text} ".startswith(f"{name} ") for text in commands(GUIDE)), name


def test_every_option_that_is_named_exists() -> None:
    named = named_options([piece for piece in spans(README) if not piece.startswith("pip ")])
    assert named - {"--help"} <= options(the_app())
    assert len(named) >= 3


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for text in blocks(README, *SHELL) for line in text.splitlines()]
    named = {match[1] for text in [*lines, *spans(README)] if (match := re.match(r"make (\w+)", text))}
    assert named >= {"demo", "test", "check"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_python_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(README, "python")
    monkeypatch.chdir(tmp_path)
    assert len(re.findall(r"^\w.*", code, re.MULTILINE)) == 8
    class_folders(tmp_path / "photos", 8)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert [info.name for info in names["run"].label_sets] == ["label"]
    assert list(names["table"]["id"]) == list(names["cache"].ids) and not names["table"]["error"].any()
    assert names["X"].shape == (16, 1280) and set(names["y"]) == {"ants", "bees"}
    assert (tmp_path / "bees.model" / "model.json").is_file()


def test_the_transcript_shows_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are those of other photos; the words around them are compared."""
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos", 8)
    photo(tmp_path / "new.jpg", "bees", 99)
    evaluated = done("evaluate", "photos/")
    reported = done("report", "runs/photos")
    fitted = done("fit", "photos/", "--out", "bees.model")
    predicted = done("predict", "bees.model", "new.jpg")
    shown = shown_after("pipeline evaluate photos/")
    for line in (*evaluated.err.splitlines()[:1], *evaluated.lines[:1], *evaluated.err.splitlines()[-2:]):
        assert without_figures(line) in shown
    assert {line.split()[0] for line in evaluated.lines} <= {line.split()[0] for line in shown}
    assert without_figures(reported.lines[0]) in shown_after("pipeline report runs/photos")
    shown = shown_after("pipeline fit photos/ --out bees.model")
    for line in (*fitted.lines, *fitted.err.splitlines()[-1:]):
        assert without_figures(line) in shown
    shown = shown_after("pipeline predict bees.model new.jpg")
    assert without_figures(predicted.lines[0]) == shown[0]
    assert without_figures(predicted.err.splitlines()[-1]) == shown[-1]


def test_the_error_that_is_shown_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos", 8)
    printed = refused("evaluate", "photos/", "--cv", "200")
    shown = shown_after("pipeline evaluate photos/ --cv 200")
    expected = [f"{word}: {text}" for word, text in zip(("error", "try"), printed, strict=True)]
    assert [line.partition(" of '")[0] for line in shown] == [
        without_figures(text).partition(" of '")[0] for text in expected
    ]


def shown_after(command: str) -> list[str]:
    """Return the output that README shows for a command, without its figures."""
    shown = [lines for block in blocks(README, "console") for typed, lines in sessions(block) if typed == command]
    return [without_figures(line) for line in shown[0]]


def test_contributing_lists_every_package_in_the_order_of_imports() -> None:
    table = re.findall(r"^\| `pipeline/(\w+)(\.py|/)` \| (.+) \|$", CONTRIBUTING, re.MULTILINE)
    assert [name for name, _, _ in table] == list(PACKAGES)
    for name, ending, _ in table:
        assert (ROOT / "pipeline" / name).is_dir() == (ending == "/")
        assert (ROOT / "pipeline" / f"{name}.py").is_file() == (ending == ".py")


def test_every_file_that_contributing_names_exists() -> None:
    named = re.findall(r"`((?:pipeline|tests|docs|benchmarks|features_cache)/[\w./-]+)`", CONTRIBUTING)
    assert len(named) > 30
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing <= {f"pipeline/cli/{name}.py" for name in ("train", "use", "maintenance")}  # files that are coming


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DECISIONS],
    ids=lambda path: path.name,
)
def test_a_link_has_a_target(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_decisions_are_numbered_and_linked() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04d}" for number in range(1, len(DECISIONS) + 1)]
    for path in DECISIONS:
        title, _, text = path.read_text(encoding="utf-8").partition("\n")
        assert title.startswith(f"# {int(path.name[:4])}. ")
        assert f"]({path.name})" in INDEX
        assert "**Context.**" in text and "**Decision.**" in text
        assert len(text.split()) < 450, f"{path.name} is longer than half a page"


def test_a_file_that_a_decision_names_exists() -> None:
    for path in DECISIONS:
        for name in re.findall(r"`((?:pipeline|tests|features_cache)/[\w/.]+)`", path.read_text(encoding="utf-8")):
            if name != "features_cache/graphs/":  # made when the first graph is stored
                assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_the_changelog_knows_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
