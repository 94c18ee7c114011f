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
from pipeline.runs import RunScope as RunScope
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
    AnyTrial,
    Method,
    ScratchTrial,
    Trial,
    TrialFactory,
    TrialKey,
    TrialOutOfTime,
    TrialResult,
    TrialSkipped,
    caches_of,
    describe_budget,
    run_trials,
    seconds_per_image_of,
    untrained_features,
)


def study_scope(subject: StudyData, layers: Sequence[str], head: Head) -> RunScope:
    """Return the scope that the results store records."""
    question, train = subject.question, subject.train.part
    return RunScope(
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

    With 1, 2, 5, 10, 20, 50, ... and all labels per class, drawn several times, each within the next larger draw, this
    trains the head on the frozen backbone; the head on the same network with random weights; a small network from
    scratch; the head on the raw pixels, and on their twelve statistics; the dummy. All are scored on the same test
    images.

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
        A separate test set, as `data`. Where neither is given, a quarter of the images is drawn, the classes in
        proportion and groups and duplicates whole.
    head : str or estimator, optional
        The classifier that is trained on the features, logistic by default. Its parameters are selected by
        cross-validation within the drawn labels, from 5 per class on; with fewer it has its defaults.
    most_labels : int
        At most this many training and test images; of more, this many are drawn.
    budget : float
        Seconds that one training from scratch may take, the choice of its learning rate included: of one core, or by
        the clock on a GPU.
    time_limit : float
        Seconds that the whole study may take by the clock; at least half of them are for training, however long the
        embeddings take. Trainings that do not fit are skipped, later draws first, and named in the notes; the same call
        again adds them. ``inf`` skips none.
    out : path or RunsDir, optional
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
            f"expected labels and seconds to train with, got {most_labels} labels and {budget:g} seconds",
            "--most-labels 2000 --budget 120",
        )
    extraction = check_options(arguments)
    if not time_limit > 0:
        raise EvaluationError(f"time_limit: expected seconds above 0, got {time_limit:g}", "--time-limit 540")
    found = _head(head, random_state)
    # A user's own network has the layers that it was saved with, which no rule puts in an order.
    own = is_graph_file(backbone.name if isinstance(backbone, Backbone) else backbone)
    layers = (layer,) if own else tuple(dict.fromkeys((layer, *NAMED_LAYERS)))
    columns = (column,) if isinstance(column, str) else tuple(column)
    beside = tuple(name for name in (groups, split) if name is not None and name != NO_SPLIT)
    config = StudyConfig(
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
        subject = load_study_data(data, config)
        for note in subject.notes:
            progress.note(note)
        where = devices_of(device)[0]
        folder = study_directory(subject, layers, found, out, progress)
        with Store.open(folder) as kept:
            try:
                kept.begin(study_scope(subject, layers, found).as_json())
                made = _studied(
                    subject, found, layer, layers, config, kept, where, budget, n_jobs, (started, time_limit)
                )
            except BaseException:
                kept.remove_if_empty()
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
    config: StudyConfig,
    store: Store,
    device: str,
    budget: float,
    n_jobs: int | None,
    limit: tuple[float, float],
) -> Study:
    train, test = subject.train.part, subject.test.part
    ladder = label_budgets(train.y, random_state=config.random_state)
    factory = TrialFactory(subject, head, ladder, config.random_state)
    backbone = backbone_of(caches_of(subject)[0])
    sizes = sizes_of(subject.train.photos, train.rows)
    methods = _methods(factory, backbone, layer, layers, sizes, config, n_jobs)

    results = TrialCache(store, subject, {method.place: method.text for method in methods})
    trials = factory.trials(methods, sizes, budget=budget, device=device)
    started, time_limit = limit
    learned: dict[TrialKey, TrialResult] = {}
    try:
        left = time_for_training(time_limit, time.perf_counter() - started)
        left_out = _learn(trials, learned, results, device, n_jobs, left, config.progress)
    except KeyboardInterrupt:
        if not learned:
            raise
        raise StudyStopped(partial_points(learned, trials, ladder, test.y), len(learned), len(trials)) from None
    skipped = skipped_of(left_out, trials, ladder)
    # Measured after all trainings, so that nothing else uses the cores.
    where = f"{device.partition(':')[0]}, {config.extraction['decode']}"
    measured = results.image_seconds(layer, where)
    if measured is None:
        measured = seconds_per_image_of(backbone, layer, subject.train, config.extraction, device)
        results.keep_image_seconds(layer, where, measured)
    seconds = dict.fromkeys((TRANSFER, RANDOM), measured)  # random weights take as long as any

    test_set = TestSet(test.y, subject.all_classes, test.groups)
    points = points_of(learned, ladder, test_set, layer=layer, image_seconds=seconds, random_state=config.random_state)
    later = [text for text in (skipped_text(skipped, time_limit),) if text]
    later += caveats(subject, points, budget)
    for note in later:
        config.progress.note(note)
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
        budget=describe_budget(head, sizes, seconds=budget, device=device),
        notes=(*subject.notes, *later),
        skipped=skipped,
        provenance={
            "recipe": dict(caches_of(subject)[0].recipe),
            "caches": sorted({cache.path.name for cache in caches_of(subject)}),
            "photo_rules": PHOTO_RULES,
            "random_state": config.random_state,
            "device": device,
            "cores": cores(),
            "versions": {name: installed(name) for name in VERSIONS},
        },
    )


def _methods(
    factory: TrialFactory,
    backbone: Backbone,
    layer: str,
    layers: Sequence[str],
    sizes: PixelSizes,
    config: StudyConfig,
    n_jobs: int | None,
) -> list[Method]:
    """Return all methods, with what each sees of the images."""
    subject = factory.subject
    caches, rows = caches_of(subject), (subject.train.part.rows, subject.test.part.rows)
    recipe = caches[0].recipe
    found = [
        factory.of_layer(
            TRANSFER,
            item,
            caches,
            rows,
            features_text(recipe, item),
            factory.levels if item == layer else factory.depth_levels,
        )
        for item in layers
    ]
    if backbone.is_graph:
        config.progress.note(f"{backbone.name} is not available with {RANDOM}: that comparison is left out")
    elif backbone.weights != "random":
        untrained, places = untrained_features(backbone, layer, subject, config.extraction, config.progress)
        text = features_text(untrained[0].recipe, layer)
        found.append(factory.of_layer(RANDOM, layer, untrained, places, text, factory.levels))
    found.append(factory.of_statistics(caches, features_text(recipe, STATISTICS)))
    train, test = (
        read_pixels(side.photos, side.part.rows, sizes, n_jobs=n_jobs, progress=config.progress)
        for side in (subject.train, subject.test)
    )
    found += factory.of_pixels(train, test, pixels_text(sizes))
    found.append(factory.dummy())
    return sorted(found, key=lambda method: METHODS.index(method.name))


def _learn(
    trials: Sequence[AnyTrial],
    learned: dict[TrialKey, TrialResult],
    results: TrialCache,
    device: str,
    n_jobs: int | None,
    left: float,
    progress: Progress,
) -> list[TrialKey]:
    """Fill `learned` with the results of all trials, and return the trials that the time limit left out.

    Each is kept as soon as it is done. Heads come first; the small networks have the rest of the time.
    """
    known, waiting = results.look_up(trials)
    learned.update(known)
    if learned:
        progress.note(f"{len(learned):,} of {len(trials):,} trials are reused")
    by_key = {trial.key: trial for trial in waiting}
    left_out: list[TrialKey] = []
    end = time.time() + left

    def take(key: TrialKey, outcome: TrialResult | TrialSkipped | TrialOutOfTime) -> None:
        if isinstance(outcome, TrialOutOfTime):
            left_out.append(key)
        elif isinstance(outcome, TrialSkipped):
            progress.note(f"with {len(by_key[key].rows)} labels there is no {key.method}: {outcome.why}")
        else:
            results.keep(by_key[key], outcome)
            learned[key] = outcome

    heads = [trial for trial in waiting if isinstance(trial, Trial)]
    networks = [trial for trial in waiting if isinstance(trial, ScratchTrial)]
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
    for stage, stage_trials, count in ((HEADS_STAGE, heads, jobs), (SCRATCH_STAGE, networks, network_jobs)):
        deadline = NO_DEADLINE
        if not math.isinf(left):
            deadline = (
                deadline_of_heads(heads, left) if stage_trials is heads else deadline_of_networks(expected, end, count)
            )
        done = [trial] if stage_trials is heads and trial is not None else []
        progress.advance(stage, len(done), len(stage_trials))
        rest = [trial for trial in stage_trials if trial not in done]
        for number, (key, outcome) in enumerate(run_trials(rest, n_jobs=count, deadline=deadline), start=1):
            take(key, outcome)
            progress.advance(stage, len(done) + number, len(stage_trials))
    return left_out


def _trial_head(heads: Sequence[Trial]) -> Trial | None:
    """Return the trial that tells how long heads take: the first draw of transfer with the most labels."""
    found = [trial for trial in heads if trial.key.method == TRANSFER and trial.key.draw == 0]
    return max(found, key=lambda trial: len(trial.rows), default=None)


def _head(config: Any, random_state: int) -> Head:
    found = resolve_heads([DEFAULT["class"] if config is None else config], kind="class", random_state=random_state)
    if len(found) > 1:
        raise EvaluationError(
            f"study: expected one head, got {len(found)}: {', '.join(item.name for item in found)}",
            f"--head {found[0].name}",
        )
    return found[0]
