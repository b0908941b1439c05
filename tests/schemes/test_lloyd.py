"""Levels for fitted densities: TinyScript, M22 and the one-bit scheme."""

import numpy as np
import pytest
from scipy import integrate, stats

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.schemes import make_scheme
from flwr_co3.schemes.lloyd import Density, lloyd_levels, weibull_fit
from tests.samples import gennorm


@pytest.mark.parametrize("density", [Density("gennorm", s, 0.7, m) for s in (0.5, 1.0, 2.0) for m in (0.0, 2.0, 4.0)]
                         + [Density("weibull", s, 3.0, m) for s in (0.5, 1.0, 2.0) for m in (0.0, 2.0)])  # fmt: skip
@pytest.mark.parametrize("count", [1, 2, 4])
def test_levels_are_the_centroids_of_their_cells(density: Density, count: int) -> None:
    """``INT |x|^M x p / INT |x|^M p``, integrated numerically with scipy's densities."""
    kind = stats.gennorm if density.kind == "gennorm" else stats.dweibull
    model = kind(density.shape, scale=density.scale)
    levels = lloyd_levels(density, count)
    edges = [0.0, *(levels[1:] + levels[:-1]) / 2, float(model.isf(1e-13))]
    for k, level in enumerate(levels):
        points = np.geomspace(max(edges[k], 1e-12), edges[k + 1], 200_001)
        weights = points**density.weight * model.pdf(points)
        centroid = integrate.trapezoid(points * weights, points) / integrate.trapezoid(weights, points)
        assert level == pytest.approx(centroid, rel=5e-3)


def test_the_levels_of_a_normal_are_max_s() -> None:
    """Max, 1960, table I: one bit .798; two bits .4528, 1.510; three bits .2451, .7560, 1.344, 2.152."""
    for count, known in ((1, [0.7979]), (2, [0.4528, 1.510]), (4, [0.2451, 0.7560, 1.344, 2.152])):
        np.testing.assert_allclose(lloyd_levels(Density("gennorm", 2.0, np.sqrt(2)), count), known, rtol=1e-3)


def test_the_weibull_fit_finds_shape_and_scale() -> None:
    for shape in (0.6, 1.0, 1.8):
        x = 1e-3 * np.random.default_rng(0).weibull(shape, 200_000)
        found = weibull_fit(x)
        assert found[0] == pytest.approx(shape, rel=0.02) and found[1] == pytest.approx(1e-3, rel=0.02)


def test_tinyscript_loses_about_what_the_best_levels_lose() -> None:
    """One-dimensional k-means on the samples is the optimum that the fitted levels approach."""
    v = np.random.default_rng(0).weibull(0.9, 30_000) * np.random.default_rng(1).choice([-1, 1], 30_000)
    nmse = Codec(CO3Config(scheme=make_scheme("tinyscript", bits=3))).compress({"w": v}).nmse
    levels = np.quantile(np.abs(v), [0.2, 0.6, 0.9, 0.99])
    for _ in range(300):
        cell = np.searchsorted((levels[1:] + levels[:-1]) / 2, np.abs(v))
        levels = np.array([np.abs(v)[cell == k].mean() for k in range(4)])
    best = np.sum((np.abs(v) - levels[cell]) ** 2) / np.sum(v**2)
    assert best < nmse < 1.05 * best


def test_weighting_brings_large_entries_nearer() -> None:
    v = gennorm(0.7, 20_000)
    errors = {}
    for weight in (0.0, 4.0):
        scheme = make_scheme("m22", share=0.1, bits=2, weight=weight)
        sent = Codec(CO3Config(scheme=scheme)).compress({"w": v}).sent["w"]
        top = np.abs(v) >= np.quantile(np.abs(v), 0.99)
        errors[weight] = float(np.sum((v - sent)[top] ** 2))
        kept = np.sort(np.flatnonzero(sent))
        assert kept.size and set(kept) <= set(np.argsort(-np.abs(v))[:2000])  # what is nearer to 0 than to a level is 0
        assert np.unique(np.abs(sent[kept])).size == 2
    assert errors[4.0] < errors[0.0]


def test_one_bit_is_m22_with_one_bit() -> None:
    update = {"w": gennorm(0.7, 5000)}
    one, other = (make_scheme("onebit", share=0.05), make_scheme("m22", share=0.05, bits=1))
    sent, expected = (Codec(CO3Config(scheme=scheme)).compress(update).sent["w"] for scheme in (one, other))
    np.testing.assert_array_equal(sent, expected)
    with pytest.raises(ValueError, match="onebit has one bit for each entry that is kept, not 2: take m22"):
        make_scheme("onebit", bits=2)
