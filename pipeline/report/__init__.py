"""Pictures of what a model said."""

from pipeline.report.contact_sheet import Tile, contact_sheet

__all__ = ["Tile", "contact_sheet"]
