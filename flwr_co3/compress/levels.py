"""A decoded group: its levels, as compact as they came, and the values that they stand for.

There are three forms, with the same two methods. ``symbols()`` gives the level of each entry as a symbol, uint8 of
shape (entries,). ``write(values, first, out, add=False)`` writes what the entries from `first` on decode to into the
contiguous array `out`, or adds it to what is there: `values` has, in the dtype of `out`, what each symbol decodes to.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress import sparse
from flwr_co3.compress.packing import unpack
from flwr_co3.moments import BLOCK

Bytes = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


class DenseLevels(NamedTuple):
    """Every entry has a symbol, several in a byte."""

    entries: int
    zero: int
    reach: int
    factor: int
    packed: Bytes

    def symbols(self) -> Bytes:
        """See above."""
        return self._unpacked(0, self.entries) + np.uint8(self.zero - self.reach)

    def write(self, values: Array, first: int, out: Array, *, add: bool = False) -> None:
        """See above."""
        used = values[self.zero - self.reach : self.zero + self.reach + 1]
        loops = kernels.compiled()
        if loops is not None and out.dtype == np.float32:

            def work(part: range) -> None:
                run = out[part.start * BLOCK : part.stop * BLOCK]
                loops.dequantize(self.packed, self.factor, first + part.start * BLOCK, used, run, add)

            kernels.each(work, kernels.shares(-(-out.size // BLOCK), out.size))
            return
        for start in range(0, out.size, BLOCK):
            block = out[start : start + BLOCK]
            new = used[self._unpacked(first + start, block.size)]
            block[:] = block + new if add else new

    def _unpacked(self, first: int, count: int) -> Bytes:
        begin, skipped = divmod(first, self.factor)
        end = -(-(first + count) // self.factor)
        alphabet = 2 * self.reach + 1
        return unpack(self.packed[begin:end], alphabet, self.factor, skipped + count)[skipped:]


class SparseLevels(NamedTuple):
    """Mostly level 0: the gaps between the others."""

    entries: int
    zero: int
    reach: int
    gaps: sparse.PackedGaps

    def symbols(self) -> Bytes:
        """See above."""
        out = np.full(self.entries, self.zero, np.uint8)
        sparse.walk(self.gaps, self.entries, sparse.symbols_of(self.zero, self.reach), out)
        return out

    def write(self, values: Array, first: int, out: Array, *, add: bool = False) -> None:
        """See above."""
        if out.size != self.entries:  # one of several tensors, which are small
            new = values[self.symbols()[first : first + out.size]]
            out[:] = out + new if add else new
            return
        if not add:
            out[:] = 0
        sparse.walk(self.gaps, self.entries, values[sparse.symbols_of(self.zero, self.reach)], out, add=add)


class FewLevels(NamedTuple):
    """A handful of entries that are not level 0, or none."""

    entries: int
    zero: int
    positions: npt.NDArray[np.int64]
    at: Bytes  # the symbols there

    def symbols(self) -> Bytes:
        """See above."""
        out = np.full(self.entries, self.zero, np.uint8)
        out[self.positions] = self.at
        return out

    def write(self, values: Array, first: int, out: Array, *, add: bool = False) -> None:
        """See above."""
        if not add:
            out[:] = 0
        inside = (self.positions >= first) & (self.positions < first + out.size)
        positions = self.positions[inside] - first
        out[positions] = (out[positions] if add else 0) + values[self.at[inside]]


Levels: TypeAlias = DenseLevels | SparseLevels | FewLevels
