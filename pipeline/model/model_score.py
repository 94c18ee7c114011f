"""`ModelScore`: how a model does on labelled photos, to be read, printed and kept as ``score.json``."""

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
from pipeline.intervals import ScoreInterval
from pipeline.runs.directory import (
    PREDICTIONS_FILE,
    REPORT,
    RUN,
    SCORE,
    SCORES_FILE,
    STUDY,
    is_report,
    replace_file,
    report_name,
)
from pipeline.runs.store import RESULTS

if TYPE_CHECKING:
    import pandas as pd


FORMAT = 1  # of score.json
KINDS = ("class", "number", "multi")
# What every row of the predictions has, and what those of a kind have beside it.
PREDICTIONS = ("id", "digest", "learned", "unfamiliar")
PREDICTIONS_OF = {
    "class": ("true", "predicted", "probability", "probability_true"),
    "number": ("true_value", "predicted_value"),
    "multi": ("true", "predicted"),
}
NEIGHBOURS = 3  # training photos that are named beside each
ABOUT = {
    "question": ("model", "photos", "labels", "column", "groups"),
    "model": ("path", "head", "layer", "backbone"),
    "data": ("place", "cache"),
    "training": ("place", "why_not"),
    "versions": (),
}  # what every `about` has, texts all of them
MATTER = ABOUT["question"]  # what makes two scores answers to one question

_OURS = frozenset((SCORE, SCORES_FILE, PREDICTIONS_FILE, REPORT))
_AGAIN = "make it again: pipeline score MODEL DATA --out RUN"


@dataclass(frozen=True)
class ModelScore:
    """How a model does on labelled photos.

    Attributes
    ----------
    label_set : str
    n : int
        Photos scored.
    scores : tuple of Score
        Each with its 95% interval.
    unknown_classes : mapping of class to int
        Classes that training never saw: photos of them, all counted as wrong.
    seen_in_training : tuple of str
        Ids of photos whose content the model learned from; a score over them flatters.
    notes : tuple of str
    scores_apart : tuple of Score
        The scores without those photos; empty where there are none, or no others.
    guessing : mapping of scoring to float
        What the best guess that looks at no photo scores on these photos: the commonest class, with the shares of all
        as probabilities; the mean; of tags how common each is. NaN where that says nothing.
    kind : {"class", "number", "multi"}
    classes : tuple of str
        Those that the model learned; empty for numbers.
    separator : str
        Between the tags of a cell; empty for the other kinds.
    name : str
        Of the photos.
    unfamiliar : int or None
        Photos that lie further from the nearest training photo than 99% of those do from one another; None where that
        was not looked into, or the training photos' embeddings were not at hand.
    predictions : DataFrame
        One row a photo: ``id, digest`` (of its content), ``learned`` (whether the model learned from it),
        ``unfamiliar`` (missing where not known); for classes ``true, predicted, probability, probability_true`` and
        ``probability of NAME`` of each class, for several tags ``true, predicted``, as cells of a table, and
        ``probability of NAME`` of each tag, for numbers ``true_value, predicted_value``; probabilities are missing
        where the head gives none. Then the nearest training photos: ``neighbour, neighbour_label, similarity,
        neighbour_2, ...``, where they are known.
    about : mapping
        Plain JSON values: ``question`` (the model's hash, the photos' place, where the labels are from), ``model``,
        ``data``, ``training`` (where the training photos' embeddings are, or why nowhere), ``versions``.
    folder : Path or None
        Where it is kept.
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
        """Return the scores as plain JSON values, without the predictions; what cannot be said is None."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("predictions", "folder"):
            del values[name]
        for name in ("scores", "scores_apart"):
            values[name] = [{key: _plain(value) for key, value in asdict(one).items()} for one in values[name]]
        for name in ("seen_in_training", "notes", "classes"):
            values[name] = list(values[name])
        values["guessing"] = {scoring: _plain(value) for scoring, value in self.guessing.items()}
        return {**values, "unknown_classes": dict(self.unknown_classes), "about": dict(self.about), "format": FORMAT}

    def table(self) -> pd.DataFrame:
        """Return the scores as a table: ``scoring, photos`` (all, or those not learned from), ``score, low, ...``.

        ``guessing`` is of all photos, and missing in the rows of some.
        """
        import pandas as pd

        parts = (("all", self.scores), ("not learned from", self.scores_apart))
        rows = [
            {"scoring": one.scoring, "photos": of, "score": one.value, "low": one.low, "high": one.high, "n": one.n,
             "interval": one.method, "guessing": self.guessing.get(one.scoring) if scores is self.scores else None}
            for of, scores in parts
            for one in scores
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def save(self, folder: str | Path) -> Path:
        """Write ``predictions.parquet``, ``scores.csv`` and, last, ``score.json``; each appears whole or not at all.

        Raises
        ------
        EvaluationError
            The folder cannot be written, or holds anything but a score of this model on these photos; or this score
            has no predictions.
        """
        from pipeline.cache import add_reference
        from pipeline.images.table import csv_text

        if self.predictions is None:
            raise EvaluationError("expected a score to keep, got one without its predictions", "Model.score")
        folder = Path(folder)
        check_score_directory(folder, self.about.get("question", {}))
        predictions = self.predictions.to_parquet(index=False)
        said = {**self.as_dict(), "predictions_sha256": hashlib.sha256(predictions).hexdigest()}
        contents = {
            PREDICTIONS_FILE: predictions,
            SCORES_FILE: csv_text(self.table()).encode(),
            SCORE: json.dumps(said, indent=1, allow_nan=False).encode(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # A page of what stood here before would be about other figures.
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
        """Return the score that a run's folder holds.

        Raises
        ------
        EvaluationError
            There is none, one of another format, or a damaged one.
        """
        folder = Path(folder)
        said = _read(folder / SCORE)
        predictions = _read_predictions(folder / PREDICTIONS_FILE, said)
        try:
            return cls._from_dict(said, predictions, folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            found = " ".join(f"{type(error).__name__}: {error}".split())
            raise EvaluationError(
                f"{folder / SCORE}: expected a score, got one that is not whole ({found})", _AGAIN
            ) from error

    @classmethod
    def _from_dict(cls, said: Mapping[str, Any], predictions: pd.DataFrame, folder: Path) -> ModelScore:
        kind = said["kind"]
        if kind not in KINDS:
            raise ValueError(f"the kind {kind!r}")
        lacking = [name for name in (*PREDICTIONS, *PREDICTIONS_OF[kind]) if name not in predictions]
        if lacking:
            raise ValueError(f"no column {', '.join(lacking)} in {PREDICTIONS_FILE}")
        if said["n"] != len(predictions):
            raise ValueError(f"{said['n']} photos, and predictions of {len(predictions)}")
        said = {"guessing": {}, **said}  # not in the first ones
        values = {one.name: said[one.name] for one in fields(cls) if one.name not in ("predictions", "folder")}
        values["guessing"] = {_text(name): _number(value) for name, value in said["guessing"].items()}
        for name in ("scores", "scores_apart"):
            values[name] = tuple(_score(one) for one in values[name])
        for name in ("seen_in_training", "notes", "classes"):
            values[name] = tuple(_text(one) for one in values[name])
        for name, entries in ABOUT.items():
            for entry in entries:
                _text(values["about"][name][entry])
        for name, times in values["unknown_classes"].items():
            values["unknown_classes"][_text(name)] = int(times)
        for digest in predictions["digest"]:
            bytes.fromhex(digest)
        return cls(**values, predictions=predictions, folder=folder)


def check_score_directory(folder: Path, question: Mapping[str, Any]) -> None:
    """Raise `EvaluationError` if a folder holds anything but a score that answers this question.

    Parameters
    ----------
    folder : Path
    question : mapping
        A value for each of `MATTER`; a model that no folder holds has an empty hash, and is like no other.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        found = "a file"
    elif (folder / RUN).exists() or (folder / RESULTS).exists():
        found = "a study" if (folder / STUDY).exists() else "a run of evaluate"
    elif (folder / SCORE).exists():
        found = _differing(folder, question)
    else:
        names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
        strange = [name for name in names if name not in _OURS and not is_report(name)]
        found = f"{', '.join(strange[:3])}{', ...' if len(strange) > 3 else ''} and no {SCORE}" if strange else ""
    if found:
        raise EvaluationError(
            f"--out {folder}: expected this score or an empty folder to put the results in, got {found}",
            f"--out {folder.with_name(f'{folder.name}-score')}",
        )


def _differing(folder: Path, question: Mapping[str, Any]) -> str:
    """Return what is other about the score that a folder holds, in words; empty where nothing is."""
    try:
        theirs = dict(_read(folder / SCORE)["about"]["question"])
    except (EvaluationError, KeyError, TypeError, ValueError):
        return f"a {SCORE} that cannot be read"
    words = {"model": "another model", "photos": "other photos", "column": "another column"}
    words |= {"labels": "other labels", "groups": "other groups"}
    differs = [words[name] for name in MATTER if theirs.get(name) != question.get(name)]
    if not question.get("model"):
        differs = list(dict.fromkeys([words["model"], *differs]))
    return f"a score of {' and '.join(differs)}" if differs else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        step = "make one: pipeline score MODEL DATA --out RUN"
        raise EvaluationError(f"{path}: expected a score, got {error.strerror or error}", step) from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: expected a score, got no JSON ({error})", _AGAIN) from error
    found = said.get("format") if isinstance(said, dict) else type(said).__name__
    if found != FORMAT:
        raise EvaluationError(f"{path}: expected a score of format {FORMAT}, got {found}", _AGAIN)
    return said


def _read_predictions(path: Path, said: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(
            f"{path}: expected the predictions of the score, got {error.strerror or error}", _AGAIN
        ) from error
    if hashlib.sha256(content).hexdigest() != said.get("predictions_sha256"):
        raise EvaluationError(
            f"{path}: expected the predictions that {SCORE} was written with, got others: changed since, or left by a "
            "score that was stopped",
            _AGAIN,
        )
    try:
        return pd.read_parquet(BytesIO(content))
    except Exception as error:  # Arrow has a dozen kinds
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise EvaluationError(f"{path}: expected the predictions of the score, got {found}", _AGAIN) from error


def _score(said: Mapping[str, Any]) -> ScoreInterval:
    values = {name: _number(said[name]) for name in ("value", "low", "high")}
    return ScoreInterval(_text(said["scoring"]), **values, method=_text(said["method"]), n=int(said["n"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text that is {value!r:.40}")
    return value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
