"""Schemes with few levels: TernGrad, sign, BinGrad-b, ORQ, and the casts."""

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from flwr_co3.schemes import Parts, make_scheme
from flwr_co3.schemes.bingrad import BinGradB
from flwr_co3.schemes.orq import ORQ, optimal_levels
from flwr_co3.schemes.scheme import TensorScheme
from flwr_co3.schemes.sign import Sign
from flwr_co3.schemes.terngrad import TernGrad
from tests.samples import gennorm

Floats = NDArray[np.float64]


def coded(scheme: TensorScheme, v: Floats, seed: int = 0) -> Floats:
    levels, numbers = scheme.encode_tensor(v, np.random.default_rng(seed))
    return scheme.decode_tensor(levels, np.array(numbers))


def error(scheme: TensorScheme, v: Floats) -> float:
    return float(np.sum((coded(scheme, v) - v) ** 2))


def test_terngrad_has_three_levels_and_the_papers_variance() -> None:
    """``E||q - v||^2 = sum |v| (m - |v|)``: each entry is m with probability |v| / m."""
    v = np.random.default_rng(0).normal(size=300)
    peak = np.abs(v).max()
    draws = np.array([coded(TernGrad(clip=0), v, seed) for seed in range(2000)])
    np.testing.assert_allclose(np.unique(np.abs(draws)), [0, peak], rtol=1e-6)
    errors = np.sum((draws - v) ** 2, axis=1)
    assert abs(errors.mean() / np.sum(np.abs(v) * (peak - np.abs(v))) - 1) < 0.01


def test_terngrad_clips_at_so_many_standard_deviations() -> None:
    v = np.append(np.random.default_rng(0).normal(size=1000), 100.0)
    assert np.abs(coded(TernGrad(), v)).max() == pytest.approx(2.5 * v.std(), rel=1e-6)


def test_sign_sends_the_means_of_both_signs() -> None:
    v = np.array([1.0, 3.0, -2.0, -6.0, 0.0])
    np.testing.assert_allclose(coded(Sign(), v), [4 / 3, 4 / 3, -4, -4, 4 / 3])


def test_bingrad_b_meets_lloyds_conditions() -> None:
    v = gennorm(0.7, 5000) + 0.3
    decoded = coded(BinGradB(), v)
    below, above = np.unique(decoded)
    threshold = (below + above) / 2
    np.testing.assert_array_equal(decoded, np.where(v >= threshold, above, below))
    assert above == pytest.approx(v[v >= threshold].mean()) and below == pytest.approx(v[v < threshold].mean())
    assert error(BinGradB(), v) <= error(Sign(), v)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_each_level_of_orq_halves_what_lies_between_its_neighbours(bits: int) -> None:
    """The condition of the least variance, for the levels of the last bisection; within one entry's share."""
    v = gennorm(0.8, 20_000, seed=bits)
    levels = optimal_levels(v, bits)
    assert levels.size == 2**bits + 1 and levels[0] <= v.min() and levels[-1] >= v.max()
    for left, middle, right in zip(levels[:-2:2], levels[1::2], levels[2::2], strict=True):
        below, above = v[(v > left) & (v <= middle)], v[(v > middle) & (v < right)]
        assert abs(np.sum(below - left) - np.sum(right - above)) <= 2 * (right - left)


def test_orq_rounds_between_neighbours_and_beats_equal_steps() -> None:
    v = gennorm(1.0, 4000)
    decoded, levels = coded(ORQ(bits=2), v), optimal_levels(v, 2)
    place = np.searchsorted(levels, v, side="right") - 1
    assert np.all((decoded == levels[place]) | (decoded == levels[np.minimum(place + 1, 4)]))
    equal = np.linspace(v.min(), v.max(), 5)
    at = np.clip(np.searchsorted(equal, v, side="right") - 1, 0, 3)
    variance = np.sum((v - equal[at]) * (equal[at + 1] - v))
    assert error(ORQ(bits=2), v) < 0.6 * variance


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_is_numpys(dtype: str) -> None:
    v = np.concatenate([gennorm(0.5, 3000), [0.0, -0.0, 1e-6, 65504.0]])
    scheme = make_scheme("cast", dtype=dtype)
    parts = scheme.encode([v], np.random.default_rng(0), False)
    (found,) = scheme.decode(Parts(raw=parts.raw), [v.size])
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    np.testing.assert_array_equal(found, v.astype("f4").astype(kind).astype("f8"))
