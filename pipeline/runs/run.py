"""`Run`: the results of an evaluation, and the files of its directory."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.errors import EvaluationError
from pipeline.files import replace_file
from pipeline.labels import JoinReport
from pipeline.runs.directory import (
    LEADERBOARD_FILE,
    PREDICTIONS_FILE,
    RUN,
    SCORE,
    STUDY,
    check_is_run_directory,
)

if TYPE_CHECKING:
    import pandas as pd


# The columns of the leaderboard; a result holds a few more.
LEADERBOARD = (
    "label_set", "source", "cache", "backbone", "layer", "head", "n", "scoring", "mean", "low", "high", "nested",
    "optimistic", "tied", "p_best", "test", "test_low", "test_high", "test_apart", "test_apart_low", "test_apart_high",
    "params", "params_of", "seconds",
)  # fmt: skip

CHOSEN = "chosen"
DUMMY = "dummy"
PIXELS = "pixel_statistics"
NOTHING = "none"  # the features of the dummy

# The values of `params_of`: the rows on which the parameters of a result were chosen.
ALL_ROWS = "all rows"
MOST_FOLDS = "most folds"
EACH_FOLD = "each fold"


@dataclass(frozen=True)
class Result:
    """The score of one head on one label set under one scoring, with its interval.

    Attributes
    ----------
    label_set, cache, backbone, layer, head : str
        What was evaluated; `layer` is ``pixel_statistics`` for the baseline of that name and ``none`` for the dummy;
        `head` is ``chosen`` for the whole procedure of choosing among the heads within every fold (the other three
        are then those of the best head).
    n : int
        Rows that were scored out of fold.
    scoring : str
    mean, low, high : float or None
        The score of all out-of-fold predictions together, and its 95% interval; None where nothing can be record.
    nested : bool
        False: the parameters were chosen on the rows they are scored on, so the score is optimistic.
    test, test_low, test_high : float or None
        The score on the fixed test set, looked at once.
    test_apart, test_apart_low, test_apart_high : float or None
        The same without the test images that duplicate training images; None where there are none.
    params : mapping
        Plain JSON values.
    seconds : float
        Time spent on this head, all folds together.
    method : str
        How the interval was made.
    fold_scores : tuple of float
        The score of each outer fold.
    null : bool
        Whether this is a baseline: the dummy, or the pixel statistics.
    warnings : tuple of str
    source : str
        The name of the images, which tells label sets of one name apart where several DATA were evaluated.
    tied : bool or None
        Whether the best head of this label set, by this scoring, is not shown to be better: a paired t-test over the
        outer folds, corrected for the rows that they share, at 5% after Holm's adjustment for all heads, layers,
        backbones and baselines that the best was compared with. The best is tied with itself. None for ``chosen``, and
        where fewer than 3 folds have a score.
    p_best : float or None
        That test's adjusted p value, two-sided.
    params_of : {"all rows", "most folds", "each fold"}
        Whether `params` were chosen on all training rows, as `fit` does; or are those chosen most often over the outer
        folds, because nothing was fitted on all rows; or, for ``chosen``, name the head of each fold.
    test_cache : str
        Where the features of the test images are, if the test set is one of its own; empty where they are in `cache`,
        or there is no test set.
    """

    label_set: str
    cache: str
    backbone: str
    layer: str
    head: str
    n: int
    scoring: str
    mean: float | None
    low: float | None
    high: float | None
    nested: bool
    test: float | None
    test_low: float | None
    test_high: float | None
    params: Mapping[str, Any]
    seconds: float
    method: str
    fold_scores: tuple[float | None, ...] = ()
    null: bool = False
    warnings: tuple[str, ...] = ()
    source: str = ""
    tied: bool | None = None
    p_best: float | None = None
    params_of: str = MOST_FOLDS
    test_apart: float | None = None
    test_apart_low: float | None = None
    test_apart_high: float | None = None
    test_cache: str = ""

    @property
    def optimistic(self) -> bool:
        """Whether the parameters were chosen on the rows that `mean` is about; a test score never is."""
        return not self.nested

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        values = {**self.__dict__, "optimistic": self.optimistic}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Result:
        """Return the result that `as_dict` wrote."""
        values = _select_fields(cls, record)
        values |= {name: tuple(values[name]) for name in ("fold_scores", "warnings") if name in values}
        return cls(**values)


@dataclass(frozen=True)
class TestCopy:
    """A test image and the training image that it duplicates.

    Attributes
    ----------
    id, copy_of : str
    cosine : float
        Cosine of their embeddings, centered by the mean of the training images; 1 for exact duplicates.
    exact : bool
        Whether the two files have the same bytes.
    """

    __test__ = False  # for pytest, which takes it for a test

    id: str
    copy_of: str
    cosine: float
    exact: bool


@dataclass(frozen=True)
class LabelSetInfo:
    """One label set of a run: its rows, classes and split.

    Attributes
    ----------
    name : str
    kind : {"class", "number", "multi"}
    n : int
        Rows that were used for training and scored out of fold.
    classes : tuple of str
        Classes or tags that could be learned; empty for numbers.
    unlabelled : int
        Images without a label, which were left out.
    groups : int or None
        How many there were; None where images were taken as independent.
    folds : int
    test : int or None
        Rows of the fixed test set.
    scoring : str
        What the choice was made by.
    source : str
        The name of the images.
    test_copies : tuple of TestCopy
        The test images that duplicate training images, each with the most similar one.
    test_apart : int or None
        Rows of the test set without those; None where there are none.
    """

    name: str
    kind: str
    n: int
    classes: tuple[str, ...]
    unlabelled: int
    groups: int | None
    folds: int
    test: int | None
    scoring: str
    source: str = ""
    test_copies: tuple[TestCopy, ...] = ()

    @property
    def test_apart(self) -> int | None:
        return self.test - len(self.test_copies) if self.test is not None and self.test_copies else None

    def as_dict(self) -> dict[str, Any]:
        """Return the label set as plain JSON values."""
        copies = [dict(copy.__dict__) for copy in self.test_copies]
        return {
            **self.__dict__,
            "classes": list(self.classes),
            "test_apart": self.test_apart,
            "test_copies": copies,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LabelSetInfo:
        """Return the label set that `as_dict` wrote."""
        copies = tuple(TestCopy(**copy) for copy in record.get("test_copies", ()))
        return cls(**{**_select_fields(cls, record), "classes": tuple(record["classes"]), "test_copies": copies})


def _select_fields(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a dataclass has a field for; `as_dict` also writes derived values, which are skipped."""
    return {name: value for name, value in record.items() if name in kind.__dataclass_fields__}


FORMAT = 1  # of run.json
# The columns that every table of predictions has; the others depend on the kind of the labels.
PREDICTIONS = ("label_set", "source", "cache", "layer", "head", "id", "part")
_AGAIN = "make it again: pipeline evaluate DATA --out RUN; finished units in its results.sqlite are not computed again"


@dataclass(frozen=True)
class Run:
    """The results of one evaluation.

    Attributes
    ----------
    name : str
        Of the (first) images, fit for a folder's name.
    results : tuple of Result
        Best first within each label set, baselines last.
    label_sets : tuple of LabelSetInfo
        In the order of the results; those of several DATA may share a name, and differ in `source`.
    predictions : DataFrame
        One row per image and head: ``label_set, source, cache, layer, head, id, part`` (the fold's number, or "test")
        and, for classes, ``true, predicted, probability, probability_true`` (of the predicted class and of the image's
        own; missing where the head gives none); for several tags per image ``true, predicted``, as table cells; for
        numbers ``true_value, predicted_value``. A run kept by an earlier version lacks ``probability_true``.
    notes : tuple of str
        What was left out, cut or assumed.
    verdicts : tuple of str
        One sentence per label set.
    folder : Path or None
        Where it is kept.
    joined : tuple of Joined
        What was joined to the images of each DATA: label sets with their rows and classes, ids without a partner,
        columns left out.
    """

    name: str
    results: tuple[Result, ...]
    label_sets: tuple[LabelSetInfo, ...]
    predictions: pd.DataFrame = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    folder: Path | None = field(default=None, compare=False)
    joined: tuple[JoinReport, ...] = field(default=(), compare=False)

    def info(self, label_set: str | None = None, *, source: str | None = None) -> LabelSetInfo:
        """Return the information on a label set: the only one by default, the first where several DATA share its name.

        Raises
        ------
        EvaluationError
            There is no such label set, or there are several and none was named.
        """
        names = list(dict.fromkeys(info.name for info in self.label_sets))
        if label_set is None and len(names) > 1:
            raise EvaluationError(f"expected one label set, got {', '.join(names)}", f"--column {names[0]}")
        for info in self.label_sets:
            if label_set in (None, info.name) and source in (None, info.source):
                return info
        raise EvaluationError(
            f"expected the label set {label_set!r}{'' if source is None else f' of {source}'}, got {', '.join(names)}",
            f"name one of them, e.g. {names[0]}",
        )

    def of(self, label_set: str, *, scoring: str | None = None, source: str | None = None) -> list[Result]:
        """Return one label set's results under one scoring, by default the one the choice was made by."""
        info = self.info(label_set, source=source)
        key = (info.name, info.source, scoring or info.scoring)
        return [result for result in self.results if (result.label_set, result.source, result.scoring) == key]

    def best(self, label_set: str | None = None, *, source: str | None = None) -> Result:
        """Return the best head of a label set (of the only one by default), by the scoring of the choice.

        Raises
        ------
        EvaluationError
            There is no such label set, or there are several and none was named.
        """
        info = self.info(label_set, source=source)
        rated = self.of(info.name, source=info.source)
        return next(result for result in rated if not result.null and result.head != CHOSEN)

    def leaderboard(self) -> pd.DataFrame:
        """Return the results as a table with the columns of `LEADERBOARD`."""
        import pandas as pd

        rows = [{name: getattr(result, name) for name in LEADERBOARD} for result in self.results]
        return pd.DataFrame(rows, columns=list(LEADERBOARD))

    def as_dict(self) -> dict[str, Any]:
        """Return the run as plain JSON values, without the predictions."""
        return {
            "name": self.name,
            "results": [result.as_dict() for result in self.results],
            "label_sets": [info.as_dict() for info in self.label_sets],
            "notes": list(self.notes),
            "verdicts": list(self.verdicts),
            "joined": [report.as_dict() for report in self.joined],
            "format": FORMAT,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], predictions: pd.DataFrame, *, folder: Path | None = None) -> Run:
        """Return the run that `as_dict` wrote, with its table of predictions."""
        return cls(
            name=record["name"],
            results=tuple(Result.from_dict(entry) for entry in record["results"]),
            label_sets=tuple(LabelSetInfo.from_dict(entry) for entry in record["label_sets"]),
            predictions=predictions,
            notes=tuple(record["notes"]),
            verdicts=tuple(record["verdicts"]),
            folder=folder,
            joined=tuple(JoinReport.from_dict(entry) for entry in record.get("joined", ())),
        )

    @classmethod
    @check_arguments
    def open(cls, folder: str | Path) -> Run:
        """Return the run that a folder holds.

        Raises
        ------
        EvaluationError
            There is none, a study, a score, one of another format, or a damaged one.
        """
        folder = Path(folder)
        path = folder / RUN
        for file, what, kind in ((STUDY, "a study", "Study"), (SCORE, "a score of a model", "ModelScore")):
            if not path.exists() and (folder / file).exists():
                raise EvaluationError(
                    f"{folder}: expected a run of evaluate, got {what}",
                    f"open it as what it is: {kind}.open({str(folder)!r})",
                )
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            step = "make one: pipeline evaluate DATA --out RUN"
            raise EvaluationError(f"{path}: expected a run, got {error.strerror or error}", step) from error
        except ValueError as error:
            raise EvaluationError(f"{path}: expected a run, got no JSON ({error})", _AGAIN) from error
        # The first runs were kept without a number; what they lack, they lacked.
        found = record.get("format", FORMAT) if isinstance(record, dict) else type(record).__name__
        if found != FORMAT:
            raise EvaluationError(f"{path}: expected a run of format {FORMAT}, got {found}", _AGAIN)
        predictions = _read_predictions(folder / PREDICTIONS_FILE)
        try:
            return cls.from_dict(record, predictions, folder=folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = " ".join(f"{type(error).__name__}: {error}".split())
            raise EvaluationError(f"{path}: expected a run, got one that is not whole ({found})", _AGAIN) from error

    def save(self, folder: str | Path) -> Path:
        """Write ``run.json``, ``leaderboard.csv`` and ``predictions.parquet``; each appears whole or not at all.

        Raises
        ------
        EvaluationError
            The folder cannot be written, or holds other things than a run.
        """
        from pipeline.cache import add_reference
        from pipeline.images import csv_text

        folder = Path(folder)
        check_is_run_directory(folder)
        table = self.leaderboard()
        table["params"] = [json.dumps(params) for params in table["params"]]
        contents = {
            LEADERBOARD_FILE: csv_text(table).encode(),
            PREDICTIONS_FILE: self.predictions.to_parquet(index=False),
            RUN: json.dumps(self.as_dict(), indent=1, allow_nan=False).encode(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                replace_file(folder / name, content)
        except OSError as error:
            raise EvaluationError(
                f"{folder}: expected to write the results here, got {error.strerror or error}",
                "give a folder that you may write with --out DIR",
            ) from error
        for place in {place for result in self.results for place in (result.cache, result.test_cache) if place}:
            add_reference(place, folder / RUN)
        return folder


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters under the names that a person gives them (C, not logisticregression__C), as JSON values.

    Where two steps have a parameter of one short name, both keep their full names.
    """
    short = Counter(name.rpartition("__")[2] for name in params)
    names = {name: end if short[end := name.rpartition("__")[2]] == 1 else name for name in params}
    return {names[name]: _plain(value) for name, value in params.items()}


def as_table(parts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return predictions, one mapping of equally long columns a head and part, as one table."""
    import pandas as pd

    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True) if parts else pd.DataFrame()


def _read_predictions(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except Exception as error:  # Arrow has a dozen kinds
        found = getattr(error, "strerror", None) or " ".join(f"{type(error).__name__}: {error}".split())
        raise EvaluationError(f"{path}: expected the run's predictions, got {found}", _AGAIN) from error
    lacking = [name for name in PREDICTIONS if len(table) and name not in table]
    if lacking:
        raise EvaluationError(f"{path}: expected the run's predictions, got no column {', '.join(lacking)}", _AGAIN)
    return table


def _plain(value: Any) -> Any:
    """Return a parameter's value as a plain JSON value, what JSON cannot say as text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return " ".join(repr(value).split())
