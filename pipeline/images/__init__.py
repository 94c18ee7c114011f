"""How images are listed and read: ids in a fixed order, bytes, RGB pixels, digests and pixel statistics.

`ImageSource.open` opens every kind of source; there is one module per reader (folder, table, tar, shards, Parquet,
arrays, built-in sets).
"""

from __future__ import annotations

from pipeline.images.check_images import kinds_source
from pipeline.images.decode import CHANGED_PHOTOS, EARLIER_RULES, PHOTO_RULES, reads_alike
from pipeline.images.fingerprint import decode_mode, decoder_fingerprint, decoder_of
from pipeline.images.folder import folder_labels
from pipeline.images.listing import Ignored, image_folder, printable, share_place, skipped_text
from pipeline.images.paths import images_by_stem, is_absolute, relative_to, spellings
from pipeline.images.photo import FileReader, Photo, array_digest, array_stat
from pipeline.images.preprocess import (
    DECODES,
    FAST_FULL_SIZE,
    PIXEL_STATISTICS,
    is_reduced,
    pixel_statistics,
    prepare,
    preprocess,
    squared,
    thumbnail,
)
from pipeline.images.shards import name_and_place, shards_of
from pipeline.images.source import BUILTIN_NAMES, ImageSource, check_root
from pipeline.images.split_names import is_fixed_split, split_parts
from pipeline.images.table import (
    ID_COLUMNS,
    check_csv,
    clean_text,
    csv_text,
    find_id_column,
    read_text_table,
    table_kinds,
)

__all__ = [
    "BUILTIN_NAMES",
    "CHANGED_PHOTOS",
    "DECODES",
    "EARLIER_RULES",
    "FAST_FULL_SIZE",
    "ID_COLUMNS",
    "PHOTO_RULES",
    "PIXEL_STATISTICS",
    "FileReader",
    "Ignored",
    "ImageSource",
    "Photo",
    "array_digest",
    "array_stat",
    "check_csv",
    "check_root",
    "clean_text",
    "csv_text",
    "decode_mode",
    "decoder_fingerprint",
    "decoder_of",
    "find_id_column",
    "folder_labels",
    "image_folder",
    "images_by_stem",
    "is_absolute",
    "is_fixed_split",
    "is_reduced",
    "kinds_source",
    "name_and_place",
    "pixel_statistics",
    "prepare",
    "preprocess",
    "printable",
    "read_text_table",
    "reads_alike",
    "relative_to",
    "shards_of",
    "share_place",
    "skipped_text",
    "spellings",
    "split_parts",
    "squared",
    "table_kinds",
    "thumbnail",
]
