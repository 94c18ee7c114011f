"""Runs: what an evaluation found, the folder it is kept in, and the store that it grows in."""

from __future__ import annotations

from pipeline.runs.counting import ON_TEST, OUT_OF_FOLD, confusion_counts, predictions_of, tag_counts
from pipeline.runs.folder import DEFAULT_FOLDER, RunScope, RunsDir, feature_name, run_directory, check_is_run_directory, earlier_stores
from pipeline.runs.results import (
    ALL_ROWS,
    CHOSEN,
    DUMMY,
    EACH_FOLD,
    LEADERBOARD,
    MOST_FOLDS,
    NOTHING,
    PIXELS,
    LabelSetInfo,
    Result,
    TestCopy,
)
from pipeline.runs.run import Run, as_table, plain_params
from pipeline.runs.store import UnitKey, StoredResult, Store

__all__ = [
    "ALL_ROWS",
    "CHOSEN",
    "DEFAULT_FOLDER",
    "DUMMY",
    "EACH_FOLD",
    "LEADERBOARD",
    "MOST_FOLDS",
    "NOTHING",
    "ON_TEST",
    "OUT_OF_FOLD",
    "PIXELS",
    "UnitKey",
    "StoredResult",
    "LabelSetInfo",
    "Result",
    "Run",
    "Store",
    "RunScope",
    "TestCopy",
    "RunsDir",
    "as_table",
    "confusion_counts",
    "feature_name",
    "run_directory",
    "plain_params",
    "check_is_run_directory",
    "predictions_of",
    "earlier_stores",
    "tag_counts",
]
