"""README keeps its word: commands parse, Python runs, the map of rooms is the house, links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from commands import class_folders, done, photo, refused
from prose import (
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
from test_architecture import ROOMS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))


def test_there_are_commands_to_check() -> None:
    assert len(commands(README)) > 30
    assert [command for command in commands(README) if command.startswith("pipeline evaluate photos/ --labels")]


@pytest.mark.parametrize("command", commands(README))
def test_a_command_parses(command: str) -> None:
    parse(command)


def test_every_command_is_documented() -> None:
    for name in leaves(the_app()):
        assert any(f"{text} ".startswith(f"{name} ") for text in commands(README)), name


def test_every_option_that_is_named_exists() -> None:
    named = named_options(spans(README))
    assert named - {"--help"} <= options(the_app())
    assert len(named) > 15


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
    class_folders(tmp_path / "photos", 8)
    rows = [
        f"{kind}/{number:02d}.png,{kind},{'male' if number % 2 else 'female'},p{number % 4}"
        for kind in ("ants", "bees")
        for number in range(8)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["id,species,sex,patient", *rows]), encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["photos"].ids[0] == "ants/00.png"
    assert [info.name for info in names["run"].label_sets] == ["species", "sex"]
    assert list(names["answers"]["id"]) == names["photos"].ids and not names["answers"]["error"].any()
    assert names["X"].shape == (16, 1280) and set(names["y"]) == {"ants", "bees"}
    assert (tmp_path / "bees.model" / "model.json").is_file()


def test_the_first_screen_shows_what_the_commands_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are those of other photos; what stands around them is compared word by word."""
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos", 8)
    photo(tmp_path / "new.jpg", "bees", 99)
    evaluated = done("evaluate", "photos/")
    fitted = done("fit", "photos/", "--out", "bees.model")
    predicted = done("predict", "bees.model", "new.jpg")
    shown = shown_after("pipeline evaluate photos/")
    for line in (*evaluated.err.splitlines()[:1], *evaluated.lines[:1], *evaluated.err.splitlines()[-2:]):
        assert without_figures(line) in shown
    assert {line.split()[0] for line in evaluated.lines} <= {line.split()[0] for line in shown}
    shown = shown_after("pipeline fit photos/ --out bees.model")
    for line in (*fitted.lines, *fitted.err.splitlines()[-1:]):
        assert without_figures(line) in shown
    shown = shown_after("pipeline predict bees.model new.jpg")
    assert without_figures(predicted.lines[0]) == shown[0]
    assert without_figures(predicted.err.splitlines()[-1]) == shown[-1]


def test_the_error_that_is_shown_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos", 8)
    said = refused("evaluate", "photos/", "--cv", "200")
    shown = shown_after("pipeline evaluate photos/ --cv 200")
    wanted = [f"{word}: {text}".replace("'ants'", "'bees'") for word, text in zip(("error", "try"), said, strict=True)]
    assert [line.partition(" of '")[0] for line in shown] == [
        without_figures(text).partition(" of '")[0] for text in wanted
    ]


def shown_after(command: str) -> list[str]:
    """Return what README shows under a command, without its figures."""
    shown = [lines for block in blocks(README, "console") for said, lines in sessions(block) if said == command]
    return [without_figures(line) for line in shown[0]]


def test_the_map_of_rooms_is_the_house() -> None:
    table = re.findall(r"^\| `pipeline/(\w+)(\.py|/)` \| (.+) \|$", README, re.MULTILINE)
    assert [name for name, _, _ in table] == list(ROOMS)
    for name, ending, said in table:
        assert (ROOT / "pipeline" / name).is_dir() == (ending == "/")
        assert (ROOT / "pipeline" / f"{name}.py").is_file() == (ending == ".py")
        assert 5 < len(said) < 100


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CHANGELOG.md", *DECISIONS], ids=lambda path: path.name)
def test_a_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_decisions_are_numbered_and_linked() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04d}" for number in range(1, len(DECISIONS) + 1)]
    for path in DECISIONS:
        title, _, text = path.read_text(encoding="utf-8").partition("\n")
        assert title.startswith(f"# {int(path.name[:4])}. ")
        assert f"docs/decisions/{path.name}" in README
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
