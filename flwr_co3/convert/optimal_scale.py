"""The scale that loses least: computed from the density, for any format."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flwr_co3.arithmetic import Floats, incomplete_gamma, power
from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.gennorm import SHAPE_RANGE, GenNorm

# Octaves of scale. A format's levels repeat every octave, and the error with them.
_COARSE_STEP = 1 / 8
_FINE_STEP = 1 / 64
_PLATEAU = 1.002


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
        edges = power(np.minimum(fmt.edges / (scales * model.scale), 1e300), b)
    probability = np.diff(incomplete_gamma(1 / b, edges), append=1.0)
    partial_mean = np.diff(incomplete_gamma(2 / b, edges), append=1.0) * model.mean_abs
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
    exponents have a plateau of nearly equal minima, an octave apart; the smallest scale among those within .2 % of
    the least error is taken, since it costs the fewest bits.
    """
    return _unit_optimal_scale(fmt, model.shape) / model.scale


@lru_cache(maxsize=64)
def least_error(fmt: FloatFormat) -> float:
    """Least normalised squared error of the lightest-tailed model, that of the largest shape.

    Magnitudes that vary less than that about their mean, by their variance over their mean square, lose less with a
    level at the mean: the nearest level is never farther. No shape within the range has such values; equal ones, or
    one value alone, are the extreme.
    """
    lightest = GenNorm(SHAPE_RANGE[1], 1.0)
    return float(distortion(fmt, lightest, optimal_scale(fmt, lightest)))


@lru_cache(maxsize=4096)
def _unit_optimal_scale(fmt: FloatFormat, shape: float) -> float:
    """Optimal scale for a model of scale 1: looked up where it is stored, else computed."""
    stored = _STORED_SCALES.get(fmt, {}).get(shape)
    return compute_unit_optimal_scale(fmt, shape) if stored is None else stored


def _read_stored_scales() -> dict[FloatFormat, dict[float, float]]:
    """Optimal scales by format and shape, for the named formats and the shapes that a frame can name.

    A process that encodes one update, as Flower's often do, would spend most of its time on computing them.
    """
    table = json.loads(Path(__file__).with_name("optimal_scales.json").read_text(encoding="ascii"))
    shapes = table.pop("shapes")
    return {FloatFormat(name): dict(zip(shapes, scales, strict=True)) for name, scales in table.items()}


_STORED_SCALES = _read_stored_scales()


def compute_unit_optimal_scale(fmt: FloatFormat, shape: float) -> float:
    """Compute what `optimal_scale` returns for a model of scale 1."""
    model = GenNorm(shape, 1.0)
    # From the smallest level at eight standard deviations to the largest one at half of one.
    top = math.log2(fmt.magnitudes[-1] / (0.5 * model.std))
    bottom = min(math.log2(fmt.magnitudes[1] / (8 * model.std)), top - 12)
    coarse: Floats = np.arange(bottom, top, _COARSE_STEP)
    minima = _minima(coarse, distortion(fmt, model, 2.0**coarse))
    least = min(error for _, error in minima)
    start = next(point for point, error in minima if error <= least * _PLATEAU)
    fine: Floats = start + _FINE_STEP * np.arange(-8.0, 9.0)
    errors = distortion(fmt, model, 2.0**fine)
    lowest = (float(fine[np.argmin(errors)]), float(errors.min()))  # where the error is so flat that it has no minimum
    point, _ = min(_minima(fine, errors), key=lambda minimum: minimum[1], default=lowest)
    return float(2.0**point)


def _minima(points: Floats, errors: Floats) -> list[tuple[float, float]]:
    """Local minima of a function known at equidistant points, as (point, value) of parabolas through three of them."""
    step = points[1] - points[0]
    minima = []
    for k in range(1, len(points) - 1):
        left, middle, right = errors[k - 1 : k + 2]
        if middle <= left and middle <= right:
            curvature = left - 2 * middle + right
            offset = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
            minima.append((float(points[k] + offset * step), float(middle - 0.25 * (left - right) * offset)))
    return minima
