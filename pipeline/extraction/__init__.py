"""Extraction: from images to a complete feature cache, running the network only on images that no cache holds."""

from pipeline.extraction.api import ExtractionSummary, check_options, extract, recipe_of
from pipeline.extraction.batch import EncodedBatch
from pipeline.extraction.encode import iter_batches
from pipeline.extraction.encoder import LazyNetwork
from pipeline.extraction.reuse import known_ids

__all__ = [
    "EncodedBatch",
    "ExtractionSummary",
    "LazyNetwork",
    "check_options",
    "extract",
    "iter_batches",
    "known_ids",
    "recipe_of",
]
