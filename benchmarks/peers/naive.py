"""What people write: a DataLoader and the network as it comes.

On a CPU two workers and batches of 32; on a GPU a worker a core, pinned memory and batches of 256.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).parent.parent))
from turns import serve

from pipeline.backbone import Backbone


class Photos(Dataset):
    """The photos of a folder, transformed."""

    def __init__(self, paths: list[Path], transform: v2.Transform) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def main(folder: str, spec: str, device: str) -> None:
    """Serve one loop over the folder."""
    backbone = Backbone.open(spec)
    how = backbone.preprocessing
    transform = v2.Compose(
        [
            v2.Resize(how.resize, interpolation=v2.InterpolationMode(how.interpolation)),
            v2.CenterCrop(how.crop),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32),
            v2.Normalize(*([value * 255 / how.value_range for value in each] for each in (how.mean, how.std))),
        ]
    )
    network = backbone.load_network()
    parent, _, leaf = backbone.final_layer().rpartition(".")
    setattr(network.get_submodule(parent), leaf, torch.nn.Identity())
    network.to(device)
    feeding = {"batch_size": 32, "num_workers": 2}
    if device != "cpu":
        feeding = {"batch_size": 256, "num_workers": os.cpu_count() or 1, "pin_memory": True}
    photos = Photos(sorted(path for path in Path(folder).rglob("*") if path.is_file()), transform)

    def run() -> int:
        features = []
        with torch.inference_mode():
            for batch in DataLoader(photos, **feeding):
                features.append(network(batch.to(device, non_blocking=True)).cpu())
        return len(torch.cat(features))

    serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
