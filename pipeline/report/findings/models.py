"""Saved models that were fitted on the features of a run: their parameters are their own, not those of the folds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import records_of
from pipeline.errors import PipelineError
from pipeline.report.findings.evidence import open_cache
from pipeline.runs import LabelSetInfo, Run

RECORD = "model.json"
MOST_BYTES = 64 << 20  # of a record


@dataclass(frozen=True)
class SavedModel:
    """What the record of a saved model says.

    Attributes
    ----------
    name : str
        Of its folder.
    head, layer : str
    params : mapping
        Chosen on all its training photos.
    training_images : int
    """

    name: str
    head: str
    layer: str
    params: Mapping[str, Any]
    training_images: int


def saved_models(run: Run, info: LabelSetInfo) -> tuple[SavedModel, ...]:
    """Return the saved models of a label set that were fitted on a cache that the run names, by the name of the folder.

    A model is found by the reference that it left beside the cache; one that was moved, or fitted by an earlier
    version, is not found.
    """
    found: dict[Path, SavedModel] = {}
    results = {one.cache: one for one in run.of(info.name, source=info.source) if not one.null}
    for result in results.values():
        try:
            records = records_of(open_cache(run, result).path)
        except PipelineError:
            continue  # the cache is gone, which stands among the notes
        for path in records:
            model = _read(path, info) if path.name == RECORD else None
            if model is not None:
                found[path] = model
    return tuple(found[path] for path in sorted(found))


def _read(path: Path, info: LabelSetInfo) -> SavedModel | None:
    """Return the model of a record, None where it is about something else or cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if path.stat().st_size > MOST_BYTES:
            return None
        said = json.loads(path.read_text(encoding="utf-8"))
        if (said["label_set"], said["task"], list(said["classes"])) == (info.name, info.kind, list(info.classes)):
            return SavedModel(
                path.parent.name,
                str(said["head"]),
                str(said["layer"]),
                dict(said["params"]),
                int(said["training_images"]),
            )
    return None
