"""Runs: the results of an evaluation, the directory they are written to, and the store of finished units."""

from __future__ import annotations

from pipeline.runs.directory import (
    DEFAULT_FOLDER,
    RunScope,
    RunsDir,
    check_is_run_directory,
    earlier_stores,
    feature_name,
    run_directory,
)
from pipeline.runs.predictions import ON_TEST, OUT_OF_FOLD, confusion_counts, predictions_of, tag_counts
from pipeline.runs.run import (
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
    Run,
    TestCopy,
    as_table,
    plain_params,
)
from pipeline.runs.store import RESULTS, Store, StoredResult, UnitKey

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
    "RESULTS",
    "LabelSetInfo",
    "Result",
    "Run",
    "RunScope",
    "RunsDir",
    "Store",
    "StoredResult",
    "TestCopy",
    "UnitKey",
    "as_table",
    "check_is_run_directory",
    "confusion_counts",
    "earlier_stores",
    "feature_name",
    "plain_params",
    "predictions_of",
    "run_directory",
    "tag_counts",
]
