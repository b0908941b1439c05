"""Frequency tables in a few bytes: from a fit, or from counts.

A **fitted** table is sent as the shape and width of a generalised normal, and rebuilt from these. A **counted** one is
sent as integers that sum to a power of two; the coarser the power, the fewer bytes, and the encoder picks the one that
is cheapest with the symbols it has to code. A mirrored table has equal frequencies for +level and -level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.compress.frequencies import PRECISION, TOTAL, Frequencies, cost_bits, gennorm_weights, normalize
from flwr_co3.errors import FrameError
from flwr_co3.gennorm import SHAPE_RANGE
from flwr_co3.wire import BitReader, Reader, Writer, write_bits

Counts = npt.NDArray[np.int64]

_PRECISIONS = (5, 6, 7, 8, 9, 10, 12)
_MIRRORED = 0x80
_SMALLEST_CODE, _LARGEST_CODE = 1 << 5, 0xFFDF  # exponent fields 1 and 2046 of float64


class Table(NamedTuple):
    """A table with the bytes that describe it and what it costs to code the symbols it was made for."""

    header: bytes
    frequencies: Frequencies
    bits: float  # of the coded symbols, without the header

    @property
    def size(self) -> float:
        """Bytes in all."""
        return len(self.header) + self.bits / 8


def cheapest(tables: Iterable[Table]) -> Table:
    """The table with the fewest bytes, header and symbols together; the first of equals."""
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
    candidates = [_counted(counts, precision) for precision in (*_PRECISIONS, PRECISION)]
    if mirrored:
        # A pair shares its frequency, which must be even after scaling to 2^14: one bit less of precision.
        candidates += [_mirrored(counts, precision) for precision in (*_PRECISIONS, PRECISION - 1)]
    return cheapest(table for table in candidates if table is not None)


def _counted(counts: Counts, precision: int) -> Table | None:
    if np.count_nonzero(counts) > 1 << precision:
        return None
    values = normalize(counts, 1 << precision)
    frequencies = values << (PRECISION - precision)
    header = bytes([precision]) + _write_values(values[_centre_out(values.size)], precision)
    return Table(header, frequencies, cost_bits(counts, frequencies))


def _mirrored(counts: Counts, precision: int) -> Table | None:
    pairs = _fold(counts)
    if np.count_nonzero(pairs) > 1 << precision:
        return None
    values = normalize(pairs, 1 << precision)
    frequencies = _unfold(values, counts.size, precision)
    header = bytes([precision | _MIRRORED]) + _write_values(values, precision)
    return Table(header, frequencies, cost_bits(counts, frequencies))


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


def _read_values(reader: Reader, count: int, precision: int) -> Counts:
    bits, rest = BitReader(reader), 1 << precision
    values = np.zeros(count, np.int64)
    for index in range(count - 1):
        if not rest:
            break
        value = bits.bits(rest.bit_length())
        if value > rest:
            raise FrameError("The values of a frequency table exceed their sum.")
        values[index] = value
        rest -= value
    values[-1] += rest
    return values


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


def _unfold(values: Counts, size: int, precision: int) -> Frequencies:
    scaled = values << (PRECISION - precision)
    pairs = scaled[size % 2 :] >> 1
    return np.concatenate([pairs[::-1], scaled[: size % 2], pairs])


# -- fitted -----------------------------------------------------------------------------------------------------------


def fitted(counts: Counts, edges: npt.NDArray[np.float64], shape: float, width: float) -> Table:
    """Table of the levels of generalised normal values.

    Parameters
    ----------
    counts : ndarray of int64, shape (2 m + 1,)
        How often each level occurs.
    edges : ndarray of float64, shape (m,)
        Where the cells of the magnitudes meet.
    shape, width : float
        The fit, the width in units of `edges`.
    """
    header, weights = _fit_header(edges, shape, width)
    frequencies = normalize(weights)
    return Table(bytes(header), frequencies, cost_bits(counts, frequencies))


def fitted_zero_share(counts: Counts, edges: npt.NDArray[np.float64], shape: float, width: float) -> Table:
    """`fitted`, with the share of level 0 sent besides.

    Two bytes that pay where dead units leave more zeros than the fit expects. `shape` and `width` are the fit of the
    values that are not 0; level 0 and at least one other occur.
    """
    header, weights = _fit_header(edges, shape, width)
    middle = edges.size
    share = round(TOTAL * int(counts[middle]) / int(counts.sum()))
    share = min(max(share, 1), TOTAL - 2 * middle)
    header.u16(share)
    frequencies = _with_zero_share(weights, share)
    return Table(bytes(header), frequencies, cost_bits(counts, frequencies))


def _fit_header(edges: npt.NDArray[np.float64], shape: float, width: float) -> tuple[Writer, Counts]:
    header = Writer([encode_shape(shape)])
    header.u16(encode_positive(width))
    return header, gennorm_weights(decode_shape(header[0]), decode_positive(encode_positive(width)), edges)


def read_fitted(reader: Reader, edges: npt.NDArray[np.float64], zero_share: bool) -> Frequencies:
    """Rebuild a fitted table."""
    shape_code, width_code = reader.u8(), reader.u16()
    weights = gennorm_weights(decode_shape(shape_code), decode_positive(width_code), edges)
    if not zero_share:
        return normalize(weights)
    share = reader.u16()
    if not 1 <= share <= TOTAL - 2 * edges.size:
        raise FrameError(f"A fitted table gives level 0 a frequency of {share} in {TOTAL}.")
    return _with_zero_share(weights, share)


def _with_zero_share(weights: Counts, share: int) -> Frequencies:
    middle = weights.size // 2
    others = weights.copy()
    others[middle] = 0
    frequencies = normalize(others, TOTAL - share)
    frequencies[middle] = share
    return frequencies


def encode_shape(shape: float) -> int:
    """Shape as one byte: ``shape = ((code + 1) / 128)^2``, steps of 3.5 % at .2 and .8 % at 4."""
    low, high = (math.ceil(128 * math.sqrt(bound)) - 1 for bound in SHAPE_RANGE)
    return min(max(round(128 * math.sqrt(shape)) - 1, low), high)


def decode_shape(code: int) -> float:
    """Shape of a code; a code below the range stands for its lower end."""
    return max((code + 1) ** 2 / 16384, SHAPE_RANGE[0])


def encode_positive(value: float) -> int:
    """Positive number as 16 bits: the 11 exponent and 5 highest mantissa bits of its float64, rounded.

    Numbers beyond the ends of the range become its ends, 2^-1022 and 1.97 * 2^1023.
    """
    bits = int(np.float64(value).view(np.uint64))
    return min(max((bits + (1 << 46)) >> 47, _SMALLEST_CODE), _LARGEST_CODE)


def decode_positive(code: int) -> float:
    """Number of a 16-bit code; exact, so the same everywhere."""
    if not _SMALLEST_CODE <= code <= _LARGEST_CODE:
        raise FrameError(f"The 16-bit number {code:#06x} is no scale or width: it must be normal and finite.")
    return float(np.uint64(code << 47).view(np.float64))
