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
    find, most, top = bits.tobytes().find, entries >> shift, reach - 1
    fields, at = [], 0
    for _ in range(count):
        one = find(1, at + shift, at + shift + most)
        sign = one + 1 if one >= 0 else at + shift + most
        one = find(1, sign + 1, sign + 1 + top)
        end = one + 1 if one >= 0 else sign + 1 + top
        fields.append((at, sign, end))
        at = end
    reader.take(-(-at // 8))
    if at > bits.size:
        raise FrameError(_MISFIT)
    starts, signs, ends = np.array(fields).T
    low = bits[starts[:, None] + np.arange(shift)].astype(np.int64) @ (1 << np.arange(shift))
    positions = np.cumsum(low + (_zeros(bits, starts + shift, signs) << shift) + 1) - 1
    if positions[-1] >= entries:
        raise FrameError(_MISFIT)
    return Listed(positions, np.where(bits[signs] > 0, -1, 1) * (1 + _zeros(bits, signs + 1, ends)))


_MISFIT = "A list of levels reaches beyond its tensor."


def _zeros(bits: npt.NDArray[np.uint8], starts: Integers, ends: Integers) -> Integers:
    """Lengths of runs of zeros, but for the ones that end some of them."""
    return ends - starts - ((ends > starts) & (bits[ends - 1] > 0))


def _low_bits(entries: int, count: int) -> int:
    """Low bits of a gap: those that are best for geometric gaps of this mean, one more from .481 2^bits on."""
    return (12 * entries // (25 * count)).bit_length()
