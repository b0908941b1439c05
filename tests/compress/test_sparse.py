"""Gaps between the few levels that are not zero."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_co3.compress import sparse
from flwr_co3.compress.frequencies import TOTAL
from flwr_co3.compress.sparse import (
    Gaps,
    gaps_of,
    low_size,
    positions_of,
    read_low,
    read_token_table,
    token_table,
    write_low,
)
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader


def assert_round_trip(positions: list[int], entries: int) -> Gaps:
    gaps = gaps_of(np.array(positions))
    assert gaps.tokens.max() < sparse.TOKENS
    assert list(chain.from_iterable(block.tolist() for block in positions_of(gaps, entries))) == positions
    low = write_low(gaps)
    assert len(low) == low_size(len(positions), gaps.shift)
    np.testing.assert_array_equal(read_low(memoryview(low), len(positions), gaps.shift), gaps.low)
    table = token_table(gaps)
    reader = Reader(table.header, "tokens")
    shift, frequencies = read_token_table(reader)
    reader.finish()
    assert shift == gaps.shift and frequencies.sum() == TOTAL
    np.testing.assert_array_equal(frequencies, table.frequencies)
    assert np.all(frequencies[gaps.tokens] > 0)
    return gaps


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=60))
def test_positions_come_back(positions: set[int]) -> None:
    ordered = sorted(positions)
    assert_round_trip(ordered, ordered[-1] + 1)


@given(st.sets(st.integers(0, (1 << 40) - 1), min_size=1, max_size=30))
def test_positions_in_the_largest_tensors_come_back(positions: set[int]) -> None:
    ordered = sorted(positions)
    assert_round_trip(ordered, 1 << 40)


@pytest.mark.parametrize("share", [0.24, 0.1, 0.01, 0.0005])
def test_random_positions_cost_near_their_entropy(share: float) -> None:
    rng = np.random.default_rng(0)
    positions = np.flatnonzero(rng.random(2_000_000) < share)
    gaps = assert_round_trip(positions.tolist(), 2_000_000)
    table = token_table(gaps)
    entropy = -2_000_000 * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    assert table.size + low_size(positions.size, gaps.shift) <= entropy * 1.015 + 20


def test_a_long_gap_is_escaped() -> None:
    gaps = assert_round_trip([*range(50), 100_000], 100_001)
    assert np.sum(gaps.tokens == sparse.ESCAPE) > 10


def drain(gaps: Gaps, entries: int) -> None:
    for _ in positions_of(gaps, entries):
        pass


def test_gaps_that_go_wrong_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = gaps_of(np.arange(0, 4000, 40))
    for block in (1 << 14, 7):
        monkeypatch.setattr(sparse, "_BLOCK", block)
        drain(gaps, 3961)
        with pytest.raises(FrameError, match="beyond its end"):
            drain(gaps, 3960)
        with pytest.raises(FrameError, match="don't match its number of levels"):
            drain(gaps._replace(low=gaps.low[:-1]), 10_000)
        with pytest.raises(FrameError, match="don't match its number of levels"):
            drain(gaps._replace(low=np.append(gaps.low, 0)), 10_000)
        with pytest.raises(FrameError, match="don't match its number of levels"):
            drain(gaps._replace(tokens=np.append(gaps.tokens, np.uint8(sparse.ESCAPE))), 10_000)
        huge = Gaps(np.full(1 << 16, sparse.ESCAPE - 1, np.uint8), np.full(1 << 16, (1 << 40) - 1), 40)
        with pytest.raises(FrameError, match="beyond its end"):
            drain(huge, 1 << 48)
    with pytest.raises(FrameError, match="claim 41 low bits"):
        read_token_table(Reader(bytes([41, 3]), "tokens"))
