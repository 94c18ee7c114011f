"""`extract`: from images to a complete cache, with the network run only where nothing knows the features."""

from pipeline.extraction.block import Block
from pipeline.extraction.blocks import embed_blocks
from pipeline.extraction.extraction import ExtractionSummary, extract, recipe_of

__all__ = ["Block", "ExtractionSummary", "embed_blocks", "extract", "recipe_of"]
