"""The trellis: what it gains, and that it finds the best path."""

import itertools
from typing import Any

import numpy as np
import pytest

from flwr_co3.schemes.trellis import dequantize, quantize


def entropy(levels: object) -> float:
    counts = np.unique(np.asarray(levels), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log2(shares)))


def test_the_path_is_the_cheapest_of_all() -> None:
    """Least squared error + 0.35 asinh(1 / m) / ln 2 for each unit of index magnitude, m = mean |x| / 2."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        x = rng.normal(size=3) * 2
        penalty = 0.35 * np.arcsinh(2 / np.mean(np.abs(x))) / np.log(2)

        def cost(k: np.ndarray[Any, Any], x: Any = x, penalty: float = penalty) -> float:
            return float(np.sum((dequantize(k) - x) ** 2) + penalty * np.sum(np.abs(k)))

        least = min(cost(np.array(k)) for k in itertools.product(range(-5, 6), repeat=3))
        assert cost(quantize(x)) == pytest.approx(least)


def test_blocks_begin_anew() -> None:
    x = np.random.default_rng(0).normal(size=256) * 3
    np.testing.assert_array_equal(quantize(np.tile(x, 3)), np.tile(quantize(x), 3))
    assert quantize(np.empty(0)).size == dequantize(np.empty(0, np.int64)).size == 0


@pytest.mark.parametrize(("rate", "least"), [(0.5, 0.4), (1.0, 0.5), (2.5, 0.4), (3.5, 0.5)])
def test_it_beats_a_scalar_quantiser_at_equal_rate(rate: float, least: float) -> None:
    """For normal values; 1.53 dB is all that any lattice can gain at high rates."""
    x = np.random.default_rng(1).normal(size=20_000)

    def distortion(step: float, trellis: bool) -> tuple[float, float]:
        levels = quantize(x / step) if trellis else np.rint(x / step).astype(np.int64)
        values = dequantize(levels) if trellis else levels
        return entropy(levels), 10 * np.log10(np.mean((values * step - x) ** 2))

    found = []
    for trellis in (True, False):
        curve = sorted(distortion(step, trellis) for step in np.geomspace(0.05, 4.0, 24))
        rates, decibels = np.array(curve).T
        found.append(float(np.interp(rate, rates, decibels)))
    assert least < found[1] - found[0] < 1.53
