"""The bundled backbone runs without torch: its shipped graph and tensor table give what torch gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import fake_backbone
import numpy as np
import onnx
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from onnx import numpy_helper
from progress_notes import Notes

from pipeline.backbone import Backbone, registry
from pipeline.backbone.bundled import GRAPHS, TABLE, graph_file, read_bundled_tensors
from pipeline.backbone.weights import read_tensors, rename_tensors
from pipeline.extraction import extract
from pipeline.model import Model, fit
from pipeline.runtime import open_runtime, write_bundled_graph
from pipeline.runtime.bundled_graph import append_initializers, bundled_graph
from pipeline.runtime.onnx_runtime import OnnxRuntime
from pipeline.runtime.torch_runtime import TorchRuntime

LAYERS = list(registry.LAYERS)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Torch's features, the batch normalisation not folded."""
    network = Backbone.open().load(["all"])
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        return {layer: values.numpy() for layer, values in network(images).items()}


def test_the_shipped_files_are_what_the_script_writes() -> None:
    assert {path.name for path in GRAPHS.iterdir()} == {TABLE.name, *(graph_file(layer).name for layer in LAYERS)}
    for layer in LAYERS:
        assert write_bundled_graph.structure(layer) == graph_file(layer).read_bytes()
    table = write_bundled_graph.tensor_table(registry.weights_file())
    assert write_bundled_graph.table_text(table) == TABLE.read_text(encoding="utf-8")


def test_the_tensors_are_torch_s_bit_for_bit() -> None:
    path = registry.weights_file()
    state = rename_tensors(registry.NAME, read_tensors(path))
    found = read_bundled_tensors(path, "")
    assert found is not None and found.keys() == state.keys()
    for name, values in found.items():
        assert values.dtype == state[name].numpy().dtype
        np.testing.assert_array_equal(values, state[name].numpy(), err_msg=name)


def test_the_initialisers_of_the_graph_are_the_weights_bit_for_bit() -> None:
    model = onnx.load_from_string(bundled_graph(Backbone.open(), ["penultimate"]))
    onnx.checker.check_model(model, full_check=True)
    tensors = read_bundled_tensors(registry.weights_file(), "")
    weights = {item.name: item for item in model.graph.initializer if item.name in tensors}
    unused = {name for name in tensors if name.endswith("num_batches_tracked") or name.startswith("classifier")}
    assert weights.keys() == tensors.keys() - unused
    for name, item in weights.items():
        np.testing.assert_array_equal(numpy_helper.to_array(item), tensors[name], err_msg=name)


@pytest.mark.parametrize("layers", [c for k in (1, 2, 4) for c in combinations(LAYERS, k)], ids="+".join)
def test_every_layer_is_torch_s(layers: tuple[str, ...], pixels: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    backbone = Backbone.open()
    runtime = open_runtime(backbone, layers, device="cpu")  # without a store, for however few images
    assert isinstance(runtime, OnnxRuntime)
    found = runtime(pixels)
    assert list(found) == list(layers)
    for layer, values in found.items():
        assert np.abs(values - expected[layer]).max() <= 1e-5 * np.abs(expected[layer]).max()


def test_the_graph_ends_with_the_last_layer() -> None:
    backbone = Backbone.open()
    sizes = [len(bundled_graph(backbone, [layer]) or b"") for layer in LAYERS]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 10


def test_other_networks_and_nodes_have_no_shipped_graph(tmp_path: Path) -> None:
    assert bundled_graph(Backbone.open(f"{registry.NAME}:random"), ["penultimate"]) is None
    assert bundled_graph(Backbone.open("resnet18:random"), ["penultimate"]) is None
    assert bundled_graph(Backbone.open(), ["blocks.2.project"]) is None
    runtime = open_runtime(Backbone.open(), ["blocks.2.project"], device="cpu")
    assert isinstance(runtime, TorchRuntime)


def test_a_file_of_the_user_s_is_run_with_its_own_weights(tmp_path: Path, pixels: np.ndarray) -> None:
    state = rename_tensors(registry.NAME, read_tensors(registry.weights_file()))
    state["head.1.bias"] = state["head.1.bias"] + 1
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(7, 1280), torch.zeros(7)
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pth")
    found = []
    for ending, kind in (("safetensors", OnnxRuntime), ("pth", TorchRuntime)):
        backbone = Backbone.open(f"{registry.NAME}:{tmp_path}/a.{ending}@bundled")
        runtime = open_runtime(backbone, ["penultimate"], device="cpu")
        assert isinstance(runtime, kind)
        found.append(runtime(pixels)["penultimate"])
    assert np.abs(found[0] - found[1]).max() <= 1e-5 * np.abs(found[1]).max()
    assert np.abs(found[0] - OnnxRuntime(bundled_graph(Backbone.open(), ["penultimate"]), layers={"penultimate": 1280},
                                         crop=224)(pixels)["penultimate"]).max() > 0.1  # fmt: skip


@pytest.mark.parametrize("damage", ["name", "shape", "type", "nan", "hash", "bytes"])
def test_tensors_that_do_not_fit_are_left_to_torch_s_reader(damage: str, tmp_path: Path) -> None:
    tensors = {
        name: np.array(values) for name, values in (read_bundled_tensors(registry.weights_file(), "") or {}).items()
    }
    weight = tensors["stem.0.weight"]
    if damage == "name":
        tensors["stem.weight"] = tensors.pop("stem.0.weight")
    elif damage == "shape":
        tensors["stem.0.weight"] = weight[:, :, :2].copy()
    elif damage == "type":
        tensors["stem.0.weight"] = weight.astype(np.float64)
    elif damage == "nan":
        weight[0, 0, 0, 0] = np.nan
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(tensors, path)
    if damage == "bytes":
        path.write_bytes(path.read_bytes()[:-5])
    assert read_bundled_tensors(path, "ab" * 32 if damage == "hash" else "") is None


def test_saved_weights_have_the_bytes_that_torch_writes(tmp_path: Path) -> None:
    backbone = Backbone.open()
    backbone.save_weights(tmp_path / "a.safetensors")
    state = {name: tensor.contiguous() for name, tensor in backbone.load_network().state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_appended_initialisers_are_read_by_onnx() -> None:
    values = np.arange(300, dtype=np.float32).reshape(3, 100)
    whole = onnx.load_from_string(graph_file("early").read_bytes() + append_initializers({"a": values}))
    alone = onnx.load_from_string(graph_file("early").read_bytes())
    assert len(whole.graph.node) == len(alone.graph.node)
    assert len(whole.graph.initializer) == len(alone.graph.initializer) + 1
    np.testing.assert_array_equal(numpy_helper.to_array(whole.graph.initializer[-1]), values)


def test_a_runtime_that_cannot_run_the_graph_is_replaced_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("opset 20\nmore")

    monkeypatch.setattr("pipeline.runtime.graph_runtimes.OnnxRuntime", fails)
    notes = Notes()
    assert isinstance(open_runtime(Backbone.open(), ["penultimate"], device="cpu", progress=notes), TorchRuntime)
    assert notes.texts == [
        "ONNX Runtime cannot run the graph of efficientnet_lite0 (RuntimeError: opset 20); running with torch"
    ]


def test_extract_loads_no_torch_and_exports_nothing(tmp_path: Path) -> None:
    fake_backbone.folder_of(tmp_path / "photos", range(4))
    code = (
        "import sys, pipeline as pl; cache = pl.extract('photos', device='cpu', n_jobs=1); "
        "print(cache.provenance['runtime'] if 'runtime' in cache.provenance else '', "
        "[name for name in ('torch', 'onnx', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert list((tmp_path / "features_cache").glob("**/*.onnx")) == []


def test_a_kept_backbone_of_a_model_runs_without_torch(tmp_path: Path) -> None:
    photos = fake_backbone.folder_of(tmp_path / "photos", range(8))
    model = fit(photos, heads="ridge", grid={"ridge.alpha": 1.0}, cv=2, device="cpu", cache=tmp_path / "caches")
    model.save(tmp_path / "a.model")
    shutil.rmtree(tmp_path / "caches")
    opened = Model.open(tmp_path / "a.model")
    assert opened.backbone.file == tmp_path / "a.model" / "backbone.safetensors"
    assert isinstance(open_runtime(opened.backbone, [opened.layer], device="cpu"), OnnxRuntime)
    moved = replace(opened.backbone, file=tmp_path / "gone.safetensors")
    assert bundled_graph(moved, ["penultimate"]) is None
    again = extract(photos, device="cpu", cache=tmp_path / "caches")
    assert list(opened.predict(photos, device="cpu")["label"]) == list(model.predict(again)["label"])


COMMANDS = {
    "evaluate": ["evaluate", "photos", "--cv", "2"],
    "fit": ["fit", "photos", "--cv", "2", "--out", "b.model"],
    "predict": ["predict", "a.model", "photos"],
    "score": ["score", "a.model", "photos"],
    "report": ["report", "run"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, a model, and a run of them."""
    place = tmp_path_factory.mktemp("place")
    photos = fake_backbone.folder_of(place / "photos", range(12))
    run_command(place, "fit", photos, "--cv", "2", "--out", "a.model")
    run_command(place, "evaluate", photos, "--cv", "2", "--out", "run")
    return place


def run_command(place: Path, *words: object) -> list[str]:
    """Run a command in a process of its own and return the heavy modules that it imported."""
    code = (
        "import sys\nfrom pipeline.cli.app import app\n"
        "try:\n    app(sys.argv[1:], prog_name='pipeline')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\nHEAVY', *[name for name in ('torch', 'torchvision', 'dask') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("HEAVY")[2].split()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_a_linear_head_on_a_cpu_load_no_torch(name: str, place: Path) -> None:
    assert run_command(place, *COMMANDS[name]) == []
