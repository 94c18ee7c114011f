"""The command line, run in this process: what it printed on each stream, and its exit code."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"ants": (150, 60, 40), "bees": (190, 170, 60), "wasps": (60, 90, 160)}


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def next_command(self) -> list[str]:
        """The words of the `next:` line."""
        return self._command("next: ")

    @property
    def then_command(self) -> list[str]:
        """The words of the `then:` line."""
        return self._command("then: ")

    def _command(self, when: str) -> list[str]:
        (line,) = [line for line in self.err.splitlines() if line.startswith(when)]
        return shlex.split(line.removeprefix(when))

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def pipeline(*words: object) -> Outcome:
    """Run one command; whatever it raises that is no exit code is this test's failure."""
    from pipeline.cli.app import app

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            app([str(word) for word in words], prog_name="pipeline")
        except SystemExit as end:
            code = end.code
    return Outcome(int(code or 0), out.getvalue(), err.getvalue())


def done(*words: object) -> Outcome:
    """Run one command that is to succeed."""
    outcome = pipeline(*words)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*words: object) -> tuple[str, str]:
    """Run one command that is to be refused; return what stands after `error:` and after `try:`, the only two lines."""
    outcome = pipeline(*words)
    assert outcome.code == 1, (outcome.code, outcome.out, outcome.err)
    assert outcome.out == ""
    lines = [line for line in outcome.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 2, outcome.err
    assert lines[0].startswith("error: ") and lines[1].startswith("try: "), outcome.err
    return lines[0].removeprefix("error: "), lines[1].removeprefix("try: ")


def in_a_process(*words: object, cwd: Path, module: Sequence[str] = ("-m", "pipeline")) -> Outcome:
    """Run one command in a process of its own."""
    command = [sys.executable, *module, *(str(word) for word in words)]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def photo(path: Path, kind: str, seed: int, *, size: int = 32) -> Path:
    """Write a small noisy photo of one class."""
    rng = np.random.default_rng([seed, *kind.encode()])
    pixels = rng.normal(COLOURS[kind], 30, (size, size, 3)).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def class_folders(root: Path, count: int = 12, kinds: Sequence[str] = ("ants", "bees"), *, first: int = 0) -> Path:
    """Write `count` photos of each class into a folder of its name: ``ants/00.png``, ..."""
    for kind in kinds:
        for seed in range(first, first + count):
            photo(root / kind / f"{seed:02d}.png", kind, seed)
    return root
