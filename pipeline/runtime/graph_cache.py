"""The store of exported graphs: a folder of ``<backbone>-<key>.onnx``, each a whole model with its weights inside.

A file begins with one entry of its own ONNX metadata (protobuf takes fields in any order): what the graph was made
of, and the SHA-256 of every byte that follows. So one file is all there is, any ONNX tool opens it, and a folder is
listed by the first bytes of its files. A graph is written under a temporary name, synced and renamed: two processes
that make the same one each write a whole file, and the last name stays.

Nothing here imports torch or onnx.
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
# Raise it when `graph_export` or the bundled network changes what a graph computes: older graphs are then left alone.
REVISION = 1

UNUSED_DAYS = 90
_DAY = 24 * 3600
_TEMPORARY = ".part"
_ENTRY = "transfer-pipeline"
_LONGEST_HEAD = 1 << 20  # bytes; a head names a few layers
_EXPORTERS = ("torch", "torchvision", "onnxscript")


class DamagedGraph(Exception):
    """A stored graph is not what was written."""


@dataclass(frozen=True)
class StoredGraph:
    """One graph of the store.

    Attributes
    ----------
    path : Path
    backbone : str
    key : str
        12 hexadecimal digits, of all that changes the graph.
    layers : dict of layer name to width
        Empty where the file does not say.
    bytes : int
    last_used : float
        Seconds since the epoch, to the day.
    usable : bool
        Whether the versions installed now would use it; they export anew beside it where not.
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
    """Return all that changes an exported graph, as plain JSON values; without torch for the bundled backbone's layers.

    The versions are those of what exports, not of what runs: ONNX Runtime optimises the graph anew at each start.
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
    """Return where the graph of a recipe is, or would be."""
    return folder / f"{recipe['backbone']}-{sha256_json(recipe)[:12]}{SUFFIX}"


def read_graph(folder: Path, recipe: Mapping[str, Any]) -> bytes | None:
    """Return the stored graph of a recipe, every byte checked; None if there is none.

    Raises
    ------
    DamagedGraph
        If the file is not the one that was written, or cannot be read.
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
        raise DamagedGraph("it was made of something else")
    if hashlib.sha256(memoryview(model)[length:]).hexdigest() != head["sha256"]:
        raise DamagedGraph("its SHA-256 is not the one written in it")
    _mark_used(path)
    return model


def write_graph(folder: Path, recipe: Mapping[str, Any], model: bytes) -> Path:
    """Write a graph whole, or leave what was there; return its path.

    Raises
    ------
    OSError
        If the folder cannot be written, or the disk is full.
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
    """Return the graphs of a folder, the last used first; only the first bytes of each file are read."""
    found = []
    for path in Path(folder).glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process may remove one while we look
            found.append(_describe(path))
    return sorted(found, key=lambda graph: (-graph.last_used, graph.path.name))


def remove_unused_graphs(folder: str | Path, *, days: float = UNUSED_DAYS) -> list[Path]:
    """Remove the graphs that nobody has used for so many days, and what broken writes left; return the graphs' paths.

    A graph that goes while it is read does no harm: it is read at once, and can always be made again.
    """
    now = time.time()
    removed = []
    for graph in stored_graphs(folder):
        if now - graph.last_used > days * _DAY:
            with contextlib.suppress(OSError):
                graph.path.unlink()
                removed.append(graph.path)
    for left in Path(folder).glob(f".*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if now - left.stat().st_mtime > _DAY:
                left.unlink()
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
    """Let the file's time say when it was last used, to the day; a folder that cannot be written stays as it is."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path)


def _entry(text: str) -> bytes:
    """Return ``metadata_props { key: "transfer-pipeline" value: text }`` as the bytes of an ONNX ModelProto's field."""
    key, value = _ENTRY.encode(), text.encode()
    inner = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return b"\x72" + _varint(len(inner)) + inner  # 0x72: field 14, with a length


def _read_head(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return what the entry at the start of a file says, and its length in bytes; `ValueError` if there is none."""
    start = file.read(64)
    key = b"\x0a" + _varint(len(_ENTRY)) + _ENTRY.encode() + b"\x12"
    length, at = _read_varint(start, 1)
    if start[:1] != b"\x72" or start[at : at + len(key)] != key or length > _LONGEST_HEAD:
        raise ValueError("it does not begin with its own description")
    end = at + length
    whole = start + file.read(max(0, end - len(start)))
    size, at = _read_varint(whole, at + len(key))
    head = json.loads(whole[at : at + size])
    if at + size != end or not isinstance(head, dict) or not {"recipe", "sha256"} <= head.keys():
        raise ValueError("its own description is damaged")
    return head, end


def _varint(number: int) -> bytes:
    """Return a number as protobuf writes it: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    for place in range(at, min(at + 5, len(data))):
        number |= (data[place] & 0x7F) << shift
        shift += 7
        if data[place] < 0x80:
            return number, place + 1
    raise ValueError("it ends too early")
