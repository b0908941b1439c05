"""The scale that loses least: co3.md's table, Monte Carlo, and no better scale on a fine grid."""

import math

import numpy as np
import pytest

from flwr_co3.convert import FloatFormat, distortion, optimal_scale
from flwr_co3.gennorm import GenNorm
from tests.samples import FORMATS, FP4_OPTIMA, cell_probabilities, gennorm

FP4 = FloatFormat("fp4")


@pytest.mark.parametrize("shape", FP4_OPTIMA)
def test_fp4_has_the_scales_and_distortions_of_the_table(shape: float) -> None:
    scale, nmse = FP4_OPTIMA[shape]
    model = GenNorm(shape, 1.0)
    found = optimal_scale(FP4, model)
    # The table's own rounding is .05 of its last digit: 5.6 % of .0009.
    assert found == pytest.approx(scale, rel=0.01, abs=0.00005)
    assert float(distortion(FP4, model, found)) == pytest.approx(nmse, rel=0.01)
    assert optimal_scale(FP4, GenNorm(shape, 0.02)) == pytest.approx(found / 0.02)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [0.5, 0.8, 1.0, 2.0])
def test_the_distortion_is_that_of_a_million_draws(name: str, shape: float) -> None:
    fmt, model = FloatFormat(name), GenNorm(shape, 1.0)
    x = gennorm(shape, 1_000_000)
    # Heavy tails have few draws where they lose most; with fine levels, that is beyond the last.
    fine = name in ("uniform", "e2m5", "e3m4")
    tolerance = 0.02 + 0.08 * fine if shape >= 0.8 else 0.06 + 0.2 * fine
    for factor in (1 / 3, 1, 3):
        scale = factor * optimal_scale(fmt, model)
        lost = x - fmt.levels[fmt.quantize(x, scale)] / scale
        measured = float(np.mean(lost**2) / np.mean(x**2))
        assert float(distortion(fmt, model, scale)) == pytest.approx(measured, rel=tolerance)


@pytest.mark.parametrize("name", FORMATS)
def test_the_distortion_is_the_integral_over_the_density(name: str) -> None:
    """By cell: E (x - l)^2 over a cell needs its probability and first two moments; here by a fine sum."""
    fmt, model = FloatFormat(name), GenNorm(1.3, 0.5)
    scale = optimal_scale(fmt, model)
    x = model.ppf((np.arange(1_000_000) + 0.5) / 2_000_000)  # the negative half
    lost = x - fmt.levels[fmt.quantize(x, scale)] / scale
    expected = float(np.mean(lost**2) / model.std**2)
    assert float(distortion(fmt, model, scale)) == pytest.approx(expected, rel=0.01)


def fine_grid(fmt: FloatFormat, model: GenNorm) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """All scales that could be of use: from the largest level far inside the distribution to the smallest far out."""
    low = math.log2(fmt.magnitudes[1] / model.std) - 6
    high = math.log2(fmt.magnitudes[-1] / model.std) + 4
    return 2.0 ** np.arange(low, high, 1 / 24)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [0.2, 0.25, 0.3, 0.45, 0.7, 1.0, 1.4, 2.0, 2.9, 4.0])
def test_no_scale_is_better(name: str, shape: float) -> None:
    fmt, model = FloatFormat(name), GenNorm(shape, 1.0)
    best = float(distortion(fmt, model, fine_grid(fmt, model)).min())
    assert float(distortion(fmt, model, optimal_scale(fmt, model))) <= best * 1.01


@pytest.mark.parametrize(
    "fmt",
    [
        FloatFormat(exponent=1, mantissa=0, bias=1, top_exponent=True),
        FloatFormat(exponent=1, mantissa=5, bias=0),
        FloatFormat(exponent=6, mantissa=1, bias=31),
        FloatFormat(exponent=3, mantissa=0, bias=100),
        FloatFormat(exponent=3, mantissa=3, bias=-90),
    ],
    ids=str,
)
def test_unusual_formats_have_an_optimal_scale_too(fmt: FloatFormat) -> None:
    for shape in (0.2, 0.9, 4.0):
        model = GenNorm(shape, 1e-3)
        best = float(distortion(fmt, model, fine_grid(fmt, model)).min())
        assert float(distortion(fmt, model, optimal_scale(fmt, model))) <= best * 1.01


def test_every_shape_that_a_frame_can_name_has_an_optimum() -> None:
    errors = []
    for code in range(57, 256, 3):
        model = GenNorm(((code + 1) / 128) ** 2, 1.0)
        errors.append(float(distortion(FP4, model, optimal_scale(FP4, model))))
    assert np.all(np.diff(errors) < 0), "heavier tails lose more"
    assert 0 < errors[-1] < errors[0] < 0.25


def test_at_the_optimum_levels_hardly_saturate() -> None:
    """The authors' start, scale 1 for updates of some 1e-3, saturates most entries; the optimum doesn't."""
    for shape, (scale, _) in FP4_OPTIMA.items():
        outer = cell_probabilities(FP4.levels, GenNorm(shape, 1.0), scale)[[0, -1]].sum()
        assert outer < 0.1
