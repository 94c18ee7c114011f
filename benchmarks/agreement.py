"""Every runtime and decode mode against plain torch in fp32 with PIL: how far embeddings move, and what that changes.

    python benchmarks/agreement.py PHOTOS

PHOTOS is a folder with a folder a class, or with such folders in train and val. The reference is the network as it
comes, unfolded, in batches of 8, over photos prepared by torchvision's own transforms. "Changed predictions" are those
of a logistic regression, cross-validated on the same five folds of either's embeddings.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms import v2
from turns import machine

from pipeline.backbone import Backbone
from pipeline.images import ImageSource, prepare
from pipeline.runtime import Runtime, open_runtime
from pipeline.runtime.base import has_openvino_bf16
from pipeline.runtime.torch_runtime import TorchRuntime


def main() -> None:
    """Print a table a backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--backbone", nargs="+", default=["efficientnet_lite0", "resnet50:random"])
    arguments = parser.parse_args()
    source = ImageSource.open(arguments.photos)
    for spec in arguments.backbone:
        compare(source, Backbone.open(spec), spec)
    print(machine())


def compare(source: ImageSource, backbone: Backbone, spec: str) -> None:
    """Print one table."""
    labels = np.array(source.columns["label"])
    wanted = reference(source, backbone)
    said = predictions(wanted, labels)
    print(f"| {spec}, {len(source)} photos | largest difference | smallest cosine | changed predictions | accuracy |")
    print("|---|---|---|---|---|")
    print(f"| torch as it comes, PIL, torchvision | | | | {np.mean(said == labels):.3f} |")
    squares = {mode: prepared(source, backbone, mode) for mode in ("exact", "fast")}
    with tempfile.TemporaryDirectory() as graphs:
        for name, runtime in runtimes(backbone, graphs).items():
            for mode, pixels in squares.items():
                found = embedded(runtime, pixels)
                difference = np.abs(found - wanted).max() / np.abs(wanted).max()
                cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
                mine = predictions(found, labels)
                print(
                    f"| {name}, `--decode {mode}` | {difference:.1e} | {cosines.min():.6f} | {(mine != said).sum()} | "
                    f"{np.mean(mine == labels):.3f} |",
                    flush=True,
                )
    print()


def runtimes(backbone: Backbone, graphs: str) -> dict[str, Runtime]:
    """Return every runtime of this machine's CPU."""
    layers = ["penultimate"]
    found: dict[str, Runtime] = {
        "torch, folded, fp32": TorchRuntime(backbone, layers, device="cpu"),
        "ONNX Runtime, fp32": open_runtime(backbone, layers, device="cpu", images=10**6, graphs=graphs),
        "torch, bf16": TorchRuntime(backbone, layers, device="cpu", precision="bf16"),
    }
    if has_openvino_bf16():
        found["OpenVINO, bf16"] = open_runtime(
            backbone, layers, device="cpu", precision="bf16", images=10**6, graphs=graphs
        )
    return found


def reference(source: ImageSource, backbone: Backbone) -> np.ndarray:
    """Return the embeddings that nobody has done anything clever to, (n, d)."""
    how = backbone.preprocessing
    scale = 255 / how.value_range
    transform = v2.Compose(
        [
            v2.Resize(how.resize, interpolation=v2.InterpolationMode(how.interpolation)),
            v2.CenterCrop(how.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32),
            v2.Normalize([value * scale for value in how.mean], [value * scale for value in how.std]),
        ]
    )
    network = backbone.load(["penultimate"])
    found = []
    for start in range(0, len(source), 8):
        rows = range(start, min(start + 8, len(source)))
        batch = torch.stack([transform(source.read(row).pixels()) for row in rows])
        with torch.inference_mode():
            found.append(network(batch)["penultimate"].numpy())
    return np.concatenate(found)


def prepared(source: ImageSource, backbone: Backbone, mode: str) -> np.ndarray:
    """Return the squares of pixels, uint8 (n, crop, crop, 3)."""
    return np.stack([prepare(source.read(row), backbone.preprocessing, mode)[0] for row in range(len(source))])


def embedded(runtime: Runtime, pixels: np.ndarray) -> np.ndarray:
    """Return the embeddings of the squares in batches of the runtime's own size, (n, d)."""
    size = runtime.batch_size
    return np.concatenate([runtime(pixels[at : at + size])["penultimate"] for at in range(0, len(pixels), size)])


def predictions(X: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what a logistic regression says of each photo out of fold."""
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return cross_val_predict(head, X, labels, cv=StratifiedKFold(5, shuffle=True, random_state=0))


if __name__ == "__main__":
    main()
