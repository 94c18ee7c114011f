"""`Run`: what an evaluation found, to be read, printed and kept."""

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
from pipeline.labels import JoinReport
from pipeline.runs.folder import (
    LEADERBOARD_FILE,
    PREDICTIONS_FILE,
    RUN,
    SCORE,
    STUDY,
    check_is_run_directory,
    replace_file,
)
from pipeline.runs.results import CHOSEN, LEADERBOARD, LabelSetInfo, Result

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # of run.json
# What every row of the predictions has; the rest depends on the kind of the labels.
PREDICTIONS = ("label_set", "source", "cache", "layer", "head", "id", "part")
_AGAIN = "make it again: pipeline evaluate DATA --out RUN; what is in its results.sqlite is not computed anew"


@dataclass(frozen=True)
class Run:
    """The results of one evaluation.

    Attributes
    ----------
    name : str
        Of the (first) images, fit for a folder's name.
    results : tuple of Result
        Best first within each label set, nulls last.
    label_sets : tuple of LabelSetInfo
        In the order of the results; those of several DATA may share a name, and differ in `source`.
    predictions : DataFrame
        One row an image and head: ``label_set, source, cache, layer, head, id, part`` (the fold's number, or "test")
        and, for classes, ``true, predicted, probability, probability_true`` (of the predicted class and of the image's
        own; missing where the head gives none); for several tags an image ``true, predicted``, as cells of a table; for
        numbers ``true_value, predicted_value``. A run kept by an earlier version lacks ``probability_true``.
    notes : tuple of str
        What was left out, cut or assumed.
    verdicts : tuple of str
        One plain sentence a label set.
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
        """Return what was asked of a label set: of the only one by default, of the first where DATA share a name.

        Raises
        ------
        EvaluationError
            There is no such label set, or there are several and none was named.
        """
        names = list(dict.fromkeys(info.name for info in self.label_sets))
        if label_set is None and len(names) > 1:
            raise EvaluationError(f"wanted one label set, found {', '.join(names)}", f"--column {names[0]}")
        for info in self.label_sets:
            if label_set in (None, info.name) and source in (None, info.source):
                return info
        raise EvaluationError(
            f"wanted the label set {label_set!r}{'' if source is None else f' of {source}'}, found {', '.join(names)}",
            f"name one of them, e.g. {names[0]}",
        )

    def of(self, label_set: str, *, scoring: str | None = None, source: str | None = None) -> list[Result]:
        """Return one label set's results under one scoring, by default the one the choice was made by."""
        info = self.info(label_set, source=source)
        wanted = (info.name, info.source, scoring or info.scoring)
        return [result for result in self.results if (result.label_set, result.source, result.scoring) == wanted]

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
            "joined": [one.as_dict() for one in self.joined],
            "format": FORMAT,
        }

    @classmethod
    def from_dict(cls, said: Mapping[str, Any], predictions: pd.DataFrame, *, folder: Path | None = None) -> Run:
        """Return the run that `as_dict` told, with its table of predictions."""
        return cls(
            name=said["name"],
            results=tuple(Result.from_dict(one) for one in said["results"]),
            label_sets=tuple(LabelSetInfo.from_dict(one) for one in said["label_sets"]),
            predictions=predictions,
            notes=tuple(said["notes"]),
            verdicts=tuple(said["verdicts"]),
            folder=folder,
            joined=tuple(JoinReport.from_dict(one) for one in said.get("joined", ())),
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
                    f"{folder}: wanted a run of evaluate, found {what}",
                    f"open it as what it is: {kind}.open({str(folder)!r})",
                )
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            step = "make one: pipeline evaluate DATA --out RUN"
            raise EvaluationError(f"{path}: wanted a run, found {error.strerror or error}", step) from error
        except ValueError as error:
            raise EvaluationError(f"{path}: wanted a run, found no JSON ({error})", _AGAIN) from error
        # The first runs were kept without a number; what they lack, they lacked.
        found = said.get("format", FORMAT) if isinstance(said, dict) else type(said).__name__
        if found != FORMAT:
            raise EvaluationError(f"{path}: wanted a run of format {FORMAT}, found {found}", _AGAIN)
        predictions = _read_predictions(folder / PREDICTIONS_FILE)
        try:
            return cls.from_dict(said, predictions, folder=folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = " ".join(f"{type(error).__name__}: {error}".split())
            raise EvaluationError(f"{path}: wanted a run, found one that is not whole ({found})", _AGAIN) from error

    def save(self, folder: str | Path) -> Path:
        """Write ``run.json``, ``leaderboard.csv`` and ``predictions.parquet``; each appears whole or not at all.

        Raises
        ------
        EvaluationError
            The folder cannot be written, or holds other things than a run.
        """
        from pipeline.cache import add_reference
        from pipeline.images.cells import csv_text

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
                f"{folder}: wanted to write the results here, found {error.strerror or error}",
                "give a folder that you may write with --out DIR",
            ) from error
        for place in {place for one in self.results for place in (one.cache, one.test_cache) if place}:
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
        raise EvaluationError(f"{path}: wanted the run's predictions, found {found}", _AGAIN) from error
    lacking = [name for name in PREDICTIONS if len(table) and name not in table]
    if lacking:
        raise EvaluationError(f"{path}: wanted the run's predictions, found no column {', '.join(lacking)}", _AGAIN)
    return table


def _plain(value: Any) -> Any:
    """Return a parameter's value as a plain JSON value, what JSON cannot say as text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return " ".join(repr(value).split())
