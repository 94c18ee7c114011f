"""Label sets: one column of labels joined to the ids of the images, by id and never by position.

A table is read as text and nothing is guessed away: `007` stays `007`, a missing cell stays missing. What a
column means (classes or numbers) is decided here, in the open: every choice that was not asked for is a note.
"""

from __future__ import annotations

from pipeline.labels.columns import KINDS, group_codes
from pipeline.labels.sets import LabelSet, guess_kind, label_sets
from pipeline.labels.table import Columns, join, read_label_table, tidy_id

__all__ = [
    "KINDS",
    "Columns",
    "LabelSet",
    "group_codes",
    "guess_kind",
    "join",
    "label_sets",
    "read_label_table",
    "tidy_id",
]
