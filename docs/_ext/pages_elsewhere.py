"""Make pages from texts elsewhere in the repository, and rewrite links to these texts into links to their pages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

# A text, from the repository's root, and the page that includes it.
PAGES = {
    "README.md": "docs/start.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "CHANGELOG.md": "docs/changelog.md",
    "benchmarks/README.md": "docs/benchmarks.md",
    "features_cache/README.md": "docs/cache-format.md",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"(^ *(`{3,}).*?^ *\2`*\s*?$)", re.MULTILINE | re.DOTALL)


def with_links_led_to_pages(text: str, root: Path, folder: Path, page_folder: Path) -> str:
    """Return Markdown of a file in `folder` with its links rewritten for a page in `page_folder`.

    Links in code blocks are not changed.
    """

    def led(link: re.Match[str]) -> str:
        opened, target, closed = link.groups()
        if ":" in target:
            return link[0]
        from_root = os.path.relpath(folder / target, root)
        place = root / PAGES.get(Path(from_root).as_posix(), from_root)
        return opened + Path(os.path.relpath(place, page_folder)).as_posix() + closed

    pieces = _FENCE.split(text)  # prose, a whole block, its fence, prose, ...
    return "".join(_LINK.sub(led, piece) if at % 3 == 0 else piece for at, piece in enumerate(pieces) if at % 3 != 2)


def on_page(app: Any, name: str, text: list[str]) -> None:
    folder = Path(app.env.doc2path(name)).parent
    text[0] = with_links_led_to_pages(text[0], Path(app.srcdir).parent, folder, folder)


def on_include(app: Any, path: Path, name: str, text: list[str]) -> None:
    root = Path(app.srcdir).parent
    folder = (Path(app.srcdir) / path).resolve().parent
    text[0] = with_links_led_to_pages(text[0], root, folder, Path(app.srcdir))  # including pages are there


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", on_page)
    app.connect("include-read", on_include)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
