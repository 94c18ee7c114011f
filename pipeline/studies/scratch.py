"""How is a small network trained from scratch within a time budget, as a fair rival of transfer?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 128)
DROPOUT = 0.2
SCALE, TURN, SHIFT, LIGHT = 0.2, 10.0, 0.1, 0.3  # up to a fifth, ten degrees, a tenth of the side; spreads of pixels

_LARGE = 32  # sides above it are halved by the first layer already


class SmallNetwork(nn.Module):
    """Four convolutions of 3 x 3 with batch normalization, a mean over positions, one linear layer: 240,000 weights.

    Parameters
    ----------
    side : int
        Of the images.
    classes : int
    """

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, stride in zip(WIDTHS, (2 if side > _LARGE else 1, 2, 2, 1), strict=True):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(before, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images, float32 (b, 3, side, side), to one logit per class, (b, classes)."""
        return self.head(self.body(images).mean((2, 3)))  # (b, width, h, w) -> (b, width) -> (b, classes)


def normalize_images(pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 (b, side, side, 3) as float32 (b, 3, side, side), about -2 to 2."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def augment(images: torch.Tensor, generator: torch.Generator, *, flips: bool) -> torch.Tensor:
    """Return the images, each a little larger or smaller, turned, moved, in another light and, with flips, mirrored.

    Parameters
    ----------
    images : Tensor, float32 (b, 3, side, side)
    generator : Generator
        On the CPU: a GPU is to vary images as the CPU does.
    flips : bool
        Half of the images are mirrored; letters and digits suffer from it.
    """
    drawn = (torch.rand(len(images), 7, generator=generator) * 2 - 1).to(images.device)  # (b, 7), -1 to 1
    size, angle = 1 + SCALE * drawn[:, 0], math.radians(TURN) * drawn[:, 1]
    across = torch.sign(drawn[:, 2]) if flips else torch.ones_like(size)
    cos, sin = size * torch.cos(angle), size * torch.sin(angle)
    # In the coordinates of `affine_grid` the side is 2 long.
    rows = (
        torch.stack([across * cos, -sin, 2 * SHIFT * drawn[:, 3]], 1),
        torch.stack([across * sin, cos, 2 * SHIFT * drawn[:, 4]], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast, light = (LIGHT * drawn[:, number].view(-1, 1, 1, 1) for number in (5, 6))
    return moved * (1 + contrast) + light


# Raised when the recipe here comes to give other networks for the same images.
RECIPE = 1

BATCH, FEW, SMALL_BATCH = 32, 200, 16  # images a step; fewer where there are few labels, for more steps
VIEWS, FEWEST_VIEWS = 30, 4_000  # of each image; and of all together, however few there are
MOST_VIEWS, VIEWS_OF_MANY = 16_000, 12  # beyond so many views in all, fewer of each image
TRY_SHARE = 1 / 3  # of a whole training, for each try
PACE_STEPS, GIVEN = 5, 0.9  # steps that foretell how long a training takes; the share of the time that is given out
CHECKS = 10  # looks at the held-out part in a training
ENOUGH = 0.5  # of all steps of choosing and training: with less, nothing is chosen
LEAST_SHARE = 0.3  # of the schedule: a held-out part of few images is soon at its best by luck
WEIGHT_DECAY, SMOOTHING, WARM_UP = 0.05, 0.1, 0.15
_ASKED_AT_ONCE = 256

Clock = Callable[[], float]


class OutOfTime(Exception):
    """A training was stopped because the time limit of the whole study was reached; its result is discarded."""


@dataclass(frozen=True)
class TrainingConfig:
    """The settings that the held-out part selects."""

    rate: float
    flips: bool


TRIES = (TrainingConfig(5e-3, True), TrainingConfig(5e-3, False), TrainingConfig(1.5e-3, True))
TRIES_OF_SMALL = (
    TrainingConfig(5e-3, False),
    TrainingConfig(5e-3, True),
    TrainingConfig(1.5e-3, False),
)  # the first where nothing can be held out


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained network's answers.

    Attributes
    ----------
    predicted, learned : ndarray of int64
        Predicted classes of the test images and of the training images.
    tried : Try
        What it was trained with.
    chosen : bool
        Whether that was chosen; else it is the first try.
    stopped_at : float
        Share of the whole schedule that it was given, because the held-out part got no better after it.
    cut_short : bool
        Whether the schedule was shortened for the budget of seconds.
    seconds : float
        What it took, by the clock that the budget is of.
    """

    predicted: np.ndarray
    learned: np.ndarray
    tried: TrainingConfig
    chosen: bool
    stopped_at: float
    cut_short: bool
    seconds: float


def train_from_scratch(
    pixels: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    *,
    classes: int,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    tries: Sequence[TrainingConfig],
    seconds: float,
    device: str,
    seed: int,
    stop_at: float = math.inf,
) -> TrainingResult:
    """Return the answers of a small network trained on these images.

    Each try is trained for a third of the schedule on all but a held-out part; the one with the lowest loss there
    is trained once more in full, and that run says after which share of the schedule the loss was lowest. The network
    that predicts is trained on all images for as long, with a schedule of that length: stopped in the middle of a
    longer one, its rate would still be high and its weights noisy.

    Parameters
    ----------
    pixels : ndarray of uint8, (n, side, side, 3)
    y : ndarray of int, shape (n,)
    test : ndarray of uint8, (m, side, side, 3)
    classes : int
    held_out : (ndarray, ndarray) or None
        Positions to train on and to hold out; None: the first setting is used, with its whole schedule.
    tries : sequence of Try
    seconds : float
        At most: of one core, so that other work on the machine takes nothing away; by the clock on a GPU.
    device : str
    seed : int
    stop_at : float
        When the study has to end, in seconds since the epoch: a result that were cut off there would depend on what
        else the machine did, so there is none.

    Raises
    ------
    OutOfTime
        If the training is not done by then.
    """
    clock = _limited(clock_of(device), stop_at)
    images, labels = torch.from_numpy(pixels).to(device), torch.from_numpy(y).to(device)
    whole = steps_for(len(y))
    trainings = 1.0 if held_out is None else 2 + TRY_SHARE * len(tries)
    chosen, share = tries[0], 1.0
    with _isolated():
        # Loading libraries and the estimate of the pace are not counted as training time.
        a_step = [pace(images, labels, classes, clock) for _ in range(2)][-1]
        started = clock()
        deadline = started + seconds
        affordable = GIVEN * seconds / max(a_step, 1e-9)
        cut = affordable < trainings * whole
        if affordable < ENOUGH * trainings * whole:
            held_out, trainings = None, 1.0  # there is no time to choose: one training has it all
        affordable /= trainings
        # A schedule that is as short as the budget is better than a longer one that the budget breaks off.
        whole = min(whole, max(1, int(affordable)))
        if held_out is not None:
            learn, hold = (torch.from_numpy(part).to(device) for part in held_out)
            losses = []
            for item in tries:
                run = _TrainingRun(images[learn], labels[learn], classes, item, max(1, int(whole * TRY_SHARE)), seed)
                cut |= run.go(clock, deadline)
                losses.append(run.loss(images[hold], labels[hold]))
            chosen = tries[int(np.argmin(losses))]
            run = _TrainingRun(images[learn], labels[learn], classes, chosen, whole, seed)
            held: list[tuple[float, float]] = []
            cut |= run.go(clock, deadline, look=lambda done: held.append((run.loss(images[hold], labels[hold]), done)))
            share = max(LEAST_SHARE, min(held, default=(0.0, 1.0))[1])
        run = _TrainingRun(images, labels, classes, chosen, max(1, round(whole * share)), seed)
        cut |= run.go(clock, deadline)
        test_images = torch.from_numpy(test).to(device)
        predicted, learned = run.answers(test_images), run.answers(images)
        return TrainingResult(predicted, learned, chosen, held_out is not None, share, cut, clock() - started)


def pace(images: torch.Tensor, labels: torch.Tensor, classes: int, clock: Clock) -> float:
    """Return the seconds of one training step, measured on a few discarded steps."""
    started = clock()
    run = _TrainingRun(images, labels, classes, TrainingConfig(1e-3, True), PACE_STEPS, seed=0)
    run.go(clock, math.inf)
    run.loss(images[:1], labels[:1])  # waits for what a GPU still has to do
    return (clock() - started) / PACE_STEPS


def seconds_per_image(pixels: np.ndarray, y: np.ndarray, classes: int, device: str) -> float:
    """Return how long a step of training takes per image, in wall-clock time, measured on a few discarded steps.

    Parameters
    ----------
    pixels : ndarray of uint8, (n, side, side, 3)
    y : ndarray of int, shape (n,)
    classes : int
    device : str
    """
    images, labels = torch.from_numpy(np.array(pixels)).to(device), torch.from_numpy(y).to(device)
    with _isolated():
        # The first few load what is loaded once in a process.
        a_step = [pace(images, labels, classes, time.perf_counter) for _ in range(2)][-1]
    return a_step / min(batch_for(len(y)), max(1, len(y)))


def clock_of(device: str) -> Clock:
    """Return the clock of a training: processor time of this process, or wall-clock time on a GPU."""
    return time.process_time if device == "cpu" else time.perf_counter


def expected_steps(n: int, *, chosen: bool, tries: int) -> float:
    """Return how many steps a training on n images takes, including those that select its learning rate."""
    return steps_for(n) * (2 + TRY_SHARE * tries if chosen else 1.0)


def _limited(clock: Clock, stop_at: float) -> Clock:
    """Return a clock that raises `OutOfTime` when it is read after the end of the study."""

    def read() -> float:
        if time.time() > stop_at:
            raise OutOfTime
        return clock()

    return clock if stop_at == math.inf else read


def steps_for(n: int) -> int:
    """Return the steps of a whole training on n images."""
    views = min(max(VIEWS * n, FEWEST_VIEWS), max(MOST_VIEWS, VIEWS_OF_MANY * n))
    return math.ceil(views / batch_for(n))


def batch_for(n: int) -> int:
    """Return the batch size."""
    return SMALL_BATCH if n < FEW else BATCH


class _TrainingRun:
    """One training: a network, its optimizer, and its place in the schedule."""

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, classes: int, tried: TrainingConfig, steps: int, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self._images, self._labels, self._tried, self._steps = images, labels, tried, steps
        self._generator = torch.Generator().manual_seed(seed)
        self._batch = batch_for(len(labels))
        self._network = SmallNetwork(images.shape[1], classes).to(images.device).to(memory_format=torch.channels_last)
        self._optimiser = torch.optim.AdamW(self._network.parameters(), lr=tried.rate, weight_decay=WEIGHT_DECAY)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, tried.rate, total_steps=max(steps, 2), pct_start=WARM_UP
        )

    def go(self, clock: Clock, deadline: float, *, look: Callable[[float], None] | None = None) -> bool:
        """Train until the schedule is done, and return whether the deadline came before it."""
        often = max(1, self._steps // CHECKS)
        batches = self._batches()
        for step in range(1, self._steps + 1):
            self._network.train()
            rows = next(batches)
            images = augment(normalize_images(self._images[rows]), self._generator, flips=self._tried.flips)
            loss = functional.cross_entropy(self._network(images), self._labels[rows], label_smoothing=SMOOTHING)
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            self._schedule.step()
            if look is not None and (step % often == 0 or step == self._steps):
                look(step / self._steps)
            if step < self._steps and clock() > deadline:
                return True
        return False

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Return the mean cross entropy."""
        return float(functional.cross_entropy(self._predict(images), labels))

    def answers(self, images: torch.Tensor) -> np.ndarray:
        """Return the most probable class of each image."""
        return self._predict(images).argmax(1).cpu().numpy()

    def _predict(self, images: torch.Tensor) -> torch.Tensor:
        self._network.eval()
        with torch.no_grad():
            return torch.cat([self._network(normalize_images(batch)) for batch in images.split(_ASKED_AT_ONCE)])

    def _batches(self) -> Iterator[torch.Tensor]:
        """Yield rows without end; each image comes once per epoch."""
        n = len(self._labels)
        waiting = torch.empty(0, dtype=torch.long)
        while True:
            while len(waiting) < self._batch:
                waiting = torch.cat([waiting, torch.randperm(n, generator=self._generator)])
            rows, waiting = waiting[: self._batch], waiting[self._batch :]
            yield rows.to(self._labels.device)


@contextmanager
def _isolated() -> Iterator[None]:
    """Draw from seeds and compute with one thread, and leave the caller's generator and threads as they were."""
    threads = torch.get_num_threads()
    # One thread: what comes out does not depend on the cores, and draws side by side share them better.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        torch.set_num_threads(threads)
