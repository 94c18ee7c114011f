"""How are the tensors and the graph of the bundled backbone read without torch?

The graph and the table of the weights file's tensors are shipped; `pipeline.runtime.write_bundled_graph` writes them.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbone import registry

if TYPE_CHECKING:
    import numpy as np

GRAPHS = Path(__file__).parent / "graphs"
TABLE = GRAPHS / f"{registry.NAME}.json"


def graph_file(layer: str) -> Path:
    """Return the shipped graph that ends with a layer."""
    return GRAPHS / f"{registry.NAME}-{layer}.onnx"


def read_bundled_tensors(path: Path, sha256: str) -> dict[str, np.ndarray] | None:
    """Read the tensors of the bundled backbone from its weights file, or from one that a model keeps.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the file; empty if the caller has checked it.

    Returns
    -------
    dict of str to ndarray, or None
        By the names of `efficientnet_lite`, read-only. None for any other file (one in torch's format with another
        content, or tensors of other names, shapes or types): torch's reader reads it, or says what is wrong with it.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".safetensors":
            if sha256 and hashlib.sha256(data).hexdigest() != sha256:
                return None
            import safetensors.numpy

            tensors = safetensors.numpy.load(data)
            return tensors if _is_whole(tensors) else None
        if hashlib.sha256(data).hexdigest() != _table()["sha256"]:
            return None
    except Exception:  # of safetensors or the system: torch's reader raises a BackboneError with the reason
        return None
    return {name: _tensor(data, *place) for name, place in _table()["tensors"].items()}


def write_tensors(tensors: dict[str, np.ndarray], path: str | Path) -> None:
    """Write a safetensors file with the bytes that torch would write."""
    import numpy as np
    import safetensors.numpy

    safetensors.numpy.save_file({name: np.asarray(values, order="C") for name, values in tensors.items()}, path)


def _is_whole(tensors: dict[str, np.ndarray]) -> bool:
    """Return whether these are the tensors of the network, with any number of classes, all finite."""
    import numpy as np

    expected = _table()["tensors"]
    return tensors.keys() == expected.keys() and all(
        values.dtype.str == expected[name][0]
        and (list(values.shape) == expected[name][1] or name.startswith(f"{registry.FINAL_LAYER}."))
        and np.isfinite(values).all()
        for name, values in tensors.items()
    )


@cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def _tensor(data: bytes, dtype: str, shape: list[int], strides: list[int], begin: int) -> np.ndarray:
    import numpy as np

    size = np.dtype(dtype).itemsize
    items = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if shape else 1
    flat = np.frombuffer(data, dtype, items, begin)
    return np.lib.stride_tricks.as_strided(flat, shape, [stride * size for stride in strides], writeable=False)
