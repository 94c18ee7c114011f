"""The feature cache: an HDF5 file with crash-safe writes and memory-mapped reads.

`FeatureCache` reads a cache, `create_cache` and `CacheWriter` write one, `lookup` and `retire` manage the folder that
holds them. The format is described in ``features_cache/README.md``.
"""

from pipeline.cache.create import cannot_write, create_cache, make_folder, remove_left_over
from pipeline.cache.directory import (
    DEFAULT_FOLDER,
    cache_at,
    caches_in,
    file_stem,
    latest_version,
    lookup,
    resolve,
    retire,
    retire_unreferenced,
    stem_of,
    version_hash,
    version_path,
)
from pipeline.cache.feature_cache import PREFIX, FeatureCache, part_files
from pipeline.cache.format import DIGEST_BYTES, PENDING, STATISTICS, STORE_TYPES, STORED, features_name
from pipeline.cache.lock import CacheLock
from pipeline.cache.reader import LazyRows, RowSubset, valid_rows
from pipeline.cache.references import add_reference, is_referenced, records_of
from pipeline.cache.writer import CacheWriter

__all__ = [
    "DEFAULT_FOLDER",
    "DIGEST_BYTES",
    "PENDING",
    "PREFIX",
    "STATISTICS",
    "STORED",
    "STORE_TYPES",
    "CacheLock",
    "CacheWriter",
    "FeatureCache",
    "LazyRows",
    "RowSubset",
    "add_reference",
    "cache_at",
    "caches_in",
    "cannot_write",
    "create_cache",
    "features_name",
    "file_stem",
    "is_referenced",
    "latest_version",
    "lookup",
    "make_folder",
    "part_files",
    "records_of",
    "remove_left_over",
    "resolve",
    "retire",
    "retire_unreferenced",
    "stem_of",
    "valid_rows",
    "version_hash",
    "version_path",
]
