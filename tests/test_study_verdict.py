"""What follows from a table of points: crossovers and verdicts on curves made by hand, and intervals that cover."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from pipeline.intervals import score_with_interval
from pipeline.search import Predictions
from pipeline.studies.analysis import (
    Estimate,
    TestSet,
    crossovers_of,
    depth_text,
    labels_needed,
    labels_text,
    match_of,
    mean_lead,
    mean_score,
    summary_of,
    verdicts_of,
)
from pipeline.studies.results import (
    DUMMY,
    GENERALISATION,
    LABELS,
    NOT_HERE,
    NOT_SHOWN,
    PERFORMANCE,
    PROMISES,
    RANDOM,
    RAW,
    SCRATCH,
    TIME,
    TRANSFER,
    YES,
    Point,
    Verdict,
)

LAYER = "penultimate"
SIZES = (1, 10, 100)


def curve(method: str, scores: Sequence[float], sizes: Sequence[float] = SIZES, **more: object) -> list[Point]:
    """Points of two classes; the lead over a rival is 0.1 with limits of 0.05 and 0.15 unless listed_scores."""
    said = {"train": 1.0, "seconds": 1.0, "extraction_seconds": 0.0, "low": 0.0, "high": 1.0}
    if method != TRANSFER:
        said |= dict(zip(("lead", "lead_low", "lead_high"), (0.1, 0.05, 0.15), strict=True))
        said |= dict(zip(("gap_lead", "gap_lead_low", "gap_lead_high"), (0.1, 0.05, 0.15), strict=True))
    layer = LAYER if method in (TRANSFER, RANDOM) else ""
    return [
        Point(method, layer, size, int(2 * size), size == sizes[-1], 3, score, **{**said, **more})  # type: ignore[arg-type]
        for size, score in zip(sizes, scores, strict=True)
    ]


def verdicts(points: Sequence[Point]) -> dict[str, Verdict]:
    found = verdicts_of(points, LAYER)
    assert [one.promise for one in found] == list(PROMISES)
    return {one.promise: one for one in found}


# --- crossovers


def test_what_a_rival_needs_is_read_off_its_curve_in_the_logarithm_of_the_labels() -> None:
    rival = curve(SCRATCH, (0.5, 0.7, 0.9))
    assert labels_needed(rival, 0.8) == (pytest.approx(10**1.5), False)
    assert labels_needed(rival, 0.55) == (pytest.approx(10**0.25), False)
    assert labels_needed(rival, 0.7) == (pytest.approx(10), False)
    assert labels_needed(rival, 0.4) == (1, True)
    assert labels_needed(rival, 0.91) == (None, False)


def test_what_a_rival_needs_is_where_a_curve_with_a_dip_first_reaches_it() -> None:
    assert labels_needed(curve(SCRATCH, (0.5, 0.8, 0.6)), 0.65) == (pytest.approx(10**0.5), False)


def test_curves_meet_where_the_rival_is_behind_no_longer() -> None:
    mine = curve(TRANSFER, (0.6, 0.8, 0.85))
    assert match_of(mine, curve(SCRATCH, (0.5, 0.7, 0.9))) == pytest.approx(10 ** (1 + 2 / 3))
    assert match_of(mine, curve(SCRATCH, (0.5, 0.7, 0.84))) is None
    assert match_of(mine, curve(SCRATCH, (0.6, 0.9, 0.9))) == 1
    # Level once and behind again: what counts is from where on it stays level.
    assert match_of(mine, curve(SCRATCH, (0.7, 0.7, 0.85))) == pytest.approx(100)


def test_a_crossover_says_it_in_a_sentence() -> None:
    mine = curve(TRANSFER, (0.6, 0.8, 0.9), (1, 5, 100))
    (scratch, raw) = crossovers_of(
        [*mine, *curve(RAW, (0.4, 0.5, 0.6)), *curve(SCRATCH, (0.5, 0.7, 0.9)), *curve(DUMMY, (0.5,) * 3)], LAYER
    )
    assert scratch.rival == SCRATCH
    assert scratch.matches[1].needed == pytest.approx(10**1.5)
    assert scratch.text == (
        "from scratch needs about 32 labels per class to match 5 with transfer (0.800); with as many labels as "
        "transfer it has caught up from about 100 per class on"
    )
    assert raw.rival == RAW and raw.meets is None
    assert raw.text == (
        "raw pixels matches 5 with transfer (0.800) at no number of labels here, up to 100 per class; with as many "
        "labels as transfer it never catches up here"
    )


@pytest.mark.parametrize(("number", "text"), [(1, "1"), (4.6, "4.6"), (31.6, "32"), (122.5, "120"), (1446, "1,400")])
def test_labels_are_told_with_two_digits(number: float, text: str) -> None:
    assert labels_text(number) == text


# --- verdicts

AHEAD = {"lead": 0.1, "lead_low": 0.05, "lead_high": 0.15}
UNSURE = {"lead": 0.02, "lead_low": -0.03, "lead_high": 0.07}
UNSURE_BEHIND = {"lead": -0.02, "lead_low": -0.07, "lead_high": 0.03}
BEHIND = {"lead": -0.1, "lead_low": -0.15, "lead_high": -0.05}


@pytest.mark.parametrize(
    ("lead", "answer"), [(AHEAD, YES), (UNSURE, NOT_SHOWN), (UNSURE_BEHIND, NOT_SHOWN), (BEHIND, NOT_HERE)]
)
def test_the_answer_is_that_of_the_rival_that_is_nearest(lead: dict[str, float], answer: str) -> None:
    points = [*curve(TRANSFER, (0.7, 0.8, 0.9)), *curve(SCRATCH, (0.5, 0.6, 0.8)), *curve(RAW, (0.6, 0.7, 0.8), **lead)]
    found = verdicts(points)
    assert found[PERFORMANCE].answer == found[LABELS].answer == answer
    assert RAW in found[PERFORMANCE].text or lead is AHEAD
    assert found[PERFORMANCE].figures == {TRANSFER: 0.9, SCRATCH: 0.8, RAW: 0.8}
    said = summary_of(points, LAYER)
    assert said.startswith(
        {
            YES: "transfer was worth it here, for fewer labels and better performance: ",
            NOT_SHOWN: "transfer was not shown to be worth it here: ",
            NOT_HERE: "transfer was not worth it here: ",
        }[answer]
    )


def test_a_rival_shown_ahead_decides_before_one_that_may_be_further_ahead() -> None:
    wide = {"lead": -0.2, "lead_low": -0.5, "lead_high": 0.1}
    mine, raw = curve(TRANSFER, (0.7, 0.8, 0.9)), curve(RAW, (0.8, 0.9, 1.0), **wide)
    found = verdicts([*mine, *raw, *curve(SCRATCH, (0.8, 0.9, 1.0), **BEHIND)])[PERFORMANCE]
    assert found.answer == NOT_HERE
    assert found.text == (
        "with all 200 labels transfer scores 0.900, from scratch 1.000 (lead -0.100, -0.150 to -0.050)"
    )
    found = verdicts([*mine, *raw, *curve(SCRATCH, (0.6, 0.7, 0.8), **AHEAD)])[LABELS]
    assert found.answer == NOT_SHOWN
    assert found.text == (
        "with 10 labels per class transfer scores 0.800, raw pixels 0.900 (lead -0.200, -0.500 to +0.100); raw pixels "
        "needs at most 1 for as much"
    )


def test_the_dummy_is_no_rival() -> None:
    points = [*curve(TRANSFER, (0.7, 0.8, 0.9)), *curve(SCRATCH, (0.5, 0.6, 0.8)), *curve(DUMMY, (0.5,) * 3, **BEHIND)]
    assert [one.answer for one in verdicts_of(points, LAYER)][1:] == [YES, YES, YES]


def test_time_is_held_against_what_scores_as_high_and_counts_the_way_through_the_network() -> None:
    mine = curve(TRANSFER, (0.7, 0.8, 0.9), seconds=2.0, extraction_seconds=4.0)
    quick, slow = {"seconds": 5.0}, {"seconds": 60.0}
    found = verdicts([*mine, *curve(SCRATCH, (0.5, 0.6, 0.8), **slow), *curve(RAW, (0.5, 0.6, 0.8), **quick)])
    assert found[TIME].answer == YES  # the raw pixels are quicker and worse
    assert found[TIME].figures == {"transfer": 6.0, "of which extraction": 4.0, SCRATCH: 60.0}
    found = verdicts([*mine, *curve(SCRATCH, (0.5, 0.6, 0.8), **slow), *curve(RAW, (0.5, 0.6, 0.9), **quick, **UNSURE)])
    assert found[TIME].answer == NOT_SHOWN
    assert found[TIME].text == (
        "with all 200 labels transfer takes 2 s to train and 4 s once through the network; from scratch 60 s, raw "
        "pixels 5 s; raw pixels, the quickest, is not shown to score less"
    )
    alike = curve(RANDOM, (0.5, 0.6, 0.9), seconds=4.0, **UNSURE)
    found = verdicts(
        [*mine, *curve(SCRATCH, (0.5, 0.6, 0.8), **slow), *alike, *curve(RAW, (0.5, 0.6, 1.0), **quick, **BEHIND)]
    )
    assert found[TIME].answer == NOT_HERE  # what scores more is quicker, if not the quickest
    assert found[TIME].text.endswith("; raw pixels is quicker, and scores more")
    found = verdicts([*mine, *curve(SCRATCH, (0.5, 0.6, 0.8), **slow, cut_short=2)])
    assert found[TIME].text.endswith("; from scratch 60 s (2 of 3 shortened for the budget)")
    found = verdicts([*mine, *curve(SCRATCH, (0.5, 0.6, 0.8), **quick)])
    assert found[TIME].answer == NOT_HERE
    found = verdicts([*mine, *curve(SCRATCH, (0.5, 0.6, 0.8), **quick, cut_short=1)])
    assert found[TIME].answer == NOT_SHOWN  # it was quick because it had to be
    found = verdicts([*mine, *curve(SCRATCH, (0.5, 0.6, 0.8), seconds=8.0)])
    assert found[TIME].answer == NOT_SHOWN  # clocks of two runs differ by as much


@pytest.mark.parametrize(
    ("low", "gap", "high", "answer"),
    [
        (0.05, 0.1, 0.15, YES),
        (-0.05, 0.1, 0.25, NOT_SHOWN),
        (-0.3, -0.1, 0.1, NOT_SHOWN),
        (-0.2, -0.1, -0.01, NOT_HERE),
    ],
)
def test_generalisation_is_held_against_training_from_scratch(low: float, gap: float, high: float, answer: str) -> None:
    more = {"gap_lead": gap, "gap_lead_low": low, "gap_lead_high": high}
    points = [
        *curve(TRANSFER, (0.7, 0.8, 0.9)),
        *curve(SCRATCH, (0.5, 0.6, 0.8), **more),
        *curve(RAW, (0.5, 0.6, 0.8), gap_lead=-1.0),
    ]
    found = verdicts(points)[GENERALISATION]
    assert found.answer == answer
    assert found.figures == {TRANSFER: pytest.approx(0.1), SCRATCH: pytest.approx(0.2)}
    level = verdicts([*curve(TRANSFER, (0.7, 0.8, 0.9), train=0.89999), *curve(SCRATCH, (0.5, 0.6, 0.8), **more)])
    assert "transfer loses 0.000 from known to new images" in level[GENERALISATION].text


def test_what_has_learned_little_is_no_measure_of_generalisation() -> None:
    more = {"train": 0.4, "gap_lead": -0.1, "gap_lead_low": -0.2, "gap_lead_high": 0.0}
    points = [*curve(TRANSFER, (0.7, 0.8, 0.9)), *curve(SCRATCH, (0.3, 0.3, 0.4), **more)]
    found = verdicts(points)[GENERALISATION]
    assert found.answer == NOT_SHOWN
    assert found.text.endswith(
        "fits its training images no better than transfer predicts new ones: its gap says little"
    )


def test_depth_names_every_layer_in_the_order_of_the_network() -> None:
    points = [
        Point(TRANSFER, layer, 10, 20, True, 1, score, 0, 1, 1, 1, 0)
        for layer, score in {"late": 0.966, "early": 0.55, "penultimate": 0.938, "middle": 0.95}.items()
    ]
    assert depth_text(points).startswith(
        "by depth, with 10 labels per class: early 0.550, middle 0.950, late 0.966, penultimate 0.938; the best is late"
    )
    assert depth_text(points[:1]) == ""


# --- intervals

Y = np.repeat([0, 1], 40)
EXAM = TestSet(Y, 2, None)


def test_one_draw_has_the_interval_of_a_single_score() -> None:
    said = np.where(np.arange(80) % 5, Y, 1 - Y)
    single = score_with_interval("balanced_accuracy", Y, Predictions(said), kind="class", n_classes=2, random_state=0)
    assert mean_score(EXAM, [said], random_state=0) == Estimate(single.value, single.low, single.high)
    assert mean_score(EXAM, [said] * 4, random_state=0).low == pytest.approx(single.low)  # draws that tell the same


def test_intervals_cover_what_endless_draws_and_test_images_would_give() -> None:
    """Each draw is right on an image with a chance of its own, about 0.8; another method with about 0.7."""
    rng = np.random.default_rng(0)
    trials, draws = 300, 6
    covered = led = 0
    for _ in range(trials):
        chances = rng.normal(0.8, 0.06, draws).clip(0, 1)
        right = rng.random((draws, 80)) < chances[:, None]
        said = [np.where(row, Y, 1 - Y) for row in right]
        others = [np.where(rng.random(80) < chance - 0.1, Y, 1 - Y) for chance in chances]
        score = mean_score(EXAM, said, random_state=0)
        lead = mean_lead(EXAM, said, others, np.zeros(draws))
        covered += score.low <= 0.8 <= score.high
        led += lead.low <= 0.1 <= lead.high
    # Mistakes of a draw are independent of another's here, which real ones are not: the interval may only be too wide.
    least = stats.binom.ppf(0.01, trials, 0.95)
    assert covered >= least and led >= least


def test_a_lead_is_the_difference_of_the_means_and_widens_with_what_draws_differ_by() -> None:
    mine = [np.where(np.arange(80) % 10, Y, 1 - Y)] * 3
    rivals = [np.where(np.arange(80) % step, Y, 1 - Y) for step in (4, 5, 8)]
    scores = [float((said == Y).mean()) for said in rivals]
    lead = mean_lead(EXAM, mine, rivals, np.zeros(3))
    assert lead.value == pytest.approx(0.9 - np.mean(scores))
    same = mean_lead(EXAM, mine, [rivals[1]] * 3, np.zeros(3))
    assert lead.high - lead.low > same.high - same.low


def test_images_of_one_group_count_as_one() -> None:
    said = [np.where(np.arange(80) % 10 < 8, Y, 1 - Y)]
    other = [np.where(np.arange(80) % 10 < 5, Y, 1 - Y)]
    alone = mean_lead(EXAM, said, other, np.zeros(1))
    repeated = TestSet(np.repeat(Y, 4), 2, np.repeat(np.arange(80), 4))
    found = mean_lead(repeated, [np.repeat(said[0], 4)], [np.repeat(other[0], 4)], np.zeros(1))
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    blind = TestSet(np.repeat(Y, 4), 2, None)
    closer = mean_lead(blind, [np.repeat(said[0], 4)], [np.repeat(other[0], 4)], np.zeros(1))
    assert closer.high - closer.low < 0.6 * (alone.high - alone.low)


def test_a_class_of_one_group_does_not_tell_how_groups_differ() -> None:
    """Four photographs, a class each, a hundred crops of each: right on all crops of one more is no proof."""
    y = np.repeat(np.arange(4), 100)
    test_set = TestSet(y, 4, y.astype(str))
    wrong = np.where(y < 2, y, 0)
    lead = mean_lead(test_set, [np.where(y < 3, y, 0)], [wrong], np.zeros(1))
    assert lead.value == 0.25 and lead.low < 0
    assert mean_lead(TestSet(y, 4, None), [np.where(y < 3, y, 0)], [wrong], np.zeros(1)).low > 0


def test_the_interval_of_a_lead_is_that_of_a_mean_over_the_classes() -> None:
    """Without groups: t times the root of the summed variances of the classes' means, which are independent."""
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1, 2], (90, 60, 30))
    mine, other = (np.where(rng.random(180) < chance, y, (y + 1) % 3) for chance in (0.8, 0.6))
    lead = mean_lead(TestSet(y, 3, None), [mine], [other], np.zeros(1))
    differences = (mine == y).astype(float) - (other == y)
    variance = sum(np.var(differences[y == code], ddof=1) / np.sum(y == code) for code in range(3)) / 9
    assert lead.high - lead.value == pytest.approx(stats.t.ppf(0.975, 179) * np.sqrt(variance), rel=0.02)


def test_no_difference_on_few_images_proves_nothing() -> None:
    said = [Y.copy()]
    lead = mean_lead(EXAM, said, said, np.zeros(1))
    assert lead.value == 0 and lead.low < -0.02 and lead.high > 0.02
