"""Dependent quantisation, as VVC and nncodec have it: an experiment, no part of the package.

Two quantisers of step 2 take turns: Q0 has the even multiples of a step, Q1 the odd ones and 0. Which of them an entry
has follows from the parities of the entries before it, by a machine of four states, and the Viterbi algorithm finds the
levels that are best for error and bits together.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.schemes.trellis import best_path

Floats = npt.NDArray[np.float64]

#: What a bit is worth, in squared steps: the slope of the squared error over the bits where there are many of them, if
#: the error is 1 dB below that of a uniform quantiser of twice the step.
BIT_WORTH = 2 * math.log(2) * 4 / 12 / 10**0.1
RUNS = 512  # the machine starts anew so often: its steps are then steps of a whole vector
_PASSES = 4  # frequencies follow from levels, which follow from frequencies
_LARGEST = 255


class Quantized(NamedTuple):
    """What a decoder would have, and what an ideal entropy coder would spend."""

    values: Floats  # shape of what was quantised
    bits: float  # an entry, with one table for each of the two quantisers


class Path(NamedTuple):
    """Where the best path goes: arrays of shape (steps, runs)."""

    levels: npt.NDArray[np.int64]  # magnitudes
    quantizers: npt.NDArray[np.int64]  # 0 or 1, of each step
    bits: Floats  # ideal ones


def quantize(x: npt.ArrayLike, step: float) -> Quantized:
    """Quantise an array of any shape, entry after entry, with levels a step apart."""
    values = np.asarray(x, np.float64)
    runs = runs_of(values, step)
    path = best_path_of(runs)
    spent = float(np.sum(path.bits.T.reshape(-1)[: values.size])) / max(values.size, 1)
    decoded = np.copysign(values_of(path.levels, path.quantizers), runs).T.reshape(-1)[: values.size]
    return Quantized(step * decoded.reshape(values.shape), spent)


def runs_of(values: Floats, step: float) -> Floats:
    """Lay values, in steps, side by side in runs: shape (steps, runs), filled with zeros."""
    length = -(-values.size // RUNS)
    y = np.zeros(RUNS * length)
    y[: values.size] = values.reshape(-1) / step
    return y.reshape(RUNS, length).T


def best_path_of(runs: Floats) -> Path:
    """Find the levels that are best for error and bits together, of values of shape (steps, runs)."""
    bits = np.tile(1.0 + np.minimum(np.arange(_LARGEST + 1), 30), (2, 1))
    levels, which = np.zeros((2, *runs.shape), np.int64)
    for _ in range(_PASSES):
        levels, which = _search(np.abs(runs), bits)
        counts = np.stack([np.bincount(levels[which == q], minlength=_LARGEST + 1) for q in (0, 1)])
        bits = -np.log2(np.maximum(counts, 0.5) / np.maximum(counts.sum(axis=1, keepdims=True), 1))
        bits[:, 1:] += 1  # the sign
    return Path(levels, which, bits[which, levels])


def values_of(levels: npt.NDArray[np.int64], quantizers: npt.NDArray[np.int64]) -> Floats:
    """Magnitudes, in steps, that levels stand for."""
    return np.asarray(np.maximum(2 * levels - quantizers, 0), np.float64)


def _search(y: Floats, bits: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Best levels of magnitudes of shape (entries, runs), and which quantiser each has."""
    costs, levels = (np.array(of_both) for of_both in zip(*(_choices(y, q, bits[q]) for q in (0, 1)), strict=True))
    return best_path(levels, costs)


def _choices(y: Floats, q: int, bits: Floats) -> tuple[list[Floats], list[npt.NDArray[np.int64]]]:
    """For an even and an odd level of a quantiser: the least cost of each entry, and the level that has it."""
    low = np.minimum(((y + q) // 2).astype(np.int64), _LARGEST - 1)
    costs, levels = [], []
    for parity in (0, 1):
        near = low + (low + parity) % 2
        cost = (y - np.maximum(2 * near - q, 0)) ** 2 + BIT_WORTH * bits[near]
        if parity == 0:
            zero = y**2 + BIT_WORTH * bits[0]
            near, cost = np.where(zero < cost, 0, near), np.minimum(zero, cost)
        costs.append(cost)
        levels.append(near)
    return costs, levels
