"""The simplest chain that people build: a uniform quantiser, and zstd -1."""

import numpy as np
import zstandard

from benchmarks.rivals import Values
from benchmarks.rivals.uniform import dequantize, head, quantize, split


class Zstd:
    """One byte an entry where that is enough, else two, then zstd."""

    def encode(self, x: Values, step: float) -> bytes:
        """Quantise and compress."""
        multiples, least = quantize(x, step)
        small = multiples.astype(np.uint8 if multiples.max() < 256 else np.uint16)
        return head(step, least, x.size) + zstandard.ZstdCompressor(level=1).compress(small.tobytes())

    def decode(self, coded: bytes) -> Values:
        """Decompress and put the step back."""
        step, least, entries, rest = split(coded)
        raw = zstandard.ZstdDecompressor().decompress(rest)
        return dequantize(np.frombuffer(raw, np.uint8 if len(raw) == entries else np.uint16), least, step)
