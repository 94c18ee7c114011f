"""What a study draws, and how its small network learns."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.studies import scratch
from pipeline.studies.data import DRAWS, FEWEST_DRAWS, PixelSizes, at_most, label_budgets, raw_features
from pipeline.studies.scratch import TrainingConfig, augment, batch_for, steps_for, train_from_scratch
from pipeline.studies.trials import CHOSEN, FIXED, ScratchTrial, TrialData, TrialKey, balanced_accuracy

Y = np.random.default_rng(3).permutation(np.repeat([0, 1, 2], (90, 60, 7)))

# --- draws


def test_the_ladder_is_1_2_5_10_and_so_on_up_to_all() -> None:
    found = label_budgets(Y, random_state=0)
    assert [level.labels for level in found] == [3, 6, 15, 27, 47, 107, 157]  # of the third class there are 7
    assert [level.per_class for level in found] == pytest.approx([level.labels / 3 for level in found])
    assert [level.everything for level in found] == [False] * 6 + [True]
    assert [len(level.draws) for level in found] == [DRAWS[size] for size in (1, 2, 5, 10, 20, 50)] + [FEWEST_DRAWS]
    assert [level.labels for level in label_budgets(np.repeat([0, 1], 55), random_state=0)] == [2, 4, 10, 20, 40, 110]


def test_every_draw_has_as_many_of_each_class_and_none_twice() -> None:
    for level, size in zip(label_budgets(Y, random_state=0), (1, 2, 5, 10, 20, 50, 90), strict=True):
        for draw in level.draws:
            assert np.array_equal(draw, np.unique(draw))
            assert np.bincount(Y[draw]).tolist() == np.minimum((90, 60, 7), size).tolist()


def test_a_draw_lies_within_the_same_draw_of_the_next_rung() -> None:
    found = label_budgets(Y, random_state=0)
    for before, after in itertools.pairwise(found):
        for small, large in zip(before.draws, after.draws, strict=False):
            assert np.isin(small, large).all()


def test_draws_differ_and_the_seed_repeats_them() -> None:
    first, again, other = (label_budgets(Y, random_state=seed) for seed in (0, 0, 1))
    assert all(
        np.array_equal(a, b)
        for one, two in zip(first, again, strict=True)
        for a, b in zip(one.draws, two.draws, strict=True)
    )
    assert len({draw.tobytes() for draw in first[2].draws}) == len(first[2].draws)
    assert not np.array_equal(first[2].draws[0], other[2].draws[0])


def test_what_is_left_of_many_images_is_in_proportion() -> None:
    kept = at_most(Y, 80, random_state=0)
    assert np.bincount(Y[kept]).tolist() == [45, 30, 3]
    assert np.array_equal(kept, np.unique(kept))
    assert np.bincount(Y[at_most(Y, 3, random_state=0)]).tolist() == [1, 1, 1]  # none is lost altogether
    assert np.array_equal(at_most(Y, 500, random_state=0), np.arange(len(Y)))


# --- training from scratch


def squares(n: int, seed: int, where: Callable[[int], tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one bright corner, whose place tells the class: ``where(class)`` is its row and column of quarters."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    pixels = rng.integers(0, 90, (n, 32, 32, 3), dtype=np.uint8)
    for image, code in zip(pixels, y, strict=True):
        row, column = where(int(code))
        image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 120
    return pixels, y


def above_or_below(code: int) -> tuple[int, int]:
    return code, 0


def left_or_right(code: int) -> tuple[int, int]:
    return 0, code


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule and a network that corners need no more of."""
    monkeypatch.setattr(scratch, "WIDTHS", (8, 16, 16, 16))
    monkeypatch.setattr(scratch, "FEWEST_VIEWS", 1_000)
    monkeypatch.setattr(scratch, "VIEWS", 1)


PARTS = (np.arange(8, 40), np.arange(8))
HOW = {"classes": 2, "seconds": 60.0, "device": "cpu", "seed": 0}
PLAIN = (TrainingConfig(5e-3, False),)


@pytest.mark.usefixtures("short")
def test_the_small_network_learns_and_the_same_seed_learns_the_same() -> None:
    pixels, y = squares(40, 0, above_or_below)
    new, truth = squares(60, 1, above_or_below)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, again = (train_from_scratch(pixels, y, new, held_out=PARTS, tries=PLAIN, **HOW) for _ in range(2))
    assert balanced_accuracy(truth, first.predicted) >= 0.95 and balanced_accuracy(y, first.learned) >= 0.95
    assert np.array_equal(first.predicted, again.predicted) and first.stopped_at == again.stopped_at
    assert not first.cut_short and 0 < first.stopped_at <= 1
    # The caller draws and computes as before.
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads


@pytest.mark.gpu
@pytest.mark.usefixtures("short")
def test_the_small_network_learns_on_a_gpu_and_leaves_its_generator_alone() -> None:
    pixels, y = squares(40, 0, above_or_below)
    new, truth = squares(60, 1, above_or_below)
    before = torch.cuda.get_rng_state()
    found = train_from_scratch(pixels, y, new, held_out=PARTS, tries=PLAIN, **{**HOW, "device": "cuda"})
    assert balanced_accuracy(truth, found.predicted) >= 0.95 and not found.cut_short
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.usefixtures("short")
def test_mirroring_is_chosen_by_what_was_held_out() -> None:
    """Left or right is lost in a mirror: with mirrored images nothing can be learned."""
    pixels, y = squares(40, 0, left_or_right)
    new, truth = squares(60, 1, left_or_right)
    tries = (TrainingConfig(5e-3, True), TrainingConfig(5e-3, False))
    found = train_from_scratch(pixels, y, new, held_out=PARTS, tries=tries, **HOW)
    assert found.tried == tries[1]
    assert balanced_accuracy(truth, found.predicted) >= 0.95
    # Where nothing can be held out the first try is taken, whatever comes of it.
    assert train_from_scratch(pixels, y, new, held_out=None, tries=tries, **HOW).tried == tries[0]


@pytest.mark.usefixtures("short")
def test_a_training_is_made_as_short_as_its_budget_and_it_is_told() -> None:
    pixels, y = squares(40, 0, above_or_below)
    for held_out in (PARTS, None):
        found = train_from_scratch(pixels, y, pixels, held_out=held_out, tries=PLAIN, **{**HOW, "seconds": 1e-3})
        assert found.cut_short and found.predicted.shape == (40,)
        # A clock that stands still: there is always time.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scratch, "clock_of", lambda device: lambda: 0.0)
            assert not train_from_scratch(pixels, y, pixels, held_out=held_out, tries=PLAIN, **HOW).cut_short


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("held_out", [PARTS, None])
def test_a_shortened_schedule_is_gone_through_to_its_end(
    held_out: tuple[np.ndarray, np.ndarray] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which every step takes a second and nothing else takes any."""
    steps: list[float] = []
    real = scratch._TrainingRun.go

    def counted(self: Any, *how: Any, **more: Any) -> bool:
        broken_off = real(self, *how, **more)
        lengths.append(self._steps)
        assert not broken_off and self._schedule.last_epoch == self._steps  # where its rate is nothing
        return broken_off

    lengths: list[int] = []
    monkeypatch.setattr(scratch._TrainingRun, "go", counted)
    monkeypatch.setattr(scratch, "augment", lambda images, generator, flips: (steps.append(1.0), images)[1])
    monkeypatch.setattr(scratch, "clock_of", lambda device: lambda: float(len(steps)))
    pixels, y = squares(40, 0, above_or_below)
    trainings = 1 if held_out is None else 2 + 1 / 3
    for seconds in (20.0, 130.0):
        lengths.clear()
        steps.clear()
        found = train_from_scratch(pixels, y, pixels, held_out=held_out, tries=PLAIN, **{**HOW, "seconds": seconds})
        assert len(steps) <= seconds + 2 * scratch.PACE_STEPS  # which are nobody's time
        # With too little time for choosing one training has it all.
        share = trainings if seconds > 100 else 1
        whole = int(0.9 * seconds / share)
        assert min(whole, steps_for(40)) in lengths
        assert found.cut_short == (whole < steps_for(40)) and found.chosen == (share > 1)


def test_the_schedule_grows_with_the_images_and_is_bounded() -> None:
    looks = {n: steps_for(n) * batch_for(n) / n for n in (2, 100, 500, 1_000, 10_000)}
    assert looks[2] * 2 == pytest.approx(scratch.FEWEST_VIEWS, rel=0.01)
    assert looks[500] == pytest.approx(scratch.VIEWS, rel=0.1)
    assert looks[1_000] * 1_000 == pytest.approx(scratch.MOST_VIEWS, rel=0.01)
    assert looks[10_000] == pytest.approx(scratch.VIEWS_OF_MANY, rel=0.01)


def test_images_are_varied_a_little_and_mirrored_only_where_they_may_be() -> None:
    image = torch.zeros(64, 3, 32, 32)
    image[:, :, 12:20, 18:26] = 1.0  # right of the middle, and stays there whatever moves it
    for flips, both in ((False, False), (True, True)):
        found = augment(image, torch.Generator().manual_seed(0), flips=flips)
        heavy = found - found.amin((1, 2, 3), keepdim=True)
        right = heavy[..., 16:].sum((1, 2, 3)) > heavy[..., :16].sum((1, 2, 3))
        assert bool(right.all()) != both and bool(right.any())
        assert len({tuple(one.flatten()[::97].tolist()) for one in found}) == 64  # no two alike


@pytest.mark.usefixtures("short")
def test_parameters_are_chosen_where_there_are_labels_to_choose_by(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, y = squares(40, 0, above_or_below)
    monkeypatch.setattr(scratch, "TRIES_OF_SMALL", PLAIN)
    material = TrialData(pixels, pixels, y, None, None, 2)
    for rows, params in ((np.arange(4), FIXED), (np.arange(20), CHOSEN)):
        key = TrialKey("from scratch", "", 0, 0)
        learned = ScratchTrial(key, rows, material, seed=0, small=True, budget=60.0, device="cpu").learn()
        assert learned.params == params and learned.predicted.shape == (40,)
        assert learned.seconds > 0 and not learned.cut_short


def test_raw_pixels_of_grey_images_are_not_said_thrice() -> None:
    grey = np.repeat(np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4, 1), 3, axis=3)
    (found,) = raw_features(grey)
    assert np.array_equal(found, np.arange(32, dtype=np.float32).reshape(2, 16) / 255)
    colour = grey.copy()
    colour[0, 0, 0, 1] += 1
    assert [part.shape for part in raw_features(grey, colour)] == [(2, 48), (2, 48)]
    assert PixelSizes(32, 8).small and not PixelSizes(64, 16).small
