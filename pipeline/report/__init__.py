"""Reports: the HTML page of a run, a score or a study, the displays of a notebook, and logging to MLflow."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from pipeline.errors import ReportError

_EXTRAS = {"mlflow": "[mlflow]"}


def load_library(module: str) -> ModuleType:
    """Import a drawing or tracking library when it is first needed, so that `import pipeline` stays fast.

    Raises
    ------
    ReportError
        The library is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ReportError(
            f"the report: expected {library}, but it is not installed",
            f"pip install 'transfer-pipeline{_EXTRAS.get(library, '')}'",
        ) from error
