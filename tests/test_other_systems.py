"""Commands without what Windows and macOS lack; and names of files that Windows has too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import class_folders

import pipeline as pl
from pipeline.cache.create import RawFile
from pipeline.images.listing import short_name

HERE = Path(__file__).parent

COMMANDS = [
    ["--help"],
    ["extract", "photos", "--jobs", "1", "--device", "cpu"],
    ["evaluate", "photos", "--cv", "2", "--jobs", "1", "--device", "cpu", "--out", "run"],
    ["fit", "photos", "--cv", "2", "--jobs", "1", "--device", "cpu", "--out", "m.model"],
    ["predict", "m.model", "new", "--jobs", "1", "--device", "cpu"],
    ["score", "m.model", "new", "--jobs", "1", "--device", "cpu"],
    ["report", "run"],
    ["serve", "m.model", "--port", "0", "--jobs", "1", "--device", "cpu"],
    ["study", "photos", "--head", "ridge", "--budget", "0.05", "--jobs", "1", "--device", "cpu", "--out", "study"],
    ["export", "m.model", "--out", "exported"],
    ["cache", "list"],
    ["cache", "verify", "{cache}"],
    ["doctor", "--json"],
]


def test_every_command_runs_without_the_calls_of_posix(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", 8)
    class_folders(tmp_path / "new", 2, first=50)
    (tmp_path / "commands.json").write_text(json.dumps(COMMANDS), encoding="utf-8")
    words = [sys.executable, str(HERE / "without_posix.py"), str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stderr
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [one["words"] for one in found] == COMMANDS
    for one in found:
        assert one["code"] == 0, (one["words"], one["err"])
    assert len(found[4]["out"].splitlines()) == 5  # a header and a row per photo
    served = found[7]
    assert served["status"] == 200 and served["label"] in ("ants", "bees"), served
    assert (tmp_path / "study" / "study.json").is_file()
    assert list((tmp_path / "exported").glob("*.onnx")) or (tmp_path / "exported").is_file()


def test_rows_are_written_at_their_place_without_pwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pwrite", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with RawFile(tmp_path / "rows", new=True) as rows:
        rows._write_at(6, b"later\r\n")
        rows._write_at(0, b"first\n")
    assert (tmp_path / "rows").read_bytes() == b"first\nlater\r\n"


@pytest.mark.parametrize(
    "name",
    ["aux", "CON", "nul.photos", "com1", "Lpt9.2024", "photos. ", "a:b", 'a?b*<c>|"d"', "x" * 300, "c:\\photos", " . "],
)
def test_names_that_become_files_are_legal_on_windows(name: str) -> None:
    """No device name, no forbidden character, no dot or space at the end, and short enough below a long folder."""
    kept = short_name(name)
    assert re.fullmatch(r"[\w.-]{1,47}", kept)
    assert kept[-1] not in ". "
    assert not re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", kept.partition(".")[0], re.IGNORECASE)


def test_a_folder_called_as_a_device_gives_a_run_and_a_cache_of_legal_names(tmp_path: Path) -> None:
    source = pl.ImageSource.open(class_folders(tmp_path / "aux", 2))
    assert source.name == "images_aux"
    assert short_name("auxiliary") == "auxiliary" and short_name("console.jpg") == "console.jpg"
