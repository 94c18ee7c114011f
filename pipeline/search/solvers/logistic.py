"""Logistic regression with every C, for many label sets and folds at once: as StandardScaler, LogisticRegression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain as chain_of

import numpy as np

from pipeline.search.predictions import Predictions, over_all_classes
from pipeline.search.solvers.backend import WorkStealingPool, arrays_on
from pipeline.search.solvers.fold_sums import Scaling, scaling
from pipeline.search.solvers.lbfgs import Stack, StackData, minimize_chains

_COLUMNS = 256  # in one stack: wide enough for the products, and 1,280 features take 40 MB of memory pairs
_FEW_CS = 3  # a path is solved in little more than the time of its last value
_FEW_FEATURES = 128
_ANSWERS = 2**24  # probabilities to hold at a time


@dataclass(frozen=True, eq=False)
class Chain:
    """One label set's classes on one training part, for every C.

    Parameters
    ----------
    y : ndarray of int, shape (m,)
        Codes 0..labels-1 of the training rows; some may be absent.
    train : ndarray of int64, shape (m,)
        Positions of the training rows in X.
    Cs : sequence of float
        In any order.
    labels : int
        How many classes there are.
    """

    y: np.ndarray
    train: np.ndarray
    Cs: Sequence[float]
    labels: int


@dataclass(frozen=True, eq=False)
class Coefficients:
    """A chain's fits, in the coordinates of X: decisions are X @ weights[i] + intercepts[i].

    Parameters
    ----------
    seen : ndarray of int64, shape (classes,)
        The classes in training, sorted.
    weights : ndarray of float64, shape (Cs, d, columns)
        One column for two classes (the second's log odds), otherwise one per class.
    intercepts : ndarray of float64, shape (Cs, columns)
    labels : int
    """

    seen: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    labels: int


def pays_off(chains: Sequence[Chain], d: int, *, device: str = "cpu") -> bool:
    """Return whether the stack is measured to be faster than scikit-learn, a fit at a time, on one core.

    Measured with 7 Cs on embeddings and on random labels, 100 to 5,000 rows, 64 to 1,280 features. A single label set
    has few columns to share products; where it also has about as many rows as features, random labels can just be
    separated and want so many rounds that sharing gains nothing. With few features, five chains (as of five folds) take
    1.3 to 12 times less time than scikit-learn's fits, which are all overhead; a single one takes up to 1.7 times more.
    """
    if device != "cpu":
        return True
    columns = sum(1 if chain.labels == 2 else chain.labels for chain in chains)
    if sum(len(chain.Cs) for chain in chains) < _FEW_CS * len(chains):
        return False
    if d < _FEW_FEATURES:
        return len(chains) > 1
    near = any(d <= len(chain.train) <= 3 * d for chain in chains)
    return columns >= 16 or not near


def logistic_coefficients(
    X: np.ndarray, chains: Sequence[Chain], *, device: str = "cpu", n_jobs: int = 1
) -> list[Coefficients | None]:
    """Return each chain's fits; None where its training part wants scikit-learn itself.

    That is where it holds a single class, values that are not finite, or a feature that hardly varies against what
    it does elsewhere; or where 2,000 rounds were too few.

    Parameters
    ----------
    X : ndarray of float32, shape (n, d)
    chains : sequence of Chain
    device : str
        "cpu", or what torch calls a GPU: "cuda", "cuda:1".
    n_jobs : int
        Threads, each with one BLAS thread, for stacks side by side. 1: the caller's thread, and BLAS as it stands.
    """
    found: list[Coefficients | None] = [None] * len(chains)
    learnt = np.zeros(len(X), dtype=bool)
    for chain in chains:
        learnt[chain.train] = True
    finite = np.zeros(len(X), dtype=bool)
    finite[learnt] = np.isfinite(X[learnt]).all(axis=1)
    places = np.cumsum(finite) - 1  # of the rows of X among the training rows
    lanes: list[_SolvableChain] = []
    parts: dict[bytes, tuple[int, np.ndarray]] = {}
    for which, chain in enumerate(chains):
        if finite[chain.train].all() and len(np.unique(chain.y)) > 1:
            rows = places[chain.train]
            part, _ = parts.setdefault(rows.tobytes(), (len(parts), rows))
            lanes.append(
                _SolvableChain(which, rows, part, *np.unique(chain.y, return_inverse=True), np.asarray(chain.Cs))
            )
    if not lanes:
        return found
    order, cuts = _alike([rows for _, rows in parts.values()], int(finite.sum()))
    moved = np.argsort(order)
    lanes = [replace(lane, rows=moved[lane.rows]) for lane in lanes]
    scaled = scaling(X[np.flatnonzero(finite)[order]], [moved[rows] for _, rows in parts.values()])
    lanes = [lane for lane in lanes if scaled.covered[lane.part]]
    if not lanes:
        return found
    team = WorkStealingPool(n_jobs)
    shared = StackData.of(scaled.A, arrays_on(device), cuts=cuts, team=team)
    stacks = _stacks(lanes, n_jobs)
    solved = team.each(lambda stack: _minima(shared, scaled, stack), stacks)
    for lane, minima in zip((lane for stack in stacks for lane in stack), chain_of.from_iterable(solved), strict=True):
        if np.isfinite(minima).all():
            found[lane.which] = _in_features(minima, lane, scaled, chains[lane.which].labels)
    return found


def _alike(parts: Sequence[np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an order of n rows in which those of the same training parts lie together, and where others begin."""
    members = np.zeros((len(parts), n), bool)
    for place, rows in enumerate(parts):
        members[place, rows] = True
    packed = np.ascontiguousarray(np.packbits(members, axis=0).T)
    keys = packed.view(f"V{packed.shape[1]}")[:, 0]
    _, first, keys = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first[keys], kind="stable")
    return order, 1 + np.flatnonzero(np.diff(keys[order]))


@dataclass(frozen=True, eq=False)
class _SolvableChain:
    """A chain that can be solved: its training rows (of A), whose training part it is, classes from 0 on."""

    which: int
    rows: np.ndarray
    part: int
    seen: np.ndarray
    codes: np.ndarray
    Cs: np.ndarray

    @property
    def width(self) -> int:
        """Columns: the second class's log odds, or one per class."""
        return 1 if len(self.seen) == 2 else len(self.seen)


def _stacks(lanes: Sequence[_SolvableChain], n_jobs: int) -> list[list[_SolvableChain]]:
    """Return the lanes dealt out to stacks of about as many columns, in each the narrow ones first."""
    columns = sum(lane.width for lane in lanes)
    many = min(len(lanes), n_jobs * -(-columns // (n_jobs * _COLUMNS)))
    dealt = sorted(lanes, key=lambda lane: lane.width)
    return [dealt[first::many] for first in range(many)]


def _minima(shared: StackData, scaled: Scaling, lanes: Sequence[_SolvableChain]) -> list[np.ndarray]:
    """Return each lane's parameters for its Cs from the smallest up, shape (Cs, columns, d + 1), as `follow` does."""
    arrays, (n, d) = shared.arrays, scaled.A.shape
    codes = np.full((len(lanes), n), -1, np.int16)
    starts = []
    for place, lane in enumerate(lanes):
        codes[place, lane.rows] = lane.codes
        share = np.bincount(lane.codes) / len(lane.codes)
        starts.append(np.log(share[1:] / share[0]) if lane.width == 1 else np.log(share) - np.log(share).mean())
    parts = [lane.part for lane in lanes]
    stack = Stack(
        shared,
        arrays.array(codes),
        np.array([lane.width for lane in lanes]),
        arrays.float32(scaled.means[parts]),
        arrays.float32(scaled.scales[parts]),
        np.array([len(lane.rows) for lane in lanes]),
    )
    W = arrays.zeros(int(stack.widths.sum()), d + 1)
    W[:, -1] = arrays.float32(np.concatenate(starts))
    return minimize_chains(stack, W, [1 / (np.sort(lane.Cs) * len(lane.rows)) for lane in lanes])


def _in_features(minima: np.ndarray, lane: _SolvableChain, scaled: Scaling, labels: int) -> Coefficients:
    """Return minima over a training part's standardised features as coefficients of the features themselves."""
    minima = minima[np.argsort(np.argsort(lane.Cs, kind="stable"), kind="stable")]  # as the Cs were given
    weights = (minima[:, :, :-1] * (scaled.scales[lane.part] / scaled.spread)).astype(np.float32)
    mean = scaled.centre + scaled.means[lane.part] * scaled.spread
    intercepts = minima[:, :, -1] - weights @ mean
    return Coefficients(lane.seen.astype(np.int64), weights.transpose(0, 2, 1), intercepts, labels)


def logistic_predictions(X: np.ndarray, fits: Sequence[Coefficients]) -> Iterator[list[Predictions]]:
    """Give what each chain says of the rows of X, a C each, from one multiplication for many chains."""
    centre = X.mean(axis=0, dtype=np.float64)
    centred = (X - centre).astype(X.dtype)  # a large mean would cost the answers their digits
    most = max(1, _ANSWERS // max(len(X), 1))
    at = 0
    while at < len(fits):
        end, columns = at + 1, fits[at].intercepts.size
        while end < len(fits) and columns + fits[end].intercepts.size <= most:
            columns += fits[end].intercepts.size
            end += 1
        batch = fits[at:end]
        W = np.concatenate([w for fit in batch for w in fit.weights], axis=1)
        answers = centred @ W
        answers += np.concatenate(
            [(b + centre @ w) for fit in batch for w, b in zip(fit.weights, fit.intercepts, strict=True)]
        )
        column = 0
        for fit in batch:
            width, predicted = fit.intercepts.shape[1], []
            for _ in fit.intercepts:
                predicted.append(_predictions(answers[:, column : column + width], fit))
                column += width
            yield predicted
        at = end


def _predictions(answers: np.ndarray, fit: Coefficients) -> Predictions:
    from scipy.special import expit, softmax

    if answers.shape[1] == 1:
        second = expit(answers)
        P = np.concatenate([1 - second, second], axis=1)
        codes = fit.seen[(answers[:, 0] > 0).astype(int)]
    else:
        P = softmax(answers, axis=1)
        codes = fit.seen[answers.argmax(axis=1)]
    return Predictions(codes, probabilities=over_all_classes(P, fit.seen, fit.labels))
