"""An update's levels, found in what its receiver decodes: their entropy, and their codes packed into bytes.

Nothing here knows how the codec works inside, so that it may judge it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.pipeline import Update
from flwr_co3.compress.packing import pack, pack_factor


class Levels(NamedTuple):
    """One tensor as levels."""

    codes: npt.NDArray[np.uint8]  # shape (n,), index into the levels that occur
    counts: npt.NDArray[np.int64]  # of each of them

    @property
    def entropy_bits(self) -> float:
        """Bits of all entries by the empirical entropy of the levels."""
        share = self.counts / self.counts.sum()
        return -float(np.sum(self.counts * np.log2(share)))


def levels_of(tensor: npt.NDArray[np.float32]) -> Levels:
    """Number the distinct values of a decoded tensor, which are 255 at most, in rising order."""
    flat = tensor.reshape(-1)
    blocks = [flat[start : start + (1 << 20)] for start in range(0, flat.size, 1 << 20)]
    values = np.unique(np.concatenate([np.unique(block) for block in blocks]))
    codes = np.concatenate([np.searchsorted(values, block).astype(np.uint8) for block in blocks])
    return Levels(codes, np.bincount(codes, minlength=values.size).astype(np.int64))


def entropy_bits(sent: Update) -> float:
    """Bits of an update by each tensor's own empirical entropy of its levels."""
    return sum(levels_of(tensor).entropy_bits for tensor in sent.values())


def packed_codes(sent: Update) -> bytes:
    """All tensors' codes, as many to a byte as the levels that occur allow: what a byte-wise compressor gets."""
    packed = []
    for tensor in sent.values():
        codes, counts = levels_of(tensor)
        alphabet = max(counts.size, 2)
        packed.append(pack(codes, alphabet, pack_factor(alphabet), int(np.argmax(counts))).tobytes())
    return b"".join(packed)
