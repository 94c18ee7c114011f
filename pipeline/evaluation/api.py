"""`evaluate`: cross-validated scores for every head on every label set, beside two baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.arguments import check_arguments
from pipeline.backbone import Backbone
from pipeline.cache import DEFAULT_FOLDER
from pipeline.errors import EvaluationError, LabelError
from pipeline.evaluation.dataset import (
    Dataset,
    FeatureConfig,
    LabelConfig,
    Source,
    attach_features,
    attach_test_features,
    load_labels,
    merge_datasets,
    open_data,
)
from pipeline.evaluation.executor import run_tasks
from pipeline.evaluation.plan import TaskPlan, join_reports, notes_for, plan_tasks_of
from pipeline.evaluation.tasks import NO_SPLIT
from pipeline.evaluation.unreadable import explain_by_unreadable
from pipeline.extraction import check_options
from pipeline.images import ImageSource
from pipeline.labels import split_one_hot
from pipeline.parallel import engine
from pipeline.progress import SILENT, Progress
from pipeline.runs import (
    Run,
    RunScope,
    RunsDir,
    Store,
    check_is_run_directory,
    earlier_stores,
    feature_name,
    run_directory,
)
from pipeline.runtime import devices_of


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `evaluate`, which has their defaults and says what each means."""

    backbone: str | Backbone | Sequence[str | Backbone]
    layer: str | Sequence[str] | None
    cache: str | Path
    precision: str
    store: str
    decode: str
    batch_size: int | None
    on_error: str
    labels: Any
    id_column: str | None
    root: str | Path | None
    label_level: int | None
    min_class_size: int | None
    column: str | Sequence[str]
    missing: str | Sequence[str]
    groups: str | None
    split: str | None
    test: Any
    heads: Any
    grid: str | Mapping[str, Any] | Sequence[str]
    cv: int
    nested: bool
    scoring: str | Sequence[str]
    out: str | Path | RunsDir | None
    device: str
    n_jobs: int | None
    dask: str | None
    random_state: int
    progress: Progress

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Options:
        """Return the options among the arguments of `evaluate`: all but its data."""
        return cls(**{name: value for name, value in arguments.items() if name != "data"})

    @property
    def columns(self) -> tuple[str, ...]:
        """The label columns; one-hot columns by the name of their label set."""
        return split_one_hot(_several(self.column))[0]

    @property
    def features(self) -> FeatureConfig:
        """Which features are used, and how they are extracted."""
        extraction = check_options(vars(self))
        backbones = (self.backbone,) if isinstance(self.backbone, str | Backbone) else tuple(self.backbone)
        layers = None if self.layer is None else _several(self.layer)
        return FeatureConfig(backbones, layers, Path(self.cache), extraction, self.progress)

    @property
    def labelling(self) -> LabelConfig:
        """Where the labels come from."""
        beside = tuple(name for name in (self.groups, self.split) if name is not None and name != NO_SPLIT)
        return LabelConfig.of(
            self.labels,
            id_column=self.id_column,
            columns=_several(self.column),
            beside=beside,
            root=self.root,
            level=self.label_level,
            missing=self.missing,
        )


@check_arguments
def evaluate(
    data: Any,
    *,
    backbone: str | Backbone | Sequence[str | Backbone] = "efficientnet_lite0",
    layer: str | Sequence[str] | None = None,
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
    heads: Any = None,
    grid: str | Mapping[str, Any] | Sequence[str] = (),
    cv: int = 5,
    nested: bool = True,
    scoring: str | Sequence[str] = (),
    out: str | Path | RunsDir | None = None,
    device: str = "auto",
    n_jobs: int | None = None,
    dask: str | None = None,
    random_state: int = 0,
    progress: Progress = SILENT,
) -> Run:
    """Return nested cross-validated scores, each with its interval and beside the dummy's and the pixels'.

    Parameters
    ----------
    data : str, Path, ImageSource, FeatureCache, or a list of them
        Images (extracted first where the cache lacks them), or a cache. Several over the very same images are
        compared on the same folds.
    backbone, layer, cache, precision, store, decode, batch_size, on_error
        As for `extract`; several backbones and layers are compared.
    labels : path, DataFrame, Series, mapping, list or array, optional
        A table with an id column and any number of label columns, as a path or a DataFrame (whose index may have the
        ids); a Series whose index has the ids; ``{id: label}`` or ``{column: {id: label}}``; or one label per image in
        the order of the ids. The source's own labels when not given.
    id_column, root : optional
        The table's id column; the folder that a table of paths is relative to.
    label_level : int, optional
        The level of the folders whose names are the labels: 1 is the top level of `data`, -1 the folder that an image
        lies in. Found from the names when not given. Of a cache, the ids give the folders.
    min_class_size : int, optional
        Leave out classes with fewer labelled images to train on than this, and tags on fewer; they are named in a note.
        When not given, a class that is too small stops the run.
    column : str or sequence of str
        Label columns, as GLOB, GLOB:class, GLOB:number, GLOB:multi (several tags per cell, split at the first of
        ``;``, ``|`` and ``,`` that occurs, or a list) or GLOB:multi(SEPARATOR); GLOB:onehot reads columns of 0 and 1
        as one label set, whose classes are their names. All that look like labels when empty.
    missing : str or sequence of str
        Texts that mean "not known" in label tables, such as ``NULL``, besides the empty cell, NA and NaN.
    groups : str, optional
        A column, of the table or the source; rows of one group stay on one side of every split, and intervals
        resample whole groups.
    split : str, optional
        A column that fixes train and test; ``none`` ignores one that the source announces.
    test : optional
        A test set of its own, as `data`; scored once. Its features are made as those of `data` were.
    heads : str, estimator, or a sequence of them, optional
        Names, ``fast``, ``all``, import paths, scikit-learn estimators; logistic (ridge for numbers) by default.
    grid : mapping, str or sequence of str
        ``{"logistic.C": [0.01, 1]}`` or ``["logistic.C=0.01,1"]``; one value fixes the parameter.
    cv : int
        Outer and inner folds, cut to what there is.
    nested : bool
        False chooses parameters once on all training rows: faster, and the scores are marked optimistic.
    scoring : str or sequence of str
        scikit-learn scorers; the first one chooses. By default balanced accuracy; R2 for numbers, mean average
        precision for tags.
    out : path or RunsDir, optional
        The run's folder: each unit of work is kept there as soon as it is done, so that the same call goes on after a
        stop, and a new value, head or label set computes just what is new; then the results are. `RunsDir` names a
        folder of runs, in which a run over something else gets a folder of its own. Nothing is kept when not given.
    device, n_jobs, dask, random_state, progress
        As for `extract`. Where a GPU is named, label sets share their work there too; "auto" searches on the CPU.

    Returns
    -------
    Run

    Raises
    ------
    PipelineError
        With the next step; whatever is wrong with labels, heads, scorings and folds is found before any image goes
        through the network.
    """
    options = Options.of(locals())  # before any other name is bound
    with engine(dask):
        return run_planned(plan_tasks(data, options), options)


def plan_tasks(
    data: Any, options: Options, *, check: Callable[[Sequence[TaskPlan]], None] = lambda tasks: None
) -> list[TaskPlan]:
    """Return the tasks with their features extracted and nothing fitted; options are checked first.

    Parameters
    ----------
    data : as for `evaluate`
    options : Options
    check : callable
        Raises if the caller cannot use these tasks; called before any note is shown.

    Raises
    ------
    PipelineError
    """
    check_options(vars(options))
    if options.test is not None and options.split not in (None, NO_SPLIT):
        raise EvaluationError(
            "expected one test set, got both a split column and test data", "leave out --split or --test"
        )
    sources = _open(data, options)
    labelling = options.labelling.bound_to(sources[0])
    known = [load_labels(source, labelling) for source in sources]
    test = known_test = None
    if options.test is not None:
        test = _only(_open(options.test, options))
        known_test = load_labels(test, labelling, own_if_strange=True)
    rehearsed = any(isinstance(source, ImageSource) for source in (*sources, test))
    if rehearsed:
        # A rehearsal: a wrong label, head or fold must be reported before an hour of inference, not after it.
        rehearsal = _plan(known, None if known_test is None else [known_test] * len(known), options)
        check(rehearsal)
        options.progress.joined(join_reports(rehearsal))

    features = options.features
    collections = merge_datasets([attach_features(*pair, features) for pair in zip(sources, known, strict=True)])
    tests = None
    if test is not None and known_test is not None:
        tests = [attach_test_features(test, known_test, collection, features) for collection in collections]
    try:
        tasks = _plan(collections, tests, options)
    except (LabelError, EvaluationError) as error:
        known_tests = None if known_test is None else [known_test] * len(known)
        raise explain_by_unreadable(
            error, [*collections, *(tests or ())], lambda: _plan(known, known_tests, options)
        ) from error
    if not rehearsed:
        check(tasks)
        options.progress.joined(join_reports(tasks))
    for note in notes_for(tasks):
        options.progress.note(note)
    return tasks


def run_planned(tasks: Sequence[TaskPlan], options: Options, *, reuse: str | Path | RunsDir | None = None) -> Run:
    """Return the results of the tasks; units already in the run's folder are not computed again.

    Parameters
    ----------
    tasks : sequence of TaskPlan
    options : Options
    reuse : path or RunsDir, optional
        Runs whose results are read too, and not computed again.
    """
    # The search uses a GPU only if one is named: finding one through torch takes longer than most searches.
    device = "cpu" if options.device in ("auto", "cpu") else devices_of(options.device)[0]
    folder = _folder(tasks, options)
    others, refused = ([], []) if reuse is None else earlier_stores(reuse, tasks[0].question.train.collection.name)
    for note in refused:
        options.progress.note(note)
    with Store.open(folder, others=others) as store:
        try:
            store.begin(_subject(tasks).as_json())
            run = run_tasks(
                tasks,
                cv=options.cv,
                nested=options.nested,
                n_jobs=options.n_jobs,
                device=device,
                random_state=options.random_state,
                progress=options.progress,
                store=store,
            )
        except BaseException:
            store.remove_if_empty()
            raise
    if folder is None:
        return run
    run.save(folder)
    return replace(run, folder=folder)


def _folder(tasks: Sequence[TaskPlan], options: Options) -> Path | None:
    """Return the folder that the run is kept in."""
    if options.out is None:
        return None
    if not isinstance(options.out, RunsDir):
        check_is_run_directory(options.out)
        return Path(options.out)
    name = tasks[0].question.train.collection.name
    place, moved = run_directory(_subject(tasks), Path(options.out.folder) / name)
    if moved is not None:
        options.progress.note(moved)
    return place


def _subject(tasks: Sequence[TaskPlan]) -> RunScope:
    label_sets = [task.question for task in tasks]
    rated = [(task, task.candidates[number]) for task in tasks for number in task.rated]
    return RunScope(
        frozenset((question.name, question.kind, *question.classes) for question in label_sets),
        frozenset(
            feature_name(task.question.train.collection.name, str(candidate.cache.path), candidate.layer)
            for task, candidate in rated
        ),
        frozenset(candidate.head.name for _, candidate in rated),
    )


def _plan(collections: Sequence[Dataset], tests: Sequence[Dataset] | None, options: Options) -> list[TaskPlan]:
    return plan_tasks_of(
        collections,
        tests,
        heads=options.heads,
        grid=[options.grid] if isinstance(options.grid, str) else options.grid,
        column=options.columns,
        groups=options.groups,
        split=options.split,
        id_column=options.id_column,
        min_class_size=options.min_class_size,
        scoring=_several(options.scoring),
        cv=options.cv,
        random_state=options.random_state,
    )


def _open(data: Any, options: Options) -> list[Source]:
    return open_data(data, Path(options.cache), options.labelling, root=options.root)


def _only(sources: list[Source]) -> Source:
    if len(sources) > 1:
        raise EvaluationError(f"test: expected one test set, got {len(sources)}", "give one folder, table or cache")
    return sources[0]


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
