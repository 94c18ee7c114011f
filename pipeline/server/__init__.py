"""`serve`: a model over HTTP, and one page on which a person drops photos. Light until a server is opened."""

from __future__ import annotations

from pipeline.server.limits import Limits
from pipeline.server.serving import open_server, serve

__all__ = ["Limits", "open_server", "serve"]
