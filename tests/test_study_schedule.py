"""When the trainings of a study have to end, what is left out, and what is shown of a study that is stopped."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from test_study_lessons import above_or_below, squares

from pipeline.cli.console import Console, ProgressLines
from pipeline.cli.study_tables import print_partial
from pipeline.studies import SkippedTrials, StudyStopped, schedule
from pipeline.studies.analysis import TestSet, points_of
from pipeline.studies.data import label_budgets
from pipeline.studies.results import RAW, SCRATCH, TRANSFER
from pipeline.studies.trials import Deadline, ScratchTrial, TrialData, TrialKey, TrialOutOfTime, TrialResult, run_trials

pixels, y = squares(12, 0, above_or_below)
MATERIAL = TrialData(pixels, pixels[:4], y, None, None, 2)
RUNGS = label_budgets(y, random_state=0)


def trial(level: int, draw: int) -> ScratchTrial:
    key = TrialKey(SCRATCH, "", level, draw)
    return ScratchTrial(key, RUNGS[level].draws[draw], MATERIAL, draw, True, 0.02, "cpu")


def outcomes(trials: list[ScratchTrial], deadline: Deadline) -> dict[TrialKey, Any]:
    return dict(run_trials(trials, n_jobs=1, deadline=deadline))


def test_a_lesson_that_would_end_too_late_is_left_out_and_one_that_must_be_there_is_not() -> None:
    first, second = trial(0, 0), trial(0, 1)
    expected = {first.key: 1000.0, second.key: 1000.0}
    found = outcomes([first, second], Deadline(time.time() + 100, expected, frozenset([first.key])))
    assert isinstance(found[first.key], TrialResult) and isinstance(found[second.key], TrialOutOfTime)


def test_a_training_that_is_not_done_in_time_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    one = trial(0, 0)
    monkeypatch.setattr(Deadline, "leaves_out", lambda self, key: False)  # it was to be done in time
    assert isinstance(outcomes([one], Deadline(time.time() - 1))[one.key], TrialOutOfTime)


def test_first_draws_come_first_and_short_ones_where_not_all_fit() -> None:
    trials = [trial(level, draw) for level in (0, 1) for draw in (0, 1)]
    order = [(key.draw, key.level) for key, _ in run_trials(trials, n_jobs=1)]
    assert order == [(0, 1), (0, 0), (1, 1), (1, 0)]
    short = Deadline(math.inf, shortest_first=True)
    order = [(key.draw, key.level) for key, _ in run_trials(trials, n_jobs=1, deadline=short)]
    assert order == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_what_was_skipped_is_counted_and_named() -> None:
    trials = [trial(level, draw) for level in (0, 1) for draw in (0, 1, 2)]
    gone = [one.key for one in trials if one.key.draw > one.key.level]
    skipped = schedule.skipped_of(gone, trials, RUNGS)
    assert skipped == (SkippedTrials(SCRATCH, "", 2, 2, 3), SkippedTrials(SCRATCH, "", 4, 1, 3))
    assert schedule.skipped_text(skipped, 540) == (
        "3 trainings skipped for the time limit of 540 seconds: 3 of 6 of from scratch (2 to 4 labels); "
        "the same command again adds them, --time-limit inf skips none"
    )
    assert schedule.skipped_text((), 540) == ""


def test_at_least_half_of_the_limit_is_for_training() -> None:
    assert schedule.time_for_training(540, 40) == 500
    assert schedule.time_for_training(540, 900) == 270
    assert schedule.time_for_training(math.inf, 900) == math.inf


def test_the_estimate_names_what_is_trained_and_what_does_not_fit() -> None:
    keys = [trial(0, draw).key for draw in range(3)]
    expected = schedule.TimeEstimate(dict.fromkeys(keys, 60.0), {keys[0]: 240.0})
    assert expected.seconds(2, 1) == 3 * 60 / 2 + 240
    assert expected.text(2, 1, math.inf) == (
        "3 heads and 1 network from scratch to train: about 6 min (estimated from a short trial run)"
    )
    assert expected.text(2, 1, 30).endswith("; the time limit leaves 30 s, so some of them will be skipped and named")


def test_leads_join_draws_by_their_number() -> None:
    """Transfer has the draws 0 and 1, raw pixels 1 and 2: the lead is of draw 1 alone."""
    right, wrong = y.copy(), 1 - y
    said = {(TRANSFER, 0): wrong, (TRANSFER, 1): right, (RAW, 1): wrong, (RAW, 2): right}
    learned = {
        TrialKey(method, "", 0, draw): TrialResult(value, 1.0, 1.0, "none") for (method, draw), value in said.items()
    }
    points = points_of(learned, RUNGS, TestSet(y, 2, None), layer="", image_seconds={}, random_state=0)
    assert {point.method: point.lead for point in points} == {TRANSFER: None, RAW: 1.0}


def test_a_study_that_is_stopped_shows_the_scores_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [trial(0, draw) for draw in (0, 1, 2)]
    learned = {
        trials[0].key: TrialResult(y, 1.0, 1.0, "none"),
        trials[1].key: TrialResult(np.zeros_like(y), 1.0, 1.0, "none"),
    }
    points = schedule.partial_points(learned, trials, RUNGS, y)
    assert [(one.draws, one.of, one.score) for one in points] == [(2, 3, 0.75)]
    with Console() as terminal:
        print_partial(terminal, StudyStopped(points, 2, 3))
    listed_scores = capsys.readouterr()
    assert listed_scores.out == "" and "stopped: 2 of 3 trainings are done" in listed_scores.err
    assert listed_scores.err.splitlines()[-1].split() == ["from", "scratch", "1", "2", "0.750", "2", "of", "3"]


def test_progress_is_printed_as_lines_while_a_step_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.console.SECONDS_BETWEEN_LINES", 0.01)
    listed_scores: list[str] = []
    lines = ProgressLines(listed_scores.append)
    lines.advance("train heads", 3, 1200)
    lines.start()
    while len(listed_scores) < 2:
        time.sleep(0.01)
    lines.stop()
    assert all(text.startswith("progress: train heads: 3 of 1,200, ") for text in listed_scores)
