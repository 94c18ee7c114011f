"""Shared search beside GridSearchCV: ridge and lda with 7 values each, knn with 5 k x 2 weights, one BLAS thread.

    python benchmarks/search.py
    python benchmarks/search.py --rows 2000 10000 --sets 1 20 --baseline-folds 2 --jobs 2

Rows are made: 18 classes that overlap, in columns that correlate. GridSearchCV runs for one label set over
`--baseline-folds` of the 5 folds, with `--jobs` workers of one BLAS thread each, and its time is scaled to all folds
and label sets (the table says "scaled"); the shared search has as many threads. What is compared are the choices and
scores of those folds. ridge and lda are searched together, as a leaderboard does. Nothing is refitted on either side.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import numpy as np
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from pipeline.heads import resolve_heads
from pipeline.search.guard import one_thread
from pipeline.search.searcher import SharedGridSearchCV, search_many

FOLDS, CLASSES = 5, 18


def main() -> None:
    """Print a row for each number of rows, label sets and group of heads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000])
    parser.add_argument("--columns", type=int, default=1280)
    parser.add_argument("--sets", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--heads", nargs="+", default=["ridge,lda", "knn"], help="those searched together")
    parser.add_argument("--baseline-folds", type=int, default=2, help="folds that GridSearchCV runs (of 5)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="workers of GridSearchCV, and our threads")
    arguments = parser.parse_args()
    print("| heads | rows | label sets | shared, s | GridSearchCV, s (scaled) | ratio | same choice | largest gap |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in arguments.rows:
        X, ys = made(rows, arguments.columns, max(arguments.sets))
        splits = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(X, ys[0]))
        for names in arguments.heads:
            compare(names.split(","), X, ys, splits, arguments.sets, arguments.baseline_folds, arguments.jobs)
    print(f"\npeak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def compare(
    names: list[str],
    X: np.ndarray,
    ys: list[np.ndarray],
    splits: list[tuple[np.ndarray, np.ndarray]],
    sets: list[int],
    baseline_folds: int,
    jobs: int,
) -> None:
    """Print the rows of heads that are searched together."""
    heads = resolve_heads(names, kind="class")
    some = splits[:baseline_folds]
    slow, oracles = 0.0, []
    with one_thread():
        for head in heads:
            oracle = GridSearchCV(head.estimator, head.grid, scoring="accuracy", cv=some, refit=False, n_jobs=jobs)
            before = time.perf_counter()
            with parallel_config(backend="loky", inner_max_num_threads=1):
                oracle.fit(X, ys[0])
            slow += (time.perf_counter() - before) * FOLDS / len(some)
            oracles.append(np.stack([oracle.cv_results_[f"split{fold}_test_score"] for fold in range(len(some))]))
        searches = [
            SharedGridSearchCV(head.estimator, head.grid, scoring="accuracy", cv=splits, refit=False, n_jobs=jobs)
            for head in heads
        ]
        for count in sets:
            before = time.perf_counter()
            first = search_many(searches, X, ys[:count])[0]
            fast = time.perf_counter() - before
            assert all(one.shared_ for one in first)
            ours = [
                np.stack([one.cv_results_[f"split{fold}_test_score"] for fold in range(len(some))]) for one in first
            ]
            pairs = list(zip(ours, oracles, strict=True))
            same = sum(int(a.mean(axis=0).argmax() == b.mean(axis=0).argmax()) for a, b in pairs)
            difference = max(float(np.abs(a - b).max()) for a, b in pairs)
            print(
                f"| {'+'.join(names)} | {len(X)} | {count} | {fast:.2f} | {slow * count:.1f} | "
                f"{slow * count / fast:.0f} | {same} of {len(pairs)} | {difference:.1e} |",
                flush=True,
            )


def made(rows: int, columns: int, sets: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return float32 rows that look like embeddings, and label sets of which each is noisier than the last."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % CLASSES
    mixing = rng.normal(size=(columns // 8, columns)) / np.sqrt(columns // 8)
    X = rng.normal(size=(rows, columns // 8)) @ mixing + 0.5 * rng.normal(size=(rows, columns))
    X += 0.25 * rng.normal(size=(CLASSES, columns))[y]
    ys = [np.where(rng.random(rows) < 0.04 * place, rng.integers(0, CLASSES, rows), y) for place in range(sets)]
    return np.maximum(X, 0).astype(np.float32), ys


if __name__ == "__main__":
    main()
