"""When is a backbone run as an ONNX graph, stored or newly exported?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError
from pipeline.progress import Progress
from pipeline.runtime.graph_cache import (
    DamagedGraph,
    graph_path,
    graph_recipe,
    read_graph,
    remove_unused_graphs,
    write_graph,
)
from pipeline.runtime.onnx_runtime import OnnxRuntime

if TYPE_CHECKING:
    from pipeline.runtime.openvino_runtime import OpenVinoRuntime


# The number of images for which an export pays: backbones export in 2 to 18 seconds and save 2 to 30 milliseconds per
# image on two cores. Torch is loaded in any case.
ENOUGH_FOR_EXPORT = 1000

_failed: set[str] = set()  # files of graphs that this process could not export or run; each is tried and noted once


def bundled_runtime(backbone: Backbone, layers: Sequence[str], *, progress: Progress) -> OnnxRuntime | None:
    """Return ONNX Runtime with the shipped graph of the bundled backbone; None for any other network.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    progress : Progress
        Receives a note if ONNX Runtime cannot run the graph.
    """
    from pipeline.runtime.bundled_graph import bundled_graph

    model = bundled_graph(backbone, layers)
    if model is None:
        return None
    try:
        return OnnxRuntime(model, layers=backbone.resolve_layers(layers), crop=backbone.preprocessing.crop)
    except Exception as error:  # ONNX Runtime raises a dozen types without a common base
        progress.note(
            f"ONNX Runtime cannot run the graph of {backbone.name} ({_first_line(error)}); running with torch"
        )
        return None


def graph_runtime(
    backbone: Backbone, layers: Sequence[str], *, folder: Path, images: int | None, progress: Progress
) -> OnnxRuntime | None:
    """Return ONNX Runtime with the stored graph, or with a newly exported one if that pays, otherwise None.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    folder : Path
        The store of graphs, to which a new graph is written.
    images : int or None
        How many images there are; with None only a damaged graph is exported again.
    progress : Progress
        Receives notes on an export before it starts, on a backbone that cannot be exported, and on damaged graphs.
    """
    recipe = graph_recipe(backbone, layers)
    path = graph_path(folder, recipe)
    if path.name in _failed:
        return None
    try:
        model = read_graph(folder, recipe)
        if model is not None:
            return _loaded(model, backbone, layers, path=path, progress=progress)
        if images is None or images < ENOUGH_FOR_EXPORT:
            return None
        progress.note(f"exporting {backbone.name} for ONNX Runtime: some seconds, once")
    except DamagedGraph as error:
        progress.note(f"{path}: damaged, {error}; exporting {backbone.name} again")
    return _exported(backbone, layers, folder=folder, progress=progress)


def openvino_runtime(
    backbone: Backbone, layers: Sequence[str], *, folder: Path | None, images: int | None, progress: Progress
) -> OpenVinoRuntime:
    """Return OpenVINO in bf16 with the stored graph, or with a newly exported one, however few the images.

    In bf16 features depend on the runtime, and its name is part of the cache key before a network is loaded. So no
    other runtime replaces it: a network that it cannot run is an error.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    folder : Path or None
        The store of graphs; with None a new graph is not kept.
    images : int or None
        How many images there are; with None a new graph is stored only if it replaces a damaged one.
    progress : Progress
        Receives notes on an export before it starts, and on damaged graphs.

    Raises
    ------
    BackboneError
        The network cannot be exported, or OpenVINO cannot run it.
    """
    model = None
    keep = images is not None
    if folder is not None:
        recipe = graph_recipe(backbone, layers)
        try:
            model = read_graph(folder, recipe)
        except DamagedGraph as error:
            progress.note(f"{graph_path(folder, recipe)}: damaged, {error}")
            keep = True
    if model is None:
        from pipeline.runtime.onnx_export import NotExportable, export_graph

        progress.note(f"exporting {backbone.name} for OpenVINO: some seconds, once")
        try:
            model, _ = export_graph(backbone, layers)
        except NotExportable as error:
            raise _not_with_openvino(backbone, str(error)) from error
        if folder is not None and keep:
            _store(backbone, layers, model, folder=folder, progress=progress)
    widths = backbone.resolve_layers(layers)
    try:
        from pipeline.runtime.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(model, layers=widths, crop=backbone.preprocessing.crop)
    except Exception as error:  # a broken installation, or a network with an operation that OpenVINO lacks
        raise _not_with_openvino(backbone, _first_line(error)) from error


def own_runtime(backbone: Backbone, layers: Sequence[str], *, device: str, precision: str) -> OnnxRuntime:
    """Return ONNX Runtime with the user's ONNX backbone, on the CPU in the file's precision.

    Raises
    ------
    BackboneError
        A GPU or another precision is requested, the file is gone or has changed, or ONNX Runtime cannot run it.
    """
    if precision != "fp32":
        raise BackboneError(
            f"backbone {backbone.name!r}: expected {precision}, got an ONNX file, which computes as it was saved",
            "--precision fp32",
        )
    if device not in ("auto", "cpu"):
        raise BackboneError(
            f"backbone {backbone.name!r}: expected the device {device}, got an ONNX file, which runs on the CPU",
            "--device cpu",
        )
    widths = backbone.resolve_layers(layers)
    try:
        return OnnxRuntime(backbone.read_graph(), layers=widths, crop=backbone.preprocessing.crop)
    except BackboneError:
        raise
    except Exception as error:  # ONNX Runtime raises a dozen types without a common base
        raise BackboneError(
            f"{backbone.file}: expected a network that ONNX Runtime runs, but it cannot ({_first_line(error)})",
            "update ONNX Runtime, or save the network again: see help(pl.save_backbone)",
        ) from error


def _loaded(
    model: bytes, backbone: Backbone, layers: Sequence[str], *, path: Path, progress: Progress
) -> OnnxRuntime | None:
    widths = backbone.resolve_layers(layers)
    try:
        return OnnxRuntime(model, layers=widths, crop=backbone.preprocessing.crop)
    except Exception as error:  # ONNX Runtime raises a dozen types without a common base
        # Its hash is right, so ONNX Runtime is older than the exporter: exporting again would give the same graph.
        _failed.add(path.name)
        progress.note(f"{path}: ONNX Runtime cannot run the stored graph ({_first_line(error)}); running with torch")
        return None


def _exported(backbone: Backbone, layers: Sequence[str], *, folder: Path, progress: Progress) -> OnnxRuntime | None:
    from pipeline.runtime.onnx_export import NotExportable, export_graph

    try:
        model, runtime = export_graph(backbone, layers)
    except NotExportable as error:
        _failed.add(graph_path(folder, graph_recipe(backbone, layers)).name)
        progress.note(
            f"{backbone.name} runs with torch, which is slower on a CPU: ONNX Runtime cannot run it ({error})"
        )
        return None
    _store(backbone, layers, model, folder=folder, progress=progress)
    return runtime


def _store(backbone: Backbone, layers: Sequence[str], model: bytes, *, folder: Path, progress: Progress) -> None:
    try:
        write_graph(folder, graph_recipe(backbone, layers), model)
        for gone in remove_unused_graphs(folder):
            progress.note(f"{gone}: removed, unused for three months")
    except OSError as error:
        progress.note(f"{folder}: expected to store the exported graph, got {error.strerror or error}; used this once")


def _not_with_openvino(backbone: Backbone, reason: str) -> BackboneError:
    return BackboneError(
        f"expected {backbone.name} in bf16 with OpenVINO, but it cannot run it ({reason})",
        "--precision fp32, or pip uninstall openvino, so that torch runs it in bf16",
    )


def _first_line(error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason}"
