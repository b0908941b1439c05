"""The distributions that may describe updates: each symmetric about 0 and fitted by maximum likelihood."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from flwr_co3 import GenNorm

Floats = NDArray[np.float64]


class Distribution(Protocol):
    """What GenNorm and scipy's frozen distributions have in common."""

    def logpdf(self, x: Floats, /) -> Any:
        """Return the logarithm of the density."""

    def cdf(self, x: Floats, /) -> Any:
        """Return the share below each x."""

    def ppf(self, q: Floats, /) -> Any:
        """Return the quantiles."""


def log_likelihood(model: Distribution, x: Floats) -> float:
    """Return the mean over the values, in bits."""
    return float(np.mean(model.logpdf(x)) / np.log(2))


def wasserstein2(model: Distribution, x: Floats) -> float:
    """Return the Wasserstein-2 distance between the values and the distribution, in the values' unit."""
    quantiles = model.ppf((np.arange(len(x)) + 0.5) / len(x))
    return float(np.sqrt(np.mean((np.sort(x) - quantiles) ** 2)))


def _laplace(x: Floats) -> Distribution:
    return GenNorm.laplace(float(np.mean(np.abs(x))))


def _normal(x: Floats) -> Distribution:
    return GenNorm.normal(float(np.sqrt(np.mean(x**2))))


def _student_t(x: Floats) -> Distribution:
    # The fit searches near scale 1, and may fail to reach the scale of updates.
    unit = float(np.median(np.abs(x)))
    freedom, _, scale = stats.t.fit(x / unit, floc=0)
    return stats.t(freedom, scale=scale * unit)  # type: ignore[no-any-return]


def _double_weibull(x: Floats) -> Distribution:
    shape, _, scale = stats.weibull_min.fit(np.abs(x), floc=0)
    return stats.dweibull(shape, scale=scale)  # type: ignore[no-any-return]


CANDIDATES: dict[str, Callable[[Floats], Distribution]] = {
    "GenNorm": GenNorm.fit_mle,
    "double Weibull": _double_weibull,
    "Student-t": _student_t,
    "Laplace": _laplace,
    "normal": _normal,
}
"""Fits by name: each takes values other than 0, (n,), and returns the likeliest member of its family."""
