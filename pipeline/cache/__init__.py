"""`FeatureCache`: the HDF5 file, crash-proof writes, reads without a copy."""

from pipeline.cache.create import create_cache, remove_left_over
from pipeline.cache.directory import (
    DEFAULT_FOLDER,
    cache_at,
    caches_in,
    file_stem,
    generation_of,
    generation_path,
    latest_version,
    lookup,
    resolve,
    retire,
    retire_unreferenced,
    stem_of,
)
from pipeline.cache.feature_cache import FeatureCache, part_files
from pipeline.cache.format import PENDING, STORED
from pipeline.cache.lock import CacheLock
from pipeline.cache.reader import LazyRows, RowSubset
from pipeline.cache.references import add_reference, is_referenced, records_of
from pipeline.cache.writer import CacheWriter

__all__ = [
    "DEFAULT_FOLDER",
    "PENDING",
    "STORED",
    "CacheLock",
    "CacheWriter",
    "FeatureCache",
    "LazyRows",
    "RowSubset",
    "add_reference",
    "cache_at",
    "caches_in",
    "create_cache",
    "file_stem",
    "generation_of",
    "generation_path",
    "is_referenced",
    "latest_version",
    "lookup",
    "part_files",
    "records_of",
    "remove_left_over",
    "resolve",
    "retire",
    "retire_unreferenced",
    "stem_of",
]
