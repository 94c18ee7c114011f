"""The page as a file: what it says, that it asks for nothing, that names are text, what is left of it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import class_folders, done, refused
from made_caches import blobs, make_cache, names
from PIL import Image

pytest.importorskip("bokeh", reason="Bokeh is not installed: pip install 'transfer-pipeline[report]'")

from pipeline.errors import ReportError
from pipeline.evaluation import evaluate
from pipeline.images import ImageSource
from pipeline.report.html.content import round_robin
from pipeline.report.html.frame import headline, policy, sentence
from pipeline.report.html.images import ImageBudget, SourceImages
from pipeline.report.html.run_page import run_page
from pipeline.report.html.write import open_run, write_report
from pipeline.runs import Run

QUICK: dict[str, Any] = {"heads": ["logistic"], "grid": {"logistic.C": 1.0}, "cv": 3, "n_jobs": 1}
BROKEN = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>")


class Page(HTMLParser):
    """A page, taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.words, self.scripts = text, [], [], {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self._script = dict(attributes).get("id") or f"code-{len(self.scripts)}"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        self._script = None if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
        else:
            self.words.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos whose classes are called as unfriendly as they may be, and a run on them."""
    place = tmp_path_factory.mktemp("page")
    class_folders(place / "photos", 12)
    rows = [
        f'{kind}/{number:02d}.png,"{BROKEN[kind == "bees"]}",{number}.5'
        for kind in ("ants", "bees")
        for number in range(12)
    ]
    # One label that is plainly wrong.
    rows[0] = rows[0].replace(BROKEN[0], BROKEN[1])
    (place / "labels.csv").write_text("\n".join(["id,kind,size", *rows]), encoding="utf-8")
    evaluate(
        place / "photos", labels=place / "labels.csv", column="kind", cache=place / "caches", out=place / "run", **QUICK
    )
    return place


@pytest.fixture(scope="module")
def page(place: Path) -> Page:
    return Page(write_report(place / "run").path.read_text(encoding="utf-8"))


def test_no_folder_is_made_for_a_page_where_the_run_is_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    run = Run.open("run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReportError, match=r"^run/report.html: expected to write the report here, got No such file"):
        write_report(run)
    assert list(tmp_path.iterdir()) == []
    assert write_report(run, out="new/a.html").path.exists()


def test_the_verdict_comes_first(page: Page, place: Path) -> None:
    verdict = Run.open(place / "run").verdicts[0].removeprefix("kind: ")
    first, rest = headline(verdict)
    assert first in page.said and rest in page.said
    assert page.said.index(first) < page.said.index("Leaderboard")
    assert first.lower().rstrip(".") == verdict.partition(";")[0].partition(": ")[0].lower()


def test_names_are_text_wherever_they_stand(page: Page) -> None:
    for name in BROKEN:
        assert name in page.said
    known = {None, "data:"}
    assert not [one for one in page.attributes("img") if one.get("onerror") or one.get("src", "data:") not in known]
    assert all("alert(" not in text for name, text in page.scripts.items() if name.startswith("code-"))
    # Within the data no name can end a script element, whatever it is.
    data = {name: text for name, text in page.scripts.items() if not name.startswith("code-")}
    assert any("alert(2)" in text for text in data.values())
    for text in data.values():
        assert "<" not in text and json.loads(text) is not None


def test_the_page_loads_nothing_and_runs_its_own_scripts_alone(page: Page) -> None:
    (rule,) = [one["content"] for one in page.attributes("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    code = [text for name, text in page.scripts.items() if name.startswith("code-")]
    nonce = re.search(r"'nonce-([^']+)'", str(rule))
    assert nonce is not None and rule == policy(code, nonce[1])
    assert "unsafe" not in str(rule) and "http" not in str(rule)
    for tag, attributes in page.tags:
        assert not {"style", *(name for name in attributes if name.startswith("on"))} & set(attributes), tag
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)


def test_another_page_has_another_nonce(place: Path, page: Page) -> None:
    run = Run.open(place / "run")
    other = Page(run_page(replace(run, notes=(*run.notes, "another note"))))
    found = [one.attributes("style")[0]["nonce"] for one in (page, other)]
    assert found[0] != found[1]


def test_the_planted_wrong_label_is_shown_with_its_picture(page: Page, place: Path) -> None:
    assert "Labels that may be wrong" in page.said
    after = page.text.partition("Labels that may be wrong")[2]
    card = after.partition("<li>")[2].partition("</li>")[0]
    assert "ants/00.png" in card
    number = re.search(r'data-picture="(\d+)"', card)
    assert number is not None
    from base64 import b64decode
    from io import BytesIO

    pictures = json.loads(page.scripts["pictures"])
    with (
        Image.open(BytesIO(b64decode(pictures[int(number[1])]))) as small,
        Image.open(place / "photos/ants/00.png") as whole,
    ):
        assert small.format == "JPEG" and max(small.size) <= 144 and not small.getexif()
        expected = np.asarray(whole.convert("RGB").resize(small.size)).mean(axis=(0, 1))
        assert np.abs(np.asarray(small).mean(axis=(0, 1)) - expected).max() < 6


def test_every_picture_and_chart_has_words(page: Page) -> None:
    assert all(one.get("alt") for one in page.attributes("img"))
    plots = [one for one in page.attributes("div") if "plot" in str(one.get("class"))]
    assert plots and all(one.get("role") == "img" and len(str(one.get("aria-label"))) > 30 for one in plots)


def test_the_map_has_every_photo_with_its_own_colour(page: Page, place: Path) -> None:
    from base64 import b64decode

    ground = json.loads(page.scripts["ground-0"])
    (told,) = [json.loads(text) for name, text in page.scripts.items() if name.startswith("colours-")]
    run = Run.open(place / "run")
    true = dict(zip(run.predictions["id"], run.predictions["true"], strict=True))
    codes = np.frombuffer(b64decode(told["codes"]), "<u2")
    assert {name: told["names"][code] for name, code in zip(ground["ids"], codes, strict=True)} == true
    assert len(np.frombuffer(b64decode(ground["x"]), "<f4")) == 24
    assert len(ground["pictures"]) == 24


def test_without_photos_the_page_says_so_and_shows_the_rest(place: Path, tmp_path: Path) -> None:
    moved = place / "moved"
    shutil.move(place / "photos", moved)
    try:
        without = Page(write_report(place / "run", out=tmp_path / "a.html").path.read_text(encoding="utf-8"))
        assert "No photos are shown" in without.said and "pictures" not in without.scripts
        assert "Leaderboard" in without.said and "The map" in without.said
        assert 'class="blank' in without.text
        there = Page(
            write_report(place / "run", out=tmp_path / "b.html", photos=moved).path.read_text(encoding="utf-8")
        )
        assert "No photos are shown" not in there.said and json.loads(there.scripts["pictures"])
    finally:
        shutil.move(moved, place / "photos")


def test_without_the_cache_the_page_says_so_and_shows_the_rest(place: Path, tmp_path: Path) -> None:
    moved = place / "caches-moved"
    shutil.move(place / "caches", moved)
    try:
        without = Page(write_report(place / "run", out=tmp_path / "a.html").path.read_text(encoding="utf-8"))
        assert "No map, no copies and no nearest photos" in without.said
        assert "Leaderboard" in without.said and "Labels that may be wrong" in without.said
        assert "ground-0" not in without.scripts and "pictures" not in without.scripts
        photos = write_report(place / "run", out=tmp_path / "b.html", photos=place / "photos").path
        assert json.loads(Page(photos.read_text(encoding="utf-8")).scripts["pictures"])
    finally:
        shutil.move(moved, place / "caches")


def test_a_photo_that_has_changed_is_not_shown(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "photos", tmp_path / "photos")
    Image.new("RGB", (64, 64), "green").save(tmp_path / "photos/ants/00.png")
    found = Page(
        write_report(place / "run", out=tmp_path / "a.html", photos=tmp_path / "photos").path.read_text("utf-8")
    )
    assert "1 photo is not shown, e.g. ants/00.png" in found.said
    assert re.search(r'aria-label="ants/00\.png: no picture"', found.text)


def test_several_label_sets_have_an_index_and_are_folded(tmp_path: Path) -> None:
    X, y = blobs(60, d=20, apart=4.0)
    rng = np.random.default_rng(0)
    columns = {"kind": names(y), "size": [f"{v:.3f}" for v in X[:, 0]]}
    columns["marks"] = [
        ";".join(t for t, v in zip(("big", "red"), row, strict=True) if v) or ";" for row in X[:, :2] > 0
    ]
    columns["noise"] = [str(v) for v in rng.choice(["u", "v"], 60)]
    cache = make_cache(tmp_path / "a.h5", X, columns, name="a")
    run = evaluate(
        cache, column=["kind", "size:number", "marks:multi", "noise"], heads=["logistic", "ridge"],
        grid={"logistic.C": 1.0, "ridge.alpha": 1.0}, cv=3, n_jobs=1, out=tmp_path / "run",
    )  # fmt: skip
    found = Page(write_report(run).path.read_text(encoding="utf-8"))
    folded = [one for one in found.attributes("details") if one.get("class") == "set"]
    assert [one["id"] for one in folded] == [f"set-{number}" for number in range(4)]
    assert not any("open" in one for one in folded)
    for number, info in enumerate(run.label_sets):
        assert f'<a href="#set-{number}">{info.name}</a>' in found.text
    assert "3 of 4 label sets are told better than by guessing. Not shown to be better: noise." in found.said
    assert "How well each tag was found" in found.said and "What it missed by most" in found.said
    ids = [one["id"] for _, one in found.tags if one.get("id")]
    assert len(ids) == len(set(ids)), "an id is one element's"
    anchors = {str(one["href"])[1:] for one in found.attributes("a")}
    assert anchors <= set(ids)


def test_the_leaderboard_has_every_head_with_its_interval(page: Page, place: Path) -> None:
    run = Run.open(place / "run")
    for one in run.of("kind"):
        assert one.mean is not None and f"{one.mean:.3f}" in page.said
        assert f"{one.low:.3f} to {one.high:.3f}" in page.said


def test_wishes_are_heard_in_turn() -> None:
    class Told:
        def __init__(self, *image_refs: str) -> None:
            self._wishes = image_refs

        def image_refs(self) -> Iterator[tuple[str, str]]:
            return (("shelf", one) for one in self._wishes)

    heard = round_robin([Told("a", "b", "c"), Told(), Told("d"), Told("e", "f")])  # type: ignore[list-item]
    assert [name for _, name in heard] == ["a", "d", "e", "b", "f", "c"]


def test_an_album_keeps_to_its_budget_and_counts_what_is_left_out(place: Path) -> None:
    source = ImageSource.open(place / "photos")
    providers = {"s": SourceImages(source, {})}
    wanted = [("s", name) for name in source.ids]
    whole = ImageBudget()
    whole.fill(providers, wanted, side=64, budget=10**9)
    assert len(whole.pictures) == 24 and whole.left_out == 0
    budget = sum(len(one) for one in whole.pictures[:5]) + 10
    images = ImageBudget()
    images.fill(providers, [*wanted, ("elsewhere", "x")], side=64, budget=budget)
    assert images.pictures == whole.pictures[:5] and images.left_out == 19
    assert [images.place("s", name) for name in source.ids[:6]] == [0, 1, 2, 3, 4, -1]


def test_the_command_writes_into_the_run_s_folder(place: Path) -> None:
    outcome = done("report", place / "run")
    assert outcome.lines == [str(place / "run" / "report.html")]
    assert outcome.next_command[:3] == ["python", "-m", "webbrowser"]
    told = json.loads(done("report", place / "run", "--json").out)
    assert told == {
        "report": str(place / "run" / "report.html"), "of": "run", "name": "photos",
        "bytes": (place / "run" / "report.html").stat().st_size,
        "mlflow": None,
    }  # fmt: skip
    assert done("report", place / "run", "--quiet").err == ""
    # A run goes on in a folder that has a report.
    again = evaluate(
        place / "photos", labels=place / "labels.csv", column="kind", cache=place / "caches", out=place / "run", **QUICK
    )
    assert again.folder == place / "run"


def test_errors_say_what_to_do(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("report", tmp_path / "nowhere")[1] == "make one: pipeline evaluate DATA --out RUN"
    error, step = refused("report", place / "run", "--out", place / "run")
    assert "report" in error and step == "choose another place with --out"
    run = replace(Run.open(place / "run"), folder=None)
    with pytest.raises(ReportError, match="got a run that no folder holds"):
        write_report(run)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    from pipeline.report.html import frame

    frame._environment.cache_clear()
    assert refused("report", place / "run") == (
        "the report: expected jinja2, but it is not installed", "pip install 'transfer-pipeline[report]'"
    )  # fmt: skip
    assert open_run(place / "run") == Run.open(place / "run")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("right on 9 of 10; guessing: 5", ("Right on 9 of 10.", "Guessing: 5.")),
        ("it was: with 3 labels", ("It was.", "With 3 labels.")),
        ("no marks", ("No marks.", "")),
    ],
)
def test_a_headline_is_what_comes_before_its_figures(text: str, parts: tuple[str, str]) -> None:
    assert headline(text) == parts


def test_a_sentence_has_a_capital_and_an_end() -> None:
    assert [sentence(text) for text in ("a b", "A b.", "why?", "")] == ["A b.", "A b.", "Why?", ""]
