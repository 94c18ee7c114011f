"""The page as a file: what it says, that it asks for nothing, that names are text, what is left of it."""

from __future__ import annotations

import json
import re
import shutil
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

from pipeline.errors import ReportError
from pipeline.evaluation import evaluate
from pipeline.images import ImageSource
from pipeline.report.diagnostics.embedding_map import class_overlap
from pipeline.report.diagnostics.mistakes import label_issues
from pipeline.report.diagnostics.predictions import load_class_predictions
from pipeline.report.html.content import round_robin
from pipeline.report.html.frame import headline, policy, sentence
from pipeline.report.html.images import ImageBudget, SourceImages
from pipeline.report.html.run_page import run_page
from pipeline.report.html.write import open_run, write_report
from pipeline.runs import Run, predictions_of
from pipeline.runs.directory import is_report, report_name

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
    with pytest.raises(
        ReportError, match=r"^run/photos-report.html: expected to write the report here, got No such file"
    ):
        write_report(run)
    assert list(tmp_path.iterdir()) == []
    assert write_report(run, out="new/a.html").path.exists()


def test_the_verdict_comes_first(page: Page, place: Path) -> None:
    run = Run.open(place / "run")
    (accuracy,) = [one for one in run.of("kind", scoring="accuracy") if one.head == "logistic" and not one.null]
    value, low, high = (f"{100 * number:.0f}" for number in (accuracy.mean, accuracy.low, accuracy.high))  # type: ignore[operator]
    first = f"Correct on {value} of 100 photos it was not trained on ({low} to {high})."
    rest = sentence(run.verdicts[0].split("; ")[-1])
    assert page.said.index(first) < page.said.index(rest) < page.said.index("Confusion matrix")
    title = page.text.partition("<title>")[2].partition("</title>")[0]
    assert title == "photos: evaluation report"


def test_accuracy_and_balanced_accuracy_are_explained_where_they_differ(page: Page, place: Path) -> None:
    run = Run.open(place / "run")
    figures = page.text.partition('<table class="figures">')[2].partition("</section>")[0]
    for scoring in ("accuracy", "balanced_accuracy"):
        for one in run.of("kind", scoring=scoring):
            assert one.mean is not None and f"{one.mean:.1%}" in figures
    assert "Accuracy is the share of all photos that are correct." in page.said
    accuracy, balanced = (run.of("kind", scoring=name)[0].mean for name in ("accuracy", "balanced_accuracy"))
    assert accuracy is not None and balanced is not None
    differ = f"Here they differ by {abs(accuracy - balanced) * 100:.1f} points"
    assert (differ in page.said) == (f"{accuracy:.1%}" != f"{balanced:.1%}")


def test_sections_have_plain_names_in_the_order_of_reading(page: Page) -> None:
    names = re.findall(r"<h2[^>]*>(.*?)</h2>", page.text)
    expected = [
        "Summary", "Leaderboard", "Confusion matrix", "Most confident mistakes", "Possible label errors",
        "Calibration", "Map", "Duplicates", "Provenance",
    ]  # fmt: skip
    assert [name for name in names if name != "Notes"] == expected


def test_a_photo_is_shown_once_among_mistakes_and_label_errors(page: Page, place: Path) -> None:
    run = Run.open(place / "run")
    found = load_class_predictions(run, run.info("kind"))
    assert found is not None
    issues = {one.id for one in label_issues(found) or ()}
    wrong = {found.ids[row] for row in found.wrong.tolist()}
    assert issues and issues <= wrong
    cards = {}
    for name in ("mistakes", "label-errors"):
        section = page.text.partition(f'<section id="{name}-0">')[2].partition("</section>")[0]
        cards[name] = re.findall(r'<p class="id">(.*?)</p>', section)
    assert set(cards["label-errors"]) == issues and set(cards["mistakes"]) == wrong - issues
    assert len(cards["label-errors"]) == len(issues)


def test_each_cell_of_the_confusion_matrix_lists_its_photos(page: Page, place: Path) -> None:
    run = Run.open(place / "run")
    table = predictions_of(run.predictions, run.best("kind"), part="out of fold")
    found = json.loads(page.scripts["cells-0"])
    expected: dict[str, set[str]] = {}
    for name, true, predicted in zip(table["id"], table["true"], table["predicted"], strict=True):
        cell = f"{found['names'].index(true)},{found['names'].index(predicted)}"
        expected.setdefault(cell, set()).add(name)
    assert {cell: {photo[0] for photo in photos} for cell, (_, photos) in found["of"].items()} == expected
    assert all(count == len(expected[cell]) for cell, (count, _) in found["of"].items())
    buttons = {one["data-cell"] for one in page.attributes("button") if one.get("data-cell")}
    assert buttons == set(expected)
    assert all(
        0 <= photo[1] < len(json.loads(page.scripts["pictures"]))
        for _, photos in found["of"].values()
        for photo in photos
    )


def test_each_column_of_the_leaderboard_is_explained_in_one_line(page: Page) -> None:
    board = page.text.partition('<table class="wide board">')[2].partition("</table>")[0]
    heads = re.findall(r'<th scope="col"([^>]*)>(.*?)</th>', board)
    for attributes, name in heads:
        assert "title=" in attributes or "drawing of the interval" in name, name


def test_log_loss_is_positive_and_lower_is_better(page: Page, place: Path) -> None:
    run = Run.open(place / "run")
    (loss,) = [one for one in run.of("kind", scoring="neg_log_loss") if one.head == "logistic" and not one.null]
    assert loss.mean is not None and loss.mean < 0
    board = page.text.partition('<table class="wide board">')[2].partition("</table>")[0]
    assert f">{-loss.mean:.3f}<" in board and "−" not in board and ">-" not in board
    assert "Log loss: lower is better." in page.said


def test_the_map_states_its_variance_and_warns_only_where_classes_overlap() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    x, y = rng.normal(size=(2, 200))
    mixed, apart = class_overlap(x, y, labels), class_overlap(x + 8 * labels, y, labels)
    assert mixed is not None and mixed.overlaps and mixed.same == pytest.approx(0.5, abs=0.1)
    assert apart is not None and not apart.overlaps and apart.same > 0.99
    assert mixed.chance == pytest.approx(99 / 199)
    assert class_overlap(x, y, np.zeros(200, int)) is None


def test_the_map_of_a_page_states_its_variance(page: Page) -> None:
    assert re.search(r"They show \d+% of the variance; the head uses all of it\.", page.said)


def test_provenance_reads_as_facts_and_holds_every_recorded_value(page: Page) -> None:
    provenance = page.said.rpartition("Provenance")[2]
    assert re.search(r"extracted \d+ \w+ 20\d\d, \d\d:\d\d UTC", provenance)
    assert "network efficientnet_lite0" in provenance and "center 224 x 224 pixels used" in provenance
    assert "All recorded values" in provenance and "recipe.weights_sha256" in provenance


def test_the_file_carries_the_name_of_the_data_set() -> None:
    assert report_name("ants_bees") == "ants_bees-report.html"
    assert report_name("../a b/<c>") == "a-b-c-report.html" and report_name("...") == "report.html"
    assert is_report("ants_bees-report.html") and is_report("report.html") and not is_report("run.json")


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
    assert "Possible label errors" in page.said
    after = page.text.partition("Possible label errors</h2>")[2]
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

    ground = json.loads(page.scripts["map-layer-0"])
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
        assert "Leaderboard" in without.said and "variance" in without.said
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
        assert "No map, no duplicates and no similar photos" in without.said
        assert "Leaderboard" in without.said and "Possible label errors" in without.said
        assert "map-layer-0" not in without.scripts and "pictures" not in without.scripts
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
    assert "3 of 4 label sets are predicted better than by the baseline. Not shown to be better: noise." in found.said
    assert "Results per tag" in found.said and "Largest errors" in found.said
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
    assert outcome.lines == [str(place / "run" / "photos-report.html")]
    assert outcome.next_command[:3] == ["python", "-m", "webbrowser"]
    told = json.loads(done("report", place / "run", "--json").out)
    assert told == {
        "report": str(place / "run" / "photos-report.html"), "of": "run", "name": "photos",
        "bytes": (place / "run" / "photos-report.html").stat().st_size,
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
