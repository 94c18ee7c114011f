"""timm as its documentation has it: `create_model(..., num_classes=0)`, its own transforms, one image at a time."""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from turns import serve


def main(folder: str, spec: str, device: str) -> None:
    """Serve one loop over the folder."""
    model = timm.create_model(spec.partition(":")[0], pretrained=False, num_classes=0).eval().to(device)
    transforms = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())

    def run() -> int:
        features = []
        with torch.no_grad():
            for path in paths:
                features.append(model(transforms(Image.open(path).convert("RGB")).unsqueeze(0).to(device)).cpu())
        return len(torch.cat(features))

    serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
