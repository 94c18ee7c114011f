"""From a backbone to a graph that runs: the stored one, a new one where that pays, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.backbone import Backbone, bundled
from pipeline.progress import Progress
from pipeline.runtime.graph_store import (
    DamagedGraph,
    graph_path,
    graph_recipe,
    read_graph,
    remove_unused_graphs,
    write_graph,
)
from pipeline.runtime.onnx_runtime import OnnxRuntime

# From how many images on an export is worth its time. On two cores the bundled backbone exports in 4 seconds, gains 5
# milliseconds an image, and each later run starts 3 seconds sooner, without torch. The others load torch whatever
# runs them, export in 2 to 18 seconds, and gain 2 to 30 milliseconds an image.
ENOUGH_FOR_THE_BUNDLED = 300
ENOUGH_FOR_OTHERS = 1000

_refused: set[str] = set()  # files of graphs that this process could not make: tried, and said, once


def graph_runtime(
    backbone: Backbone, layers: Sequence[str], *, folder: Path, images: int | None, progress: Progress
) -> OnnxRuntime | None:
    """Return a runtime of the stored graph; of a new one, stored, where there is none and it pays; or None.

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
            return OnnxRuntime(model, layers=backbone.resolve_layers(layers), crop=backbone.preprocessing.crop)
        if images is None or images < (ENOUGH_FOR_THE_BUNDLED if backbone.name == bundled.NAME else ENOUGH_FOR_OTHERS):
            return None
        progress.note(f"exporting {backbone.name} for ONNX Runtime: some seconds, once")
    except DamagedGraph as error:
        progress.note(f"{path}: damaged, {error}; exporting {backbone.name} again")
    return _exported(backbone, layers, folder=folder, progress=progress)


def _exported(backbone: Backbone, layers: Sequence[str], *, folder: Path, progress: Progress) -> OnnxRuntime | None:
    from pipeline.runtime.graph_export import NotExportable, export_graph

    recipe = graph_recipe(backbone, layers)
    try:
        model, runtime = export_graph(backbone, layers)
    except NotExportable as error:
        _refused.add(graph_path(folder, recipe).name)
        progress.note(
            f"{backbone.name} runs with torch, which is slower on a CPU: ONNX Runtime cannot run it ({error})"
        )
        return None
    try:
        write_graph(folder, recipe, model)
        for gone in remove_unused_graphs(folder):
            progress.note(f"{gone}: removed, unused for three months")
    except OSError as error:
        progress.note(f"{folder}: wanted to store the exported graph, found {error.strerror or error}; used this once")
    return runtime
