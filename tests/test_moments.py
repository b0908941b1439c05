"""The one pass over an update: its sums are the same bit for bit in both engines, and nothing infinite escapes it."""

import math
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3 import kernels, moments
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.correct import ErrorMemory
from flwr_co3.moments import BINS, FLOAT32_BIN_SHIFT, SEGMENT, Moments, Source, contiguous, measure, segments
from flwr_co3.rate import RateLimit
from tests.engines import NUMPY, PLAIN, VECTORS, running
from tests.samples import Array, gennorm
from tests.strategies import KINDS, values_of

SIZES = (0, 1, 15, 16, 17, 511, 512, 513, 528, 1024, 16_384, 16_385, 40_000)


def sources_of(sizes: Sequence[int], seed: int = 0, kind: str = "heavy tails") -> list[Source]:
    """Float32 tensors, every other one with a memory."""
    tensors = [values_of(np.dtype("f4"), (size,), kind, seed + k) for k, size in enumerate(sizes)]
    return [Source(x, x[::-1].copy() if k % 2 else None) for k, x in enumerate(tensors)]


def bits_of(sources: Sequence[Source], decay: float, counting: bool) -> tuple[bytes, bytes]:
    """All that is measured, and all counts."""
    rows = [k % 2 for k in range(len(sources))]
    bins = np.zeros((2, BINS), np.uint32) if counting else None
    measured = measure(sources, decay, rows, bins)
    fields = np.array([getattr(measured, field) for field in Moments._fields], np.float64)
    return fields.tobytes(), b"" if bins is None else bins.tobytes()


@given(
    sizes=st.lists(st.sampled_from(SIZES), max_size=5),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 99),
    decay=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    counting=st.booleans(),
    segment=st.sampled_from([16, 100, 512, 5000, SEGMENT]),
)
@settings(deadline=None, max_examples=40)
def test_sums_are_the_same_bit_for_bit(
    sizes: list[int], kind: str, seed: int, decay: float, counting: bool, segment: int
) -> None:
    sources = sources_of(sizes, seed, kind)
    with patch.object(moments, "SEGMENT", segment), patch.object(kernels, "_ENTRIES_PER_THREAD", 64):
        with running(NUMPY):
            expected = bits_of(sources, decay, counting)
        for engine, threads in ((PLAIN, 1), (VECTORS, 1), (VECTORS, 2), (PLAIN, 3)):
            with running(engine, threads):
                assert bits_of(sources, decay, counting) == expected


def test_threads_change_nothing_across_real_segments() -> None:
    sources = sources_of([3 * SEGMENT + 5, 70_000, SEGMENT])
    found = set()
    for engine, threads in ((NUMPY, 1), (VECTORS, 1), (VECTORS, 2), (VECTORS, 3), (PLAIN, 7)):
        with running(engine, threads):
            found.add(bits_of(sources, 0.9, counting=True))
    assert len(found) == 1


@pytest.mark.usefixtures("engine")
class TestEither:
    """What holds of each engine by itself."""

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ml_dtypes.bfloat16])
    @pytest.mark.parametrize("size", [1, 17, 700, 20_000])
    def test_moments_are_what_they_say(self, dtype: Any, size: int) -> None:
        x = (gennorm(0.7, size, 0.1) * (np.arange(size) % 3 > 0)).astype(dtype)
        x[0] = 0.5
        found, exact = Moments.of(x), np.abs(x.astype("f8"))
        assert (found.entries, found.nonzero) == (size, int(np.count_nonzero(x)))
        assert found.peak == exact.max()
        assert found.mean_abs * found.peak == pytest.approx(exact.mean(), rel=1e-12)
        assert found.mean_square * found.peak**2 == pytest.approx(np.square(exact).mean(), rel=1e-12)

    def test_the_memory_is_added_as_compensate_does(self) -> None:
        x, error = gennorm(1, 3000).astype("f4"), gennorm(1, 3000, seed=1).astype("f4")
        v = ErrorMemory(0.7, state={"w": error}).compensate({"w": x})["w"]
        assert measure([Source(x, error)], 0.7).of(0) == measure([Source(v, None)], 0.7).of(0) == Moments.of(v)

    def test_counts_are_those_of_the_upper_bits(self) -> None:
        for source in sources_of([5000, 5000], kind="magnitudes"):
            bins = np.zeros((1, BINS), np.uint32)
            measure([source], 0.5, [0], bins)
            magnitudes = np.abs(source.block(0.5, 0, 5000))
            np.testing.assert_array_equal(
                bins[0], np.bincount(magnitudes.view(np.uint32) >> FLOAT32_BIN_SHIFT, minlength=BINS)
            )

    def test_nothing_and_zeros(self) -> None:
        assert Moments.of(np.zeros((0, 3), "f4")) == Moments(0, 0, 0.0, 0.0, 0.0)
        assert Moments.of(np.full((5, 3), -0.0, "f4")) == Moments(15, 0, 0.0, 0.0, 0.0)

    @pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("where", ["update", "memory"])
    @pytest.mark.parametrize("counting", [False, True])
    def test_what_is_not_finite_is_noticed_anywhere(self, bad: float, where: str, counting: bool) -> None:
        """At each place of a vector, of a block's end, and of what is left over."""
        x, error = np.ones(530, "f4"), np.zeros(530, "f4")
        target = x if where == "update" else error
        for at in (*range(17), 255, 256, *range(508, 530)):
            before, target[at] = target[at], bad
            bins = np.zeros((1, BINS), np.uint32) if counting else None
            peak = measure([Source(x, error)], 0.5, [0], bins).of(0).peak
            target[at] = before
            assert math.isnan(peak) if math.isnan(bad) else peak == math.inf
        assert measure([Source(x, error)], 0.5).of(0).peak == 1

    def test_a_sum_that_overflows_is_noticed(self) -> None:
        huge = np.zeros(530, "f4")
        for at in (0, 9, 511, 529):
            huge[:] = 0
            huge[at] = np.finfo("f4").max
            assert measure([Source(huge, huge)], 1.0).of(0).peak == math.inf
            assert measure([Source(huge, -huge)], 1.0).of(0).peak == 0

    @pytest.mark.parametrize("rate", [None, RateLimit(bits_per_parameter=0.5)])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_the_tensor_is_named_and_its_memory_left_alone(self, bad: float, rate: RateLimit | None) -> None:
        update = {f"layer{k}": gennorm(1, 1500, seed=k).astype("f4") for k in range(3)}
        for spoilt in ("update", "memory"):
            state = {name: x.copy() for name, x in update.items()}
            dirty = {name: x.copy() for name, x in update.items()}
            (dirty if spoilt == "update" else state)["layer1"][1234] = bad
            memory = ErrorMemory(0.5, state=state)
            with pytest.raises(ValueError, match="Tensor 'layer1' holds NaN or infinity: nothing was encoded"):
                Codec(CO3Config(rate=rate)).compress(dirty, memory=memory)
            assert {n: e.tobytes() for n, e in memory.state.items()} == {n: e.tobytes() for n, e in state.items()}


def test_segments_are_all_entries_in_order() -> None:
    with patch.object(moments, "SEGMENT", 10):
        rows = segments([25, 0, 7, 10], [0, 1, 3]).runs.tolist()
    assert rows == [[0, 0, 10], [0, 10, 20], [0, 20, 25], [3, 0, 10]]
    assert segments([], []).runs.shape == (0, 3)


@pytest.mark.parametrize("change", ["none", "big endian", "transposed", "strided", "misaligned", "0-d"])
def test_contiguous_copies_only_what_it_must(change: str) -> None:
    x: Array = gennorm(1, (6, 4)).astype("f4")
    room = np.zeros(x.nbytes + 1, np.uint8)
    beside = np.ndarray(x.shape, x.dtype, room.data, offset=1)
    beside[...] = x
    made: dict[str, Array] = {
        **{"none": x, "big endian": x.astype(">f4"), "transposed": x.T, "strided": x[:, ::2]},
        **{"misaligned": beside, "0-d": np.array(2.5, "f4")},
    }
    tensor = made[change]
    found = contiguous(tensor)
    assert found.dtype == np.dtype("=f4") and found.flags.c_contiguous and found.flags.aligned
    assert found.tolist() == tensor.tolist()
    assert np.shares_memory(found, tensor) is (change in ("none", "0-d"))
