"""SZ3 by its Python package pysz, without a predictor: an update's neighbours tell nothing of each other."""

import struct

import numpy as np
import pysz

from benchmarks.rivals import Values


class SZ3:
    """The error bound is half a step."""

    def encode(self, x: Values, step: float) -> bytes:
        """Compress within the bound."""
        config = pysz.szConfig(x.shape)
        config.errorBoundMode = pysz.szErrorBoundMode.ABS
        config.absErrorBound = step / 2
        config.cmprAlgo = pysz.szAlgorithm.NOPRED
        compressed, _ = pysz.sz.compress(x, config)
        return struct.pack("<q", x.size) + np.asarray(compressed, np.uint8).tobytes()

    def decode(self, coded: bytes) -> Values:
        """Decompress."""
        (entries,) = struct.unpack_from("<q", coded)
        decoded, _ = pysz.sz.decompress(np.frombuffer(coded, np.uint8, offset=8).copy(), np.float32, (entries,))
        return np.asarray(decoded, np.float32)
