"""img2vec_pytorch, one image at a time, with the network that all others run in the place of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from img2vec_pytorch import Img2Vec
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from turns import serve

from pipeline.backbone import Backbone


def main(folder: str, spec: str, device: str) -> None:
    """Serve one loop over the folder."""
    backbone = Backbone.open(spec)
    widths = backbone.resolve_layers(["penultimate"])

    class OurNetwork(Img2Vec):
        """Its own loop; only where it would download weights it gets these."""

        def _get_model_and_layer(self, model_name: str, layer: Any) -> tuple[Any, Any]:
            network = backbone.load_network()
            pool = "avgpool" if hasattr(network, "avgpool") else "pool"
            self.layer_output_size = widths["penultimate"]
            return network, network.get_submodule(pool)

    embedder = OurNetwork(cuda=device != "cpu", model="resnet-50", layer_output_size=widths["penultimate"])
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())

    def run() -> int:
        return len([embedder.get_vec(Image.open(path).convert("RGB")) for path in paths])

    serve(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
