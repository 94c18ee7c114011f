"""What reaches a terminal: text from outside is escaped wherever it is printed, and streams that fail lose no work."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from commands import done, pipeline, refused
from made_caches import blobs, make_cache

from pipeline.cli import errors
from pipeline.cli.console import Console, escape_json, escape_text, quote_shell
from pipeline.errors import PipelineError

ESCAPE, OVERRIDE = "\x1b[31mred", "a\u202egnp.exe"
# Characters of the category "format" that are seen: signs before Arabic, Syriac, Kaithi and Egyptian numbers and words.
SEEN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}

# Printable by their category, and yet never seen.
BLANK = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0xE0000, 0xE1000)}


class ATerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_character_that_is_obeyed_or_not_seen_is_escaped() -> None:
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in SEEN:
            assert escape_text(character).startswith("\\"), hex(code)
        elif character.isprintable() and code not in BLANK:
            assert escape_text(character) == character, hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (ESCAPE, "\\x1b[31mred"),
        (OVERRIDE, "a\\u202egnp.exe"),
        ("bee\u200b", "bee\\u200b"),
        ("a\x9b31m", "a\\x9b31m"),
        ("a\tb\r\nc", "a\\tb\\r\\nc"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("\udcff", "\\udcff"),
        ("\u05d3\u05d1\u05d5\u05e8\u05d4 \u0646\u062d\u0644\u0629 蜜蜂 béé", None),  # letters of every script
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", None),  # Persian needs its joiner
        ("\U0001f468\u200d\U0001f33e", None),  # a farmer
        ("b\u200dee", "b\\u200dee"),
        ("C:\\photos\\new", None),
    ],
)
def test_names_are_shown_as_they_are_but_for_what_a_terminal_obeys(text: str, shown: str | None) -> None:
    assert escape_text(text) == (text if shown is None else shown)
    assert json.loads(escape_json(json.dumps(text, ensure_ascii=False))) == text


def test_lines_of_our_own_stay_lines() -> None:
    assert escape_text("one\ntwo\x1b", lines=True) == "one\ntwo\\x1b"


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_a_command_to_paste_holds_the_very_name() -> None:
    name = "a'b\\c\x1b\n\u202ed e"
    command = quote_shell(["printf", "%s", name])
    assert command.isprintable()
    said = subprocess.run(["bash", "-c", command], capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert said.stdout.decode() == name
    assert quote_shell(["pipeline", "fit", "my photos"]) == "pipeline fit 'my photos'"


def assert_harmless(text: str) -> None:
    assert "\x1b[31mred" not in text and "\u202e" not in text and "\x07" not in text, ascii(text)


def test_nothing_that_a_terminal_prints_is_obeyed() -> None:
    out, err = ATerminal(), ATerminal()
    with redirect_stdout(out), redirect_stderr(err):
        nasty = f"{ESCAPE}\x07\n{OVERRIDE}[bold]"
        with Console() as terminal:
            terminal.say(nasty)
            terminal.note(nasty)
            terminal.next("pipeline", nasty)
            terminal.result(nasty)
            terminal.paragraph(nasty, indent=2)
            terminal.object({nasty: nasty})
            terminal.table([nasty], [[nasty]])
            terminal.table([nasty], [[nasty]], to_stderr=True)
            terminal.stdout.print(nasty)  # by whoever has the console itself
            terminal.stderr.print(nasty)
            terminal.advance(nasty, 1, 2)
            terminal.advance(nasty, 2, 2)
    for printed in (out.getvalue(), err.getvalue()):
        assert_harmless(printed)
        assert "\\x1b[31mred" in printed and "\\u202e" in printed and "[bold]" in printed


def test_the_result_is_exact_to_a_program_and_json_has_no_raw_controls() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        terminal = Console()
        terminal.result(OVERRIDE)
        terminal.object({"id": OVERRIDE + "\x9b"})
    first, second = out.getvalue().splitlines()
    assert first == OVERRIDE
    assert_harmless(second)
    assert json.loads(second) == {"id": OVERRIDE + "\x9b"}


def test_columns_are_as_wide_as_what_is_printed() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        Console().table(["name", "n"], [["\x1b[31mred", "1"], ["b", "2"]])
    assert out.getvalue().splitlines() == ["name         n", "\\x1b[31mred  1", "b            2"]


def test_errors_and_usage_errors_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error, way = refused("extract", f"{ESCAPE}/{OVERRIDE}")
    assert error == "\\x1b[31mred/a\\u202egnp.exe: no such file or folder"
    assert_harmless(way)
    for words in (["extract", "x", f"--{ESCAPE}{OVERRIDE}"], [ESCAPE + OVERRIDE], ["cache", ESCAPE + OVERRIDE]):
        outcome = pipeline(*words)
        assert outcome.code == 2
        assert_harmless(outcome.err)
        assert "\\x1b[31mred" in outcome.err


def test_class_and_column_names_are_escaped_through_evaluate_and_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    X, y = blobs(24, apart=3.0)
    made = make_cache(tmp_path / "a.h5", X, {f"kind{ESCAPE}": [f"{OVERRIDE}{code}" for code in y]})
    outcome = done("evaluate", made.path, "--head", "centroid", "--cv", "2", "--jobs", "1")
    assert_harmless(outcome.out + outcome.err)
    assert outcome.lines[0].startswith("kind\\x1b[31mred ")
    said = done("evaluate", made.path, "--head", "centroid", "--cv", "2", "--jobs", "1", "--json").out
    assert_harmless(said)
    assert json.loads(said)["label_sets"][0]["classes"] == [f"{OVERRIDE}{code}" for code in range(3)]


def test_tracebacks_warnings_and_threads_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    with redirect_stderr(err), monkeypatch.context() as patched:
        patched.setattr(warnings, "formatwarning", warnings.formatwarning)
        patched.setattr("threading.excepthook", lambda about: None)
        errors.escape_other_output()
        assert_harmless(warnings.formatwarning(OVERRIDE + ESCAPE, UserWarning, "x.py", 1))
        errors.print_traceback(ValueError(OVERRIDE + ESCAPE))
    assert err.getvalue().endswith("ValueError: a\\u202egnp.exe\\x1b[31mred\n")
    assert_harmless(err.getvalue())


def in_a_shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = command.replace("PIPELINE", f"{sys.executable} -m pipeline")
    return subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
class TestStreams:
    @pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
    def test_a_closed_stream_changes_neither_result_nor_exit_code(self, closed: str, tmp_path: Path) -> None:
        X, y = blobs(24, apart=3.0)
        make_cache(tmp_path / "a.h5", X, {"kind": [str(code) for code in y]})
        ended = in_a_shell(f"PIPELINE cache remove a.h5 {closed}", tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == ("removed a.h5\n" if closed == "2>&-" else "")
        assert not (tmp_path / "a.h5").exists()
        ended = in_a_shell(f"PIPELINE cache remove a.h5 {closed}", tmp_path)
        assert (ended.returncode, ended.stdout) == (1, "")

    def test_a_reader_of_the_messages_that_leaves_stops_nothing(self, tmp_path: Path) -> None:
        X, y = blobs(24, apart=3.0)
        make_cache(tmp_path / "a.h5", X, {"kind": [str(code) for code in y]})
        command = "PIPELINE evaluate a.h5 --head centroid --cv 2 --jobs 1 2>&1 | true; exit ${PIPESTATUS[0]}"
        ended = in_a_shell(command, tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert (tmp_path / "runs" / "made" / "run.json").exists()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    @pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1"])
    def test_a_full_disk_is_an_error_for_the_result_alone(self, unbuffered: str, tmp_path: Path) -> None:
        ended = in_a_shell(f"{unbuffered} PIPELINE heads centroid >/dev/full", tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.splitlines() == [
            "error: the system refused: No space left on device",
            "try: free space on the disk, then run the same command again",
        ]
        ended = in_a_shell(f"{unbuffered} PIPELINE cache list 2>/dev/full", tmp_path)
        assert ended.returncode == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError(
            "A worker process was unexpectedly terminated.\n\nThe exit codes of the workers are {SIGKILL(-9)}"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_runs_out_is_two_lines(error: BaseException) -> None:
    def command() -> None:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("within a library") from cause

    err = io.StringIO()
    with redirect_stderr(err), pytest.raises(SystemExit) as end:
        errors.handle_errors(command)()
    assert end.value.code == 1
    first, second = err.getvalue().splitlines()
    assert first.startswith("error: expected enough memory for this command, got: ")
    assert second.startswith("try: use a smaller --batch-size or --jobs 1")


@pytest.mark.parametrize("error", [ValueError("memory of an elephant"), BrokenPipeError(32, "Broken pipe")])
def test_other_errors_are_not_taken_for_memory(error: Exception) -> None:
    def command() -> None:
        raise error

    with pytest.raises((ValueError, RuntimeError)) as raised:
        errors.handle_errors(command)()
    assert raised.value is error or raised.value.__cause__ is error


def test_a_message_of_several_lines_is_two_lines() -> None:
    def command() -> None:
        raise PipelineError("expected a,\ngot b\x1b", "do c\n\nor d")

    err = io.StringIO()
    with redirect_stderr(err), pytest.raises(SystemExit):
        errors.handle_errors(command)()
    assert err.getvalue() == "error: expected a, got b\\x1b\ntry: do c or d\n"
