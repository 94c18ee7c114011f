"""`extract`: from images to a complete cache, with the network run only where nothing knows the features."""

from pipeline.extraction.block import Block
from pipeline.extraction.blocks import embed_blocks
from pipeline.extraction.extraction import check_options, extract, recipe_of
from pipeline.extraction.known import known_ids
from pipeline.extraction.network import Network
from pipeline.extraction.summary import ExtractionSummary

__all__ = [
    "Block",
    "ExtractionSummary",
    "Network",
    "check_options",
    "embed_blocks",
    "extract",
    "known_ids",
    "recipe_of",
]
