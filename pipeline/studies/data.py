"""Which data does a study use? One label set, training images, a fixed test set, their photos and label budgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps

from pipeline.cache import FeatureCache
from pipeline.errors import CacheError, EvaluationError, LabelError, PipelineError
from pipeline.evaluation import explain_by_unreadable
from pipeline.evaluation.dataset import (
    Dataset,
    FeatureConfig,
    LabelConfig,
    LabeledRows,
    Source,
    Task,
    attach_features,
    attach_test_features,
    load_labels,
    open_data,
)
from pipeline.evaluation.leakage import DuplicateGuard, describe_leakage, find_leakage
from pipeline.evaluation.tasks import NO_SPLIT, build_tasks
from pipeline.images import BUILTIN_NAMES, PHOTO_RULES, ImageSource, decoder_of
from pipeline.parallel import workers
from pipeline.progress import Progress
from pipeline.splits import outer_folds

STEPS = (1, 2, 5)
TOO_NEAR = 0.8  # of all labels: a level with as many tells what the last one does

# With few labels the draw matters more, and training is quick.
DRAWS = {1: 20, 2: 20, 5: 10, 10: 10, 20: 5, 50: 5}
FEWEST_DRAWS = 3


@dataclass(frozen=True, eq=False)
class LabelBudget:
    """A number of labels, and its draws of training images.

    Attributes
    ----------
    labels : int
        In each draw.
    per_class : float
        Labels over classes: a class that has fewer gives all it has, so it may be less than was config for.
    everything : bool
        Whether these are all labels; the draws are then the same, and only trainings with a seed differ.
    draws : tuple of ndarray of int64
        Ascending positions into the labels. Draw k of a level lies within draw k of the next.
    """

    labels: int
    per_class: float
    everything: bool
    draws: tuple[np.ndarray, ...]


def label_budgets(y: np.ndarray, *, random_state: int) -> tuple[LabelBudget, ...]:
    """Return label budgets of 1, 2, 5, 10, 20, 50, ... labels per class, then all labels.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        Codes of the classes.
    random_state : int
    """
    classes = len(np.unique(y))
    found = []
    orders: dict[int, list[np.ndarray]] = {}
    for size in _budget_steps():
        counts = np.minimum(np.bincount(y), size)
        if counts.sum() >= TOO_NEAR * len(y):
            break
        draws = []
        for draw in range(DRAWS.get(size, FEWEST_DRAWS)):
            orders.setdefault(draw, _orders(y, draw, random_state))
            draws.append(np.sort(np.concatenate([rows[:size] for rows in orders[draw]])))
        found.append(LabelBudget(int(counts.sum()), float(counts.sum() / classes), False, tuple(draws)))
    every = np.arange(len(y))
    return (*found, LabelBudget(len(y), len(y) / classes, True, (every,) * FEWEST_DRAWS))


def at_most(y: np.ndarray, most: int, *, random_state: int) -> np.ndarray:
    """Return ascending positions of a stratified subsample, with at least one label per class."""
    if len(y) <= most:
        return np.arange(len(y))
    kept = []
    for rows in _orders(y, 0, random_state):
        kept.append(rows[: max(1, int(len(rows) * most / len(y)))])
    return np.sort(np.concatenate(kept))


def _orders(y: np.ndarray, draw: int, random_state: int) -> list[np.ndarray]:
    """Return the rows of each class in the order of the draw."""
    return [
        np.random.default_rng([random_state, draw, code]).permutation(np.flatnonzero(y == code))
        for code in np.unique(y)
    ]


def _budget_steps() -> Iterator[int]:
    size = 1
    while True:
        yield from (size * step for step in STEPS)
        size *= 10


TEST_SHARE = 4  # one part in so many is the test set, where none is given


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The options of a study about images and labels; see `study` for each."""

    features: FeatureConfig
    labelling: LabelConfig
    root: str | Path | None
    column: tuple[str, ...]
    groups: str | None
    split: str | None
    test: Any
    min_class_size: int | None
    most_labels: int
    random_state: int
    progress: Progress

    @property
    def extraction(self) -> dict[str, Any]:
        """Keyword arguments of `extract`, including the folder of caches."""
        return {**self.features.extraction, "cache": self.features.folder}


@dataclass(frozen=True, eq=False)
class SplitSide:
    """The labelled images of one side of the split, and their photos.

    Attributes
    ----------
    part : Part
    photos : ImageSource
        ``part.rows`` are rows of it.
    """

    part: LabeledRows
    photos: ImageSource


@dataclass(frozen=True, eq=False)
class StudyData:
    """One label set with its fixed split, every image with features and a photo.

    Attributes
    ----------
    question : Question
        Its parts are those of the sides.
    train, test : Side
    notes : tuple of str
    """

    question: Task
    train: SplitSide
    test: SplitSide
    notes: tuple[str, ...]

    @property
    def all_classes(self) -> int:
        """The classes of training and test images; one that training lacks is never predicted."""
        return self.question.n_classes + len(self.question.unknown_classes)


def load_study_data(data: Any, config: StudyConfig) -> StudyData:
    """Return the data of the study with extracted features; options are checked before the first image is read.

    Raises
    ------
    PipelineError
        There are no photos, no single label set of classes, or too few images to split.
    """
    if config.test is not None and config.split not in (None, NO_SPLIT):
        raise EvaluationError(
            "expected one test set, got both a split column and test data", "leave out --split or --test"
        )
    given = _only(_open(data, config), "study")
    level = config.labelling.level
    photos = given if isinstance(given, ImageSource) else photos_behind(given, level)
    labelling = config.labelling.bound_to(given)
    known = load_labels(photos, labelling)
    test_photos = known_test = None
    if config.test is not None:
        found = _only(_open(config.test, config), "test")
        test_photos = found if isinstance(found, ImageSource) else photos_behind(found, level)
        known_test = load_labels(test_photos, labelling, own_if_strange=True)
    rehearsal = _with_test(_question(known, known_test, None, config), config)
    if rehearsal.joined is not None:
        config.progress.joined([rehearsal.joined])

    if isinstance(given, FeatureCache):
        like = replace(known, caches=(given,), layers=(config.features.layers or (),))
        collection = attach_test_features(photos, known, like, config.features)
    else:
        collection = attach_features(photos, known, config.features)
    tests = None
    if known_test is not None and test_photos is not None:
        tests = attach_test_features(test_photos, known_test, collection, config.features)
    guard = find_leakage(collection, tests, TEST_SHARE)
    try:
        question = _with_test(_question(collection, tests, guard, config), config)
    except (LabelError, EvaluationError) as error:
        raise explain_by_unreadable(
            error,
            [collection, *([tests] if tests is not None else [])],
            lambda: _with_test(_question(known, known_test, None, config), config),
        ) from error
    return _cut(question, photos, test_photos or photos, config)


def photos_behind(cache: FeatureCache, label_level: int | None = None) -> ImageSource:
    """Return the photos that a cache was made of.

    Raises
    ------
    CacheError
        They are gone: features alone cannot tell what a network trained on the pixels would have learned.
    """
    place = cache.place
    name = place.removeprefix("builtin:").partition("@")[0]
    try:
        photos = ImageSource.open(name if name in BUILTIN_NAMES else place, label_level=label_level)
    except PipelineError as error:
        raise _gone(cache, error.message) from error
    missing = set(cache.ids) - set(photos.ids)
    if missing:
        raise _gone(cache, f"{len(missing):,} of {len(cache):,} gone, e.g. {min(missing)}")
    return photos


def _gone(cache: FeatureCache, found: str) -> CacheError:
    return CacheError(
        f"{cache.path.name}: a study trains on the pixels, so it expected the photos that the cache was made of, "
        f"got: {found}",
        "give the photos themselves: pipeline study PHOTOS; `pipeline evaluate` needs the cache alone",
    )


def _open(data: Any, config: StudyConfig) -> list[Source]:
    return open_data(data, config.features.folder, config.labelling, root=config.root)


def _only(sources: list[Source], what: str) -> Source:
    if len(sources) > 1:
        raise EvaluationError(f"{what}: expected one collection of images, got {len(sources)}", "give one DATA")
    return sources[0]


def _question(collection: Dataset, test: Dataset | None, guard: DuplicateGuard | None, config: StudyConfig) -> Task:
    """Return the only label set of classes; raise if there are none or several."""
    found = build_tasks(
        collection,
        column=config.column,
        groups=config.groups,
        split=config.split,
        test=test,
        id_column=config.labelling.id_column,
        min_class_size=config.min_class_size,
        guard=guard,
    )
    classes = [item for item in found if item.kind == "class"]
    if len(found) > 1:
        names = ", ".join(item.name for item in found)
        raise EvaluationError(
            f"study: expected one label set, got {len(found)}: {names}",
            f"choose one with --column {(classes or found)[0].name}",
        )
    if not classes:
        kinds = {"number": "numbers", "multi": "several tags an image"}
        raise EvaluationError(
            f"study: expected labels that are classes, got {kinds[found[0].kind]} in {found[0].name!r}",
            f"read them as classes, --column {found[0].name}:class, or evaluate them: pipeline evaluate DATA",
        )
    return found[0]


def _with_test(question: Task, config: StudyConfig) -> Task:
    """Return the question with its test set, drawn if none is given, without duplicates of training images."""
    train, test = question.train, question.test
    if test is not None:
        notes = question.notes
        if question.twins is not None:
            spoken = describe_leakage(question.twins, train, test)
            left = np.setdiff1d(np.arange(len(test)), question.twins.test)
            copies = f"{len(test) - len(left)} of {len(test)} test images are duplicates of training images"
            if not len(left):
                raise EvaluationError(
                    f"expected test images that are not in the training set, but {copies}",
                    "give another test set with --test DATA",
                )
            notes = (*(note for note in notes if note not in spoken), f"{copies}, and are left out")
            test = test.take(left)
        _check_enough(question, train, 2)
        return replace(question, test=test, twins=None, notes=notes)
    _check_enough(question, train, TEST_SHARE)
    folds, cut = outer_folds(
        train.y,
        "class",
        groups=train.groups,
        together=train.together,
        cv=TEST_SHARE,
        random_state=config.random_state,
        classes=question.classes,
    )
    first = folds[0]
    drawn = f"{len(first.test):,} of {len(train):,} images are drawn as the test set"
    if train.groups is not None:
        drawn += f": {len(np.unique(train.groups[first.test]))} whole groups"
    del cut  # how many folds there would be is of no matter: one of them is the test set
    return replace(question, train=train.take(first.train), test=train.take(first.test), notes=(*question.notes, drawn))


def _check_enough(question: Task, train: LabeledRows, fewest: int) -> None:
    counts = np.bincount(train.y, minlength=question.n_classes)
    smallest = int(np.argmin(counts))
    if len(counts) < 2:
        raise EvaluationError(
            f"study: expected two classes or more, got {question.classes[0]!r} alone", "label images of a second class"
        )
    if counts[smallest] < fewest:
        images = "image" if counts[smallest] == 1 else "images"
        raise EvaluationError(
            f"study: expected {fewest} images per class to train and test on, got "
            f"{counts[smallest]} {images} of {question.classes[smallest]!r}",
            f"pass --min-class-size {fewest} to leave it out, or add images of {question.classes[smallest]!r}"
            if (counts >= fewest).sum() > 1
            else f"add images of {question.classes[smallest]!r}",
        )


def _cut(question: Task, photos: ImageSource, test_photos: ImageSource, config: StudyConfig) -> StudyData:
    """Return the data with at most `most_labels` images per side."""
    assert question.test is not None
    notes = [*question.general, *question.notes]
    sides = {"for training": question.train, "for testing": question.test}
    for what, part in sides.items():
        kept = at_most(part.y, config.most_labels, random_state=config.random_state)
        if len(kept) < len(part):
            notes.append(f"{len(kept):,} of {len(part):,} images are drawn {what} (--most-labels)")
            sides[what] = part.take(kept)
    train, test = sides.values()
    cut = replace(question, train=train, test=test)
    return StudyData(cut, SplitSide(train, photos), SplitSide(test, test_photos), tuple(dict.fromkeys(notes)))


STAGE = "read photos"
SIDE, SMALL_SIDE = 64, 32  # what a network is trained on: photos, and images that are hardly larger than the small side
RAW_SIDE = 16
SAMPLE = 32  # images whose size is looked at
_AT_ONCE = 64


@dataclass(frozen=True)
class PixelSizes:
    """The sizes that the photos are reduced to.

    Attributes
    ----------
    network : int
        Side of the squares that a network is trained on.
    raw : int
        Side of the images whose raw pixels train a head; smaller images keep their size.
    """

    network: int
    raw: int

    @property
    def small(self) -> bool:
        """Whether these are small images, such as digits, rather than photos."""
        return self.network == SMALL_SIDE


@dataclass(frozen=True, eq=False)
class Pixels:
    """The reduced central squares of n photos.

    Attributes
    ----------
    network : ndarray of uint8, (n, side, side, 3)
    raw : ndarray of uint8, (n, raw side, raw side, 3)
    """

    network: np.ndarray
    raw: np.ndarray


def sizes_of(photos: ImageSource, rows: np.ndarray) -> PixelSizes:
    """Return the sizes to reduce the photos to, from a sample of their original sizes."""
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))]
    short = int(np.median([min(photos.read(int(row)).pixels().size) for row in sample]))
    return PixelSizes(SIDE if short > SMALL_SIDE else SMALL_SIDE, min(RAW_SIDE, short))


def read_pixels(
    photos: ImageSource, rows: np.ndarray, sizes: PixelSizes, *, n_jobs: int | None, progress: Progress
) -> Pixels:
    """Return the reduced central squares of these rows, cropped as for the backbone."""
    parts = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
    found = []
    for part in Parallel(n_jobs=workers(n_jobs), prefer="threads", return_as="generator")(
        delayed(_squares)(photos, part, sizes) for part in parts
    ):
        found.append(part)
        progress.advance(STAGE, min(len(found) * _AT_ONCE, len(rows)), len(rows))
    return Pixels(*(np.concatenate(kind) for kind in zip(*found, strict=True)))


def raw_features(*parts: np.ndarray) -> list[np.ndarray]:
    """Return the pixels of each part as float32 features between 0 and 1; one channel if all images are gray."""
    grey = all((part == part[..., :1]).all() for part in parts)
    channels = 1 if grey else 3
    return [(part[..., :channels].reshape(len(part), -1) / np.float32(255)).astype(np.float32) for part in parts]


def pixels_text(sizes: PixelSizes) -> str:
    """Return the text that identifies such pixels in the store: everything that changes them."""
    return f"pixels {sizes.network} and {sizes.raw}, {PHOTO_RULES}, {decoder_of('exact')}"


def _squares(photos: ImageSource, rows: np.ndarray, sizes: PixelSizes) -> tuple[np.ndarray, np.ndarray]:
    network, raw = [], []
    for row in rows:
        image = photos.read(int(row)).pixels()
        network.append(_square(image, sizes.network))
        raw.append(_square(image, sizes.raw))
    return np.stack(network), np.stack(raw)


def _square(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR))
