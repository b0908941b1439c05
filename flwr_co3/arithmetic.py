"""Functions of real numbers that give the same bits on every platform.

Two machines' ``exp`` or ``gammainc`` may differ in the last bit. What both ends of the wire must agree on is therefore
computed from the IEEE 754 operations + - * / and exact scaling by powers of two alone, one numpy operation at a time,
so that no compiler fuses two of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LN2 = 0.6931471805599453
_END = 40.0  # beyond it the incomplete gamma function is taken for 1: the rest is below 1e-8 for a up to 10


def incomplete_gamma(a: float, z: Floats) -> Floats:
    """Regularised lower incomplete gamma function P(a, z).

    Parameters
    ----------
    a : float
        Between 0.25 and 10.
    z : ndarray of float64
        At least 0, any shape.

    Returns
    -------
    ndarray of float64
        Within 1e-8 of P(a, z), and within 1e-12 for a up to 5; shape of `z`.

    Notes
    -----
    ``P(a, z)`` is proportional to ``z^a e^-z sum_n z^n / (a (a+1) .. (a+n))``. The constant Gamma(a) drops out by
    dividing by the value at 40.
    """
    values = np.zeros_like(z)
    # The terms of the sum fall by z / (a + n) each: what is left out is below 1e-17 of it.
    for low, high, terms in ((0.0, 1.0, 20), (1.0, _END, 160)):
        between = (low < z) & (z <= high)
        values[between] = _unscaled_incomplete_gamma(a, z[between], terms)
    values /= _unscaled_incomplete_gamma(a, np.array([_END]), 160)
    return np.where(z > _END, 1.0, values)


def _unscaled_incomplete_gamma(a: float, z: Floats, terms: int) -> Floats:
    term = np.full_like(z, 1 / a)
    total = term.copy()
    for n in range(1, terms):
        term *= z / (a + n)
        total += term
    return power(z, a) * exp(-z) * total


def power(x: Floats, exponent: float) -> Floats:
    """``x^exponent`` for x >= 0; 0 stays 0, and results end at e^600."""
    positive = x > 0
    return np.where(positive, exp(log(np.where(positive, x, 1.0)) * exponent), 0.0)


def log(x: Floats) -> Floats:
    """Natural logarithm of positive numbers: ``2 artanh((m - 1) / (m + 1)) + e ln 2``."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, 2 * mantissa, mantissa)
    u = (mantissa - 1) / (mantissa + 1)
    square = u * u
    series = np.zeros_like(u)
    for k in range(21, 0, -2):  # |u| <= .172: the next term is below 1e-17
        series = series * square + 1 / k
    result: Floats = 2 * u * series + (exponent - small) * _LN2
    return result


def exp(x: Floats) -> Floats:
    """Exponential, its argument limited to -600 .. 600: ``2^n`` times a Taylor sum."""
    x = np.clip(x, -600.0, 600.0)
    n = np.rint(x / _LN2)
    rest = x - n * _LN2
    series = np.ones_like(x)
    for k in range(16, 0, -1):  # |rest| <= .35
        series = 1 + rest * series / k
    return np.ldexp(series, n.astype(np.int64))
