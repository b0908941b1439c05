"""What speeds are compared with: a plain copy, and zstd -1 on the packed codes."""

import numpy as np
import zstandard

from benchmarks.pipeline import Update
from benchmarks.timing import Action


def copy(update: Update) -> Action:
    """Copy all of an update into a buffer that is warm: the least that a pass over it can cost."""
    source = np.concatenate([tensor.reshape(-1) for tensor in update.values()])
    target = np.zeros_like(source)
    return lambda: np.copyto(target, source)


def zstd(codes: bytes) -> bytes:
    """Compress with zstd -1, on one thread."""
    return zstandard.ZstdCompressor(level=1).compress(codes)


def unzstd(compressed: bytes) -> bytes:
    """Reverse `zstd`."""
    return zstandard.ZstdDecompressor().decompress(compressed)
