"""One-bit SGD: the sign of each entry, and the mean of each sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Floats, Integers, TensorScheme


@dataclass(frozen=True)
class Sign(TensorScheme):
    """Two levels for each tensor: the mean of its negative entries, and that of the others."""

    name: ClassVar = "sign"
    source: ClassVar = "Seide et al., Interspeech 2014, section 3.2"
    contraction: ClassVar = True

    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """The numbers are both means."""
        return two_levels(v, 0.0)

    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """See `TensorScheme`."""
        return one_of_two(levels, numbers)


def two_levels(v: Floats, threshold: float) -> tuple[Integers, Sequence[float]]:
    """Return 1 for each entry from the threshold on and 0 for the others, and the means of both."""
    above = v >= threshold
    return above.astype(np.int8), [float(v[side].mean()) if side.any() else 0.0 for side in (~above, above)]


def one_of_two(levels: Integers, numbers: Floats) -> Floats:
    """Reverse `two_levels`, but for what it lost."""
    below, above = numbers
    decoded: Floats = np.where(levels > 0, above, below)
    return decoded
