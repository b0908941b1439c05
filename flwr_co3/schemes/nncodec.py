"""NNCodec, the reference software of ISO/IEC 15938-17: DeepCABAC with a trellis."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.external import External
from flwr_co3.schemes.scheme import Float32s, Floats, Knob, Parts, check_number, join

_WIDTH = 1024  # what has one dimension would be coded next to exactly
_OCTAVE = 4  # steps in each octave: 2^(qp // 4) (1 + qp % 4 / 4)


@dataclass(frozen=True)
class NNCodec(External):
    """The whole update as one matrix, with dependent quantisation.

    Parameters
    ----------
    step : float (default: 1.0)
        In root mean squares of the update, 2^-16 to 2^16. The codec has four steps in each octave, and takes the
        nearest.
    """

    name: ClassVar = "nncodec"
    source: ClassVar = "Becking et al., NNCodec, ICML 2023 workshop; ISO/IEC 15938-17"
    module: ClassVar = "nncodec.tensor"
    requirement: ClassVar = "nncodec"

    step: float = 1.0

    def __post_init__(self) -> None:
        """Check the option, and that the package is there."""
        self.package()
        check_number(self, "step", 2**-16, 2**16)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("step", 2**16, 2**-16)

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        v = join(vectors)
        if not v.any():
            return Parts()
        step = self.step * float(np.linalg.norm(v)) / v.size**0.5
        matrix = np.resize(v.astype(np.float32), (-(-v.size // _WIDTH), _WIDTH))
        with tempfile.TemporaryDirectory() as folder:  # encode leaves a file there, wanted or not
            options = {"qp": _parameter(step), "use_dq": True, "results": folder}
            return Parts(raw=bytes(self.package().encode(matrix, options)))

    def decompress(self, raw: bytes, entries: int) -> Float32s:
        """See `External`."""
        if not raw:
            return np.zeros(entries, np.float32)
        return np.asarray(self.package().decode(bytearray(raw)), np.float32).reshape(-1)[:entries]


def _parameter(step: float) -> int:
    """The quantisation parameter whose step comes nearest."""
    octave, rest = divmod(math.log2(step), 1)
    return _OCTAVE * int(octave) + round(_OCTAVE * (2**rest - 1))
