"""TinyScript: levels for Weibull-shaped magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.lloyd import Density, lloyd_levels, weibull_fit
from flwr_co3.schemes.scheme import Floats, Integers, Knob, TensorScheme, check_number


@dataclass(frozen=True)
class TinyScript(TensorScheme):
    """``2^bits`` levels, symmetric, that lose least under a Weibull model of each tensor's magnitudes (Lloyd).

    Exact zeros stay zeros: the model has no place for them.

    Parameters
    ----------
    bits : int (default: 2)
        1 to 7.
    """

    name: ClassVar = "tinyscript"
    source: ClassVar = "Fu et al., ICML 2020, sections 3 and 4"

    bits: int = 2

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "bits", 1, 7, whole=True)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("bits", 1, 7, whole=True)

    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """The numbers are the magnitudes of the levels."""
        count, some = 1 << (self.bits - 1), np.abs(v[v != 0])
        if not some.size:
            return np.zeros(v.size, np.int8), [0.0] * count
        magnitudes = lloyd_levels(Density("weibull", *weibull_fit(some)), count)
        return nearest(v, magnitudes), magnitudes.tolist()

    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """See `TensorScheme`."""
        return signed(levels, numbers)


def nearest(v: Floats, magnitudes: Floats) -> Integers:
    """Return for each entry the number of the nearest magnitude, from 1, with the entry's sign; 0 for exact zeros."""
    places = 1 + np.searchsorted((magnitudes[1:] + magnitudes[:-1]) / 2, np.abs(v))
    levels: Integers = np.sign(v).astype(np.int64) * places
    return levels


def signed(levels: Integers, magnitudes: Floats) -> Floats:
    """Reverse `nearest`."""
    table = np.concatenate([[0.0], magnitudes])
    decoded: Floats = np.sign(levels) * table[np.abs(levels.astype(np.int64))]
    return decoded
