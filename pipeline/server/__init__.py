"""Serve a model over HTTP, with a page for dropping photos.

Importing this package loads neither FastAPI nor torch; `open_server` does.
"""

from __future__ import annotations

from pipeline.server.limits import Limits
from pipeline.server.serving import open_server, serve

__all__ = ["Limits", "open_server", "serve"]
