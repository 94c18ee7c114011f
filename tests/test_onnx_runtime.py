"""The ONNX Runtime runtime: what torch gives, without torch; and the store of graphs that it runs from."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from progress_notes import Notes
from sklearn.datasets import load_sample_image
from torchvision import models

from pipeline.backbone import Backbone, registry
from pipeline.backbone.layers import anatomy, extractor
from pipeline.runtime import (
    Runtime,
    graph_cache,
    graph_runtimes,
    onnx_export,
    open_runtime,
    remove_unused_graphs,
    stored_graphs,
)
from pipeline.runtime.base import may_have_gpu
from pipeline.runtime.graph_cache import DamagedGraph, graph_path, graph_recipe, read_graph, write_graph
from pipeline.runtime.onnx_runtime import OnnxRuntime
from pipeline.runtime.torch_runtime import Normalize, TorchRuntime

MANY = 10**6


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run torch on one thread, as the engines do; two of them wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch):
    monkeypatch.setattr(graph_runtimes, "_failed", set())


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The bundled architecture with random weights, which is exported as every other network is."""
    return Backbone.open("efficientnet_lite0:random")


@pytest.fixture(scope="module")
def store(backbone, tmp_path_factory) -> Path:
    """A folder with the bundled backbone's four layers, exported for real, once."""
    folder = tmp_path_factory.mktemp("graphs")
    runtime = open_runtime(backbone, ["all"], device="cpu", images=MANY, graphs=folder)
    assert isinstance(runtime, OnnxRuntime)
    return folder


@pytest.fixture(scope="module")
def runtime(backbone, store) -> Runtime:
    return open_runtime(backbone, ["all"], device="cpu", graphs=store)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Eleven crops of two photos: uint8 (11, 224, 224, 3)."""
    crops = []
    for i in range(11):
        photo = load_sample_image("china.jpg" if i % 2 else "flower.jpg")
        crops.append(photo[15 * i : 15 * i + 224, 30 * i : 30 * i + 224])
    return np.ascontiguousarray(np.stack(crops))


@pytest.fixture
def no_export(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a graph was exported")

    monkeypatch.setattr(onnx_export, "export_graph", refuse)


def close(found, wanted, tolerance=1e-5):
    for layer in wanted:
        np.testing.assert_allclose(found[layer], wanted[layer], rtol=0, atol=tolerance * np.abs(wanted[layer]).max())


def eager(backbone: Backbone, layers: list[str], pixels: np.ndarray) -> dict[str, np.ndarray]:
    images = Normalize(backbone.preprocessing, torch.device("cpu"))(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    with torch.inference_mode():
        return {layer: values.numpy() for layer, values in backbone.load(layers)(images.contiguous()).items()}


def reread(folder: Path, backbone: Backbone, layers: list[str]) -> bytes:
    model = read_graph(folder, graph_recipe(backbone, layers))
    assert model is not None
    return model


# Values


@pytest.mark.parametrize("spec", ["efficientnet_lite0", "resnet18:random", "mobilenet_v3_small:random"])
def test_every_layer_is_what_eager_torch_gives_at_any_batch_size(spec, pixels, tmp_path, request):
    backbone = Backbone.open(spec)
    folder = request.getfixturevalue("store") if spec == "efficientnet_lite0" else tmp_path
    found = open_runtime(backbone, ["all"], device="cpu", images=MANY, graphs=folder)
    assert found.name == "onnxruntime-cpu"
    wanted = eager(backbone, ["all"], pixels)
    for size in (1, 4, 11):
        parts = [found(pixels[i : i + size]) for i in range(0, len(pixels), size)]
        close({layer: np.concatenate([part[layer] for part in parts]) for layer in wanted}, wanted)
    for layer, values in found(pixels).items():
        assert values.dtype == np.float32 and values.flags.c_contiguous
        assert values.shape == (11, found.layers[layer])


class Transformer:
    """What the export asks of a backbone, answered by a transformer of torchvision's, too small for its catalogue."""

    preprocessing = registry.PREPROCESSING

    def __init__(self, network: torch.nn.Module, final_layer: str) -> None:
        self.network = network.eval()
        self.plan = anatomy(self.network, backbone="tiny", crop=224, final_layer=final_layer)

    def resolve_layers(self, layers):
        return {layer: self.plan.node(layer).width for layer in layers}

    def load(self, layers):
        return extractor(copy.deepcopy(self.network), layers, self.plan)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_transformers_export_too(kind, pixels):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "vit":
            network: torch.nn.Module = models.VisionTransformer(224, 32, 2, 2, 32, 64, num_classes=7)
        else:
            network = models.SwinTransformer([8, 8], 24, [1, 1], [1, 2], [7, 7], num_classes=7)
    backbone = Transformer(network, "heads.head" if kind == "vit" else "head")
    layers = ["early", "late", "penultimate"]
    _, found = onnx_export.export_graph(backbone, layers)
    close(found(pixels), eager(backbone, layers, pixels))


def test_layers_come_in_the_order_asked_for_under_any_of_their_names(pixels, tmp_path):
    backbone = Backbone.open("resnet18:random")
    layers = ["penultimate", "flatten", "conv1"]
    found = open_runtime(backbone, layers, device="cpu", images=MANY, graphs=tmp_path)
    assert list(found.layers) == list(found(pixels[:1])) == layers
    close(found(pixels[:3]), eager(backbone, layers, pixels[:3]))


def test_threads_share_one_runtime(runtime, pixels):
    wanted = [runtime(pixels[i : i + 2]) for i in range(8)]
    found: dict[int, dict[str, np.ndarray]] = {}

    def work(i):
        for _ in range(3):
            found[i] = runtime(pixels[i : i + 2])

    with runtime.workers(8):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, want in enumerate(wanted):
        close(found[i], want, 0)


def test_read_only_and_strided_pixels_give_the_same_and_stay_as_they_were(runtime, pixels):
    before = pixels.copy()
    wanted = runtime(pixels[:2])
    frozen = pixels[:2].copy()
    frozen.flags.writeable = False
    close(runtime(frozen), wanted, 0)
    close(runtime(pixels[1::-1]), {layer: value[::-1] for layer, value in wanted.items()}, 0)
    assert np.array_equal(pixels, before)


def test_no_image_gives_no_row(runtime, backbone):
    found = runtime(np.empty((0, 224, 224, 3), np.uint8))
    assert {layer: value.shape for layer, value in found.items()} == {
        layer: (0, width) for layer, width in backbone.resolve_layers(["all"]).items()
    }


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 3, 224, 224), np.uint8), ((2, 224, 224, 3), np.float32), ((224, 224, 3), np.uint8)]
)
def test_pixels_of_another_shape_or_type_are_refused(runtime, shape, kind):
    with pytest.raises(ValueError, match=r"expected uint8 \(b, 224, 224, 3\), got"):
        runtime(np.zeros(shape, kind))


def test_runtime_keeps_its_protocol(runtime):
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.batch_size) == ("onnxruntime-cpu", 4)
    assert runtime.version == version("onnxruntime")


# Which runtime


def test_stored_graph_is_used_without_an_export_however_few_the_images(backbone, store, no_export):
    for images in (None, 0, 1, MANY):
        found = open_runtime(backbone, ["all"], device="cpu", images=images, graphs=store)
        assert isinstance(found, OnnxRuntime)


def test_graph_is_exported_only_for_many_images_into_a_folder(backbone, tmp_path, no_export):
    enough = graph_runtimes.ENOUGH_FOR_EXPORT
    for folder, images in ((tmp_path, None), (tmp_path, enough - 1), (None, MANY)):
        found = open_runtime(backbone, ["penultimate"], device="cpu", images=images, graphs=folder)
        assert isinstance(found, TorchRuntime)
    with pytest.raises(AssertionError, match="a graph was exported"):
        open_runtime(backbone, ["penultimate"], device="cpu", images=enough, graphs=tmp_path)


def test_lower_precision_never_runs_with_onnx_runtime(backbone, store, monkeypatch):
    monkeypatch.setattr("pipeline.runtime.open.has_openvino_bf16", lambda: False)
    found = open_runtime(backbone, ["all"], device="cpu", precision="bf16", images=MANY, graphs=store)
    assert isinstance(found, TorchRuntime) and found.precision == "bf16"


def test_gpu_runs_torch_where_there_is_one(backbone, store, monkeypatch):
    asked = []

    class Gpu:
        def __init__(self, *arguments, **options):
            asked.append(options["device"])

    monkeypatch.setattr("pipeline.runtime.torch_runtime.TorchRuntime", Gpu)
    monkeypatch.setattr("pipeline.runtime.open.may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("auto", "cuda", "cuda:0"):
        assert isinstance(open_runtime(backbone, ["all"], device=device, graphs=store), Gpu)
    assert asked == ["auto", "cuda", "cuda:0"]
    assert isinstance(open_runtime(backbone, ["all"], device="cpu", graphs=store), OnnxRuntime)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a driver, but no GPU, or a torch without CUDA
    assert isinstance(open_runtime(backbone, ["all"], device="auto", graphs=store), OnnxRuntime)


def test_gpu_is_suspected_from_its_drivers_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "null").touch()
    assert not may_have_gpu(tmp_path) and not may_have_gpu(tmp_path / "none")
    for name in ("nvidiactl", "nvidia0", "dxg", "kfd", "nvhost-gpu"):
        (tmp_path / name).touch()
        assert may_have_gpu(tmp_path), name
        (tmp_path / name).unlink()


def test_torch_is_not_imported_for_a_stored_graph_and_nobody_is_told(store, tmp_path):
    code = f"""
import sys
import numpy as np
from pipeline.backbone import Backbone
from pipeline.runtime import open_runtime, stored_graphs
backbone = Backbone.open()
runtime = open_runtime(backbone, ["all"], device="cpu", images=10, graphs={str(store)!r})
features = runtime(np.zeros((2, 224, 224, 3), np.uint8))
assert stored_graphs({str(store)!r})[0].usable
heavy = [name for name in ("torch", "torchvision", "onnx", "onnxscript") if name in sys.modules]
print(runtime.name, features["penultimate"].shape, heavy)
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout.strip(), done.stderr) == ("onnxruntime-cpu (2, 1280) []", "")
    assert list(tmp_path.iterdir()) == []  # ONNX Runtime's telemetry would number its user here


# Backbones that cannot be exported


def test_backbone_that_cannot_be_exported_runs_with_torch_and_says_so_once(backbone, pixels, tmp_path, monkeypatch):
    tried = []

    def refuse(*arguments, **options):
        tried.append(1)
        raise RuntimeError("no ONNX function for aten.thing\n\nmany more lines")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    notes = Notes()
    for _ in range(3):
        found = open_runtime(
            backbone, ["penultimate"], device="cpu", images=MANY, graphs=tmp_path / "g", progress=notes
        )
        assert isinstance(found, TorchRuntime)
    assert len(tried) == 1
    assert notes.texts == [
        "exporting efficientnet_lite0 for ONNX Runtime: some seconds, once",
        "efficientnet_lite0 runs with torch, which is slower on a CPU: ONNX Runtime cannot run it "
        "(RuntimeError: no ONNX function for aten.thing)",
    ]
    assert not (tmp_path / "g").exists()
    close(found(pixels[:2]), eager(backbone, ["penultimate"], pixels[:2]))


def test_graph_that_gives_other_features_is_not_used(backbone, store, tmp_path, monkeypatch):
    model = onnx.load_from_string(reread(store, backbone, ["all"]))
    # The stem's convolution: its bias is zero where the weights are random.
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [32, 3, 3, 3])
    wrong = onnx.numpy_helper.to_array(bias) * np.float32(1.001)
    bias.CopyFrom(onnx.numpy_helper.from_array(wrong, bias.name))
    monkeypatch.setattr(onnx_export, "_export", lambda *arguments: model.SerializeToString())
    with pytest.raises(onnx_export.NotExportable, match="its graph gives other early features than torch"):
        onnx_export.export_graph(backbone, ["all"])


def test_values_that_are_not_finite_prove_nothing():
    onnx_export._compare("late", np.ones((2, 3)), np.ones((2, 3)) * (1 + 1e-6))
    for found, wanted in ((np.nan, 1.0), (np.inf, np.inf), (1.0, np.nan), (1 + 1e-4, 1.0)):
        with pytest.raises(onnx_export.NotExportable, match="other late features"):
            onnx_export._compare("late", np.full((2, 3), found), np.full((2, 3), wanted))


def test_weights_that_no_onnx_file_holds_are_not_exported(backbone, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST", 10**6)
    with pytest.raises(onnx_export.NotExportable, match=r"its weights take 0\.0 GB, and an ONNX file holds 2"):
        onnx_export.export_graph(backbone, ["penultimate"])


def test_stored_graph_that_onnx_runtime_refuses_runs_with_torch_and_says_so_once(backbone, pixels, tmp_path, no_export):
    recipe = graph_recipe(backbone, ["penultimate"])
    path = write_graph(tmp_path, recipe, b"sound by its hash, but no graph")
    notes = Notes()
    for _ in range(3):
        found = open_runtime(backbone, ["penultimate"], device="cpu", images=MANY, graphs=tmp_path, progress=notes)
        assert isinstance(found, TorchRuntime)
    (said,) = notes.texts
    assert said.startswith(f"{path}: ONNX Runtime cannot run the stored graph (")
    assert said.endswith("); running with torch") and "\n" not in said
    assert path.exists()  # another ONNX Runtime may run it
    close(found(pixels[:2]), eager(backbone, ["penultimate"], pixels[:2]))


# The store


def test_key_changes_with_everything_that_changes_the_graph(backbone, monkeypatch):
    def key(backbone=backbone, layers=("late", "penultimate")):
        return graph_path(Path(), graph_recipe(backbone, list(layers))).stem.rpartition("-")[2]

    how = backbone.preprocessing
    keys = {
        "as it is": key(),
        "name": key(replace(backbone, name="resnet18"), ("penultimate",)),
        "weights": key(replace(backbone, weights_sha256="0" * 64)),
        "architecture": key(replace(backbone, architecture={"transform_input": True})),
        "fewer layers": key(layers=("penultimate",)),
        "another layer": key(layers=("middle", "penultimate")),
        "crop": key(replace(backbone, preprocessing=replace(how, crop=192))),
        "mean": key(replace(backbone, preprocessing=replace(how, mean=(127.0, 127.0, 127.5)))),
        "std": key(replace(backbone, preprocessing=replace(how, std=(128.0, 128.0, 127.5)))),
        "range": key(replace(backbone, preprocessing=replace(how, value_range=1.0))),
    }
    for name in ("torch", "torchvision", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setattr(graph_cache, "installed", lambda other, name=name: "0.0" if other == name else "1.0")
            keys[f"{name} 0.0"] = key()
    for name in ("OPSET", "REVISION"):
        with monkeypatch.context() as patch:
            patch.setattr(graph_cache, name, 99)
            keys[name] = key()
    with monkeypatch.context() as patch:
        patch.setitem(registry.LAYERS, "late", ("blocks.12.project", 192))
        keys["a layer's node"] = key()
    assert len(set(keys.values())) == len(keys)
    assert key() == key(layers=("penultimate", "late")) == keys["as it is"]
    assert len(key()) == 12


def test_file_is_named_for_its_backbone_and_any_tool_opens_it(backbone, store):
    recipe = graph_recipe(backbone, ["all"])
    assert [path.name for path in store.iterdir()] == [graph_path(store, recipe).name]
    assert graph_path(store, recipe).name.startswith("efficientnet_lite0-")
    model = onnx.load(graph_path(store, recipe))
    onnx.checker.check_model(model)
    (said,) = [entry.value for entry in model.metadata_props if entry.key == "transfer-pipeline"]
    assert json.loads(said)["recipe"] == recipe
    assert [entry.version for entry in model.opset_import if not entry.domain] == [20]
    (taken,) = model.graph.input
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in taken.type.tensor_type.shape.dim] == [0, 224, 224, 3]


@pytest.fixture
def recipe(backbone) -> dict:
    return graph_recipe(backbone, ["penultimate"])


def test_what_is_written_is_read_again(recipe, tmp_path):
    assert read_graph(tmp_path / "g", recipe) is None
    for model in (b"", b"one", bytes(range(256)) * 1000):
        path = write_graph(tmp_path / "g", recipe, model)
        content = read_graph(tmp_path / "g", recipe)
        assert content == path.read_bytes() and content.endswith(model)
    assert [path.name for path in (tmp_path / "g").iterdir()] == [path.name]


def test_any_changed_byte_is_found(recipe, tmp_path):
    path = write_graph(tmp_path, recipe, b"weights" * 9)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 0x80):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(DamagedGraph):
                read_graph(tmp_path, recipe)
    for length in (0, 1, 2, 30, 64, 400, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedGraph):
            read_graph(tmp_path, recipe)
    path.write_bytes(whole + b"x")
    with pytest.raises(DamagedGraph, match="its SHA-256 differs from the one recorded in it"):
        read_graph(tmp_path, recipe)


def test_graph_of_another_recipe_under_this_ones_name_is_not_used(backbone, recipe, tmp_path):
    other = write_graph(tmp_path, graph_recipe(backbone, ["late"]), b"weights")
    other.rename(graph_path(tmp_path, recipe))
    with pytest.raises(DamagedGraph, match="it was exported from another recipe"):
        read_graph(tmp_path, recipe)


def test_damaged_graph_is_exported_again_and_said(backbone, store, pixels, tmp_path, monkeypatch):
    recipe = graph_recipe(backbone, ["all"])
    model = reread(store, backbone, ["all"])
    path = write_graph(tmp_path, recipe, model)
    sound = path.read_bytes()
    exported = []

    def export(backbone, layers):
        exported.append(layers)
        return model, OnnxRuntime(model, layers=backbone.resolve_layers(layers), crop=224)

    monkeypatch.setattr(onnx_export, "export_graph", export)
    path.write_bytes(sound[:-1000] + bytes(1000))
    notes = Notes()
    found = open_runtime(backbone, ["all"], device="cpu", graphs=tmp_path, progress=notes)
    assert notes.texts == [
        f"{path}: damaged, its SHA-256 differs from the one recorded in it; exporting efficientnet_lite0 again"
    ]
    assert found.name == "onnxruntime-cpu" and exported == [["all"]] and path.read_bytes() == sound


def test_graph_that_cannot_be_stored_is_used_and_said(backbone, store, tmp_path, monkeypatch):
    model = reread(store, backbone, ["all"])
    monkeypatch.setattr(
        onnx_export,
        "export_graph",
        lambda backbone, layers: (model, OnnxRuntime(model, layers=backbone.resolve_layers(layers), crop=224)),
    )
    (tmp_path / "file").touch()
    notes = Notes()
    found = open_runtime(backbone, ["all"], device="cpu", images=MANY, graphs=tmp_path / "file", progress=notes)
    assert isinstance(found, OnnxRuntime)
    assert notes.texts[1:] == [
        f"{tmp_path / 'file'}: expected to store the exported graph, got File exists; used this once"
    ]


def test_failed_write_leaves_nothing(recipe, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    write_graph(tmp_path, recipe, b"earlier")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_graph(tmp_path, recipe, b"weights")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_processes_that_store_the_same_graph_at_once_do_no_harm(backbone, recipe, tmp_path):
    code = f"""
from pathlib import Path
from pipeline.backbone import Backbone
from pipeline.runtime.graph_cache import graph_recipe, write_graph
recipe = graph_recipe(Backbone.open("efficientnet_lite0:random"), ["penultimate"])
for _ in range(40):
    write_graph(Path({str(tmp_path)!r}), recipe, bytes(range(256)) * 4000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        content = read_graph(tmp_path, recipe)  # raises if it is ever half a file
        reads += content is not None
    assert [writer.returncode for writer in writers] == [0, 0]
    assert reads and len(list(tmp_path.iterdir())) == 1


def test_threads_that_export_at_once_both_get_a_graph(pixels, tmp_path):
    backbone = Backbone.open("resnet18:random")
    found: list[Runtime] = []

    def work():
        found.append(open_runtime(backbone, ["early"], device="cpu", images=MANY, graphs=tmp_path))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [runtime.name for runtime in found] == ["onnxruntime-cpu"] * 2
    close(found[0](pixels[:2]), found[1](pixels[:2]), 0)
    assert len(stored_graphs(tmp_path)) == 1


def test_graphs_are_listed_with_what_they_hold(backbone, store, tmp_path, monkeypatch):
    (graph,) = stored_graphs(store)
    assert (graph.backbone, graph.layers) == ("efficientnet_lite0", backbone.resolve_layers(["all"]))
    assert graph.path.name == f"efficientnet_lite0-{graph.key}.onnx"
    assert graph.bytes == graph.path.stat().st_size and graph.usable
    assert json.loads(json.dumps(graph.as_dict()))["path"] == str(graph.path)

    write_graph(tmp_path, graph_recipe(backbone, ["late"]), b"weights")
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "REVISION", 0)
        write_graph(tmp_path, graph_recipe(backbone, ["early"]), b"weights")
    (tmp_path / "resnet18-0123456789ab.onnx").write_bytes(b"of somebody else")
    listed = {tuple(graph.layers): graph.usable for graph in stored_graphs(tmp_path)}
    assert listed == {("late",): True, ("early",): False, (): False}
    assert stored_graphs(tmp_path / "none") == []


def test_graphs_that_nobody_uses_are_removed_and_use_is_marked(backbone, recipe, tmp_path):
    old, long_ago = time.time() - 2 * 24 * 3600, time.time() - 100 * 24 * 3600
    used = write_graph(tmp_path, recipe, b"weights")
    unused = write_graph(tmp_path, graph_recipe(backbone, ["late"]), b"weights")
    left, fresh = tmp_path / ".x-0.part", tmp_path / ".x-1.part"
    for path, when in ((used, long_ago), (unused, long_ago), (left, old), (fresh, time.time())):
        path.touch()
        os.utime(path, (when, when))
    read_graph(tmp_path, recipe)
    assert [graph.path for graph in stored_graphs(tmp_path)] == [used, unused]
    assert remove_unused_graphs(tmp_path) == [unused]
    assert sorted(tmp_path.iterdir()) == sorted([used, fresh])
