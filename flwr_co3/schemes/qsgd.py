"""QSGD: uniform levels of a tensor's norm, rounded up or down at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Floats, Integers, Knob, TensorScheme, check_number, up_or_down


@dataclass(frozen=True)
class QSGD(TensorScheme):
    """``Q(v)_i = ||v|| sgn(v_i) xi_i / s``, ``xi_i = floor(a) + Bernoulli(a - floor(a))``, ``a = |v_i| s / ||v||``.

    Parameters
    ----------
    levels : float (default: 16)
        s, at least 1; it need not be whole. The variance is at most ``min(d / s^2, sqrt(d) / s) ||v||^2`` for d
        entries; more levels, more bits. The norm is that of a whole tensor, and s must grow with its size to lose
        the same.
    """

    name: ClassVar = "qsgd"
    source: ClassVar = "Alistarh et al., arXiv 1610.02132, section 3.1"
    stochastic: ClassVar = True
    unbiased: ClassVar = True

    levels: float = 16

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "levels", 1, 1 << 20)

    @property
    def knob(self) -> Knob | None:
        """See `Scheme`."""
        return Knob("levels", 1, 1 << 20)

    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """The one number is the distance of levels, ``||v|| / s``."""
        step = float(np.float32(np.linalg.norm(v) / self.levels))
        if not step:
            return np.zeros(v.size, np.int8), [0.0]
        return up_or_down(v / step, rng).astype(np.int64), [step]

    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """See `TensorScheme`."""
        (step,) = numbers
        decoded: Floats = levels * step
        return decoded
