"""The page of a score: how a model did on labelled photos, and the photos behind the figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.intervals import ScoreInterval
from pipeline.model import ModelScore
from pipeline.progress import SILENT, Progress
from pipeline.provenance import installed
from pipeline.report.pages.album import filled_album, told
from pipeline.report.pages.canvas import Chart
from pipeline.report.pages.frame import flat, framed, sentence
from pipeline.report.pages.leaderboard import SCORINGS
from pipeline.report.pages.part_view import Card, Shot, part_view
from pipeline.report.pages.run import VERSIONS
from pipeline.report.pages.scored import LEARNED, PICTURED, SCORED, Findings, Known, findings_of, shelves_of
from pipeline.report.pages.set_view import calibration_of, map_of
from pipeline.report.pages.suspect_view import suspect_view
from pipeline.report.pages.tables import Column, Table, first_rows, number, span
from pipeline.report.pages.thumbnails import Album

MOST_ROWS = 200  # of a table of photos


def score_page(score: ModelScore, *, photos: Any = None, progress: Progress = SILENT) -> str:
    """Return the page, one self-contained HTML text.

    Parameters
    ----------
    score : ModelScore
        With its predictions.
    photos : path or ImageSource, optional
        Where the scored photos are now; by default where they were.
    progress : Progress
        Hears of what is left out, too.
    """
    found = findings_of(score)
    shelves, gone = shelves_of(score, photos)
    mapped = [found.ground] if found.ground is not None else []
    album, unseen = filled_album(shelves, found.wishes(), mapped, progress)
    notes = [*found.notes, *gone, *unseen]
    for note in notes:
        progress.note(note)
    charts: list[Chart] = []
    head = score.about["model"]["head"]
    part = part_view(
        found.part, album, charts, title="Right and wrong", where=f" of {score.name}", head=head, training=LEARNED
    )
    sure, sure_about = calibration_of(found.calibration, head, charts, where="On the scored photos")
    drawn, map_about = (None, "") if found.ground is None else map_of(found.ground, found.info, charts)
    first, rest = _headline(found)
    noted = [sentence(text) for text in (*notes, *score.notes)]
    return framed(
        "score.jinja",
        charts,
        album.pictures,
        title=f"{_model_name(score)} on {score.name}: how it scored",
        model=_model_name(score),
        score=score,
        said={"first": first, "rest": rest},
        facts=_facts(score),
        places=_places(drawn is not None, sure is not None, bool(noted)),
        scores=_scores(score),
        methods=_methods(score),
        part=part,
        calibration=sure,
        calibration_about=sure_about,
        map=drawn,
        map_about=map_about,
        grounds={ground.number: told(ground, album) for ground in mapped},
        learned_about=_learned_about(found),
        learned=[_card(one, album) for one in found.learned[:PICTURED]],
        learned_table=_table("photos that it learned from", found.learned),
        strange_about=_strange_about(score),
        unfamiliar_about=_unfamiliar_about(found),
        unfamiliar=[_card(one, album) for one in (found.unfamiliar or ())[:PICTURED]],
        unfamiliar_table=_table("unfamiliar photos", found.unfamiliar or ()),
        suspected=suspect_view(found.suspects, album, shelf=SCORED, by=head, where="which had not seen them"),
        notes=noted,
        made=_made(score),
    )


def _model_name(score: ModelScore) -> str:
    return Path(score.about["model"]["path"]).name or "a model"


def _headline(found: Findings) -> tuple[str, str]:
    """Return what to read first, and what goes with it."""
    score = found.score
    said = [_apart(score)] if score.scores_apart else []
    if score.kind != "class":
        main = score.scores[0]
        name = SCORINGS.get(main.scoring, main.scoring)
        numbers = found.part.numbers
        if numbers is not None:
            off, guessing = (
                float(abs(guess - numbers.true).mean()) for guess in (numbers.predicted, numbers.true.mean())
            )
            said = [f"It is off by {off:.3g} on average; always saying their mean, by {guessing:.3g}.", *said]
        elif main.scoring in score.guessing:
            guess = number(_known(score.guessing[main.scoring]))
            said = [f"Always saying how common each tag is here would score {guess}.", *said]
        return f"{sentence(name)[:-1]} {_figure(main)} on {score.n:,} photos.", " ".join(said)
    right = next(one for one in score.scores if one.scoring == "accuracy")
    answers, confused = found.part.answers, found.part.confusion
    assert answers is not None and confused is not None
    times = Counter(answers.true.tolist())
    most = max(times, key=lambda code: times[code])
    rest = [
        f"Always saying {answers.classes[most]}, the commonest here, would be right on {times[most] / score.n:.1%}."
    ]
    worst = confused.commonest_mistakes[:1]
    rest += [f"Most confused: {was} taken for {taken}, {_times(often)}." for was, taken, often in worst]
    first = (
        f"Right on {score.n - len(answers.wrong):,} of {score.n:,} photos, "
        f"{right.value:.1%} ({span(right.low, right.high, '.1%')})."
    )
    return first, " ".join([*rest, *said])


def _times(times: int) -> str:
    return f"{times:,} time{'s' if times != 1 else ''}"


def _apart(score: ModelScore) -> str:
    """Return what is left of the first score without the photos that were learned from."""
    shown = "accuracy" if score.kind == "class" else score.scores[0].scoring
    one = next(one for one in score.scores_apart if one.scoring == shown)
    figure = f"{one.value:.1%} ({span(one.low, one.high, '.1%')})" if score.kind == "class" else _figure(one)
    seen = len(score.seen_in_training)
    return f"Without the {f'{seen:,} photos' if seen > 1 else 'photo'} that it learned from: {figure}."


def _figure(one: ScoreInterval) -> str:
    low, high = _known(one.low), _known(one.high)
    return f"{number(_known(one.value))} ({span(low, high)})" if low is not None else number(_known(one.value))


def _facts(score: ModelScore) -> list[tuple[str, str]]:
    facts = [("photos", f"{score.n:,}")]
    if score.classes:
        facts.append(("tags" if score.kind == "multi" else "classes", f"{len(score.classes):,}"))
    facts += [("learned from", f"{score.about['model'].get('training_images', 0):,}")]
    return [*facts, ("", score.about["model"]["head"]), ("", score.about["model"]["backbone"])]


def _places(mapped: bool, calibrated: bool, noted: bool) -> list[tuple[str, str]]:
    places = [("scores", "Scores"), ("answers", "Mistakes")]
    places += [("calibration", "Calibration")] if calibrated else []
    places += [("map", "The map")] if mapped else []
    return [
        *places,
        ("care", "Handle with care"),
        *([("notes", "Notes")] if noted else []),
        ("made", "How it was made"),
    ]


def _scores(score: ModelScore) -> Table:
    apart = {one.scoring: one for one in score.scores_apart}
    columns = [Column("score"), Column("value", True), Column("95%", True), Column("guessing", True)]
    columns += [Column("not learned from", True), Column("95%", True)] if apart else []
    rows = []
    for one in score.scores:
        guess = number(_known(score.guessing.get(one.scoring, math.nan)))
        row = [SCORINGS.get(one.scoring, one.scoring), *_cells(one), guess]
        row += _cells(apart[one.scoring]) if one.scoring in apart else ["", ""] if apart else []
        rows.append(row)
    return Table("Scores with their intervals", columns, rows)


def _methods(score: ModelScore) -> str:
    """Return how the intervals were made."""
    named: dict[str, list[str]] = {}
    for one in score.scores:
        named.setdefault(one.method, []).append(SCORINGS.get(one.scoring, one.scoring))
    told = "; ".join(f"{_listed(names)}: {method}" for method, names in named.items())
    guess = {"class": "the commonest class", "number": "the mean", "multi": "how common each tag is"}[score.kind]
    return f"Every score is better the higher it is; guessing is always saying {guess} here. Intervals of {told}."


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them: "a, b and c"."""
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _cells(one: ScoreInterval) -> list[str]:
    return [number(_known(one.value)), span(_known(one.low), _known(one.high))]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _learned_about(found: Findings) -> str:
    n, seen = found.score.n, len(found.learned)
    if not seen:
        return f"None of the {n:,} photos is one that the model learned from, by content."
    some = f"{seen:,} of the {n:,} photos {'are ones' if seen > 1 else 'is one'} that the model learned from"
    apart = "the scores without them stand above" if found.score.scores_apart else "no photo is new"
    return f"{some}, by content: what it scores on them flatters; {apart}."


def _strange_about(score: ModelScore) -> str:
    what = "tag" if score.kind == "multi" else "class"
    if score.kind == "number":
        return ""
    if not score.unknown_classes:
        return f"Every {what} here is one that the model learned."
    listed = ", ".join(f"{name} ({times:,})" for name, times in sorted(score.unknown_classes.items()))
    counted = "count as missed" if score.kind == "multi" else "count as wrong"
    return f"{'Tags' if what == 'tag' else 'Classes'} that training never saw {counted}, with their photos: {listed}."


def _unfamiliar_about(found: Findings) -> str:
    score = found.score
    if found.unfamiliar is None:
        why = score.about["training"]["why_not"] or "no training photo has another one that is no copy of it"
        return f"Not known: {why}."
    rule = "further from the nearest training photo than 99% of those lie from one another"
    if not found.unfamiliar:
        return f"None of the {score.n:,} photos lies {rule}."
    count = len(found.unfamiliar)
    wrong = sum(one.true != one.said for one in found.unfamiliar)
    mistaken = f" The model is wrong about {wrong:,} of them." if score.kind == "class" else ""
    return f"{count:,} of the {score.n:,} photos lie{'s' if count == 1 else ''} {rule}.{mistaken}"


def _card(one: Known, album: Album) -> Card:
    near = tuple(
        Shot(album.place(LEARNED, other.id), other.id, other.label, f"cosine {other.cosine:.2f}") for other in one.near
    )
    sure = "" if math.isnan(one.probability) else f"{one.probability:.0%} sure"
    return Card(Shot(album.place(SCORED, one.id), one.id, one.true), one.said, sure, near)


def _table(what: str, known: Sequence[Known]) -> Table:
    columns = (Column("photo"), Column("label"), Column("said"), Column("most like"), Column("cosine", True))
    rows = [
        (
            one.id,
            one.true,
            one.said,
            one.near[0].id if one.near else "",
            f"{one.near[0].cosine:.2f}" if one.near else "",
        )
        for one in known[:MOST_ROWS]
    ]
    return Table(first_rows(what, len(known), MOST_ROWS), columns, rows)


def _made(score: ModelScore) -> list[tuple[str, list[tuple[str, str]]]]:
    about = score.about
    model = {name: value for name, value in about["model"].items() if name not in ("recipe", "versions")}
    question = about["question"]
    data = {
        **about["data"],
        "labels": question["labels"],
        "column": question["column"],
        "groups": question["groups"],
        "classes": list(score.classes),
    }
    groups = [
        ("", [("run", str(score.folder))] if score.folder is not None else []),
        ("The model", flat({**model, "sha256": question["model"]})),
        ("The photos", flat(data)),
        ("The features", flat(about["model"].get("recipe", {}))),
        ("Versions that fitted the model", flat(about["model"].get("versions", {}))),
        ("Versions that scored it", flat({**about["versions"], "random_state": about.get("random_state", "")})),
        ("This page", [(name, installed(name)) for name in VERSIONS]),
    ]
    return [(name, pairs) for name, pairs in groups if pairs]
