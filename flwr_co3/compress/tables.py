"""Frequency tables in a few bytes: from a fit, or from counts.

A **fitted** table is sent as the shape and width of a generalised normal, and rebuilt from these. A **counted** one is
sent as integers that sum to a power of two; the coarser the power, the fewer bytes, and the encoder picks the one that
is cheapest with the symbols it has to code. A mirrored table has equal frequencies for +level and -level.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress.frequencies import (
    PRECISION,
    TOTAL,
    Frequencies,
    cost_of,
    cost_of_bytes,
    gennorm_weights,
    log2_table,
    normalize,
)
from flwr_co3.errors import FrameError
from flwr_co3.gennorm import SHAPE_RANGE, log_moment_ratio
from flwr_co3.moments import Measured
from flwr_co3.wire import BitReader, Reader, write_bits

Counts = npt.NDArray[np.int64]

_PRECISIONS = (5, 6, 7, 8, 9, 10, 12)
_MIRRORED = 0x80
_LEAST_PEAK = 1e-100  # in units of the levels: what is below tells nothing
_FLOAT64 = struct.Struct("<d")
_SMALLEST_CODE, _LARGEST_CODE = 1 << 5, 0xFFDF  # exponent fields 1 and 2046 of float64


class Table(NamedTuple):
    """A table with the bytes that describe it and what it costs to code the symbols it was made for."""

    header: bytes
    frequencies: Frequencies
    cost: int  # of the coded symbols, without the header, in units of 2^-16 bits

    @property
    def size(self) -> int:
        """Cost in all."""
        return cost_of_bytes(len(self.header)) + self.cost


def cheapest(tables: Iterable[Table]) -> Table:
    """The table with the least cost, header and symbols together; the first of equals."""
    return min(tables, key=lambda table: table.size)


# -- counted ----------------------------------------------------------------------------------------------------------


def counted(counts: Counts, mirrored: bool = True) -> Table:
    """Cheapest counted table.

    Parameters
    ----------
    counts : ndarray of int64, shape (n,)
        How often each symbol occurs; not all 0. Where `mirrored`, n is odd (the middle symbol is level 0) or even
        (there is no level 0).
    mirrored : bool (default: True)
        Whether symbols come in pairs of equal magnitude, so that a mirrored table may pay.
    """
    if loops := kernels.compiled():
        header, frequencies, cost = loops.counted_table(np.ascontiguousarray(counts), mirrored, log2_table())
        return Table(header, np.frombuffer(frequencies, np.int64), cost)
    candidates = [_counted(counts, precision) for precision in (*_PRECISIONS, PRECISION)]
    if mirrored:
        # A pair shares its frequency, which must be even after scaling to 2^14: one bit less of precision.
        candidates += [_mirrored(counts, precision) for precision in (*_PRECISIONS, PRECISION - 1)]
    return cheapest(table for table in candidates if table is not None)


def _counted(counts: Counts, precision: int) -> Table | None:
    if np.count_nonzero(counts) > 1 << precision:
        return None
    values = normalize(counts, 1 << precision)
    header = bytes([precision]) + _write_values(values[_centre_out(values.size)], precision)
    return _table(header, values << (PRECISION - precision), counts)


def _mirrored(counts: Counts, precision: int) -> Table | None:
    pairs = _fold(counts)
    if np.count_nonzero(pairs) > 1 << precision:
        return None
    values = normalize(pairs, 1 << precision)
    header = bytes([precision | _MIRRORED]) + _write_values(values, precision)
    return _table(header, _unfold(values.tolist(), counts.size, precision), counts)


def _table(header: bytes, frequencies: Frequencies, counts: Counts) -> Table | None:
    cost = cost_of(counts, frequencies)
    return None if cost is None else Table(header, frequencies, cost)


def read_counted(reader: Reader, alphabet: int) -> Frequencies:
    """Read a counted table for an alphabet of a size that is known."""
    kind = reader.u8()
    precision = kind & 0x7F
    mirrored = bool(kind & _MIRRORED)
    if not 1 <= precision <= PRECISION - mirrored:
        raise FrameError(f"A frequency table claims a precision of {precision} bits.")
    if mirrored:
        return _unfold(_read_values(reader, (alphabet + 1) // 2, precision), alphabet, precision)
    values = np.empty(alphabet, np.int64)
    values[_centre_out(alphabet)] = _read_values(reader, alphabet, precision)
    return values << (PRECISION - precision)


def _write_values(values: Counts, precision: int) -> bytes:
    """Each value in as many bits as the rest of the sum needs; nothing once the sum is reached, nor for the last."""
    fields, rest = [], 1 << precision
    for value in values[:-1].tolist():
        if not rest:
            break
        fields.append((value, rest.bit_length()))
        rest -= value
    return write_bits(fields)


def _read_values(reader: Reader, count: int, precision: int) -> list[int]:
    bits, rest = BitReader(reader), 1 << precision
    values: list[int] = []
    while rest and len(values) < count - 1:
        value = bits.bits(rest.bit_length())
        if value > rest:
            raise FrameError("The values of a frequency table exceed their sum.")
        values.append(value)
        rest -= value
    values.append(rest)
    return values + [0] * (count - len(values))


def _centre_out(size: int) -> npt.NDArray[np.intp]:
    """Order of the symbols by magnitude: the large values come first, and leave few bits for the rest."""
    index = np.arange(size)
    return np.argsort(np.abs(2 * index - (size - 1)), kind="stable")


def _fold(counts: Counts) -> Counts:
    """Sums of the two symbols of a magnitude, from the smallest magnitude upwards."""
    half = counts.size // 2
    upper = counts[counts.size - half :]
    pairs = upper + counts[:half][::-1]
    return pairs if counts.size % 2 == 0 else np.concatenate([counts[half : half + 1], pairs])


def _unfold(values: list[int], size: int, precision: int) -> Frequencies:
    """Frequencies of the symbols from the magnitudes'. Tables are short: lists take less time than arrays."""
    shift = PRECISION - precision
    pairs = [value << shift >> 1 for value in values[size % 2 :]]
    return np.array([*pairs[::-1], *(value << shift for value in values[: size % 2]), *pairs], np.int64)


# -- fitted -----------------------------------------------------------------------------------------------------------


class Fit(NamedTuple):
    """A fit as it is sent."""

    shape: int  # one byte, of `encode_shape`
    width: int  # two bytes, of `encode_positive`; in units of the levels

    @classmethod
    def of(cls, shape: float, width: float) -> Fit:
        """Round a fit to what is sent."""
        return cls(encode_shape(shape), encode_positive(width))

    @property
    def values(self) -> tuple[float, float]:
        """Shape and width, as they are received."""
        return decode_shape(self.shape), decode_positive(self.width)

    @property
    def header(self) -> bytes:
        """The bytes that are sent."""
        return bytes([self.shape, self.width & 0xFF, self.width >> 8])


def fitted(counts: Counts, edges: npt.NDArray[np.float64], fit: Fit) -> Table:
    """Table of the levels of generalised normal values.

    Parameters
    ----------
    counts : ndarray of int64, shape (2 m + 1,)
        How often each level occurs.
    edges : ndarray of float64, shape (m,)
        Where the cells of the magnitudes meet.
    fit : Fit
        The fit of all values.
    """
    frequencies = _fitted_frequencies(fit, edges, 0)
    return Table(fit.header, frequencies, _finite_cost(counts, frequencies))


def fitted_zero_share(counts: Counts, edges: npt.NDArray[np.float64], fit: Fit) -> Table:
    """`fitted`, with the share of level 0 sent besides.

    Two bytes that pay where dead units leave more zeros than the fit expects. `fit` is that of the values that are not
    0; level 0 and at least one other occur.
    """
    share = zero_share(counts)
    frequencies = _fitted_frequencies(fit, edges, share)
    return Table(fit.header + share.to_bytes(2, "little"), frequencies, _finite_cost(counts, frequencies))


def zero_share(counts: Counts) -> int:
    """Frequency of level 0, the middle one, which leaves room for all others."""
    middle, total = counts.size // 2, int(counts.sum())
    share = (2 * TOTAL * int(counts[middle]) + total) // (2 * total)
    return min(max(share, 1), TOTAL - 2 * middle)


def _finite_cost(counts: Counts, frequencies: Frequencies) -> int:
    cost = cost_of(counts, frequencies)
    assert cost is not None, "a fitted table gives every level a frequency"
    return cost


def _fitted_frequencies(fit: Fit, edges: npt.NDArray[np.float64], share: int) -> Frequencies:
    """Frequencies of a fitted table; with a share, level 0 has that."""
    if loops := kernels.compiled():
        return np.frombuffer(loops.fitted_frequencies(fit.header, edges, share), np.int64)
    weights = gennorm_weights(*fit.values, edges)
    if not share:
        return normalize(weights)
    middle = weights.size // 2
    weights[middle] = 0
    frequencies = normalize(weights, TOTAL - share)
    frequencies[middle] = share
    return frequencies


def read_fitted(reader: Reader, edges: npt.NDArray[np.float64], zero_share: bool) -> Frequencies:
    """Rebuild a fitted table."""
    fit = Fit(reader.u8(), reader.u16())
    decode_positive(fit.width)  # says what may be wrong with it
    share = reader.u16() if zero_share else 0
    if zero_share and not 1 <= share <= TOTAL - 2 * edges.size:
        raise FrameError(f"A fitted table gives level 0 a frequency of {share} in {TOTAL}.")
    return _fitted_frequencies(fit, edges, share)


def fits_of(moments: Measured) -> list[Fit]:
    """Fit tensors, by their moments, as it is sent; those that are all 0, or next to it, get any fit."""
    usable = (moments.nonzero > 0) & (moments.peak > _LEAST_PEAK)
    codes = shape_codes(moments)
    widths = encode_positives(np.where(usable, moments.mean_abs * unit_widths(codes) * moments.peak, 1.0))
    return [
        Fit(*codes) for codes in zip(np.where(usable, codes, encode_shape(1.0)).tolist(), widths.tolist(), strict=True)
    ]


def shape_codes(moments: Measured) -> npt.NDArray[np.int64]:
    """Code of the shape at which ``E x^2 / (E|x|)^2`` is that of each tensor."""
    square = np.maximum(moments.mean_abs, _LEAST_PEAK) ** 2
    codes: Counts = np.searchsorted(_SHAPE_ENDS, -np.log(np.maximum(moments.mean_square / square, 1.0)), side="right")
    return codes + encode_shape(SHAPE_RANGE[0])


def unit_widths(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Width over mean magnitude, ``Gamma(1/b) / Gamma(2/b)`` at shape b, for codes of shapes."""
    return _UNIT_WIDTHS[codes]


def encode_shape(shape: float) -> int:
    """Shape as one byte: ``shape = ((code + 1) / 128)^2``, steps of 3.5 % at .2 and .8 % at 4."""
    return min(max(round(128 * math.sqrt(shape)) - 1, _SHAPE_CODES[0]), _SHAPE_CODES[1])


_SHAPE_CODES = tuple(math.ceil(128 * math.sqrt(bound)) - 1 for bound in SHAPE_RANGE)


def decode_shape(code: int) -> float:
    """Shape of a code; a code below the range stands for its lower end."""
    return max((code + 1) ** 2 / 16384, SHAPE_RANGE[0])


_UNIT_WIDTHS = np.array([math.exp(math.lgamma(1 / b) - math.lgamma(2 / b)) for b in map(decode_shape, range(256))])

#: Where each shape's code ends: minus the logarithm of the moments' ratio, which falls with the shape.
_SHAPE_ENDS = np.array(
    [-log_moment_ratio(((code + 1.5) / 128) ** 2) for code in range(*map(encode_shape, SHAPE_RANGE))]
)


def encode_positives(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Positive numbers as 16 bits: the 11 exponent and 5 highest mantissa bits of their float64, rounded.

    Numbers beyond the ends of the range become its ends, 2^-1022 and 1.97 * 2^1023.
    """
    bits = np.asarray(values, np.float64).view(np.int64)
    codes: Counts = np.minimum(np.maximum((bits + (1 << 46)) >> 47, _SMALLEST_CODE), _LARGEST_CODE)
    return codes


def encode_positive(value: float) -> int:
    """Code of one number; see `encode_positives`."""
    return int(encode_positives(value))


def decode_positives(codes: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """Numbers of 16-bit codes; exact, so the same everywhere."""
    wrong = codes[(codes < _SMALLEST_CODE) | (codes > _LARGEST_CODE)]
    if wrong.size:
        raise FrameError(f"The 16-bit number {wrong[0]:#06x} is no scale or width: it must be normal and finite.")
    return (codes.astype(np.int64) << 47).view(np.float64)


def decode_positive(code: int) -> float:
    """Number of one code; see `decode_positives`."""
    if not _SMALLEST_CODE <= code <= _LARGEST_CODE:
        decode_positives(np.array([code]))  # says what is wrong
    (value,) = _FLOAT64.unpack((code << 47).to_bytes(8, "little"))
    return float(value)
