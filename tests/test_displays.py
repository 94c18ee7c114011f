"""Pictures for notebooks show what run and study hold: places of marks, counts in cells, points of curves."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_caches import blobs, make_cache, names
from matplotlib.colors import to_hex
from PIL import Image

import pipeline as pl
import pipeline.report
from pipeline.cache import FeatureCache
from pipeline.errors import EvaluationError, ReportError, SkipReason
from pipeline.evaluation import evaluate
from pipeline.images import ImageSource
from pipeline.report.diagnostics.confusion import Confusion, calibration, confusion
from pipeline.report.diagnostics.mistakes import most_confident_mistakes
from pipeline.report.diagnostics.predictions import ClassPredictions, load_class_predictions
from pipeline.report.displays import (
    CalibrationDisplay,
    ConfusionDisplay,
    DepthDisplay,
    EmbeddingMapDisplay,
    LeaderboardDisplay,
    LearningCurveDisplay,
    MistakesDisplay,
)
from pipeline.report.displays._style import BLUE, GREY, VERMILLION, shorten, spread
from pipeline.report.displays.learning_curve import COLOURS
from pipeline.runs import Run
from pipeline.studies import METHODS, Study
from pipeline.studies.results import DUMMY, SCRATCH, TRANSFER, Point

mpl.use("Agg")
SIDE = 128


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, FeatureCache, ImageSource]:
    """A run over classes and numbers with a test set, its cache, and photos each of a grey of its own."""
    folder = tmp_path_factory.mktemp("made")
    X, y = blobs(90, d=12, apart=1.6)
    columns = {"kind": names(y), "size": [f"{value:.3f}" for value in X[:, 0]]}
    cache = make_cache(folder / "a.h5", X, columns, failed={89: SkipReason.EMPTY}, name="a")
    T, t = blobs(24, d=12, apart=1.6, seed=5)
    test = make_cache(
        folder / "t.h5", T, {"kind": names(t), "size": ["1"] * 24}, ids=[f"t{row}.jpg" for row in range(24)], name="t"
    )
    (folder / "photos").mkdir()
    for row in range(88):  # the 89th is gone
        Image.new("L", (20, 30), 2 * row + 20).save(folder / "photos" / f"{row:05d}.jpg", quality=100)
    run = evaluate(
        cache,
        column=["kind", "size"],
        test=test,
        heads=["logistic", "ridge", "knn"],
        grid={"logistic.C": 1.0, "ridge.alpha": 1.0, "knn.n_neighbors": 5},
        cv=4,
        n_jobs=1,
        out=folder / "run",
    )
    return run, cache, ImageSource.open(folder / "photos")


def point(method: str, per_class: float, score: float, layer: str = "", **more: Any) -> Point:
    said = {"low": score - 0.1, "high": score + 0.05, "train": 1.0, "seconds": 1.0, "extraction_seconds": 0.0}
    return Point(method, layer, per_class, int(4 * per_class), False, 3, score, **{**said, **more})


def study(points: list[Point]) -> Study:
    return Study(
        name="made", label_set="kind", classes=("ant", "bee", "cat", "dog"), train=400, test=60, groups=None,
        backbone="planted:none", layer="penultimate", head="ridge", scoring="balanced_accuracy", points=tuple(points),
        crossovers=(), verdicts=(), summary="", about_depth="", interval="", budget={},
    )  # fmt: skip


SIZES = (1, 2, 5, 10, 20, 100)
CURVES = {method: [0.15 + 0.1 * line + 0.02 * place for place in range(6)] for line, method in enumerate(METHODS)}


@pytest.fixture
def curves() -> Study:
    layers = {method: "penultimate" if method in METHODS[:2] else "" for method in METHODS}
    points = [
        point(method, size, score, layers[method])
        for method, scores in CURVES.items()
        for size, score in zip(SIZES, scores, strict=True)
    ]
    return study([*points, *(point(TRANSFER, 5, 0.5 - 0.1 * n, layer) for n, layer in enumerate(("late", "early")))])


def extents(ax: Any, artists: list[Any]) -> list[Any]:
    renderer = ax.figure.canvas.get_renderer()
    return [artist.get_window_extent(renderer) for artist in artists]


def texts(ax: Any) -> dict[str, Any]:
    return {text.get_text(): text for text in ax.texts}


# --- leaderboard


def test_the_leaderboard_draws_each_score_at_its_place_with_its_interval(made: Any) -> None:
    run = made[0]
    display = LeaderboardDisplay.from_run(run, "kind")
    ax = display.plot()
    assert display.ax_ is ax and display.figure_ is ax.figure
    rows = sorted(run.of("kind"), key=lambda one: one.null)
    marks = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    spans = [line for line in ax.lines if line.get_linewidth() == 5]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [one.mean for one in rows]
    assert [tuple(span.get_xdata()) for span in spans] == [(one.low, one.high) for one in rows]
    for mark, span, result in zip(marks, spans, rows, strict=True):
        assert mark.get_ydata()[0] == span.get_ydata()[0]
        assert (to_hex(mark.get_color()) == GREY) == result.null
    places = [float(mark.get_ydata()[0]) for mark in marks]
    gaps = np.diff(places)
    first_null = next(place for place, one in enumerate(rows) if one.null)
    assert gaps[first_null - 1] > 1 and set(np.delete(gaps, first_null - 1).round(6)) == {1.0}
    named = [label.get_text() for label in ax.get_yticklabels()]
    assert named[-2:] == ["logistic, color statistics", "dummy"] and named[0] == run.best("kind").head
    assert "best of 3 (nested selection)" in named


def test_a_head_is_marked_as_tied_where_the_run_says_so_and_only_there(made: Any) -> None:
    run = made[0]
    rows = run.of("kind")
    best = run.best("kind")
    said = [replace(one, tied={"logistic": True, "ridge": False, "knn": True}.get(one.head)) for one in rows]
    ax = LeaderboardDisplay(run.info("kind"), tuple(said)).plot()
    marks = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    said.sort(key=lambda one: one.null)
    for result, mark, text in zip(said, marks, ax.texts, strict=True):
        wanted = bool(result.tied) and (result.head, result.null) != (best.head, False)
        assert (mark.get_markerfacecolor() == "white") == wanted
        assert text.get_text() == f"{result.mean:.3f}{'  tied' if wanted else ''}"
    assert sum(bool(one.tied) for one in said) >= 2


def test_scores_on_the_test_set_and_by_another_scoring_are_those_of_the_run(made: Any) -> None:
    run = made[0]
    ax = LeaderboardDisplay.from_run(run, "kind", part="test", scoring="accuracy").plot()
    rows = sorted(run.of("kind", scoring="accuracy"), key=lambda one: one.null)
    wanted = [one.test for one in rows if one.test is not None]
    assert [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() in ("o", "s")] == wanted
    assert ax.get_xlabel() == "accuracy on the test set, with 95% interval"
    assert ax.get_title(loc="left") == "kind: 24 images"


def test_layers_and_backbones_are_named_where_they_differ(made: Any) -> None:
    run = made[0]
    best = run.best("kind")
    more = (best, replace(best, layer="late"), replace(best, cache="b.h5", backbone="other:none"))
    display = LeaderboardDisplay(run.info("kind"), more)
    assert [display.name(one) for one in more] == [
        f"{best.head} / {best.backbone} / penultimate",
        f"{best.head} / {best.backbone} / late",
        f"{best.head} / other:none / penultimate",
    ]


def test_a_score_that_is_not_there_is_said_to_be_none(made: Any) -> None:
    run = made[0]
    rows = tuple(replace(one, mean=None, low=None, high=None) if one.head == "knn" else one for one in run.of("kind"))
    assert "no score" in texts(LeaderboardDisplay(run.info("kind"), rows).plot())


# --- confusion


def test_the_cells_hold_the_counts_and_mistakes_have_another_colour(made: Any) -> None:
    run = made[0]
    found = load_class_predictions(run, run.info("kind"))
    wanted = confusion(found).counts
    ax = ConfusionDisplay.from_run(run, "kind").plot()
    drawn = np.zeros_like(wanted)
    for text in ax.texts:
        column, row = text.get_position()
        drawn[row, column] = int(text.get_text())
    assert np.array_equal(drawn, wanted) and wanted.sum() == 89
    red, _, blue = np.moveaxis(np.asarray(ax.images[0].get_array()), -1, 0)
    right = np.eye(len(wanted), dtype=bool)
    assert (blue > red)[right].all() and (red > blue)[~right & (wanted > 0)].all()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ant", "bee", "cat"]
    assert ax.get_title(loc="left") == f"kind\n{np.trace(wanted)} of 89 correct"
    assert ax.get_xlabel() == f"predicted by {found.head}, out of fold"


def test_the_confusion_of_the_test_set_is_of_the_test_set(made: Any) -> None:
    run = made[0]
    display = ConfusionDisplay.from_run(run, "kind", part="test")
    assert display.confusion.counts.sum() == 24
    assert display.plot().get_xlabel() == f"predicted by {display.predictions.head}, on the test set"


def many(k: int, n: int) -> ClassPredictions:
    rng = np.random.default_rng(0)
    true = np.arange(n) % k
    said = np.where(rng.random(n) < 0.8, true, rng.integers(0, k, n))
    words = tuple(f"a rather long name of a class, number {code:02d}" for code in range(k))
    nothing = np.full(n, np.nan)
    return ClassPredictions(
        tuple(map(str, range(n))), np.array(["0"] * n), true, said, nothing, nothing, words, "logistic",
        "penultimate", "a.h5", "a label set with a long name too", "made",
    )  # fmt: skip


@pytest.mark.parametrize("k", [2, 20, 45])
def test_many_classes_with_long_names_overlap_nowhere(k: int) -> None:
    found = many(k, 4000 * k)
    ax = ConfusionDisplay(found, confusion(found)).plot()
    ax.figure.canvas.draw()
    labels = ax.get_yticklabels()
    assert len({label.get_text() for label in labels}) == k, "shortened names are still told apart"
    boxes = extents(ax, labels)
    assert all(not one.overlaps(other) for one, other in itertools.pairwise(boxes))
    whole = ax.figure.bbox
    for box in [*boxes, *extents(ax, [*ax.get_xticklabels(), ax.xaxis.label, ax.yaxis.label, ax._left_title])]:
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
    cell = ax.transData.transform((1, 0))[0] - ax.transData.transform((0, 0))[0]
    assert all(box.width < cell for box in extents(ax, ax.texts))
    assert bool(ax.texts) == (k <= 40)


# --- calibration


def test_the_calibration_curve_is_that_of_the_head_with_probabilities(made: Any) -> None:
    run = made[0]
    result = next(one for one in run.of("kind") if one.head == "logistic")
    display = CalibrationDisplay.from_run(run, "kind", bins=5)
    if display.predictions.head != "logistic":  # knn gives shares of its neighbours
        result = next(one for one in run.of("kind") if one.head == display.predictions.head)
    wanted = calibration(load_class_predictions(run, run.info("kind"), result=result), bins=5)
    ax = display.plot()
    curve = next(line for line in ax.lines if line.get_marker() == "o")
    assert list(curve.get_xdata()) == [one.probability for one in wanted.bins]
    assert list(curve.get_ydata()) == [one.accuracy for one in wanted.bins]
    spans = [segment[:, 1].tolist() for segment in ax.collections[0].get_segments()]
    assert spans == [[one.accuracy_low, one.accuracy_high] for one in wanted.bins]
    assert f"calibration error {wanted.error:.3f}" in ax.get_xlabel()
    assert f"{abs(wanted.lead):.3f} too {'high' if wanted.lead > 0 else 'low'}" in ax.get_xlabel()


def test_a_run_without_probabilities_is_told_which_head_gives_some(made: Any) -> None:
    run = made[0]
    alone = replace(
        run,
        results=tuple(one for one in run.results if one.null or one.head == "ridge"),
    )
    with pytest.raises(
        ReportError, match=r"kind: expected a head that gives probabilities, got only others, e.g. ridge[\s\S]*logistic"
    ):
        CalibrationDisplay.from_run(alone, "kind")


# --- studies


def test_each_method_is_a_line_of_its_points_with_a_band_of_its_intervals(curves: Study) -> None:
    ax = LearningCurveDisplay.from_study(curves).plot()
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) == set(METHODS)
    for method, scores in CURVES.items():
        assert list(lines[method].get_xdata()) == list(SIZES) and list(lines[method].get_ydata()) == scores
        assert to_hex(lines[method].get_color()) == COLOURS[method]
    bands = dict(zip(reversed(METHODS), ax.collections, strict=True))
    for method, scores in CURVES.items():
        corners = bands[method].get_paths()[0].vertices
        for size, score in zip(SIZES, scores, strict=True):
            heights = corners[np.isclose(corners[:, 0], size), 1]
            assert heights.min() == pytest.approx(score - 0.1) and heights.max() == pytest.approx(score + 0.05)
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["100", "20", "10", "5", "2", "1"]
    assert ax.get_ylabel() == "balanced accuracy on 60 new images"


def test_names_at_the_ends_of_curves_that_meet_are_pushed_apart() -> None:
    meeting = [point(method, size, 0.98, "") for method in METHODS for size in (1, 10)]
    ax = LearningCurveDisplay.from_study(study(meeting)).plot()
    ax.figure.canvas.draw()
    boxes = extents(ax, ax.texts)
    assert [text.get_text() for text in ax.texts] == list(METHODS)
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert all(box.x1 <= ax.figure.bbox.x1 and box.y1 <= ax.figure.bbox.y1 for box in boxes)


def test_numbers_of_labels_that_would_touch_share_a_tick() -> None:
    sizes = (1, 95, 100)
    close = [point(method, size, 0.5, "") for method in (TRANSFER, DUMMY) for size in sizes]
    ax = LearningCurveDisplay.from_study(study(close)).plot()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["100", "1"]
    assert list(ax.lines[0].get_xdata()) == list(sizes)


def test_the_depth_display_has_the_layers_from_early_to_late(curves: Study) -> None:
    ax = DepthDisplay.from_study(curves).plot()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["early", "late", "penultimate"]
    (drawn,) = ax.containers
    assert drawn.lines[0].get_ydata().tolist() == pytest.approx([0.4, 0.5, CURVES[TRANSFER][2]])
    assert drawn.get_label() == "5"
    assert [segment[:, 1].tolist() for segment in drawn.lines[2][0].get_segments()] == pytest.approx(
        np.array([[score - 0.1, score + 0.05] for score in (0.4, 0.5, CURVES[TRANSFER][2])])
    )


def test_a_study_of_one_layer_has_no_depth_to_show() -> None:
    with pytest.raises(ReportError, match="expected a study of several layers, got penultimate alone"):
        DepthDisplay.from_study(study([point(TRANSFER, 1, 0.5, "penultimate"), point(SCRATCH, 1, 0.4)]))


def test_places_are_spread_in_order_and_within_their_limits() -> None:
    found = spread([0.98, 0.5, 0.99, 0.51, 1.0], 0.1, 0.0, 1.0)
    assert np.argsort(found).tolist() == np.argsort([0.98, 0.5, 0.99, 0.51, 1.0]).tolist()
    assert min(np.diff(sorted(found))) >= 0.1 - 1e-9 and max(found) <= 1.0 + 1e-9
    assert spread([0.2, 0.8], 0.1, 0.0, 1.0) == [0.2, 0.8], "what has room stays where it is"


# --- the map


def points_of(ax: Any) -> dict[str, np.ndarray]:
    return {one.get_label(): np.asarray(one.get_offsets()) for one in ax.collections}


def test_the_map_has_a_point_an_image_coloured_by_its_class(made: Any) -> None:
    run, cache, _ = made
    display = EmbeddingMapDisplay.from_run(run, "kind")
    kinds = dict(zip(cache.ids, cache.columns["kind"], strict=True))
    ax = display.plot()
    found = points_of(ax)
    assert list(found) == ["ant", "bee", "cat"] and sum(map(len, found.values())) == 89
    for place, name in enumerate(display.map.ids):
        here = np.array([display.map.x[place], display.map.y[place]])
        assert (found[kinds[name]] == here).all(axis=1).any()
    hues = [to_hex(one.get_facecolor()[0]) for one in ax.collections]
    assert len(set(hues)) == 3 and hues[:2] == [BLUE, VERMILLION]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ant", "bee", "cat"]
    assert ax.get_xlabel() == f"first principal component, {100 * display.map.explained[0]:.0f}% of the variance"


def test_a_map_of_a_cache_takes_a_column_an_array_or_nothing(made: Any) -> None:
    _, cache, _ = made
    by_name = EmbeddingMapDisplay.from_cache(cache, "kind")
    by_array = EmbeddingMapDisplay.from_cache(cache, cache.labels("kind"))
    assert by_name.map.labels.tolist() == by_array.map.labels.tolist() == cache.labels("kind").tolist()
    numbers = EmbeddingMapDisplay.from_cache(cache, np.arange(89.0))
    (scattered,) = numbers.plot().collections
    assert scattered.get_array().tolist() == list(range(89)) and numbers.classes == ()
    plain = EmbeddingMapDisplay.from_cache(cache).plot()
    assert sum(map(len, points_of(plain).values())) == 89 and plain.get_legend() is None
    some = np.array([None if row % 2 else "odd one" for row in range(89)], dtype=object)
    found = points_of(EmbeddingMapDisplay.from_cache(cache, some).plot())
    assert {name: len(places) for name, places in found.items()} == {"no label": 44, "odd one": 45}
    with pytest.raises(ReportError, match=r"expected a label for each of 89 images, got \(5,\)"):
        EmbeddingMapDisplay.from_cache(cache, ["a"] * 5)


def test_the_twenty_commonest_classes_have_a_look_of_their_own_and_the_rest_is_grey(made: Any) -> None:
    _, cache, _ = made
    labels = np.array([f"c{min(row % 30, row % 23):02d}" for row in range(89)])
    display = EmbeddingMapDisplay.from_cache(cache, labels)
    assert len(display.classes) == 20 == len({display.hue(name) for name in display.classes})
    ax = display.plot()
    others = len(set(labels)) - 20
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == [*display.classes, f"the others ({others} classes)"]
    rest = points_of(ax)[named[-1]]
    assert len(rest) == sum(label not in display.classes for label in labels)


def test_pictures_stand_at_their_points_and_cover_one_another_nowhere(made: Any) -> None:
    _, cache, photos = made
    display = EmbeddingMapDisplay.from_cache(cache, "kind", pictures=12, photos=photos, side=0.08)
    ax = display.plot()
    assert 5 < len(display.pictures) <= 12 and len(ax.images) == len(display.pictures)
    boxes = []
    for image, place in zip(ax.images, display.pictures, strict=True):
        left, right, bottom, top = image.get_extent()
        assert ((left + right) / 2, (bottom + top) / 2) == pytest.approx((display.map.x[place], display.map.y[place]))
        boxes.append((left, right, bottom, top))
        row = int(display.map.ids[place].partition(".")[0])
        assert np.asarray(image.get_array()).mean() == pytest.approx(2 * row + 20, abs=2), "each point its own photo"
    for place, (left, right, bottom, top) in enumerate(boxes):
        for other in boxes[:place]:
            assert right < other[0] or other[1] < left or top < other[2] or other[3] < bottom
    x0, x1 = ax.get_xlim()
    assert all(x0 <= left and right <= x1 for left, right, _, _ in boxes)


def test_photos_that_are_gone_are_an_error_that_says_where_they_were(made: Any) -> None:
    run, cache, _ = made
    with pytest.raises(ReportError, match=r"no photos are shown: [\s\S]*/made/a[\s\S]*photos=DIR"):
        EmbeddingMapDisplay.from_cache(cache, "kind", pictures=3)
    with pytest.raises(ReportError, match=r"no photos are shown: [\s\S]*/made/a[\s\S]*photos=DIR"):
        MistakesDisplay.from_run(run, "kind")


# --- mistakes


def test_mistakes_are_shown_beside_the_photos_most_like_them(made: Any) -> None:
    run, cache, photos = made
    from pipeline.report.diagnostics.predictions import StoredFeatures

    answers = load_class_predictions(run, run.info("kind"))
    wanted = most_confident_mistakes(answers, StoredFeatures.of(cache), most=4, neighbours=2)
    display = MistakesDisplay.from_run(run, "kind", photos=photos, most=4, neighbours=2)
    axes = display.plot()
    assert axes.shape == (4, 3) and display.mistakes == wanted and display.ax_ is axes
    for line, mistake in zip(axes, wanted, strict=True):
        title = line[0].get_title(loc="left")
        assert title.startswith(mistake.predicted) and title.endswith(f"?\nis {mistake.true}")
        if np.isfinite(mistake.probability):
            assert f"{100 * mistake.probability:.0f}%" in title
        for ax, name in zip(line, (mistake.id, *(near.id for near in mistake.neighbours)), strict=True):
            row = int(name.partition(".")[0])
            if row < 88:
                assert np.asarray(ax.images[0].get_array()).shape == (SIDE, SIDE, 3)
                assert np.asarray(ax.images[0].get_array()).mean() == pytest.approx(2 * row + 20, abs=2)
            else:
                assert [text.get_text() for text in ax.texts] == ["no photo"]
        for ax, near in zip(line[1:], mistake.neighbours, strict=True):
            assert ax.get_title(loc="left") == f"{near.label}\ncosine {near.cosine:.2f}"
            frame = to_hex(ax.spines["left"].get_edgecolor())
            assert frame == {mistake.predicted: VERMILLION, mistake.true: BLUE}.get(near.label, GREY)


def test_mistakes_with_long_names_do_not_run_into_one_another(made: Any) -> None:
    run, _, photos = made
    display = MistakesDisplay.from_run(run, "kind", photos=photos, most=4)
    word = "a rather long name of a class, number "
    far = tuple(
        replace(
            one,
            true=word + one.true,
            predicted=word + one.predicted,
            neighbours=tuple(replace(near, label=word + near.label) for near in one.neighbours),
        )
        for one in display.mistakes
    )
    axes = MistakesDisplay(display.predictions, far, display.pixels).plot()
    figure = axes[0, 0].figure
    figure.canvas.draw()
    boxes = [ax._left_title.get_window_extent(figure.canvas.get_renderer()) for ax in axes.flat]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])


def test_axes_of_another_shape_are_refused_and_ones_own_are_used(made: Any) -> None:
    run, _, photos = made
    display = MistakesDisplay.from_run(run, "kind", photos=photos, most=2, neighbours=1)
    with pytest.raises(ReportError, match=r"expected axes of shape \(2, 2\), one row per mistake, got \(3,\)"):
        display.plot(plt.subplots(1, 3)[1])
    mine = plt.subplots(2, 2)[1]
    assert display.plot(mine) is mine or (display.ax_ == mine).all()
    assert display.figure_ is mine[0, 0].figure


def test_a_head_without_a_mistake_says_so(made: Any) -> None:
    run, _, photos = made
    right = run.predictions.copy()
    there = right["label_set"] == "kind"
    right.loc[there, "predicted"] = right.loc[there, "true"]
    display = MistakesDisplay.from_run(replace(run, predictions=right), "kind", photos=photos)
    assert display.plot().shape[0] == 0
    assert display.figure_.texts[0].get_text() == "no mistake among 89 images"


# --- what all have in common


def test_every_display_draws_on_the_axis_that_it_is_given_and_returns_it(made: Any, curves: Study) -> None:
    run, cache, _ = made
    displays = [
        LeaderboardDisplay.from_run(run, "kind"),
        ConfusionDisplay.from_run(run, "kind"),
        CalibrationDisplay.from_run(run, "kind"),
        EmbeddingMapDisplay.from_cache(cache, "kind"),
        LearningCurveDisplay.from_study(curves),
        DepthDisplay.from_study(curves),
    ]
    axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")[1]
    for display, ax in zip(displays, axes.flat, strict=True):
        assert display.plot(ax) is ax and display.ax_ is ax and display.figure_ is ax.figure
    assert len(plt.get_fignums()) == 1, "no figure was made beside it"


@pytest.mark.parametrize("display", [ConfusionDisplay, CalibrationDisplay, MistakesDisplay])
def test_a_label_set_of_numbers_has_no_such_picture(display: Any, made: Any) -> None:
    with pytest.raises(ReportError, match="size: expected a label set of classes, got numbers\ntry: label_set='kind'"):
        display.from_run(made[0], "size")


def test_what_is_not_there_is_refused_in_two_lines(made: Any) -> None:
    run = made[0]
    with pytest.raises(EvaluationError, match="expected one label set, got kind, size"):
        LeaderboardDisplay.from_run(run)
    with pytest.raises(ReportError, match="kind: expected scores by 'f1', got accuracy, balanced_accuracy, "):
        LeaderboardDisplay.from_run(run, "kind", scoring="f1")
    with pytest.raises(ReportError, match="expected part 'folds' or 'test', got 'train'"):
        ConfusionDisplay.from_run(run, "kind", part="train")
    without = replace(run, label_sets=tuple(replace(one, test=None) for one in run.label_sets))
    with pytest.raises(ReportError, match="kind: expected predictions of a test set, got a run without one"):
        ConfusionDisplay.from_run(without, "kind", part="test")


def test_without_matplotlib_the_error_has_the_command_that_brings_it(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(pipeline.report, "import_module", missing)
    with pytest.raises(ReportError) as refused:
        LeaderboardDisplay.from_run(made[0], "kind").plot()
    assert str(refused.value) == (
        "the report: expected matplotlib, but it is not installed\ntry: pip install 'transfer-pipeline'"
    )


def test_a_display_by_its_name_loads_no_matplotlib_before_it_draws() -> None:
    assert pl.LeaderboardDisplay is LeaderboardDisplay and "MistakesDisplay" in pl.__all__
    code = "import sys, pipeline as pl; pl.ConfusionDisplay; pl.DepthDisplay; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_long_name_keeps_its_end() -> None:
    assert shorten("short") == "short"
    assert shorten("species_of_the_wing_number_17", 20).endswith("r_17") and len(shorten("x" * 99, 20)) == 20


def test_no_confusion_is_drawn_of_nothing_but_shades_without_counts() -> None:
    counts = np.zeros((3, 3), np.int64)
    counts[0, 0] = 5
    shown = ConfusionDisplay(many(3, 5), Confusion(("a", "b", "c"), counts)).plot()
    assert [text.get_text() for text in shown.texts] == ["5"]
