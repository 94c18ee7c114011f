"""How are exported graphs stored, found and removed?

The store is a folder of ``<backbone>-<key>.onnx``, each a complete ONNX model with its weights. A file begins with an
entry of ONNX metadata (protobuf allows fields in any order) that holds the graph's recipe and the SHA-256 of all
following bytes. So any ONNX tool opens the file, and a folder is listed by reading only the first bytes of its files. A
graph is written under a temporary name, synced and renamed: of two processes that write the same graph, each writes a
complete file, and the last one stays.

This module imports neither torch nor onnx.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.backbone import Backbone
from pipeline.provenance import canonical_json, installed, sha256_json

SUFFIX = ".onnx"
OPSET = 20
# Increase it when `onnx_export` or the bundled network changes what a graph computes: older graphs are then not used.
REVISION = 1

UNUSED_DAYS = 90
_DAY = 24 * 3600
_TEMPORARY = ".part"
_ENTRY = "transfer-pipeline"
_LONGEST_HEAD = 1 << 20  # bytes; a head holds a recipe with a few layers
_EXPORTERS = ("torch", "torchvision", "onnxscript")


class DamagedGraph(Exception):
    """A stored graph differs from what was written."""


@dataclass(frozen=True)
class StoredGraph:
    """A graph in the store.

    Attributes
    ----------
    path : Path
    backbone : str
    key : str
        12 hexadecimal digits of a hash of everything that changes the graph.
    layers : dict of layer name to width
        Empty if the file cannot be read.
    bytes : int
    last_used : float
        Seconds since the epoch, exact to the day.
    usable : bool
        Whether the installed versions use it; otherwise they export the network again, beside it.
    """

    path: Path
    backbone: str
    key: str
    layers: dict[str, int]
    bytes: int
    last_used: float
    usable: bool

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def graph_recipe(backbone: Backbone, layers: Sequence[str]) -> dict[str, Any]:
    """Return everything that changes an exported graph, as plain JSON values; without torch for the bundled backbone.

    It holds the versions of the libraries that export, not of those that run: ONNX Runtime optimises at each start.
    """
    recipe = {
        "backbone": backbone.name,
        "weights_sha256": backbone.weights_sha256,
        "architecture": dict(backbone.architecture),
        "nodes": backbone.layer_nodes(layers),
        "widths": backbone.resolve_layers(layers),
        "preprocessing": asdict(backbone.preprocessing),
        "exporter": _exporter(),
    }
    return json.loads(canonical_json(recipe))


def graph_path(folder: Path, recipe: Mapping[str, Any]) -> Path:
    """Return the path of the graph of a recipe; it may not exist."""
    return folder / f"{recipe['backbone']}-{sha256_json(recipe)[:12]}{SUFFIX}"


def read_graph(folder: Path, recipe: Mapping[str, Any]) -> bytes | None:
    """Read the stored graph of a recipe and check its hash; return None if there is none.

    Raises
    ------
    DamagedGraph
        The file differs from what was written, or cannot be read.
    """
    path = graph_path(folder, recipe)
    try:
        with path.open("rb") as file:
            head, length = _read_head(file)
            file.seek(0)
            model = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DamagedGraph(str(error)) from error
    if head["recipe"] != recipe:
        raise DamagedGraph("it was exported from another recipe")
    if hashlib.sha256(memoryview(model)[length:]).hexdigest() != head["sha256"]:
        raise DamagedGraph("its SHA-256 differs from the one recorded in it")
    _mark_used(path)
    return model


def write_graph(folder: Path, recipe: Mapping[str, Any], model: bytes) -> Path:
    """Write a graph atomically and return its path.

    Raises
    ------
    OSError
        The folder cannot be written, or the disk is full.
    """
    path = graph_path(folder, recipe)
    head = {"recipe": recipe, "sha256": hashlib.sha256(model).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{path.stem}-{secrets.token_hex(4)}{_TEMPORARY}"
    try:
        with temporary.open("xb") as file:
            file.write(_entry(canonical_json(head)))
            file.write(model)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def stored_graphs(folder: str | Path) -> list[StoredGraph]:
    """Return the graphs of a folder, the most recently used first; only the first bytes of each file are read."""
    found = []
    for path in Path(folder).glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process may remove a file meanwhile
            found.append(_describe(path))
    return sorted(found, key=lambda graph: (-graph.last_used, graph.path.name))


def remove_unused_graphs(folder: str | Path, *, days: float = UNUSED_DAYS) -> list[Path]:
    """Remove graphs that were not used for this many days, and leftovers of broken writes; return the graphs' paths.

    Removing a graph in use does no harm: it is read as a whole when it is opened, and can be exported again.
    """
    now = time.time()
    removed = []
    for graph in stored_graphs(folder):
        if now - graph.last_used > days * _DAY:
            with contextlib.suppress(OSError):
                graph.path.unlink()
                removed.append(graph.path)
    for leftover in Path(folder).glob(f".*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if now - leftover.stat().st_mtime > _DAY:
                leftover.unlink()
    return removed


def _describe(path: Path) -> StoredGraph:
    stat = path.stat()
    backbone, _, key = path.stem.rpartition("-")
    recipe: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        recipe = _read_head(file)[0]["recipe"]
    return StoredGraph(
        path=path,
        backbone=backbone,
        key=key,
        layers=dict(recipe.get("widths", {})),
        bytes=stat.st_size,
        last_used=stat.st_mtime,
        usable=recipe.get("exporter") == _exporter(),
    )


def _exporter() -> dict[str, Any]:
    return {**{name: installed(name) for name in _EXPORTERS}, "opset": OPSET, "revision": REVISION}


def _mark_used(path: Path) -> None:
    """Set the file's time to now if it is older than a day; do nothing in a folder that cannot be written."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path)


def _entry(text: str) -> bytes:
    """Return ``metadata_props { key: "transfer-pipeline" value: text }`` as the bytes of an ONNX ModelProto's field."""
    key, value = _ENTRY.encode(), text.encode()
    inner = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return b"\x72" + _varint(len(inner)) + inner  # 0x72: field 14, with a length


def _read_head(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Read the entry at the start of a file, and return it with its length in bytes; raise `ValueError` without one."""
    start = file.read(64)
    key = b"\x0a" + _varint(len(_ENTRY)) + _ENTRY.encode() + b"\x12"
    length, at = _read_varint(start, 1)
    if start[:1] != b"\x72" or start[at : at + len(key)] != key or length > _LONGEST_HEAD:
        raise ValueError("it does not begin with its description")
    end = at + length
    whole = start + file.read(max(0, end - len(start)))
    size, at = _read_varint(whole, at + len(key))
    head = json.loads(whole[at : at + size])
    if at + size != end or not isinstance(head, dict) or not {"recipe", "sha256"} <= head.keys():
        raise ValueError("its description is damaged")
    return head, end


def _varint(number: int) -> bytes:
    """Return a number in protobuf's encoding: seven bits per byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    for position in range(at, min(at + 5, len(data))):
        number |= (data[position] & 0x7F) << shift
        shift += 7
        if data[position] < 0x80:
            return number, position + 1
    raise ValueError("it ends too early")
