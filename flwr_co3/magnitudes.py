"""How many values of a group lie below any magnitude: counted in one pass, and then any scale can be judged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.moments import BLOCK, FLOAT32_BIN_SHIFT, Source

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Magnitudes are counted by the highest 15 bits of their float64: 16 bins in each octave.
_BIN_SHIFT = 48
_BINS = 1 << 15


class MagnitudeCounts:
    """Magnitudes of groups of tensors, counted.

    Parameters
    ----------
    bins : ndarray of uint32, shape (groups, BINS)
        What `flwr_co3.moments.measure` counted of float32 tensors.
    sources : sequence of Source
        The tensors. Those that are not float32 are counted here.
    members : sequence of range
        Which of them form each group.
    """

    def __init__(self, bins: npt.NDArray[np.uint32], sources: Sequence[Source], members: Sequence[range]) -> None:
        used = np.flatnonzero(bins.any(axis=0))
        narrow = _bins_of_float32(used)
        wide = [
            (group, *_bins_of(sources[member].update.reshape(-1)))
            for group, tensors in enumerate(members)
            for member in tensors
            if sources[member].update.dtype != np.float32
        ]
        occupied = np.concatenate([narrow, *(found for _, found, _ in wide)])
        self._first = int(occupied[occupied > 0].min(initial=_BINS))
        # What is 0, and is in bin 0, lies before the first bin.
        table = np.zeros((len(members), max(int(occupied.max(initial=0)) - self._first, 0) + 2))
        columns = np.maximum(narrow - self._first + 1, 0)  # they rise; subnormal numbers share some
        begin = np.flatnonzero(np.diff(columns, prepend=-1))
        if begin.size:
            table[:, columns[begin]] = np.add.reduceat(bins[:, used], begin, axis=1, dtype=np.float64)
        for group, at, counts in wide:
            np.add.at(table[group], np.maximum(at - self._first + 1, 0), counts)
        self._table = table

    @cached_property
    def _below(self) -> Floats:
        return np.cumsum(self._table, axis=1)

    @cached_property
    def _sums_below(self) -> Floats:
        low, high = _ends(self._first - 1 + np.arange(self._table.shape[1]))
        middle = 0.5 * low + 0.5 * high
        middle[0] = 0
        with np.errstate(over="ignore"):  # of float64 alone
            return np.cumsum(self._table * middle, axis=1)

    @property
    def entries(self) -> Floats:
        """Values of each group, shape (groups,)."""
        return self._below[:, -1]

    @property
    def sums(self) -> Floats:
        """Sum of the magnitudes of each group, about; shape (groups,)."""
        return self._sums_below[:, -1]

    def below(self, magnitudes: Floats) -> Floats:
        """Values below each magnitude, shape (groups, any) of both; within a bin the density is linear."""
        left, right, share, _ = self._locate(magnitudes)
        before = _at(self._below, left)
        return before + share * (_at(self._below, right) - before)

    def sums_below(self, magnitudes: Floats) -> Floats:
        """Sum of the values below each magnitude, shapes as for `below`; each part of a bin filled evenly."""
        left, right, share, low = self._locate(magnitudes)
        inside = share * (_at(self._below, right) - _at(self._below, left))
        with np.errstate(over="ignore", invalid="ignore"):
            return _at(self._sums_below, left) + inside * (0.5 * low + 0.5 * magnitudes)

    def _locate(self, magnitudes: Floats) -> tuple[Integers, Integers, Floats, Floats]:
        """Columns before and after the bin of each magnitude, the share of the bin below it, and where that begins."""
        index = magnitudes.view(np.int64) >> _BIN_SHIFT
        low, high = _ends(index)
        last = self._table.shape[1] - 1
        left, right = (np.clip(column, 0, last) for column in (index - self._first, index - self._first + 1))
        share = (magnitudes - low) / (high - low)
        return left, right, share + _at(self._bends, right) * share * (1 - share), low

    @cached_property
    def _bends(self) -> Floats:
        """How much denser than on average each bin begins, relatively: a fourth of how much the bins beside it differ.

        Where memories end at a threshold, densities fall by a tenth and more within a bin.
        """
        low, high = _ends(self._first - 1 + np.arange(self._table.shape[1]))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            density = self._table / (high - low)
            beside = np.zeros_like(density)
            beside[:, 2:-1] = 0.25 * (density[:, 1:-2] - density[:, 3:])
            return np.clip(np.nan_to_num(beside / density, nan=0.0, posinf=0.0, neginf=0.0), -1, 1)


def _at(table: Floats, columns: Integers) -> Floats:
    return table[np.arange(len(table))[:, None], columns]


def _ends(bins: Integers) -> tuple[Floats, Floats]:
    """Where bins begin and end."""
    return (bins << _BIN_SHIFT).view(np.float64), ((bins + 1) << _BIN_SHIFT).view(np.float64)


def _bins_of_float32(bins: Integers) -> Integers:
    """Bins of float64 in which bins of float32 begin; those of subnormal numbers are as wide as several."""
    lowest = (bins.astype(np.int32) << FLOAT32_BIN_SHIFT).view(np.float32).astype(np.float64)
    found: Integers = lowest.view(np.int64) >> _BIN_SHIFT
    return found


def _bins_of(tensor: npt.NDArray[Any]) -> tuple[Integers, Integers]:
    """Bins of float64 in which magnitudes lie, and how many in each."""
    counts = np.zeros(_BINS, np.int64)
    for start in range(0, tensor.size, BLOCK):
        block = np.abs(tensor[start : start + BLOCK].astype(np.float64))
        counts += np.bincount(block.view(np.int64) >> _BIN_SHIFT, minlength=_BINS)
    used = np.flatnonzero(counts)
    return used, counts[used]
