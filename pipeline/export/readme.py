"""The README of a torch folder: what is in it, and the lines that use it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.backbone import bundled
from pipeline.export import linear
from pipeline.export.proof import ParityCheck
from pipeline.export.record import ExportSpec
from pipeline.export.standalone import OWN_ARCHITECTURE, PHOTO_READER

_MEANING = {
    linear.SOFTMAX: "One output a class; softmax makes probabilities of them.",
    linear.NEAREST: "Two outputs a class: the first half tells the class, by the distance to its centroid; softmax of"
    " the second half, the distances over the spread within classes, makes probabilities.",
    linear.ONE_VS_REST: "One output a class; their sigmoids, divided by their sum, are the probabilities.",
    linear.SCORES: "One output a class: a score, the largest of which tells the class. This head has no probabilities.",
    linear.TAGS: "One output a tag: above zero it is there; the sigmoid is its probability.",
    linear.TAG_SCORES: "One output a tag: a score, above zero it is there. This head has no probabilities.",
    linear.NUMBER: "One output: the number.",
}


def torch_readme(model: ExportSpec, name: str, answer: str, proofs: Sequence[ParityCheck]) -> str:
    """Return the text.

    Parameters
    ----------
    model : Exportable
    name : str
        The folder's.
    answer : str
        What the outputs mean.
    proofs : sequence of Proof
    """
    how = model.backbone.preprocessing
    own = model.backbone.name == bundled.NAME
    fast = (
        ""
        if "fast" not in str(model.recipe["decoder"])
        else (" The model learned from photos resized with `--decode fast`, hardly a grey level away.")
    )
    lines = [
        f"# {name}",
        "",
        f"`{model.backbone.name}` with its final layer replaced by a `{model.head}` head, which answers"
        f" `{model.label_set}`.",
        *(["", f"> {model.verdict}"] if model.verdict else []),
        "",
        "```sh",
        "python model.py photo.jpg    # needs torch, torchvision, safetensors and Pillow",
        "```",
        "",
        "| file | what |",
        "|---|---|",
        "| `model.safetensors` | the tensors of the whole network |",
        "| `model.json` | class names, preprocessing, how the network is built, where it comes from |",
        "| `model.py` | reads those two: `load()` is the plain network, `FromPixels` the whole road from pixels |",
        f"| `{PHOTO_READER}` | reads photos: transparency on white, CMYK, palettes, 16 bits, EXIF orientation |",
        *([f"| `{OWN_ARCHITECTURE}` | the architecture, which torchvision does not have |"] if own else []),
        "| `model.pt2` | the whole road as one exported program, for torch alone |",
        "",
        "```python",
        "import torch",
        "",
        'whole = torch.export.load("model.pt2").module()',
        f"said = whole(pixels)  # uint8 (n, {how.crop}, {how.crop}, 3), any n, as `prepare` in model.py makes them",
        "```",
        "",
        _MEANING[answer],
        "",
        f"A photo becomes upright RGB (`{PHOTO_READER}`), is resized to {how.resize} pixels on its short side"
        f" ({how.interpolation}), and its centre {how.crop} x {how.crop} is cut out; normalisation is inside, but for"
        " `load()`, which wants"
        " (value - mean) / std." + fast,
        "",
        "Checked before this folder was put in place, against the model it was made from:",
        "",
        *(f"- {proof.text}" for proof in proofs),
        "",
    ]
    return "\n".join(lines)
