"""Tiny floating-point formats: what a value is rounded to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.moments import BLOCK

Symbols = npt.NDArray[np.unsignedinteger[Any]]
Float32s = npt.NDArray[np.float32]

#: Formats by name: (exponent bits, mantissa bits, bias, keeps the top exponent, codes reserved at the top).
PRESETS: dict[str, tuple[int, int, int, bool, int]] = {
    "fp4": (2, 1, 1, False, 0),  # CO3, 11 levels
    "fp8": (5, 2, 15, False, 0),  # CO3, 247 levels
    "fp8_143": (4, 3, 10, False, 0),  # CO3, 239 levels
    "e2m1": (2, 1, 1, True, 0),  # OCP MX FP4, 15 levels
    "e4m3": (4, 3, 7, True, 1),  # OCP FP8: one code is NaN, 253 levels
    "uniform": (1, 6, -5, True, 0),  # the integers from -127 to 127: a plain uniform grid
    "e2m5": (2, 5, -4, True, 0),  # the integers to 64, then every second to 128, every fourth to 252: 255 levels
    "e3m4": (3, 4, -3, True, 0),  # the integers to 32, and so on to 1984: 255 levels
    "e5m2": (5, 2, 15, False, 0),  # OCP FP8: the top exponent is infinity and NaN
}

MAX_LEVELS = 1 << 16


@dataclass(frozen=True, init=False)
class FloatFormat:
    """A floating-point format [1, E, M]: one sign bit, E exponent bits, M mantissa bits.

    Exponent field 0 holds the subnormals ``f / 2^M * 2^(1 - bias)``, field k the values
    ``(1 + f / 2^M) * 2^(k - bias)``. +0 and -0 are one level.

    Parameters
    ----------
    name : str, optional
        One of ``fp4`` ([1,2,1], 11 levels), ``fp8`` ([1,5,2], 247), ``fp8_143`` ([1,4,3], 239): the formats of the
        CO3 paper; ``e2m1`` (15), ``e4m3`` (253), ``e5m2`` (247): the OCP ones; ``uniform``, ``e2m5`` and ``e3m4``
        (255 each): evenly spaced at first, 127, 64 and 32 steps of it. Without a name, give the fields.
    exponent : int
        Exponent bits E, 1 to 8.
    mantissa : int
        Mantissa bits M, 0 to 10.
    bias : int
        Exponent bias: a level of field k is multiplied by ``2^(k - bias)``.
    top_exponent : bool (default: False)
        Whether the all-ones exponent holds levels. IEEE and the CO3 paper leave it out.
    reserved : int (default: 0)
        How many of the largest magnitudes are no levels (OCP E4M3 keeps one code for NaN).

    Examples
    --------
    >>> FloatFormat("fp4").levels.tolist()
    [-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
    >>> FloatFormat(exponent=2, mantissa=1, bias=1) == FloatFormat("fp4")
    True
    """

    exponent: int
    mantissa: int
    bias: int
    top_exponent: bool
    reserved: int

    def __init__(
        self,
        name: str | None = None,
        *,
        exponent: int | None = None,
        mantissa: int | None = None,
        bias: int | None = None,
        top_exponent: bool = False,
        reserved: int = 0,
    ) -> None:
        if name is not None:
            if not (exponent is mantissa is bias is None and not top_exponent and not reserved):
                raise ValueError("FloatFormat takes a name or the fields of a format, not both.")
            if name not in PRESETS:
                raise ValueError(f"Unknown format {name!r}: choose one of {', '.join(PRESETS)}.")
            exponent, mantissa, bias, top_exponent, reserved = PRESETS[name]
        if exponent is None or mantissa is None or bias is None:
            raise ValueError("FloatFormat needs a name, or all of exponent, mantissa and bias.")
        for field, value, low, high in (
            ("exponent", exponent, 1, 8),
            ("mantissa", mantissa, 0, 10),
            ("bias", bias, -100, 230),
            ("reserved", reserved, 0, MAX_LEVELS),
        ):
            if not (isinstance(value, (int, np.integer)) and low <= value <= high):
                raise ValueError(f"FloatFormat {field} must be an integer within {low} to {high}, not {value!r}.")
            object.__setattr__(self, field, int(value))
        object.__setattr__(self, "top_exponent", bool(top_exponent))
        if not 2 <= self.zero + 1 <= MAX_LEVELS // 2:
            raise ValueError(f"{self} has {2 * self.zero + 1} levels; a format needs 3 to {MAX_LEVELS - 1}.")
        smallest, largest = 1 - self.bias - self.mantissa, math.log2(self.magnitudes[-1])
        if smallest < -120 or largest > 120:
            raise ValueError(f"{self} has levels outside 2^-120 to 2^120, where float32 can't round to them.")

    def __str__(self) -> str:
        """Show the fields, as the paper writes them."""
        return f"[1,{self.exponent},{self.mantissa}] with bias {self.bias}"

    @property
    def zero(self) -> int:
        """The symbol of level 0, which is also the number of positive levels."""
        fields = (1 << self.exponent) - (not self.top_exponent)
        return (fields << self.mantissa) - 1 - self.reserved

    @cached_property
    def magnitudes(self) -> npt.NDArray[np.float64]:
        """The levels from 0 upwards, float64 of shape (zero + 1,)."""
        index = np.arange(self.zero + 1)
        field, fraction = index >> self.mantissa, index & ((1 << self.mantissa) - 1)
        significand = fraction / (1 << self.mantissa) + (field > 0)
        levels: npt.NDArray[np.float64] = np.ldexp(significand, np.maximum(field, 1) - self.bias)
        levels.setflags(write=False)
        return levels

    @cached_property
    def levels(self) -> npt.NDArray[np.float64]:
        """All levels in rising order, float64 of shape (2 zero + 1,)."""
        levels = np.concatenate([-self.magnitudes[:0:-1], self.magnitudes])
        levels.setflags(write=False)
        return levels

    @cached_property
    def edges(self) -> npt.NDArray[np.float64]:
        """Where the cells of neighbouring magnitudes meet: their midpoints, float64 of shape (zero,)."""
        edges = 0.5 * (self.magnitudes[1:] + self.magnitudes[:-1])
        edges.setflags(write=False)
        return edges

    @property
    def symbol_dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """uint8 where it can count the levels, else uint16."""
        return np.dtype(np.uint8 if 2 * self.zero < 256 else np.uint16)

    def quantize(
        self,
        x: npt.ArrayLike,
        scale: float,
        rng: np.random.Generator | None = None,
        edges: npt.NDArray[np.float64] | None = None,
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Round ``scale * x`` to levels.

        Parameters
        ----------
        x : array_like
            Finite real values, any shape.
        scale : float
            What `x` is multiplied by before it is rounded; finite and above 0.
        rng : numpy.random.Generator, optional
            With it, rounding is stochastic: up or down at random, so that the expected level is the value itself
            (inside the range of the levels). Without it, to the nearest level, ties away from zero.
        edges : ndarray of float64, shape (zero,), optional
            Where magnitudes end, instead of midway to the next: a value below the edge before its nearest level is
            rounded to the level below that one. Each edge lies in the nearest cell of the level above it. Not with
            `rng`.

        Returns
        -------
        ndarray
            Index into `levels` of each value, uint8 (uint16 for formats of more than 256 levels), shape of `x`.
            Values beyond the largest level saturate.

        Raises
        ------
        ValueError
            If `scale` is not a finite number above 0.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"The scale must be a finite number above 0, not {scale!r}.")
        values = np.asarray(x)
        flat = values.reshape(-1)
        symbols = np.empty(flat.size, self.symbol_dtype)
        # float32 is exact enough to find a level, but its range may not hold the product.
        single = values.dtype.itemsize <= 4 and values.dtype.kind != "i" and 2.0**-60 < scale < 2.0**60
        work = np.float32 if single else np.float64
        factor = work(scale)
        begins = None if edges is None or rng is not None else np.append(0, edges).astype(np.float32)
        for start in range(0, flat.size, BLOCK):
            block: npt.NDArray[Any] = flat[start : start + BLOCK].astype(work)
            with np.errstate(over="ignore"):  # infinity saturates like any large value
                block *= factor
                scaled = block.astype(np.float32, copy=False)
            index = self._round(scaled, rng)
            if begins is not None:
                index -= np.abs(scaled) < begins[index]
            symbols[start : start + BLOCK] = _signed(index, scaled) + self.zero
        return symbols.reshape(values.shape)

    def _round(self, y: Float32s, rng: np.random.Generator | None) -> npt.NDArray[np.int32]:
        """Magnitudes, by number, of one block of scaled values.

        Between 0 and the smallest normal level the levels are equally spaced; above it, the k-th level is the k-th
        float32 bit pattern that has no mantissa bits below the M-th, so rounding is an addition and a shift.
        """
        dropped = 23 - self.mantissa
        smallest_normal = np.float32(2.0 ** (1 - self.bias))
        magnitude = np.abs(y)
        # With more random bits than are dropped, a level plus the nudge could round up to the next level.
        below = 1 << dropped
        nudge = np.int32(below >> 1) if rng is None else self.draws(rng, y.size)
        normal = np.maximum(magnitude, smallest_normal).view(np.int32)
        normal += nudge
        normal >>= dropped
        np.minimum(magnitude, smallest_normal, out=magnitude)
        magnitude *= np.float32(2.0 ** (self.mantissa - 1 + self.bias))
        magnitude += nudge.astype(np.float32) * np.float32(1 / below)
        index = magnitude.astype(np.int32)
        index += normal
        index -= (128 - self.bias) << self.mantissa  # the bit pattern of the smallest normal level
        np.minimum(index, self.zero, out=index)
        return index

    def draws(self, rng: np.random.Generator, entries: int) -> npt.NDArray[np.int32]:
        """Draw what stochastic rounding adds to each value before it cuts off, in units of the least bit kept."""
        return rng.integers(1 << (23 - self.mantissa), size=entries, dtype=np.int32)

    def dequantize(self, symbols: npt.NDArray[np.integer[Any]], scale: float) -> Float32s:
        """Turn symbols back into values.

        Parameters
        ----------
        symbols : ndarray of int
            Indices into `levels`, any shape.
        scale : float
            The scale they were quantised with.

        Returns
        -------
        ndarray of float32
            ``levels[symbols] / scale``, shape of `symbols`.
        """
        values: Float32s = self.values(scale).astype(np.float32)[symbols]
        return values

    def values(self, scale: float) -> npt.NDArray[np.float64]:
        """What each symbol decodes to: ``levels / scale``, one float64 division each, so the same everywhere."""
        with np.errstate(over="ignore"):
            values: npt.NDArray[np.float64] = self.levels / np.float64(scale)
        return values


def _signed(index: npt.NDArray[np.int32], y: Float32s) -> npt.NDArray[np.int32]:
    """Give numbers the signs of values, in place."""
    sign = y.view(np.int32) >> 31  # 0 or -1: two's complement negates where it is -1
    index ^= sign
    index -= sign
    return index
