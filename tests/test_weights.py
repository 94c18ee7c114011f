"""Weights: torchvision's own, files, random ones, and what a model folder keeps of them."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from torchvision import models

from pipeline.backbone import Backbone, registry, weights
from pipeline.errors import BackboneError

NAME = "shufflenet_v2_x0_5"  # the smallest file that torchvision has: 5 MB
FILE = "shufflenetv2_x0.5-f707e7126e.pth"
URL = f"https://download.pytorch.org/models/{FILE}"
X = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run torch on one thread, as the engines do; two of them wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """torch.hub's checkpoints folder, empty, on a machine without a network."""

    def refuse(*arguments, **keywords):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def network():
    """A network whose batch normalisation is not the identity, with seven classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = models.shufflenet_v2_x0_5(weights=None, num_classes=7)
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return made.eval()


@pytest.fixture
def state(network):
    return copy.deepcopy(network.state_dict())


def embedding(network):
    with torch.inference_mode():
        wanted: list[torch.Tensor] = []
        handle = network.fc.register_forward_pre_hook(lambda module, inputs: wanted.append(inputs[0].clone()))
        network(X)
        handle.remove()
    return wanted[0]


def penultimate(backbone):
    with torch.inference_mode():
        return backbone.load(["penultimate"])(X)["penultimate"]


def refusal(spec):
    with pytest.raises(BackboneError) as error:
        Backbone.open(spec)
    return error.value


# torchvision's own weights


def test_offline_names_the_url_the_place_and_the_bundled_backbone(hub):
    error = refusal(NAME)
    assert error.message == (
        f"backbone '{NAME}': expected its weights IMAGENET1K_V1 from {URL}, but could not download them "
        "(<urlopen error no route to host>)"
    )
    assert error.next_step == (
        f"put the file at {hub / FILE}, or use the bundled backbone: --backbone efficientnet_lite0"
    )
    assert not list(hub.iterdir())  # no half file is left


def test_file_in_torch_hubs_folder_is_used_without_a_network(hub, monkeypatch):
    full = models.shufflenet_v2_x0_5(weights=None).eval()
    hub.mkdir(parents=True)
    torch.save(full.state_dict(), hub / FILE)
    digest = weights.file_sha256(hub / FILE)
    monkeypatch.setattr(registry, "hash_prefix", lambda url: digest[:10])
    backbone = Backbone.open(f"{NAME}:IMAGENET1K_V1")
    assert (backbone.weights, backbone.weights_sha256, backbone.file) == ("IMAGENET1K_V1", digest, hub / FILE)
    assert backbone.preprocessing == registry.preprocessing_of(NAME, "IMAGENET1K_V1")
    torch.testing.assert_close(penultimate(backbone), embedding(full), rtol=1e-6, atol=1e-6)
    assert backbone.categories()[:2] == ["tench", "goldfish"]
    assert Backbone.open(NAME) == backbone


def test_file_with_another_hash_is_refused(hub):
    hub.mkdir(parents=True)
    (hub / FILE).write_bytes(b"half a file")
    error = refusal(NAME)
    assert f"{hub / FILE}: expected the weights IMAGENET1K_V1 of {NAME}, whose SHA-256 starts with f707e7126e" in str(
        error
    )
    assert error.next_step == f"delete the file and run the same command again, to download it again from {URL}"


@pytest.fixture
def served(tmp_path, monkeypatch, network):
    """An enum whose URL is a file of the test's; returns the file's path and sets the published hash."""
    from urllib.request import urlopen

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    source = tmp_path / "server" / FILE
    source.parent.mkdir()
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), source)
    real = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    enum = SimpleNamespace(name=real.name, url=source.as_uri(), meta=real.meta, transforms=real.transforms)
    monkeypatch.setattr(registry, "enums", lambda name: {real.name: enum})
    digest = weights.file_sha256(source)
    monkeypatch.setattr(registry, "hash_prefix", lambda url: digest[:8])
    return source


def test_download_lands_in_torch_hubs_folder(served, hub):
    backbone = Backbone.open(NAME)
    assert [path.name for path in hub.iterdir()] == [FILE]
    assert (hub / FILE).read_bytes() == served.read_bytes()
    served.unlink()
    assert Backbone.open(NAME) == backbone


def test_download_with_a_wrong_hash_leaves_nothing(served, hub, monkeypatch):
    monkeypatch.setattr(registry, "hash_prefix", lambda url: "00000000")
    assert 'invalid hash value (expected "00000000"' in refusal(NAME).message
    assert not list(hub.iterdir())


def test_headless_weights_are_refused_before_any_download():
    error = refusal("vgg16:IMAGENET1K_FEATURES")
    assert error.message == (
        "backbone 'vgg16': the weights IMAGENET1K_FEATURES have no classifier: they lack valid values for the final "
        "layer (classifier.6.weight, classifier.6.bias) and the layers before it"
    )
    assert error.next_step == "--backbone vgg16:IMAGENET1K_V1"


def test_unknown_weights_get_the_nearest_names():
    error = refusal("resnet50:IMAGENET1K_V3")
    assert error.message == (
        "backbone 'resnet50' has no weights 'IMAGENET1K_V3'; nearest: IMAGENET1K_V2, IMAGENET1K_V1"
    )
    assert error.next_step == "pipeline backbones resnet50"


# Files


@pytest.mark.parametrize("wrapping", ["plain", "safetensors", "state_dict", "model", "module", "half"])
def test_a_file_gives_its_networks_embedding_and_classes(tmp_path, state, network, wrapping):
    path = tmp_path / ("mine.safetensors" if wrapping == "safetensors" else "mine.pth")
    if wrapping == "safetensors":
        safetensors.torch.save_file(state, path)
    elif wrapping in ("state_dict", "model"):
        torch.save({wrapping: state, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    elif wrapping == "module":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    elif wrapping == "half":
        torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    backbone = Backbone.open(f"{NAME}:{path}@IMAGENET1K_V1")
    assert (backbone.classes, backbone.weights) == (7, f"{path.name}@IMAGENET1K_V1")
    assert backbone.weights_sha256 == weights.file_sha256(path)
    assert backbone.load_network().fc.out_features == 7
    tolerance = 1e-2 if wrapping == "half" else 1e-6
    torch.testing.assert_close(penultimate(backbone), embedding(network), rtol=tolerance, atol=tolerance)


def test_a_bare_file_must_say_whose_preprocessing_it_has(tmp_path, state):
    path = tmp_path / "mine.pth"
    torch.save(state, path)
    error = refusal(f"{NAME}:{path}")
    assert f"{path}: expected the name of the weights whose preprocessing the file uses" in error.message
    assert f"whose SHA-256 {weights.file_sha256(path)[:8]}... is none of {NAME}'s" in error.message
    assert "one of IMAGENET1K_V1, got" in error.message
    assert error.next_step == f"--backbone {NAME}:{path}@IMAGENET1K_V1"
    error = refusal(f"{NAME}:{path}@IMAGENET1K_V9")
    assert error.message == (
        f"{path}: expected the preprocessing of 'IMAGENET1K_V9', but {NAME} has only IMAGENET1K_V1"
    )


def test_a_bare_file_with_a_published_hash_needs_no_name(tmp_path, state, monkeypatch):
    path = tmp_path / "renamed.pth"
    torch.save(state, path)
    digest = weights.file_sha256(path)
    published = {models.ResNet50_Weights.IMAGENET1K_V1.url: "0" * 8}
    monkeypatch.setattr(registry, "hash_prefix", lambda url: published.get(url, digest[:8]))
    assert Backbone.open(f"{NAME}:{path}").weights == "renamed.pth@IMAGENET1K_V1"
    error = refusal(f"resnet50:{path}@IMAGENET1K_V1")
    assert error.message == (
        f"{path}: its SHA-256 is that of IMAGENET1K_V2, so it cannot have the preprocessing of IMAGENET1K_V1"
    )


def test_the_bundled_file_is_recognised_by_its_hash(tmp_path):
    default = Backbone.open()
    path = tmp_path / "copy.pth"
    path.write_bytes(default.file.read_bytes())
    again = Backbone.open(f"efficientnet_lite0:{path}")
    assert (again.weights, again.weights_sha256) == ("copy.pth@bundled", default.weights_sha256)
    assert again.preprocessing == default.preprocessing


def damaged(state, how):
    if how == "headless":
        return {key: value for key, value in state.items() if not key.startswith("fc.")}
    if how == "missing":
        return {key: value for key, value in state.items() if not key.startswith("conv5.0")}
    if how == "unexpected":
        return {**state, "extra.weight": torch.zeros(3)}
    if how == "shape":
        return {**state, "conv1.0.weight": torch.zeros(24, 1, 3, 3)}
    if how == "not finite":
        return {**state, "conv5.0.weight": state["conv5.0.weight"].clone().fill_(float("nan"))}
    return {**state, "epochs": 12}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (
            "headless",
            f"expected all tensors of {NAME} with its final layer, got a file that lacks fc.weight, fc.bias",
        ),
        ("missing", f"expected the 338 tensors of {NAME}, got 337: missing conv5.0.weight"),
        ("unexpected", f"expected the 338 tensors of {NAME}, got 339: unexpected extra.weight"),
        ("shape", f"its tensors do not fit {NAME}: size mismatch for conv1.0.weight"),
        ("not finite", f"expected finite weights for {NAME}, got values that are not finite in conv5.0.weight"),
        ("not tensors", "expected a state dict (names and tensors), got entries that are not tensors: epochs"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_for_what_it_lacks(tmp_path, state, how, text):
    path = tmp_path / "mine.pth"
    torch.save(damaged(state, how), path)
    message = refusal(f"{NAME}:{path}@IMAGENET1K_V1").message
    assert message.startswith(f"{path}: ")
    assert text in message


class Payload:
    """Code that must never run."""

    def __reduce__(self):
        return (pytest.fail, ("a pickled object was loaded",))


def test_pickled_objects_are_never_loaded(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Payload()}, path)
    error = refusal(f"{NAME}:{path}@IMAGENET1K_V1")
    assert "such objects are never loaded, because they can run code" in error.message
    path.with_suffix(".pt").write_bytes(pickle.dumps(Payload()))
    assert "such objects are never loaded" in refusal(f"{NAME}:{path.with_suffix('.pt')}@IMAGENET1K_V1").message


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_truncated_file_is_named(tmp_path, state, ending):
    path = tmp_path / f"mine{ending}"
    if ending == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:100_000])
    assert refusal(f"{NAME}:{path}@IMAGENET1K_V1").message.startswith(
        f"{path}: expected a weights file, but could not read"
    )


def test_missing_file_and_wrong_ending_are_named(tmp_path):
    path = tmp_path / "none.pth"
    assert refusal(f"{NAME}:{path}").message == (
        f"backbone '{NAME}': expected a weights file at {path}, but there is no such file"
    )
    other = tmp_path / "weights.h5"
    other.write_bytes(b"")
    assert refusal(f"{NAME}:{other}").message == (
        f"{other}: expected a weights file that ends in .safetensors, .pth, .pt, got '.h5'"
    )


def test_file_changed_after_opening_is_not_loaded(tmp_path, state):
    path = tmp_path / "mine.pth"
    torch.save(state, path)
    backbone = Backbone.open(f"{NAME}:{path}@IMAGENET1K_V1")
    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, path)
    with pytest.raises(BackboneError, match="changed since the backbone was opened: expected SHA-256"):
        backbone.load_network()
    path.unlink()
    with pytest.raises(BackboneError, match="but there is no such file"):
        backbone.load_network()


# Files of single families


def test_googlenet_files_bring_transform_input_and_leave_auxiliaries(tmp_path):
    with torch.random.fork_rng(devices=[]):
        full = models.googlenet(weights=None, num_classes=4, aux_logits=True, transform_input=True, init_weights=False)
    path = tmp_path / "mine.pth"
    torch.save(full.state_dict(), path)
    backbone = Backbone.open(f"googlenet:{path}@IMAGENET1K_V1")
    assert (dict(backbone.architecture), backbone.classes) == ({"transform_input": True}, 4)
    full.eval()
    torch.testing.assert_close(penultimate(backbone), embedding(full), rtol=1e-5, atol=1e-6)
    full.transform_input = False
    assert not torch.allclose(penultimate(backbone), embedding(full), rtol=1e-2)


def zeros_like_a(name, **arguments):
    """Return a state dict of a family's shapes that takes no memory."""
    network = registry.build_on_meta(name, classes=5, architecture=arguments)
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in network.state_dict().items()}


def test_old_names_of_densenet_and_vision_transformers_are_understood():
    densenet = zeros_like_a("densenet121")
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in densenet.items()}
    assert old.keys() != densenet.keys()
    assert weights.rename_tensors("densenet121", old).keys() == densenet.keys()
    transformer = zeros_like_a("vit_b_32", image_size=224)
    old = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): transformer[key]
        for key in transformer
    }
    assert old.keys() != transformer.keys()
    network = weights.network_of("vit_b_32", old, classes=5, architecture={"image_size": 224}, origin="old.pth")
    assert network.state_dict().keys() == transformer.keys()


def test_mnasnet_loads_from_a_file_without_a_version(tmp_path):
    with torch.random.fork_rng(devices=[]):
        network = models.mnasnet0_5(weights=None, num_classes=5)
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    backbone = Backbone.open(f"mnasnet0_5:{path}@IMAGENET1K_V1")
    for key, value in backbone.load_network().state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


# Random weights


def test_random_weights_follow_the_seed_alone():
    before = torch.random.get_rng_state()
    first = Backbone.open(f"{NAME}:random")
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    again, other = Backbone.open(f"{NAME}:random", random_state=0), Backbone.open(f"{NAME}:random", random_state=1)
    assert first == again
    assert first.weights_sha256 != other.weights_sha256
    assert torch.equal(penultimate(first), penultimate(again))
    assert not torch.equal(penultimate(first), penultimate(other))
    assert (first.weights, first.file, first.classes, first.categories()) == ("random", None, 1000, None)


def test_random_bundled_backbone_tells_photos_apart():
    values = penultimate(Backbone.open("efficientnet_lite0:random"))
    assert torch.isfinite(values).all()
    assert values.abs().max() > 1e-3
    assert (values[0] - values[1]).abs().max() > 1e-2 * values.abs().max()


def test_random_digest_covers_names_types_shapes_and_bytes():
    base = {"a": torch.arange(6.0).reshape(2, 3)}
    variants = [
        {"b": base["a"]},
        {"a": base["a"].reshape(3, 2)},
        {"a": base["a"].to(torch.int32)},
        {"a": base["a"] + 1e-6},
    ]
    digests = {weights.tensors_sha256(variant) for variant in [base, *variants]}
    assert len(digests) == 5
    two = {"x": torch.zeros(1), "y": torch.ones(1)}
    assert weights.tensors_sha256(two) == weights.tensors_sha256(dict(reversed(two.items())))


# What a model folder keeps


@pytest.mark.parametrize("spec", ["efficientnet_lite0", f"{NAME}:random"])
def test_record_and_saved_weights_give_bit_equal_features(tmp_path, spec):
    import json

    backbone = Backbone.open(spec, random_state=4)
    backbone.save_weights(tmp_path / "backbone.safetensors")
    record = json.loads(json.dumps(backbone.record()))
    again = Backbone.from_record(record, tmp_path / "backbone.safetensors")
    assert again == backbone  # its digest is that of the weights it was made from
    assert torch.equal(penultimate(again), penultimate(backbone))
    assert Backbone.from_record(record) == backbone  # found again by name
    assert again.record() == backbone.record()


def test_record_of_a_file_keeps_its_classes(tmp_path, state, network):
    path = tmp_path / "mine.pth"
    torch.save(state, path)
    backbone = Backbone.open(f"{NAME}:{path}@IMAGENET1K_V1")
    backbone.save_weights(tmp_path / "backbone.safetensors")
    path.unlink()
    again = Backbone.from_record(backbone.record(), tmp_path / "backbone.safetensors")
    assert again.classes == 7
    torch.testing.assert_close(penultimate(again), embedding(network), rtol=1e-6, atol=1e-6)
    with pytest.raises(
        BackboneError, match=r"expected the weights file 'mine.pth' \(SHA-256 .*\), which was not stored"
    ):
        Backbone.from_record(backbone.record())


def test_damaged_or_foreign_records_are_refused(tmp_path):
    record = Backbone.open().record()
    with pytest.raises(BackboneError, match="there is no backbone 'efficientnet_lite9'; nearest: efficientnet_lite0"):
        Backbone.from_record({**record, "name": "efficientnet_lite9"}, tmp_path / "x.safetensors")
    with pytest.raises(BackboneError, match=r"got a damaged one \(KeyError: 'classes'\)"):
        Backbone.from_record({key: value for key, value in record.items() if key != "classes"}, tmp_path / "x")
    with pytest.raises(BackboneError, match=r"expected the architecture arguments \[\], got \['progress'\]"):
        Backbone.from_record({**record, "architecture": {"progress": True}}, tmp_path / "x")
    with pytest.raises(BackboneError, match=r"with SHA-256 000000000000..., got 579344248a93..."):
        Backbone.from_record({**record, "weights_sha256": "0" * 64})
    with pytest.raises(BackboneError, match="but there is no such file"):
        Backbone.from_record(record, tmp_path / "gone.safetensors").load(["penultimate"])
