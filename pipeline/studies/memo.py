"""The results of a study: which trials the store knows already, and what is kept of those that are done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation.memo import estimator_text, label_set_text, rows_text, versions_text
from pipeline.provenance import canonical_json, installed, sha256_json
from pipeline.runs import Store, StoredResult, UnitKey
from pipeline.studies.data import StudyData
from pipeline.studies.results import TRANSFER
from pipeline.studies.trials import SCORING, AnyTrial, ScratchTrial, Trial, TrialKey, TrialResult

# Raised when our own code comes to give other results for the same trial.
GENERATION = 1
OUTER = "study"


class TrialCache:
    """Between the trials of a study and the store.

    Parameters
    ----------
    store : Store
    subject : Subject
    named : mapping of (method, layer) to str
        What names the features of each.
    """

    def __init__(self, store: Store, subject: StudyData, named: Mapping[tuple[str, str], str]) -> None:
        self._store, self._named = store, named
        self._label_set = label_set_text(subject.question)
        self._test_digest = sha256_json(subject.test.part.digests().tobytes().hex())[:24]
        self._sides = "" if subject.train.part.groups is None else sha256_json(list(subject.train.part.groups))[:24]
        together = subject.train.part.together
        self._sides += "" if together is None else rows_text(together)

    def look_up(self, trials: Sequence[AnyTrial]) -> tuple[dict[TrialKey, TrialResult], list[AnyTrial]]:
        """Return what is known, and the trials that are not."""
        cells = {trial.key: self._cell(trial).key() for trial in trials}
        known = self._store.get(cells.values())
        done = {key: _learned(known[cell]) for key, cell in cells.items() if cell in known}
        return done, [trial for trial in trials if trial.key not in done]

    def keep(self, trial: AnyTrial, learned: TrialResult) -> None:
        """Keep what came of a trial."""
        arrays = {
            "predicted": learned.predicted.astype(np.int32),
            "train": np.array(learned.train),
            "cut_short": np.array(learned.cut_short),
            "params": np.array(learned.params),
        }
        self._store.put([(self._cell(trial), StoredResult(math.nan, arrays, (), learned.seconds))])

    def image_seconds(self, layer: str, where: str) -> float | None:
        """Return how long an image was measured to take through the backbone, where that is known."""
        cell = self._measured(layer, where)
        known = self._store.get([cell.key()])
        return known[cell.key()].seconds if known else None

    def keep_image_seconds(self, layer: str, where: str, seconds: float) -> None:
        """Keep how long an image takes through the backbone."""
        self._store.put([(self._measured(layer, where), StoredResult(math.nan, {}, (), seconds))])

    def _cell(self, trial: AnyTrial) -> UnitKey:
        if isinstance(trial, Trial):
            head, estimator = trial.head.name, estimator_text(trial.head, set(trial.head.grid))
            params = canonical_json({key: [repr(value) for value in values] for key, values in trial.head.grid.items()})
            versions = versions_text()
        else:
            head, estimator = trial.key.method, recipe_text(trial)
            params = canonical_json({"budget": trial.budget, "device": trial.device.partition(":")[0]})
            versions = f"{versions_text()}, torch {installed('torch')}"
        return UnitKey(
            features=self._named[trial.key.method, trial.key.layer],
            label_set=self._label_set,
            head=head,
            estimator=estimator,
            params=params,
            # Two draws of few labels may be the same: each is kept, so that a run that goes on says what it would have.
            outer_fold=f"{OUTER}, draw {trial.key.draw}",
            rows=f"{rows_text(trial.rows)} {self._sides} {self._test_digest}",
            inner_fold=None,
            scoring=SCORING,
            seed=trial.seed,
            versions=f"{versions}, lessons {GENERATION}",
        )

    def _measured(self, layer: str, where: str) -> UnitKey:
        named = self._named[TRANSFER, layer]
        return UnitKey(named, "", "seconds an image", where, "", OUTER, "", None, None, 0, versions_text())


def recipe_text(trial: ScratchTrial) -> str:
    """Return a digest of everything that defines training from scratch: every constant of `studies.scratch`."""
    from pipeline.studies import scratch

    constants = {name: repr(value) for name, value in vars(scratch).items() if name.isupper()}
    # Results on disk are filed under the digest of the name that `TrainingConfig` had when they were written.
    constants = {name: text.replace("TrainingConfig(", "Try(") for name, text in constants.items()}
    return sha256_json({**constants, "small": trial.small})[:24]


def _learned(known: StoredResult) -> TrialResult:
    arrays = known.arrays
    return TrialResult(
        arrays["predicted"].astype(np.int64),
        float(arrays["train"]),
        known.seconds,
        str(arrays["params"]),
        bool(arrays["cut_short"]),
    )
