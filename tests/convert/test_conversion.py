"""An update's way to levels: symbols, how often each occurs, what is lost, and what is kept."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flwr_co3.convert import Cells, Converted, FloatFormat, convert, keep, magnitude_values, points_of
from flwr_co3.moments import BLOCK, Source, contiguous
from tests.samples import FORMATS, Array, gennorm

pytestmark = pytest.mark.usefixtures("engine")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def generator(seed: int | None) -> np.random.Generator | None:
    return None if seed is None else np.random.default_rng(seed)


def one(fmt: FloatFormat, x: Array, scale: float, seed: int | None = None) -> Converted:
    return convert(fmt, [Source(contiguous(x), None)], 0.0, np.array([scale]), np.ones(1), rng=generator(seed))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", [None, 1])
def test_symbols_are_counted(name: str, seed: int | None) -> None:
    fmt = FloatFormat(name)
    x = gennorm(0.7, (123, 456)).astype("f4")
    converted = one(fmt, x, 2.5, seed)
    np.testing.assert_array_equal(converted.symbols, fmt.quantize(x, 2.5, generator(seed)).reshape(-1))
    assert converted.symbols.dtype == np.dtype("u1") and converted.symbols.shape == (x.size,)
    assert converted.starts.tolist() == [0]
    (counts,) = converted.counts.tolist()
    assert counts == [int(np.sum(converted.symbols == s)) for s in range(2 * fmt.zero + 1)]


def test_an_empty_tensor_counts_nothing() -> None:
    converted = one(FloatFormat("fp4"), np.zeros((0, 3)), 1.0)
    assert converted.symbols.shape == (0,)
    assert converted.counts.tolist() == [[0] * 11]
    assert list(converted.squares) == [0.0]


def test_no_tensors_at_all() -> None:
    converted = convert(FloatFormat("fp4"), [], 0.5, np.ones(0), np.ones(0))
    assert converted.symbols.size == converted.starts.size == 0
    assert converted.counts.shape == (0, 11) and len(converted.squares) == 0


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", BFLOAT16])
@pytest.mark.parametrize("size", [1, 7, 8, 511, 512, 513, BLOCK + 1])
@pytest.mark.parametrize("seed", [None, 5])
def test_sizes_and_dtypes(dtype: Any, size: int, seed: int | None) -> None:
    fmt, x = FloatFormat("fp4"), gennorm(0.8, size, 0.2).astype(dtype)
    np.testing.assert_array_equal(one(fmt, x, 3.0, seed).symbols, blockwise(fmt, x, 3.0, seed))


def blockwise(fmt: FloatFormat, x: Array, scale: float, seed: int | None) -> Array:
    """What `quantize` gives block by block, which is how random numbers are drawn."""
    rng = generator(seed)
    return np.concatenate([fmt.quantize(x[k : k + BLOCK], scale, rng) for k in range(0, x.size, BLOCK)])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [2.0**-61, 1e-6, 1.0, 77.0, 2.0**61])
def test_what_is_lost_is_kept(name: str, scale: float) -> None:
    """In one pass, or in two: what was to be sent less what is decoded, in float32; and its square."""
    fmt, decay = FloatFormat(name), 0.625
    updates = [gennorm(0.8, size, 1 / scale, size).astype("f4") for size in (1, 30, 1537, 20_000)]
    errors: list[Any] = [gennorm(0.8, x.size, 1 / scale, 9).astype("f4") for x in updates]
    errors[1] = None
    sources = [Source(x, e) for x, e in zip(updates, errors, strict=True)]
    kept = [np.full_like(x, np.nan) for x in updates]
    scales, units = np.full(len(updates), scale), np.full(len(updates), 2.0 / scale)
    converted = convert(fmt, sources, decay, scales, units, kept=kept)
    later = [np.full_like(x, np.nan) for x in updates]
    keep(fmt, sources, decay, scales, convert(fmt, sources, decay, scales, units), later)
    magnitudes = magnitude_values(fmt.magnitudes, scale, "float32")
    values = np.concatenate([-magnitudes[:0:-1], magnitudes]).astype("f4")
    for t, (x, error) in enumerate(zip(updates, errors, strict=True)):
        v = x if error is None else error * np.float32(decay) + x
        start = int(converted.starts[t])
        lost = v - values[converted.symbols[start : start + x.size]]
        assert kept[t].tobytes() == later[t].tobytes() == lost.tobytes()
        assert converted.squares[t] == pytest.approx(float(np.sum((lost.astype("f8") * scale / 2) ** 2)), rel=1e-6)


def test_the_memory_may_be_written_to_its_own_place() -> None:
    fmt, x, error = FloatFormat("fp4"), gennorm(1, 5000).astype("f4"), gennorm(1, 5000, seed=1).astype("f4")
    apart = np.empty_like(x)
    convert(fmt, [Source(x, error)], 0.5, np.ones(1), np.ones(1), kept=[apart])
    convert(fmt, [Source(x, error)], 0.5, np.ones(1), np.ones(1), kept=[error])
    assert error.tobytes() == apart.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_keeping_where_most_is_zero(share: float) -> None:
    """Levels that are all 0 take a way of their own: nothing is to be looked up."""
    fmt = FloatFormat("fp4")
    x = (gennorm(1, 4099, 3.0) * (np.random.default_rng(0).random(4099) < share)).astype("f4")
    converted = one(fmt, x, 1.0)
    kept = np.full_like(x, np.nan)
    keep(fmt, [Source(x, None)], 0.0, np.ones(1), converted, [kept])
    assert kept.tobytes() == (x - fmt.levels[converted.symbols].astype("f4")).tobytes()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("memory", [False, True])
def test_cells_decide_what_is_rounded_to_what_and_kept(name: str, memory: bool) -> None:
    fmt = FloatFormat(name)
    x = (gennorm(0.8, 5000, 2.0) * fmt.magnitudes[1]).astype("f4")
    error = (gennorm(0.8, 5000, 1.0, 1) * fmt.magnitudes[1]).astype("f4") if memory else None
    rng = np.random.default_rng(0)
    ends = np.append(fmt.edges[1:], fmt.magnitudes[-1])
    edges = fmt.edges + rng.random(fmt.zero) * (ends - fmt.edges)
    codes = rng.integers(-128, 128, fmt.zero).astype(np.int8)
    cells = Cells(edges[None], points_of(fmt, codes)[None], codes[None])
    kept = [np.empty_like(x)]
    converted = convert(fmt, [Source(x, error)], 0.5, np.ones(1), np.ones(1), cells=cells, kept=kept)
    v = x if error is None else error * np.float32(0.5) + x
    magnitude = np.searchsorted(edges.astype("f4"), np.abs(v), side="right")
    np.testing.assert_array_equal(converted.symbols, fmt.zero + np.where(v < 0, -magnitude, magnitude))
    sent = np.where(v < 0, -1, 1) * cells.points[0].astype("f4")[magnitude]
    np.testing.assert_array_equal(kept[0], v - sent)
    later = [np.empty_like(x)]
    keep(fmt, [Source(x, error)], 0.5, np.ones(1), converted, later, cells=cells)
    assert later[0].tobytes() == kept[0].tobytes()
