"""The documentation builds without a warning, its links work, and it has every public name, command and option."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import fake_backbone
import h5py
import numpy as np
import portalocker
import pytest
from browser import browser, resize, until
from fake_backbone import number_of
from test_architecture import PACKAGES
from test_readme import DECISIONS, README, leaves, the_app

import pipeline

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FORMAT_PAGE = (DOCS / "cache-format.md").read_text(encoding="utf-8")
FORMAT = (ROOT / "features_cache" / "README.md").read_text(encoding="utf-8")
TEXTS = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *DOCS.rglob("*.md"))
    if not {".venv", "_build"} & set(path.relative_to(ROOT).parts)
]


# --- the pages as Sphinx makes them


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of built pages, made once however many workers test them."""
    here = tmp_path_factory.getbasetemp()
    shared = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here
    site = shared / "site"
    with portalocker.Lock(shared / "site.lock", timeout=900):  # the other worker builds
        if not (shared / "site.log").exists():
            command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", "-d", shared / "doctrees"]
            ended = subprocess.run([*command, DOCS, site], capture_output=True, text=True, timeout=900)
            (shared / "site.log").write_text(f"{ended.returncode}\n{ended.stdout}{ended.stderr}", encoding="utf-8")
    assert (shared / "site.log").read_text(encoding="utf-8") == "0\n"
    return site


@dataclass
class Page(HTMLParser):
    """The text, anchors and links of a built page, and the files that it loads."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.anchors.add(str(found["id"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        elif tag in ("script", "img", "link", "iframe"):
            self.loaded += [str(found[name]) for name in ("src", "href") if found.get(name)]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def pages(built: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(built.rglob("*.html"))}


def test_there_is_a_page_for_every_text(pages: dict[Path, Page], built: Path) -> None:
    for text in DOCS.rglob("*.md"):
        assert built / text.relative_to(DOCS).with_suffix(".html") in pages


def test_every_link_of_the_pages_has_a_target(pages: dict[Path, Page], built: Path) -> None:
    count = 0
    for page in pages.values():
        for link in (*page.links, *page.loaded):
            place = urlsplit(link)
            if place.scheme or place.netloc:
                continue
            count += 1
            target = (page.path.parent / unquote(place.path)).resolve() if place.path else page.path
            assert target.is_relative_to(built.resolve()) or target == page.path, f"{page.path.name}: {link}"
            assert target.exists(), f"{page.path.name}: {link}"
            if place.fragment and target.suffix == ".html":
                there = pages[built / target.relative_to(built.resolve())] if place.path else page
                assert unquote(place.fragment) in there.anchors, f"{page.path.name}: {link}"
    assert count > 1000


def test_the_pages_load_nothing_from_elsewhere(pages: dict[Path, Page], built: Path) -> None:
    for page in pages.values():
        assert not [link for link in page.loaded if urlsplit(link).netloc], page.path.name
    for sheet in built.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", text), sheet.name


@pytest.mark.network
def test_links_to_elsewhere_answer(pages: dict[Path, Page]) -> None:
    links = {link.partition("#")[0] for page in pages.values() for link in page.links if link.startswith("http")}
    links = {link for link in links if urlsplit(link).hostname != "127.0.0.1"}
    assert links
    for link in sorted(links):
        with urlopen(Request(link, headers={"User-Agent": "Mozilla/5.0"}), timeout=30) as answer:
            assert answer.status == 200, link


# --- the pages have every name, command and option


@pytest.fixture(scope="module")
def documented(built: Path) -> dict[str, str]:
    """Every documented name with its kind, from Sphinx's inventory."""
    _, _, _, _, packed = (built / "objects.inv").read_bytes().split(b"\n", 4)
    lines = zlib.decompress(packed).decode().splitlines()
    return {name: kind for name, kind in (line.split(" ")[:2] for line in lines) if kind.startswith("py:")}


def test_every_public_name_is_documented_with_its_docstring(
    documented: dict[str, str], pages: dict, built: Path
) -> None:
    said = words_of(pages[built / "api.html"].text)
    for name in pipeline.__all__:
        assert documented.get(f"pipeline.{name}", "").partition(":")[2] in ("class", "function", "exception"), name
        promise = getattr(pipeline, name).__doc__.strip().partition("\n")[0]
        assert words_of(promise) in said, name


def test_every_public_method_is_documented(documented: dict[str, str]) -> None:
    for name in pipeline.__all__:
        thing = getattr(pipeline, name)
        for member, found in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and getattr(found, "__doc__", None) and callable(getattr(thing, member)):
                assert f"pipeline.{name}.{member}" in documented


def test_every_package_is_documented_in_the_order_of_imports(documented: dict[str, str]) -> None:
    text = (DOCS / "modules.md").read_text(encoding="utf-8")
    assert re.findall(r"^\.\. automodule:: pipeline\.(\w+)$", text, re.MULTILINE) == list(PACKAGES)
    assert {f"pipeline.{room}" for room in PACKAGES} <= documented.keys()


def test_every_command_and_every_option_is_on_the_page(pages: dict[Path, Page], built: Path) -> None:
    said = pages[built / "commands.html"].text
    for name, leaf in leaves(the_app()).items():
        assert name.replace(" ", "-") in pages[built / "commands.html"].anchors
        its_own = said[said.index(f"\n{name} ") :].partition("[OPTIONS]")[2].partition("[OPTIONS]")[0]
        for parameter in leaf.params:
            if parameter.param_type_name == "argument":
                wanted = (parameter.metavar or parameter.name.upper()).strip("{}[]<>.")
                assert f"\n{wanted}" in its_own.replace("\n[", "\n"), (name, wanted)
            elif not parameter.hidden:
                assert any(word in its_own for word in parameter.opts), (name, parameter.opts)


def test_every_decision_is_on_the_list_under_its_own_title(pages: dict[Path, Page], built: Path) -> None:
    listed = pages[built / "decisions" / "index.html"]
    for path in DECISIONS:
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        assert words_of(title) in words_of(listed.text)
        assert f"{path.stem}.html" in listed.links


def words_of(text: str) -> str:
    """Return the letters and digits, which do not depend on quotes, code and line ends."""
    return re.sub(r"[\W_]+", "", text)


# --- the texts in the repository


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_relative_link_has_a_file_and_a_heading(path: Path) -> None:
    prose = re.sub(r"^ *(`{3,}).*?^ *\1`*\s*?$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if urlsplit(link).scheme:
            continue
        target, _, heading = link.partition("#")
        place = path.parent / target if target else path
        assert place.exists(), link
        if heading:
            assert heading in headings(place), link


def headings(path: Path) -> set[str]:
    """Return the anchors that a code host makes for the headings of a text and of the texts it includes."""
    text = path.read_text(encoding="utf-8")
    included = [(path.parent / name) for name in re.findall(r"^```\{include\} (\S+)", text, re.MULTILINE)]
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    found = {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
    found |= set(re.findall(r"^\.\. automodule:: pipeline\.(\w+)$", text, re.MULTILINE))
    return found.union(*map(headings, included))


def test_readme_leads_to_the_pages() -> None:
    assert "(docs/index.md)" in README


def test_links_of_included_texts_are_rewritten_to_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS / "_ext")
    from pages_elsewhere import PAGES, with_links_led_to_pages

    text = (
        "[a](docs/reliability.md#the-cache) [b](features_cache/README.md) ![c](docs/p.png) [d](LICENSE) "
        "[e](https://example.org/README.md) [f](#here)\n```sh\n[g](README.md)\n```\n[h](README.md#flow)"
    )
    assert with_links_led_to_pages(text, ROOT, ROOT, DOCS) == (
        "[a](reliability.md#the-cache) [b](cache-format.md) ![c](p.png) [d](../LICENSE) "
        "[e](https://example.org/README.md) [f](#here)\n```sh\n[g](README.md)\n```\n[h](start.md#flow)"
    )
    for text_of, page in PAGES.items():
        assert os.path.relpath(ROOT / text_of, DOCS) in (ROOT / page).read_text(encoding="utf-8")


# --- the page of the cache's format, compared with a cache


@pytest.fixture
def cache(run: fake_backbone.Extractor, tmp_path: Path) -> Path:
    """A cache with everything that the page describes: two layers, a label, an unreadable photo."""
    photos = fake_backbone.folder_of(tmp_path / "photos", range(12))
    fake_backbone.put(photos / "c0" / "broken.png", b"not an image")
    return run(photos, layer=["late", "penultimate"]).path


def test_the_page_has_each_dataset_with_its_shape_and_type_and_no_other(cache: Path) -> None:
    rows = re.findall(r"^\| `([\w/<>]+)` \| \((.+?)\) (.+?) \|", FORMAT.partition("## Datasets")[2], re.MULTILINE)
    found: dict[str, str] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            kind = re.sub(
                r"(features|labels)/.*", lambda of: f"{of[1]}/{'<layer>' if of[1] == 'features' else '<column>'}", name
            )
            found[kind] = "fixed-length UTF-8" if item.dtype.kind == "S" else str(item.dtype)
            shape = next(shape for named, shape, _ in rows if named == kind).replace(" ", "").rstrip(",").split(",")
            sizes = {"n": 13, "d": item.shape[-1], "k": item.shape[0]}
            assert item.shape == tuple(sizes.get(word, 0) or int(word) for word in shape), name

    with h5py.File(cache) as file:
        file.visititems(note)
    assert found.keys() == {name for name, _, _ in rows}
    for name, _, said in rows:
        assert found[name] in said


def test_the_page_names_each_attribute_and_no_other(cache: Path) -> None:
    said = FORMAT.partition("## Datasets")[2].partition("### status")[0]
    named = set(re.findall(r"attributes?:? `(\w+)`|and `(\w+)` \(the bytes", said))
    with h5py.File(cache) as file:
        found = {(owner.name, name) for owner in walked(file) for name in owner.attrs}
        values = dict(file.attrs)
    assert found == {("/", "format"), ("/", "kind"), ("/provenance", "sha256")}
    assert {word for words in named for word in words if word} == {name for _, name in found}
    assert f"the number {values['format']}" in said and values["kind"].decode() in said


def walked(file: h5py.File) -> Iterator[Any]:
    yield file
    names: list[str] = []
    file.visit(names.append)
    yield from (file[name] for name in names)


def test_the_page_names_each_entry_of_the_provenance(cache: Path, run: fake_backbone.Extractor, tmp_path: Path) -> None:
    mine = fake_backbone.backbone(weights="mine.pth@default", file=tmp_path / "mine.pth")
    of_my_own = run(tmp_path / "photos", backbone=mine, cache=tmp_path / "others").path
    table = FORMAT.partition("### provenance")[2].partition("\n## ")[0]
    firsts = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)`", firsts))
    assert named == provenance_of(of_my_own).keys()
    assert named - {"weights_file"} == provenance_of(cache).keys()
    (recipe,) = [line for line in table.splitlines() if line.startswith("| `recipe`")]
    assert set(re.findall(r"`(\w+)`", recipe)) - {"recipe"} == provenance_of(cache)["recipe"].keys()


def provenance_of(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return json.loads(file["provenance"][:].tobytes())


def test_the_code_of_the_page_reads_a_cache_and_a_folder_of_parts(
    cache: Path, run: fake_backbone.Extractor, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        parts = run(tmp_path / "photos", part=f"{number}/3", layer=["late", "penultimate"])
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", FORMAT_PAGE, re.MULTILINE | re.DOTALL):
        code = code.replace('"CACHE.h5"', repr(str(cache))).replace('"CACHE"', repr(str(parts.path)))
        exec(compile(code, "cache-format.md", "exec"), names)
    wanted = fake_backbone.features_of([number_of(name) for name in names["ids"]], "penultimate")
    assert len(names["ids"]) == 12 and np.array_equal(names["X"], wanted)
    assert np.array_equal(names["mapped"][names["stored"]], wanted)
    assert names["all_ids"].size == 13 and np.array_equal(np.sort(names["all_ids"]), names["rows"]["ids"])
    assert np.array_equal(names["all_X"][names["stored"]], wanted)


@pytest.mark.parametrize("damage", ["status", "digest", "features/penultimate", "ids", "crc32"])
def test_the_code_of_the_page_finds_the_row_that_was_changed(cache: Path, damage: str) -> None:
    with h5py.File(cache) as file:
        place = file[damage].id.get_offset() + 3 * file[damage].dtype.itemsize * int(np.prod(file[damage].shape[1:]))
    flipped = bytearray(cache.read_bytes())
    flipped[place] ^= 4
    cache.write_bytes(flipped)
    names: dict[str, Any] = {}
    code = re.findall(r"^```python\n(.*?)^```$", FORMAT_PAGE, re.MULTILINE | re.DOTALL)[0]
    exec(compile(code.replace('"CACHE.h5"', repr(str(cache))), "cache-format.md", "exec"), names)
    assert np.flatnonzero(~names["sound"]).tolist() == [3]


# --- the pages in a browser


SHOWN = (
    "index", "start", "guide", "how_to/index", "api", "modules", "commands", "cache-format", "reliability",
    "benchmarks", "contributing", "decisions/index", "decisions/0002-one-contiguous-file",
)  # fmt: skip


class Strict(SimpleHTTPRequestHandler):
    """Serve the pages with a policy that forbids other servers; the browser logs each violation."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", "default-src 'self' 'unsafe-inline' data:")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(built: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Strict, directory=str(built))) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_pages_fit_a_screen_and_a_phone_and_load_only_local_files(served: str, dark: bool) -> None:
    with browser(dark=dark) as opened:
        for name in SHOWN:
            opened.get(f"{served}{name}.html")
            for width in (1440, 390):
                resize(opened, width, 1000)
                assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth"), (name, width)
            asked = opened.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
            assert asked and not [place for place in asked if not place.startswith((served, "data:"))]
            ground = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == dark
        assert not opened.get_log("browser")


def test_the_search_works_from_a_disk(built: Path) -> None:
    with browser() as opened:
        opened.get((built / "search.html").as_uri() + "?q=FeatureCache")
        assert any("api.html" in (found.get_attribute("href") or "") for found in until(opened, "ul.search a"))
        assert not opened.get_log("browser")
