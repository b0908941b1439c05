"""Integer frequencies: the one form in which both ends of the wire know a probability.

Whatever turns the integers of a header into frequencies stands here, in exact integers and in the arithmetic of
`flwr_co3.arithmetic`, which is the same on every platform: one differing frequency destroys a stream.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.arithmetic import incomplete_gamma, power

#: Frequencies of a table sum to 2 to this power.
PRECISION = 14
TOTAL = 1 << PRECISION

Frequencies = npt.NDArray[np.int64]

#: Costs are counted in integers, so that every machine makes the same choices: in units of 2 to minus this bits.
COST_BITS = 16


def cost_of_bytes(count: int) -> int:
    """The cost of so many bytes."""
    return count << (3 + COST_BITS)


@cache
def log2_table() -> npt.NDArray[np.int32]:
    """Costs of one choice in 0 .. 2^14, shape (2^14 + 1,); the first stands for nothing."""
    costs = np.zeros(TOTAL + 1, np.int32)
    # None of these lies so near to a half that the last bit of a machine's logarithm could matter.
    costs[1:] = np.rint(np.log2(np.arange(1.0, TOTAL + 1)) * (1 << COST_BITS))
    costs.setflags(write=False)
    return costs


log2_table()  # made here and now: a first update costs no more than a second


def normalize(weights: npt.NDArray[np.integer[Any]], total: int = TOTAL) -> Frequencies:
    """Scale non-negative integer weights to integers that sum to `total`.

    Parameters
    ----------
    weights : ndarray of int, shape (n,)
        Counts, sums of two of them or other weights, below 2^41 and not all 0.
    total : int (default: 2^14)
        The sum to reach; at least the number of weights above 0.

    Returns
    -------
    ndarray of int64, shape (n,)
        At least 1 wherever the weight is above 0, and 0 where it is 0.
    """
    wide: Frequencies = np.array(weights, dtype=np.int64)
    mass = int(wide.sum())
    frequencies: Frequencies = (wide * total + mass // 2) // mass
    frequencies[(frequencies == 0) & (wide > 0)] = 1
    excess = int(frequencies.sum()) - total
    while excess:  # rounding leaves a few; the most frequent symbols feel them least
        largest = int(np.argmax(frequencies))
        step = min(excess, max(1, int(frequencies[largest]) // 8)) if excess > 0 else excess
        frequencies[largest] -= step
        excess -= step
    return frequencies


def cost_of(counts: npt.NDArray[np.int64], frequencies: Frequencies) -> int | None:
    """What an ideal entropy coder spends on symbols of these counts with these frequencies, which sum to 2^14.

    In units of 2^-16 bits; None, which is infinitely much, if a symbol that occurs has no frequency.
    """
    used = counts > 0
    if np.any(frequencies[used] == 0):
        return None
    costs = log2_table()
    return int(np.sum(counts[used] * (int(costs[TOTAL]) - costs[frequencies[used]].astype(np.int64))))


def gennorm_weights(shape: float, width: float, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Weights of the cells of a quantiser under a generalised normal, the same on every platform.

    Parameters
    ----------
    shape : float
        Shape of the distribution, .2 to 4.
    width : float
        Its scale, in the units of `edges`.
    edges : ndarray of float64, shape (m,)
        Rising magnitudes where cells meet; the outermost cells go on to infinity.

    Returns
    -------
    ndarray of int64, shape (2 m + 1,)
        Weight of each cell from the most negative to the most positive, in units of 2^-30, at least 1.

    Notes
    -----
    The share of values of a magnitude below t is the regularised lower incomplete gamma function P(1/shape, z) at
    ``z = (t / width)^shape``.
    """
    with np.errstate(over="ignore"):
        t = np.minimum(edges / width, 1e300)
    below = incomplete_gamma(1 / shape, power(t, shape))
    counts = np.append(np.floor(below * (1 << 30)).astype(np.int64), 1 << 30)
    one_sided = np.maximum(np.diff(counts) // 2, 1)
    return np.concatenate([one_sided[::-1], [max(int(counts[0]), 1)], one_sided])


@lru_cache(maxsize=256)
def geometric(ratio: int, symbols: int) -> Frequencies:
    """Frequencies of a geometric distribution, its rest gathered in the last symbol.

    Parameters
    ----------
    ratio : int
        Each symbol is ``ratio / 256`` times as probable as the one before; 0 to 255.
    symbols : int
        Size of the alphabet, at least 2.
    """
    weights, rest = [], 1 << 30
    for _ in range(symbols - 1):
        after = rest * ratio >> 8
        weights.append(max(rest - after, 1))
        rest = after
    frequencies = normalize(np.array([*weights, max(rest, 1)], dtype=np.int64))
    frequencies.setflags(write=False)  # shared by all who ask
    return frequencies
