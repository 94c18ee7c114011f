"""Splits: which rows train and which test."""

from __future__ import annotations

from pipeline.splits.fixed import parts_named, train_test
from pipeline.splits.folds import check_cv, inner_folds, outer_folds, tied
from pipeline.splits.split import Split

__all__ = [
    "Split",
    "check_cv",
    "inner_folds",
    "outer_folds",
    "parts_named",
    "tied",
    "train_test",
]
