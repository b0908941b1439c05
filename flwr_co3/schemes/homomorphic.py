"""Lossless homomorphic compression: sparse updates in a form that adds up without being decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from flwr_co3.schemes.hashing import hashes_of, places_of, signs_of
from flwr_co3.schemes.scheme import Float32s, Floats, Integers, Knob, Parts, Scheme, check_number, join, split
from flwr_co3.schemes.topk import largest

_HASHES = 3  # cells of each entry: with three, peeling works up to .81 entries a cell
_LARGEST = 1 << 37
_CELLS = 1.3  # for each entry: what a graph of this kind needs, 1.23, and some for small ones


@dataclass(frozen=True)
class Homomorphic(Scheme):
    """The largest entries as multiples of a step, each added into three cells of a sketch; and a bitmap of them.

    Cells are integers, so sums of frames are exact: bitmaps are joined, cells are added (`add`). Peeling finds the sum
    of the updates: a cell of which only one entry is left shows its value, which is taken out of its other cells.

    Parameters
    ----------
    share : float (default: 0.01)
        Entries kept, over all entries.
    room : float (default: 10.0)
        So many times the kept entries have room in the sketch, at least 1: about the number of frames that are added
        up. Beyond it peeling stops, and what is left is estimated by medians. Empty cells cost next to nothing.
    step : float (default: 2^-20)
        What values are multiples of, in the units of the update: the same for all clients.
    """

    name: ClassVar = "homomorphic"
    source: ClassVar = "Li et al., arXiv 2402.07529, section 3"
    contraction: ClassVar = True

    share: float = 0.01
    room: float = 10.0
    step: float = 2.0**-20

    def __post_init__(self) -> None:
        """Check the options."""
        check_number(self, "share", 1e-9, 1)
        check_number(self, "room", 1, 1000)
        check_number(self, "step", 2.0**-60, 2.0**20)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("share", 1e-9, 1)

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`. Numbers: the step, and the cells over the number of entries."""
        v = join(vectors)
        positions = largest(v, self.share)
        step, density = np.float32(self.step), np.float32(min(self.share * self.room, 1.0))
        values = np.clip(np.rint(v[positions] / float(step)), -_LARGEST, _LARGEST).astype(np.int64)
        positions, values = positions[values != 0], values[values != 0]
        mask = np.zeros(v.size, np.int8)
        mask[positions] = 1
        width = _width(v.size, float(density))
        cells = np.zeros(_HASHES * width, np.int64)
        for places, signs in _hashed(positions, width):
            np.add.at(cells, places, signs * values)
        return Parts([mask, cells], np.array([step, density], np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        step, density = parts.exactly(2).astype(np.float64)
        mask, cells = parts.levels
        positions = np.flatnonzero(mask)
        v = np.zeros(mask.size)
        v[positions] = peel(positions, cells.astype(np.int64), _width(mask.size, float(density))) * step
        return split(v, sizes)

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """The bitmap, and the cells."""
        return [sum(sizes), _HASHES * _width(sum(sizes), float(numbers[1]))]


def add(frames: Sequence[Parts]) -> Parts:
    """Add updates without decoding them: what the sum decodes to is the sum of what they decode to, to the last bit.

    Raises
    ------
    ValueError
        If they are not of one size and step.
    """
    first = frames[0]
    for parts in frames:
        same = [levels.size for levels in parts.levels] == [levels.size for levels in first.levels]
        if not same or not np.array_equal(parts.numbers, first.numbers):
            raise ValueError("Only updates of one model, with the same step and size of the sketch, add up.")
    mask = np.bitwise_or.reduce([parts.levels[0] for parts in frames])
    cells = np.sum([parts.levels[1].astype(np.int64) for parts in frames], axis=0)
    return Parts([mask, cells], first.numbers)


def peel(positions: Integers, cells: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """Return the value of each entry, from the sums in its cells."""
    hashed = _hashed(positions, width)
    places, signs = (np.array(column) for column in zip(*hashed, strict=True))
    cells, values = cells.copy(), np.zeros(positions.size, np.int64)
    left = np.arange(positions.size)
    while left.size:
        degree = np.bincount(places[:, left].reshape(-1), minlength=cells.size)
        alone = degree[places[:, left]] == 1
        peeled = alone.any(axis=0)
        if not peeled.any():
            values[left] = np.median(cells[places[:, left]] * signs[:, left], axis=0).astype(np.int64)
            break
        which = left[peeled]
        row = np.argmax(alone[:, peeled], axis=0)
        values[which] = cells[places[row, which]] * signs[row, which]
        for k in range(_HASHES):
            np.subtract.at(cells, places[k, which], signs[k, which] * values[which])
        left = left[~peeled]
    return values


def _width(entries: int, density: float) -> int:
    """Cells of each hash: enough for this share of the entries."""
    return -(-int(_CELLS * min(max(density, 0.0), 1.0) * entries) // _HASHES) + 8 if entries else 0


def _hashed(positions: Integers, width: int) -> list[tuple[Integers, Integers]]:
    """For each hash, the cells and signs of entries; each hash has cells of its own."""
    found: list[tuple[Integers, Integers]] = []
    for k in range(_HASHES):
        mixed = hashes_of(positions, k)
        found.append((places_of(mixed, width) + k * width, signs_of(mixed)))
    return found
