"""Splits: which rows train and which test."""

from __future__ import annotations

from pipeline.splits.fixed import TEST_NAMES, TRAIN_NAMES, VALIDATION_NAMES, train_test
from pipeline.splits.folds import check_cv, inner_folds, outer_folds, tied
from pipeline.splits.split import Split

__all__ = [
    "TEST_NAMES",
    "TRAIN_NAMES",
    "VALIDATION_NAMES",
    "Split",
    "check_cv",
    "inner_folds",
    "outer_folds",
    "tied",
    "train_test",
]
