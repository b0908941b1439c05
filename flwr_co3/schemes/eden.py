"""EDEN and DRIVE: a random rotation makes entries normal, and few levels are then enough."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from flwr_co3.errors import FrameError
from flwr_co3.schemes.hashing import hashes, signs_of
from flwr_co3.schemes.lloyd import Density, lloyd_levels
from flwr_co3.schemes.scheme import Float32s, Floats, Knob, Parts, Scheme, check_number, join, split
from flwr_co3.schemes.tinyscript import nearest, signed

_LARGEST_BLOCK, _SMALLEST_BLOCK = 1 << 16, 1 << 6


class Rotated(Scheme):
    """The update as one vector, rotated in blocks; levels that lose least for a normal; a scale for each block.

    With R a block's rotation, x its entries and q the levels of ``R x sqrt(n) / ||x||``, the scale ``||x||^2 / <R x,
    q>`` is unbiased (EDEN, section 3), and ``<R x, q> / ||q||^2`` loses least (DRIVE, section 3), as error feedback
    wants it. The rotation is a Hadamard transform of the entries with random signs, whose seed is in the frame.
    """

    stochastic: ClassVar = True
    unbiased: ClassVar = True

    @property
    @abstractmethod
    def bits_per_entry(self) -> float:
        """Bits for each rotated entry. Between whole numbers a random share of the entries gets one bit more."""

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`. Numbers: whole bits, share with one more, magnitudes of both kinds of levels, scales."""
        seed = int(rng.integers(1 << 32))
        low = int(self.bits_per_entry)
        share = np.float32(self.bits_per_entry - low)
        blocks = block_sizes(sum(vector.size for vector in vectors))
        x = np.concatenate([join(vectors), np.zeros(sum(blocks) - sum(vector.size for vector in vectors))])
        signs = signs_of(hashes(x.size, seed))
        flipped: Floats = x * signs
        rotated = [rotate(block) for block in split(flipped, blocks)]
        norms = [float(np.linalg.norm(block)) for block in rotated]
        normal = join([r * (math.sqrt(r.size) / (n or 1.0)) for r, n in zip(rotated, norms, strict=True)])
        tables = [normal_levels(low), normal_levels(low + 1)]
        q, levels = np.zeros(x.size), []
        for chosen, table in zip(_choose(x.size, seed, float(share)), tables, strict=True):
            levels.append(nearest(normal[chosen], table) if table.size else np.empty(0, np.int8))
            if table.size:
                q[chosen] = signed(levels[-1], table)
        scales = [_scale(r, part, feedback) for r, part in zip(rotated, split(q, blocks), strict=True)]
        numbers = np.concatenate([[low, share], *tables, scales]).astype(np.float32)
        return Parts(levels, numbers, seed.to_bytes(4, "little"))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        blocks = block_sizes(sum(sizes))
        low, share = _kinds(parts.numbers)
        counts = [_count(low), _count(low + 1)]
        numbers = parts.exactly(2 + sum(counts) + len(blocks), 4).astype(np.float64)
        tables = [numbers[2 : 2 + counts[0]], numbers[2 + counts[0] : 2 + sum(counts)]]
        seed = int.from_bytes(parts.raw, "little")
        q = np.zeros(sum(blocks))
        for chosen, levels, table in zip(_choose(q.size, seed, share), parts.levels, tables, strict=True):
            if table.size:
                q[chosen] = signed(levels, table)
        scales = numbers[2 + sum(counts) :]
        x = join([rotate(part) * scale for part, scale in zip(split(q, blocks), scales, strict=True)])
        return split(x * signs_of(hashes(x.size, seed)), sizes)

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """Entries with whole bits, unless those are none, and entries with one more."""
        entries = sum(block_sizes(sum(sizes)))
        low, share = _kinds(numbers)
        more = round(share * entries)
        return [entries - more if low else 0, more]


@dataclass(frozen=True)
class Eden(Rotated):
    """EDEN: see `Rotated`.

    Parameters
    ----------
    bits : float (default: 1.0)
        For each entry, above 0 to 8. Below 1 only a random share of the rotated entries is sent.
    """

    name: ClassVar = "eden"
    source: ClassVar = "Vargaftik et al., arXiv 2108.08842"

    bits: float = 1.0

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "bits", 1e-6, 7)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("bits", 1e-6, 7)

    @property
    def bits_per_entry(self) -> float:
        """See `Rotated`."""
        return self.bits


@dataclass(frozen=True)
class Drive(Rotated):
    """DRIVE: one bit for each rotated entry, its sign. The unbiased error is ``(pi/2 - 1) ||x||^2``."""

    name: ClassVar = "drive"
    source: ClassVar = "Vargaftik et al., arXiv 2105.08339"

    @property
    def bits_per_entry(self) -> float:
        """See `Rotated`."""
        return 1.0


def block_sizes(entries: int) -> list[int]:
    """Powers of two, falling, in which so many entries find place, with fewer than 64 to spare."""
    whole, rest = divmod(entries, _LARGEST_BLOCK)
    blocks = [_LARGEST_BLOCK] * whole
    size = _LARGEST_BLOCK // 2
    while rest > 0 and size > _SMALLEST_BLOCK:
        if rest >= size:
            blocks.append(size)
            rest -= size
        size //= 2
    return blocks + [_SMALLEST_BLOCK] * -(-rest // _SMALLEST_BLOCK)


def rotate(x: Floats) -> Floats:
    """Hadamard transform of 2^k entries, orthonormal: its own inverse."""
    y, half = x.copy(), 1
    while half < y.size:
        pairs = y.reshape(-1, 2, half)
        y = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        half *= 2
    rotated: Floats = y / math.sqrt(y.size)
    return rotated


def normal_levels(bits: int) -> Floats:
    """Magnitudes of the ``2^bits`` levels that lose least for a standard normal (Lloyd and Max)."""
    return lloyd_levels(Density("gennorm", 2.0, math.sqrt(2)), _count(bits)) if bits else np.empty(0)


def _count(bits: int) -> int:
    """Magnitudes of ``2^bits`` levels."""
    return 1 << (bits - 1) if bits else 0


def _kinds(numbers: Float32s) -> tuple[int, float]:
    low, share = int(numbers[0]), float(numbers[1])
    if not (0 <= low <= 7 and 0 <= share <= 1):
        raise FrameError(f"The frame claims {low} bits an entry, and one more for {share} of them.")
    return low, share


def _choose(entries: int, seed: int, share: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Which entries have whole bits, and which one more, in rising order: at random, by the seed."""
    more = round(share * entries)
    if not 0 < more < entries:
        everything, nothing = np.arange(entries), np.empty(0, np.intp)
        return (nothing, everything) if more else (everything, nothing)
    order = np.argpartition(hashes(entries, seed ^ (1 << 40)), more)
    return np.sort(order[more:]), np.sort(order[:more])


def _scale(rotated: Floats, q: Floats, feedback: bool) -> float:
    along = float(np.dot(rotated, q))
    if along <= 0:  # nothing of this block was chosen, or it is all zero
        return 0.0
    return along / float(np.dot(q, q)) if feedback else float(np.dot(rotated, rotated)) / along
