"""Lloyd's algorithm on a density of magnitudes: levels at the centroids of their cells, edges midway between levels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from flwr_co3.schemes.scheme import Floats

_ROUNDS = 300
_STEPS = 64  # shapes are rounded to so many in each octave, so that few are ever computed


class Density(NamedTuple):
    """A model of magnitudes, weighted by a power of the magnitude.

    With it ``z = (x / scale)^shape`` is gamma distributed.
    """

    kind: str  # "gennorm", or "weibull"
    shape: float
    scale: float
    weight: float = 0.0  # the power

    @property
    def order(self) -> float:
        """Order of the gamma distribution."""
        return (self.weight + 1) / self.shape if self.kind == "gennorm" else 1 + self.weight / self.shape


def weibull_fit(magnitudes: Floats) -> tuple[float, float]:
    """Shape and scale of the Weibull distribution with these (positive) magnitudes' mean and mean square."""
    peak = float(magnitudes.max())
    relative = magnitudes / peak  # squares of tiny numbers have no place
    mean, square = float(relative.mean()), float(np.mean(relative**2))
    target = math.log(max(square / mean**2, 1.0))
    low, high = 0.2, 20.0
    for _ in range(48):  # the ratio falls with the shape
        middle = math.sqrt(low * high)
        if math.lgamma(1 + 2 / middle) - 2 * math.lgamma(1 + 1 / middle) > target:
            low = middle
        else:
            high = middle
    return low, peak * mean / math.gamma(1 + 1 / low)


def lloyd_levels(density: Density, count: int) -> Floats:
    """So many magnitudes that lose least, rising: shape (count,)."""
    shape = 2.0 ** (round(_STEPS * math.log2(density.shape)) / _STEPS)
    levels: Floats = density.scale * np.array(_unit_levels(density._replace(shape=shape, scale=1.0), count))
    return levels


@lru_cache(maxsize=1024)
def _unit_levels(density: Density, count: int) -> tuple[float, ...]:
    """Centroids ``INT x p / INT p`` over the cells, iterated: differences of incomplete gamma functions."""
    from scipy import special  # slow to import, and few schemes need it

    shape, order = density.shape, density.order
    unit = math.exp(math.lgamma(order + 1 / shape) - math.lgamma(order))
    levels = special.gammaincinv(order, (np.arange(count) + 0.5) / count) ** (1 / shape)
    for _ in range(_ROUNDS):
        z = np.concatenate([[0.0], ((levels[1:] + levels[:-1]) / 2) ** shape, [np.inf]])
        mass, moment = np.diff(special.gammainc(order, z)), np.diff(special.gammainc(order + 1 / shape, z))
        new = unit * moment / np.maximum(mass, 1e-300)
        done = np.allclose(new, levels, rtol=1e-9)
        levels = new
        if done:
            break
    return tuple(levels.tolist())
