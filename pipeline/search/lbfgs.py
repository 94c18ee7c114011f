"""Limited-memory BFGS for a stack of chains, each along its own path of penalties, all of them in step.

Nocedal and Wright, Numerical Optimization, 2nd edition, section 7.2 (the two loops) and 3.1 (backtracking).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.search.stack import Stack

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
        # Objectives closer than float32 can tell are told apart by their slopes: both are convex along the line.
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
        for one in np.flatnonzero(done):
            width = stack.widths[one]
            self.found[int(self.chain[one])][self.place[one]] = answers[at : at + width]
            at += width
        self.place[done] += 1
        home = failed | (self.place >= [len(self.paths[chain]) for chain in self.chain.tolist()])
        ahead = done & ~home
        for one in np.flatnonzero(ahead):
            self.penalty[one] = self.paths[int(self.chain[one])][self.place[one]]
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
        self.kept = [one[kept] for one in self.kept]

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
