"""`study`: how are the learning curves of transfer and of its rivals computed on your photos?"""

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
    """Return the run directory of the study; None if it is not kept."""
    if out is None:
        return None
    if not isinstance(out, RunsDir):
        check_is_run_directory(out)
        return Path(out)
    name = f"{subject.train.part.collection.name}-study"
    folder, moved = run_directory(study_scope(subject, layers, head), Path(out.folder) / name)
    if moved is not None:
        progress.note(moved)
    return folder


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
    """Return learning curves with and without transfer, their crossovers, and a verdict on each of the four promises.

    With 1, 2, 5, 10, 20, 50, ... and all labels per class, drawn several times, each within the next larger draw, this
    trains the head on the frozen backbone; the head on the same network with random weights; a small network from
    scratch; the head on the raw pixels, and on their twelve statistics; the dummy. All are scored on the same test
    images.

    Parameters
    ----------
    data : str, Path, ImageSource or FeatureCache
        Images; or a cache whose images are still at their recorded location, because a network is trained on pixels.
    backbone, cache, precision, store, decode, batch_size, on_error
        As for `extract`.
    layer : str
        The layer of the curves. Early, middle, late and penultimate layers are compared too, at a few label budgets.
    labels, id_column, root, label_level, min_class_size, column, missing, groups
        As for `evaluate`; they must select one label set of classes.
    split : str, optional
        A column that fixes train and test; ``none`` ignores the split that the source declares.
    test : optional
        A separate test set, as `data`. Without `split` and `test`, a quarter of the images is drawn, stratified by
        class; groups and duplicates are not divided.
    head : str or estimator, optional
        The classifier that is trained on the features, logistic by default. Its parameters are selected by
        cross-validation within the drawn labels, from 5 per class on; with fewer it has its defaults.
    most_labels : int
        Maximum number of training images and of test images; a larger set is subsampled.
    budget : float
        Seconds that one training from scratch may take, including the selection of its learning rate: seconds of one
        core, or wall-clock seconds on a GPU.
    time_limit : float
        Wall-clock seconds for the whole study; at least half of them are for training, however long the embeddings
        take. Trainings that do not fit are skipped, later draws first, and listed in the notes; the same call again
        adds them. ``inf`` skips none.
    out : path or RunsDir, optional
        The run directory: each result is stored at once, so that the same call continues after an interruption.
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
        The options, labels or images are invalid, or the photos of a cache are missing.
    StudyStopped
        A `KeyboardInterrupt` with the results so far, if the study is interrupted during training.

    Examples
    --------
    >>> result = pl.study("photos/", out="runs/bees-study")  # doctest: +SKIP
    >>> print(result.summary)  # doctest: +SKIP
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
    classifier = _resolve_head(head, random_state)
    # A user's own network has only the layers it was saved with, and their depth order is unknown.
    user_network = is_graph_file(backbone.name if isinstance(backbone, Backbone) else backbone)
    layers = (layer,) if user_network else tuple(dict.fromkeys((layer, *NAMED_LAYERS)))
    columns = (column,) if isinstance(column, str) else tuple(column)
    extra_columns = tuple(name for name in (groups, split) if name is not None and name != NO_SPLIT)
    config = StudyConfig(
        features=FeatureConfig((backbone,), layers, Path(cache), extraction, progress),
        labelling=LabelConfig.of(
            labels,
            id_column=id_column,
            columns=columns,
            beside=extra_columns,
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
        folder = study_directory(subject, layers, classifier, out, progress)
        with Store.open(folder) as kept:
            try:
                kept.begin(study_scope(subject, layers, classifier).as_json())
                result = _run_study(
                    subject, classifier, layer, layers, config, kept, where, budget, n_jobs, (started, time_limit)
                )
            except BaseException:
                kept.remove_if_empty()
                raise
    result = replace(result, seconds=round(time.perf_counter() - started, 1))
    if folder is None:
        return result
    result.save(folder)
    return replace(result, folder=folder)


def _run_study(
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
    completed: dict[TrialKey, TrialResult] = {}
    try:
        left = time_for_training(time_limit, time.perf_counter() - started)
        left_out = _run_all_trials(trials, completed, results, device, n_jobs, left, config.progress)
    except KeyboardInterrupt:
        if not completed:
            raise
        raise StudyStopped(partial_points(completed, trials, ladder, test.y), len(completed), len(trials)) from None
    skipped = skipped_of(left_out, trials, ladder)
    # Measured after all trainings, so that nothing else uses the cores.
    where = f"{device.partition(':')[0]}, {config.extraction['decode']}"
    measured = results.image_seconds(layer, where)
    if measured is None:
        measured = seconds_per_image_of(backbone, layer, subject.train, config.extraction, device)
        results.keep_image_seconds(layer, where, measured)
    seconds = dict.fromkeys((TRANSFER, RANDOM), measured)  # random weights take as long as trained ones

    test_set = TestSet(test.y, subject.all_classes, test.groups)
    points = points_of(
        completed, ladder, test_set, layer=layer, image_seconds=seconds, random_state=config.random_state
    )
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
    """Return all methods, each with its features or pixels."""
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


def _run_all_trials(
    trials: Sequence[AnyTrial],
    completed: dict[TrialKey, TrialResult],
    results: TrialCache,
    device: str,
    n_jobs: int | None,
    left: float,
    progress: Progress,
) -> list[TrialKey]:
    """Fill `completed` with the results of all trials, and return the trials that the time limit left out.

    Each result is stored as soon as it is computed. Heads come first; the small networks get the remaining time.
    """
    stored, waiting = results.look_up(trials)
    completed.update(stored)
    if completed:
        progress.note(f"{len(completed):,} of {len(trials):,} trials are reused")
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
            completed[key] = outcome

    heads = [trial for trial in waiting if isinstance(trial, Trial)]
    networks = [trial for trial in waiting if isinstance(trial, ScratchTrial)]
    jobs = workers(n_jobs)
    network_jobs = jobs if device == "cpu" else 1  # a GPU trains one network after another, in this process
    measured = None
    trial = _timing_trial(heads)
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


def _timing_trial(heads: Sequence[Trial]) -> Trial | None:
    """Return the trial that is timed to estimate the rest: the first draw of transfer with the most labels."""
    found = [trial for trial in heads if trial.key.method == TRANSFER and trial.key.draw == 0]
    return max(found, key=lambda trial: len(trial.rows), default=None)


def _resolve_head(config: Any, random_state: int) -> Head:
    found = resolve_heads([DEFAULT["class"] if config is None else config], kind="class", random_state=random_state)
    if len(found) > 1:
        raise EvaluationError(
            f"study: expected one head, got {len(found)}: {', '.join(item.name for item in found)}",
            f"--head {found[0].name}",
        )
    return found[0]
