"""Other codecs, each in the Python that has it: what is here needs numpy, the standard library, and the codec alone."""

import importlib
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]


class Rival(Protocol):
    """A codec of one flat array."""

    def encode(self, x: Values, step: float) -> bytes:
        """Encode, with about this distance between levels; where there is no such choice, it is not looked at."""
        ...

    def decode(self, coded: bytes) -> Values:
        """Reverse `encode`, but for what it lost."""
        ...


class Entry(NamedTuple):
    """What is known of a rival before its package is there."""

    title: str
    requirement: str  # for pip
    where: str  # "module:class" of its Rival
    tunable: bool = True  # whether its distortion can be chosen

    @property
    def package(self) -> str:
        """The package's name."""
        return self.requirement.partition("==")[0]


RIVALS = {
    "nncodec": Entry("nncodec, scalar", "nncodec==2.1.3", "deepcabac:Scalar"),
    "nncodec-trellis": Entry("nncodec, trellis", "nncodec==2.1.3", "deepcabac:Trellis"),
    "sz3": Entry("SZ3, no predictor", "pysz==1.1.0", "sz3:SZ3"),
    "constriction": Entry("uniform + range coder", "constriction==0.5.0", "range_coder:RangeCoder"),
    "zstd": Entry("uniform + zstd -1", "zstandard==0.25.0", "zstd:Zstd"),
    "hivemind": Entry("hivemind, uniform 8 bit", "hivemind==1.1.12 'numpy<2.4'", "eight_bit:EightBit", tunable=False),
}


def make(name: str) -> Rival:
    """Make a rival.

    Raises
    ------
    ImportError
        If its package is not installed in this Python.
    """
    module, _, kind = RIVALS[name].where.partition(":")
    rival: Any = getattr(importlib.import_module(f"benchmarks.rivals.{module}"), kind)()
    return rival  # type: ignore[no-any-return]  # each is held to the protocol where it is defined


def nmse(x: Values, decoded: Values) -> float:
    """Squared error over squared norm."""
    wide = x.astype(np.float64)
    return float(np.sum((wide - decoded) ** 2) / np.sum(wide**2))
