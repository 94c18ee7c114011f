"""How is a network run with torch, on a CPU or on a CUDA GPU?"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError
from pipeline.progress import SILENT, Progress
from pipeline.provenance import Preprocessing
from pipeline.runtime.base import PRECISIONS, batch_size_of, check_pixels, has_bf16, no_features
from pipeline.runtime.cuda import GpuRunner


class Compiled:
    """Run a network compiled for the first batch size that it is called with; other sizes run without compilation.

    A run consists of many batches of one size and a smaller last one, for which compiling again would take longer than
    running it. A network that cannot be compiled runs without compilation, with one note.

    Parameters
    ----------
    network : nn.Module
    progress : Progress
    """

    def __init__(self, network: nn.Module, progress: Progress) -> None:
        self._network = network
        self._compiled = torch.compile(network, dynamic=False)
        self._progress = progress
        self._size: int | None = None
        self._failed = False

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._size is None:
            self._size = len(images)
        if self._failed or len(images) != self._size:
            return self._network(images)
        try:
            return self._compiled(images)
        except torch.OutOfMemoryError:  # not a failure of the compiler
            self._size = None
            raise
        except Exception as error:  # the compiler's back end may raise anything
            first, self._failed = not self._failed, True
            if first:
                reason = str(error).strip().partition("\n")[0]
                self._progress.note(f"torch.compile failed ({type(error).__name__}: {reason}); running without it")
        return self._network(images)


def fold_batch_norm(module: fx.GraphModule) -> fx.GraphModule:
    """Fold each batch normalisation into the convolution directly before it, in place.

    A convolution whose output another node reads too is left unchanged.

    Parameters
    ----------
    module : fx.GraphModule
        In evaluation mode. Its convolutions are replaced, not modified: a network that shares them is unchanged.
    """
    calls = Counter(node.target for node in module.graph.nodes if node.op == "call_module")
    for node in list(module.graph.nodes):
        if node.op != "call_module":
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        convolution, norm = module.get_submodule(str(before.target)), module.get_submodule(str(node.target))
        if _folds(convolution, norm) and calls[before.target] == calls[node.target] == 1:
            module.set_submodule(str(before.target), _fold(convolution, norm))
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()
    for name, block in list(module.named_modules()):
        # Blocks that the graph calls as one node, such as torchvision's Conv2dNormActivation.
        if isinstance(block, nn.Sequential) and any(_folds(a, b) for a, b in pairwise(block)):
            module.set_submodule(name, _folded(block))
    return module.eval().requires_grad_(False)


def _folds(convolution: nn.Module, norm: nn.Module) -> bool:
    return (
        isinstance(convolution, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.track_running_stats
        and not (convolution.training or norm.training)
    )


def _fold(convolution: nn.Module, norm: nn.Module) -> nn.Module:
    return fuse_conv_bn_eval(cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm))


def _folded(block: nn.Sequential) -> nn.Sequential:
    steps = list(block)
    for i in reversed(range(len(steps) - 1)):
        if _folds(steps[i], steps[i + 1]):
            steps[i : i + 2] = [_fold(steps[i], steps[i + 1])]
    return nn.Sequential(*steps)


_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """Run a backbone with torch; safe to call from several threads at once.

    On a CPU in fp32, batch normalisation is folded into the convolutions (1.2 times as fast, features differ by 1e-6).
    On a GPU in fp32, TensorFloat-32 is disabled for the process, because its mantissa has only ten bits.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    device, precision, compile, progress
        As for `open_runtime`.

    Attributes
    ----------
    batch_size : int
        The best number of images per call; it is reduced when a batch does not fit into the GPU's memory.
    """

    version: str = torch.__version__

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        *,
        device: str = "auto",
        precision: str = "fp32",
        compile: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        self.device = resolve_device(device)
        _check_precision(precision, self.device)
        on_cpu = self.device.type == "cpu"
        self.name = f"torch-{self.device.type}"
        self._crop = backbone.preprocessing.crop
        self.batch_size = batch_size_of(self.device.type, self._crop)
        self.precision = precision
        self.layers = backbone.resolve_layers(layers)
        network = backbone.load(list(self.layers))
        if precision == "fp32" and on_cpu:
            network = fold_batch_norm(network)
        elif precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        self._network: Callable[[torch.Tensor], dict[str, torch.Tensor]]
        self._network = network.to(self.device).to(memory_format=torch.channels_last)
        if compile and not on_cpu:
            self._network = Compiled(self._network, progress)
        self._normalise = Normalize(backbone.preprocessing, self.device)
        self._gpu = None if on_cpu else GpuRunner(self.device)
        self._progress = progress
        self._fitting = threading.Lock()
        self._most = sys.maxsize  # images that are run at once
        self._too_many: int | None = None  # number of images that did not fit, until it is noted

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Map prepared images, uint8 (b, crop, crop, 3), to ``{layer: float32 (b, width)}``, C-contiguous.

        A batch that does not fit into the GPU's memory is run in halves, and so are all later ones, with one note.

        Raises
        ------
        ValueError
            The images have another shape or type.
        BackboneError
            Not even one image fits into memory.
        """
        check_pixels(pixels, self._crop)
        if not len(pixels):
            return no_features(self.layers)
        parts = []
        start = 0
        while start < len(pixels):
            part = pixels[start : start + self._most]
            features = self._try(part)
            if features is None:
                self._halve(len(part))
            else:
                parts.append(features)
                start += len(part)
        self._note_smaller_batches()
        if len(parts) == 1:
            return parts[0]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in self.layers}

    def _try(self, pixels: np.ndarray) -> dict[str, np.ndarray] | None:
        """Return the features, or None if memory ran out; not the error, which would keep tensors in memory."""
        try:
            return self._run(pixels)
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                raise BackboneError(
                    f"one image of {self._crop} x {self._crop} pixels does not fit into the memory of {self.device}",
                    "--device cpu, or a smaller backbone",
                ) from error
            return None

    def _halve(self, size: int) -> None:
        with self._fitting:
            half = size // 2
            if half < self._most:  # another thread may have halved it already
                if self._most == sys.maxsize:
                    self._too_many = size
                self._most = half
                self.batch_size = min(self.batch_size, half)

    def _note_smaller_batches(self) -> None:
        with self._fitting:
            size, self._too_many = self._too_many, None
        if size is not None:
            self._progress.note(
                f"{size} images at once do not fit into the memory of {self.device}; from now on {self._most} at once"
            )

    @contextlib.contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """Share the cores among `count` simultaneous callers; torch's number of threads is restored afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(max(1, before // count))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        if self._gpu is not None:
            return self._gpu.run(pixels, self._features)
        if not (pixels.flags.writeable and pixels.flags.c_contiguous):
            pixels = pixels.copy()  # torch takes no negative strides, and warns about memory it must not write to
        features = self._features(torch.from_numpy(pixels))
        return {layer: np.ascontiguousarray(values.numpy()) for layer, values in features.items()}

    def _features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map uint8 (b, h, w, 3) on the device to ``{layer: float32 (b, width)}`` there."""
        with torch.inference_mode(), self._autocast():
            features = self._network(self._normalise(images.permute(0, 3, 1, 2)))  # (b, h, w, 3) -> (b, 3, h, w)
            return {layer: features[layer].float() for layer in self.layers}

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])


class Normalize:
    """Normalise uint8 images to float32 with the operations of torchvision's presets, in the same order.

    Parameters
    ----------
    preprocessing : Preprocessing
    device : torch.device
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self.grey_levels = 255.0 / preprocessing.value_range
        self.mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device)[:, None, None]
        self.std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 (b, 3, h, w) to float32 of that shape and memory format."""
        values = images.to(torch.float32)
        if self.grey_levels != 1.0:
            values = values.div_(self.grey_levels)
        return values.sub_(self.mean).div_(self.std)


def resolve_device(device: str) -> torch.device:
    """Return the torch device of a name; ``auto`` is the first GPU if there is one.

    Raises
    ------
    BackboneError
        There is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdecimal())):
        raise BackboneError(f"expected a device auto, cpu, cuda or cuda:0, got {device!r}", "--device auto")
    if kind == "cuda":
        count = count_gpus()
        if count <= int(index or 0):
            gpus = "no CUDA GPU" if not count else f"{count} CUDA GPU(s), counted from cuda:0"
            raise BackboneError(f"expected the device {device!r}, got {gpus}", "--device cpu")
    return torch.device(device)


def count_gpus() -> int:
    """Return how many CUDA GPUs torch finds."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_gpu_bf16(device: str) -> bool:
    """Return whether a GPU has bf16 instructions; torch emulates them on those before Ampere."""
    with torch.cuda.device(resolve_device(device)):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in PRECISIONS:
        raise BackboneError(f"expected a precision {', '.join(PRECISIONS)}, got {precision!r}", "--precision fp32")
    if precision == "fp16" and device.type == "cpu":
        raise BackboneError(
            "expected the precision fp16, which needs a GPU, got the device 'cpu'",
            "--precision bf16 or fp32" if has_bf16() else "--precision fp32",
        )
