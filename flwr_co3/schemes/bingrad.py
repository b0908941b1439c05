"""BinGrad-b: the two levels that lose least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Floats, Integers, TensorScheme
from flwr_co3.schemes.sign import one_of_two, two_levels

_ROUNDS = 50


@dataclass(frozen=True)
class BinGradB(TensorScheme):
    """Levels ``b-`` and ``b+``, the means of the entries below and above ``b0 = (b- + b+) / 2``: Lloyd's condition."""

    name: ClassVar = "bingrad_b"
    source: ClassVar = "Chen et al., arXiv 2002.11082, equations 15 and 16"
    contraction: ClassVar = True

    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """The numbers are both levels. Each round loses less; it begins with the sign, as the paper does."""
        threshold = 0.0
        for _ in range(_ROUNDS):
            levels, means = two_levels(v, threshold)
            if levels.all() or not levels.any() or (next_one := sum(means) / 2) == threshold:
                break
            threshold = next_one
        return two_levels(v, threshold)

    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """See `TensorScheme`."""
        return one_of_two(levels, numbers)
