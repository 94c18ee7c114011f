"""From a backbone to a graph that runs: the stored one, a new one where that pays, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.backbone import Backbone, registry
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


# From how many images on an export is worth its time. On two cores the bundled backbone exports in 4 seconds, gains 5
# milliseconds an image, and each later run starts 3 seconds sooner, without torch. The others load torch whatever
# runs them, export in 2 to 18 seconds, and gain 2 to 30 milliseconds an image.
ENOUGH_FOR_THE_BUNDLED = 300
ENOUGH_FOR_OTHERS = 1000

_refused: set[str] = set()  # files of graphs that this process could not make or run: tried, and said, once


def graph_runtime(
    backbone: Backbone, layers: Sequence[str], *, folder: Path, images: int | None, progress: Progress
) -> OnnxRuntime | None:
    """Return ONNX Runtime with the stored graph; with a new one, stored, where there is none and it pays; or None.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    folder : Path
        The store.
    images : int or None
        How many are to be run; None exports nothing, but a damaged graph again.
    progress : Progress
        Hears of an export before it starts, of a backbone that cannot be exported, and of what is wrong in the store.
    """
    recipe = graph_recipe(backbone, layers)
    path = graph_path(folder, recipe)
    if path.name in _refused:
        return None
    try:
        model = read_graph(folder, recipe)
        if model is not None:
            return _loaded(model, backbone, layers, path=path, progress=progress)
        if images is None or images < (ENOUGH_FOR_THE_BUNDLED if backbone.name == registry.NAME else ENOUGH_FOR_OTHERS):
            return None
        progress.note(f"exporting {backbone.name} for ONNX Runtime: some seconds, once")
    except DamagedGraph as error:
        progress.note(f"{path}: damaged, {error}; exporting {backbone.name} again")
    return _exported(backbone, layers, folder=folder, progress=progress)


def openvino_runtime(
    backbone: Backbone, layers: Sequence[str], *, folder: Path | None, images: int | None, progress: Progress
) -> OpenVinoRuntime:
    """Return OpenVINO in bf16 with the stored graph, or with a new one, however few the images.

    In bf16 the runtime is part of what a feature is, and its name is in the key of the cache before a network is
    loaded. So nothing stands in for it: what cannot be run with it is an error.

    Parameters
    ----------
    backbone : Backbone
    layers : sequence of str
        As for `Backbone.resolve_layers`.
    folder : Path or None
        The store; without one a new graph is used this once.
    images : int or None
        How many are to be run; with None a new graph is not stored, unless for a damaged one.
    progress : Progress
        Hears of an export before it starts, and of what is wrong in the store.

    Raises
    ------
    BackboneError
        If the network cannot be exported, or OpenVINO cannot run it.
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
    except Exception as error:  # of an installation that is broken, or of a network that it has no kernel for
        raise _not_with_openvino(backbone, _first_line(error)) from error


def own_runtime(backbone: Backbone, layers: Sequence[str], *, device: str, precision: str) -> OnnxRuntime:
    """Return ONNX Runtime with a network of a person's own; it computes as its file says, on the CPU.

    Raises
    ------
    BackboneError
        If a GPU or another precision is asked for, the file is gone or another one, or it does not run.
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
    except Exception as error:  # ONNX Runtime has a dozen kinds, without a common one
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
    except Exception as error:  # ONNX Runtime has a dozen kinds, without a common one
        # Sound, as its hash says: an ONNX Runtime older than the exporter. Exporting again would give the same.
        _refused.add(path.name)
        progress.note(f"{path}: ONNX Runtime cannot run the stored graph ({_first_line(error)}); running with torch")
        return None


def _exported(backbone: Backbone, layers: Sequence[str], *, folder: Path, progress: Progress) -> OnnxRuntime | None:
    from pipeline.runtime.onnx_export import NotExportable, export_graph

    try:
        model, runtime = export_graph(backbone, layers)
    except NotExportable as error:
        _refused.add(graph_path(folder, graph_recipe(backbone, layers)).name)
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
        "--precision fp32, or take OpenVINO away (pip uninstall openvino), and torch runs it in bf16",
    )


def _first_line(error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {reason}"
