"""One pass over tensors: what a moment fit, a check for NaN and a budget need to know of them.

The pass reads the update and the decayed memory, and adds them up as it goes: what is to be sent need not be stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint32]

#: Entries that are worked on at once, in numpy and by one thread; sums are those of segments, added up in their order.
SEGMENT = 1 << 18
# Entries per block of a numpy pass: a few float32 buffers of it stay in a core's own cache.
BLOCK = 1 << 14

_FLOAT32 = np.dtype(np.float32)
_LANES = 16  # a segment's entry i is added to sum i mod 16
#: A float32's bits without so many of the lowest are its bin: there are 16 in each octave.
FLOAT32_BIN_SHIFT = 19
BINS = 1 << (31 - FLOAT32_BIN_SHIFT)


class Source(NamedTuple):
    """A tensor that is to be sent, and what its memory adds to it."""

    update: Array  # contiguous, aligned and of native byte order
    error: npt.NDArray[np.float32] | None  # the same shape; only where the update is float32
    received: np.dtype[Any] | None = None  # what the receiver gets, if that has half the update's precision

    def block(self, decay: float, start: int, stop: int) -> Array:
        """What is to be sent of some entries, flat."""
        return self.at(decay, slice(start, stop))

    def at(self, decay: float, places: slice | npt.NDArray[np.int64]) -> Array:
        """What is to be sent of the entries at these places of the flat tensor."""
        block: Array = self.update.reshape(-1)[places]
        if self.error is None:
            return block
        with np.errstate(over="ignore", invalid="ignore"):  # whoever measures it notices
            total: Array = self.error.reshape(-1)[places] * np.float32(decay)
            total += block
        return total


def contiguous(tensor: Array) -> Array:
    """Return a tensor as passes want it: one contiguous run of native numbers, a copy only if it must be."""
    native = tensor if tensor.dtype.isnative else tensor.astype(tensor.dtype.newbyteorder("="))
    flags = native.flags
    return native if flags.c_contiguous and flags.aligned else np.array(native, order="C")


class Segments(NamedTuple):
    """Tensors in pieces that loops take one by one."""

    runs: npt.NDArray[np.int64]  # rows of (tensor, start, stop), in order
    first: npt.NDArray[np.int64]  # where those of each tensor begin
    tensors: npt.NDArray[np.int64]  # of which there are some


def segments(sizes: Sequence[int], which: Sequence[int]) -> Segments:
    """Cut some tensors into segments; those of the last models are remembered."""
    return _segments(tuple(sizes), tuple(which), SEGMENT)


@lru_cache(maxsize=8)
def _segments(sizes: tuple[int, ...], which: tuple[int, ...], length: int) -> Segments:
    runs = [(t, start, min(start + length, sizes[t])) for t in which for start in range(0, sizes[t], length)]
    first = [k for k, (_, start, _) in enumerate(runs) if not start]
    tensors = [runs[k][0] for k in first]
    found = Segments(np.array(runs, np.int64).reshape(-1, 3), np.array(first, np.int64), np.array(tensors, np.int64))
    for part in found:
        part.setflags(write=False)
    return found


def of_float32(sources: Sequence[Source]) -> list[int]:
    """Places of the float32 tensors: compiled loops take no others."""
    return [t for t, source in enumerate(sources) if source.update.dtype == _FLOAT32]


def for_loops(sources: Sequence[Source], which: Sequence[int]) -> tuple[list[Array | None], list[Array | None]]:
    """Updates and errors of some tensors, as compiled loops want them; None stands for the others."""
    wanted = set(which)
    updates = [source.update if t in wanted else None for t, source in enumerate(sources)]
    return updates, [source.error if t in wanted else None for t, source in enumerate(sources)]


class Moments(NamedTuple):
    """What one pass over a tensor tells: all that the moment fit and the checks need.

    The means are in units of the peak: its square may not have a place in float64.
    """

    entries: int
    nonzero: int
    peak: float  # largest magnitude; NaN or infinity if the tensor holds one
    mean_abs: float  # over the peak
    mean_square: float  # over the peak's square

    @classmethod
    def of(cls, x: Array) -> Moments:
        """Measure a real tensor of any shape, in float64, without a temporary of its size.

        The means of an empty tensor are 0.
        """
        return measure([Source(contiguous(x), None)], 0.0).of(0)


class Measured(NamedTuple):
    """The `Moments` of several tensors, each field an array of shape (tensors,)."""

    entries: Floats
    nonzero: Floats
    peak: Floats
    mean_abs: Floats
    mean_square: Floats

    def of(self, tensor: int) -> Moments:
        """Moments of one tensor."""
        entries, nonzero, *rest = (float(field[tensor]) for field in self)
        return Moments(int(entries), int(nonzero), *rest)

    def without_zeros(self) -> Measured:
        """Moments of the values that are not exactly 0; where there are none, of all."""
        some = self.nonzero > 0
        count = np.where(some, self.nonzero, self.entries)
        gain = np.maximum(self.entries, 1) / np.maximum(count, 1)
        return Measured(count, self.nonzero, self.peak, self.mean_abs * gain, self.mean_square * gain)

    def scaled(self, scales: Floats) -> Measured:
        """Moments of the tensors multiplied by these; peaks beyond 1e100 end there."""
        with np.errstate(over="ignore"):
            peak = np.minimum(self.peak * scales, 1e100)
        return Measured(self.entries, self.nonzero, peak, self.mean_abs, self.mean_square)

    def grouped(self, members: Sequence[range]) -> Measured:
        """Moments of groups, of which only the last may have several tensors."""
        alone = Measured(*(field[[group.start for group in members]] for field in self))
        if members and len(members[-1]) > 1:
            last = self.together(slice(members[-1].start, members[-1].stop))
            for field, value in zip(alone, last, strict=True):
                field[-1] = value[0]
        return alone

    def together(self, members: slice) -> Measured:
        """Moments of several tensors as one."""
        entries, peak = self.entries[members], self.peak[members]
        unit = max(float(peak.max()), _LEAST)
        relative = peak / unit
        count = float(entries.sum())
        total = float(np.sum(entries * self.mean_abs[members] * relative))
        square = float(np.sum(entries * self.mean_square[members] * relative**2))
        nonzero = float(self.nonzero[members].sum())
        return Measured(*(np.array([x]) for x in (count, nonzero, unit, total / count, square / count)))


_LEAST = 5e-324  # of float64's positive numbers


def measure(sources: Sequence[Source], decay: float, rows: Sequence[int] = (), bins: Counts | None = None) -> Measured:
    """Measure tensors.

    Parameters
    ----------
    sources : sequence of Source
        Real tensors, with their memories.
    decay : float
        What memories are multiplied by.
    rows, bins
        With these, magnitudes of float32 tensor t are counted in row ``rows[t]`` of `bins`, shape (.., `BINS`): bin k
        holds those whose bits begin with k, 16 bins for each octave. Other tensors are not counted.

    Returns
    -------
    Measured
        Moments of each tensor.
    """
    narrow = of_float32(sources)
    sizes = [source.update.size for source in sources]
    entries = np.array(sizes, np.float64)
    runs, first, measured = segments(sizes, narrow)
    peak, nonzero, total, square = np.zeros((4, len(sources)))
    if len(runs):
        sums = _sums(sources, decay, runs, np.array(rows, np.int64), bins)
        peak[measured] = np.maximum.reduceat(sums[:, 0], first)  # NaN stays
        with np.errstate(over="ignore", invalid="ignore"):  # the peak tells
            total[measured], square[measured], nonzero[measured] = np.add.reduceat(sums[:, 1:], first).T
    count, unit = np.maximum(entries, 1), np.where(peak > 0, peak, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        moments = Measured(entries, nonzero, peak, total / count / unit, square / count / unit / unit)
    for t in set(range(len(sources))).difference(narrow):
        for field, value in zip(moments, _wide_moments(sources[t].update.reshape(-1)), strict=True):
            field[t] = value
    return moments


def _sums(
    sources: Sequence[Source], decay: float, runs: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], bins: Any
) -> Floats:
    """Peak, sum of magnitudes, sum of squares and nonzero entries of each segment of float32 tensors."""
    sums = np.zeros((len(runs), 4))
    loops = kernels.compiled()
    if loops is None:
        for (t, start, stop), row in zip(runs.tolist(), sums, strict=True):
            row[:] = _segment_sums(sources[t], decay, start, stop, None if bins is None else bins[rows[t]])
        return sums
    updates, errors = for_loops(sources, of_float32(sources))
    parts = kernels.shares(len(runs), int(np.sum(runs[:, 2] - runs[:, 1])))
    counted = [bins if part is parts[0] or bins is None else np.zeros_like(bins) for part in parts]

    def work(k: int) -> None:
        part = slice(parts[k].start, parts[k].stop)
        loops.moments(updates, errors, decay, runs[part], sums[part], rows, counted[k])

    kernels.each(work, range(len(parts)))
    for more in counted[1:]:
        if bins is not None:
            bins += more
    return sums


def _segment_sums(source: Source, decay: float, start: int, stop: int, bins: Any) -> tuple[float, float, float, int]:
    """What `_kernels.moments` does, sum by sum in the same order."""
    lanes, squares = np.zeros(_LANES), np.zeros(_LANES)
    peak, nonzero = np.float32(0), 0
    for first in range(start, stop, BLOCK):
        block = np.abs(source.block(decay, first, min(first + BLOCK, stop)))
        if bins is not None:
            bins += np.bincount(block.view(np.int32) >> FLOAT32_BIN_SHIFT, minlength=BINS).astype(bins.dtype)
        peak = np.maximum(peak, block.max())  # NaN stays
        nonzero += int(np.count_nonzero(block))
        wide = block.astype(np.float64)
        _add_rows(lanes, wide)
        _add_rows(squares, np.square(wide, out=wide))
    return float(peak), _one_by_one(lanes), _one_by_one(squares), nonzero


def _add_rows(lanes: Floats, values: Floats) -> None:
    """Add values to lanes, row after row."""
    whole = values.size - values.size % _LANES
    rows = np.concatenate([lanes, values[:whole]]).reshape(-1, _LANES)
    with np.errstate(over="ignore", invalid="ignore"):  # the peak tells
        lanes[:] = np.add.reduce(rows, axis=0)
        lanes[: values.size - whole] += values[whole:]


def _one_by_one(lanes: Floats) -> float:
    total = 0.0
    for value in lanes.tolist():
        total += value
    return total


def _wide_moments(x: Array) -> Moments:
    """Moments of float64, whose squares may have no place in float64, and of types that are converted to it."""
    nonzero, peak, total, square = 0, 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        block = np.abs(x[start : start + BLOCK].astype(np.float64))
        top = float(block.max())
        if not math.isfinite(top):
            return Moments(x.size, 0, top, top, top)
        nonzero += int(np.count_nonzero(block))
        if top > peak:  # what was summed in units of the old peak
            total, square, peak = total * (peak / top), square * (peak / top) ** 2, top
        if peak > 0:
            # A subnormal peak has no finite reciprocal, so divide.
            block /= peak
            total += float(block.sum())
            square += float(np.square(block, out=block).sum())
    count = max(x.size, 1)
    return Moments(x.size, nonzero, peak, total / count, square / count)
