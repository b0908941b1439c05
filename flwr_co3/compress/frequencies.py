"""Integer frequencies: the one form in which both ends of the wire know a probability.

Whatever turns the integers of a header into frequencies stands here, and uses exact integers and the IEEE 754
operations + - * / alone. Those round the same way on every platform, while two machines' ``exp`` or ``gammainc`` may
differ in the last bit, and one differing frequency destroys a stream.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

#: Frequencies of a table sum to 2 to this power.
PRECISION = 14
TOTAL = 1 << PRECISION

Frequencies = npt.NDArray[np.int64]


class Sequence(NamedTuple):
    """Symbols that share a table: what an entropy coder codes."""

    symbols: npt.NDArray[np.uint8]  # shape (n,)
    frequencies: Frequencies  # shape (alphabet <= 256,), sums to 2^14


_LN2 = 0.6931471805599453
_NEGLIGIBLE = 40.0  # exp(-40) is far below one in 2^PRECISION


def normalize(weights: npt.NDArray[np.integer[Any]], total: int = TOTAL) -> Frequencies:
    """Scale non-negative integer weights to integers that sum to `total`.

    Parameters
    ----------
    weights : ndarray of int, shape (n,)
        Counts or other weights below 2^40, not all 0.
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


def cost_bits(counts: npt.NDArray[np.integer[Any]], frequencies: Frequencies) -> float:
    """Bits that an ideal entropy coder spends on symbols of these counts with these frequencies.

    Infinite if a symbol that occurs has no frequency.
    """
    used = counts > 0
    if np.any(frequencies[used] == 0):
        return math.inf
    total = math.log2(int(frequencies.sum()))
    return float(np.sum(counts[used] * (total - np.log2(frequencies[used]))))


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
    ``z = (t / width)^shape``, summed here as ``z^a e^-z sum z^n / (a (a+1) .. (a+n))``. The constant Gamma(a) drops
    out by dividing by the value where P is 1 but for a negligible rest.
    """
    with np.errstate(over="ignore"):
        t = np.minimum(edges / width, 1e300)
    z = np.append(_power(t, shape), _NEGLIGIBLE)
    below = _unscaled_incomplete_gamma(1 / shape, np.minimum(z, _NEGLIGIBLE))
    below /= below[-1]
    below[-1] = 1.0
    inner = np.floor(below * (1 << 30)).astype(np.int64)
    one_sided = np.maximum(np.diff(inner) // 2, 1)
    return np.concatenate([one_sided[::-1], [max(int(inner[0]), 1)], one_sided])


def _unscaled_incomplete_gamma(a: float, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``z^a e^-z sum_n z^n / (a .. (a+n))``, proportional to P(a, z)."""
    term = np.full_like(z, 1 / a)
    total = term.copy()
    # Beyond n = z the terms fall by z / (a + n) each: at 160 they are below 1e-17 of the sum for z up to 40.
    for n in range(1, 160):
        term = term * (z / (a + n))
        total = total + term
    scaled: npt.NDArray[np.float64] = _power(z, a) * _exp(-z) * total
    return scaled


def _power(x: npt.NDArray[np.float64], exponent: float) -> npt.NDArray[np.float64]:
    """``x^exponent`` for x >= 0 (0 stays 0), limited to what `_exp` takes."""
    positive = x > 0
    return np.where(positive, _exp(_log(np.where(positive, x, 1.0)) * exponent), 0.0)


def _log(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Natural logarithm of positive numbers: ``2 artanh((m - 1) / (m + 1)) + e ln 2``."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, 2 * mantissa, mantissa)
    exponent = exponent - small
    u = (mantissa - 1) / (mantissa + 1)
    square = u * u
    series = np.zeros_like(u)
    for k in range(21, 0, -2):  # |u| <= .172: the next term is below 1e-17
        series = series * square + 1 / k
    log: npt.NDArray[np.float64] = 2 * u * series + exponent * _LN2
    return log


def _exp(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Exponential, its argument limited to -600 .. 600: ``2^n`` times a Taylor sum."""
    x = np.clip(x, -600.0, 600.0)
    n = np.rint(x / _LN2)
    rest = x - n * _LN2
    series = np.ones_like(x)
    for k in range(16, 0, -1):  # |rest| <= .35
        series = 1 + rest * series / k
    return np.ldexp(series, n.astype(np.int64))


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
