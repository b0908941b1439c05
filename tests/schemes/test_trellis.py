"""The trellis: what it gains, and that it finds the best path."""

import itertools

import numpy as np
import pytest

from flwr_co3.schemes.trellis import dequantize, quantize


def entropy(levels: object) -> float:
    counts = np.unique(np.asarray(levels), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log2(shares)))


def test_the_path_is_the_nearest_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        x = rng.normal(size=3) * 2
        found = dequantize(quantize(x))
        candidates = itertools.product(range(-5, 6), repeat=3)
        least = min(np.sum((dequantize(np.array(k)) - x) ** 2) for k in candidates)
        assert np.sum((found - x) ** 2) == pytest.approx(least)


def test_blocks_begin_anew() -> None:
    x = np.random.default_rng(0).normal(size=1000) * 3
    indices = quantize(x)
    for start in range(0, 1000, 256):
        np.testing.assert_array_equal(quantize(x[start : start + 256]), indices[start : start + 256])
    assert quantize(np.empty(0)).size == dequantize(np.empty(0, np.int64)).size == 0


@pytest.mark.parametrize(("rate", "least"), [(2.5, 0.4), (3.5, 0.5)])
def test_it_beats_a_scalar_quantiser_at_equal_rate(rate: float, least: float) -> None:
    """From some two bits on, for normal values; 1.53 dB is all that any lattice can gain.

    The search looks at errors alone and not at bits, which costs more than it gains at lower rates.
    """
    x = np.random.default_rng(1).normal(size=60_000)

    def distortion(step: float, trellis: bool) -> tuple[float, float]:
        levels = quantize(x / step) if trellis else np.rint(x / step).astype(np.int64)
        values = dequantize(levels) if trellis else levels
        return entropy(levels), 10 * np.log10(np.mean((values * step - x) ** 2))

    found = []
    for trellis in (True, False):
        curve = sorted(distortion(step, trellis) for step in np.geomspace(0.05, 2.0, 20))
        rates, decibels = np.array(curve).T
        found.append(float(np.interp(rate, rates, decibels)))
    assert least < found[1] - found[0] < 1.53
