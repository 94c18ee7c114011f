"""`study`: was transfer worth it? Learning curves, and what follows from them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.arguments import check_arguments
from pipeline.backbone import NAMED_LAYERS, Backbone, is_graph_file
from pipeline.cache import DEFAULT_FOLDER
from pipeline.errors import EvaluationError
from pipeline.evaluation.dataset import FeatureConfig, LabelConfig, backbone_of
from pipeline.evaluation.memo import features_text
from pipeline.evaluation.tasks import NO_SPLIT
from pipeline.extraction import check_options
from pipeline.heads import DEFAULT, Head, resolve_heads
from pipeline.images import PHOTO_RULES
from pipeline.labels import split_one_hot
from pipeline.parallel import engine, workers
from pipeline.progress import SILENT, Progress
from pipeline.provenance import installed
from pipeline.runs import RunScope as Matter
from pipeline.runs import RunsDir, Store, check_is_run_directory, feature_name, run_directory
from pipeline.runtime import cores, devices_of
from pipeline.studies.analysis import (
    HOW,
    TestSet,
    caveats,
    crossovers_of,
    depth_text,
    points_of,
    summary_of,
    verdicts_of,
)
from pipeline.studies.data import (
    PixelSizes,
    StudyConfig,
    StudyData,
    label_budgets,
    load_study_data,
    pixels_text,
    read_pixels,
    sizes_of,
)
from pipeline.studies.memo import TrialCache
from pipeline.studies.results import METHODS, RANDOM, STATISTICS, TRANSFER, Study
from pipeline.studies.schedule import (
    TIME_LIMIT,
    StudyStopped,
    deadline_of_heads,
    deadline_of_networks,
    estimate_time,
    partial_points,
    skipped_of,
    skipped_text,
    time_for_training,
)
from pipeline.studies.trials import (
    NO_DEADLINE,
    SCORING,
    AnyLesson,
    Method,
    ScratchTrial,
    Trial,
    TrialFactory,
    TrialKey,
    TrialOutOfTime,
    TrialResult,
    TrialSkipped,
    budget_text,
    caches_of,
    run_trials,
    seconds_an_image,
    untrained_features,
)


def study_scope(subject: StudyData, layers: Sequence[str], head: Head) -> Matter:
    """Return what the folder's store is told that it is about."""
    question, train = subject.question, subject.train.part
    return Matter(
        frozenset([(question.name, question.kind, *question.classes)]),
        frozenset(feature_name(train.collection.name, str(train.collection.caches[0].path), layer) for layer in layers),
        frozenset([f"study: {head.name}"]),
    )


def study_directory(
    subject: StudyData, layers: Sequence[str], head: Head, out: str | Path | RunsDir | None, progress: Progress
) -> Path | None:
    """Return the folder that the study is kept in."""
    if out is None:
        return None
    if not isinstance(out, RunsDir):
        check_is_run_directory(out)
        return Path(out)
    name = f"{subject.train.part.collection.name}-study"
    place, moved = run_directory(study_scope(subject, layers, head), Path(out.folder) / name)
    if moved is not None:
        progress.note(moved)
    return place


HEADS_STAGE, SCRATCH_STAGE = "train heads", "train from scratch"
VERSIONS = ("transfer-pipeline", "scikit-learn", "numpy", "scipy", "torch", "torchvision", "pillow")


@check_arguments
def study(
    data: Any,
    *,
    backbone: str | Backbone = "efficientnet_lite0",
    layer: str = "penultimate",
    cache: str | Path = DEFAULT_FOLDER,
    precision: str = "fp32",
    store: str = "fp32",
    decode: str = "exact",
    batch_size: int | None = None,
    on_error: str = "skip",
    labels: Any = None,
    id_column: str | None = None,
    root: str | Path | None = None,
    label_level: int | None = None,
    min_class_size: int | None = None,
    column: str | Sequence[str] = (),
    missing: str | Sequence[str] = (),
    groups: str | None = None,
    split: str | None = None,
    test: Any = None,
    head: Any = None,
    most_labels: int = 2000,
    budget: float = 120,
    time_limit: float = TIME_LIMIT,
    out: str | Path | RunsDir | None = None,
    device: str = "auto",
    n_jobs: int | None = None,
    dask: str | None = None,
    random_state: int = 0,
    progress: Progress = SILENT,
) -> Study:
    """Return learning curves with and without transfer, where they cross, and a verdict on each of its four promises.

    With 1, 2, 5, 10, 20, 50, ... and all labels a class, drawn several times, each drawn within the next, this trains:
    the head on the frozen backbone; the head on the same network with random weights; a small network from scratch;
    the head on the raw pixels, and on their twelve statistics; the dummy. All are scored on the same test images.

    Parameters
    ----------
    data : str, Path, ImageSource or FeatureCache
        Images; or a cache whose images are still where they were, because a network is trained on the pixels.
    backbone, cache, precision, store, decode, batch_size, on_error
        As for `extract`.
    layer : str
        Of the curves. Early, middle, late and penultimate are studied too, at a few numbers of labels.
    labels, id_column, root, label_level, min_class_size, column, missing, groups
        As for `evaluate`; it must come down to one label set of classes.
    split : str, optional
        A column that fixes train and test; ``none`` ignores one that the source announces.
    test : optional
        A test set of its own, as `data`. Where neither is given, a quarter of the images is drawn, the classes in
        proportion and groups and copies whole.
    head : str or estimator, optional
        What learns from features: logistic by default. Its parameters are chosen by cross-validation within the labels
        drawn, from 5 a class on; with fewer it has its defaults.
    most_labels : int
        Images to learn from, and to be tested on, at most; so many are drawn where there are more.
    budget : float
        Seconds that one training from scratch may take, the choice of its learning rate included: of one core, or by
        the clock on a GPU.
    time_limit : float
        Seconds that the whole study may take by the clock; at least half of them are for training, however long the
        embeddings take. Trainings that do not fit are skipped, later draws first, and named in the notes; the same call
        again adds them. ``inf`` skips none.
    out : path or Under, optional
        The run's folder: each result is kept there as soon as it is known, so that the same call goes on after a stop.
    device : str
        Where the backbone runs and networks are trained: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    n_jobs, dask, random_state, progress
        As for `extract`.

    Returns
    -------
    Study

    Raises
    ------
    PipelineError
        With the next step; among them a cache whose photos are gone.
    StudyStopped
        A `KeyboardInterrupt` that has what is known so far, when it is interrupted while it trains.
    """
    arguments = dict(locals())  # before any other name is bound
    started = time.perf_counter()
    if most_labels < 1 or budget <= 0:
        raise EvaluationError(
            f"expected labels and seconds to learn with, got {most_labels} labels and {budget:g} seconds",
            "--most-labels 2000 --budget 120",
        )
    extraction = check_options(arguments)
    if not time_limit > 0:
        raise EvaluationError(f"time_limit: expected seconds above 0, got {time_limit:g}", "--time-limit 540")
    found = _head(head, random_state)
    # A network of a person's own has the layers that it was saved with, which no rule puts in an order.
    own = is_graph_file(backbone.name if isinstance(backbone, Backbone) else backbone)
    layers = (layer,) if own else tuple(dict.fromkeys((layer, *NAMED_LAYERS)))
    columns = (column,) if isinstance(column, str) else tuple(column)
    beside = tuple(name for name in (groups, split) if name is not None and name != NO_SPLIT)
    asked = StudyConfig(
        features=FeatureConfig((backbone,), layers, Path(cache), extraction, progress),
        labelling=LabelConfig.of(
            labels,
            id_column=id_column,
            columns=columns,
            beside=beside,
            root=root,
            level=label_level,
            missing=missing,
        ),
        root=root,
        column=split_one_hot(columns)[0],
        groups=groups,
        split=split,
        test=test,
        min_class_size=min_class_size,
        most_labels=most_labels,
        random_state=random_state,
        progress=progress,
    )
    with engine(dask):
        subject = load_study_data(data, asked)
        for note in subject.notes:
            progress.note(note)
        where = devices_of(device)[0]
        folder = study_directory(subject, layers, found, out, progress)
        with Store.open(folder) as kept:
            try:
                kept.begin(study_scope(subject, layers, found).as_json())
                made = _studied(
                    subject, found, layer, layers, asked, kept, where, budget, n_jobs, (started, time_limit)
                )
            except BaseException:
                kept.leave_no_trace()
                raise
    made = replace(made, seconds=round(time.perf_counter() - started, 1))
    if folder is None:
        return made
    made.save(folder)
    return replace(made, folder=folder)


def _studied(
    subject: StudyData,
    head: Head,
    layer: str,
    layers: Sequence[str],
    asked: StudyConfig,
    store: Store,
    device: str,
    budget: float,
    n_jobs: int | None,
    limit: tuple[float, float],
) -> Study:
    train, test = subject.train.part, subject.test.part
    ladder = label_budgets(train.y, random_state=asked.random_state)
    teacher = TrialFactory(subject, head, ladder, asked.random_state)
    backbone = backbone_of(caches_of(subject)[0])
    sizes = sizes_of(subject.train.photos, train.rows)
    methods = _methods(teacher, backbone, layer, layers, sizes, asked, n_jobs)

    ledger = TrialCache(store, subject, {method.place: method.text for method in methods})
    lessons = teacher.lessons(methods, sizes, budget=budget, device=device)
    started, time_limit = limit
    learned: dict[TrialKey, TrialResult] = {}
    try:
        left = time_for_training(time_limit, time.perf_counter() - started)
        left_out = _learn(lessons, learned, ledger, device, n_jobs, left, asked.progress)
    except KeyboardInterrupt:
        if not learned:
            raise
        raise StudyStopped(partial_points(learned, lessons, ladder, test.y), len(learned), len(lessons)) from None
    skipped = skipped_of(left_out, lessons, ladder)
    # After all else is done: what is measured shares the cores with nothing of ours.
    where = f"{device.partition(':')[0]}, {asked.extraction['decode']}"
    measured = ledger.image_seconds(layer, where)
    if measured is None:
        measured = seconds_an_image(backbone, layer, subject.train, asked.extraction, device)
        ledger.keep_image_seconds(layer, where, measured)
    seconds = dict.fromkeys((TRANSFER, RANDOM), measured)  # random weights take as long as any

    exam = TestSet(test.y, subject.all_classes, test.groups)
    points = points_of(learned, ladder, exam, layer=layer, image_seconds=seconds, random_state=asked.random_state)
    later = [text for text in (skipped_text(skipped, time_limit),) if text]
    later += caveats(subject, points, budget)
    for note in later:
        asked.progress.note(note)
    return Study(
        name=train.collection.name,
        label_set=subject.question.name,
        classes=subject.question.classes,
        train=len(train),
        test=len(test),
        groups=None if train.groups is None else len({*train.groups, *(() if test.groups is None else test.groups)}),
        backbone=f"{backbone.name}:{backbone.weights}",
        layer=layer,
        head=head.name,
        scoring=SCORING,
        points=points,
        crossovers=crossovers_of(points, layer),
        verdicts=verdicts_of(points, layer),
        summary=summary_of(points, layer),
        about_depth=depth_text(points),
        interval=HOW,
        budget=budget_text(head, sizes, seconds=budget, device=device),
        notes=(*subject.notes, *later),
        skipped=skipped,
        provenance={
            "recipe": dict(caches_of(subject)[0].recipe),
            "caches": sorted({cache.path.name for cache in caches_of(subject)}),
            "photo_rules": PHOTO_RULES,
            "random_state": asked.random_state,
            "device": device,
            "cores": cores(),
            "versions": {name: installed(name) for name in VERSIONS},
        },
    )


def _methods(
    teacher: TrialFactory,
    backbone: Backbone,
    layer: str,
    layers: Sequence[str],
    sizes: PixelSizes,
    asked: StudyConfig,
    n_jobs: int | None,
) -> list[Method]:
    """Return all methods, with what each sees of the images."""
    subject = teacher.subject
    caches, rows = caches_of(subject), (subject.train.part.rows, subject.test.part.rows)
    recipe = caches[0].recipe
    found = [
        teacher.of_layer(
            TRANSFER, one, caches, rows, features_text(recipe, one), teacher.every if one == layer else teacher.some
        )
        for one in layers
    ]
    if backbone.is_graph:
        asked.progress.note(f"{backbone.name} cannot be had with {RANDOM}: that comparison is left out")
    elif backbone.weights != "random":
        untrained, places = untrained_features(backbone, layer, subject, asked.extraction, asked.progress)
        text = features_text(untrained[0].recipe, layer)
        found.append(teacher.of_layer(RANDOM, layer, untrained, places, text, teacher.every))
    found.append(teacher.of_statistics(caches, features_text(recipe, STATISTICS)))
    train, test = (
        read_pixels(side.photos, side.part.rows, sizes, n_jobs=n_jobs, progress=asked.progress)
        for side in (subject.train, subject.test)
    )
    found += teacher.of_pixels(train, test, pixels_text(sizes))
    found.append(teacher.dummy())
    return sorted(found, key=lambda method: METHODS.index(method.name))


def _learn(
    lessons: Sequence[AnyLesson],
    learned: dict[TrialKey, TrialResult],
    ledger: TrialCache,
    device: str,
    n_jobs: int | None,
    left: float,
    progress: Progress,
) -> list[TrialKey]:
    """Fill `learned` with what comes of all lessons, and return those that there was no time for.

    Each is kept as soon as it is done. Heads come first; the small networks have the rest of the time.
    """
    known, waiting = ledger.look_up(lessons)
    learned.update(known)
    if learned:
        progress.note(f"{len(learned):,} of {len(lessons):,} lessons are known from before")
    by_key = {lesson.key: lesson for lesson in waiting}
    left_out: list[TrialKey] = []
    end = time.time() + left

    def take(key: TrialKey, outcome: TrialResult | TrialSkipped | TrialOutOfTime) -> None:
        if isinstance(outcome, TrialOutOfTime):
            left_out.append(key)
        elif isinstance(outcome, TrialSkipped):
            progress.note(f"with {len(by_key[key].rows)} labels there is no {key.method}: {outcome.why}")
        else:
            ledger.keep(by_key[key], outcome)
            learned[key] = outcome

    heads = [lesson for lesson in waiting if isinstance(lesson, Trial)]
    networks = [lesson for lesson in waiting if isinstance(lesson, ScratchTrial)]
    jobs = workers(n_jobs)
    network_jobs = jobs if device == "cpu" else 1  # a GPU trains one network after another, in this process
    measured = None
    trial = _trial_head(heads)
    if trial is not None:
        before = time.perf_counter()
        for key, outcome in run_trials([trial], n_jobs=1):
            take(key, outcome)
        measured = trial, time.perf_counter() - before
    expected = estimate_time(heads, networks, measured)
    if waiting:
        progress.note(expected.text(jobs, network_jobs, left))
    for stage, some, count in ((HEADS_STAGE, heads, jobs), (SCRATCH_STAGE, networks, network_jobs)):
        deadline = NO_DEADLINE
        if not math.isinf(left):
            deadline = deadline_of_heads(heads, left) if some is heads else deadline_of_networks(expected, end, count)
        done = [trial] if some is heads and trial is not None else []
        progress.advance(stage, len(done), len(some))
        rest = [lesson for lesson in some if lesson not in done]
        for number, (key, outcome) in enumerate(run_trials(rest, n_jobs=count, deadline=deadline), start=1):
            take(key, outcome)
            progress.advance(stage, len(done) + number, len(some))
    return left_out


def _trial_head(heads: Sequence[Trial]) -> Trial | None:
    """Return the lesson that tells how long heads take: the first draw of transfer with the most labels."""
    found = [lesson for lesson in heads if lesson.key.method == TRANSFER and lesson.key.draw == 0]
    return max(found, key=lambda lesson: len(lesson.rows), default=None)


def _head(asked: Any, random_state: int) -> Head:
    found = resolve_heads([DEFAULT["class"] if asked is None else asked], kind="class", random_state=random_state)
    if len(found) > 1:
        raise EvaluationError(
            f"study: expected one head, got {len(found)}: {', '.join(one.name for one in found)}",
            f"--head {found[0].name}",
        )
    return found[0]
