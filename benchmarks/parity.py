"""Exported models against `pipeline predict`: every head, in ONNX and, where it is linear, in plain torch.

    python benchmarks/parity.py PHOTOS

PHOTOS is a folder with train and val in it, and in each a folder a class. Heads learn from train; both sides answer for
every photo of val, and what is compared is what an export's own check compares: labels, and probabilities (scores, as a
share of the largest, of heads without). A row is printed as soon as it is there; the last column is the size of what
was written.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from turns import machine

from pipeline.cache import FeatureCache
from pipeline.errors import ExportError
from pipeline.extraction import extract
from pipeline.heads import catalogue
from pipeline.model import Model, fit

BACKBONES = ("efficientnet_lite0", "resnet18:random", "mobilenet_v3_small:random")
LINEAR = ("logistic", "linear-svm", "ridge", "lda", "centroid")


def main() -> None:
    """Print one table."""
    heads = [entry.name for entry in catalogue() if entry.kind == "class" and entry.name != "dummy"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbone", nargs="+", default=list(BACKBONES))
    parser.add_argument("--head", nargs="+", default=heads)
    arguments = parser.parse_args()
    print("| backbone | head | file | photos | largest difference | changed labels | MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for backbone in arguments.backbone:
            cache = extract(arguments.photos / "train", backbone=backbone, cache=Path(folder) / "caches")
            for head in arguments.head:
                compare(cache, head, backbone, arguments.photos / "val", Path(folder))
    print(f"\n{machine()}")


def compare(cache: FeatureCache, head: str, backbone: str, val: Path, folder: Path) -> None:
    """Print the rows of one head on one backbone."""
    model: Model = fit(cache, heads=head, cv=3, nested=False, random_state=0)
    for form in ("onnx", "torch") if head in LINEAR else ("onnx",):
        out = folder / f"exported.{form}"
        try:
            exported = model.export(out, format=form, check=val)
        except ExportError as error:
            print(f"| {backbone} | {head} | {form} | | refused: {error.message} | | |", flush=True)
            continue
        for proof in exported.proofs:
            file = out if out.is_file() else out / proof.what.replace("model.py", "model.safetensors")
            name = {"model.py": "torch, `load()`", "model.pt2": "torch, `.pt2`"}.get(proof.what, "ONNX")
            print(
                f"| {backbone} | {head} | {name} | {proof.photos} | {proof.largest:.1e}"
                f"{' of the largest score' if proof.of == 'score' else ''} | {proof.changed} |"
                f" {file.stat().st_size / 1e6:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
