"""A handful of levels that are not 0, listed by their gaps without any table.

Gaps by a Rice code: their low bits, then how many times those reach, in unary. How many low bits there are follows from
the mean gap. Levels by their sign and their magnitude, in unary, since small ones are frequent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader

Integers = npt.NDArray[np.int64]


class Listed(NamedTuple):
    """Where levels are not 0, rising, and these."""

    positions: Integers
    levels: Integers


def write(listed: Listed, entries: int, reach: int) -> bytes:
    """Write a list of levels up to `reach`, at least one, among so many entries."""
    gaps, times = listed.positions.copy(), np.abs(listed.levels) - 1
    gaps[1:] -= listed.positions[:-1] + 1
    shift = _low_bits(entries, gaps.size)
    reached = gaps >> shift
    gap_ends, level_ends = reached < entries >> shift, times < reach - 1  # whether a one ends what is in unary
    ends = np.cumsum(shift + reached + gap_ends + 1 + times + level_ends)
    bits = np.zeros(int(ends[-1]), np.uint8)
    signs = ends - 1 - times - level_ends
    bits[signs] = listed.levels < 0
    bits[ends[level_ends] - 1] = 1
    bits[signs[gap_ends] - 1] = 1
    places = np.arange(shift)
    bits[(signs - gap_ends - reached - shift)[:, None] + places] = gaps[:, None] >> places & 1
    return np.packbits(bits, bitorder="little").tobytes()


def read(reader: Reader, count: int, entries: int, reach: int) -> Listed:
    """Reverse `write`, for so many levels; raises FrameError if they reach beyond the entries, or end early."""
    shift = _low_bits(entries, count)
    longest = count * (shift + 2 + reach) + (entries >> shift)  # in bits: all gaps together are less than the entries
    bits = np.unpackbits(np.frombuffer(reader.ahead(-(-longest // 8)), np.uint8), bitorder="little")
    raw, at = bits.tobytes(), 0
    starts, signs, reached, times = [], [], [], []
    for _ in range(count):
        starts.append(at)
        reached.append(_zeros(raw, at + shift, entries >> shift))
        signs.append(at + shift + reached[-1] + (reached[-1] < entries >> shift))
        times.append(_zeros(raw, signs[-1] + 1, reach - 1))
        at = signs[-1] + 1 + times[-1] + (times[-1] < reach - 1)
    reader.take(-(-at // 8))
    if at > bits.size:
        raise FrameError(_MISFIT)
    low = bits[np.array(starts)[:, None] + np.arange(shift)].astype(np.int64) @ (1 << np.arange(shift))
    positions = np.cumsum(low + (np.array(reached) << shift) + 1) - 1
    if positions[-1] >= entries:
        raise FrameError(_MISFIT)
    return Listed(positions, np.where(bits[signs] > 0, -1, 1) * (1 + np.array(times)))


_MISFIT = "A list of levels reaches beyond its tensor."


def _zeros(raw: bytes, at: int, most: int) -> int:
    """How many zeros there are before a one, up to `most`."""
    found = raw.find(1, at, at + most)
    return most if found < 0 else found - at


def _low_bits(entries: int, count: int) -> int:
    """Low bits of a gap: those that are best for geometric gaps of this mean, one more from .481 2^bits on."""
    return (12 * entries // (25 * count)).bit_length()
