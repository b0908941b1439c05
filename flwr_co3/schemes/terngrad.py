"""TernGrad: three levels, rounded at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Floats, Integers, TensorScheme, check_number, up_or_down


@dataclass(frozen=True)
class TernGrad(TensorScheme):
    """``m sgn(v) B`` with ``P(B = 1) = |v| / m`` and ``m = max |v|`` of each tensor, clipped before that.

    Parameters
    ----------
    clip : float (default: 2.5)
        Entries are clipped at so many standard deviations of their tensor; what that cuts off is a bias. 0 clips
        nothing and is unbiased.
    """

    name: ClassVar = "terngrad"
    source: ClassVar = "Wen et al., arXiv 1705.07878, equations 1, 3 and 5"
    stochastic: ClassVar = True

    clip: float = 2.5

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "clip", 0, 1e6)

    @property
    def unbiased(self) -> bool:  # type: ignore[override]  # here it is a matter of the option
        """Whether nothing is clipped."""
        return not self.clip

    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """The one number is m."""
        if self.clip:
            bound = self.clip * float(v.std()) or float(np.abs(v).max())  # a constant tensor has nothing to clip
            v = np.clip(v, -bound, bound)
        # Rounded up, so that no probability is above 1.
        peak = float(np.nextafter(np.float32(np.abs(v).max()), np.float32(np.inf))) if v.any() else 0.0
        return up_or_down(v / (peak or 1.0), rng).astype(np.int8), [peak]

    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """See `TensorScheme`."""
        (peak,) = numbers
        decoded: Floats = levels * peak
        return decoded
