"""Mostly zeros: say where the others are, and what they are.

The zeros before each other level (a **gap**) are sent as ``gap = 2^shift * token + low``: the token entropy coded, the
low bits as they are. So the cost in time follows the number of levels that are not zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress.frequencies import COST_BITS, cost_of, geometric, log2_table
from flwr_co3.compress.packing import unpack
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
    """What is coded of symbols most of which are level 0."""

    tokens: Bytes  # shape (t,)
    low: bytes  # low bits as bit planes, the lowest plane first, each filled to whole bytes
    shift: int
    levels: Bytes  # shape (k,): levels -m .. -1 as 0 .. m-1, and 1 .. m as m .. 2m-1


class PackedGaps(NamedTuple):
    """The same, as it was decoded."""

    tokens: Bytes
    low: memoryview
    shift: int
    packed: Bytes  # levels, `factor` of them in one
    factor: int
    alphabet: int
    nonzero: int  # number of levels


def symbols_of(zero: int, reach: int) -> Bytes:
    """The symbol of each level that is not 0."""
    return np.delete(np.arange(zero - reach, zero + reach + 1), reach).astype(np.uint8)


def nonzero(symbols: Bytes, zero: int, reach: int) -> tuple[Integers, Bytes]:
    """Positions of what is not level 0, and the levels there."""
    positions = np.flatnonzero(symbols != zero)
    levels = symbols[positions].astype(np.int16) - zero
    return positions, (levels + reach - (levels > 0)).astype(np.uint8)


def coded(symbols: Bytes, zero: int, reach: int, count: int) -> tuple[Gaps, Table]:
    """Find the gaps between `count` levels that are not 0, and the table for their tokens.

    Where levels stand together most gaps are far below their mean, and most tokens 0: fewer low bits are tried then, as
    long as they cost less.
    """
    gaps = gaps_of(symbols, zero, reach, count)
    table = token_table(gaps)
    finer = 0
    while gaps.shift and 2 * np.count_nonzero(gaps.tokens) < gaps.tokens.size:
        finer += 1
        closer = gaps_of(symbols, zero, reach, count, finer)
        its_table = token_table(closer)
        if its_table.size >= table.size + (count << COST_BITS):  # a low bit of each is saved
            break
        gaps, table = closer, its_table
    return gaps, table


def gaps_of(symbols: Bytes, zero: int, reach: int, count: int, finer: int = 0) -> Gaps:
    """Find the gaps between `count` levels that are not 0, at least one.

    So many bits less than for even gaps are low ones with `finer`.
    """
    if loops := kernels.compiled():
        tokens, low, shift, levels = loops.gaps(symbols, zero, reach, count, finer)
        return Gaps(np.frombuffer(tokens, np.uint8), low, shift, np.frombuffer(levels, np.uint8))
    positions, values = nonzero(symbols, zero, reach)
    if not 0 < positions.size == count:
        raise ValueError(f"The count of levels is {count}, and there are {positions.size}.")
    zeros = int(positions[-1]) - (count - 1)
    shift = max((zeros // (_MEAN_TOKEN * count)).bit_length() - 1 - finer, 0)
    gaps = np.diff(positions, prepend=-1) - 1
    escapes, last = np.divmod(gaps >> shift, ESCAPE)
    tokens = np.full(int(escapes.sum()) + gaps.size, ESCAPE, np.uint8)
    tokens[np.cumsum(escapes + 1) - 1] = last
    return Gaps(tokens, _write_low(gaps, shift), shift, values)


def walk(
    gaps: PackedGaps,
    entries: int,
    values: npt.NDArray[Any] | None = None,
    out: npt.NDArray[Any] | None = None,
    *,
    add: bool = False,
) -> None:
    """Go from level to level, and check that they lie within so many entries.

    With `values`, one for each level, write them to their places in `out`, or add them there. uint8 values are only
    written. Raises FrameError if the gaps don't end with a level, or reach beyond `entries`.
    """
    loops = kernels.compiled()
    fits = values is None or (values.dtype in (np.uint8, np.float32) and out is not None and out.dtype == values.dtype)
    if loops is not None and fits:
        mode = _CHECK if values is None else _SYMBOLS if values.dtype == np.uint8 else _ADD if add else _ASSIGN
        sound = loops.place(
            *(gaps.tokens, gaps.low, gaps.shift, gaps.packed, gaps.factor, gaps.alphabet, gaps.nonzero, entries, mode),
            *(b"" if values is None else values, bytearray() if out is None else out),
        )
        if not sound:
            raise FrameError(_MISFIT)
        return
    levels = unpack(gaps.packed, gaps.alphabet, gaps.factor, gaps.nonzero)
    start = 0
    for positions in _positions_of(gaps, entries):
        if values is not None and out is not None:
            new = values[levels[start : start + positions.size]]
            out[positions] = out[positions] + new if add else new
        start += positions.size


_CHECK, _SYMBOLS, _ASSIGN, _ADD = range(4)  # of `_kernels.place`
_MISFIT = "The gaps of a sparse tensor reach beyond its end, or don't match its number of levels."


def _positions_of(gaps: PackedGaps, entries: int) -> Iterator[Integers]:
    """Positions of levels, in blocks: all positions at once would take many times the tensor's memory."""
    low = _read_low(gaps.low, gaps.nonzero, gaps.shift)
    levels = position = 0
    for start in range(0, gaps.tokens.size, _BLOCK):
        tokens = gaps.tokens[start : start + _BLOCK]
        ends = np.flatnonzero(tokens != ESCAPE)
        lows = low[levels : levels + ends.size]
        levels += ends.size
        if levels > gaps.nonzero:
            break
        zeros = np.cumsum(tokens.astype(np.int64) << gaps.shift)
        positions = position + zeros[ends] + np.cumsum(lows) + np.arange(ends.size)
        position += int(zeros[-1]) + int(lows.sum()) + ends.size
        if position > entries:
            raise FrameError(_MISFIT)
        yield positions
    if levels != gaps.nonzero or gaps.tokens[-1] == ESCAPE:
        raise FrameError(_MISFIT)


def token_table(gaps: Gaps) -> Table:
    """Cheapest table for the tokens, its header with the shift: geometric, or counted."""
    if loops := kernels.compiled():
        header, frequencies, cost = loops.token_table(gaps.tokens, gaps.shift, log2_table())
        return Table(header, np.frombuffer(frequencies, np.int64), cost)
    counts = np.bincount(gaps.tokens, minlength=TOKENS)
    total = int(np.dot(np.arange(TOKENS), counts))
    ratio = min(max(round(256 * total / (gaps.tokens.size + total)), 1), 255)
    frequencies = geometric(ratio, TOKENS)
    cost = cost_of(counts, frequencies)
    assert cost is not None, "every token has a frequency"
    fitted = Table(bytes([gaps.shift, ratio]), frequencies, cost)
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


def _write_low(gaps: Integers, shift: int) -> bytes:
    return b"".join(np.packbits((gaps >> bit & 1).astype(np.uint8)).tobytes() for bit in range(shift))


def low_size(levels: int, shift: int) -> int:
    """Bytes of the low bits."""
    return shift * -(-levels // 8)


def joined(low: bytes, levels: int, shift: int) -> bytes:
    """Low bits one level after the other, each from its lowest bit, and filled once: planes are filled each."""
    bits = _unpacked(memoryview(low), levels, shift)
    return np.packbits(bits.T.reshape(-1), bitorder="little").tobytes()


def as_planes(low: memoryview, levels: int, shift: int) -> memoryview:
    """Reverse `joined`."""
    bits = np.unpackbits(np.frombuffer(low, np.uint8), count=levels * shift, bitorder="little")
    return np.packbits(bits.reshape(levels, shift).T, axis=1).reshape(-1).data


def joined_size(levels: int, shift: int) -> int:
    """Bytes of `joined` low bits."""
    return -(-levels * shift // 8)


def _unpacked(low: memoryview, levels: int, shift: int) -> Bytes:
    """Bits of planes, shape (shift, levels)."""
    planes = np.frombuffer(low, np.uint8).reshape(shift, -(-levels // 8))
    return np.unpackbits(planes, axis=1, count=levels)


def _read_low(data: memoryview, levels: int, shift: int) -> Integers:
    """Reverse `_write_low`."""
    if not shift:
        return np.broadcast_to(np.int64(0), levels)
    low = np.zeros(levels, np.int64)
    for bit, plane in enumerate(_unpacked(data, levels, shift)):
        low |= plane.astype(np.int64) << bit
    return low
