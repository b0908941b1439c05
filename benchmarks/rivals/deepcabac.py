"""nncodec, the MPEG standard's reference (DeepCABAC), by its functions for single arrays.

It wants numpy < 2 and a C++ compiler, so it lives in a Python of its own. Its step is one of four in each octave.
"""

import importlib
import math
import struct
import tempfile
from typing import Any

import numpy as np

from benchmarks.rivals import Values
from benchmarks.torchvision import import_torchvision

import_torchvision()  # nncodec imports it, and can't beside a build of PyTorch for the CPU
_TENSOR: Any = importlib.import_module("nncodec.tensor")

_WIDTH = 1024


class Scalar:
    """Scalar quantisation."""

    trellis = False

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()  # encode() leaves a file, wanted or not

    def encode(self, x: Values, step: float) -> bytes:
        """Encode with the parameter whose step comes nearest."""
        matrix = np.resize(x, (-(-x.size // _WIDTH), _WIDTH))  # what has one dimension would be coded next to exactly
        options = {"qp": _parameter(step), "use_dq": self.trellis, "results": self._folder.name}
        return struct.pack("<q", x.size) + bytes(_TENSOR.encode(matrix, options))

    def decode(self, coded: bytes) -> Values:
        """Decode."""
        (entries,) = struct.unpack_from("<q", coded)
        matrix = _TENSOR.decode(bytearray(memoryview(coded)[8:]))
        return np.asarray(matrix, np.float32).reshape(-1)[:entries]


class Trellis(Scalar):
    """Trellis-coded ("dependent") quantisation."""

    trellis = True


def _parameter(step: float) -> int:
    """The quantisation parameter of a step: ``2^(qp // 4) (1 + qp % 4 / 4)``."""
    octave, rest = divmod(math.log2(step), 1)
    return 4 * int(octave) + round(4 * (2**rest - 1))
