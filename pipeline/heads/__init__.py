"""Heads: named scikit-learn estimators with the grids that are searched for each. A head is the estimator itself."""

from __future__ import annotations

from pipeline.heads.catalogue import DEFAULT, FAST, GROUPS, CatalogueEntry, Head, catalogue
from pipeline.heads.describe import estimator_text
from pipeline.heads.grids import parse_grid
from pipeline.heads.resolve import fits, resolve_heads
from pipeline.heads.trial import fitted_on_random_rows

__all__ = [
    "DEFAULT",
    "FAST",
    "GROUPS",
    "CatalogueEntry",
    "Head",
    "catalogue",
    "estimator_text",
    "fits",
    "fitted_on_random_rows",
    "parse_grid",
    "resolve_heads",
]
