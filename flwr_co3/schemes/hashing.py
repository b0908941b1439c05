"""Random numbers that both ends of the wire compute alike: a hash of an index and a seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15


def hashes(count: int, seed: int) -> Hashes:
    """64 random bits for each index below `count`: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    return hashes_of(np.arange(count, dtype=np.uint64), seed)


def hashes_of(indices: npt.NDArray[np.integer], seed: int) -> Hashes:
    """The same for given indices."""
    start = np.uint64((seed + 1) * _GOLDEN * 0x632BE59BD9B4E019 % (1 << 64))
    z = indices.astype(np.uint64) * np.uint64(_GOLDEN) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = z ^ (z >> np.uint64(31))
    return mixed


def signs_of(mixed: Hashes) -> npt.NDArray[np.int64]:
    """A random sign of each hash, +1 or -1, by its highest bit."""
    signs: npt.NDArray[np.int64] = 1 - 2 * (mixed >> np.uint64(63)).astype(np.int64)
    return signs


def places_of(mixed: Hashes, below: int) -> npt.NDArray[np.int64]:
    """A random number below `below` (at most 2^31) of each hash, by its lower bits."""
    low = mixed & np.uint64((1 << 32) - 1)
    places: npt.NDArray[np.int64] = (low * np.uint64(below) >> np.uint64(32)).astype(np.int64)
    return places
