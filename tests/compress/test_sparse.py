"""Gaps between the few levels that are not zero."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3.compress import sparse
from flwr_co3.compress.frequencies import TOTAL, cost_of_bytes
from flwr_co3.compress.packing import pack, pack_factor
from flwr_co3.compress.sparse import (
    Gaps,
    PackedGaps,
    coded,
    gaps_of,
    low_size,
    read_token_table,
    symbols_of,
    token_table,
    walk,
)
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader
from tests.samples import Array

pytestmark = pytest.mark.usefixtures("engine")

ZERO, REACH = 5, 3  # of the symbols here: levels -3 .. 3, as 2 .. 8


def symbols_at(positions: Sequence[int], entries: int, seed: int = 0) -> Array:
    """Level 0, but for these positions."""
    symbols = np.full(entries, ZERO, np.uint8)
    symbols[list(positions)] = np.random.default_rng(seed).choice(symbols_of(ZERO, REACH), len(positions))
    return symbols


def received(gaps: Gaps) -> PackedGaps:
    """What arrives of gaps."""
    alphabet = 2 * REACH
    factor = pack_factor(alphabet)
    packed = pack(gaps.levels, alphabet, factor, 0)
    return PackedGaps(gaps.tokens, memoryview(gaps.low), gaps.shift, packed, factor, alphabet, gaps.levels.size)


def gaps_by_hand(positions: Sequence[int], shift: int) -> PackedGaps:
    """What `gaps_of` would make of a tensor that is too large for it; all levels are the lowest."""
    tokens: list[int] = []
    gaps = [b - a - 1 for a, b in zip([-1, *positions], positions, strict=False)]
    for gap in gaps:
        escapes, last = divmod(gap >> shift, sparse.ESCAPE)
        tokens += [sparse.ESCAPE] * escapes + [last]
    planes = [np.packbits(np.array([gap >> bit & 1 for gap in gaps], np.uint8)).tobytes() for bit in range(shift)]
    levels = np.zeros(len(positions), np.uint8)
    return PackedGaps(np.array(tokens, np.uint8), memoryview(b"".join(planes)), shift, levels, 1, 2, len(positions))


def assert_round_trip(symbols: Array) -> Gaps:
    used = np.flatnonzero(symbols != ZERO)
    gaps, table = coded(symbols, ZERO, REACH, used.size)
    assert gaps.tokens.max() < sparse.TOKENS and gaps.levels.size == used.size
    assert len(gaps.low) == low_size(used.size, gaps.shift)
    found = np.full_like(symbols, ZERO)
    walk(received(gaps), symbols.size, symbols_of(ZERO, REACH), found)
    np.testing.assert_array_equal(found, symbols)
    walk(received(gaps), int(used[-1]) + 1)
    with pytest.raises(FrameError, match="reach beyond its end"):
        walk(received(gaps), int(used[-1]))
    reader = Reader(table.header, "tokens")
    shift, frequencies = read_token_table(reader)
    reader.finish()
    assert shift == gaps.shift and frequencies.sum() == TOTAL
    np.testing.assert_array_equal(frequencies, table.frequencies)
    assert np.all(frequencies[gaps.tokens] > 0)
    return gaps


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=60), st.integers(0, 40), st.integers(0, 9))
@settings(deadline=None)
def test_positions_come_back(positions: set[int], more: int, seed: int) -> None:
    ordered = sorted(positions)
    assert_round_trip(symbols_at(ordered, ordered[-1] + 1 + more, seed))


@pytest.mark.parametrize("runs", [5, 50, 150])
def test_where_levels_stand_together_fewer_bits_are_low_ones(runs: int) -> None:
    starts = np.sort(np.random.default_rng(runs).choice(200, runs, replace=False)) * 5000
    positions = sorted({int(start) + k for start in starts for k in range(0, 60, 3)})
    symbols = symbols_at(positions, 1_000_000)
    even = gaps_of(symbols, ZERO, REACH, len(positions))
    gaps = assert_round_trip(symbols)
    assert gaps.shift < even.shift
    assert np.array_equal(gaps.levels, even.levels)
    taken, otherwise = (cost_of_bytes(len(each.low)) + token_table(each).size for each in (gaps, even))
    assert taken < 0.95 * otherwise


def test_where_levels_come_independently_nothing_is_tried() -> None:
    positions = np.flatnonzero(np.random.default_rng(0).random(100_000) < 0.01).tolist()
    symbols = symbols_at(positions, 100_000)
    gaps, table = coded(symbols, ZERO, REACH, len(positions))
    assert gaps.shift > 0
    np.testing.assert_array_equal(gaps.tokens, gaps_of(symbols, ZERO, REACH, len(positions)).tokens)
    assert table.size == token_table(gaps).size


@given(st.sets(st.integers(0, 3000), min_size=1, max_size=60), st.integers(0, 20))
@settings(deadline=None)
def test_any_number_of_bits_less_is_made_and_read(positions: set[int], finer: int) -> None:
    ordered = sorted(positions)
    symbols = symbols_at(ordered, 3001)
    even = gaps_of(symbols, ZERO, REACH, len(ordered))
    gaps = gaps_of(symbols, ZERO, REACH, len(ordered), finer)
    assert gaps.shift == max(even.shift - finer, 0)
    by_hand = gaps_by_hand(ordered, gaps.shift)
    np.testing.assert_array_equal(gaps.tokens, by_hand.tokens)
    assert gaps.low == bytes(by_hand.low)


@given(st.sets(st.integers(0, (1 << 40) - 1), min_size=1, max_size=30), st.integers(30, 40))
def test_positions_in_the_largest_tensors_come_back(positions: set[int], shift: int) -> None:
    ordered = sorted(positions)
    gaps = gaps_by_hand(ordered, shift)
    walk(gaps, 1 << 40)
    walk(gaps, ordered[-1] + 1)
    with pytest.raises(FrameError, match="reach beyond its end"):
        walk(gaps, ordered[-1])


@given(st.sets(st.integers(0, 3000), min_size=1, max_size=60), st.integers(0, 12))
def test_any_shift_is_read(positions: set[int], shift: int) -> None:
    ordered = sorted(positions)
    out = np.zeros(ordered[-1] + 3, np.float32)
    walk(gaps_by_hand(ordered, shift), out.size, np.array([2.5, 9.0], np.float32), out)
    assert np.flatnonzero(out).tolist() == ordered and set(out[ordered].tolist()) == {2.5}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("add", [False, True])
def test_values_are_written_or_added(dtype: str, add: bool) -> None:
    symbols = symbols_at(range(3, 900, 7), 1000)
    gaps = received(gaps_of(symbols, ZERO, REACH, len(range(3, 900, 7))))
    values = np.linspace(-1, 1, 2 * REACH).astype(dtype)
    by_symbol = np.zeros(256, dtype)
    by_symbol[symbols_of(ZERO, REACH)] = values
    out = np.linspace(5, 6, 1000).astype(dtype)
    expected = np.where(symbols != ZERO, by_symbol[symbols] + (out if add else 0), out).astype(dtype)
    walk(gaps, 1000, values, out, add=add)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("share", [0.24, 0.1, 0.01, 0.0005])
def test_random_positions_cost_near_their_entropy(share: float) -> None:
    rng = np.random.default_rng(0)
    positions = np.flatnonzero(rng.random(2_000_000) < share)
    gaps = assert_round_trip(symbols_at(positions.tolist(), 2_000_000))
    table = token_table(gaps)
    entropy = -2_000_000 * (share * np.log2(share) + (1 - share) * np.log2(1 - share)) / 8
    assert table.size / cost_of_bytes(1) + low_size(positions.size, gaps.shift) <= entropy * 1.015 + 20


def test_a_long_gap_is_escaped() -> None:
    gaps = assert_round_trip(symbols_at([*range(50), 100_000], 100_001))
    assert np.sum(gaps.tokens == sparse.ESCAPE) > 10


def test_gaps_that_go_wrong_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = received(gaps_of(symbols_at(range(0, 4000, 40), 4000), ZERO, REACH, 100))
    wrong = "reach beyond its end, or don't match its number of levels"
    for block in (1 << 14, 7):
        monkeypatch.setattr(sparse, "_BLOCK", block)
        walk(gaps, 3961)
        low = memoryview(bytes(low_size(101, gaps.shift)))
        huge = np.full(1 << 16, sparse.ESCAPE - 1, np.uint8)
        for bad, entries in (
            (gaps, 3960),
            (gaps._replace(nonzero=99), 10_000),
            (gaps._replace(nonzero=101, low=low, packed=np.append(gaps.packed, np.uint8(0))), 10_000),
            (gaps._replace(tokens=np.append(gaps.tokens, np.uint8(sparse.ESCAPE))), 10_000),
            (gaps._replace(tokens=np.append(gaps.tokens, np.uint8(0))), 10_000),
            (gaps._replace(tokens=gaps.tokens[:-1]), 10_000),
            (
                PackedGaps(huge, memoryview(b"\xff" * low_size(1 << 16, 40)), 40, huge, 1, 256, 1 << 16),
                1 << 48,
            ),
        ):
            with pytest.raises(FrameError, match=wrong):
                walk(bad, entries)
    with pytest.raises(FrameError, match="claim 41 low bits"):
        read_token_table(Reader(bytes([41, 3]), "tokens"))


def test_nothing_but_zeros_has_no_gaps() -> None:
    with pytest.raises(ValueError, match="count of levels"):
        gaps_of(np.full(10, ZERO, np.uint8), ZERO, REACH, 1)
