"""Limited-memory BFGS for a stack of chains, each along its own path of penalties, all of them in step.

Nocedal and Wright, Numerical Optimization, 2nd edition, section 7.2 (the two loops) and 3.1 (backtracking).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.search.solvers.backend import Arrays, WorkStealingPool

_RANK = 512  # eigenpairs that the preconditioner knows; below them it takes the directions as equal
_FEW = 64
_SAMPLE = 20_000  # rows that the eigenpairs are taken from, at most


@dataclass(frozen=True, eq=False)
class StackData:
    """What all chains share: the rows, standardised over all of them, and the directions in which these spread.

    Parameters
    ----------
    arrays : Arrays
    A : array of float32, shape (n, d)
    values : array, shape (r,)
        The largest eigenvalues of A'A / n.
    vectors : array, shape (d, r)
    rest : float
        The mean of the other eigenvalues.
    blocks : list of slice
        Rows to work on at a time.
    team : Team
        Threads that help with the blocks when they have nothing else to do.
    """

    arrays: Arrays
    A: Any
    values: Any
    vectors: Any
    rest: float
    blocks: list[slice]
    team: WorkStealingPool

    @staticmethod
    def of(
        A: np.ndarray, arrays: Arrays, *, cuts: Sequence[int] | np.ndarray = (), team: WorkStealingPool | None = None
    ) -> StackData:
        """Return standardised rows with their eigenpairs, from those of the smaller side.

        Parameters
        ----------
        A : ndarray of float32, shape (n, d)
        arrays : Arrays
        cuts : sequence or array of int
            Positions where the training rows of other chains begin: blocks begin there too.
        team : Team, optional
        """
        n, d = A.shape
        A = arrays.float32(A)
        sample = A[:: -(-n // _SAMPLE)]
        m = len(sample)
        total = float((sample * sample).sum()) / m
        if m < d:
            values, left = arrays.eigenpairs(sample @ sample.T / m)
            real = values > 1e-6 * values[-1]
            values, left = values[real], left[:, real]
            vectors = sample.T @ (left / (values * m) ** 0.5)
        else:
            values, vectors = arrays.eigenpairs(sample.T @ sample / m)
        values, vectors = values[-_RANK:], vectors[:, -_RANK:]
        r = len(values)
        rest = max(total - float(values.sum()), 0.0) / (d - r) if r < d else 0.0
        return StackData(
            arrays, A, values, arrays.copied(vectors), rest, _blocks(n, cuts, arrays.block), team or WorkStealingPool()
        )


def _blocks(n: int, cuts: Sequence[int] | np.ndarray, most: int) -> list[slice]:
    """Return the rows in blocks of at most so many, none less than half of it for a cut's sake."""
    edges = [0]
    for cut in [*sorted(cuts), n]:
        if cut - edges[-1] >= most // 2 or cut == n:
            pieces = max(1, -(-(cut - edges[-1]) // most))
            edges += np.linspace(edges[-1], cut, pieces + 1).astype(int).tolist()[1:]
    return [slice(start, end) for start, end in pairwise(edges)]


@dataclass(frozen=True, eq=False)
class Stack:
    """p chains of k columns altogether: a chain of two classes has one column, of c classes c columns.

    A chain's own standardisation never touches the rows: it is a scale on the weights and a shift of the answers.

    Parameters
    ----------
    shared : Shared
    codes : array of int16, shape (p, n)
        The class of each row for each chain, -1 where the row is not a training row of the chain. Chains of equally
        many columns lie side by side.
    widths : ndarray of int, shape (p,)
        Columns of each chain.
    means, scales : array of float32, shape (p, d)
        Of A over the training rows of each chain; the scales are to multiply with (0: a constant feature).
    counts : ndarray, shape (p,)
        Number of training rows of each chain.
    """

    shared: StackData
    codes: Any
    widths: np.ndarray
    means: Any
    scales: Any
    counts: np.ndarray

    def __post_init__(self) -> None:
        owners = np.repeat(np.arange(len(self.widths)), self.widths)
        object.__setattr__(self, "owners", self.shared.arrays.array(owners))
        object.__setattr__(self, "starts", np.concatenate([[0], np.cumsum(self.widths)[:-1]]).astype(np.intp))
        if self.learning is None:
            blocks = [(self.codes[:, rows] >= 0).any(1) for rows in self.shared.blocks]
            learning = np.stack([np.asarray(self.shared.arrays.numpy(block), bool) for block in blocks], axis=1)
            object.__setattr__(self, "learning", learning)

    owners: Any = None  # (k,): the chain of each column
    starts: Any = None  # (p,): the first column of each chain
    learning: Any = None  # bool (p, blocks): which chains have a training row in a block

    def __len__(self) -> int:
        return len(self.widths)

    def take(self, kept: np.ndarray) -> Stack:
        """Return a stack of some of the chains (bool of shape (p,))."""
        chosen = self.shared.arrays.array(np.flatnonzero(kept))
        return Stack(
            self.shared,
            self.codes[chosen],
            self.widths[kept],
            self.means[chosen],
            self.scales[chosen],
            self.counts[kept],
            learning=self.learning[kept],
        )

    def columns(self, kept: np.ndarray) -> Any:
        """Return the positions of some chains' columns."""
        return self.shared.arrays.array(np.flatnonzero(np.repeat(kept, self.widths)))

    def spread(self, values: np.ndarray) -> Any:
        """Return one number a chain as a column for each of its columns: (p,) -> (k, 1)."""
        return self.shared.arrays.float32(np.repeat(values, self.widths))[:, None]

    def totals(self, values: Any) -> np.ndarray:
        """Return the sum over each chain's columns, in float64: (k,) -> (p,)."""
        return np.add.reduceat(self.shared.arrays.numpy(values), self.starts)

    def dot(self, U: Any, V: Any) -> np.ndarray:
        """Return each chain's inner product of two sets of parameters: (k, d + 1), (k, d + 1) -> (p,)."""
        return self.totals(self.shared.arrays.xp.einsum("ij,ij->i", U, V))

    def evaluate(self, W: Any) -> tuple[np.ndarray, Any, Any]:
        """Return each chain's mean log loss, its gradient, and the mean curvature of each column's answers.

        Parameters
        ----------
        W : array, shape (k, d + 1)
            Weights in each chain's own standardised features; the intercept last.

        Returns
        -------
        losses : ndarray of float64, shape (p,)
        gradient : array, shape (k, d + 1)
        curvatures : array, shape (k, 1)
        """
        arrays, A = self.shared.arrays, self.shared.A
        xp = arrays.xp
        means, scales = self.means[self.owners], self.scales[self.owners]
        U = W[:, :-1] * scales
        shift = (W[:, -1] - xp.einsum("ij,ij->i", U, means))[:, None]
        losses, G = np.zeros(len(self)), arrays.zeros(*U.shape)
        sums, curvatures = arrays.zeros(len(U)), arrays.zeros(len(U))

        def over(place: int) -> tuple[np.ndarray, Any, Any, Any]:
            learning, which = self.learning[:, place], self.shared.blocks[place]
            rows, codes = A[which], self.codes[:, which]
            u, b = U, shift
            if not learning.all():
                u, b = U[self.columns(learning)], shift[self.columns(learning)]
                codes = codes[arrays.array(np.flatnonzero(learning))]
            # BLAS takes few columns better as columns, many better as rows: up to three times.
            Z = arrays.copied((rows @ u.T).T) if len(u) < _FEW else u @ rows.T
            Z += b
            loss, R, curvature = self._residuals(Z, codes, self.widths[learning])
            return loss, R @ rows, R.sum(axis=1), curvature

        # Summed in the order of the blocks, whichever thread did them: equal rows give equal sums to the last bit.
        used_blocks = np.flatnonzero(self.learning.any(axis=0)).tolist()
        for place, found in zip(used_blocks, self.shared.team.map(over, used_blocks), strict=True):
            learning, (loss, products, total, curvature) = self.learning[:, place], found
            losses[learning] += loss
            which = slice(None) if learning.all() else self.columns(learning)
            G[which] += products
            sums[which] += total
            curvatures[which] += curvature
        sums = sums[:, None]
        G -= sums * means
        G *= scales
        gradient = xp.concatenate([G, sums], axis=1)
        gradient *= self.spread(1 / self.counts)
        return losses / self.counts, gradient, curvatures[:, None] * self.spread(1 / self.counts)

    def _residuals(self, Z: Any, codes: Any, widths: np.ndarray) -> tuple[np.ndarray, Any, Any]:
        """Return summed losses (p,), probabilities less truth (k, rows), and summed p (1 - p) (k,) of some rows."""
        parts, first, column = [], 0, 0
        for width, many in zip(*np.unique(widths, return_counts=True), strict=True):
            z = Z[column : column + many * width].reshape(many, width, -1)
            y = codes[first : first + many, None]
            parts.append(_two_classes(self.shared.arrays, z, y) if width == 1 else _softmax(self.shared.arrays, z, y))
            first, column = first + many, column + many * width
        if len(parts) == 1:
            loss, R, curvature = parts[0]
        else:
            loss, R, curvature = (self.shared.arrays.xp.concatenate(part) for part in zip(*parts, strict=True))
        return self.shared.arrays.numpy(loss), R, curvature

    def precondition(self, Q: Any, curvatures: Any, penalties: Any) -> Any:
        """Return Q times an approximate inverse of the Hessian: that of equally curved answers on all the rows.

        The eigenpairs give the inverse of curvature x A'A / n + penalty; what they leave out is taken as their rest.
        """
        shared = self.shared

        def of(which: slice) -> Any:
            q, curved, penalty = Q[which], curvatures[which], penalties[which]
            plain = 1 / (curved * shared.rest + penalty)
            turned = q[:, :-1] @ shared.vectors
            turned *= 1 / (curved * shared.values + penalty) - plain
            weights = turned @ shared.vectors.T
            weights += plain * q[:, :-1]
            return shared.arrays.xp.concatenate([weights, q[:, -1:] / curved], axis=1)

        return shared.arrays.xp.concatenate(shared.team.map(of, _blocks(len(Q), (), _FEW)))

    def preconditioned_square(self, Q: Any, curvatures: Any, penalties: Any) -> np.ndarray:
        """Return each chain's Q' precondition(Q), shape (p,)."""
        shared, xp = self.shared, self.shared.arrays.xp
        plain = 1 / (curvatures * shared.rest + penalties)
        turned = Q[:, :-1] @ shared.vectors
        turned *= turned
        whole = xp.einsum("ij,ij->i", Q[:, :-1], Q[:, :-1])[:, None]
        square = turned * (1 / (curvatures * shared.values + penalties) - plain)
        return self.totals(square.sum(axis=1) + (plain * whole + Q[:, -1:] ** 2 / curvatures)[:, 0])


def _two_classes(arrays: Arrays, z: Any, codes: Any) -> tuple[Any, Any, Any]:
    """Return losses (p,), residuals (p, rows) and curvatures (p,) of chains with one column.

    Parameters
    ----------
    z : array, shape (p, 1, rows)
    codes : array, shape (p, 1, rows)
    """
    xp = arrays.xp
    z, codes = z[:, 0], codes[:, 0]
    learnt = arrays.float32(codes >= 0)
    second = codes > 0
    e = xp.exp(-xp.abs(z))
    q = 1 / (1 + e)  # the likelier class's probability; the other's is e q, which 1 - q would round away
    wrong = (z > 0) != second
    loss = xp.where(wrong, -z * _signs(arrays, second), 0 * z) - xp.log(q)
    other = e * q
    residual = xp.where(wrong, q, other) * -_signs(arrays, second) * learnt
    curvature = other * q
    return xp.einsum("ij,ij->i", loss, learnt), residual, xp.einsum("ij,ij->i", curvature, learnt)


def _signs(arrays: Arrays, second: Any) -> Any:
    return 2 * arrays.float32(second) - 1


def _softmax(arrays: Arrays, z: Any, codes: Any) -> tuple[Any, Any, Any]:
    """Return losses (p,), residuals (p c, rows) and curvatures (p c,) of chains with c columns.

    Parameters
    ----------
    z : array, shape (p, c, rows)
    codes : array, shape (p, 1, rows)
    """
    xp = arrays.xp
    c = z.shape[1]
    learnt = arrays.float32(codes >= 0)
    y = arrays.float32(codes == arrays.array(np.arange(c, dtype=np.int16))[None, :, None])
    z = z - xp.amax(z, 1)[:, None]
    P = xp.exp(z)
    sums = P.sum(axis=1)[:, None]
    loss = xp.log(sums) * learnt - (y * z).sum(axis=1)[:, None]  # y is 0 where nothing is learnt
    P *= learnt / sums
    curvature = P.sum(axis=2) - xp.einsum("pcn,pcn->pc", P, P)
    P -= y
    return loss.sum(axis=2)[:, 0], P.reshape(-1, z.shape[2]), curvature.reshape(-1)


_PAIRS = 10
# A minimum is reached where the steepest slope and the gap to it (a share of the objective, by the model that the pairs
# make) are both this small: at scikit-learn's own slope if next to nothing is left to gain, else at a tenth of it.
_STOPS = ((1e-4, 2e-7), (1e-5, 2e-6))
_SHALLOW = 0.5  # a step is long enough where the slope along it is no more than this part of the first
_ARMIJO = 1e-4
_TRIES = 8
_ROUNDS = 2000  # of one value of C, as the catalogue's max_iter


def minimize_chains(stack: Stack, W: Any, paths: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the minimisers of mean log loss + penalty / 2 ||weights||^2 for every penalty of every chain.

    Parameters
    ----------
    stack : Stack
        p chains of k columns.
    W : array, shape (k, d + 1)
        Where to start; the intercepts, in the last column, are not penalised.
    paths : sequence of ndarray
        Each chain's penalties, the largest first: the next minimum is sought from the one before.

    Returns
    -------
    list of ndarray of float64, shape (penalties, columns, d + 1)
        One a chain. Not finite where the rounds did not suffice.
    """
    march = _ChainState(stack, W, paths)
    while len(march.stack):
        march.step()
    return march.found


class _ChainState:
    """Where each chain of the stack stands.

    A chain goes along its direction from W. Within one penalty that is L-BFGS's. From one penalty to the next it is
    first the line through the last two minima: minima move nearly straight in the logarithm of the penalty, the more so
    where classes can be separated and weights grow without end.
    """

    def __init__(self, stack: Stack, W: Any, paths: Sequence[np.ndarray]) -> None:
        p, arrays = len(stack), stack.shared.arrays
        self.stack, self.W, self.paths = stack, W, paths
        self.found = [
            np.full((len(path), width, W.shape[1]), np.nan) for path, width in zip(paths, stack.widths, strict=True)
        ]
        self.chain = np.arange(p)  # whose path it is, once others have retired
        self.place = np.zeros(p, int)  # on the path
        self.penalty = np.array([path[0] for path in paths], dtype=np.float64)
        self.loss, self.G, self.curvatures = stack.evaluate(W)  # G: the gradient of the loss alone
        self.before: Any = arrays.zeros(*W.shape)  # the minimum before the last one
        self.last: Any = arrays.zeros(*W.shape)
        self.steps: list[Any] = []  # newest last
        self.changes: list[Any] = []  # of the gradient of the loss, along the steps
        self.kept: list[np.ndarray] = []  # bool (p,): the pair is of use to the chain
        self.scale = np.ones(p)
        self.rounds, self.tries = np.zeros(p, int), np.zeros(p, int)
        self.length, self.leaping = np.ones(p), np.zeros(p, bool)
        self.D, self.slope = arrays.zeros(*W.shape), np.zeros(p)
        self._set_out(np.ones(p, bool))

    def step(self) -> None:
        """Try one step for every chain."""
        stack = self.stack
        trial = self.W + stack.spread(self.length) * self.D
        loss, G, curvatures = stack.evaluate(trial)
        before = self.loss + self._penalised(self.W)
        after = loss + self._penalised(trial)
        slope = stack.dot(self._gradient(trial, G), self.D)
        # Objectives closer than float32's resolution are compared by their slopes: both are convex along the line.
        down = (slope <= _SHALLOW * np.abs(self.slope)) | (after <= before + _ARMIJO * self.length * self.slope)
        down = np.where(self.leaping, (slope <= 0) | (after < before), down) & np.isfinite(after)
        self._remember(trial - self.W, G - self.G, down)
        moved = stack.columns(down)
        self.W[moved], self.G[moved], self.curvatures[moved] = trial[moved], G[moved], curvatures[moved]
        self.loss = np.where(down, loss, self.loss)
        self.rounds += 1
        self.tries = np.where(down | self.leaping, 0, self.tries + 1)
        fresh = down | self.leaping
        self.leaping &= False
        with np.errstate(divide="ignore", invalid="ignore"):
            shorter = self.slope / (self.slope - slope)  # where a straight slope is zero
        shorter = np.where(np.isfinite(after) & np.isfinite(shorter), np.clip(shorter, 0.1, 0.7), 0.1)
        self.length = np.where(fresh, 1.0, self.length * shorter)
        self._set_out(fresh)

    def _set_out(self, fresh: np.ndarray) -> None:
        """Give a new direction to the chains that have arrived; send on those that need none."""
        stack = self.stack
        gradient = self._gradient(self.W, self.G)
        D = self._direction(gradient)
        slope = stack.dot(gradient, D)
        columns = stack.columns(fresh)
        self.D[columns] = D[columns]
        self.slope = np.where(fresh, slope, self.slope)
        steepest = np.maximum.reduceat(
            stack.shared.arrays.numpy(stack.shared.arrays.xp.amax(abs(gradient), 1)), stack.starts
        )
        objective = self.loss + self._penalised(self.W)
        gap = -slope / 2 / objective
        done = fresh & np.any([(steepest <= steep) & (gap <= near) for steep, near in _STOPS], axis=0)
        done |= self.tries >= _TRIES  # no step leads down: this is as far as float32 goes
        failed = (self.rounds >= _ROUNDS) | ~np.isfinite(objective)
        if (done | failed).any():
            self._send_on(done & ~failed, failed)

    def _send_on(self, done: np.ndarray, failed: np.ndarray) -> None:
        """Write down the minima of the chains that are done, and send these to their next penalty or home."""
        stack, arrays = self.stack, self.stack.shared.arrays
        answers = arrays.numpy(self.W[stack.columns(done)])
        at = 0
        for chain in np.flatnonzero(done):
            width = stack.widths[chain]
            self.found[int(self.chain[chain])][self.place[chain]] = answers[at : at + width]
            at += width
        self.place[done] += 1
        home = failed | (self.place >= [len(self.paths[number]) for number in self.chain.tolist()])
        ahead = done & ~home
        for chain in np.flatnonzero(ahead):
            self.penalty[chain] = self.paths[int(self.chain[chain])][self.place[chain]]
        columns = stack.columns(ahead)
        self.before[columns] = self.last[columns]
        self.last[columns] = self.W[columns]
        self.rounds[ahead] = self.tries[ahead] = 0
        self.length[ahead] = 1.0
        gradient = self._gradient(self.W, self.G)
        leap, first = stack.columns(ahead & (self.place > 1)), stack.columns(ahead & (self.place == 1))
        self.D[leap] = self.last[leap] - self.before[leap]
        self.D[first] = -stack.precondition(gradient, self.curvatures, stack.spread(self.penalty))[first]
        self.slope = np.where(ahead, stack.dot(gradient, self.D), self.slope)
        self.leaping |= ahead
        if home.any():
            self._keep(~home)

    def _keep(self, kept: np.ndarray) -> None:
        """Retire the other chains."""
        columns = self.stack.columns(kept)
        self.stack = self.stack.take(kept) if kept.any() else _EMPTY
        for name in ("W", "G", "curvatures", "before", "last", "D"):
            setattr(self, name, getattr(self, name)[columns])
        for name in ("chain", "place", "penalty", "loss", "scale", "rounds", "tries", "length", "leaping", "slope"):
            setattr(self, name, getattr(self, name)[kept])
        self.steps = [pair[columns] for pair in self.steps]
        self.changes = [pair[columns] for pair in self.changes]
        self.kept = [values[kept] for values in self.kept]

    def _penalised(self, W: Any) -> np.ndarray:
        weights = W[:, :-1]
        return self.penalty / 2 * self.stack.dot(weights, weights)

    def _gradient(self, W: Any, G: Any) -> Any:
        """Return the gradient of the objective, from that of the loss."""
        gradient = self.stack.spread(self.penalty) * W
        gradient[:, -1] = 0
        gradient += G
        return gradient

    def _remember(self, step: Any, change: Any, useful: np.ndarray) -> None:
        """Keep a pair; the change without the penalty's part, so that it holds at the next penalty too."""
        if len(self.steps) == _PAIRS:
            del self.steps[0], self.changes[0], self.kept[0]
        along, square = self._curved(step, change)
        useful = useful & (along > 1e-10 * square) & np.isfinite(along)
        self.steps.append(step)
        self.changes.append(change)
        self.kept.append(useful)
        whole = self._gradient(step, change)
        model = self.stack.preconditioned_square(whole, self.curvatures, self.stack.spread(self.penalty))
        self.scale = np.where(useful & (model > 0), along / np.where(model > 0, model, 1.0), self.scale)

    def _curved(self, step: Any, change: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return s'y and y'y of pairs at the present penalties, shape (p,) each."""
        y = self._gradient(step, change)
        return self.stack.dot(step, y), self.stack.dot(y, y)

    def _direction(self, gradient: Any) -> Any:
        """Return L-BFGS's direction by the pairs that each chain keeps."""
        stack, spread = self.stack, self.stack.spread
        penalty = spread(self.penalty)
        q, passed = -gradient, []
        for step, change, kept in zip(self.steps[::-1], self.changes[::-1], self.kept[::-1], strict=True):
            y = change + penalty * step
            y[:, -1] = change[:, -1]
            along = stack.dot(step, y)
            factor = np.where(kept & (along > 0), 1 / np.where(along > 0, along, 1.0), 0.0)
            share = factor * stack.dot(step, q)
            q -= spread(share) * y
            passed.append((step, y, factor, share))
        z = stack.precondition(q, self.curvatures, penalty)
        z *= spread(self.scale)
        for step, y, factor, share in passed[::-1]:
            z += spread(share - factor * stack.dot(y, z)) * step
        return z


class _Empty:
    def __len__(self) -> int:
        return 0


_EMPTY: Any = _Empty()
