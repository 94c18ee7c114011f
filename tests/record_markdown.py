"""Run the commands of the documentation again and write what they print into its blocks.

    python tests/record_markdown.py                            # the guide, the how-to pages, why_is_my_score_lower
    python tests/record_markdown.py --readme PHOTOS NEW.jpg    # README, over a folder with one folder per class

Run it after a change of messages or tables, and read the difference before it is committed. Each line that is shown is
replaced by the most similar line that was printed; `...` stays. A block whose words are all printed is left as it is,
whatever its figures (`--figures` replaces them too). A line that resembles no printed one is kept and named on stderr.
Blocks of `text` after a block of `sh` are recorded too, if all commands of that block run here.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from commands import pipeline
from markdown_commands import fenced, without_figures

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"
GAP = "..."
FIGURES = False  # replace figures too
KEYS = re.compile(r"-[0-9a-f]{12}(?:-[0-9a-f]{8})?\b")  # of a cache: they depend on the folder
NOT_HERE = (
    "resnet",
    "study",
    "dask",
    "cuda",
    "mlflow",
    "serve",
    "bees.model",
    "wrong.csv",
    "/media",
    "curl",
    "webbrowser",
)


def words_of(line: str) -> str:
    """Return a line without its figures and the keys of caches."""
    return without_figures(KEYS.sub("-0", line))


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def printed_by(command: str) -> list[str] | None:
    """Return the lines that a command prints, or None if it cannot be started."""
    if not command.startswith("pipeline "):
        ended = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=600)
        return None if ended.returncode else ended.stdout.splitlines()
    outcome = pipeline(*shlex.split(command, comments=True)[1:])
    return None if outcome.code not in (0, 1) else [*outcome.out.splitlines(), *outcome.err.splitlines()]


def recorded(shown: list[str], printed: list[str], where: str) -> list[str]:
    """Return the shown lines, each replaced by the printed line that resembles it most."""
    left = [line.rstrip() for line in printed]
    if not FIGURES and {words_of(line) for line in shown} <= {words_of(line) for line in [GAP, "", *left]}:
        return shown
    lines = []
    for line in shown:
        if line in (GAP, "") or not left:
            lines.append(line)
            continue

        def likeness(other: str, line: str = line) -> float:
            return SequenceMatcher(None, words_of(line), words_of(other), autojunk=False).ratio()

        best = max(left, key=likeness)
        if likeness(best) < 0.55:
            print(f"{where}: no printed line resembles {line!r}", file=sys.stderr)
            lines.append(line)
            continue
        left.remove(best)
        keys = iter(KEYS.findall(line))
        lines.append(KEYS.sub(lambda match, keys=keys: next(keys, match[0]), best))
    return lines


def follow(text: str, where: str) -> str:
    """Run a page in the current folder and return it with its output as it is printed now."""
    names: dict[str, Any] = {}
    blocks = fenced(text)
    new: dict[int, str] = {}
    for number, (language, block) in enumerate(blocks):
        after = blocks[number + 1] if number + 1 < len(blocks) else ("", "")
        printed: list[str] | None = None
        if language == "console":
            new[number] = "".join(_session(part, where) for part in re.split(r"(?m)^(?=\$ )", block) if part)
        elif language == "python":
            out = io.StringIO()
            with redirect_stdout(out):
                exec(compile(block, where, "exec"), names)
            printed = out.getvalue().splitlines()
        elif language == "sh" and after[0] == "text" and "how_to" in where and not any(w in block for w in NOT_HERE):
            results = [printed_by(line) for line in block.splitlines() if line.startswith("pipeline ")]
            printed = None if None in results else [line for result in results for line in result or []]
        if printed and after[0] == "text":
            new[number + 1] = "\n".join(recorded(after[1].splitlines(), printed, where)) + "\n"
    count = iter(range(len(blocks)))

    def replaced(match: re.Match[str]) -> str:
        return match[1] + new.get(next(count), match[2]) + match[3]

    return re.sub(r"(?ms)^(```[^\n`]*\n)(.*?)(^```$)", replaced, text)


def _session(part: str, where: str) -> str:
    command, *shown = part.rstrip("\n").split("\n")
    blank = "\n" * (len(part) - len(part.rstrip("\n")))
    printed = printed_by(command.removeprefix("$ "))
    lines = shown if printed is None else recorded(shown, printed, where)
    return "\n".join([command, *lines]) + blank


def record_pages() -> None:
    pages = [DOCS / "why_is_my_score_lower.md", DOCS / "guide.md", *sorted((DOCS / "how_to").glob("[!i]*.md"))]
    with tempfile.TemporaryDirectory() as folder:
        work, kept = Path(folder, "work"), Path(folder, "kept")
        work.mkdir()
        with inside(work):
            follow((DOCS / "how_to" / "index.md").read_text(encoding="utf-8"), "index.md")
            pipeline("extract", "photos/")
        shutil.copytree(work, kept)
        for page in pages:
            shutil.rmtree(work)
            shutil.copytree(kept, work)
            with inside(work):
                text = follow(page.read_text(encoding="utf-8"), f"{page.parent.name}/{page.name}")
            page.write_text(text, encoding="utf-8")


def record_readme(photos: Path, photo: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(photos, Path(folder, "photos"))
        shutil.copy(photo, Path(folder, "new.jpg"))
        text = README.read_text(encoding="utf-8")
        python = re.search(r"(?ms)^```python\n.*?^```$", text)
        with inside(Path(folder)):
            text = follow(text.replace(python[0], "PYTHON") if python else text, "README.md")
        README.write_text(text.replace("PYTHON", python[0]) if python else text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the output of the documentation's commands again.")
    parser.add_argument("--readme", nargs=2, type=Path, metavar=("PHOTOS", "PHOTO"), help="record README instead")
    parser.add_argument("--figures", action="store_true", help="replace figures too")
    options = parser.parse_args()
    globals()["FIGURES"] = options.figures
    if options.readme:
        record_readme(*(path.resolve() for path in options.readme))
    else:
        record_pages()


if __name__ == "__main__":
    main()
