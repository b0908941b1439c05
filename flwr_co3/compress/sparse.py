"""Mostly zeros: say where the others are, and what they are.

The zeros before each other level (a **gap**) are sent as ``gap = 2^shift * token + low``: the token entropy coded, the
low bits as they are. So the cost in time follows the number of levels that are not zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.compress.frequencies import cost_bits, geometric
from flwr_co3.compress.tables import Table, cheapest, counted, read_counted
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]

TOKENS = 64
ESCAPE = TOKENS - 1  # so many gaps of 2^shift zeros, and the gap goes on
_MEAN_TOKEN = 8  # large enough for the low bits to be near uniform, small enough for escapes to be rare
_COUNTED = 0x80
_MAX_SHIFT = 40
_BLOCK = 1 << 14  # sums of so many gaps stay within 64 bits, whatever the gaps are


class Gaps(NamedTuple):
    """Positions of what is not zero, in the form that is coded."""

    tokens: Bytes  # shape (t,)
    low: Integers  # shape (k,), below 2^shift
    shift: int


def gaps_of(positions: Integers) -> Gaps:
    """Turn rising positions (at least one) into gaps."""
    gaps = np.diff(positions, prepend=-1) - 1
    shift = max(int(np.mean(gaps) / _MEAN_TOKEN).bit_length() - 1, 0)
    coarse = gaps >> shift
    escapes, last = np.divmod(coarse, ESCAPE)
    tokens = np.full(int(escapes.sum()) + gaps.size, ESCAPE, np.uint8)
    tokens[np.cumsum(escapes + 1) - 1] = last
    return Gaps(tokens, gaps & ((1 << shift) - 1), shift)


def positions_of(gaps: Gaps, entries: int) -> Iterator[Integers]:
    """Reverse `gaps_of`, in blocks: all positions at once would take many times the tensor's memory.

    Raises
    ------
    FrameError
        If the gaps don't end with a level, or reach beyond `entries`.
    """
    levels = position = 0
    for start in range(0, gaps.tokens.size, _BLOCK):
        tokens = gaps.tokens[start : start + _BLOCK]
        ends = np.flatnonzero(tokens != ESCAPE)
        low = gaps.low[levels : levels + ends.size]
        levels += ends.size
        if levels > gaps.low.size:
            break
        zeros = np.cumsum(tokens.astype(np.int64) << gaps.shift)
        positions = position + zeros[ends] + np.cumsum(low) + np.arange(ends.size)
        position += int(zeros[-1]) + int(low.sum()) + ends.size
        if position > entries:
            raise FrameError("The gaps of a sparse tensor reach beyond its end.")
        yield positions
    if levels != gaps.low.size or gaps.tokens[-1] == ESCAPE:
        raise FrameError("The gaps of a sparse tensor don't match its number of levels.")


def token_table(gaps: Gaps) -> Table:
    """Cheapest table for the tokens, its header with the shift: geometric, or counted."""
    counts = np.bincount(gaps.tokens, minlength=TOKENS)
    mean = float(np.dot(np.arange(TOKENS), counts)) / gaps.tokens.size
    ratio = min(max(round(256 * mean / (1 + mean)), 1), 255)
    frequencies = geometric(ratio, TOKENS)
    fitted = Table(bytes([gaps.shift, ratio]), frequencies, cost_bits(counts, frequencies))
    free = counted(counts, mirrored=False)
    return cheapest([fitted, free._replace(header=bytes([gaps.shift | _COUNTED]) + free.header)])


def read_token_table(reader: Reader) -> tuple[int, Integers]:
    """Read the shift and the frequencies of the tokens."""
    kind = reader.u8()
    shift = kind & 0x7F
    if shift > _MAX_SHIFT:
        raise FrameError(f"The gaps of a sparse tensor claim {shift} low bits.")
    if kind & _COUNTED:
        return shift, read_counted(reader, TOKENS)
    return shift, geometric(reader.u8(), TOKENS)


def write_low(gaps: Gaps) -> bytes:
    """Low bits as bit planes, the lowest plane first, each filled to whole bytes."""
    planes = [np.packbits((gaps.low >> bit & 1).astype(np.uint8)) for bit in range(gaps.shift)]
    return b"".join(plane.tobytes() for plane in planes)


def low_size(levels: int, shift: int) -> int:
    """Bytes that `write_low` makes."""
    return shift * -(-levels // 8)


def read_low(data: memoryview, levels: int, shift: int) -> Integers:
    """Reverse `write_low`."""
    if not shift:
        return np.broadcast_to(np.int64(0), levels)
    planes = np.frombuffer(data, np.uint8).reshape(shift, -(-levels // 8))
    low = np.zeros(levels, np.int64)
    for bit, plane in enumerate(planes):
        low |= np.unpackbits(plane, count=levels).astype(np.int64) << bit
    return low
