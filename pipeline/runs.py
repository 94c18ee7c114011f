"""`Run`: what an evaluation found, to be read, printed and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import EvaluationError

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_FOLDER = "runs"

# The columns of the leaderboard; a result holds a few more.
LEADERBOARD = (
    "label_set", "cache", "backbone", "layer", "head", "n", "scoring", "mean", "low", "high", "nested",
    "test", "test_low", "test_high", "params", "seconds",
)  # fmt: skip

CHOSEN = "chosen"
DUMMY = "dummy"
PIXELS = "pixel_statistics"


@dataclass(frozen=True)
class Result:
    """One head on one label set under one scoring. A score never travels without its interval.

    Attributes
    ----------
    label_set, cache, backbone, layer, head : str
        What was evaluated; `layer` is ``pixel_statistics`` for the null of that name, and `head` is ``chosen`` for
        the whole procedure of choosing among the heads within every fold.
    n : int
        Rows that were scored out of fold.
    scoring : str
    mean, low, high : float
        The score of all out-of-fold predictions together, and its 95% interval (None where nothing can be said).
    nested : bool
        False: the parameters were chosen on the rows they are scored on, so the score is optimistic.
    test, test_low, test_high : float or None
        The score on the fixed test set, looked at once.
    params : dict
        Chosen on all training rows, or most often over the folds where nothing was fitted on all of them.
    seconds : float
        Time spent on this head, all folds together.
    method : str
        How the interval was made.
    fold_scores : tuple of float
        The score of each outer fold.
    null : bool
        Whether this is a null to hold the others against: the dummy, or the pixel statistics.
    warnings : tuple of str
    """

    label_set: str
    cache: str
    backbone: str
    layer: str
    head: str
    n: int
    scoring: str
    mean: float
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

    @property
    def optimistic(self) -> bool:
        return not self.nested

    def as_dict(self) -> dict[str, Any]:
        values = {**self.__dict__, "optimistic": self.optimistic}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class LabelSetInfo:
    """What was asked of one label set: how many rows, which classes, how it was split."""

    name: str
    kind: str
    n: int
    classes: tuple[str, ...]
    unlabelled: int
    groups: int | None
    folds: int
    test: int | None
    scoring: str  # what the choice was made by


@dataclass(frozen=True)
class Run:
    """The results of one evaluation.

    Attributes
    ----------
    name : str
        Of the images, fit for a folder's name.
    results : tuple of Result
        Best first within each label set, nulls last.
    label_sets : tuple of LabelSetInfo
    predictions : DataFrame
        One row an image and head: ``label_set, cache, layer, head, id, part (fold number or "test"), true,
        predicted`` and, where the head gives them, the probability of the predicted class.
    notes : tuple of str
        What was left out, cut or assumed.
    verdicts : tuple of str
        One plain sentence or two a label set.
    """

    name: str
    results: tuple[Result, ...]
    label_sets: tuple[LabelSetInfo, ...]
    predictions: pd.DataFrame = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()

    def info(self, label_set: str) -> LabelSetInfo:
        return next(info for info in self.label_sets if info.name == label_set)

    def of(self, label_set: str, *, scoring: str | None = None) -> list[Result]:
        """Return one label set's results under one scoring, by default the one the choice was made by."""
        wanted = scoring or self.info(label_set).scoring
        return [result for result in self.results if result.label_set == label_set and result.scoring == wanted]

    def best(self, label_set: str | None = None) -> Result:
        """Return the best head of a label set (of the only one by default), by the scoring of the choice.

        Raises
        ------
        EvaluationError
            There are several label sets and none was named.
        """
        if label_set is None:
            if len(self.label_sets) > 1:
                raise EvaluationError(
                    f"wanted one label set, found {', '.join(info.name for info in self.label_sets)}",
                    f"--column {self.label_sets[0].name}",
                )
            label_set = self.label_sets[0].name
        return next(result for result in self.of(label_set) if not result.null and result.head != CHOSEN)

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
            "label_sets": [{**info.__dict__, "classes": list(info.classes)} for info in self.label_sets],
            "notes": list(self.notes),
            "verdicts": list(self.verdicts),
        }

    def save(self, folder: str | Path) -> Path:
        """Write ``run.json``, ``leaderboard.csv`` and ``predictions.parquet``; each appears whole or not at all."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            table = self.leaderboard()
            table["params"] = [json.dumps(params, default=str) for params in table["params"]]
            _replace(folder / "leaderboard.csv", table.to_csv(index=False).encode())
            _replace(folder / "predictions.parquet", self.predictions.to_parquet(index=False))
            text = json.dumps(self.as_dict(), indent=1, default=str, allow_nan=False)
            _replace(folder / "run.json", text.encode())
        except OSError as error:
            raise EvaluationError(
                f"{folder}: wanted to write the results here, found {error.strerror or error}",
                "give a folder that you may write with --out DIR",
            ) from error
        return folder


def as_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return predictions, one mapping of equally long columns a head, as one table."""
    import pandas as pd

    return pd.concat([pd.DataFrame(part) for part in rows], ignore_index=True) if rows else pd.DataFrame()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
