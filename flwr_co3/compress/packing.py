"""Several small symbols in one: every coder's cost is per symbol, so fewer symbols cost less.

Two fp4 levels (11 x 11 = 121) or five ternary ones (3^5 = 243) fit one byte. The frequencies of the packed symbols are
products of the single ones, made in integers at both ends, so only the single ones are sent.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress.frequencies import PRECISION, Frequencies, normalize

Bytes = npt.NDArray[np.uint8]


class Packing(NamedTuple):
    """How the symbols of a sequence become the symbols that are coded."""

    factor: int  # so many of them become one
    alphabet: int
    base: int  # what the first symbol of the alphabet is; modulo 256
    filler: int  # stands for what the last packed symbol lacks


_BLOCK = 1 << 16

#: Symbols that are coded as they are.
PLAIN = Packing(1, 256, 0, 0)


class Sequence(NamedTuple):
    """Symbols that share a table: what an entropy coder codes."""

    symbols: Bytes  # shape (n,)
    frequencies: Frequencies  # of the packed symbols; shape (alphabet <= 256,), sums to 2^14
    packing: Packing = PLAIN

    @property
    def length(self) -> int:
        """Number of packed symbols."""
        return -(-self.symbols.size // self.packing.factor)

    def packed(self) -> Bytes:
        """The packed symbols."""
        symbols = self.symbols - np.uint8(self.packing.base) if self.packing.base else self.symbols
        return pack(symbols, self.packing.alphabet, self.packing.factor, self.packing.filler)

    def counts(self) -> npt.NDArray[np.int64]:
        """How often each packed symbol occurs, shape (alphabet,)."""
        total = np.zeros(self.frequencies.size, np.int64)
        step = _BLOCK * self.packing.factor  # of all at once numpy would make eight times as many bytes
        for start in range(0, self.symbols.size, step):
            block = self._replace(symbols=self.symbols[start : start + step])
            total += np.bincount(block.packed(), minlength=total.size)
        return total


@cache
def pack_factor(alphabet: int) -> int:
    """How many symbols of an alphabet of this size (2 to 256) fit one byte."""
    factor, size = 1, alphabet
    while size * alphabet <= 256:
        factor, size = factor + 1, size * alphabet
    return factor


def pack(symbols: Bytes, alphabet: int, factor: int, filler: int) -> Bytes:
    """Pack groups of `factor` symbols, first symbol least significant; the last group is filled with `filler`."""
    if factor == 1:
        return symbols
    groups = -(-symbols.size // factor)
    packed = np.zeros(groups, np.uint8)
    for place in range(factor - 1, -1, -1):
        digits = symbols[place::factor]
        packed *= np.uint8(alphabet)
        packed[: digits.size] += digits
        packed[digits.size :] += np.uint8(filler)
    return packed


def unpack(packed: Bytes, alphabet: int, factor: int, count: int) -> Bytes:
    """Reverse `pack`: the first `count` symbols.

    Where several are packed into one, each is below `alphabet`, whatever the bytes are.
    """
    if factor == 1:
        return packed[:count]
    powers = alphabet ** np.arange(factor)
    digits = (np.arange(256)[:, None] // powers % alphabet).astype(np.uint8)
    return digits[packed].reshape(-1)[:count]


def packed_frequencies(single: Frequencies, factor: int) -> Frequencies:
    """Frequencies of packed symbols, int64 of shape (alphabet^factor,), in the order that `pack` gives them."""
    if factor == 1:
        return single
    if loops := kernels.compiled():
        return np.frombuffer(loops.packed_frequencies(single, factor), np.int64)
    spare = 30 - PRECISION
    weights = single << spare
    for _ in range(factor - 1):
        # The later symbol is the more significant digit.
        product = single[:, None] * weights[None, :]
        weights = np.maximum(product >> PRECISION, product > 0).reshape(-1)
    return normalize(weights)
