"""A flag is the keyword of the Python function; help is cheap and complete; every ending has its exit code."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import class_folders, done, in_a_process, pipeline, refused
from made_caches import blobs, make_cache, names

from pipeline.cache import STORED, FeatureCache
from pipeline.cli import maintenance, train, use
from pipeline.cli.app import app
from pipeline.demo import run_demo
from pipeline.errors import PipelineError

# The only flags that are not their keyword's own name.
RENAMED = {
    "--jobs": "n_jobs",
    "--seed": "random_state",
    "--head": "heads",
    "--id": "id_column",
    "--json": "as_json",
    "--no-nested": "nested",
    "--no-weights": "weights",
}
RENAMED_OF = {("study", "--head"): "head"}  # one alone
PYTHON_ALONE = {"self", "progress", "limits", "ready", "report", "uri"}
OWN = {"ctx", "as_json", "quiet"}  # of the command line alone
# Where a command makes a file of what its function returns.
OWN_OF = {
    "evaluate": set(),
    "predict": {"out", "model", "format", "csv"},
    "score": {"model"},
    "serve": set(),
    "fit": set(),
    "extract": set(),
    "export": {"model"},
    "study": set(),
    "report": {"mlflow"},  # whether to log at all, and where
}
COMMANDS = {
    "extract": train.extract_command,
    "evaluate": train.evaluate_command,
    "fit": train.fit_command,
    "predict": use.predict_command,
    "score": use.score_command,
    "study": train.study_command,
    "report": use.report_command,
    "export": use.export_command,
    "serve": use.serve_command,
}
# The root command is a group of commands: `cache` holds four more.
ROOT = typer.main.get_command(app)


def functions() -> dict[str, list[Callable[..., Any]]]:
    """The functions whose keywords the flags of a command are."""
    from pipeline.evaluation import evaluate
    from pipeline.extraction import extract
    from pipeline.model import Model, fit
    from pipeline.report.html.write import write_report
    from pipeline.report.mlflow import log_report
    from pipeline.server import serve
    from pipeline.studies import study

    return {
        "extract": [extract],
        "evaluate": [evaluate],
        "fit": [fit, evaluate],  # `fit` hands on every option of `evaluate`
        "predict": [Model.predict],
        "score": [Model.score],
        "export": [Model.export],
        "study": [study],
        "report": [write_report, log_report],
        "serve": [serve],
    }


def keywords(name: str) -> dict[str, Any]:
    """The function's keywords with their defaults."""
    found: dict[str, Any] = {}
    for function in functions()[name]:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in PYTHON_ALONE:
                found[parameter.name] = parameter.default
    return found


def commands() -> dict[str, Any]:
    """Every command, by the words that call it."""
    found = {}
    for name, command in ROOT.commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {word}": item for word, item in inner.items()}
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_a_keyword_and_every_keyword_has_a_flag(name: str) -> None:
    on_the_command_line = set(inspect.signature(COMMANDS[name]).parameters) - OWN - OWN_OF[name]
    assert on_the_command_line == set(keywords(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_has_the_default_of_its_keyword(name: str) -> None:
    wanted = keywords(name)
    for parameter in inspect.signature(COMMANDS[name]).parameters.values():
        if parameter.name in OWN | OWN_OF[name] or parameter.default is parameter.empty:
            continue
        default = wanted[parameter.name]
        if parameter.default is None:
            # Typer's only way to tell a flag that was not given: the command then hands on the function's own default.
            assert default in (None, (), "efficientnet_lite0", "penultimate"), parameter.name
        else:
            assert parameter.default == default, parameter.name


def test_what_is_not_given_reaches_the_function_as_its_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    heard: dict[str, Any] = {}

    def listen(name: str) -> Callable[..., Any]:
        def function(*_: Any, **given: Any) -> Any:
            heard[name] = given
            raise PipelineError("heard", "nothing")

        return function

    calls = {
        "extract": ["extract", "x"],
        "evaluate": ["evaluate", "x"],
        "fit": ["fit", "x", "--out", "y"],
    }
    wanted = {name: keywords(name) for name in calls}
    monkeypatch.setattr("pipeline.extraction.extract", listen("extract"))
    monkeypatch.setattr("pipeline.evaluation.evaluate", listen("evaluate"))
    monkeypatch.setattr("pipeline.model.fit", listen("fit"))
    for name, words in calls.items():
        assert refused(*words) == ("heard", "nothing")
        for keyword in ("progress", "out", "run"):
            heard[name].pop(keyword, None)
        # What is not passed on keeps the function's own default.
        assert heard[name].items() <= wanted[name].items() and "data" not in heard[name]


def test_a_flag_is_named_as_its_keyword() -> None:
    for name, command in commands().items():
        for parameter in command.params:
            for flag in [*parameter.opts, *parameter.secondary_opts]:
                if not flag.startswith("--") or flag == "--help":
                    continue
                keyword = RENAMED_OF.get((name, flag)) or RENAMED.get(flag, flag.removeprefix("--").replace("-", "_"))
                assert keyword == parameter.name, f"{name} {flag}"


def test_demo_has_the_keywords_of_its_function() -> None:
    ours = inspect.signature(maintenance.demo_command).parameters
    theirs = inspect.signature(run_demo).parameters
    assert set(ours) - OWN == set(theirs) - {"progress"}
    assert {name: ours[name].default for name in set(ours) - OWN} == {
        name: theirs[name].default for name in ours.keys() - OWN
    }


GROUPS = ["Features", "Labels", "Heads", "Output", "Advanced"]


@pytest.mark.parametrize("name", commands())
def test_common_options_come_first_and_the_others_in_groups(name: str) -> None:
    options = [parameter for parameter in commands()[name].params if parameter.param_type_name == "option"]
    panels = [getattr(parameter, "rich_help_panel", None) for parameter in options]
    common = [panel for panel in panels if panel is None]
    assert panels[: len(common)] == common and len(common) + 1 <= 12  # with --help
    rest = panels[len(common) :]
    assert rest == sorted(rest, key=GROUPS.index)
    assert len(options) + 1 <= 35


@pytest.mark.parametrize("name", commands())
def test_every_help_has_an_example_that_parses(name: str) -> None:
    command = commands()[name]
    words = re.search(r"Example: pipeline (.*)", command.help)
    assert words, name
    rest = words[1].removeprefix(name).split()
    assert len(rest) < len(words[1].split())
    command.make_context(name, rest)


@pytest.mark.parametrize(
    ("words", "message", "step"),
    [
        ("evaluate --cvv 3 x", "pipeline evaluate: there is no option --cvv", "pipeline evaluate --cv ..."),
        ("evaluate", "pipeline evaluate: expected DATA, got nothing", "pipeline evaluate --help"),
        ("fit x", "pipeline fit: expected --out, got nothing", "pipeline fit --help"),
        ("evalute x", "pipeline: there is no command 'evalute'", "pipeline evaluate"),
        ("cache lst", "pipeline cache: there is no command 'lst'", "pipeline cache list"),
        ("report a b", "pipeline report: expected no further argument, got b", "pipeline report --help"),
        ("report a\x1b[31m b", r"pipeline report: expected no further argument, got b", "pipeline report --help"),
    ],
)
def test_a_usage_error_has_two_lines_and_exit_code_2(words: str, message: str, step: str) -> None:
    outcome = pipeline(*words.split(" "))
    assert (outcome.code, outcome.err) == (2, f"error: {message}\ntry: {step}\n")


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_names_every_option(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    command = commands().get(name, ROOT)
    for flag in ("--help", "-h"):
        text = done(*name.split(), flag).out
        for parameter in command.params:
            for option in [*parameter.opts, *parameter.secondary_opts]:
                if option.startswith("-"):
                    assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), option
            assert parameter.param_type_name == "argument" or getattr(parameter, "help", ""), parameter.name
        # A default in square brackets is not eaten as markup.
        if "--backbone" in text:
            assert "efficientnet_lite0" in text


def test_help_and_import_load_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "sklearn", "numpy", "scipy", "pandas", "h5py", "joblib", "PIL")
    listing = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    run = "import contextlib, sys; from pipeline.cli import main; sys.argv[1:] = {!r}.split()\n"
    run += "with contextlib.suppress(SystemExit): main()"
    for action in (
        "import pipeline",
        "import pipeline; dir(pipeline)",
        run.format("--help"),
        run.format("fit --help"),
    ):
        outcome = in_a_process(module=("-c", f"{action}\n{listing}"), cwd=tmp_path)
        assert outcome.code == 0, outcome.err
        loaded = outcome.lines[-1].split()
        assert not set(heavy) & set(loaded)


def test_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert done("--version").out == f"{version('transfer-pipeline')}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["extract"],
        ["extract", "x", "--no-such-flag"],
        ["extract", "x", "--batch-size", "many"],
        ["extract", "x", "--batch-size", "0"],
        ["extract", "x", "--jobs", "0"],
        ["extract", "x", "--recheck", "-1"],
        ["evaluate", "x", "--cv", "1"],
        ["evaluate", "x", "--seed", "-1"],
        ["fit", "x"],
        ["predict", "x.model"],
        ["predict", "x.model", "y", "--top", "0"],
        ["cache", "forget", "x"],
        ["no-such-command"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(words: list[str]) -> None:
    outcome = pipeline(*words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert re.fullmatch(r"error: .+\ntry: pipeline .*\n", outcome.err)


@pytest.mark.parametrize(
    ("words", "expected", "step"),
    [
        (["--precision", "fp64"], "fp32, bf16, fp16", "--precision fp32"),
        (["--store", "fp8"], "fp32 or fp16", "--store fp32"),
        (["--decode", "quick"], "exact or fast", "--decode exact"),
        (["--device", "tpu"], "auto, cpu, cuda", "--device auto"),
        (["--on-error", "panic"], "skip or stop", "--on-error skip"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["extract", "evaluate"])
def test_wrong_choices_say_what_there_is(
    command: str, words: list[str], expected: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "photos", 2)
    error, way = (
        refused(command, "photos", "--cv", "2", *words) if command == "evaluate" else refused(command, "photos", *words)
    )
    assert expected in error and repr(words[1]) in error
    assert way == step
    assert not list(tmp_path.glob("features_cache/*.h5"))


def interrupted(
    words: list[str], cwd: Path, until: Callable[[int], bool], number: int = signal.SIGINT
) -> subprocess.CompletedProcess[str]:
    """Run a command in a terminal's own way, and press Ctrl-C (or send a signal) once `until` holds of its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not until(process.pid) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, number)  # as a terminal does: to the command and to all of its workers
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def assert_stopped(ended: subprocess.CompletedProcess[str], code: int = 130) -> None:
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == "", ended.stdout
    lines = [line for line in ended.stderr.splitlines() if line and not line.startswith("note: ")]
    assert lines == ["nothing lost; run the same command to go on"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc")
class TestCtrlC:
    def test_while_libraries_load(self, tmp_path: Path) -> None:
        class_folders(tmp_path / "photos", 2)

        def loads(pid: int) -> bool:
            return (
                "libtorch" in Path(f"/proc/{pid}/maps").read_text()
                or "openblas" in Path(f"/proc/{pid}/maps").read_text()
            )

        assert_stopped(interrupted(["extract", "photos"], tmp_path, loads))

    def test_while_extracting_keeps_what_is_done(self, tmp_path: Path) -> None:
        class_folders(tmp_path / "photos", 150)

        def some_are_stored(pid: int) -> bool:
            return any(
                (FeatureCache.open(path).status == STORED).any() for path in tmp_path.glob("features_cache/*.h5")
            )

        words = ["extract", "photos", "--jobs", "1"]
        assert_stopped(interrupted(words, tmp_path, some_are_stored))
        (path,) = tmp_path.glob("features_cache/*.h5")
        cache = FeatureCache.open(path)
        assert 0 < (cache.status == STORED).sum() < 300
        assert not cache.damaged().size

    def test_sigterm_keeps_what_is_done_and_ends_with_143(self, tmp_path: Path) -> None:
        class_folders(tmp_path / "photos", 150)

        def some_are_stored(pid: int) -> bool:
            return any(
                (FeatureCache.open(path).status == STORED).any() for path in tmp_path.glob("features_cache/*.h5")
            )

        words = ["extract", "photos", "--jobs", "1"]
        assert_stopped(interrupted(words, tmp_path, some_are_stored, signal.SIGTERM), 143)
        (path,) = tmp_path.glob("features_cache/*.h5")
        cache = FeatureCache.open(path)
        assert 0 < (cache.status == STORED).sum() < 300
        assert not cache.damaged().size

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_while_workers_learn_stops_them_too(self, number: int, code: int, tmp_path: Path) -> None:
        X, y = blobs(3000, 200)
        cache = make_cache(tmp_path / "made.h5", X, {"label": names(y)})

        def workers(pid: int) -> list[str]:
            found = []
            for path in Path("/proc").glob("[0-9]*"):
                try:
                    if os.getpgid(int(path.name)) == pid and b"LokyProcess" in (path / "cmdline").read_bytes():
                        found.append(path.name)
                except OSError:
                    continue
            return found

        seen: list[int] = []
        words = ["evaluate", str(cache.path), "--head", "mlp", "--jobs", "2"]
        ended = interrupted(words, tmp_path, lambda pid: bool(workers(pid)) and not seen.append(pid), number)
        assert_stopped(ended, code)
        deadline = time.monotonic() + 600
        while workers(seen[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not workers(seen[0])
        assert not (tmp_path / "runs" / "made" / "run.json").exists()
