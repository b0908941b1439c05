"""Canonical Huffman coding in numpy: the CO3 paper's entropy code.

Code lengths are a pure function of the table's integer frequencies, so no code is sent. A sequence is cut into
**segments** of the same number of symbols, each of which starts at a whole byte, and numpy codes one symbol of every
segment at a time.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress.frequencies import Frequencies
from flwr_co3.compress.packing import Sequence
from flwr_co3.errors import FrameError

Bytes = npt.NDArray[np.uint8]

#: No code word is longer: a look-up table of 2^14 entries decodes any of them.
MAX_LENGTH = 14

_NARROW_SEGMENTS = 16  # with fewer, plain integers are faster than numpy


def code_lengths(frequencies: Frequencies) -> npt.NDArray[np.int64]:
    """Optimal code lengths of at most `MAX_LENGTH` bits, by package-merge (Larmore and Hirschberg, 1990).

    Parameters
    ----------
    frequencies : ndarray of int64, shape (n,)
        Symbols of frequency 0 get no code word.

    Returns
    -------
    ndarray of int64, shape (n,)
        Bits of each symbol's code word; 0 for a symbol that has none, or that is the only one.
    """
    used = np.flatnonzero(frequencies)
    lengths = np.zeros(frequencies.size, np.int64)
    if used.size < 2:
        return lengths
    coins: list[tuple[int, tuple[int, ...]]] = sorted((int(frequencies[s]), (int(s),)) for s in used)
    packages = list(coins)
    for _ in range(MAX_LENGTH - 1):
        pairs = [
            (packages[i][0] + packages[i + 1][0], packages[i][1] + packages[i + 1][1])
            for i in range(0, len(packages) - 1, 2)
        ]
        packages = sorted(coins + pairs)
    # A symbol's code word is as long as the number of its coins among the 2 n - 2 cheapest packages.
    chosen = [symbol for _, symbols in packages[: 2 * used.size - 2] for symbol in symbols]
    np.add.at(lengths, chosen, 1)
    return lengths


def code_words(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Canonical code words: shorter first, then by symbol, counting upwards."""
    words = np.zeros_like(lengths)
    word = previous = 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda s: (lengths[s], s)):
        word <<= int(lengths[symbol]) - previous
        words[symbol] = word
        word, previous = word + 1, int(lengths[symbol])
    return words


def bits(sequence: Sequence) -> int:
    """Bits of a sequence's code words: at least one symbol, none of them packed."""
    return int(np.sum(sequence.counts() * code_lengths(sequence.frequencies)))


def encode(sequence: Sequence, per_segment: int) -> tuple[bytes, list[int]]:
    """Code a sequence.

    Parameters
    ----------
    sequence : Sequence
        At least one symbol, each with a frequency above 0, none of them packed.
    per_segment : int
        Symbols of each segment but the last.

    Returns
    -------
    tuple of bytes and list of int
        The segments one after the other, most significant bit first, the last byte of each filled with ones; and how
        many bytes each has.
    """
    lengths = code_lengths(sequence.frequencies)
    words = code_words(lengths)
    if loops := kernels.compiled():
        by_symbol = np.zeros((2, 256), np.uint16)
        by_symbol[:, : lengths.size] = lengths, words
        data, sizes = loops.huffman_encode(sequence.symbols, sequence.packing.base, *by_symbol, per_segment)
        return data, np.frombuffer(sizes, np.int64).tolist()
    symbols = sequence.packed()
    starts = range(0, symbols.size, per_segment)
    segments = [_write(symbols[start : start + per_segment], words, lengths).tobytes() for start in starts]
    return b"".join(segments), [len(segment) for segment in segments]


def _write(symbols: Bytes, words: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Bytes:
    """Concatenate the code words of one segment."""
    length = lengths[symbols]
    end = np.cumsum(length)
    if not end[-1]:
        return np.empty(0, np.uint8)
    # Each code word is placed in 64 bits that begin at the 32-bit word which holds its first bit. Words of one place
    # don't overlap, so they add up; 14 bits reach into the next place at most.
    place, offset = np.divmod(end - length, 32)
    shifted = words[symbols] << (64 - offset - length)
    first = np.flatnonzero(np.diff(place, prepend=-1))
    sums = np.add.reduceat(shifted, first).view(np.uint64)
    out = np.zeros(int(place[-1]) + 2, np.uint32)
    out[place[first]] = sums >> np.uint64(32)
    out[place[first] + 1] |= (sums & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    data = out.astype(">u4").view(np.uint8)[: -(-int(end[-1]) // 8)]
    data[-1] |= _filler(8 * data.size - int(end[-1]))
    return data


def _filler(bits: Any) -> Any:
    """Ones: the one code word that they may be mistaken for is the rarest symbol's."""
    return (1 << bits) - 1


def decode(
    data: memoryview, sizes: list[int], tables: list[Frequencies], lengths: list[int], per_segment: int
) -> list[Bytes]:
    """Reverse `encode`, for several sequences at once.

    Parameters
    ----------
    data : memoryview
        The segments of all sequences, one after the other: ``ceil(length / per_segment)`` for each.
    sizes : list of int
        Bytes of each segment.
    tables : list of ndarray of int64
        Frequencies of each sequence.
    lengths : list of int
        Symbols of each sequence.
    per_segment : int
        Symbols of each segment but a sequence's last.

    Returns
    -------
    list of ndarray of uint8
        The symbols of each sequence.

    Raises
    ------
    FrameError
        If a segment holds more or fewer bits than its symbols take, or other bits than ones at its end.
    """
    if kernels.compiled():
        return _decode_compiled(data, sizes, tables, lengths, per_segment)
    ends = list(itertools.accumulate(sizes))
    segments = [np.frombuffer(data[end - size : end], np.uint8) for size, end in zip(sizes, ends, strict=True)]
    if len(segments) < _NARROW_SEGMENTS:
        return _decode_narrow(segments, tables, lengths, per_segment)
    return _decode_wide(segments, tables, lengths, per_segment)


def _decode_compiled(
    data: memoryview, sizes: list[int], tables: list[Frequencies], lengths: list[int], per_segment: int
) -> list[Bytes]:
    loops = kernels.compiled()
    out, segment, start = [], 0, 0
    for frequencies, length in zip(tables, lengths, strict=True):
        mine = np.array(sizes[segment : segment + -(-length // per_segment)], np.int64)
        end = start + int(mine.sum())
        out.append(np.empty(length, np.uint8))
        sound = loops.huffman_decode(data[start:end], mine, *_look_up(frequencies), per_segment, out[-1])
        _check_end(not sound)
        segment, start = segment + mine.size, end
    return out


def _decode_wide(segments: list[Bytes], tables: list[Frequencies], lengths: list[int], per_segment: int) -> list[Bytes]:
    """A symbol of every segment at a time."""
    pieces = [-(-length // per_segment) for length in lengths]
    symbol_of, length_of = (np.concatenate(part) for part in zip(*map(_look_up, tables), strict=True))
    table = np.repeat(np.arange(len(tables)) << MAX_LENGTH, pieces)
    counts = np.full(len(segments), per_segment)
    counts[np.cumsum(pieces) - 1] = [length - per_segment * (n - 1) for length, n in zip(lengths, pieces, strict=True)]
    sizes = np.array([segment.size for segment in segments])
    position = 8 * (np.cumsum(sizes) - sizes)
    last_bit = position + 8 * sizes
    # Three bytes are read at a time; what lies beyond the end is zeros, and noticed at the end.
    stream = np.concatenate([*segments, np.zeros(3, np.uint8)]).astype(np.int32)
    symbols = np.empty((int(counts.max()), len(segments)), np.uint8)
    for row in range(symbols.shape[0]):
        byte = position >> 3
        three = stream.take(byte, mode="clip") << 16
        three |= stream.take(byte + 1, mode="clip") << 8
        three |= stream.take(byte + 2, mode="clip")
        window = three >> (24 - MAX_LENGTH - (position & 7)) & ((1 << MAX_LENGTH) - 1)
        window += table
        symbols[row] = symbol_of[window]
        position += length_of[window] * (row < counts)
    left = last_bit - position
    _check_end(bool(np.any((left < 0) | (left > 7) | (~stream[(last_bit >> 3) - 1] & _filler(left) > 0))))
    by_segment = np.split(symbols.T, np.cumsum(pieces)[:-1])
    return [part.reshape(-1)[:length] for part, length in zip(by_segment, lengths, strict=True)]


def _decode_narrow(
    segments: list[Bytes], tables: list[Frequencies], lengths: list[int], per_segment: int
) -> list[Bytes]:
    """The same, symbol by symbol."""
    out, unread = [], iter(segments)
    for frequencies, length in zip(tables, lengths, strict=True):
        symbol_of, length_of = (column.tolist() for column in _look_up(frequencies))
        symbols = bytearray()
        while len(symbols) < length:
            count = min(per_segment, length - len(symbols))
            symbols += _decode_segment(next(unread).tobytes(), symbol_of, length_of, count)
        out.append(np.frombuffer(symbols, np.uint8))
    return out


def _decode_segment(segment: bytes, symbol_of: list[int], length_of: list[int], count: int) -> bytearray:
    symbols, position = bytearray(count), 0
    padded = segment + bytes(3)
    for index in range(count):
        byte = position >> 3
        three = int.from_bytes(padded[byte : byte + 3], "big")
        window = three >> (24 - MAX_LENGTH - (position & 7)) & ((1 << MAX_LENGTH) - 1)
        symbols[index] = symbol_of[window]
        position += length_of[window]
    left = 8 * len(segment) - position
    _check_end(not 0 <= left < 8 or (left > 0 and ~segment[-1] & _filler(left) > 0))
    return symbols


def _check_end(wrong: bool) -> None:
    if wrong:
        raise FrameError("A Huffman segment does not end where its symbols do.")


def _look_up(frequencies: Frequencies) -> tuple[Bytes, Bytes]:
    """Symbol and code length by the next `MAX_LENGTH` bits."""
    lengths = code_lengths(frequencies)
    symbol_of = np.full(1 << MAX_LENGTH, np.argmax(frequencies), np.uint8)  # right where there is but one symbol
    length_of = np.zeros(1 << MAX_LENGTH, np.uint8)
    for symbol, word in enumerate(code_words(lengths)):
        if length := int(lengths[symbol]):
            span = slice(int(word) << (MAX_LENGTH - length), (int(word) + 1) << (MAX_LENGTH - length))
            symbol_of[span], length_of[span] = symbol, length
    return symbol_of, length_of
