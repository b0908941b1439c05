"""ORQ: unbiased, with the levels at which random rounding has the least variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import Floats, Integers, Knob, TensorScheme, check_number


@dataclass(frozen=True)
class ORQ(TensorScheme):
    """Levels from the least entry to the greatest, each tensor's own; the inner ones by greedy bisection.

    Each inner level b between its neighbours l and r meets ``INT_l^b (v - l) p dv = INT_b^r (r - v) p dv``, the
    condition of the least variance.

    Parameters
    ----------
    bits : int (default: 2)
        K, for ``2^K + 1`` levels: 1 to 6.

    Notes
    -----
    Over samples, both sides differ by ``sum v - m l - (n - m) r`` with m of the n entries between l and r below b: so
    b is the entry at rank ``n (r - mean) / (r - l)``.
    """

    name: ClassVar = "orq"
    source: ClassVar = "Chen et al., arXiv 2002.11082, equation 11 and algorithm 1"
    stochastic: ClassVar = True
    unbiased: ClassVar = True

    bits: int = 2

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "bits", 1, 6, whole=True)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("bits", 1, 6, whole=True)

    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """The numbers are the levels."""
        levels = optimal_levels(v, self.bits)
        below = np.clip(np.searchsorted(levels, v, side="right") - 1, 0, levels.size - 2)
        width = levels[below + 1] - levels[below]
        share = (v - levels[below]) / np.where(width > 0, width, 1.0)
        return below + (rng.random(v.size) < share) - levels.size // 2, levels.tolist()

    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """Level 0 is the middle one."""
        decoded: Floats = numbers[levels + numbers.size // 2]
        return decoded


def optimal_levels(v: Floats, bits: int) -> Floats:
    """The levels, rising, as float32 can hold them; the outer ones enclose all entries."""
    rising = np.sort(v)
    levels = np.empty((1 << bits) + 1)
    levels[0], levels[-1] = rising[0], rising[-1]
    for depth in range(bits):
        step = 1 << (bits - depth)
        for left in range(0, 1 << bits, step):
            levels[left + step // 2] = _bisect(rising, levels[left], levels[left + step])
    narrow = levels.astype(np.float32)
    if narrow[0] > rising[0]:
        narrow[0] = np.nextafter(narrow[0], np.float32(-np.inf))
    if narrow[-1] < rising[-1]:
        narrow[-1] = np.nextafter(narrow[-1], np.float32(np.inf))
    return narrow.astype(np.float64)


def _bisect(rising: Floats, left: float, right: float) -> float:
    inside = rising[np.searchsorted(rising, left, side="left") : np.searchsorted(rising, right, side="right")]
    if not right > left:
        return left
    rank = inside.size * (right - inside.mean()) / (right - left)
    return float(inside[min(max(int(rank), 0), inside.size - 1)])
