"""Run a frozen pretrained CNN over your images once; train, compare and export scikit-learn heads.

>>> import pipeline as pl
>>> cache = pl.extract("photos/")
>>> run = pl.evaluate(cache, heads=["logistic", "knn"])
>>> model = pl.fit(cache, heads="logistic")

Importing this package loads nothing heavy: each name below loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.backbone import Backbone
    from pipeline.cache import FeatureCache
    from pipeline.errors import PipelineError
    from pipeline.evaluation import evaluate
    from pipeline.extraction import extract
    from pipeline.extraction.embedder import ImageEmbedder
    from pipeline.images import ImageSource
    from pipeline.labels import LabelSet
    from pipeline.model import Model, ModelScore, fit
    from pipeline.progress import Progress
    from pipeline.report.displays import (
        CalibrationDisplay,
        ConfusionDisplay,
        DepthDisplay,
        EmbeddingMapDisplay,
        LeaderboardDisplay,
        LearningCurveDisplay,
        MistakesDisplay,
    )
    from pipeline.report.html.write import write_report
    from pipeline.report.mlflow import log_report
    from pipeline.runs import Run
    from pipeline.runtime.onnx_export import save_backbone
    from pipeline.search.shared_grid_search import SharedGridSearchCV, search_many
    from pipeline.studies import Study, study

_MODULE_OF = {
    "Backbone": "backbone",
    "CalibrationDisplay": "report.displays",
    "ConfusionDisplay": "report.displays",
    "DepthDisplay": "report.displays",
    "EmbeddingMapDisplay": "report.displays",
    "FeatureCache": "cache",
    "ImageEmbedder": "extraction.embedder",  # not in the package's __init__: it alone needs scikit-learn
    "ImageSource": "images",
    "LabelSet": "labels",
    "LeaderboardDisplay": "report.displays",
    "LearningCurveDisplay": "report.displays",
    "MistakesDisplay": "report.displays",
    "Model": "model",
    "ModelScore": "model",
    "PipelineError": "errors",
    "Progress": "progress",
    "Run": "runs",
    "SharedGridSearchCV": "search.shared_grid_search",
    "Study": "studies",
    "evaluate": "evaluation",
    "extract": "extraction",
    "fit": "model",
    "log_report": "report.mlflow",
    "save_backbone": "runtime.onnx_export",  # not in the package's __init__: it alone needs torch
    "search_many": "search.shared_grid_search",
    "study": "studies",
    "write_report": "report.html.write",  # not in the package's __init__: it alone needs what the pages are drawn with
}

__all__ = [
    "Backbone",
    "CalibrationDisplay",
    "ConfusionDisplay",
    "DepthDisplay",
    "EmbeddingMapDisplay",
    "FeatureCache",
    "ImageEmbedder",
    "ImageSource",
    "LabelSet",
    "LeaderboardDisplay",
    "LearningCurveDisplay",
    "MistakesDisplay",
    "Model",
    "ModelScore",
    "PipelineError",
    "Progress",
    "Run",
    "SharedGridSearchCV",
    "Study",
    "evaluate",
    "extract",
    "fit",
    "log_report",
    "save_backbone",
    "search_many",
    "study",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("transfer-pipeline")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module(f"pipeline.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
