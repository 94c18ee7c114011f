"""Many logistic regressions as one: the columns of all of them side by side in the same matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.search.arrays import Arrays
from pipeline.search.threads import WorkStealingPool

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
            Places where other chains begin to learn from the rows: blocks begin there too.
        team : Team, optional
        """
        n, d = A.shape
        A = arrays.float32(A)
        some = A[:: -(-n // _SAMPLE)]
        m = len(some)
        total = float((some * some).sum()) / m
        if m < d:
            values, left = arrays.eigenpairs(some @ some.T / m)
            real = values > 1e-6 * values[-1]
            values, left = values[real], left[:, real]
            vectors = some.T @ (left / (values * m) ** 0.5)
        else:
            values, vectors = arrays.eigenpairs(some.T @ some / m)
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
        The class of each row for each chain, -1 where the row is not the chain's to learn from. Chains of equally
        many columns lie side by side.
    widths : ndarray of int, shape (p,)
        Columns of each chain.
    means, scales : array of float32, shape (p, d)
        Of A over the rows that each chain learns from; the scales are to multiply with (0: a constant feature).
    counts : ndarray, shape (p,)
        Rows that each chain learns from.
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
    learning: Any = None  # bool (p, blocks): which chains learn from any row of a block

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

        # Summed in the order of the blocks, whoever did them: the same rows give the same sums to the last bit.
        wanted = np.flatnonzero(self.learning.any(axis=0)).tolist()
        for place, found in zip(wanted, self.shared.team.map(over, wanted), strict=True):
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
