"""Report and study pages in a browser: on a desk and on a phone, in light and in dark, printed, and with unkind names.

The ants and bees are PyTorch's tutorial photos: `ANTS_BEES` names a folder that has its train and val.
"""

from __future__ import annotations

import os
import re
import zlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import asked_for, browser, frames, lights, resize
from browser_checks import (
    contrasts,
    crowded_ticks,
    cut_labels,
    draw,
    leave,
    met,
    mouse,
    scrolled,
    sticking_out,
    unfold,
    wait_for,
    walled_in,
    without_words,
)  # fmt: skip
from made_caches import blobs, make_cache
from sklearn.neighbors import KNeighborsClassifier
from test_study import Eyes, fewer_draws

from pipeline.evaluation import evaluate
from pipeline.images import ImageSource
from pipeline.report.html.charts import HUES
from pipeline.report.html.write import write_report
from pipeline.studies import study

GRID = {"ridge.alpha": 1.0, "logistic.C": 1.0, "centroid.shrink_threshold": [None]}
QUICK: dict[str, Any] = {"cv": 3, "n_jobs": 1}
BRIEF: dict[str, Any] = {"head": "ridge", "budget": 0.02, "most_labels": 40, "n_jobs": 1, "device": "cpu"}
PAGES = tuple(f"{kind} {of}" for kind in ("run", "study") for of in ("photo-crops", "digits", "ants_bees"))
DESK, PHONE = 1440, 390
READABLE = 4.5  # WCAG 2.2, level AA
MOST_BYTES = 15_000_000
POINTS = 20_000

IMAGE = "<img src=x onerror=window.__pwned=1>"
SCRIPT = "</script><script>window.__pwned=1</script>"
TEMPLATE = "{{7*7}} ${7*7} {% raw %} <%= 7*7 %>"
QUOTES = "\"'`><svg onload=window.__pwned=1>&amp;\u2028&#60;b"
TITLE = "</title></style><script>window.__pwned=1</script>"
UNKIND = (IMAGE, SCRIPT, TEMPLATE, QUOTES)


@dataclass
class Shelf:
    """The pages of this file, each made when it is first wanted."""

    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Path:
        if name not in self._made:
            kind, _, of = name.partition(" ")
            source, columns, heads = data(of)
            kept: dict[str, Any] = {"cache": self.folder / "caches", "out": self.folder / name}
            about: Any
            if kind == "study":
                about = study(source, column=columns[0], **BRIEF, **kept)
            else:
                grid = {path: value for path, value in GRID.items() if path.partition(".")[0] in heads}
                if of == "digits":  # with a test set the leaderboard is at its widest
                    kept["test"] = ImageSource.open(of).take(range(6, 1797, 24))
                about = evaluate(source, column=columns, heads=heads, grid=grid, **QUICK, **kept)
            self._made[name] = write_report(about).path
        return self._made[name]


def data(of: str) -> tuple[ImageSource, tuple[str, ...], tuple[str, ...]]:
    """Return a small part of a well-known source, the columns that are asked about, and the heads that are asked."""
    if of == "ants_bees":
        place = os.environ.get("ANTS_BEES")
        if not place:
            pytest.skip("no ants and bees here: ANTS_BEES=FOLDER names the one that has train and val")
        source = ImageSource.open(Path(place) / "train")
        return source.take(range(0, len(source), 7)), ("label",), ("logistic", "centroid")
    if of == "photo-crops" and find_spec("skimage") is None:
        pytest.skip("scikit-image is not installed: pip install 'transfer-pipeline[demo]'")
    source = ImageSource.open(of)
    if of == "digits":
        return source.take(range(0, len(source), 12)), ("label",), ("logistic", "centroid", "knn")
    photos = sorted(set(source.columns["photo"]))[:6]
    rows = [row for row, photo in enumerate(source.columns["photo"]) if photo in photos][::5]
    return source.take(rows), ("colour", "photo", "zoom:number"), ("logistic", "ridge")


@pytest.fixture(scope="module", autouse=True)
def eyes() -> Iterator[None]:
    """Stands where the network stood: the pages are tried here, not what it sees."""
    import pipeline.extraction.encoder as network_room

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_room, "open_runtime", Eyes)
        fewer_draws(patch)
        yield


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Any]:
    with browser(requests=True) as opened:
        yield opened


def show(opened: Any, page: Path, *, width: int = DESK, dark: bool = False, media: str = "") -> None:
    """Open a page as it is seen on a screen of this width."""
    resize(opened, width, 1000 if width > 500 else 844)
    lights(opened, dark=dark, media=media)
    opened.get_log("browser"), asked_for(opened)
    opened.get(page.as_uri())


def plots(opened: Any) -> list[Any]:
    return [plot for plot in opened.find_elements("css selector", ".plot") if plot.is_displayed()]


def errors(opened: Any) -> list[str]:
    """Return what the browser complained of."""
    return [one["message"] for one in opened.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_good_on_desk_and_phone_in_light_and_dark_and_on_paper(name: str, pages: Shelf, shared: Any) -> None:
    page = pages[name]
    # One after the other, for each process that runs tests would make the page anew. The other scheme comes while the
    # page is open, as it does in the evening.
    for width, dark in ((DESK, False), (PHONE, True)):
        assert_good(shared, page, width=width, dark=dark)
    assert_printed(shared, page)


def assert_good(opened: Any, page: Path, *, width: int, dark: bool) -> None:
    """The page fits its window and can be read, its points show their photos, and the browser has no complaint."""
    show(opened, page, width=width, dark=dark)
    assert sticking_out(opened) == [], width  # folded
    unfold(opened)
    charts = plots(opened)
    for plot in charts:
        draw(opened, plot)
    about = (maps(opened) or charts)[0]
    for dark_now in (dark, not dark):
        lights(opened, dark=dark_now)
        here = f"{width} pixels wide, {'dark' if dark_now else 'light'}"
        assert sticking_out(opened) == [], here
        assert cut_labels(opened) == [] and crowded_ticks(opened) == [], here
        assert walled_in(opened) == [], here
        assert width == PHONE or set(scrolled(opened)) <= {"Every point of the study"}, here
        assert without_words(opened) == [], here
        assert_readable(opened, here)
        tip = met(opened, about)
        assert tip["lines"] and tip["box"][0] >= 0 and tip["box"][2] <= width, (here, tip)
        if about.get_attribute("data-map"):
            ((across, down, shown),) = tip["pictures"]
            assert across > 0 and down > 0 and shown >= 100, here  # however small the photo is
        assert_readable(opened, here)  # the tip's own words, too
        leave(opened)
    resize(opened, 320, 844)  # a page on a desk, enlarged to 400%
    assert sticking_out(opened) == []
    assert cut_labels(opened) == []
    assert errors(opened) == []
    assert asked_for(opened) == [page.as_uri()]


def assert_readable(opened: Any, here: str) -> None:
    ratios = contrasts(opened)
    assert len(ratios) > 50 and ratios[0][0] >= READABLE, (here, [one for one in ratios if one[0] < READABLE][:5])


def assert_printed(opened: Any, page: Path) -> None:
    """The page is black on white on paper, which cuts nothing off, whatever the screen is."""
    show(opened, page, width=794, dark=True)  # A4 at 96 pixels an inch
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
    for plot in plots(opened):
        draw(opened, plot)
    printed = b64decode(opened.execute_cdp_cmd("Page.printToPDF", paper)["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") >= 2 and len(printed) > 20_000
    if plots(opened):
        light, dark = (sum(inked(printed, hue[scheme]) for hue in HUES[:3]) for scheme in (0, 1))
        assert light > 50 and dark == 0
    resize(opened, 718, 1000)  # what margins of 1 cm leave
    unfold(opened)
    lights(opened, dark=True, media="print")
    assert sticking_out(opened) == []
    assert cut_off(opened) == []
    assert_readable(opened, "on paper")
    assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    lights(opened, dark=True)
    assert errors(opened) == []


def inked(printed: bytes, hue: str) -> int:
    """Return how many pixels of the charts on paper have this colour; photos, which are JPEG there, have none."""
    found = 0
    for about, image in re.findall(rb"<<([^<]*?/Subtype /Image[^<]*?)>> stream\r?\n(.*?)endstream", printed, re.DOTALL):
        if b"/FlateDecode" in about and b"/DeviceGray" not in about:
            pixels = np.frombuffer(zlib.decompress(image), np.uint8).reshape(-1, 3)
            found += int((pixels == tuple(bytes.fromhex(hue[1:]))).all(1).sum())
    return found


def cut_off(opened: Any) -> list[str]:
    """Return the tables of which paper, which does not scroll, shows a part."""
    return opened.execute_script(
        """return [...document.querySelectorAll(".scroll")].filter(e => e.checkVisibility()
             && e.firstElementChild.getBoundingClientRect().right > innerWidth + .5).map(e => e.ariaLabel)"""
    )


def test_every_shade_of_a_confusion_can_be_read(pages: Shelf, shared: Any) -> None:
    show(shared, pages["run digits"])
    shades = [f"{kind}{depth}" for kind in ("on", "off") for depth in range(1, 11)]
    shared.execute_script(
        """const row = document.querySelector(".matrix tbody tr");
        for (const shade of arguments[0]) row.append(Object.assign(document.createElement("td"),
          {className: shade, textContent: `shade ${shade}`}));""",
        shades,
    )
    for dark in (False, True):
        lights(shared, dark=dark)
        found = [one for one in contrasts(shared) if "shade " in one[1] and one[1].startswith("td")]
        assert len(found) == len(shades) and found[0][0] >= READABLE, found[:4]


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_cell_of_the_confusion_matrix_shows_its_photos(width: int, pages: Shelf, shared: Any) -> None:
    show(shared, pages["run digits"], width=width)
    buttons = shared.find_elements("css selector", "[data-cells='0'] button[data-cell]")
    wrong = [one for one in buttons if len(set(one.get_attribute("data-cell").split(","))) == 2]
    other = next(one for one in buttons if one != wrong[0])
    for button in (wrong[0], other):
        shared.execute_script("arguments[0].click()", button)
        assert button.get_attribute("aria-expanded") == "true"
        title = shared.execute_script("return document.querySelector('#cell-photos-0 h3').textContent")
        assert title == f"{button.get_attribute('aria-label')}"
        wide = shared.execute_script(
            "return [...document.querySelectorAll('#cell-photos-0 li img')].map(e => e.getBoundingClientRect().width)"
        )
        assert len(wide) == min(int(button.text.replace(",", "")), 60) and min(wide) >= 60
        assert sticking_out(shared) == []
    shared.execute_script("arguments[0].click()", other)
    assert shared.execute_script("return document.querySelector('#cell-photos-0').childElementCount") == 0
    assert errors(shared) == []


def maps(opened: Any) -> list[Any]:
    return [plot for plot in plots(opened) if plot.get_attribute("data-map")]


def arrays(folder: Path, name: str, n: int, ids: list[str], side: int, **columns: list[str]) -> tuple[Path, np.ndarray]:
    """Write n small images into one file; return it, and what stands for each image in a cache."""
    from pipeline.images.photo import array_digest

    rng = np.random.default_rng(0)
    hues = rng.integers(0, 256, (n, 1, 1, 3))
    ramp = np.linspace(-60, 60, side).reshape(1, side, 1, 1) + np.linspace(-40, 40, side).reshape(1, 1, side, 1)
    images = (hues + ramp).clip(0, 255).astype(np.uint8)
    path = folder / f"{name}.npz"
    np.savez(path, images=images, ids=np.array(ids), **{key: np.array(value) for key, value in columns.items()})
    return path, np.stack([np.frombuffer(array_digest(one), np.uint8) for one in images])


@pytest.fixture(scope="module")
def unkind(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and a study whose classes, images, head, label sets and own names are code, were they not text."""
    folder = tmp_path_factory.mktemp("unkind")
    n = 60
    X, y = blobs(n, d=12, classes=4, apart=1.5)
    ids = [f"{UNKIND[row % 4]} {row:03d}" for row in range(n)]
    labels = [UNKIND[code] for code in y]
    path, digests = arrays(folder, IMAGE, n, ids, 24, **{"label": labels})
    cache = make_cache(folder / "a.h5", X, {QUOTES: labels}, ids=ids, digests=digests, name=TITLE)
    head = type(IMAGE, (KNeighborsClassifier,), {"__module__": __name__})(5)
    run = evaluate(
        cache, heads=[head, "centroid"], grid={"centroid.shrink_threshold": [None]}, out=folder / "run", **QUICK
    )
    about = study(path, column="label", cache=folder / "caches", out=folder / "study", **BRIEF)
    return write_report(run, photos=path).path, write_report(about).path


def test_unkind_names_are_text_and_nothing_of_them_runs(unkind: tuple[Path, Path], shared: Any) -> None:
    for page, names in zip(unkind, ((*UNKIND, TITLE), (IMAGE,)), strict=True):
        show(shared, page)
        unfold(shared)
        told = set()
        for plot in plots(shared):
            draw(shared, plot)
            told |= set(met(shared, plot)["lines"])
            assert shared.execute_script("return window.__pwned") is None
            leave(shared)
        said = shared.execute_script("return document.body.textContent")
        for name in names:
            assert name in said
        assert shared.execute_script("return document.querySelectorAll('[onerror], [onload], img[src=x]').length") == 0
        assert "49 ${" not in said and "${49}" not in said
        if page == unkind[0]:
            assert told & set(UNKIND) and any(line[:-4] in UNKIND for line in told), told
        for width in (DESK, PHONE):
            resize(shared, width, 844)
            assert sticking_out(shared) == [] and walled_in(shared) == []
        assert errors(shared) == []
        assert asked_for(shared) == [page.as_uri()]
        # What a name would have done, had it become markup, the policy refuses.
        shared.execute_script(
            "const s = document.createElement('script'); s.textContent = 'window.__pwned = 1'; document.body.append(s)"
        )
        assert shared.execute_script("return window.__pwned") is None


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 20,000 images."""
    folder = tmp_path_factory.mktemp("crowd")
    X, y = blobs(POINTS, d=24, classes=8, apart=4.0)
    ids = [f"{row:05d}" for row in range(POINTS)]
    path, digests = arrays(folder, "crowd", POINTS, ids, 16)
    labels = [f"class {code}" for code in y]
    cache = make_cache(folder / "a.h5", X, {"label": labels}, ids=ids, digests=digests, name="crowd")
    options = {"grid": {"centroid.shrink_threshold": [None]}, "cv": 2, "n_jobs": 1}
    return write_report(evaluate(cache, heads="centroid", out=folder / "run", **options), photos=path).path


def test_twenty_thousand_points_stay_usable(crowd: Path, shared: Any) -> None:
    assert crowd.stat().st_size < MOST_BYTES
    show(shared, crowd)
    (plot,) = maps(shared)
    draw(shared, plot)
    shown = "return arguments[0].view.model.renderers[0].data_source.data"
    assert shared.execute_script(f"{shown}.x.length", plot) == POINTS
    pictured = shared.execute_script(f"{shown}.picture.filter(one => one >= 0).length", plot)
    assert 1000 < pictured < POINTS  # a sample, within the page's budget
    for other in plots(shared):
        draw(shared, other)
    draw(shared, plot)
    frames(shared, 10)
    shared.execute_script(  # counts the points that are painted, now that all that was under way is done
        """const {fill} = CanvasRenderingContext2D.prototype;
        CanvasRenderingContext2D.prototype.fill = function (...of) { window.marks++; return fill.apply(this, of); };
        window.marks = 0;"""
    )
    tip = met(shared, plot, pictured=True)
    assert tip["pictures"] and tip["pictures"][0][0] > 0 and tip["lines"][0].startswith("class ")
    leave(shared)
    assert shared.execute_script("return marks") == 0  # to tell of a point paints none of the others

    before = spread(shared, plot)
    x, y = middle(shared, plot)
    mouse(shared, x, y)
    mouse(shared, x, y, "mouseWheel", deltaX=0, deltaY=-240, modifiers=2)  # with Ctrl: the wheel alone scrolls the page
    wait_for(lambda: spread(shared, plot)[1] < 0.99 * before[1], "the wheel to bring the map closer")
    near = spread(shared, plot)
    mouse(shared, x, y, "mousePressed", button="left", buttons=1, clickCount=1)
    painted = []
    for step in range(1, 9):
        shared.execute_script("marks = 0")
        mouse(shared, x + 15 * step, y, button="left", buttons=1)
        painted.append(wait_for(lambda: shared.execute_script("return marks"), "the map to be painted"))
    assert min(painted) <= POINTS // 10  # while it moves, a sample of them
    mouse(shared, x + 120, y, "mouseReleased", button="left", clickCount=1)
    wait_for(lambda: spread(shared, plot)[0] < near[0] - 0.01 * near[1], "the map to follow the hand")
    assert spread(shared, plot)[1] == pytest.approx(near[1])
    keys = shared.find_elements("css selector", ".keys button")
    keys[0].click()
    assert shared.execute_script(f"{shown}.x.length", plot) == POINTS - POINTS // 8
    assert errors(shared) == []


def spread(opened: Any, plot: Any) -> tuple[float, float]:
    """Return where a map begins and how far it goes, from left to right."""
    start, end = opened.execute_script("const r = arguments[0].view.model.x_range; return [r.start, r.end]", plot)
    return start, end - start


def middle(opened: Any, plot: Any) -> tuple[float, float]:
    box = opened.execute_script("return arguments[0].getBoundingClientRect().toJSON()", plot)
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
