"""The OpenVINO runtime: the stored graph in bf16, near what torch gives in fp32; and in fp32 equal to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from progress_notes import Notes
from sklearn.datasets import load_sample_image

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError
from pipeline.extraction import extract
from pipeline.images import ImageSource, preprocess
from pipeline.runtime import (
    Runtime,
    batch_size_of,
    graph_runtimes,
    onnx_export,
    open_runtime,
    runtime_name,
    stored_graphs,
)
from pipeline.runtime.base import has_openvino_bf16
from pipeline.runtime.graph_cache import graph_path, graph_recipe, read_graph, write_graph

# Found and not imported: only the runtime imports it so that it tells nobody.
if find_spec("openvino") is None:
    pytest.skip("OpenVINO is an extra: pip install 'transfer-pipeline[openvino]'", allow_module_level=True)

from pipeline.runtime.openvino_runtime import OpenVinoRuntime

native = pytest.mark.skipif(not has_openvino_bf16(), reason="on this CPU OpenVINO computes in fp32")


@pytest.fixture(autouse=True)
def with_bf16(processor):
    """Choose as on a CPU with bf16, whatever this one is."""
    processor("avx512_bf16")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.open()


@pytest.fixture(scope="module")
def store(backbone, tmp_path_factory) -> Path:
    """A folder with the bundled backbone's four layers, exported for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("graphs")
    found = graph_runtimes.graph_runtime(backbone, ["all"], folder=folder, images=10**6, progress=Notes())
    assert found is not None and found.name == "onnxruntime-cpu"
    return folder


@pytest.fixture(scope="module")
def model(backbone, store) -> bytes:
    found = read_graph(store, graph_recipe(backbone, ["all"]))
    assert found is not None
    return found


@pytest.fixture
def runtime(backbone, store) -> Runtime:
    return open_runtime(backbone, ["all"], device="cpu", precision="bf16", graphs=store)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Eleven crops of two photos: uint8 (11, 224, 224, 3)."""
    crops = []
    for i in range(11):
        photo = load_sample_image("china.jpg" if i % 2 else "flower.jpg")
        crops.append(photo[15 * i : 15 * i + 224, 30 * i : 30 * i + 224])
    return np.ascontiguousarray(np.stack(crops))


@pytest.fixture(scope="module")
def wanted(backbone, pixels) -> dict[str, np.ndarray]:
    """What torch gives in fp32."""
    return open_runtime(backbone, ["all"], device="cpu")(pixels)


@pytest.fixture
def no_export(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a graph was exported")

    monkeypatch.setattr(onnx_export, "export_graph", refuse)


def close(found, wanted, tolerance):
    for layer in wanted:
        np.testing.assert_allclose(found[layer], wanted[layer], rtol=0, atol=tolerance * np.abs(wanted[layer]).max())


def cosines(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return (found * wanted).sum(1) / (np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1))


# Values


def test_stored_graph_gives_in_fp32_what_torch_gives(backbone, model, pixels, wanted):
    runtime = OpenVinoRuntime(model, layers=backbone.resolve_layers(["all"]), crop=224, precision="fp32")
    close(runtime(pixels), wanted, 1e-5)


@native
def test_bf16_is_near_and_returned_as_float32(runtime, backbone, pixels, wanted):
    found = runtime(pixels)
    assert list(found) == list(wanted)
    for layer, values in found.items():
        assert values.dtype == np.float32 and values.flags.c_contiguous
        assert values.shape == (11, backbone.resolve_layers([layer])[layer])
        assert cosines(values, wanted[layer]).min() > 0.99, layer
        assert np.abs(values - wanted[layer]).max() > 1e-4 * np.abs(wanted[layer]).max(), layer  # it is bf16


def test_batch_order_and_memory_move_nothing(runtime, pixels):
    whole = runtime(pixels)
    before = pixels.copy()
    for size in (1, 3, 4):
        parts = [runtime(pixels[i : i + size]) for i in range(0, len(pixels), size)]
        close({layer: np.concatenate([part[layer] for part in parts]) for layer in whole}, whole, 1e-5)
    frozen = pixels[:2].copy()
    frozen.flags.writeable = False
    close(runtime(frozen), {layer: values[:2] for layer, values in whole.items()}, 1e-5)
    close(runtime(pixels[::-1]), {layer: values[::-1] for layer, values in whole.items()}, 1e-5)
    assert np.array_equal(pixels, before)


def test_answer_stays_when_the_next_call_comes(runtime, pixels):
    first = runtime(pixels[:2])
    kept = {layer: values.copy() for layer, values in first.items()}
    runtime(pixels[5:7])
    close(first, kept, 0)


def test_more_threads_than_cores_share_one_runtime(runtime, pixels):
    wanted = [runtime(pixels[i : i + 2]) for i in range(8)]
    found: dict[int, list[dict[str, np.ndarray]]] = {}

    def work(i):
        found[i] = [runtime(pixels[i : i + 2]) for _ in range(5)]

    with runtime.workers(8):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, want in enumerate(wanted):
        for got in found[i]:
            close(got, want, 1e-5)


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


@pytest.mark.parametrize("found", ["avx512_bf16", "amx_bf16"])
def test_runtime_keeps_its_protocol(found, backbone, store, processor):
    processor(found)
    runtime = open_runtime(backbone, ["all"], device="cpu", precision="bf16", graphs=store)
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.batch_size) == ("openvino-cpu", 8)
    assert runtime.version == version("openvino")


@pytest.mark.parametrize("found", ["avx2", "arm"])
def test_processor_that_openvino_has_no_bf16_for_gets_torch_in_batches_of_four(found, backbone, store, processor):
    processor(found)
    runtime = open_runtime(backbone, ["all"], device="cpu", precision="bf16", graphs=store)
    assert (runtime.name, runtime.batch_size) == ("torch-cpu", 4)
    assert (runtime_name("cpu"), batch_size_of("cpu", 224, "bf16")) == ("torch-cpu", 4)


# Which runtime, and where its graph comes from


def test_bf16_takes_openvino_and_the_name_says_so(runtime, backbone, store):
    assert runtime.name == runtime_name("cpu") == "openvino-cpu"
    assert open_runtime(backbone, ["all"], device="cpu", graphs=store).name == "onnxruntime-cpu"


@pytest.mark.parametrize("images", [None, 1, 10**6])
def test_stored_graph_is_used_without_an_export(backbone, store, images, no_export):
    notes = Notes()
    found = open_runtime(backbone, ["all"], device="cpu", precision="bf16", images=images, graphs=store, progress=notes)
    assert (found.name, notes.texts) == ("openvino-cpu", [])


@pytest.mark.parametrize(("images", "stored"), [(1, 1), (None, 0)])
def test_graph_is_exported_however_few_the_images_and_kept_for_those_that_are_extracted(
    images, stored, backbone, model, pixels, tmp_path, monkeypatch
):
    monkeypatch.setattr(onnx_export, "export_graph", lambda backbone, layers: (model, None))
    notes = Notes()
    for graphs in (tmp_path, None):
        found = open_runtime(
            backbone, ["all"], device="cpu", precision="bf16", images=images, graphs=graphs, progress=notes
        )
        assert found(pixels[:1])["penultimate"].shape == (1, 1280)
    assert notes.texts == ["exporting efficientnet_lite0 for OpenVINO: some seconds, once"] * 2
    assert len(stored_graphs(tmp_path)) == stored


def test_damaged_graph_is_exported_again_and_said(backbone, model, tmp_path, monkeypatch):
    path = write_graph(tmp_path, graph_recipe(backbone, ["all"]), model)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1000] + bytes(1000))
    monkeypatch.setattr(onnx_export, "export_graph", lambda backbone, layers: (sound, None))
    notes = Notes()
    open_runtime(backbone, ["all"], device="cpu", precision="bf16", graphs=tmp_path, progress=notes)
    assert notes.texts == [
        f"{path}: damaged, its SHA-256 differs from the one recorded in it",
        "exporting efficientnet_lite0 for OpenVINO: some seconds, once",
    ]
    assert path.read_bytes().endswith(sound)


def test_backbone_that_cannot_be_exported_is_an_error_and_never_torchs_rows_under_openvinos_name(
    backbone, tmp_path, monkeypatch
):
    def refuse(*arguments, **options):
        raise RuntimeError("no ONNX function for aten.thing\n\nmany more lines")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(BackboneError) as error:
        open_runtime(backbone, ["penultimate"], device="cpu", precision="bf16", images=1, graphs=tmp_path)
    assert error.value.message == (
        "expected efficientnet_lite0 in bf16 with OpenVINO, but it cannot run it "
        "(RuntimeError: no ONNX function for aten.thing)"
    )
    assert error.value.next_step == ("--precision fp32, or pip uninstall openvino, so that torch runs it in bf16")


def test_graph_that_openvino_refuses_is_an_error(backbone, tmp_path):
    path = write_graph(tmp_path, graph_recipe(backbone, ["penultimate"]), b"sound by its hash, but no graph")
    with pytest.raises(BackboneError, match=r"in bf16 with OpenVINO, but it cannot run it \(\w+: .") as error:
        open_runtime(backbone, ["penultimate"], device="cpu", precision="bf16", graphs=tmp_path)
    assert "\n" not in error.value.message
    assert path == graph_path(tmp_path, graph_recipe(backbone, ["penultimate"])) and path.exists()


def test_cache_names_the_runtime_that_made_it(model, pixels, tmp_path, monkeypatch, processor):
    monkeypatch.setattr(onnx_export, "export_graph", lambda backbone, layers: (model, None))
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.fromarray(pixels[i]).save(tmp_path / "photos" / f"{i}.png")
    cache = extract(tmp_path / "photos", cache=tmp_path / "cache", precision="bf16", device="cpu")
    assert (cache.recipe["precision"], cache.recipe["runtime"]) == ("bf16", "openvino-cpu")
    runtime = OpenVinoRuntime(model, layers={"penultimate": 1280}, crop=224)
    crops = ImageSource.open(tmp_path / "photos")
    asked = np.stack([preprocess(crops.read(i).pixels(), Backbone.open().preprocessing) for i in range(3)])
    close({"penultimate": cache.features()}, runtime(asked), 1e-5)
    processor("arm")
    other = extract(tmp_path / "photos", cache=tmp_path / "cache", precision="bf16", device="cpu")
    assert other.recipe["runtime"] == "torch-cpu" and other.path != cache.path


# A process of its own


def test_nothing_heavy_is_imported_for_a_stored_graph_and_nobody_is_told(store, tmp_path):
    code = f"""
import sys
import numpy as np
import pipeline.runtime.open
pipeline.runtime.open.has_openvino_bf16 = lambda: True
from pipeline.backbone import Backbone
assert "openvino" not in sys.modules
fp32 = pipeline.runtime.open_runtime(Backbone.open(), ["all"], device="cpu", graphs={str(store)!r})
assert fp32.name == "onnxruntime-cpu" and "openvino" not in sys.modules
runtime = pipeline.runtime.open_runtime(
    Backbone.open(), ["all"], device="cpu", precision="bf16", images=10, graphs={str(store)!r}
)
features = runtime(np.zeros((2, 224, 224, 3), np.uint8))
heavy = [
    name
    for name in ("torch", "torchvision", "onnx", "onnxscript", "openvino_telemetry")
    if name in sys.modules
]
print(runtime.name, features["penultimate"].shape, heavy)
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout.strip(), done.stderr) == ("openvino-cpu (2, 1280) []", "")
    assert list(tmp_path.iterdir()) == []  # both would number their user here


def test_telemetry_that_somebody_else_loaded_is_left_to_him(monkeypatch):
    from pipeline.runtime.base import no_telemetry

    theirs = object()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
    with no_telemetry():
        assert sys.modules["openvino_telemetry"] is None
    assert sys.modules["openvino_telemetry"] is theirs
