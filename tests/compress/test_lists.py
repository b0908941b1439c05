"""Lists of a handful of levels by their gaps."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flwr_co3.compress import lists
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader

LARGEST = 1 << 48  # entries that a frame may claim


def listed(positions: list[int], levels: list[int]) -> lists.Listed:
    return lists.Listed(np.array(positions, np.int64), np.array(levels, np.int64))


@st.composite
def anything(draw: st.DrawFn) -> tuple[lists.Listed, int, int]:
    """Some levels, wherever they stand, among so many entries, and how far they reach."""
    entries = draw(st.one_of(st.integers(1, 40), st.integers(1, 100_000), st.integers(1, LARGEST)))
    places = draw(st.lists(st.integers(0, entries - 1), min_size=1, max_size=60, unique=True))
    reach = draw(st.one_of(st.integers(1, 3), st.integers(1, 127)))
    level = st.integers(-reach, reach).filter(bool)
    return listed(sorted(places), draw(st.lists(level, min_size=len(places), max_size=len(places)))), entries, reach


@given(anything(), st.binary(max_size=3))
@example((listed([0], [1]), 1, 1), b"")
@example((listed([LARGEST - 1], [-127]), LARGEST, 127), b"")
@example((listed(list(range(512)), [1] * 512), 512, 1), b"\xff")
@settings(deadline=None, max_examples=500)
def test_every_list_comes_back_and_nothing_behind_it_is_read(
    case: tuple[lists.Listed, int, int], behind: bytes
) -> None:
    wanted, entries, reach = case
    data = lists.write(wanted, entries, reach)
    reader = Reader(data + behind, "list")
    found = lists.read(reader, wanted.positions.size, entries, reach)
    assert bytes(reader.take(reader.left)) == behind
    np.testing.assert_array_equal(found.positions, wanted.positions)
    np.testing.assert_array_equal(found.levels, wanted.levels)


@given(st.binary(max_size=60), st.integers(1, 64), st.integers(1, LARGEST), st.integers(1, 127))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_a_list_or_refused(data: bytes, count: int, entries: int, reach: int) -> None:
    try:
        found = lists.read(Reader(data, "list"), min(count, entries), entries, reach)
    except FrameError:
        return
    assert found.positions[0] >= 0 and found.positions[-1] < entries and np.all(np.diff(found.positions) > 0)
    assert np.all((np.abs(found.levels) <= reach) & (found.levels != 0))
    written = lists.write(found, entries, reach)
    assert written[:-1] == data[: len(written) - 1]  # but for what fills the last byte


def test_a_list_by_hand() -> None:
    """Of 100 entries, two: 12 * 100 // 50 is 24, so gaps have 5 low bits."""
    data = lists.write(listed([3, 70], [2, -1]), 100, 2)
    first = "11000100"  # gap 3: none above; positive; a magnitude of 2 can't be exceeded, so no one ends it
    second = "0100000111"  # gap 66 is 2, and twice 32; negative; 1
    assert data == bytes([int(first[::-1], 2), int(second[:8][::-1], 2), int(second[8:][::-1], 2)])


@pytest.mark.parametrize("share", [0.3, 0.03, 0.0003])
def test_even_gaps_take_little_more_than_their_entropy(share: float) -> None:
    """Within a tenth of a bit or so of geometric gaps, whose entropy an ideal coder reaches with the share known."""
    rng = np.random.default_rng(0)
    count, bits, ideal = 400, 0, 0.0
    for _ in range(20):
        gaps = rng.geometric(share, count) - 1
        positions = np.cumsum(gaps + 1) - 1
        entries = round(count / share)
        entries = max(entries, int(positions[-1]) + 1)
        bits += 8 * len(lists.write(lists.Listed(positions, np.ones(count, np.int64)), entries, 1)) - count
        ideal -= count * (np.log2(share) + (1 - share) / share * np.log2(1 - share))
    assert bits < ideal + 0.1 * 20 * count
