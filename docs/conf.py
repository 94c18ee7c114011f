"""Configuration of Sphinx: Markdown pages, numpydoc docstrings, nothing loaded from other servers."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "transfer-pipeline"
author = "the authors of transfer-pipeline"
version = release = importlib.metadata.version("transfer-pipeline")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "command_reference",
    "pages_elsewhere",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # a page links to another one's heading as GitHub does

# Types are in the docstrings, in words, with their shapes.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"
# `Run` in a docstring is a link if the name is documented, otherwise code.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", r"(?s).*")]

html_theme = "furo"
html_title = "transfer-pipeline"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_show_copyright = html_show_search_summary = False  # a page opened from a disk cannot load others for summaries
pygments_style, pygments_dark_style = "default", "monokai"


def plain_signature(app: Any, what: str, name: str, found: Any, options: Any, signature: str, returned: str) -> Any:
    """Return a signature as a reader would write the call.

    The fields of dataclasses are left out, because readers get instances from functions or from `open`. A default
    without a readable text is shown as a call of its class.
    """
    if what == "class" and is_dataclass(found):
        return "", returned
    if not signature:
        return None
    return re.sub(r"<pipeline\.[\w.]*?(\w+) object[^>]*>", r"\1()", signature), returned


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", plain_signature)
