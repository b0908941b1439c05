"""Top-k: the entries of largest magnitude, as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from flwr_co3.schemes.scheme import Float32s, Floats, Knob, Parts, Scheme, check_number, join, split


@dataclass(frozen=True)
class TopK(Scheme):
    """Values (float32) and positions (entropy coded) of the k largest magnitudes of the whole update.

    Parameters
    ----------
    share : float (default: 0.01)
        k over the number of entries, above 0 to 1.
    """

    name: ClassVar = "topk"
    source: ClassVar = "Aji and Heafield, arXiv 1704.05021"
    contraction: ClassVar = True

    share: float = 0.01

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "share", 1e-9, 1)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("share", 1e-9, 1)

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        v = join(vectors)
        kept = largest(v, self.share)
        mask = np.zeros(v.size, np.int8)
        mask[kept] = 1
        return Parts([mask], v[kept].astype(np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        kept = np.flatnonzero(parts.levels[0])
        v = np.zeros(sum(sizes))
        v[kept] = parts.exactly(kept.size)
        return split(v, sizes)

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """One sequence: which entries were kept."""
        return [sum(sizes)]


def largest(v: Floats, share: float) -> npt.NDArray[np.intp]:
    """Positions, rising, of this share of the entries, at least one: those of largest magnitude that are not 0."""
    k = max(round(share * v.size), min(v.size, 1))
    positions = np.sort(np.argpartition(np.abs(v), v.size - k)[v.size - k :]) if k < v.size else np.arange(v.size)
    kept: npt.NDArray[np.intp] = positions[v[positions] != 0]
    return kept
