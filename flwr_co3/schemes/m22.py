"""M22 and its one-bit relative: top-k, and levels for a distortion that weights large entries more."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.errors import FrameError
from flwr_co3.gennorm import GenNorm
from flwr_co3.schemes.lloyd import Density, lloyd_levels, weibull_fit
from flwr_co3.schemes.scheme import Floats, Integers, Knob, Parts, Scheme, check_choice, check_number, join, split
from flwr_co3.schemes.tinyscript import nearest, signed
from flwr_co3.schemes.topk import largest

_MOST_BITS = 7


@dataclass(frozen=True)
class M22(Scheme):
    """The largest entries of the update, each tensor's by ``2^bits`` levels that minimise ``E |v|^M (v - q)^2``.

    The density is fitted to a tensor's kept entries, and Lloyd's centroids are ``INT |x|^M x p / INT |x|^M p``. Unlike
    in the paper, entries that lie nearer to 0 than to a level are not kept: the error is never above the update.

    Parameters
    ----------
    share : float (default: 0.02)
        Entries kept, of the whole update.
    bits : int (default: 3)
        R, 1 to 7. A budget chooses how much is kept, as in the paper; with all kept and bytes to spare, R rises.
    weight : float (default: 2.0)
        M: 0 is the squared error.
    model : str (default: "gennorm")
        What is fitted: "gennorm", or "dweibull", the double Weibull.
    """

    name: ClassVar = "m22"
    source: ClassVar = "Liu, Rini, Salehkalaibar and Chen, arXiv 2301.09269, section III"
    contraction: ClassVar = True

    share: float = 0.02
    bits: int = 3
    weight: float = 2.0
    model: str = "gennorm"

    def __post_init__(self) -> None:
        """Check the options."""
        check_number(self, "share", 1e-9, 1)
        check_number(self, "bits", 1, _MOST_BITS, whole=True)
        check_number(self, "weight", 0, 10)
        check_choice(self, "model", ("gennorm", "dweibull"))

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("share", 1e-9, 1)

    def finer(self) -> Scheme | None:
        """See `Scheme`: one bit more."""
        return dataclasses.replace(self, share=1.0, bits=self.bits + 1) if self.bits < _MOST_BITS else None

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`. A tensor's numbers are the magnitudes of its levels; one of zeros has none."""
        v = join(vectors)
        kept = np.zeros(v.size)
        positions = largest(v, self.share)
        kept[positions] = v[positions]
        levels, numbers = [], [np.empty(0)]
        for vector in split(kept, [vector.size for vector in vectors]):
            some = vector[vector != 0]
            magnitudes = lloyd_levels(self._density(some), 1 << (self.bits - 1)) if some.size else np.empty(0)
            levels.append(_no_worse_than_zero(vector, magnitudes))
            if levels[-1].any():
                numbers.append(magnitudes)
        return Parts(levels, np.concatenate(numbers).astype(np.float32), bytes([1 << (self.bits - 1)]))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        used = [bool(levels.any()) for levels in parts.levels]
        count = parts.raw[0]
        rows = iter(parts.exactly(count * sum(used), 1).astype(np.float64).reshape(-1, count) if count else ())
        for levels, some in zip(parts.levels, used, strict=True):
            yield signed(levels, next(rows) if some else np.empty(0))
        if next(rows, None) is not None:
            raise FrameError("The frame has levels of more tensors than it holds.")

    def _density(self, kept: Floats) -> Density:
        if self.model == "dweibull":
            return Density("weibull", *weibull_fit(np.abs(kept)), self.weight)
        fit = GenNorm.fit(kept)
        return Density("gennorm", fit.shape, fit.scale, self.weight)


def _no_worse_than_zero(vector: Floats, magnitudes: Floats) -> Integers:
    """Return the nearest levels; 0 for entries that lie nearer to 0 than to any level.

    The smallest level rises with the weight, and of many small entries it would make large ones: with all entries kept
    the error would be above the update itself. Such entries are small, so that the weighted distortion gains too.
    """
    if not magnitudes.size:
        return np.zeros(vector.size, np.int8)
    levels: Integers = np.where(np.abs(vector) < magnitudes[0] / 2, 0, nearest(vector, magnitudes))
    return levels


@dataclass(frozen=True)
class OneBit(M22):
    """M22 with one bit for each entry that is kept: R = 1."""

    name: ClassVar = "onebit"
    source: ClassVar = "Salehkalaibar and Rini, arXiv 2202.02812"

    bits: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.bits != 1:
            raise ValueError(f"The scheme onebit has one bit for each entry that is kept, not {self.bits}: take m22.")

    def finer(self) -> None:
        """See `Scheme`: one bit stays one bit."""
        return
