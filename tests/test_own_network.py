"""A network of one's own is a backbone like any other: its own features, keyed on all that could change them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper
from PIL import Image
from torch import nn
from torchvision import transforms

import pipeline as pl
from pipeline.backbone import Backbone, describe
from pipeline.errors import BackboneError, CacheError, ExportError, PipelineError
from pipeline.extraction.api import recipe_of
from pipeline.runtime import open_runtime

HOW: dict[str, Any] = {"resize": 48, "crop": 40, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
QUICK: dict[str, Any] = {"heads": "ridge", "cv": 2, "n_jobs": 1, "device": "cpu"}


class Texture(nn.Module):
    """Mean and spread of what a few filters see; batch normalisation and dropout tell training from evaluation."""

    def __init__(self, *, spread: bool = True, by_name: bool = False) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 6, 5, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.spread, self.by_name = spread, by_name

    def forward(self, images: torch.Tensor) -> Any:
        maps = self.norm(self.filters(images)).relu()  # (b, 3, 40, 40) -> (b, 6, 18, 18)
        mean = maps.mean((2, 3))
        whole = self.dropout(torch.cat([mean, maps.std((2, 3)) if self.spread else maps.amax((2, 3))], 1))
        return {"mean": mean, "penultimate": whole} if self.by_name else whole


def network(seed: int = 0, **options: bool) -> Texture:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Texture(**options)
        made.norm.running_mean.normal_(0, 0.1)
        made.norm.running_var.uniform_(0.5, 1.5)
    return made.train()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight smooth and eight rough photos in class folders, none of them square."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for kind, size in (("smooth", 8), ("rough", 64)):
        (folder / kind).mkdir(parents=True)
        for n in range(8):
            coarse = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
            coarse.resize((90, 70 + n), Image.Resampling.BICUBIC).save(folder / kind / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks") / "mine.onnx"
    pl.save_backbone(network(by_name=True), path, **HOW)
    return path


def by_torchvision(photos: Path, name: str) -> torch.Tensor:
    """Return a photo as torchvision prepares it: the road that a person's own script goes."""
    steps = [transforms.Resize(48), transforms.CenterCrop(40), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(HOW["mean"], HOW["std"])])(Image.open(photos / name))


# Features


def test_features_are_the_networks_own(photos: Path, mine: Path, tmp_path: Path) -> None:
    cache = pl.extract(photos, backbone=str(mine), layer="all", cache=tmp_path)
    own = network(by_name=True).eval()
    with torch.no_grad():
        wanted = own(torch.stack([by_torchvision(photos, name) for name in cache.ids]))
    for layer, width in (("mean", 6), ("penultimate", 12)):
        found = cache.features(layer)
        assert found.shape == (16, width)
        np.testing.assert_allclose(found, wanted[layer].numpy(), rtol=0, atol=1e-5)
    assert cache.summary.runtime.startswith("onnxruntime-cpu")


def test_a_second_extract_runs_no_network(photos: Path, mine: Path, tmp_path: Path) -> None:
    assert pl.extract(photos, backbone=str(mine), cache=tmp_path).summary.inferred == 16
    assert pl.extract(photos, backbone=str(mine), cache=tmp_path).summary.inferred == 0


def test_a_network_stays_as_it_was_given(tmp_path: Path) -> None:
    own = network()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    pl.save_backbone(own, tmp_path / "mine.onnx", **HOW)
    assert own.training and own.dropout.training
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(parameter.requires_grad for parameter in own.parameters())


def test_extraction_loads_no_torch(photos: Path, mine: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import pipeline as pl
cache = pl.extract({str(photos)!r}, backbone={str(mine)!r}, cache={str(tmp_path)!r}, device="cpu")
print(cache.summary.inferred, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "16 False\n"


def test_an_embedder_takes_it(photos: Path, mine: Path, tmp_path: Path) -> None:
    cache = pl.extract(photos, backbone=str(mine), cache=tmp_path)
    embedder = pl.ImageEmbedder(backbone=str(mine), cache=tmp_path, device="cpu")
    found = embedder.fit_transform([str(photos / name) for name in cache.ids])
    np.testing.assert_array_equal(found, cache.features())


# The key


def test_the_key_changes_with_weights_code_and_preprocessing_and_with_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"

    def key(made: Texture, **how: Any) -> str:
        return recipe_of(pl.save_backbone(made, path, **{**HOW, **how})).key("there")

    first = key(network())
    assert key(network()) == first  # saved again
    others = [
        key(network(seed=1)),  # other weights
        key(network(spread=False)),  # other code, the same weights
        *(
            key(network(), **{name: value})
            for name, value in [("crop", 44), ("resize", 50), ("interpolation", "bicubic")]
        ),
        key(network(), mean=(0.4, 0.5, 0.7)),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_another_network_under_the_same_name_infers_all_into_a_cache_of_its_own(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    caches = []
    for seed in (0, 1):
        pl.save_backbone(network(seed), path, **HOW)
        caches.append(pl.extract(photos, backbone=str(path), cache=tmp_path / "caches"))
    assert [cache.summary.inferred for cache in caches] == [16, 16]
    assert caches[0].path != caches[1].path
    assert np.abs(caches[0].features() - caches[1].features()).max() > 0.01


def test_the_file_tells_nothing_of_the_machine_that_made_it(mine: Path) -> None:
    assert Path(__file__).name.encode() not in mine.read_bytes()
    assert json.loads(onnx.load(mine).metadata_props[0].value)["crop"] == 40


# Models


def test_a_model_keeps_it_and_predicts_without_the_original(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "networks" / "mine.onnx"
    pl.save_backbone(network(), path, **HOW)
    model = pl.fit(photos, backbone=str(path), cache=tmp_path, **QUICK)
    said = model.predict(photos)
    model.save(tmp_path / "mine.model")
    path.unlink()
    assert (tmp_path / "mine.model" / "backbone.onnx").is_file()
    assert str(tmp_path) not in (tmp_path / "mine.model" / "model.json").read_text()
    opened = pl.Model.open(tmp_path / "mine.model")
    assert opened.backbone == model.backbone and opened.backbone.name == "mine.onnx"
    assert opened.predict(photos).equals(said)
    assert said["label"].tolist() == [name.split("/")[0] for name in said["id"]]

    cache = next(tmp_path.glob("*.h5"))
    with pytest.raises(CacheError, match=f"{cache.name}: {re.escape(str(path))}: expected a network as an ONNX file"):
        pl.fit(str(cache), **QUICK)
    pl.save_backbone(network(seed=1), path, **HOW)
    with pytest.raises(CacheError, match=r"expected the ONNX file with SHA-256 \w{12}\.\.\., got"):
        pl.fit(str(cache), **QUICK)

    (tmp_path / "mine.model" / "backbone.onnx").write_bytes(path.read_bytes())
    with pytest.raises(PipelineError, match=r"backbone\.onnx: expected SHA-256"):
        pl.Model.open(tmp_path / "mine.model")


def test_a_model_without_it_says_what_is_missing(photos: Path, mine: Path, tmp_path: Path) -> None:
    pl.fit(photos, backbone=str(mine), cache=tmp_path, **QUICK).save(tmp_path / "small.model", weights=False)
    with pytest.raises(BackboneError, match=r"expected the ONNX file \(SHA-256 \w{12}\.\.\.\), which was not stored"):
        pl.Model.open(tmp_path / "small.model")


@pytest.mark.parametrize("layer", ["mean", "penultimate"])
def test_its_export_answers_as_predict_does(photos: Path, mine: Path, tmp_path: Path, layer: str) -> None:
    model = pl.fit(photos, backbone=str(mine), layer=layer, cache=tmp_path, **{**QUICK, "heads": "logistic"})
    exported = model.export(tmp_path / "whole.onnx", check=photos)
    assert exported.proofs[0].changed == 0 and exported.proofs[0].largest < 1e-5
    whole = onnx.load(tmp_path / "whole.onnx")
    assert [output.name for output in whole.graph.output] == ["label", "probabilities"]
    with pytest.raises(ExportError, match=r"expected a torchvision network, got mine\.onnx, which is an ONNX file"):
        model.export(tmp_path / "whole.torch", format="torch")


@pytest.mark.slow
def test_a_study_leaves_out_its_random_twin(photos: Path, mine: Path, tmp_path: Path) -> None:
    study = pl.study(photos, backbone=str(mine), cache=tmp_path, head="ridge", budget=0.5, n_jobs=1, device="cpu")
    methods = set(study.table()["method"])
    assert "transfer" in methods and "random weights" not in methods
    assert study.backbone == "mine.onnx:own"


def test_it_is_described(mine: Path) -> None:
    said = describe(str(mine))
    assert (said.name, said.final_layer) == ("mine.onnx", "")
    assert {layer.name: layer.width for layer in said.layers} == {"mean": 6, "penultimate": 12}
    assert said.weights[0].preprocessing == Backbone.open(str(mine)).preprocessing
    with pytest.raises(BackboneError, match=r"backbone 'mine\.onnx' has no layer 'late'; nearest: penultimate"):
        Backbone.open(str(mine)).resolve_layers(["late"])


# What is refused


def changed(source: Path, path: Path, how: Callable[[onnx.ModelProto], Any]) -> Path:
    model = onnx.load(source)
    how(model)
    path.write_bytes(model.SerializeToString())
    return path


def outside(model: onnx.ModelProto) -> None:
    external_data_helper.set_external_data(model.graph.initializer[0], "/etc/passwd")


def outside_in_a_branch(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("secret", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.raw_data = b""
    external_data_helper.set_external_data(tensor, "elsewhere.bin")
    branch = helper.make_graph([helper.make_node("Constant", [], ["inner"], value=tensor)], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["flag"], ["chosen"], then_branch=branch, else_branch=branch))


def no_preprocessing(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def preprocessing(**values: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        entry = model.metadata_props[0]
        entry.value = json.dumps({**json.loads(entry.value), **values})

    return change


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def another_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "logits"


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (outside, "expected the whole network in one file, got weights in another: "),
        (outside_in_a_branch, "expected the whole network in one file, got weights in another: secret"),
        (
            no_preprocessing,
            "expected 'preprocessing' in its metadata, which describes how photos are prepared, got none",
        ),
        (preprocessing(mean=[1, 2]), "expected its preprocessing as JSON, got ValueError"),
        (preprocessing(crop=10**9, resize=10**9), "expected 1 <= crop <= resize <= 4096, got crop 1000000000"),
        (
            preprocessing(interpolation="magic"),
            "expected the interpolation nearest, bilinear, bicubic, lanczos, got 'magic'",
        ),
        (
            preprocessing(crop=20),
            r"expected one input, pixels uint8 \(b, 20, 20, 3\), got pixels uint8 \(b, 40, 40, 3\)",
        ),
        (another_input, r"expected one input, pixels uint8 \(b, 40, 40, 3\), got pixels float \(b, 40, 40, 3\)"),
        (another_output, r"expected outputs features/LAYER float32 \(b, width\), got logits float \(b, 6\)"),
        (fixed_batch, r"expected outputs features/LAYER float32 \(b, width\), got features/mean float \(2, 6\)"),
    ],
)
def test_a_file_that_is_no_backbone_is_refused(
    mine: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], Any], text: str
) -> None:
    path = changed(mine, tmp_path / "other.onnx", change)
    with pytest.raises(BackboneError, match=f"{re.escape(str(path))}: {text}"):
        Backbone.open(str(path))


def test_damage_absence_and_a_change_are_named(mine: Path, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    with pytest.raises(BackboneError, match="expected a network as an ONNX file, got No such file"):
        Backbone.open(str(path))
    path.write_bytes(b"not a network at all")
    with pytest.raises(BackboneError, match="expected an ONNX file, got another file, or a damaged one"):
        Backbone.open(str(path))
    path.write_bytes(mine.read_bytes())
    opened = Backbone.open(str(path))
    path.write_bytes(mine.read_bytes() + b"\x00")
    with pytest.raises(BackboneError, match="changed since the backbone was opened: expected SHA-256"):
        open_runtime(opened, ["penultimate"])


def test_what_only_torch_can_is_refused(mine: Path) -> None:
    own = Backbone.open(str(mine))
    with pytest.raises(BackboneError, match="expected bf16, got an ONNX file, which computes as it was saved"):
        open_runtime(own, ["penultimate"], precision="bf16", device="cpu")
    with pytest.raises(BackboneError, match="expected the device cuda, got an ONNX file, which runs on the CPU"):
        open_runtime(own, ["penultimate"], device="cuda")
    with pytest.raises(BackboneError, match=r"'mine\.onnx': expected a torch network, got an ONNX file"):
        own.load_network()
    with pytest.raises(BackboneError, match=r"'mine\.onnx': expected a final layer, got an ONNX file"):
        own.final_layer()


class Maps(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::2, ::2]


class Undecided(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean((2, 3))
        return means if float(images.sum()) > 0 else -means


class Nothing(nn.Module):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize(
    ("made", "how", "text"),
    [
        (Maps(), {}, r"expected embeddings \(b, width\), got \(b, 3, 20, 20\) as 'penultimate'"),
        (Nothing(), {}, r"expected embeddings \(b, width\), got none"),
        (nn.Linear(5, 2), {}, r"expected a network of float32 \(b, 3, 40, 40\), got RuntimeError"),
        (Undecided(), {}, "expected a network that can be exported to ONNX, but it cannot"),
        (
            Texture(),
            {"mean": (0.5, 0.5)},
            r"expected mean and std as 3 numbers each, one per channel, got \(0.5, 0.5\)",
        ),
        (Texture(), {"std": (0.5, 0.0, 0.5)}, r"expected std and value_range above 0, got std \(0.5, 0.0, 0.5\)"),
        (Texture(), {"crop": 60}, "expected 1 <= crop <= resize <= 4096, got crop 60 and resize 48"),
    ],
)
def test_a_network_that_gives_no_embeddings_is_refused(
    made: nn.Module, how: dict[str, Any], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.onnx"
    with pytest.raises(BackboneError, match=f"{re.escape(str(path))}: {text}"):
        pl.save_backbone(made, path, **{**HOW, **how})
    assert list(tmp_path.iterdir()) == []


def test_the_ending_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"expected a path that ends in \.onnx, got '\.pt'"):
        pl.save_backbone(Texture(), tmp_path / "mine.pt", **HOW)
