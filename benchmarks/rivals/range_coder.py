"""constriction's range coder with the histogram as its model: a uniform quantiser that is coded as well as can be."""

import constriction
import numpy as np
import numpy.typing as npt

from benchmarks.rivals import Values
from benchmarks.rivals.uniform import dequantize, head, quantize, split

Counts = npt.NDArray[np.uint32]


class RangeCoder:
    """The counts of all levels travel in front, four bytes each."""

    def encode(self, x: Values, step: float) -> bytes:
        """Quantise, count and code."""
        multiples, least = quantize(x, step)
        counts = np.bincount(multiples, minlength=2).astype(np.uint32)
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(multiples, _model(counts))
        table = np.uint32(counts.size).tobytes() + counts.tobytes()
        compressed: bytes = encoder.get_compressed().tobytes()
        return head(step, least, x.size) + table + compressed

    def decode(self, coded: bytes) -> Values:
        """Decode, and put the step back."""
        step, least, entries, rest = split(coded)
        words = np.frombuffer(rest, np.uint32)
        counts, compressed = words[1 : 1 + words[0]], words[1 + words[0] :]
        decoder = constriction.stream.queue.RangeDecoder(compressed.copy())
        return dequantize(decoder.decode(_model(counts), entries), least, step)


def _model(counts: Counts) -> object:
    return constriction.stream.model.Categorical(counts.astype(np.float32) + np.float32(1e-3), perfect=False)
