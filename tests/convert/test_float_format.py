"""Levels of the formats against other sources, and rounding against a search for the nearest level."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flwr_co3.convert import FloatFormat
from flwr_co3.convert.float_format import PRESETS
from tests.samples import FORMATS, gennorm

FP4 = [0, 0.5, 1, 1.5, 2, 3]
ODD_FORMATS = [
    FloatFormat(exponent=1, mantissa=2, bias=0),
    FloatFormat(exponent=1, mantissa=0, bias=1, top_exponent=True),  # ternary
    FloatFormat(exponent=3, mantissa=0, bias=3),
    FloatFormat(exponent=2, mantissa=4, bias=-5, top_exponent=True, reserved=3),
    FloatFormat(exponent=5, mantissa=10, bias=15),
]
ALL_FORMATS = [FloatFormat(name) for name in FORMATS] + ODD_FORMATS
each_format = pytest.mark.parametrize("fmt", ALL_FORMATS, ids=str)


def mirrored(magnitudes: list[float]) -> list[float]:
    return [-m for m in magnitudes[:0:-1]] + magnitudes


def finite_values(dtype: type) -> list[float]:
    """All finite values of another library's 8-bit type, of both zeros one."""
    values = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
    return sorted({float(value) for value in values if math.isfinite(value)})


def nearest(fmt: FloatFormat, values: NDArray[np.float64]) -> NDArray[np.intp]:
    """The nearest level to each value, the larger magnitude where two are as near."""
    levels = fmt.levels
    order = np.argsort(-np.abs(levels), kind="stable")
    return np.asarray(order[np.argmin(np.abs(values[:, None] - levels[order]), axis=1)])


def test_fp4_is_the_papers() -> None:
    assert FloatFormat("fp4").levels.tolist() == mirrored(FP4)


def test_e2m1_is_ocps() -> None:
    assert FloatFormat("e2m1").levels.tolist() == mirrored([*FP4, 4, 6])


def test_fp8_is_the_papers() -> None:
    levels = FloatFormat("fp8").levels
    assert levels.size == 247
    assert levels[123 : 123 + 6].tolist() == [k * 2.0**-16 for k in range(6)]
    assert levels[-1] == 57344
    assert levels.tolist() == finite_values(ml_dtypes.float8_e5m2)


def test_fp8_143_is_the_papers() -> None:
    levels = FloatFormat("fp8_143").levels
    assert levels.size == 239
    assert levels.tolist() == [value / 8 for value in finite_values(ml_dtypes.float8_e4m3)]  # bias 10, there 7


@pytest.mark.parametrize(("name", "dtype"), [("e4m3", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)])
def test_ocp_formats_are_those_of_ml_dtypes(name: str, dtype: type) -> None:
    assert FloatFormat(name).levels.tolist() == finite_values(dtype)


def test_presets_are_cases_of_the_same_code() -> None:
    assert set(FORMATS) == set(PRESETS)
    for name, (exponent, mantissa, bias, top, reserved) in PRESETS.items():
        fields = FloatFormat(exponent=exponent, mantissa=mantissa, bias=bias, top_exponent=top, reserved=reserved)
        assert fields == FloatFormat(name)
        assert hash(fields) == hash(FloatFormat(name))


@each_format
def test_levels_rise_and_mirror_around_one_zero(fmt: FloatFormat) -> None:
    assert np.all(np.diff(fmt.levels) > 0)
    assert np.array_equal(fmt.levels, -fmt.levels[::-1])
    assert fmt.levels[fmt.zero] == 0 and not np.signbit(fmt.levels[fmt.zero])
    assert fmt.levels.size == 2 * fmt.zero + 1
    with pytest.raises(ValueError, match="read-only"):
        fmt.levels[0] = 1


@each_format
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rounding_finds_the_nearest_level(fmt: FloatFormat, dtype: str) -> None:
    top = fmt.magnitudes[-1]
    edges = fmt.edges[:: max(1, fmt.edges.size // 300)]
    count = 2000 if fmt.zero < 128 else 60
    random = gennorm(0.4, count) * top / 50
    small = gennorm(0.4, count, seed=1) * fmt.magnitudes[1]
    values = np.concatenate([random, small, [0.0], fmt.magnitudes[:: max(1, fmt.zero // 300)], [1.1 * top, 50 * top]])
    values = np.concatenate([values, -values]).astype(dtype).astype("f8")
    symbols = fmt.quantize(values.astype(dtype), 1.0)
    assert symbols.dtype == fmt.symbol_dtype
    # An ulp of float32 beside an edge either side is as near as can be.
    gap = np.min(np.abs(np.abs(values)[:, None] - fmt.edges), axis=1)
    clear = gap > 1e-6 * np.abs(values)
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(symbols[clear], nearest(fmt, values[clear]))
    # The edges themselves are float32 numbers: ties go away from zero.
    for sign in (1, -1):
        np.testing.assert_array_equal(fmt.quantize((sign * edges).astype(dtype), 1.0), nearest(fmt, sign * edges))


@each_format
def test_levels_are_their_own_nearest(fmt: FloatFormat) -> None:
    for scale in (1.0, 2.0**-20, 2.0**20):
        symbols = fmt.quantize(fmt.levels / scale, scale)
        np.testing.assert_array_equal(symbols, np.arange(fmt.levels.size))
        np.testing.assert_array_equal(fmt.values(scale), fmt.levels / scale)
    np.testing.assert_array_equal(fmt.dequantize(np.arange(fmt.levels.size), 1.0), fmt.levels.astype("f4"))


@each_format
def test_large_values_saturate_and_negative_zero_is_zero(fmt: FloatFormat) -> None:
    for dtype in ("f2", "f4", "f8"):
        largest = np.finfo(dtype).max
        symbols = fmt.quantize(np.array([largest, -largest, -0.0, 0.0], dtype), 1e30)
        assert symbols.tolist() == [2 * fmt.zero, 0, fmt.zero, fmt.zero]


@each_format
@pytest.mark.parametrize("stochastic", [False, True])
def test_every_value_has_a_level(fmt: FloatFormat, stochastic: bool) -> None:
    """All exponents of float32, at scales from one end of float64 to the other."""
    x = np.ldexp(np.linspace(1, 2, 20, endpoint=False), np.arange(-149, 128)[:, None]).astype("f4")
    x = np.concatenate([x, -x])
    for scale in (5e-324, 1e-300, 1e-30, 1e-3, 1.0, 1e3, 1e30, 1e300):
        symbols = fmt.quantize(x, scale, np.random.default_rng(0) if stochastic else None)
        assert symbols.max() <= 2 * fmt.zero
        assert np.all((symbols.astype(int) - fmt.zero) * np.sign(x) >= 0), "a sign changed"


@pytest.mark.parametrize("name", FORMATS)
def test_stochastic_rounding_is_unbiased(name: str) -> None:
    """The mean of n draws lies within 5 standard errors of the value: a chance of 6e-7 a point of being wrong."""
    fmt, draws = FloatFormat(name), 100_000
    largest = fmt.magnitudes[-1]
    points = np.concatenate(
        [fmt.magnitudes[1] * np.array([0.07, 0.5, 0.93, 1.5]), largest * np.array([0.013, 0.11, 0.45, 0.52, 0.9, 0.99])]
    )
    rng = np.random.default_rng(5)
    for point in [*points, *-points]:
        x = np.full(draws, point, "f4")
        levels = fmt.levels[fmt.quantize(x, 1.0, rng)]
        above = np.searchsorted(fmt.levels, float(x[0]), side="left")
        low, high = fmt.levels[above - 1], fmt.levels[above]
        assert set(np.unique(levels)) <= {low, high}
        error = math.sqrt((float(x[0]) - low) * (high - float(x[0])) / draws)
        assert abs(levels.mean() - float(x[0])) <= 5 * error


@pytest.mark.parametrize("name", FORMATS)
def test_stochastic_rounding_leaves_levels_and_saturates(name: str) -> None:
    fmt, rng = FloatFormat(name), np.random.default_rng(0)
    for _ in range(20):
        np.testing.assert_array_equal(fmt.quantize(fmt.levels, 1.0, rng), np.arange(fmt.levels.size))
    assert np.all(fmt.quantize(np.full(1000, 1.01 * fmt.magnitudes[-1]), 1.0, rng) == 2 * fmt.zero)


@given(
    exponent=st.integers(1, 8),
    mantissa=st.integers(0, 10),
    bias=st.integers(-100, 230),
    top=st.booleans(),
    value=st.floats(-4, 4, width=32),
)
def test_any_format_rounds_to_the_nearest_or_is_refused(
    exponent: int, mantissa: int, bias: int, top: bool, value: float
) -> None:
    try:
        fmt = FloatFormat(exponent=exponent, mantissa=mantissa, bias=bias, top_exponent=top)
    except ValueError as error:
        assert str(error).endswith(".")
        return
    x = np.array([value * fmt.magnitudes[-1] / 3])
    symbol = int(fmt.quantize(x, 1.0)[0])
    distance = np.abs(fmt.levels - x[0])
    assert distance[symbol] <= distance.min() + 1e-6 * abs(x[0])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", ml_dtypes.bfloat16])
def test_shape_layout_and_byte_order_do_not_matter(name: str, dtype: str) -> None:
    fmt = FloatFormat(name)
    x = gennorm(0.8, (40, 30, 50)).astype(dtype)
    expected = fmt.quantize(x.astype("f8").ravel(), 0.7).reshape(x.shape)
    assert fmt.quantize(x[::-1, :, ::3], 0.7).tolist() == expected[::-1, :, ::3].tolist()
    assert fmt.quantize(np.asfortranarray(x), 0.7).tolist() == expected.tolist()
    assert fmt.quantize(x[3, 4, 5], 0.7).shape == ()
    assert fmt.quantize(x[:0], 0.7).shape == (0, 30, 50)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale must be a finite number above 0"):
        FloatFormat("fp4").quantize(np.ones(3), scale)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "needs a name, or all of"),
        ({"name": "fp3"}, "Unknown format 'fp3': choose one of fp4"),
        ({"name": "fp4", "bias": 1}, "a name or the fields"),
        ({"exponent": 2, "mantissa": 1}, "needs a name, or all of"),
        ({"exponent": 0, "mantissa": 1, "bias": 1}, "exponent must be an integer within 1 to 8, not 0"),
        ({"exponent": 2.5, "mantissa": 1, "bias": 1}, "exponent must be an integer within 1 to 8, not 2.5"),
        ({"exponent": 9, "mantissa": 1, "bias": 1}, "exponent must be an integer within 1 to 8"),
        ({"exponent": 2, "mantissa": 11, "bias": 1}, "mantissa must be an integer within 0 to 10"),
        ({"exponent": 2, "mantissa": 1, "bias": 1000}, "bias must be an integer within"),
        ({"exponent": 2, "mantissa": 1, "bias": 1, "reserved": -1}, "reserved must be an integer within"),
        ({"exponent": 1, "mantissa": 0, "bias": 1}, "has 1 levels"),
        ({"exponent": 2, "mantissa": 1, "bias": 1, "reserved": 6}, "levels"),
        ({"exponent": 8, "mantissa": 10, "bias": 127}, "levels"),
        ({"exponent": 8, "mantissa": 2, "bias": 0}, "outside 2\\^-120 to 2\\^120"),
    ],
)
def test_impossible_formats_are_refused(fields: dict[str, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FloatFormat(**fields)  # type: ignore[arg-type]
