"""Half precision: the plainest compression there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from flwr_co3.errors import FrameError
from flwr_co3.schemes.scheme import Float32s, Floats, Parts, Scheme, check_choice, join, split

_KINDS = ("bfloat16", "float16")


@dataclass(frozen=True)
class Cast(Scheme):
    """16 bits an entry, rounded to the nearest, ties to even.

    Parameters
    ----------
    dtype : str (default: "bfloat16")
        "bfloat16", 8 bits of precision and float32's range; or "float16", 11 bits between 6e-5 and 65504. Below,
        precision goes down to nothing at 3e-8; what is above becomes 65504.
    """

    name: ClassVar = "cast"
    source: ClassVar = "IEEE 754 binary16; bfloat16"
    contraction: ClassVar = True

    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        """Check the option."""
        check_choice(self, "dtype", _KINDS)

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        v = join(vectors)
        values = _to_bfloat16(v) if self.dtype == "bfloat16" else np.clip(v, -65504, 65504).astype("<f2")
        return Parts(raw=bytes([_KINDS.index(self.dtype)]) + values.tobytes())

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        parts.exactly(0, 1 + 2 * sum(sizes))
        bits = np.frombuffer(parts.raw, "<u2", offset=1)
        if parts.raw[0] == _KINDS.index("bfloat16"):
            values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            values = bits.view("<f2").astype(np.float32)
        if not np.isfinite(values).all():
            raise FrameError("The frame has 16-bit numbers that are not finite.")
        return split(values.astype(np.float64), sizes)

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """There are no levels."""
        return []


def _to_bfloat16(v: Floats) -> npt.NDArray[Any]:
    bits = v.astype(np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")
