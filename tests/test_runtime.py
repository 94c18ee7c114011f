"""The torch runtime: the same embeddings whatever the batch, the order, the thread or the folding."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from progress_notes import Notes
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision import models
from torchvision.transforms import functional

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError
from pipeline.progress import Progress
from pipeline.runtime import Runtime, open_runtime
from pipeline.runtime import cuda as gpu_room
from pipeline.runtime.cuda import IN_FLIGHT, BatchSizes, GpuRunner, PinnedBuffers
from pipeline.runtime.torch_runtime import Compiled, Normalize, TorchRuntime, fold_batch_norm, resolve_device

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
    return TorchRuntime(backbone, ["all"], device="cpu")


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
        from pipeline.backbone import registry

        name = "resnet50" if weights.name == "IMAGENET1K_V2" else "efficientnet_v2_l"
        how = registry.preprocessing_of(name, weights.name)
        found = Normalize(how, CPU)(torch.from_numpy(crop)[None].permute(0, 3, 1, 2))
        assert torch.equal(found[0], preset(photo))


def test_normalisation_in_grey_levels(backbone):
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = Normalize(backbone.preprocessing, CPU)(grey)
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
    lower = TorchRuntime(backbone, ["all"], device="cpu", precision="bf16")(pixels[:4])
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


# Memory


class Small(nn.Module):
    """A network whose GPU holds so many images and no more."""

    def __init__(self, network: nn.Module, holds: int) -> None:
        super().__init__()
        self.network, self.holds, self.asked = network, holds, []

    def forward(self, images):
        self.asked.append(len(images))
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(images)


def test_batch_that_does_not_fit_is_run_in_halves_and_that_is_kept_and_said_once(backbone, pixels):
    notes = Notes()
    small = TorchRuntime(backbone, ["penultimate"], device="cpu", progress=notes)
    wanted = small(pixels)
    small._network = Small(small._network, holds=3)
    for asked in ([11, 5, 2, 2, 2, 2, 2, 1], [2, 2, 2, 2, 2, 1]):
        small._network.asked.clear()
        close(small(pixels), wanted)
        assert small._network.asked == asked  # the second time nothing is tried that does not fit
    assert small.batch_size == 2
    assert notes.texts == ["11 images at once do not fit into the memory of cpu; from now on 2 at once"]
    small._network.holds = 1  # another program takes memory
    close(small(pixels), wanted)
    assert (small.batch_size, len(notes.texts)) == (1, 1)


def test_more_images_than_a_batch_are_run_at_once_while_they_fit(backbone, pixels):
    large = TorchRuntime(backbone, ["penultimate"], device="cpu")
    large._network = Small(large._network, holds=11)
    large(pixels)
    assert large._network.asked == [11]


def test_one_image_that_does_not_fit_is_an_error(backbone, pixels):
    none = TorchRuntime(backbone, ["penultimate"], device="cpu")
    none._network = Small(none._network, holds=0)
    with pytest.raises(BackboneError) as error:
        none(pixels)
    assert error.value.message == "one image of 224 x 224 pixels does not fit into the memory of cpu"
    assert error.value.next_step == "--device cpu, or a smaller backbone"


def test_threads_that_run_out_of_memory_together_settle_on_one_size(backbone, pixels):
    notes = Notes()
    small = TorchRuntime(backbone, ["penultimate"], device="cpu", progress=notes)
    wanted = small(pixels[:4])
    small._network = Small(small._network, holds=1)
    found = shared_by_threads(lambda i: small(pixels[:4]), 6)
    for got in found.values():
        close(got, wanted)
    assert small.batch_size == 1
    assert len(found) == 6 and len(notes.texts) == 1 and notes.texts[0].startswith("4 images at once do not fit")


def shared_by_threads(work, count: int) -> dict[int, object]:
    """Return what `work` gives for 0, 1, ... when as many threads ask at once."""
    found: dict[int, object] = {}
    together = threading.Barrier(count)

    def run(i):
        together.wait()
        found[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# Buffers on the way to a GPU


@pytest.fixture
def made() -> list[int]:
    return []


@pytest.fixture
def buffers(made) -> PinnedBuffers:
    def make(size):
        made.append(size)
        return torch.empty(size, dtype=torch.uint8)

    return PinnedBuffers(2, make)


def test_buffers_hold_the_pixels_and_are_used_again(buffers, made, pixels):
    frozen = pixels[:4].copy()
    frozen.flags.writeable = False
    for block in (pixels[:4], frozen, pixels[3::-1], pixels[:8:2], pixels[:1]):
        with buffers.filled(block) as copy:
            assert copy.dtype == torch.uint8 and np.array_equal(copy.numpy(), block)
    assert made == [pixels[:4].size]
    with buffers.filled(pixels):  # a larger one takes the place of a smaller
        pass
    assert made == [pixels[:4].size, pixels.size]


def test_threads_never_share_a_buffer_and_no_more_are_made_than_there_may_be(buffers, made, pixels):
    def work(i):
        for _ in range(20):
            with buffers.filled(pixels[i : i + 2]) as copy:
                held = copy.clone()
                time.sleep(0)  # another thread's turn
                assert torch.equal(copy, held)
        return held.numpy()

    found = shared_by_threads(work, 8)
    assert all(np.array_equal(found[i], pixels[i : i + 2]) for i in range(8))
    assert 1 <= len(made) <= 2


def test_buffer_is_not_used_again_after_an_error(buffers, made, pixels):
    for _ in range(3):  # and its place is not lost
        with pytest.raises(torch.OutOfMemoryError), buffers.filled(pixels[:1]):
            raise torch.OutOfMemoryError("CUDA out of memory")
    assert len(made) == 3


class Stream:
    """Notes down what a stream of a GPU is asked to do."""

    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    def record_event(self, event=None):
        self._happened.append("uploaded" if event is None else "asked for the end")
        return event or "the upload's event"

    def wait_event(self, event):
        self._happened.append(f"the network waits for {event}")


@pytest.fixture
def happened(monkeypatch) -> list[str]:
    """What happens on a GPU, played by the CPU: what differs there are streams, events and pinned memory."""
    happened: list[str] = []

    class End:
        def __init__(self, *, blocking):
            assert blocking  # a thread that spins would take a core from decoding

        def synchronize(self):
            happened.append(f"{threading.current_thread().name} waits for the end")

    @contextlib.contextmanager
    def stream(stream):
        happened.append(f"upload by {threading.current_thread().name}")
        yield

    monkeypatch.setattr(gpu_room, "_Event", End)
    monkeypatch.setattr(gpu_room, "pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    monkeypatch.setattr(gpu_room, "_copy_to_cpu", torch.Tensor.clone)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(happened))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(happened))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda images, stream: happened.append("memory kept"))
    return happened


def as_if_on_a_gpu(backbone) -> TorchRuntime:
    found = TorchRuntime(backbone, ["penultimate"], device="cpu")
    found._gpu = GpuRunner(CPU)
    return found


def test_upload_is_waited_for_and_its_memory_kept_until_the_network_has_read_it(backbone, pixels, happened):
    wanted = TorchRuntime(backbone, ["penultimate"], device="cpu")(pixels[:4])
    runtime = as_if_on_a_gpu(backbone)
    network = runtime._network

    def run(images):
        happened.append(f"network over {len(images)}")
        return network(images)

    runtime._network = run
    for count in (4, 3):  # filled up to the size that is known
        close(runtime(pixels[:count]), {layer: values[:count] for layer, values in wanted.items()})
        upload, *steps, waiting = happened
        assert upload.startswith("upload by cuda:0")
        waits = "the network waits for the upload's event"
        assert steps == ["uploaded", waits, "memory kept", "network over 4", "asked for the end"]
        assert waiting == f"{threading.current_thread().name} waits for the end"
        happened.clear()


def test_one_thread_alone_gives_a_gpu_its_work_and_each_caller_gets_its_own_features(backbone, pixels, happened):
    runtime = as_if_on_a_gpu(backbone)
    wanted = runtime(pixels)["penultimate"]
    again = as_if_on_a_gpu(backbone)  # the thread and its plans outlive a run
    found = shared_by_threads(lambda i: (runtime if i % 2 else again)(pixels[i : i + 3])["penultimate"], 8)
    for i, values in found.items():
        np.testing.assert_allclose(values, wanted[i : i + 3], rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert len({step for step in happened if step.startswith("upload by")}) == 1


def test_memory_that_ends_over_filled_up_images_is_tried_without_them(backbone, pixels, happened):
    runtime = as_if_on_a_gpu(backbone)
    wanted = runtime(pixels[:8])["penultimate"]
    runtime._network = Small(runtime._network, holds=3)
    assert np.abs(runtime(pixels[:3])["penultimate"] - wanted[:3]).max() <= 1e-5 * np.abs(wanted).max()
    assert runtime._network.asked == [8, 3]


def test_few_sizes_are_ever_run():
    sizes = BatchSizes()
    assert [sizes.fitting(n) for n in (100, 37, 100, 99)] == [100] * 4  # a collection in blocks of 100
    assert [sizes.fitting(n) for n in (101, 128, 90)] == [128, 128, 100]
    assert [sizes.fitting(3) for _ in range(gpu_room.PATIENCE + 1)] == [100] * gpu_room.PATIENCE + [4]
    assert [sizes.fitting(n) for n in (1, 4, 5)] == [4, 4, 100]
    sizes.forget(100)
    assert [sizes.fitting(n) for n in (4, 5)] == [4, 8]


# Compiling


def test_network_that_cannot_be_compiled_runs_as_it_comes_and_that_is_said_once(monkeypatch):
    def refuse(images):
        raise RuntimeError("no such back end\n\nmany more lines")

    monkeypatch.setattr(torch, "compile", lambda network, **options: refuse)
    notes = Notes()
    network = Compiled(nn.Flatten(), notes)
    images = torch.arange(12.0).reshape(3, 2, 2)
    for _ in range(3):
        assert torch.equal(network(images), images.flatten(1))
    assert notes.texts == ["torch.compile failed (RuntimeError: no such back end); running without it"]


def test_only_blocks_of_the_first_size_run_compiled(monkeypatch):
    compiled = []

    def compile(network, *, dynamic):
        assert dynamic is False

        def run(images):
            compiled.append(len(images))
            return network(images)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    network = Compiled(nn.Identity(), Progress())
    for size in (4, 4, 3, 4, 5):
        assert len(network(torch.zeros(size, 1))) == size
    assert compiled == [4, 4, 4]


def test_memory_that_runs_out_compiled_is_halved_like_any_other(backbone, pixels, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **options: Small(network, holds=3))
    notes = Notes()
    small = TorchRuntime(backbone, ["penultimate"], device="cpu", progress=notes)
    wanted = small(pixels[:8])
    small._network = Compiled(small._network, notes)
    close(small(pixels[:8]), wanted)
    assert small._network._compiled.asked == [8, 4, 2, 2, 2, 2]
    assert notes.texts == ["8 images at once do not fit into the memory of cpu; from now on 2 at once"]


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
    from pipeline.backbone import registry
    from pipeline.backbone.layers import extractor
    from pipeline.backbone.weights import random_network

    network = shaken(random_network(name, classes=5, architecture={}, random_state=0))
    plan = registry.anatomy_of(name, classes=5, architecture={}, crop=224)
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
    from pipeline.backbone import registry
    from pipeline.backbone.layers import extractor
    from pipeline.backbone.weights import random_network

    network = shaken(random_network("resnet18", classes=5, architecture={}, random_state=0))
    plan = registry.anatomy_of("resnet18", classes=5, architecture={}, crop=224)
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
    with pytest.raises(BackboneError, match=r"expected the device 'cuda:2', got 2 CUDA GPU\(s\), counted from cuda:0"):
        resolve_device("cuda:2")


def test_gpu_that_is_not_there_is_refused(backbone, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError) as error:
        open_runtime(backbone, ["penultimate"], device="cuda")
    assert error.value.message == "expected the device 'cuda', got no CUDA GPU"
    assert error.value.next_step == "--device cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_unknown_device_is_refused(device):
    with pytest.raises(BackboneError, match="expected a device auto, cpu, cuda or cuda:0, got"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("name", "next_step"), [("avx2", "--precision fp32"), ("avx512_bf16", "--precision bf16 or fp32")]
)
def test_fp16_on_a_cpu_is_refused_with_what_this_cpu_can_do(backbone, processor, name, next_step):
    processor(name)
    with pytest.raises(BackboneError) as error:
        open_runtime(backbone, ["penultimate"], device="cpu", precision="fp16")
    assert error.value.message == "expected the precision fp16, which needs a GPU, got the device 'cpu'"
    assert error.value.next_step == next_step


def test_unknown_precisions_are_refused(backbone):
    with pytest.raises(BackboneError, match="expected a precision fp32, bf16, fp16, got 'fp8'"):
        open_runtime(backbone, ["penultimate"], device="cpu", precision="fp8")


def test_runtime_keeps_its_protocol(runtime):
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.batch_size) == ("torch-cpu", 4)
    assert runtime.version == torch.__version__


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 3, 224, 224), np.uint8), ((2, 224, 224, 3), np.float32), ((224, 224, 3), np.uint8)]
)
def test_pixels_of_another_shape_or_type_are_refused(runtime, shape, kind):
    with pytest.raises(ValueError, match=r"expected uint8 \(b, 224, 224, 3\), got"):
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
    wanted = runtime(pixels)
    close(found, wanted, 0.2)  # of the largest; one of 14,080 was 0.13 away on an H100
    for layer, values in found.items():
        assert values.dtype == np.float32
        lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(wanted[layer], axis=1)
        assert ((values * wanted[layer]).sum(1) / lengths).min() > 0.99, layer


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_gpu_is_shared_by_threads_that_upload_while_others_compute(backbone, pixels, device):
    gpu = open_runtime(backbone, ["penultimate"], device=device)
    blocks = [np.roll(pixels, i, axis=2).repeat(1 + i % 3, axis=0) for i in range(16)]  # of different sizes
    wanted = [gpu(block)["penultimate"] for block in blocks]
    found = shared_by_threads(lambda i: [gpu(blocks[i])["penultimate"] for _ in range(20)], 16)
    for i, want in enumerate(wanted):
        for got in found[i]:
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.gpu
def test_gpu_pins_no_more_than_a_few_buffers(backbone, pixels, monkeypatch):
    made = []

    def pin(size, pinned=gpu_room.pinned):
        made.append(size)
        return pinned(size)

    monkeypatch.setattr(gpu_room, "pinned", pin)
    gpu = open_runtime(backbone, ["penultimate"], device="cuda")
    shared_by_threads(lambda i: [gpu(pixels) for _ in range(10)], 8)
    assert 1 <= len(made) <= IN_FLIGHT


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # by torch 2.11's own compiler
def test_compiled_network_gives_the_same_on_the_gpu(backbone, runtime, pixels):
    notes = Notes()
    gpu = open_runtime(backbone, ["all"], device="cuda", compile=True, progress=notes)
    wanted = runtime(pixels)
    close(gpu(pixels), wanted, 1e-4)
    close(gpu(pixels[:3]), {layer: values[:3] for layer, values in wanted.items()}, 1e-4)
    assert notes.texts == []
