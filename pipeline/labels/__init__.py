"""How labels reach the images: columns of labels, joined by id and never by position.

A table is read as text and no value is converted: `007` stays `007`, a missing cell stays missing. The kind of a column
(classes, numbers or tags) is decided here. Every choice that the user did not make is a note.
"""

from __future__ import annotations

from pipeline.labels.given_labels import given_labels, is_in_order
from pipeline.labels.join import (
    KINDS,
    ColumnOptions,
    IdMatch,
    JoinedLabelSet,
    JoinReport,
    LabelColumns,
    SkippedColumn,
    group_codes,
    join_labels,
    match_ids,
    read_label_table,
    split_kind,
    text_columns,
    tidy_id,
    unknown_column,
    without_missing,
)
from pipeline.labels.label_sets import (
    SEPARATORS,
    LabelSet,
    LabelSets,
    guess_kind,
    indicator,
    joined_tags,
    label_sets,
    label_text,
    marker_notes,
    missing_options,
    separator_of,
    split_tags,
    tag_cells,
)
from pipeline.labels.one_hot import OneHot, merge_one_hot, one_hot_notes, split_one_hot
from pipeline.labels.spelling import match, spelling_notes, unify

__all__ = [
    "KINDS",
    "SEPARATORS",
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
    "join_labels",
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
    "unknown_column",
    "without_missing",
]
