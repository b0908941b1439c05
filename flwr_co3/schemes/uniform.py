"""A uniform quantiser, entropy coded (ECSQ): the honest yardstick for any scalar quantiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Floats, Knob, Parts, Scheme, check_number, join


@dataclass(frozen=True)
class Uniform(Scheme):
    """``round(v / D)``, entropy coded: one step D for the whole update, since equal steps lose least for their bits.

    Parameters
    ----------
    step : float (default: 2.0)
        D in root mean squares of the whole update. At small steps the error is ``D^2 / 12`` an entry and a half step
        costs one bit more; at large ones almost all is 0.
    """

    name: ClassVar = "uniform"
    source: ClassVar = "Mitchell et al., arXiv 2201.02664"
    contraction: ClassVar = True

    step: float = 2.0

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "step", 2**-16, 2**16)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("step", 2**16, 2**-16)

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        v = join(vectors)
        step = np.float32(self.step * np.linalg.norm(v) / max(v.size, 1) ** 0.5)
        levels = [np.rint(x / float(step)).astype(np.int64) if step else np.zeros(x.size, np.int8) for x in vectors]
        return Parts(levels, np.array([step], np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        (step,) = parts.exactly(1).astype(np.float64)
        for levels in parts.levels:
            yield levels * step
