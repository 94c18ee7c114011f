"""Label sets: one column of labels joined to the ids of the images, by id and never by position.

A table is read as text and nothing is guessed away: `007` stays `007`, a missing cell stays missing. What a
column means (classes, numbers or tags) is decided here, in the open: every choice that was not asked for is a note.
"""

from __future__ import annotations

from pipeline.labels.columns import KINDS, ColumnOptions, group_codes, split_kind
from pipeline.labels.given import given_labels, is_in_order
from pipeline.labels.joined import IdMatch, JoinedLabelSet, JoinReport, SkippedColumn
from pipeline.labels.onehot import OneHot, merge_one_hot, one_hot_notes, split_one_hot
from pipeline.labels.sets import (
    LabelSet,
    LabelSets,
    guess_kind,
    label_sets,
    label_text,
    marker_notes,
    missing_options,
    tag_cells,
)
from pipeline.labels.spelling import match, spelling_notes, unify
from pipeline.labels.table import (
    LabelColumns,
    join,
    match_ids,
    read_label_table,
    text_columns,
    tidy_id,
    without_missing,
)
from pipeline.labels.tags import indicator, joined_tags, separator_of, split_tags

__all__ = [
    "KINDS",
    "ColumnOptions",
    "IdMatch",
    "JoinReport",
    "JoinedLabelSet",
    "LabelColumns",
    "LabelSet",
    "LabelSets",
    "OneHot",
    "SkippedColumn",
    "given_labels",
    "group_codes",
    "guess_kind",
    "indicator",
    "is_in_order",
    "join",
    "joined_tags",
    "label_sets",
    "label_text",
    "marker_notes",
    "match",
    "match_ids",
    "merge_one_hot",
    "missing_options",
    "one_hot_notes",
    "read_label_table",
    "separator_of",
    "spelling_notes",
    "split_kind",
    "split_one_hot",
    "split_tags",
    "tag_cells",
    "text_columns",
    "tidy_id",
    "unify",
    "without_missing",
]
