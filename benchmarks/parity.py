"""Exported models against `pipeline predict`: every head, in ONNX and, where it is linear, in plain torch.

    python benchmarks/parity.py PHOTOS

PHOTOS is a folder with train and val in it, and in each a folder a class. Heads learn from train, and both sides answer
for every photo of val. A cell is the largest difference of a probability; of heads that have none it is that of a
score, as a share of the largest. A row is printed as soon as it is there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from turns import machine

from pipeline.cache import FeatureCache
from pipeline.errors import ExportError
from pipeline.export import ParityCheck
from pipeline.extraction import extract
from pipeline.heads import catalogue
from pipeline.model import Model, fit

BACKBONES = ("efficientnet_lite0", "resnet18:random", "mobilenet_v3_small:random")
LINEAR = ("logistic", "linear-svm", "ridge", "lda", "centroid")
FILES = ("exported.onnx", "model.py", "model.pt2")


def main() -> None:
    """Print a table a backbone."""
    heads = [entry.name for entry in catalogue() if entry.kind == "class" and entry.name != "dummy"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbone", nargs="+", default=list(BACKBONES))
    parser.add_argument("--head", nargs="+", default=heads)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for backbone in arguments.backbone:
            cache = extract(arguments.photos / "train", backbone=backbone, cache=Path(folder) / "caches")
            print(f"| {backbone} | photos | ONNX | torch, `load()` | torch, `.pt2` | changed labels |")
            print("|---|---|---|---|---|---|")
            for head in arguments.head:
                print(row(cache, head, arguments.photos / "val", Path(folder)), flush=True)
            print()
    print(machine())


def row(cache: FeatureCache, head: str, val: Path, folder: Path) -> str:
    """Return the row of one head."""
    model: Model = fit(cache, heads=head, cv=3, nested=False, random_state=0)
    proofs: dict[str, ParityCheck] = {}
    for form in ("onnx", "torch") if head in LINEAR else ("onnx",):
        try:
            exported = model.export(folder / f"exported.{form}", format=form, check=val)
        except ExportError as error:
            return f"| {head} | | {form} refused: {error.message} | | | |"
        proofs |= {proof.what: proof for proof in exported.proofs}
    cells = [f"{proofs[file].largest:.1e}" if file in proofs else "" for file in FILES]
    photos = {proof.photos for proof in proofs.values()}
    changed = sum(proof.changed for proof in proofs.values())
    return f"| {model.head} | {', '.join(map(str, photos))} | {' | '.join(cells)} | {changed} |"


if __name__ == "__main__":
    main()
