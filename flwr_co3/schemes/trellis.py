"""Trellis-coded quantisation with two shifted quantisers, as dependent quantisation has it.

In states 0 and 1 the index k stands for ``2 k``, in states 2 and 3 for ``2 k - sgn(k)``; the parity of k leads to the
next state. All values of a path lie on the integers, twice as dense as either quantiser, so that a search for the best
path (Viterbi) finds points of a lattice in many dimensions. The search minimises ``squared error + lambda bits``.
Its estimate of the bits is that of a two-sided geometric distribution of the indices, ``c + |k| asinh(1 / m) / ln 2``
for the mean magnitude m: 0 takes the fewest, so that the best path is no worse than zeros. Without the bits it would
lose to a scalar quantiser below two bits an entry. Blocks begin in state 0 each, and are searched side by side.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flwr_co3.schemes.scheme import Floats, Integers

Int64s = npt.NDArray[np.int64]

_BLOCK = 256
# Squared steps that a bit is worth: the slope 2 ln 2 D of entropy-coded quantisers, D = 4 / 12 less 1 dB or so of gain.
_LAMBDA = 0.35
NEXT = np.array([[0, 2], [2, 0], [1, 3], [3, 1]])  # by state and parity
# The two (state, parity) that lead to each state.
_FROM = np.array([[(s, p) for s in range(4) for p in range(2) if NEXT[s, p] == state] for state in range(4)])


def quantize(x: Floats) -> Integers:
    """Indices of the path of least cost for x, shape (n,), in units of the union's step."""
    n = x.size
    blocks = max(-(-n // _BLOCK), 1)
    padded = np.zeros(blocks * _BLOCK)
    padded[:n] = x
    steps = padded.reshape(blocks, _BLOCK).T  # one row for each step of all blocks
    used = (np.arange(blocks * _BLOCK) < n).reshape(blocks, _BLOCK).T
    indices, costs = _candidates(steps, _penalty(x))  # shape (2 quantisers, 2 parities, steps, blocks)
    found, _ = best_path(indices, costs * used)
    return found.T.reshape(-1)[:n]


def best_path(indices: Integers, costs: Floats) -> tuple[Int64s, Int64s]:
    """Find the path of least cost by Viterbi's algorithm; each column is a path of its own, from state 0.

    Parameters
    ----------
    indices, costs : ndarray, shape (2 quantisers, 2 parities, steps, columns)
        What a path may take in each step, by the quantiser of its state and the parity of the index, and at what cost.

    Returns
    -------
    (ndarray, ndarray), both of shape (steps, columns)
        The indices taken, and the quantiser of each: 0 or 1.
    """
    steps, columns = costs.shape[2:]
    cost = np.full((4, columns), np.inf)
    cost[0] = 0
    came: npt.NDArray[np.bool_] = np.empty((steps, 4, columns), np.bool_)
    for t in range(steps):
        first, second = (cost[_FROM[:, k, 0]] + costs[_FROM[:, k, 0] // 2, _FROM[:, k, 1], t] for k in range(2))
        came[t] = second < first
        cost = np.minimum(first, second)
    state = np.argmin(cost, axis=0)
    found, quantisers = np.empty((2, steps, columns), np.int64)
    column = np.arange(columns)
    for t in range(steps - 1, -1, -1):
        before = _FROM[state, came[t, state, column].astype(np.intp)]
        state = before[:, 0]
        quantisers[t] = state // 2
        found[t] = indices[quantisers[t], before[:, 1], t, column]
    return found, quantisers


def dequantize(indices: Integers) -> Floats:
    """What indices stand for, in units of the union's step."""
    n = indices.size
    blocks = max(-(-n // _BLOCK), 1)
    padded = np.zeros(blocks * _BLOCK, np.int64)
    padded[:n] = indices
    steps = padded.reshape(blocks, _BLOCK).T
    states = np.empty(steps.shape, np.int64)
    state = np.zeros(blocks, np.int64)
    for t in range(_BLOCK):
        states[t] = state
        state = NEXT[state, steps[t] & 1]
    values: Floats = (2.0 * steps - np.sign(steps) * (states >= 2)).T.reshape(-1)[:n]
    return values


def _penalty(x: Floats) -> float:
    """What one more in an index's magnitude costs, in squared steps; the mean index is about half the mean of x."""
    mean = float(np.abs(x).mean()) / 2 if x.size else 0.0
    return _LAMBDA * math.asinh(1 / max(mean, 1e-9)) / math.log(2)


def _candidates(x: Floats, penalty: float) -> tuple[Integers, Floats]:
    """For each quantiser and parity the better of the nearest index and the next one below it, and its cost."""
    a = np.abs(x)
    nearest = np.empty((2, 2, *x.shape), np.int64)
    nearest[0, 0] = 2 * np.rint(a / 4)
    nearest[0, 1] = 2 * np.maximum(np.rint((a - 2) / 4), 0) + 1
    nearest[1, 0] = np.where(a < 1.5, 0, 2 * np.maximum(np.rint((a - 3) / 4), 0) + 2)
    nearest[1, 1] = 2 * np.maximum(np.rint((a - 1) / 4), 0) + 1
    below = np.where(nearest >= 2, nearest - 2, nearest)
    costs, costs_below = (_costs(magnitudes, a, penalty) for magnitudes in (nearest, below))
    magnitudes = np.where(costs_below < costs, below, nearest)
    return np.where(x < 0, -magnitudes, magnitudes), np.minimum(costs, costs_below)


def _costs(magnitudes: Integers, a: Floats, penalty: float) -> Floats:
    """Squared errors and penalties of indices for the magnitudes a, shape (2 quantisers, 2 parities, steps, blocks)."""
    values = 2.0 * magnitudes
    values[1] -= magnitudes[1] > 0
    costs: Floats = np.square(values - a) + penalty * magnitudes
    return costs
