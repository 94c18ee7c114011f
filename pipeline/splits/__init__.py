"""Folds and fixed splits: which rows train and which test."""

from __future__ import annotations

from pipeline.splits.folds import (
    TEST_NAMES,
    TRAIN_NAMES,
    VALIDATION_NAMES,
    Split,
    check_cv,
    inner_folds,
    outer_folds,
    tied,
    train_test,
)

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
