"""CO3 with a scale that is too large: what a fit to averages of updates makes of single ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.convert import FloatFormat
from flwr_co3.schemes import TensorScheme
from flwr_co3.schemes.scheme import Floats, Integers, check_number

_FP4 = FloatFormat("fp4")


@dataclass(frozen=True)
class Saturating(TensorScheme):
    """Nearest fp4 levels at the scale at which a given share of a tensor's entries reaches the largest level.

    The CO3 authors' code fits its scale to the average of an epoch's updates, which is smaller than each of them, so
    that 45 to 65 % of the entries saturate.

    Parameters
    ----------
    saturated : float (default: 0.55)
        Share of the entries that are not 0.
    """

    name: ClassVar = "saturating"
    source: ClassVar = "the CO3 authors' published code, in what comes of it"
    contraction: ClassVar = True

    saturated: float = 0.55

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "saturated", 0, 1)

    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """See `TensorScheme`: the unit is what magnitude 1 stands for."""
        magnitudes = np.abs(v[v != 0])
        end = float(np.quantile(magnitudes, 1 - self.saturated)) if magnitudes.size else 0.0
        unit = float(np.float32(end / _FP4.magnitudes[-1]))
        if not unit:
            return np.zeros(v.size, np.int8), [0.0]
        return _FP4.quantize(v, 1 / unit).astype(np.int16) - _FP4.zero, [unit]

    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """See `TensorScheme`."""
        values: Floats = np.sign(levels) * _FP4.magnitudes[np.abs(levels)] * numbers[0]
        return values
