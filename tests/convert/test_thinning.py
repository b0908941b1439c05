"""Between two scales: which entries keep a level, and that all else is as if they had been converted so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3.convert import Cells, FloatFormat, Quantizer, Thinning, convert
from flwr_co3.magnitudes import MagnitudeCounts
from flwr_co3.moments import BINS, Source, measure
from tests.samples import gennorm

pytestmark = pytest.mark.usefixtures("engine")

FP4 = FloatFormat("fp4")
DECAY = 0.9


def sources(seed: int, received: str = "") -> list[Source]:
    """Three tensors with memories, or with values that are received in another type."""
    sizes = (700, 40, 2000)
    drawn = [gennorm(0.7, size, 1.0, seed + k).astype(np.float32) for k, size in enumerate(sizes)]
    if received:
        return [Source(v, None, np.dtype(received)) for v in drawn]
    return [Source(v, gennorm(1.0, v.size, 0.3, seed + 9).astype(np.float32)) for v in drawn]


def cells_of(tensors: list[Source], scales: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Cells:
    """What `rounding="rd"` and centroids make of the tensors, each by itself."""
    counts = np.zeros((len(tensors), BINS), np.uint32)
    measure(tensors, DECAY, range(len(tensors)), counts)
    magnitudes = MagnitudeCounts(counts, tensors, [range(k, k + 1) for k in range(len(tensors))])
    return Quantizer(FP4, "rd", "centroid").cells(magnitudes, scales)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    coarser=st.one_of(st.none(), st.floats(0.3, 1)),
    kind=st.sampled_from(["plain", "rd", "float16"]),
)
def test_the_smallest_of_the_levels_between_are_left_out(
    seed: int, share: float, coarser: float | None, kind: str
) -> None:
    tensors = sources(seed, kind if kind == "float16" else "")
    scales = np.array([1.0, 0.5, 1.5])
    units = np.array([3.0, 2.0, 4.0])
    cells = cells_of(tensors, scales) if kind == "rd" else None
    fine = convert(FP4, tensors, DECAY, scales, units, cells=cells)
    coarse = None if coarser is None else convert(FP4, tensors, DECAY, scales * coarser, units)
    before = [array.copy() for array in fine]
    thinning = Thinning(FP4, tensors, DECAY, scales, units, fine, coarse, cells=cells)
    kept = np.arange(len(thinning)) < round(share * len(thinning))
    out = thinning.keeping(kept)
    for array, same in zip(fine, before, strict=True):
        np.testing.assert_array_equal(array, same)

    between = fine.symbols != FP4.zero
    if coarse is not None:
        between &= coarse.symbols == FP4.zero
    changed = out.symbols != fine.symbols
    assert not np.any(changed & ~between) and np.all(out.symbols[changed] == FP4.zero)
    assert np.count_nonzero(between) == len(thinning)
    assert np.count_nonzero(changed) == np.count_nonzero(~kept)
    v = [source.block(DECAY, 0, source.update.size).astype(np.float64) for source in tensors]
    size = np.concatenate([np.abs(values) * scale for values, scale in zip(v, scales, strict=True)])
    assert size[changed].max(initial=0) <= size[between & ~changed].min(initial=np.inf)

    points = FP4.magnitudes if cells is None else cells.points
    for t, values in enumerate(v):
        symbols = out.symbols[out.starts[t] :][: values.size].astype(int) - FP4.zero
        np.testing.assert_array_equal(out.counts[t], np.bincount(symbols + FP4.zero, minlength=2 * FP4.zero + 1))
        decoded = np.sign(symbols) * np.broadcast_to(points, (3, FP4.zero + 1))[t][np.abs(symbols)] / scales[t]
        if kind == "float16":
            decoded = decoded.astype(np.float16).astype(np.float64)
        assert out.squares[t] == pytest.approx(float(np.sum((values - decoded) ** 2)) / units[t] ** 2, rel=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
    finer=st.floats(0.5, 4),
    kind=st.sampled_from(["plain", "rd", "float16"]),
)
def test_some_entries_have_their_levels_at_another_scale_and_all_others_level_0(
    seed: int, share: float, finer: float, kind: str
) -> None:
    tensors = sources(seed, kind if kind == "float16" else "")
    scales, units = np.array([1.0, 0.5, 1.5]), np.array([3.0, 2.0, 4.0])
    fine = convert(FP4, tensors, DECAY, scales, units)
    thinning = Thinning(FP4, tensors, DECAY, scales, units, fine, None)
    kept = np.random.default_rng(seed).random(len(thinning)) < share
    others = scales * finer
    cells = cells_of(tensors, others) if kind == "rd" else None
    out = thinning.at(others, kept, cells)

    places = np.flatnonzero(thinning.keeping(kept).symbols != FP4.zero)
    assert places.size == np.count_nonzero(kept)
    expected = np.full(fine.symbols.size, FP4.zero, np.uint8)
    expected[places] = convert(FP4, tensors, DECAY, others, units, cells=cells).symbols[places]
    np.testing.assert_array_equal(out.symbols, expected)
    points = FP4.magnitudes if cells is None else cells.points
    for t, source in enumerate(tensors):
        values = source.block(DECAY, 0, source.update.size).astype(np.float64)
        symbols = expected[fine.starts[t] :][: values.size].astype(int) - FP4.zero
        np.testing.assert_array_equal(out.counts[t], np.bincount(symbols + FP4.zero, minlength=2 * FP4.zero + 1))
        decoded = np.sign(symbols) * np.broadcast_to(points, (3, FP4.zero + 1))[t][np.abs(symbols)] / others[t]
        if kind == "float16":
            decoded = decoded.astype(np.float16).astype(np.float64)
        assert out.squares[t] == pytest.approx(float(np.sum((values - decoded) ** 2)) / units[t] ** 2, rel=1e-4)


def test_nothing_between_changes_nothing() -> None:
    tensors = sources(3)
    scales, units = np.ones(3), np.ones(3)
    fine = convert(FP4, tensors, DECAY, scales, units)
    thinning = Thinning(FP4, tensors, DECAY, scales, units, fine, fine)
    assert len(thinning) == 0
    out = thinning.keeping(np.zeros(0, np.bool_))
    np.testing.assert_array_equal(out.symbols, fine.symbols)
    np.testing.assert_array_equal(out.squares, fine.squares)
