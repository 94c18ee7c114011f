"""The torch runtime: the same embeddings whatever the batch, the order, the thread or the folding."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision import models
from torchvision.transforms import functional

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError
from pipeline.runtime import Runtime, open_runtime
from pipeline.runtime.folding import fold_batch_norm
from pipeline.runtime.torch_runtime import Normalise, resolve_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Run torch on one thread, as the engines do; two of them wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.open()


@pytest.fixture(scope="module")
def runtime(backbone) -> Runtime:
    return open_runtime(backbone, ["all"], device="cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Eleven crops of two photos: uint8 (11, 224, 224, 3)."""
    crops = []
    for i in range(11):
        photo = load_sample_image("china.jpg" if i % 2 else "flower.jpg")
        crops.append(photo[15 * i : 15 * i + 224, 30 * i : 30 * i + 224])
    return np.ascontiguousarray(np.stack(crops))


def close(found, wanted, tolerance=1e-5):
    for layer in wanted:
        np.testing.assert_allclose(found[layer], wanted[layer], rtol=0, atol=tolerance * np.abs(wanted[layer]).max())


# Values


def test_normalisation_is_bit_equal_to_torchvisions_preset():
    photo = Image.fromarray(load_sample_image("china.jpg"))
    for weights in (models.ResNet50_Weights.IMAGENET1K_V2, models.EfficientNet_V2_L_Weights.IMAGENET1K_V1):
        preset = weights.transforms()
        resized = functional.resize(photo, preset.resize_size, preset.interpolation, antialias=preset.antialias)
        crop = np.array(functional.center_crop(resized, preset.crop_size))
        from pipeline.backbone import architectures

        name = "resnet50" if weights.name == "IMAGENET1K_V2" else "efficientnet_v2_l"
        how = architectures.preprocessing_of(name, weights.name)
        found = Normalise(how, CPU)(torch.from_numpy(crop)[None].permute(0, 3, 1, 2))
        assert torch.equal(found[0], preset(photo))


def test_normalisation_in_grey_levels(backbone):
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = Normalise(backbone.preprocessing, CPU)(grey)
    assert torch.equal(found, (grey.double() - 127).div(128).float())


def test_runtime_gives_the_backbones_features(runtime, backbone, pixels):
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        wanted = {layer: value.numpy() for layer, value in backbone.load(["all"])(x).items()}
    found = runtime(pixels)
    close(found, wanted)
    assert list(found) == ["early", "middle", "late", "penultimate"]
    for layer, value in found.items():
        assert value.dtype == np.float32 and value.flags.c_contiguous
        assert value.shape == (11, backbone.resolve_layers([layer])[layer])


def test_batch_size_and_order_move_only_the_last_bits(runtime, pixels):
    whole = runtime(pixels)
    for size in (1, 3, 4):
        parts = [runtime(pixels[i : i + size]) for i in range(0, len(pixels), size)]
        close({layer: np.concatenate([part[layer] for part in parts]) for layer in whole}, whole)
    order = np.random.default_rng(0).permutation(len(pixels))
    close(runtime(pixels[order]), {layer: value[order] for layer, value in whole.items()})


def test_threads_share_one_runtime(runtime, pixels):
    wanted = [runtime(pixels[i : i + 2]) for i in range(8)]
    found: list[dict[str, np.ndarray] | None] = [None] * 8

    def work(i):
        found[i] = runtime(pixels[i : i + 2])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(found, wanted, strict=True):
        assert got is not None
        close(got, want)


def test_read_only_and_strided_pixels_give_the_same(runtime, pixels):
    wanted = runtime(pixels[:2])
    frozen = pixels[:2].copy()
    frozen.flags.writeable = False
    close(runtime(frozen), wanted, 0)
    close(runtime(pixels[1::-1]), {layer: value[::-1] for layer, value in wanted.items()})


def test_input_pixels_are_left_as_they_were(runtime, pixels):
    before = pixels.copy()
    runtime(pixels)
    assert np.array_equal(pixels, before)


def test_bf16_is_near_and_returned_as_float32(backbone, runtime, pixels):
    lower = open_runtime(backbone, ["all"], device="cpu", precision="bf16")(pixels[:4])
    wanted = runtime(pixels[:4])
    for layer, value in lower.items():
        assert value.dtype == np.float32
        difference = np.abs(value - wanted[layer]).max() / np.abs(wanted[layer]).max()
        assert 1e-5 < difference < 0.1, layer


def test_no_image_gives_no_row(runtime, backbone):
    found = runtime(np.empty((0, 224, 224, 3), np.uint8))
    assert {layer: value.shape for layer, value in found.items()} == {
        layer: (0, width) for layer, width in backbone.resolve_layers(["all"]).items()
    }


def test_batch_that_does_not_fit_is_run_in_halves(backbone, pixels, monkeypatch):
    small = open_runtime(backbone, ["penultimate"], device="cpu")
    wanted, run, sizes = small(pixels), small._run, []

    def run_three(block):
        sizes.append(len(block))
        if len(block) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(block)

    monkeypatch.setattr(small, "_run", run_three)
    close(small(pixels), wanted)
    assert sizes[0] == 11 and sum(size for size in sizes if size <= 3) == 11

    def run_none(block):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(small, "_run", run_none)
    with pytest.raises(BackboneError, match="one image of 224 x 224 pixels does not fit into the memory of cpu"):
        small(pixels)


# Folding


def shaken(network: nn.Module) -> nn.Module:
    """Return the network with batch normalisations that do something."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return network.requires_grad_(False)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_lite0"])
def test_folded_network_is_the_same_function(name):
    from pipeline.backbone import architectures
    from pipeline.backbone.layers import extractor
    from pipeline.backbone.weights import random_network

    network = shaken(random_network(name, classes=5, architecture={}, random_state=0))
    plan = architectures.anatomy_of(name, classes=5, architecture={}, crop=224)
    layers = ["early", "penultimate"]
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = extractor(network, layers, plan)(x)
        folded = fold_batch_norm(extractor(network, layers, plan))
        found = folded(x)
        again = extractor(network, layers, plan)(x)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left < (0.6 if name == "densenet121" else 0.01) * sum(
        isinstance(module, nn.BatchNorm2d) for module in network.modules()
    )
    for layer in layers:
        assert (found[layer] - wanted[layer]).abs().max() <= 1e-5 * wanted[layer].abs().max()
        assert torch.equal(again[layer], wanted[layer])  # the network itself is left alone


def test_convolution_that_is_itself_asked_for_is_not_folded():
    from pipeline.backbone import architectures
    from pipeline.backbone.layers import extractor
    from pipeline.backbone.weights import random_network

    network = shaken(random_network("resnet18", classes=5, architecture={}, random_state=0))
    plan = architectures.anatomy_of("resnet18", classes=5, architecture={}, crop=224)
    module = extractor(network, ["conv1", "layer1.0.conv1"], plan)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, found = module(x), fold_batch_norm(extractor(network, ["conv1", "layer1.0.conv1"], plan))(x)
    for layer, value in wanted.items():
        torch.testing.assert_close(found[layer], value, rtol=1e-5, atol=1e-5)


# Devices and precisions


def test_auto_takes_the_gpu_only_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(BackboneError, match=r"wanted the device 'cuda:2', found 2 CUDA GPU\(s\), counted from cuda:0"):
        resolve_device("cuda:2")


def test_gpu_that_is_not_there_is_refused(backbone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError) as error:
        open_runtime(backbone, ["penultimate"], device="cuda")
    assert error.value.message == "wanted the device 'cuda', found no CUDA GPU"
    assert error.value.next_step == "--device cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_unknown_device_is_refused(device):
    with pytest.raises(BackboneError, match="wanted a device auto, cpu, cuda or cuda:0, found"):
        resolve_device(device)


def test_fp16_on_a_cpu_and_unknown_precisions_are_refused(backbone):
    with pytest.raises(BackboneError) as error:
        open_runtime(backbone, ["penultimate"], device="cpu", precision="fp16")
    assert error.value.message == "wanted the precision fp16, which needs a GPU, found the device 'cpu'"
    assert error.value.next_step == "--precision bf16 or fp32"
    with pytest.raises(BackboneError, match="wanted a precision fp32, bf16, fp16, found 'fp8'"):
        open_runtime(backbone, ["penultimate"], device="cpu", precision="fp8")


def test_runtime_keeps_its_protocol(runtime):
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.batch_size) == ("torch-cpu", 4)


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 3, 224, 224), np.uint8), ((2, 224, 224, 3), np.float32), ((224, 224, 3), np.uint8)]
)
def test_pixels_of_another_shape_or_type_are_refused(runtime, shape, kind):
    with pytest.raises(ValueError, match=r"wanted uint8 \(b, 224, 224, 3\), found"):
        runtime(np.zeros(shape, kind))


# On a GPU


@pytest.mark.gpu
def test_gpu_in_fp32_agrees_with_the_cpu(backbone, runtime, pixels):
    gpu = open_runtime(backbone, ["all"], device="cuda")
    assert (gpu.name, gpu.batch_size) == ("torch-cuda", 256)
    close(gpu(pixels), runtime(pixels))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gpu_in_lower_precision_is_near(backbone, runtime, pixels, precision):
    found = open_runtime(backbone, ["all"], device="cuda", precision=precision)(pixels)
    close(found, runtime(pixels), 0.1)
    assert all(value.dtype == np.float32 for value in found.values())


@pytest.mark.gpu
def test_gpu_is_shared_by_threads(backbone, pixels):
    gpu = open_runtime(backbone, ["penultimate"], device="cuda")
    wanted = [gpu(pixels[i : i + 4])["penultimate"] for i in range(7)]
    found: dict[int, np.ndarray] = {}

    def work(i):
        for _ in range(20):
            found[i] = gpu(pixels[i : i + 4])["penultimate"]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, want in enumerate(wanted):
        np.testing.assert_allclose(found[i], want, rtol=0, atol=1e-5 * np.abs(want).max())
