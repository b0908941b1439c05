"""LRUVQ: sparsify, scale, and a universal trellis-coded quantiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Floats, Knob, Parts, Scheme, check_number, join, split
from flwr_co3.schemes.topk import largest
from flwr_co3.schemes.trellis import dequantize, quantize

_LEAST_STEP = 1e-4


@dataclass(frozen=True)
class LRUVQ(Scheme):
    """The largest entries, scaled by their root mean square, quantised along a trellis and entropy coded.

    Parameters
    ----------
    share : float (default: 0.02)
        Entries kept, of the whole update.
    step : float (default: 0.25)
        Distance of the union of both of the trellis's quantisers, in root mean squares of what is kept. Each of them
        alone has twice that. Any step gives a rate, whole or not. A budget chooses how much is kept; with all kept and
        bytes to spare, the step is halved.
    """

    name: ClassVar = "lruvq"
    source: ClassVar = "Lyu, 2024; the trellis is that of dependent quantisation, ISO/IEC 15938-17 and VVC, 4 states"
    contraction: ClassVar = True

    share: float = 0.02
    step: float = 0.25

    def __post_init__(self) -> None:
        """Check the options."""
        check_number(self, "share", 1e-9, 1)
        check_number(self, "step", _LEAST_STEP, 1e4)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("share", 1e-9, 1)

    def finer(self) -> Scheme | None:
        """See `Scheme`: half the step."""
        return dataclasses.replace(self, share=1.0, step=self.step / 2) if self.step >= 2 * _LEAST_STEP else None

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`. Level 0 is what was not kept: the trellis's 0, 1, .. are 1, 2, .., its negatives stay."""
        v = join(vectors)
        positions = largest(v, self.share)
        kept = v[positions]
        step = np.float32(self.step * np.linalg.norm(kept) / max(kept.size, 1) ** 0.5)
        levels = np.zeros(v.size, np.int64)
        if step:
            indices = quantize(kept / float(step))
            levels[positions] = indices + (indices >= 0)
        return Parts(list(split(levels, [vector.size for vector in vectors])), np.array([step], np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        (step,) = parts.exactly(1).astype(np.float64)
        levels = np.concatenate([np.empty(0, np.int64), *parts.levels])
        positions = np.flatnonzero(levels)
        v = np.zeros(levels.size)
        v[positions] = dequantize(levels[positions] - (levels[positions] > 0)) * step
        return split(v, sizes)
