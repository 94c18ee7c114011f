"""The notebooks run as they stand, and are stored with what they showed: pictures, no warning, no machine's path."""

from __future__ import annotations

import base64
import json
import re
import sys
import warnings
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
QUICKSTART = NOTEBOOKS / "01_quickstart.ipynb"
MANY = NOTEBOOKS / "02_many_label_sets.ipynb"
WORTH_IT = NOTEBOOKS / "03_was_transfer_worth_it.ipynb"
OWN = NOTEBOOKS / "04_bring_your_own.ipynb"
PICTURES = {QUICKSTART: 6, MANY: 5, WORTH_IT: 4, OWN: 4}
PNG = b"\x89PNG\r\n\x1a\n"
# A place on the machine that ran it, such as /home/ann or C:\Users; "/q4/" in a photo's id is none.
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|usr|var|opt|mnt|work|private|Users)/|[A-Z]:\\")


def cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def kinds(cell: dict) -> list[str]:
    """What a cell showed, output by output: "stdout", "text/html", "image/png"..."""
    return [
        output["name"] if output["output_type"] == "stream" else sorted(output.get("data", {"error": 0}))[0]
        for output in cell["outputs"]
    ]


def pictures(found: list[dict]) -> list[bytes]:
    outputs = (output for cell in found for output in cell["outputs"])
    return [
        base64.b64decode(output["data"]["image/png"]) for output in outputs if "image/png" in output.get("data", {})
    ]


def test_every_notebook_is_known_here() -> None:
    assert sorted(NOTEBOOKS.glob("*.ipynb")) == sorted(PICTURES)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_notebook_is_stored_executed_with_pictures_in_it(path: Path) -> None:
    stored = cells(path)
    assert [cell["execution_count"] for cell in stored] == list(range(1, len(stored) + 1))
    assert len(pictures(stored)) == PICTURES[path]
    for picture in pictures(stored):
        assert picture.startswith(PNG) and len(picture) > 5_000


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_the_stored_outputs_hold_no_warning_and_no_machine(path: Path) -> None:
    for cell in cells(path):
        assert cell["metadata"] == {}, "execution times and the like do not belong into the repository"
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output
            texts = dict(output.get("data", {"text": output.get("text")}).items())
            texts.pop("image/png", None)
            assert not MACHINE_PATH.search(json.dumps(texts)), texts


@pytest.mark.slow
def test_the_quickstart_runs_and_shows_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = ran(QUICKSTART, tmp_path, monkeypatch)
    assert "270 photos to learn from, 90 new ones" in printed
    assert "0 stored, 270 reused, 0 failed; 0 went through the network" in printed
    right = re.search(r"right on (\d+) of 90 new photos", printed)
    assert right and int(right[1]) >= 65
    assert len(re.findall(r"- (photo|kind|colour|orientation|zoom|random): ", printed)) == 6
    assert (tmp_path / "work" / "corners.model" / "model.json").is_file()


@pytest.mark.slow
def test_many_label_sets_run_and_random_ones_are_tied_with_the_dummy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = ran(MANY, tmp_path, monkeypatch)
    assert "14 columns" in printed and "14 label sets" in printed
    assert "tied with the dummy: random 0, random 1, random 2\n" in printed
    average_precision = re.search(r"tags: average_precision (\d\.\d+)", printed)
    assert average_precision and float(average_precision[1]) > 0.95
    assert (tmp_path / "work" / "runs" / "digits" / "leaderboard.csv").is_file()


@pytest.mark.slow
def test_transfer_is_right_on_photographs_and_not_worth_it_for_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the small network makes of its seconds is the machine's; the rest is the same everywhere."""
    printed = ran(WORTH_IT, tmp_path, monkeypatch)
    assert "214 crops, 160 digits" in printed
    assert "with all 160 labels transfer scores 1.000" in printed
    assert re.findall(r"transfer was not worth it here: with (.*) transfer scores", printed) in (
        ["5 labels per class"],
        ["all 120 labels"],
    )
    assert "raw pixels needs about 1.1 labels per class to match 5 with transfer" in printed


@pytest.mark.slow
def test_a_readers_own_folder_table_estimator_and_network_make_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = ran(OWN, tmp_path, monkeypatch)
    assert "135 photos in 15 folders" in printed
    assert "kind: 31 of 135 images have no label and are left out" in printed  # the table's empty cells
    assert "expected a column 'color', got 'kind', 'colour', 'zoom'\ntry: did you mean 'colour'?" in printed
    right = re.search(r"right on (\d+) of 45 new photos", printed)
    assert right and int(right[1]) >= 36
    assert "unfamiliar: 3 of 3 cats" in printed
    folder = tmp_path / "work" / "kinds.model"
    record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert record["backbone"]["name"] == "spread.onnx" and (folder / "backbone.onnx").is_file()


def ran(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a notebook, hold what it shows against what is stored, and return what it printed and has in tables."""
    found = execute(path, folder, monkeypatch)
    assert [kinds(cell) for cell in found] == [kinds(cell) for cell in cells(path)]
    assert len(pictures(found)) == PICTURES[path]
    outputs = [output for cell in found for output in cell["outputs"]]
    return "".join("".join(one.get("text", one.get("data", {}).get("text/html", ""))) for one in outputs)


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Run a notebook with this very interpreter, in an empty folder, and return its code cells.

    Nothing of the user's is used: a kernel installed under the same name would run another interpreter, and a
    startup file of IPython's would run in it.
    """
    kernel = folder / "jupyter" / "kernels" / "readme-test"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "this interpreter", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(folder / "config"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("MPLCONFIGDIR", str(folder / "matplotlib"))
    work = folder / "work"
    work.mkdir()
    with warnings.catch_warnings():
        # Of Jupyter's own making, in this process; what the notebook itself warns of would be an output on stderr.
        for module in ("jupyter_client", "jupyter_core", "nbclient", "nbformat", "zmq", "asyncio"):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=rf"{module}(\.|$)")
        import nbformat
        from nbclient import NotebookClient

        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook, timeout=1800, kernel_name="readme-test", resources={"metadata": {"path": str(work)}}
        )
        client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
