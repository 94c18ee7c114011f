"""What the pictures are drawn with, where it is installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from pipeline.errors import ReportError

EXTRA_OF = {"mlflow": "mlflow"}


def needed(module: str) -> ModuleType:
    """Return a module of the extra `report`, or of the extra that has its name.

    Raises
    ------
    ReportError
        It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ReportError(
            f"the report: expected {library}, but it is not installed",
            f"pip install 'transfer-pipeline[{EXTRA_OF.get(library, 'report')}]'",
        ) from error
