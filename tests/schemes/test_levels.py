"""Integers of any size, coded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_co3.errors import FrameError
from flwr_co3.frame import VERSION
from flwr_co3.schemes.levels import read_levels, read_models, write_levels
from flwr_co3.wire import Reader
from tests.samples import Array

LARGEST = (1 << 38) - 1


def coded_size(levels: list[Array]) -> int:
    coded = write_levels(levels)
    return len(coded.models) + len(coded.low) + sum(map(len, coded.stream))


def round_trip(levels: list[Array]) -> list[Array]:
    coded = write_levels(levels)
    lengths = [sequence.size for sequence in levels]
    reader = Reader(coded.models, "models")
    models = read_models(reader, lengths, version=VERSION)
    reader.finish()
    return list(read_levels(memoryview(b"".join(coded.stream)), memoryview(coded.low), models, lengths))


SIZES = st.sampled_from([0, 1, 3, 40, 1024, 1025, 3000])
RANGES = st.sampled_from([1, 63, 64, 65, 200, 1 << 20, LARGEST])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(SIZES, RANGES, st.integers(0, 9)), max_size=5))
def test_integers_come_back(kinds: list[tuple[int, int, int]]) -> None:
    levels = [
        np.rint(np.random.default_rng(seed).uniform(-1, 1, size) ** 3 * reach).astype(np.int64)
        for size, reach, seed in kinds
    ]
    for found, sent in zip(round_trip(levels), levels, strict=True):
        np.testing.assert_array_equal(found, sent)


@given(hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(-LARGEST, LARGEST)))
@settings(deadline=None)
def test_few_integers_of_any_size_come_back(levels: Array) -> None:
    np.testing.assert_array_equal(round_trip([levels])[0], levels)


def test_what_is_larger_ends_at_the_largest() -> None:
    assert round_trip([np.array([1 << 50, -(1 << 60), 5])])[0].tolist() == [LARGEST, -LARGEST, 5]


@pytest.mark.parametrize("spread", [0.3, 20.0, 500.0, 1e5])
def test_they_take_about_their_entropy(spread: float) -> None:
    """Of a discretised Laplace distribution, by its formula."""
    levels = np.rint(np.random.default_rng(0).laplace(scale=spread, size=100_000)).astype(np.int64)
    k = np.arange(1, int(60 * spread) + 60)
    inner = -np.expm1(-0.5 / spread)
    outer = np.exp(-(k - 0.5) / spread) * -np.expm1(-1 / spread) / 2
    outer = outer[outer > 0]
    entropy = -inner * np.log2(inner) - 2 * np.sum(outer * np.log2(outer))
    assert 0.98 * entropy < 8 * coded_size([levels]) / levels.size < 1.02 * entropy + 0.02


def test_missing_and_superfluous_low_bits_are_noticed() -> None:
    levels = np.arange(-200, 200)
    coded = write_levels([levels])
    models = read_models(Reader(coded.models, "models"), [400], version=VERSION)
    stream = memoryview(b"".join(coded.stream))
    for low in (coded.low[:-1], coded.low + b"\0"):
        with pytest.raises(FrameError, match="low bits"):
            read_levels(stream, memoryview(low), models, [400])
