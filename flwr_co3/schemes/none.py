"""No compression: what all others are measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Float32s, Floats, Parts, Scheme, join, split


@dataclass(frozen=True)
class NoCompression(Scheme):
    """float32, 32 bits an entry."""

    name: ClassVar = "none"
    source: ClassVar = "FedAvg, arXiv 1602.05629"
    contraction: ClassVar = True

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        return Parts(numbers=join(vectors).astype(np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        return split(parts.exactly(sum(sizes)).astype(np.float64), sizes)

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """There are no levels."""
        return []
