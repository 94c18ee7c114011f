"""`ModelScore`: how well does a model predict labeled photos, and how is that result written and read back?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.arguments import check_arguments
from pipeline.errors import EvaluationError
from pipeline.files import replace_file
from pipeline.intervals import ScoreInterval
from pipeline.runs import RESULTS
from pipeline.runs.directory import (
    PREDICTIONS_FILE,
    REPORT,
    RUN,
    SCORE,
    SCORES_FILE,
    STUDY,
    is_report,
    report_name,
)

if TYPE_CHECKING:
    import pandas as pd


FORMAT = 1  # of score.json
KINDS = ("class", "number", "multi")
# The columns of the predictions: those of every kind, then those that each kind adds.
PREDICTIONS = ("id", "digest", "learned", "unfamiliar")
PREDICTIONS_OF = {
    "class": ("true", "predicted", "probability", "probability_true"),
    "number": ("true_value", "predicted_value"),
    "multi": ("true", "predicted"),
}
NEIGHBOURS = 3  # training photos listed for each scored photo
ABOUT = {
    "question": ("model", "photos", "labels", "column", "groups"),
    "model": ("path", "head", "layer", "backbone"),
    "data": ("place", "cache"),
    "training": ("place", "why_not"),
    "versions": (),
}  # the keys that every `about` has; their values are texts
MATTER = ABOUT["question"]  # two scores with equal values here are scores of the same model on the same data

_OURS = frozenset((SCORE, SCORES_FILE, PREDICTIONS_FILE, REPORT))
_RESCORE = "score again: pipeline score MODEL DATA --out RUN"


@dataclass(frozen=True)
class ModelScore:
    """The scores of a model on labeled photos.

    Attributes
    ----------
    label_set : str
    n : int
        Number of scored photos.
    scores : tuple of ScoreInterval
        Each with its 95% interval.
    unknown_classes : mapping of class to int
        Photos per class that is not among the training classes; all count as wrong.
    seen_in_training : tuple of str
        Ids of photos whose content is in the training data; they inflate the score.
    notes : tuple of str
    scores_apart : tuple of ScoreInterval
        The scores without those photos; empty if there are none, or no others.
    guessing : mapping of scoring to float
        The score of the best constant prediction on these photos: the most frequent class, with the class frequencies
        as probabilities; the mean; for tags the frequency of each. NaN if the scoring is undefined for it.
    kind : {"class", "number", "multi"}
    classes : tuple of str
        The training classes; empty for numbers.
    separator : str
        Between the tags in a cell; empty for the other kinds.
    name : str
        Name of the photos, for titles and file names.
    unfamiliar : int or None
        Number of photos that are further from their nearest training photo than 99% of the training photos are from
        theirs; None if that was not computed, or the training photos' embeddings were not available.
    predictions : DataFrame
        One row per photo: ``id, digest`` (of its content), ``learned`` (whether it is in the training data),
        ``unfamiliar`` (missing if not computed); for classes ``true, predicted, probability, probability_true`` and
        ``probability of NAME`` per class; for tags ``true, predicted``, as cells of a table, and
        ``probability of NAME`` per tag; for numbers ``true_value, predicted_value``. Probabilities are missing if the
        head has none. Then the nearest training photos, if they are available: ``neighbour, neighbour_label,
        similarity, neighbour_2, ...``.
    about : mapping
        Plain JSON values: ``question`` (the model's hash, the location of the photos and labels), ``model``,
        ``data``, ``training`` (where the training photos' embeddings are, or why not available), ``versions``.
    folder : Path or None
        The directory that the score was written to or read from.

    Examples
    --------
    >>> score = pl.ModelScore.open("runs/bees-score")  # doctest: +SKIP
    >>> score.table()  # doctest: +SKIP
    """

    label_set: str
    n: int
    scores: tuple[ScoreInterval, ...]
    unknown_classes: Mapping[str, int]
    seen_in_training: tuple[str, ...]
    notes: tuple[str, ...]
    scores_apart: tuple[ScoreInterval, ...] = ()
    guessing: Mapping[str, float] = field(default_factory=dict)
    kind: str = "class"
    classes: tuple[str, ...] = ()
    separator: str = ""
    name: str = ""
    unfamiliar: int | None = None
    predictions: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)
    folder: Path | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain JSON values, without the predictions; undefined values are None."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name in ("predictions", "folder"):
            del values[name]
        for name in ("scores", "scores_apart"):
            values[name] = [{key: _plain(value) for key, value in asdict(score).items()} for score in values[name]]
        for name in ("seen_in_training", "notes", "classes"):
            values[name] = list(values[name])
        values["guessing"] = {scoring: _plain(value) for scoring, value in self.guessing.items()}
        return {**values, "unknown_classes": dict(self.unknown_classes), "about": dict(self.about), "format": FORMAT}

    def table(self) -> pd.DataFrame:
        """Return a table of the scores: ``scoring, photos`` (all, or not in the training data), ``score, low, ...``.

        ``guessing`` is computed on all photos; it is missing in rows of fewer photos.
        """
        import pandas as pd

        parts = (("all", self.scores), ("not learned from", self.scores_apart))
        rows = [
            {"scoring": score.scoring, "photos": part, "score": score.value, "low": score.low, "high": score.high,
             "n": score.n, "interval": score.method,
             "guessing": self.guessing.get(score.scoring) if scores is self.scores else None}
            for part, scores in parts
            for score in scores
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def save(self, folder: str | Path) -> Path:
        """Write ``predictions.parquet``, ``scores.csv`` and, last, ``score.json``; each file is written atomically.

        Raises
        ------
        EvaluationError
            The folder cannot be written, or holds anything but a score of this model on these photos; or this score
            has no predictions.
        """
        from pipeline.cache import add_reference
        from pipeline.images import csv_text

        if self.predictions is None:
            raise EvaluationError("expected a score to keep, got one without its predictions", "Model.score")
        folder = Path(folder)
        check_score_directory(folder, self.about.get("question", {}))
        predictions = self.predictions.to_parquet(index=False)
        record = {**self.as_dict(), "predictions_sha256": hashlib.sha256(predictions).hexdigest()}
        contents = {
            PREDICTIONS_FILE: predictions,
            SCORES_FILE: csv_text(self.table()).encode(),
            SCORE: json.dumps(record, indent=1, allow_nan=False).encode(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A report of the earlier score in this folder would show other values.
            for name in (REPORT, report_name(self.name)):
                (folder / name).unlink(missing_ok=True)
            for name, content in contents.items():
                replace_file(folder / name, content)
        except OSError as error:
            raise EvaluationError(
                f"{folder}: expected to write the score here, got {error.strerror or error}",
                "give a folder that you may write with --out DIR",
            ) from error
        for entry in (self.about.get("data", {}).get("cache"), self.about.get("training", {}).get("place")):
            if entry:
                add_reference(entry, folder / SCORE)
        return folder

    @classmethod
    @check_arguments
    def open(cls, folder: str | Path) -> ModelScore:
        """Return the score in a run directory.

        Raises
        ------
        EvaluationError
            The score is missing, damaged, or has another format.
        """
        folder = Path(folder)
        record = _read(folder / SCORE)
        predictions = _read_predictions(folder / PREDICTIONS_FILE, record)
        try:
            return cls._from_dict(record, predictions, folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = " ".join(f"{type(error).__name__}: {error}".split())
            raise EvaluationError(f"{folder / SCORE}: expected a complete score, got {found}", _RESCORE) from error

    @classmethod
    def _from_dict(cls, record: Mapping[str, Any], predictions: pd.DataFrame, folder: Path) -> ModelScore:
        kind = record["kind"]
        if kind not in KINDS:
            raise ValueError(f"expected class, number or multi, got {kind!r}")
        lacking = [name for name in (*PREDICTIONS, *PREDICTIONS_OF[kind]) if name not in predictions]
        if lacking:
            raise ValueError(f"no column {', '.join(lacking)} in {PREDICTIONS_FILE}")
        if record["n"] != len(predictions):
            raise ValueError(f"{record['n']} photos, but predictions for {len(predictions)}")
        record = {"guessing": {}, **record}  # the first version did not write it
        values = {
            entry.name: record[entry.name] for entry in fields(cls) if entry.name not in ("predictions", "folder")
        }
        values["guessing"] = {_text(name): _number(value) for name, value in record["guessing"].items()}
        for name in ("scores", "scores_apart"):
            values[name] = tuple(_read_score(entry) for entry in values[name])
        for name in ("seen_in_training", "notes", "classes"):
            values[name] = tuple(_text(entry) for entry in values[name])
        for name, entries in ABOUT.items():
            for entry in entries:
                _text(values["about"][name][entry])
        for name, times in values["unknown_classes"].items():
            values["unknown_classes"][_text(name)] = int(times)
        for digest in predictions["digest"]:
            bytes.fromhex(digest)
        return cls(**values, predictions=predictions, folder=folder)


def check_score_directory(folder: Path, question: Mapping[str, Any]) -> None:
    """Raise `EvaluationError` if a folder holds anything but a score of this model on this data.

    Parameters
    ----------
    folder : Path
    question : mapping
        A value for each of `MATTER`. The hash of an unsaved model is empty; it equals no other model.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        found = "a file"
    elif (folder / RUN).exists() or (folder / RESULTS).exists():
        found = "a study" if (folder / STUDY).exists() else "a run of evaluate"
    elif (folder / SCORE).exists():
        found = _describe_difference(folder, question)
    else:
        names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
        strange = [name for name in names if name not in _OURS and not is_report(name)]
        found = f"{', '.join(strange[:3])}{', ...' if len(strange) > 3 else ''} and no {SCORE}" if strange else ""
    if found:
        raise EvaluationError(
            f"--out {folder}: expected this score or an empty folder to put the results in, got {found}",
            f"--out {folder.with_name(f'{folder.name}-score')}",
        )


def _describe_difference(folder: Path, question: Mapping[str, Any]) -> str:
    """Return how the score in a folder differs from this question, in words; empty if it does not."""
    try:
        stored = dict(_read(folder / SCORE)["about"]["question"])
    except (EvaluationError, KeyError, TypeError, ValueError):
        return f"a {SCORE} that cannot be read"
    words = {"model": "another model", "photos": "other photos", "column": "another column"}
    words |= {"labels": "other labels", "groups": "other groups"}
    differs = [words[name] for name in MATTER if stored.get(name) != question.get(name)]
    if not question.get("model"):
        differs = list(dict.fromkeys([words["model"], *differs]))
    return f"a score of {' and '.join(differs)}" if differs else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        step = "make a score: pipeline score MODEL DATA --out RUN"
        raise EvaluationError(f"{path}: expected a score, got {error.strerror or error}", step) from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: expected a score in JSON, got {error}", _RESCORE) from error
    found = record.get("format") if isinstance(record, dict) else type(record).__name__
    if found != FORMAT:
        raise EvaluationError(f"{path}: expected a score of format {FORMAT}, got {found}", _RESCORE)
    return record


def _read_predictions(path: Path, record: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(
            f"{path}: expected the predictions of the score, got {error.strerror or error}", _RESCORE
        ) from error
    if hashlib.sha256(content).hexdigest() != record.get("predictions_sha256"):
        raise EvaluationError(
            f"{path}: expected the predictions that {SCORE} was written with, got other ones (changed later, or "
            "written by a run that was stopped)",
            _RESCORE,
        )
    try:
        return pd.read_parquet(BytesIO(content))
    except Exception as error:  # Arrow raises many types without a common base class
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise EvaluationError(f"{path}: expected the predictions of the score, got {found}", _RESCORE) from error


def _read_score(entry: Mapping[str, Any]) -> ScoreInterval:
    values = {name: _number(entry[name]) for name in ("value", "low", "high")}
    return ScoreInterval(_text(entry["scoring"]), **values, method=_text(entry["method"]), n=int(entry["n"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.40}")
    return value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
