"""One tensor's way to levels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.gennorm import BLOCK


class Converted(NamedTuple):
    """A tensor as levels."""

    symbols: npt.NDArray[np.uint8]  # shape of the tensor
    counts: npt.NDArray[np.int64]  # of each symbol
    scale: float


def convert(
    fmt: FloatFormat, tensor: npt.NDArray[Any], scale: float, rng: np.random.Generator | None = None
) -> Converted:
    """Round a tensor to the levels of a format of at most 255, and count them; see `FloatFormat.quantize`."""
    symbols = fmt.quantize(tensor, scale, rng).astype(np.uint8, copy=False)
    counts = np.zeros(2 * fmt.zero + 1, np.int64)
    flat = symbols.reshape(-1)
    for start in range(0, flat.size, BLOCK):  # bincount takes a temporary of 8 bytes an entry
        counts += np.bincount(flat[start : start + BLOCK], minlength=counts.size)
    return Converted(symbols, counts, scale)
