"""A plain uniform quantiser, for the coders that want integers: to the nearest multiple of a step."""

import struct

import numpy as np
import numpy.typing as npt

from benchmarks.rivals import Values

_HEAD = struct.Struct("<fiq")  # step, least multiple, entries

Integers = npt.NDArray[np.int32]


def quantize(x: Values, step: float) -> tuple[Integers, int]:
    """Round to multiples of a step; counted from the least one, which is returned too."""
    multiples = np.rint(x * np.float32(1 / step)).astype(np.int32)
    least = int(multiples.min())
    multiples -= least
    return multiples, least


def dequantize(multiples: npt.NDArray[np.integer], least: int, step: float) -> Values:
    """Reverse `quantize`."""
    values = multiples.astype(np.float32)
    values += np.float32(least)
    values *= np.float32(step)
    return values


def head(step: float, least: int, entries: int) -> bytes:
    """Write what `dequantize` needs."""
    return _HEAD.pack(step, least, entries)


def split(coded: bytes) -> tuple[float, int, int, memoryview]:
    """Read what `head` wrote, and return what follows it."""
    return *_HEAD.unpack_from(coded), memoryview(coded)[_HEAD.size :]
