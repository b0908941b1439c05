"""Rows and columns of a tensor, sorted into classes by how much of them is not level 0.

One scale for a tensor leaves some of its output and input channels far busier than others, and most so where an error
memory feeds them. What a receiver is told once for each row and column makes every level in them cheaper: a class of
rows and one of columns have a table of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Bits of a class's number, of rows and of columns, and of both together.
MAX_BITS, MAX_PAIR_BITS = 3, 4
_MAX_LINES = 1 << 16  # rows, or columns
# What is tried for rows and columns: bits of their classes.
_TRIED_BITS = 2
_TRIED = ((0, 1), (1, 0), (0, 2), (2, 0), (1, 1), (2, 2))
_TABLE_BITS = 48  # of a class, about
_LEAST_ENTRIES = 2048
_LEAST_LEVELS = 128  # that are not 0: fewer tell nothing of so many rows and columns
_LEAST_GAIN = 0.01


class Grid(NamedTuple):
    """A tensor of two or more dimensions: output channels, input channels, and all that lies within."""

    rows: int
    columns: int
    inner: int

    @classmethod
    def of(cls, shape: Sequence[int]) -> Grid | None:
        """Grid of a tensor's shape; None where it has no columns, or too many of something."""
        if len(shape) < 2 or max(shape[:2]) > _MAX_LINES:
            return None
        return cls(shape[0], shape[1], math.prod(shape[2:]))

    @property
    def entries(self) -> int:
        """Number of entries."""
        return self.rows * self.columns * self.inner


class Classes(NamedTuple):
    """Which class each row and each column is in."""

    grid: Grid
    row_bits: int  # there are 2 to this power of row classes, not all of which need occur
    column_bits: int
    rows: Bytes
    columns: Bytes

    @property
    def sizes(self) -> list[int]:
        """Entries of each pair of classes, those of the first row class first."""
        rows = np.bincount(self.rows, minlength=1 << self.row_bits)
        columns = np.bincount(self.columns, minlength=1 << self.column_bits)
        sizes: list[int] = (np.outer(rows, columns) * self.grid.inner).reshape(-1).tolist()
        return sizes

    def write(self) -> bytes:
        """Write a byte with the bits of both, and every class in its bits, filled to whole bytes."""
        labels = ((self.rows, self.row_bits), (self.columns, self.column_bits))
        bits = [(lines[:, None] >> np.arange(width) & 1).reshape(-1) for lines, width in labels]
        return (
            bytes([self.row_bits | self.column_bits << 4])
            + np.packbits(np.concatenate(bits).astype(np.uint8), bitorder="little").tobytes()
        )

    @classmethod
    def read(cls, reader: Reader, grid: Grid) -> Classes:
        """Reverse `write`."""
        both = reader.u8()
        widths = both & 15, both >> 4
        if max(widths) > MAX_BITS or sum(widths) > MAX_PAIR_BITS:
            raise FrameError(f"A tensor claims 2^{widths[0]} by 2^{widths[1]} classes of rows and columns.")
        count = grid.rows * widths[0] + grid.columns * widths[1]
        bits = np.unpackbits(np.frombuffer(reader.take(-(-count // 8)), np.uint8), count=count, bitorder="little")
        labels = [
            (part.reshape(lines, width) << np.arange(width, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
            for part, lines, width in zip(
                np.split(bits, [grid.rows * widths[0]]), (grid.rows, grid.columns), widths, strict=True
            )
        ]
        return cls(grid, *widths, *labels)

    def sort(self, symbols: Bytes) -> tuple[list[Bytes], list[Integers]]:
        """Sort symbols into the pairs of classes: those of each pair, in their order, and how often each occurs."""
        sizes = self.sizes
        ends = np.cumsum(sizes, dtype=np.int64)
        if loops := kernels.compiled():
            out, counts = np.empty(symbols.size, np.uint8), np.zeros((len(sizes), 256), np.int64)
            loops.sort_classes(
                symbols, *self.grid, self.rows, self.columns, self.column_bits, ends - sizes, out, counts
            )
            return np.split(out, ends[:-1]), list(counts)
        table = symbols.reshape(self.grid)
        parts = [table[rows][:, columns].reshape(-1) for rows, columns in self._pairs()]
        return parts, [np.bincount(part, minlength=256) for part in parts]

    def merge(self, parts: Sequence[Bytes]) -> Bytes:
        """Reverse `sort`."""
        if loops := kernels.compiled():
            joined, starts = np.concatenate(parts), np.cumsum(self.sizes, dtype=np.int64) - self.sizes
            out = np.empty(joined.size, np.uint8)
            loops.merge_classes(joined, *self.grid, self.rows, self.columns, self.column_bits, starts, out)
            return out
        table = np.empty(self.grid, np.uint8)
        for part, (rows, columns) in zip(parts, self._pairs(), strict=True):
            table[np.ix_(rows, columns)] = part.reshape(rows.size, columns.size, self.grid.inner)
        return table.reshape(-1)

    def _pairs(self) -> list[tuple[Integers, Integers]]:
        columns = [np.flatnonzero(self.columns == k) for k in range(1 << self.column_bits)]
        return [(np.flatnonzero(self.rows == k), c) for k in range(1 << self.row_bits) for c in columns]


def classify(symbols: Bytes, grid: Grid, zero: int) -> Classes | None:
    """Sort rows and columns into as many classes as seem to pay.

    Parameters
    ----------
    symbols : ndarray of uint8, shape (entries,)
        A tensor's symbols, in C order.
    grid : Grid
        Its shape.
    zero : int
        The symbol of level 0.

    Returns
    -------
    Classes or None
        None where nothing is to be gained. Whether it is, exact sizes say.
    """
    if symbols.size < _LEAST_ENTRIES:
        return None
    by_row, by_column = _activity(symbols, grid, zero)
    levels = int(by_row.sum())
    if levels < _LEAST_LEVELS:
        return None
    share = levels / grid.entries
    best, plain = None, grid.entries * float(_entropy(np.array(share)))
    least = plain * (1 - _LEAST_GAIN)
    rows = [_Lines.of(by_row, bits, grid.columns * grid.inner) for bits in range(_TRIED_BITS + 1)]
    columns = [_Lines.of(by_column, bits, grid.rows * grid.inner) for bits in range(_TRIED_BITS + 1)]
    for row_bits, column_bits in _TRIED:
        ours, others = rows[row_bits], columns[column_bits]
        shares = np.minimum(np.outer(ours.shares, others.shares) / share, 1)
        entries = np.outer(ours.counts, others.counts) * grid.inner
        cost = float(np.sum(entries * _entropy(shares)) + _TABLE_BITS * np.count_nonzero(entries))
        cost += row_bits * grid.rows + column_bits * grid.columns
        if cost < least:
            best, least = Classes(grid, row_bits, column_bits, ours.labels, others.labels), cost
    return best


class _Lines(NamedTuple):
    """Rows, or columns, in classes."""

    labels: Bytes
    counts: Integers  # of lines in each class
    shares: Floats  # of levels that are not 0 in each class

    @classmethod
    def of(cls, activity: Integers, bits: int, entries: int) -> _Lines:
        """Cut the range of activities, whose square roots vary alike by chance, into equal steps."""
        classes = 1 << bits
        root = np.sqrt(activity)
        low, high = float(root.min()), float(root.max())
        step = (high - low) / classes or 1.0
        labels = np.minimum((root - low) / step, classes - 1).astype(np.uint8)
        counts = np.bincount(labels, minlength=classes)
        shares = np.bincount(labels, activity, classes) / np.maximum(counts * entries, 1)
        return cls(labels, counts, shares)


def _entropy(share: Floats) -> Floats:
    """Bits of one choice of two."""
    rest = 1 - share
    logs = share * np.log2(np.maximum(share, 1e-300)) + rest * np.log2(np.maximum(rest, 1e-300))
    return np.asarray(-logs)


def _activity(symbols: Bytes, grid: Grid, zero: int) -> tuple[Integers, Integers]:
    """How many levels are not 0 in each row, and in each column."""
    if loops := kernels.compiled():
        by_row, by_column = np.zeros(grid.rows, np.int64), np.zeros(grid.columns, np.int64)
        loops.activity(symbols, *grid, zero, by_row, by_column)
        return by_row, by_column
    table = np.count_nonzero(symbols.reshape(grid) != zero, axis=2)
    return table.sum(axis=1), table.sum(axis=0)
