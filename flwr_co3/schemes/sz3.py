"""SZ3, by its Python package pysz: values within an error bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.external import External
from flwr_co3.schemes.scheme import Float32s, Floats, Knob, Parts, check_number, join


@dataclass(frozen=True)
class SZ3(External):
    """The whole update as one vector, without a predictor: neighbours in an update tell nothing of each other.

    Parameters
    ----------
    bound : float (default: 1.0)
        Largest error of an entry, in root mean squares of the update.
    """

    name: ClassVar = "sz3"
    source: ClassVar = "Liang et al., arXiv 2111.02925; pysz"
    module: ClassVar = "pysz"
    requirement: ClassVar = "pysz"

    bound: float = 1.0

    def __post_init__(self) -> None:
        """Check the option, and that the package is there."""
        self.package()
        check_number(self, "bound", 1e-6, 1e3)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("bound", 1e3, 1e-6)

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        pysz, v = self.package(), join(vectors)
        if not v.size:
            return Parts()
        config = pysz.szConfig(v.shape)
        config.errorBoundMode = pysz.szErrorBoundMode.ABS
        config.absErrorBound = self.bound * float(np.linalg.norm(v)) / v.size**0.5 or 1.0
        config.cmprAlgo = pysz.szAlgorithm.NOPRED
        compressed, _ = pysz.sz.compress(v.astype(np.float32), config)
        return Parts(raw=np.asarray(compressed, np.uint8).tobytes())

    def decompress(self, raw: bytes, entries: int) -> Float32s:
        """See `External`."""
        found, _ = self.package().sz.decompress(np.frombuffer(raw, np.uint8).copy(), np.float32, (entries,))
        return np.asarray(found, np.float32)
