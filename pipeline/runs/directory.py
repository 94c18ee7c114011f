"""Which directory does a run write to? A directory is continued by a run over the same data, never by another one."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import EvaluationError
from pipeline.runs.store import RESULTS, Store

DEFAULT_FOLDER = "runs"
RUN = "run.json"
LEADERBOARD_FILE, PREDICTIONS_FILE = "leaderboard.csv", "predictions.parquet"
STUDY, POINTS = "study.json", "points.csv"
SCORE, SCORES_FILE = "score.json", "scores.csv"
REPORT = "report.html"  # of earlier versions; see `report_name`

_FILES = (RUN, LEADERBOARD_FILE, PREDICTIONS_FILE, STUDY, POINTS, REPORT, RESULTS, f"{RESULTS}-journal")


def report_name(name: str) -> str:
    """Return the file name of the report on the data set of this name: ``photos-report.html``."""
    plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:80]
    return f"{plain}-{REPORT}" if plain else REPORT


def is_report(file_name: str) -> bool:
    """Return whether a file in the folder of a run is its report."""
    return file_name == REPORT or file_name.endswith(f"-{REPORT}")


@dataclass(frozen=True)
class RunsDir:
    """A folder of runs: a run gets the folder of its images' name in it, or the first of name-2, name-3, ...

    Parameters
    ----------
    folder : str or Path
    """

    folder: str | Path = DEFAULT_FOLDER


@dataclass(frozen=True)
class RunScope:
    """The label sets, features and heads of a run. A run over a superset continues in the same directory.

    Parameters
    ----------
    label_sets : frozenset of tuple of str
        (name, kind, *classes).
    features : frozenset of tuple of str
        (name of the images, cache, layer).
    heads : frozenset of str
    """

    label_sets: frozenset[tuple[str, ...]]
    features: frozenset[tuple[str, ...]]
    heads: frozenset[str]

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> RunScope:
        """Return the scope of a run that is given as plain JSON values."""
        results = [result for result in run["results"] if not result["null"] and result["head"] != "chosen"]
        return cls(
            frozenset((info["name"], info["kind"], *info["classes"]) for info in run["label_sets"]),
            frozenset(feature_name(result["source"], result["cache"], result["layer"]) for result in results),
            frozenset(result["head"] for result in results),
        )

    @classmethod
    def from_json(cls, text: str) -> RunScope:
        """Return the scope that `as_json` wrote."""
        values = json.loads(text)
        label_sets, features = (frozenset(tuple(row) for row in values[name]) for name in ("label_sets", "features"))
        return cls(label_sets, features, frozenset(values["heads"]))

    def as_json(self) -> str:
        """Return the subject as row JSON object."""
        return json.dumps({name: sorted(values) for name, values in self.__dict__.items()})

    def lacking(self, other: RunScope) -> list[str]:
        """Return the parts of the other scope that this one lacks, in words."""
        words = {"label_sets": "label sets", "features": "images or features", "heads": "heads"}
        return [text for name, text in words.items() if not getattr(self, name) >= getattr(other, name)]


def feature_name(source: str, cache: str, layer: str) -> tuple[str, str, str]:
    """Return the key of a feature set: the images' name, the absolute path of the cache, and the layer."""
    return source, str(Path(cache).absolute()), layer


def check_is_run_directory(folder: str | Path) -> None:
    """Raise `EvaluationError` if a folder holds files but no run: results must not be mixed with them."""
    found = _foreign(Path(folder))
    if found:
        raise EvaluationError(
            f"{folder}: expected a run or an empty folder to put the results in, got {', '.join(found[:3])}"
            f"{', ...' if len(found) > 3 else ''} and no {RUN}",
            f"--out {Path(folder) / 'run'}",
        )


def run_directory(subject: RunScope, folder: str | Path) -> tuple[Path, str | None]:
    """Return the directory of a run: `folder`, or the first of folder-2, folder-3, ... whose results it includes.

    A run whose scope covers everything in a folder continues there: new label sets, heads or parameters are added to
    the stored results.

    Returns
    -------
    (Path, str or None)
        The directory, and the reason why it is not `folder` itself (None where it is).
    """
    folder = Path(folder)
    place, reason = folder, None
    for number in itertools.count(2):
        other = _other(place, subject)
        if other is None:
            break
        reason = reason or other
        place = folder.with_name(f"{folder.name}-{number}")
    return place, None if reason is None else f"{folder}/ holds {reason}; this run goes to {place}/"


def earlier_stores(place: str | Path | RunsDir, name: str) -> tuple[list[Store], list[str]]:
    """Return the stores of earlier runs, opened for reading, and the reasons why others cannot be read.

    Parameters
    ----------
    place : path or RunsDir
        The folder of one run; `RunsDir` names a folder of runs, of which those over these images are read.
    name : str
        Of the images.

    Returns
    -------
    (list of Store, list of str)
    """
    if isinstance(place, RunsDir):
        first = Path(place.folder) / name
        more = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
        folders = [first, *itertools.takewhile(Path.is_dir, more)]
    else:
        folders = [Path(place)]
    stores, refused = [], []
    for folder in folders:
        if (folder / RESULTS).is_file():
            try:
                stores.append(Store.read(folder))
            except EvaluationError as error:
                refused.append(f"its results are computed again: {error.message}")
    return stores, refused


def _other(place: Path, subject: RunScope) -> str | None:
    """Return the results in a folder that must not be replaced, in words; None where the run may continue there."""
    if (place / RUN).exists():
        what, file = "a run", RUN
    elif (place / RESULTS).exists():
        what, file = "a study" if (place / STUDY).exists() else "an unfinished run", RESULTS
    else:
        return "no run" if place.is_file() or _foreign(place) else None
    try:
        stored = _subject(place / file)
    except (OSError, ValueError, KeyError, TypeError, EvaluationError):
        return f"a {file} that cannot be read"
    lacking = [] if stored is None else subject.lacking(stored)
    return f"{what} over other {' and other '.join(lacking)}" if lacking else None


def _subject(path: Path) -> RunScope | None:
    if path.name == RUN:
        return RunScope.of_run(json.loads(path.read_text(encoding="utf-8")))
    with Store.open(path.parent) as store:
        text = store.subject
    return None if text is None else RunScope.from_json(text)


def _foreign(folder: Path) -> list[str]:
    """Return the names of what is in a folder without a run; empty where there is a run, nothing, or no folder."""
    if not folder.is_dir() or (folder / RUN).exists() or (folder / RESULTS).exists():
        return []
    return sorted(
        item.name
        for item in folder.iterdir()
        if not (item.name.startswith(".") or item.name in _FILES or is_report(item.name))
    )
