"""Runs: what an evaluation found, the folder it is kept in, and the store that it grows in."""

from __future__ import annotations

from pipeline.runs.counting import ON_TEST, OUT_OF_FOLD, confusion_counts, said_by, tag_counts
from pipeline.runs.folder import DEFAULT_FOLDER, Subject, Under, feature, place_for, refuse_foreign, stores_of
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
from pipeline.runs.store import Cell, Known, Store

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
    "Cell",
    "Known",
    "LabelSetInfo",
    "Result",
    "Run",
    "Store",
    "Subject",
    "TestCopy",
    "Under",
    "as_table",
    "confusion_counts",
    "feature",
    "place_for",
    "plain_params",
    "refuse_foreign",
    "said_by",
    "stores_of",
    "tag_counts",
]
