"""Many label sets over one embedding cache: the shared search against GridSearchCV for one label set after another.

    python benchmarks/label_sets.py
    python benchmarks/label_sets.py --only "logistic, N = 2,000" --rounds 5
    python benchmarks/label_sets.py --device cuda

Embeddings are real: the bundled network's of scikit-learn's digits, turned, shifted and scaled until there are enough,
and of the built-in photo crops, drawn with other seeds. 20 label sets of the digits: the digit, each digit against the
rest, parity, loops, thresholds, remainders, primes and two random ones; 101 of the crops: each quadrant, photo, kind
and two turns against the rest. Folds are of whole originals: a copy of a test digit is never learned from.

Both sides score the same grids over the same 5 folds and refit nothing. GridSearchCV has a worker a core, ours a thread
a core, with one BLAS thread each. A side is a process that has loaded everything; they take turns, and medians count.
Where GridSearchCV would take too long it has some of the label sets, spread evenly, and its time is scaled ("3 of 20").

"Over one" is what all label sets cost over the first of them alone. Agreement is of the label sets that both had: the
same candidate chosen; the largest gap of a score (mean of the folds); the share of the first fold's test rows for which
ours and scikit-learn's fit of the chosen candidate say the same class. The default stop of scikit-learn's logistic
regression leaves weak regularisation unconverged, which is most of the gap there; `--converged` compares with fits that
have `tol=1e-8`, and times these.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from augmented import embedded
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold

from pipeline.heads import Head, resolve_heads
from pipeline.search import SharedTask, one_thread, shared_predictions
from pipeline.search.engine import shared_grid
from pipeline.search.shared_grid_search import SharedGridSearchCV, search_many

FOLDS, SCORING = 5, "accuracy"


@dataclass(frozen=True)
class Row:
    """What one row of the table compares; `compared` is how many of its label sets GridSearchCV has."""

    name: str
    heads: tuple[str, ...]
    data: str
    rows: int
    sets: int
    compared: int


TABLE = [
    Row("ridge + lda, N = 10,000", ("ridge", "lda"), "digits", 10_000, 20, 3),
    Row("knn, N = 10,000", ("knn",), "digits", 10_000, 20, 2),
    Row("logistic, N = 10,000", ("logistic",), "digits", 10_000, 20, 20),
    Row("logistic, N = 2,000", ("logistic",), "digits", 2_000, 20, 20),
    Row("logistic, one label set, N = 2,000", ("logistic",), "digits", 2_000, 1, 1),
    Row("logistic, one against the rest, N = 9,000", ("logistic",), "photo-crops", 9_000, 101, 12),
]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("features_cache"), help="where embeddings are kept")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="GridSearchCV's workers, our threads")
    parser.add_argument("--device", default="cpu", help="where ours computes: cpu or cuda")
    parser.add_argument("--only", default="", help="the rows of the table whose names begin so")
    parser.add_argument("--converged", action="store_true", help="compare with converged logistic regressions")
    arguments = parser.parse_args()
    chosen = [row for row in TABLE if row.name.startswith(arguments.only)]
    for data in sorted({row.data for row in chosen}):
        embedded(data, arguments.cache)
    print(
        "| heads | label sets | shared, s | over one | GridSearchCV, s | ratio | choices | gap | predictions | "
        "GiB, ours, theirs |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in chosen:
        with Side(row, arguments) as ours, Side(row, arguments) as theirs:
            print(compared(row, ours, theirs, arguments.rounds), flush=True)


def compared(row: Row, ours: Side, theirs: Side, rounds: int) -> str:
    """Return a row of the table: both sides take turns."""
    some = np.linspace(0, row.sets - 1, row.compared).round().astype(int).tolist()
    fast, one, slow = [], [], []
    for _ in range(rounds):
        one.append(ours.do(shared, 1)[0])
        seconds, mine = ours.do(shared, row.sets)
        fast.append(seconds)
        seconds, oracle = theirs.do(grid_searched, some)
        slow.append(seconds)
    memory = f"{ours.do(peak):.1f}, {theirs.do(peak):.1f}"
    pairs = [
        (number, head, mine[number][head], oracle[place][head])
        for place, number in enumerate(some)
        for head in range(len(row.heads))
    ]
    picks = [(number, head, int(one.mean(axis=1).argmax())) for number, head, one, _ in pairs]
    same = sum(pick == other.mean(axis=1).argmax() for (*_, pick), (*_, other) in zip(picks, pairs, strict=True))
    gap = max(float(np.abs(one.mean(axis=1) - other.mean(axis=1)).max()) for *_, one, other in pairs)
    alike = theirs.do(predictions_alike, picks)
    scaled = statistics.median(slow) * row.sets / row.compared
    said = "" if row.compared == row.sets else f" ({row.compared} of {row.sets})"
    return (
        f"| {row.name} | {row.sets} | {statistics.median(fast):.2f} | "
        f"{statistics.median(fast) / statistics.median(one):.2f} | {scaled:.0f}{said} | "
        f"{scaled / statistics.median(fast):.1f} | {same} of {len(pairs)} | {gap:.1e} | {alike:.2%} | {memory} |"
    )


class Side:
    """A process of its own that has loaded everything, and does what it is told."""

    def __init__(self, row: Row, arguments: argparse.Namespace) -> None:
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.do(load, row, arguments)

    def do(self, work: Callable[..., Any], *given: Any) -> Any:
        """Return what the work gives in that process."""
        return self._process.submit(work, *given).result()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()


# ------------------------------------------------------------------------------------- within a side

Scores = list[list[np.ndarray]]  # [label set][head], (candidates, folds)


@dataclass(frozen=True)
class Loaded:
    """What a side holds in memory."""

    X: np.ndarray
    ys: list[np.ndarray]
    splits: list[tuple[np.ndarray, np.ndarray]]
    heads: list[Head]
    oracles: list[Any]  # the heads' estimators, as GridSearchCV has them
    jobs: int
    device: str


LOADED: Loaded


def load(row: Row, arguments: argparse.Namespace) -> None:
    """Read the embeddings, and start the workers."""
    global LOADED
    X, originals, columns = embedded(row.data, arguments.cache)
    X, originals = X[: row.rows], originals[: row.rows]
    columns = {name: column[: row.rows] for name, column in columns.items()}
    ys = dig(columns["digit"]) if row.data == "digits" else crop_sets(columns)
    splits = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(X, groups=originals))
    heads = resolve_heads(row.heads, kind="class")
    oracles = [clone(head.estimator) for head in heads]
    if arguments.converged and "logistic" in row.heads:
        oracles[row.heads.index("logistic")].set_params(
            logisticregression__tol=1e-8, logisticregression__max_iter=20_000
        )
    LOADED = Loaded(X, ys[: row.sets], splits, heads, oracles, arguments.jobs, arguments.device)
    warm = np.arange(200)
    with parallel_config(backend="loky", inner_max_num_threads=1):
        GridSearchCV(heads[0].estimator, {}, cv=2, n_jobs=arguments.jobs).fit(X[warm], np.arange(200) % 2)


def dig(digit: np.ndarray) -> list[np.ndarray]:
    """Return 20 label sets of the digits, classes as codes."""
    rng = np.random.default_rng(1)
    loops = np.array([1, 0, 0, 0, 1, 0, 1, 0, 2, 1])
    return [
        digit,
        *((digit == one).astype(int) for one in range(10)),
        digit % 2,
        loops[digit],
        *((digit > one).astype(int) for one in (2, 4, 6)),
        digit % 3,
        np.isin(digit, [2, 3, 5, 7]).astype(int),
        *(rng.integers(0, classes, len(digit)) for classes in (2, 3)),
    ]


def crop_sets(columns: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return 101 label sets of the crops: each value of the columns against the rest, of the last column two."""
    values = [(column == value).astype(int) for column in columns.values() for value in np.unique(column)]
    return values[:101]


def shared(sets: int) -> tuple[float, Scores]:
    """Return seconds and scores of the first label sets, all together."""
    it = LOADED
    searches = [
        SharedGridSearchCV(
            head.estimator, head.grid, scoring=SCORING, cv=it.splits, refit=False, n_jobs=it.jobs, device=it.device
        )
        for head in it.heads
    ]
    before = time.perf_counter()
    found = search_many(searches, it.X, it.ys[:sets])
    return time.perf_counter() - before, [[table(one) for one in mine] for mine in found]


def grid_searched(some: Sequence[int]) -> tuple[float, Scores]:
    """Return seconds and scores of some label sets, one after another."""
    it, found = LOADED, []
    before = time.perf_counter()
    with one_thread(), parallel_config(backend="loky", inner_max_num_threads=1):
        for number in some:
            found.append([])
            for oracle, head in zip(it.oracles, it.heads, strict=True):
                search = GridSearchCV(oracle, head.grid, scoring=SCORING, cv=it.splits, refit=False, n_jobs=it.jobs)
                found[-1].append(table(search.fit(it.X, it.ys[number])))
    return time.perf_counter() - before, found


def table(search: GridSearchCV) -> np.ndarray:
    """Return a search's scores, (candidates, folds)."""
    return np.stack([search.cv_results_[f"split{fold}_test_score"] for fold in range(FOLDS)], axis=1)


def predictions_alike(picks: Sequence[tuple[int, int, int]]) -> float:
    """Return the share of the first fold's test rows that ours and scikit-learn's fits give the same class.

    Parameters
    ----------
    picks : sequence of (label set, head, candidate)
    """
    it = LOADED
    train, test = it.splits[0]
    shares, tasks, oracles = [], [], []
    for number, place, pick in picks:
        head, y = it.heads[place], it.ys[number]
        whole = shared_grid(head.estimator, head.grid, "class")
        assert whole is not None
        tasks.append(SharedTask([whole], y, [(train, test)], int(y.max()) + 1))
        oracles.append(clone(it.oracles[place]).set_params(**whole.candidates[pick]))
    for said in shared_predictions(it.X, tasks, n_jobs=it.jobs, device=it.device):
        if said.predictions is None:  # scikit-learn's own: there is nothing to compare
            continue
        number, _, pick = picks[said.task]
        theirs = oracles[said.task].fit(it.X[train], it.ys[number][train]).predict(it.X[test])
        shares.append(float((said.predictions[pick].labels == theirs).mean()))
    return float(np.mean(shares)) if shares else 1.0


def peak() -> float:
    """Return the most memory that this process, or one of GridSearchCV's workers, had in use, in GiB."""
    import resource

    from joblib.externals.loky import get_reusable_executor

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    get_reusable_executor().shutdown(wait=True)
    return max(most, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 2**20


if __name__ == "__main__":
    main()
