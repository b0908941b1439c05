"""One tensor's way to levels."""

import numpy as np
import pytest

from flwr_co3.convert import FloatFormat, convert
from tests.samples import FORMATS, gennorm


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", [None, 1])
def test_symbols_are_counted(name: str, seed: int | None) -> None:
    fmt = FloatFormat(name)
    x = gennorm(0.7, (123, 456)).astype("f4")

    def rng() -> np.random.Generator | None:
        return None if seed is None else np.random.default_rng(seed)

    converted = convert(fmt, x, 2.5, rng())
    np.testing.assert_array_equal(converted.symbols, fmt.quantize(x, 2.5, rng()))
    assert converted.symbols.dtype == np.dtype("u1") and converted.symbols.shape == x.shape
    assert converted.scale == 2.5
    assert converted.counts.tolist() == [int(np.sum(converted.symbols == s)) for s in range(2 * fmt.zero + 1)]


def test_an_empty_tensor_counts_nothing() -> None:
    converted = convert(FloatFormat("fp4"), np.zeros((0, 3)), 1.0)
    assert converted.symbols.shape == (0, 3)
    assert converted.counts.tolist() == [0] * 11
