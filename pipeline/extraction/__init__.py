"""`extract`: from images to a complete cache, with the network run only where nothing knows the features."""

from pipeline.extraction.block import EncodedBatch
from pipeline.extraction.blocks import iter_batches
from pipeline.extraction.extraction import check_options, extract, recipe_of
from pipeline.extraction.known import known_ids
from pipeline.extraction.network import LazyNetwork
from pipeline.extraction.summary import ExtractionSummary

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
