"""GenNorm against scipy's, its fits against what they are to recover, and what it refuses."""

import math

import numpy as np
import pytest
from scipy import stats

from flwr_co3.gennorm import SHAPE_RANGE, GenNorm
from flwr_co3.moments import Moments
from tests.samples import gennorm

SHAPES = (0.2, 0.3, 0.5, 0.8, 1.0, 1.37, 2.0, 4.0)
each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_it_is_scipys_distribution(shape: float, scale: float) -> None:
    model, reference = GenNorm(shape, scale), stats.gennorm(shape, scale=scale)
    q = np.array([1e-6, 0.01, 0.2, 0.4, 0.5, 0.6, 0.93, 0.999999])
    x = reference.ppf(q)
    np.testing.assert_allclose(model.ppf(q), x, rtol=1e-9, atol=1e-30)
    np.testing.assert_allclose(model.cdf(x), q, rtol=1e-9)
    np.testing.assert_allclose(model.pdf(x), reference.pdf(x), rtol=1e-9)
    np.testing.assert_allclose(model.logpdf(x), reference.logpdf(x), rtol=1e-9, atol=1e-12)
    assert model.entropy() == pytest.approx(float(reference.entropy()) / math.log(2), rel=1e-9)
    assert model.std == pytest.approx(float(reference.std()), rel=1e-9)


@pytest.mark.parametrize("shape", [0.5, 0.8, 1.0, 2.0, 4.0])
def test_the_mean_magnitude_is_the_mean_over_the_quantiles(shape: float) -> None:
    model = GenNorm(shape, 0.01)
    magnitudes = np.abs(model.ppf((np.arange(500_000) + 0.5) / 500_000))
    assert model.mean_abs == pytest.approx(float(magnitudes.mean()), rel=2e-4)


def test_laplace_and_normal_are_its_cases() -> None:
    x = np.linspace(-5, 5, 41)
    np.testing.assert_allclose(GenNorm.laplace(0.7).pdf(x), stats.laplace(scale=0.7).pdf(x))
    np.testing.assert_allclose(GenNorm.normal(0.7).cdf(x), stats.norm(scale=0.7).cdf(x), atol=1e-15)
    assert GenNorm.normal(0.7).std == pytest.approx(0.7)
    assert GenNorm.laplace(0.7).mean_abs == pytest.approx(0.7)
    assert GenNorm.normal(1).entropy() == pytest.approx(0.5 * math.log2(2 * math.pi * math.e))


def test_quantiles_at_the_ends_and_beyond() -> None:
    quantiles = GenNorm(0.8, 1).ppf([0, 0.5, 1, 1.5, -0.5])
    assert quantiles[0] == -math.inf and quantiles[1] == 0 and quantiles[2] == math.inf
    assert np.all(np.isnan(quantiles[3:]))


@each_shape
def test_the_moment_fit_recovers_the_parameters(shape: float) -> None:
    model = GenNorm.fit(gennorm(shape, 1_000_000, 3e-3))
    tolerance = 0.06 if shape < 0.5 else 0.02  # few of the largest values carry half of the moments
    assert model.shape == pytest.approx(shape, rel=tolerance)
    assert model.scale == pytest.approx(3e-3, rel=tolerance * 3 / min(shape, 1))


@each_shape
def test_the_likeliest_fit_recovers_the_parameters(shape: float) -> None:
    model = GenNorm.fit_mle(gennorm(shape, 200_000, 3e-3))
    assert model.shape == pytest.approx(shape, rel=0.01)
    assert model.scale == pytest.approx(3e-3, rel=0.05 if shape < 0.5 else 0.02)


def test_the_likeliest_fit_is_scipys() -> None:
    x = gennorm(0.7, 5000, 0.1, seed=4)
    shape, _, scale = stats.gennorm.fit(x, floc=0)
    model = GenNorm.fit_mle(x)
    assert model.shape == pytest.approx(shape, rel=1e-3)
    assert model.scale == pytest.approx(scale, rel=1e-3)


def test_the_moment_fit_satisfies_the_moment_equations() -> None:
    for shape in SHAPES[1:-1]:
        x = gennorm(shape, 10_000, 7.0, seed=9)
        model = GenNorm.fit(x)
        assert model.mean_abs == pytest.approx(float(np.mean(np.abs(x))), rel=1e-9)
        assert model.std == pytest.approx(float(np.sqrt(np.mean(x**2))), rel=1e-6)


@pytest.mark.parametrize("factor", [1e300, 1e200, 1e160, 1e-160, 1e-200, 1e-300])
def test_magnitude_does_not_matter(factor: float) -> None:
    x = gennorm(0.8, 20_000)
    model, large = GenNorm.fit(x), GenNorm.fit(x * factor)
    assert large.shape == pytest.approx(model.shape, rel=1e-9)
    assert large.scale / factor == pytest.approx(model.scale, rel=1e-9)
    assert GenNorm.fit_mle(x * factor).shape == pytest.approx(GenNorm.fit_mle(x).shape, rel=1e-5)


def test_denormals_fit_too() -> None:
    x = gennorm(1.0, 20_000)
    model = GenNorm.fit(x * 1e-310)
    assert model.shape == pytest.approx(1.0, rel=0.03)
    assert model.scale == pytest.approx(1e-310, rel=0.03)
    assert GenNorm.fit(np.array([5e-324])).scale > 0
    assert GenNorm.fit(np.array([1.7976931348623157e308] * 3)).scale < math.inf


def test_shapes_stay_within_the_range() -> None:
    assert GenNorm.fit(np.ones(100)).shape == pytest.approx(SHAPE_RANGE[1])
    outlier = np.full(100_000, 1e-9)
    outlier[7] = 1
    assert GenNorm.fit(outlier).shape == pytest.approx(SHAPE_RANGE[0])
    assert SHAPE_RANGE[0] <= GenNorm.fit_mle(outlier).shape <= SHAPE_RANGE[1]


@pytest.mark.parametrize("fit", [GenNorm.fit, GenNorm.fit_mle])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "empty or all zero"),
        ([0.0, -0.0], "empty or all zero"),
        ([1.0, math.nan], "NaN or infinite"),
        ([1.0, -math.inf], "NaN or infinite"),
    ],
)
def test_what_no_model_fits_is_refused(fit: object, values: list[float], reason: str) -> None:
    assert callable(fit)
    with pytest.raises(ValueError, match=reason):
        fit(np.array(values))


@pytest.mark.parametrize(("shape", "scale"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.inf)])
def test_parameters_that_are_no_distribution_are_refused(shape: float, scale: float) -> None:
    with pytest.raises(ValueError, match=r"GenNorm (shape|scale) must be a finite number above 0"):
        GenNorm(shape, scale)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_moments_of_many_blocks(dtype: str) -> None:
    x = gennorm(0.7, (50, 1001), seed=3).astype(dtype)
    x[:, ::7] = 0
    moments, exact = Moments.of(x), x.astype("f8")
    assert [moments.entries, moments.nonzero] == [x.size, int(np.count_nonzero(x))]
    assert moments.peak == np.max(np.abs(exact))
    assert moments.mean_abs * moments.peak == pytest.approx(float(np.mean(np.abs(exact))), rel=1e-12)
    assert moments.mean_square * moments.peak**2 == pytest.approx(float(np.mean(exact**2)), rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 20_000, 49_999])
def test_moments_notice_what_is_not_finite(bad: float, place: int) -> None:
    x = np.ones(50_000)
    x[place] = bad
    assert not math.isfinite(Moments.of(x).peak)
