"""The scale that loses least: computed from the density, for any format."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.gennorm import GenNorm

_GRID_STEP = 1 / 8  # octaves; the distortion has at most one minimum between two levels of a binade
_GOLDEN = (math.sqrt(5) - 1) / 2


def distortion(fmt: FloatFormat, model: GenNorm, scale: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Expected normalised squared error ``E (x - Q(x))^2 / E x^2`` of rounding to the nearest level.

    Parameters
    ----------
    fmt : FloatFormat
        The format that is rounded to.
    model : GenNorm
        Distribution of the values.
    scale : array_like
        What the values are multiplied by before rounding, per unit of the data; any shape.

    Returns
    -------
    ndarray of float64
        One error for each scale: between 0 and 1 for a sensible scale (1: all is rounded to zero).

    Notes
    -----
    With F_j the share of ``E|x|^j`` that lies below a magnitude (a regularised incomplete gamma function of
    ``(j + 1) / shape``), the error is a sum over the cells of differences of F_0, F_1 and F_2.
    """
    b = model.shape
    scales = np.asarray(scale, dtype=np.float64)[..., None]
    with np.errstate(over="ignore"):
        edges = (fmt.edges / (scales * model.scale)) ** b
    probability = np.diff(special.gammainc(1 / b, edges), append=1.0)
    partial_mean = np.diff(special.gammainc(2 / b, edges), append=1.0) * model.mean_abs
    level = fmt.magnitudes[1:] / scales
    gain = np.sum(level * (2 * partial_mean - level * probability), axis=-1)
    return np.asarray(1 - gain / model.std**2)


def optimal_scale(fmt: FloatFormat, model: GenNorm) -> float:
    """Scale that minimises the expected squared error of values drawn from `model`.

    Parameters
    ----------
    fmt : FloatFormat
        The format that is rounded to.
    model : GenNorm
        Distribution of the values, e.g. fitted to what is to be sent. Any shape, .2 to 4 in this library.

    Returns
    -------
    float
        The scale, per unit of the data: values are multiplied by it.

    Notes
    -----
    Computed, not the quartic in the shape of the authors' code, which is far off for heavy tails. Formats with many
    exponents have a plateau of nearly equal minima, an octave apart; the smallest scale among those within .1 % of
    the least error is taken, since it costs the fewest bits.
    """
    return _unit_optimal_scale(fmt, model.shape) / model.scale


@lru_cache(maxsize=4096)
def _unit_optimal_scale(fmt: FloatFormat, shape: float) -> float:
    """Optimal scale for a model of scale 1."""
    model = GenNorm(shape, 1.0)

    def cost(log_scale: float) -> float:
        return float(distortion(fmt, model, 2.0**log_scale))

    # From the largest level at half a standard deviation to the smallest one at eight.
    top = math.log2(fmt.magnitudes[-1] / (0.5 * model.std))
    bottom = min(math.log2(fmt.magnitudes[1] / (8 * model.std)), top - 12)
    grid = np.arange(bottom, top, _GRID_STEP)
    costs = distortion(fmt, model, 2.0**grid)
    inner = costs[1:-1]
    minima = np.flatnonzero((inner <= costs[:-2]) & (inner <= costs[2:])) + 1
    good = [k for k in minima if costs[k] <= costs[minima].min() * 1.01]
    refined = [_golden_section(cost, float(grid[k - 1]), float(grid[k + 1])) for k in good]
    best = min(value for _, value in refined)
    return float(2.0 ** next(point for point, value in refined if value <= best * 1.001))


def _golden_section(f: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Minimise a function that has one minimum between `low` and `high`; return the point and its value."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = f(left), f(right)
    while high - low > 1e-4:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = f(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = f(right)
    return (left, at_left) if at_left < at_right else (right, at_right)
