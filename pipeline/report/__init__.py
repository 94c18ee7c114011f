"""What a run has to show, and the pictures of it."""

from pipeline.report.contact_sheet import Tile, contact_sheet

__all__ = ["Tile", "contact_sheet"]
