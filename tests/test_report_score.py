"""The page of a score: figures are those of the answers, photos are those that are named, what is gone is told."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import browser, resize
from commands import class_folders, done, refused
from PIL import Image
from test_report_page import BROKEN, Page
from test_scored import photos_and_model, planted

from pipeline.errors import ReportError
from pipeline.images import ImageSource
from pipeline.intervals import ScoreInterval
from pipeline.model import Model, ModelScore
from pipeline.report.html.score_page import diagnose_score
from pipeline.report.html.write import open_run, write_report
from pipeline.runs import Run
from pipeline.runs.directory import report_name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's score, over photos of which some were learned from and others are of a class that never was."""
    place = photos_and_model(tmp_path_factory.mktemp("score page"))
    for number, seed in enumerate((20, 21)):  # ants that are said to be bees
        shutil.copy(class_folders(place / "more", 1, ("ants",), first=seed) / f"ants/{seed}.png",
                    place / "new" / "bees" / f"9{number}.png")  # fmt: skip
    Image.new("RGB", (64, 64), "lime").save(place / "new" / "ants" / "lime.png")  # unlike all that was learned from
    Model.open(place / "bees.model").score(place / "new", cache=place / "caches", out=place / "run", n_jobs=1)
    return place


@pytest.fixture(scope="module")
def score(place: Path) -> ModelScore:
    return ModelScore.open(place / "run")


@pytest.fixture(scope="module")
def page(place: Path) -> Page:
    return written(place / "run")


def written(run: Any, **options: Any) -> Page:
    return Page(write_report(run, **options).path.read_text(encoding="utf-8"))


def section(page: Page, title: str, tag: str = "h2") -> str:
    """Return the markup that stands below a heading, to the next one of its kind."""
    after = page.text.partition(f"<{tag}>{title}</{tag}>")[2]
    assert after, title
    return re.split(rf"<{tag}[ >]|</section>", after)[0]


def cells(markup: str) -> list[list[str]]:
    """Return the rows of the first table of some markup, its head first."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", markup.partition("</table>")[0], re.DOTALL)
    return [[re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def cards(markup: str) -> list[str]:
    photos = markup.partition('<ul class="photos')[2]
    return re.split(r"<li>(?=<img data|<span class=\"blank\")", photos)[1:]


def picture(page: Page, card: str) -> Image.Image:
    number = re.search(r'data-picture="(\d+)"', card)
    assert number is not None, card
    return Image.open(BytesIO(b64decode(json.loads(page.scripts["pictures"])[int(number[1])]))).convert("RGB")


def shown(one: ScoreInterval) -> list[str]:
    ends = sorted(abs(end) for end in (one.low, one.high))  # a loss is shown positive
    return [f"{abs(one.value):.3f}", f"{ends[0]:.3f} to {ends[1]:.3f}"]


def test_the_figures_are_those_of_the_answers(page: Page, score: ModelScore) -> None:
    table = score.predictions
    right, n = int((table["true"] == table["predicted"]).sum()), len(table)
    accuracy = next(one for one in score.scores if one.scoring == "accuracy")
    first = f"Correct on {right} of {n} photos, {right / n:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})."
    most, times = table["true"].value_counts().index[0], table["true"].value_counts().iloc[0]
    rest = f"Baseline, always predicting {most}, the most common class: {times / n:.1%}."
    assert page.said.index(first) < page.said.index(rest) < page.said.index("balanced accuracy")
    new = table[~table["learned"]]
    assert (
        f"Without the {n - len(new)} photos that it was trained on: {(new['true'] == new['predicted']).mean():.1%}"
        in page.said
    )
    assert cells(section(page, "Scores"))[1:] == [
        [name, *shown(one), f"{abs(score.guessing[one.scoring]):.3f}", *shown(apart)]
        for name, one, apart in zip(
            ("balanced accuracy", "accuracy", "macro F1", "log loss"), score.scores, score.scores_apart, strict=True
        )
    ]


def test_the_confusion_and_the_classes_are_counted_from_the_answers(page: Page, score: ModelScore) -> None:
    names = ["ants", "bees", "wasps"]
    counts = pd.crosstab(score.predictions["true"], score.predictions["predicted"]).reindex(
        index=names, columns=names, fill_value=0
    )
    whole = section(page, "Confusion matrix")
    assert cells(whole)[1:] == [
        [name, *(str(times) if times else "·" for times in counts.loc[name]), str(counts.loc[name].sum())]
        for name in names
    ]
    found = cells(whole.partition("</table>")[2])[1:]
    assert [(row[0], row[1], row[2]) for row in found] == [
        (name, str(counts.loc[name].sum()), f"{counts.loc[name, name] / counts.loc[name].sum():.2f}") for name in names
    ]


def test_the_surest_mistakes_stand_beside_their_nearest_training_photos(
    page: Page, score: ModelScore, place: Path
) -> None:
    table = score.predictions
    wrong = table[table["true"] != table["predicted"]].sort_values("probability", ascending=False, kind="stable")
    wrong = wrong[~wrong["id"].isin([one.id for one in diagnose_score(score).label_issues or ()])]  # shown elsewhere
    shown = cards(section(page, "Most confident mistakes"))
    assert len(shown) == min(len(wrong), 12)
    assert {re.search(r'alt="([^"]+)"', card)[1] for card in shown} == set(wrong["id"][:12])  # type: ignore[index]
    rows = table.set_index("id")
    for card in shown:
        name, *near = re.findall(r'alt="([^"]+)"', card)
        row = rows.loc[name]
        assert f"predicted</span> <b>{row['predicted']}</b><small>{row['probability']:.0%}" in card
        assert near == [row["neighbour"], row["neighbour_2"], row["neighbour_3"]]
        assert f"cosine {row['similarity']:.2f}" in card
    # The pictures are of the photos that are named; the small one is of the training photo.
    for card in shown[:3]:
        name, near, *_ = re.findall(r'alt="([^"]+)"', card)
        asked, learned = card.split('<ul class="near"')
        assert most_like(picture(page, asked), place / "new") & same_as(place / "new" / name)
        assert most_like(picture(page, learned), place / "photos") & same_as(place / "photos" / near)


def same_as(file: Path) -> set[bytes]:
    return {file.read_bytes()}


def most_like(shown: Image.Image, folder: Path) -> set[bytes]:
    """Return the content of the photo in a folder that a picture differs the least from."""

    def off(file: Path) -> float:
        with Image.open(file) as whole:
            pixels = whole.convert("RGB")
        return float(np.abs(np.asarray(pixels, float) - np.asarray(shown.resize(pixels.size), float)).mean())

    return same_as(min(folder.rglob("*.png"), key=off))


def test_what_is_to_be_handled_with_care_is_named(page: Page, score: ModelScore) -> None:
    learned = section(page, "Training photos among the scored ones", "h3")
    assert f"{len(score.seen_in_training)} of the {score.n} photos are training photos, by content" in learned
    assert [row[0] for row in cells(learned.partition("<details>")[2])[1:]] == list(score.seen_in_training)
    assert all("cosine 1.00" in card and card.count("<img") == 2 for card in cards(learned))  # the photo itself
    assert "with their photos: wasps (4)." in section(page, "Classes that the model does not have", "h3")
    strange = score.predictions[score.predictions["unfamiliar"]]
    told = section(page, "Unfamiliar photos", "h3")
    assert "1 of the 15 photos is further" in told and "The model is wrong on 1 of them." in told
    rows = cells(told.partition("<details>")[2])[1:]
    assert [row[0] for row in rows] == strange["id"].tolist() == ["ants/lime.png"]


def test_a_planted_wrong_label_is_suspected_and_what_cannot_be_asked_is_not(page: Page, score: ModelScore) -> None:
    suspected = [one.id for one in diagnose_score(score).label_issues or ()]
    table = score.predictions
    asked = table[~table["learned"] & (table["true"] != "wasps")]
    sure_of = asked.groupby("true")["probability_true"].mean()
    accused = asked[(asked["true"] != asked["predicted"]) & (asked["probability"] >= asked["predicted"].map(sure_of))]
    margin = accused["probability_true"] - accused["probability"]
    assert suspected == accused.loc[margin.sort_values(kind="stable").index, "id"].tolist()
    assert {"bees/90.png", "bees/91.png"} <= set(suspected)
    shown = section(page, "Possible label errors")
    assert f"{len(suspected)} photos: logistic, which was not trained on them, predicts another class" in shown
    assert [re.search(r'alt="([^"]+)"', card)[1] for card in cards(shown)] == suspected  # type: ignore[index]
    # Of a photo that it learned from, and of a class that it never saw, the model cannot say that the label is wrong.
    learned = table.assign(learned=table["learned"] | (table["id"] == "bees/90.png"))
    assert "bees/90.png" not in {
        one.id for one in diagnose_score(replace(score, predictions=learned)).label_issues or ()
    }
    everything = replace(score, predictions=score.predictions.assign(learned=True))
    assert diagnose_score(everything).label_issues is None
    assert "Possible label errors" not in written(everything, out=score.folder / "report.html").said


def test_the_map_has_every_scored_photo_by_its_own_label(page: Page, score: ModelScore) -> None:
    ground = diagnose_score(score).map_layer
    assert ground is not None and ground.map is not None
    assert list(ground.map.ids) == score.predictions["id"].tolist()
    assert ground.labels["label"] == dict(zip(score.predictions["id"], score.predictions["true"], strict=True))
    assert {f">{name}</button>" in page.text for name in ("ants", "bees", "wasps")} == {True}
    assert "map-layer-0" in page.scripts


def test_it_has_its_provenance(page: Page, score: ModelScore, place: Path) -> None:
    made = section(page, "Provenance")
    for text in (score.about["question"]["model"], str(place / "bees.model"), str(place / "new"), "logistic"):
        assert text in made
    assert score.about["model"]["recipe"]["weights_sha256"] in made


def test_without_the_photos_it_says_so_and_shows_the_rest(place: Path, tmp_path: Path) -> None:
    moved = place / "moved"
    shutil.move(place / "new", moved)
    try:
        without = written(place / "run", out=tmp_path / "a.html")
        assert f"No photos are shown: {place / 'new'}: no such file or folder; name their folder" in without.said
        first = cards(section(without, "Most confident mistakes"))[0]
        assert 'class="blank"' in first and first.count("<img") == 3, "the model keeps its own photos"
        assert "Map" in without.said and "Calibration" in without.said
        there = written(place / "run", out=tmp_path / "b.html", photos=moved)
        assert "No photos are shown" not in there.said
        assert "<img" in cards(section(there, "Most confident mistakes"))[0].partition("<ul")[0]
        Image.new("RGB", (64, 64), "green").save(moved / "bees/90.png")
        changed = written(place / "run", out=tmp_path / "c.html", photos=ImageSource.open(moved))
        assert "1 photo is not shown, e.g. bees/90.png: missing, unreadable, or not as when" in changed.said
        assert 'aria-label="bees/90.png: no picture"' in changed.text
    finally:
        shutil.copy(place / "more/ants/20.png", moved / "bees/90.png")
        shutil.move(moved, place / "new")


def test_without_the_cache_there_is_no_map(place: Path, tmp_path: Path) -> None:
    moved = place / "caches-moved"
    shutil.move(place / "caches", moved)
    try:
        without = written(place / "run", out=tmp_path / "a.html")
        assert "No map: " in without.said and "map-layer-0" not in without.scripts
        assert len(cards(section(without, "Most confident mistakes"))) and "pictures" in without.scripts
    finally:
        shutil.move(moved, place / "caches")


def test_without_the_model_its_photos_are_named_and_not_shown(place: Path, tmp_path: Path) -> None:
    moved = place / "moved.model"
    shutil.move(place / "bees.model", moved)
    try:
        without = written(place / "run", out=tmp_path / "a.html")
        assert "Training photos are named and not shown: " in without.said
        first = cards(section(without, "Most confident mistakes"))[0]
        assert first.count("<img") == 1 and first.count('class="blank small"') == 3
        replace(Model.open(moved), notes=("another",)).save(place / "bees.model")
        other = written(place / "run", out=tmp_path / "b.html")
        assert (
            f"named and not shown: {place / 'bees.model'}: expected the model that was scored, got another one"
            in other.said
        )
    finally:
        shutil.rmtree(place / "bees.model", ignore_errors=True)
        shutil.move(moved, place / "bees.model")


@pytest.mark.parametrize(("kind", "head"), [("number", "ridge"), ("multi", "logistic"), ("class", "ridge")])
def test_every_kind_of_labels_has_a_page(kind: str, head: str, tmp_path: Path) -> None:
    model, other = planted(tmp_path, kind, head=head)
    score = model.score(other, cache=tmp_path, out=tmp_path / "run")
    table, said = score.predictions, written(score)
    assert "No photos are shown" in said.said and "Map" in said.said
    main = f"{score.scores[0].value:.3f} ({score.scores[0].low:.3f} to {score.scores[0].high:.3f}) on 40 photos."
    if kind == "number":
        off, mean = table["predicted_value"] - table["true_value"], table["true_value"].mean()
        guessing = (table["true_value"] - mean).abs().mean()
        assert f"R² {main}" in said.said
        assert (
            f"The mean error is {off.abs().mean():.3g}; always predicting the mean, it is {guessing:.3g}." in said.said
        )
        assert table["id"][off.abs().idxmax()] in cards(section(said, "Largest errors"))[0]
        assert "does not have" not in said.said and "label errors" not in said.said
    elif kind == "multi":
        assert f"Average precision {main}" in said.said
        common = np.mean([table["true"].str.contains(tag).mean() for tag in model.classes])
        assert f"Baseline, always predicting how common each tag is here: {common:.3f}." in said.said
        both = [table[name].str.contains("red") for name in ("true", "predicted")]
        row = next(row for row in cells(section(said, "Tags"))[1:] if row[0] == "red")
        counts = (both[0].sum(), (both[0] & both[1]).sum(), (both[0] & ~both[1]).sum(), (~both[0] & both[1]).sum())
        assert row[1:5] == [str(one) for one in counts]
        assert "Intervals of average precision, macro F1 and micro F1: " in said.said
        assert "The model has every tag of these photos." in said.said
    else:
        assert "ridge gives no probabilities" in said.said or not (table["true"] != table["predicted"]).any()
        assert "Calibration" not in said.said and "label errors" not in said.said


def test_names_are_text_wherever_they_stand(tmp_path: Path) -> None:
    model, other = planted(tmp_path, "class", head="logistic")
    labels = {name: BROKEN[row % 2] for row, name in enumerate(other.ids)}
    said = written(model.score(other, {"mark": labels}, cache=tmp_path, out=tmp_path / "run"))
    for name in BROKEN:
        assert name in said.said
    assert not [one for one in said.attributes("img") if one.get("onerror") or one.get("src")]
    for name, text in said.scripts.items():
        assert name.startswith("code-") or "<" not in text


def test_a_score_that_was_not_kept_has_no_page(place: Path, tmp_path: Path) -> None:
    plain = Model.open(place / "bees.model").score(place / "new", n_jobs=1)
    with pytest.raises(ReportError, match="expected a score with its predictions, got one without") as error:
        write_report(plain, out=tmp_path / "report.html")
    assert error.value.next_step == "write it: Model.score(..., out=RUN), or pipeline score MODEL DATA --out RUN"


def test_the_command_writes_into_the_score_s_folder(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    assert done("report", run).lines == [str(run / report_name(open_run(run).name))]
    told = json.loads(done("report", run, "--json", "--out", tmp_path / "a.html").out)
    assert told == {
        "report": str(tmp_path / "a.html"), "of": "score", "name": "new", "bytes": (tmp_path / "a.html").stat().st_size,
        "mlflow": None,
    }  # fmt: skip
    assert isinstance(open_run(run), ModelScore)
    (run / "score.json").write_text("{")
    assert refused("report", run)[1] == "score again: pipeline score MODEL DATA --out RUN"
    (run / "score.json").unlink()
    with pytest.raises(Exception, match=r"run\.json: expected a run"):
        Run.open(run)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_a_desk_in_both_lights(dark: bool, place: Path, tmp_path: Path) -> None:
    page = write_report(place / "run", out=tmp_path / "report.html").path
    with browser(width=390, height=844, dark=dark) as opened:
        opened.get(page.as_uri())
        for width in (390, 1440):
            resize(opened, width, 900)
            assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth"), width
        unloaded = (
            "return [...document.querySelectorAll('img')].filter(one => !one.complete || !one.naturalWidth).length"
        )
        opened.execute_script("document.querySelectorAll('img').forEach(one => one.scrollIntoView())")
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(opened, 60).until(lambda _: opened.execute_script(unloaded) == 0, "every picture")
        said = [one["message"] for one in opened.get_log("browser") if one["level"] == "SEVERE"]
        assert said == []
        asked = opened.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        assert all(name.startswith(("data:", "blob:")) for name in asked)
