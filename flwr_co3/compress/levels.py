"""A decoded group: its levels, as compact as they came, and the values that they stand for.

There are three forms. ``symbols()`` gives the level of each entry as a symbol, uint8 of shape (entries,), and
`write` turns the levels of any number of tensors into values, or adds these to what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress import sparse
from flwr_co3.compress.packing import unpack
from flwr_co3.moments import BLOCK, segments

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

    def write(self, values: Array, first: int, out: Array, add: bool) -> None:
        """See `write`: here in numpy."""
        used = values[self.zero - self.reach :]
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

    def write(self, values: Array, first: int, out: Array, add: bool) -> None:
        """See `write`; all entries are one tensor's."""
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

    def write(self, values: Array, first: int, out: Array, add: bool) -> None:
        """See `write`; all entries are one tensor's."""
        if not add:
            out[:] = 0
        out[self.positions] = (out[self.positions] if add else 0) + values[self.at]


Levels: TypeAlias = DenseLevels | SparseLevels | FewLevels


def divisible(levels: Levels) -> DenseLevels:
    """The same levels in a form of which parts can be written: for tensors that share a group, which are small."""
    if isinstance(levels, DenseLevels):
        return levels
    return DenseLevels(levels.entries, levels.zero, levels.zero, 1, levels.symbols())


class Part(NamedTuple):
    """What is to be written of one tensor."""

    levels: Levels  # of its group; `divisible` where that has others
    first: int  # the tensor's first entry among them
    values: Array  # what each symbol of the format decodes to, shape (2 zero + 1,); in the dtype of `out`
    out: Array  # where it goes: shape (n,), contiguous


def write(parts: Sequence[Part], *, add: bool = False) -> None:
    """Write what tensors decode to, or add it to what is there; in one go, since a model may have hundreds."""
    together: list[tuple[DenseLevels, Part]] = []
    for part in parts:
        if kernels.compiled() and isinstance(part.levels, DenseLevels) and part.out.dtype == np.float32:
            together.append((part.levels, part))
        else:
            part.levels.write(part.values, part.first, part.out, add)
    if together:
        _write_dense(together, add)


def _write_dense(parts: Sequence[tuple[DenseLevels, Part]], add: bool) -> None:
    """Write or add float32 tensors of dense groups by the compiled loops."""
    loops = kernels.compiled()
    sizes = [part.out.size for _, part in parts]
    runs = segments(sizes, range(len(parts))).runs
    packed, out = [levels.packed for levels, _ in parts], [part.out for _, part in parts]
    digits = [(d.factor, part.first, d.zero - d.reach, 2 * d.reach + 1) for d, part in parts]
    values, layout = np.array([part.values for _, part in parts]), np.array(digits, np.int64)

    def work(share: range) -> None:
        loops.dequantize(packed, layout, values, runs[share.start : share.stop], out, add)

    kernels.each(work, kernels.shares(len(runs), sum(sizes)))
