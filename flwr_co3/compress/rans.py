"""Interleaved rANS in numpy (Duda, arXiv 1311.2540): within a hair of the entropy, fractions of a bit included.

The readable reference of the stream that ``docs/frame.md`` describes. States are 32 bits wide, words 16, and a state
is at least 2^16 between symbols, so one step takes or gives at most one word. All symbols of a frame form **rows** of
`lanes` symbols; symbol i of a row belongs to lane i. Rows are cut into **chunks** that decode independently. numpy
codes one row of every chunk at a time, so its cost is the number of rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress.frequencies import PRECISION, TOTAL, Frequencies, cost_of, log2_table
from flwr_co3.compress.packing import Sequence
from flwr_co3.errors import FrameError

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]

_LOWER_INT = 1 << 16  # a state's lower bound, and every lane's state before its first symbol
_LOWER = np.uint32(_LOWER_INT)
_BLOCK_ROWS = 256
_NARROW_LANES = 16


Coded = tuple[Bytes, Frequencies]  # symbols as they are coded, and their table


class Chunk(NamedTuple):
    """Rows that decode without the others."""

    states: npt.NDArray[np.uint32]  # one a lane, what the decoder starts from
    words: Words


class Layout(NamedTuple):
    """How the symbols of some sequences lie in rows and chunks: known from their lengths alone."""

    lengths: tuple[int, ...]
    lanes: int
    rows_per_chunk: int

    @property
    def rows_by_sequence(self) -> list[int]:
        """Each sequence starts a new row."""
        return [-(-length // self.lanes) for length in self.lengths]

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-sum(self.rows_by_sequence) // self.rows_per_chunk)

    @property
    def narrow(self) -> bool:
        """Whether rows are so short that plain integers are faster than numpy."""
        return self.chunks == 1 and self.lanes <= _NARROW_LANES


def cost(sequences: list[Sequence]) -> int:
    """What an ideal coder spends on sequences of symbols with their tables, in units of 2^-16 bits."""
    if loops := kernels.compiled():
        found: int = loops.rans_cost(*_compiled_arguments(sequences), log2_table())
        return found
    total = 0
    for s in sequences:
        spent = cost_of(s.counts(), s.frequencies)
        assert spent is not None, "every symbol has a frequency"
        total += spent
    return total


def encode(sequences: list[Sequence], lanes: int, rows_per_chunk: int) -> list[bytes]:
    """Code sequences of symbols.

    Parameters
    ----------
    sequences : list of Sequence
        Every symbol's frequency must be above 0.
    lanes : int
        Interleaved states, 4 bytes each in every chunk.
    rows_per_chunk : int
        Rows that share a chunk.

    Returns
    -------
    list of bytes
        Each chunk's states and words, in the order of the rows.
    """
    layout = Layout(tuple(s.length for s in sequences), lanes, rows_per_chunk)
    if kernels.compiled():
        return _encode_compiled(sequences, layout)
    coded = [(s.packed(), s.frequencies) for s in sequences]
    chunks = [_encode_narrow(coded, lanes)] if layout.narrow else _encode_wide(coded, layout)
    return [chunk.states.astype("<u4").tobytes() + chunk.words.astype("<u2").tobytes() for chunk in chunks]


def _encode_compiled(sequences: list[Sequence], layout: Layout) -> list[bytes]:
    loops = kernels.compiled()
    arguments = _compiled_arguments(sequences)

    def chunk(k: int) -> bytes:
        coded: bytes = loops.rans_encode(*arguments, layout.lanes, layout.rows_per_chunk, k)
        return coded

    return kernels.each(chunk, range(layout.chunks))


def _compiled_arguments(sequences: list[Sequence]) -> tuple[list[Bytes], npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """Symbols, packings and tables."""
    packings = np.array([(s.symbols.size, *s.packing) for s in sequences], np.int64)
    return [s.symbols for s in sequences], packings, _tables_by_symbol([s.frequencies for s in sequences])


def _tables_by_symbol(tables: list[Frequencies]) -> npt.NDArray[np.uint16]:
    """Frequencies of all sequences, shape (sequences, 256)."""
    rows = np.zeros((len(tables), 256), np.uint16)
    for row, frequencies in zip(rows, tables, strict=True):
        row[: frequencies.size] = frequencies
    return rows


def _encode_wide(sequences: list[Coded], layout: Layout) -> list[Chunk]:
    """A row of every chunk at a time."""
    lanes, rows_per_chunk = layout.lanes, layout.rows_per_chunk
    frequency, cumulative = _tables([f for _, f in sequences])
    codes = _lay_out(sequences, layout)
    states = np.full((layout.chunks, lanes), _LOWER, np.uint32)
    emitted = np.zeros((rows_per_chunk, layout.chunks, lanes), bool)
    words = np.empty((rows_per_chunk, layout.chunks, lanes), np.uint16)
    for end in range(rows_per_chunk, 0, -_BLOCK_ROWS):
        start = max(end - _BLOCK_ROWS, 0)
        block = codes[:, start:end].transpose(1, 0, 2)
        f, c = frequency[block], cumulative[block]
        for row in range(end - start - 1, -1, -1):
            # The coder runs backwards, so that the decoder runs forwards.
            full = states >> (32 - PRECISION) >= f[row]
            emitted[start + row] = full
            words[start + row] = states  # the low 16 bits
            states >>= full.astype(np.uint32) << 4
            quotient = states // f[row]
            # (quotient << PRECISION) + states % f + c
            states += quotient * (np.uint32(TOTAL) - f[row]) + c[row]
    return [Chunk(states[k], words[:, k][emitted[:, k]]) for k in range(layout.chunks)]


def _tables(tables: list[Frequencies]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Frequencies and cumulative frequencies by code = 256 table + symbol; the last table leaves states as they are."""
    frequency = np.ones((len(tables) + 1, 256), np.uint32)
    cumulative = np.zeros((len(tables) + 1, 256), np.uint32)
    for table, f in enumerate(tables):
        frequency[table, : f.size] = f
        cumulative[table, 1 : f.size] = np.cumsum(f)[:-1]
    frequency[-1] = TOTAL
    return frequency.reshape(-1), cumulative.reshape(-1)


def _lay_out(sequences: list[Coded], layout: Layout) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Codes of all symbols, shape (chunks, rows, lanes); gaps hold a code that changes nothing."""
    nothing = 256 * len(sequences)
    dtype: type[np.unsignedinteger[Any]] = np.uint16 if nothing < 1 << 16 else np.uint32
    codes = np.full(layout.chunks * layout.rows_per_chunk * layout.lanes, nothing, dtype)
    start = 0
    for table, ((symbols, _), rows) in enumerate(zip(sequences, layout.rows_by_sequence, strict=True)):
        np.add(symbols, dtype(256 * table), out=codes[start : start + symbols.size])
        start += rows * layout.lanes
    return codes.reshape(layout.chunks, layout.rows_per_chunk, layout.lanes)


def decode(data: list[memoryview], tables: list[Frequencies], layout: Layout) -> list[Bytes]:
    """Reverse `encode`.

    Parameters
    ----------
    data : list of memoryview
        Each chunk's states and words, as many chunks as `layout` has.
    tables : list of ndarray
        Frequencies of each sequence.
    layout : Layout
        Where the symbols lie.

    Returns
    -------
    list of ndarray of uint8
        The symbols of each sequence.

    Raises
    ------
    FrameError
        If words run out, are left over, or a state does not return to where the encoder began.
    """
    if kernels.compiled():
        return _decode_compiled(data, tables, layout)
    chunks = []
    for chunk in data:
        states = np.frombuffer(chunk[: 4 * layout.lanes], "<u4").astype(np.uint32)
        chunks.append(Chunk(states, np.frombuffer(chunk[4 * layout.lanes :], "<u2")))
    return _decode_narrow(chunks[0], tables, layout) if layout.narrow else _decode_wide(chunks, tables, layout)


_SHORT = "The coded stream ends before its last symbol."
_UNFINISHED = "The coded stream does not end where its symbols do."


def _decode_compiled(data: list[memoryview], tables: list[Frequencies], layout: Layout) -> list[Bytes]:
    loops = kernels.compiled()
    out = [np.empty(length, np.uint8) for length in layout.lengths]
    lengths, by_symbol = np.array(layout.lengths, np.int64), _tables_by_symbol(tables)

    def chunk(k: int) -> int:
        status: int = loops.rans_decode(data[k], lengths, by_symbol, layout.lanes, layout.rows_per_chunk, k, out)
        return status

    statuses = kernels.each(chunk, range(layout.chunks))
    if any(statuses):
        raise FrameError(_SHORT if 1 in statuses else _UNFINISHED)
    return out


def _decode_wide(chunks: list[Chunk], tables: list[Frequencies], layout: Layout) -> list[Bytes]:
    """A row of every chunk at a time."""
    frequency, cumulative = _tables(tables)
    # Frequency and cumulative frequency in one number: one look-up instead of two.
    both = frequency | cumulative << np.uint32(16)
    nothing = np.zeros(TOTAL, np.uint8)
    slots = np.concatenate([*map(_symbol_of_slot, tables), nothing])

    stream = np.concatenate([c.words for c in chunks]) if chunks else np.empty(0, np.uint16)
    ends = np.cumsum([c.words.size for c in chunks])
    read = ends - [c.words.size for c in chunks]
    stream = np.append(stream, np.uint16(0))  # a place to read from after the end, before it is noticed
    states = np.array([c.states for c in chunks], np.uint32).reshape(layout.chunks, layout.lanes)
    symbols = np.empty((layout.chunks, layout.rows_per_chunk, layout.lanes), np.uint8)
    for row, table in enumerate(_tables_by_row(layout)):
        slot = states & np.uint32(TOTAL - 1)
        symbol = slots[(table << PRECISION) + slot]
        symbols[:, row] = symbol
        entry = both[(table << 8) + symbol]
        states >>= PRECISION
        states *= entry & np.uint32(0xFFFF)
        states += slot
        states -= entry >> 16
        empty = states < _LOWER
        if empty.any():
            taken = empty.cumsum(axis=1)
            position = (taken + (read[:, None] - 1))[empty]
            states[empty] = (states[empty] << 16) | stream.take(position, mode="clip")
            read += taken[:, -1]
            if np.any(read > ends):
                raise FrameError(_SHORT)
    if np.any(read != ends) or np.any(states != _LOWER):
        raise FrameError(_UNFINISHED)
    return _gather(symbols.reshape(-1), layout)


def _tables_by_row(layout: Layout) -> Iterator[npt.NDArray[np.intp]]:
    """For each row within the chunks: the index of every lane's table, shape (chunks, lanes).

    The index after the last table is that of one that codes nothing: it stands where a lane has no symbol.
    """
    rows = layout.rows_by_sequence
    nothing = len(rows)
    spare = layout.chunks * layout.rows_per_chunk - sum(rows)
    of_row = np.repeat(np.arange(nothing + 1), [*rows, spare]).reshape(layout.chunks, layout.rows_per_chunk)
    partial: dict[int, list[tuple[int, int]]] = {}  # the last row of a sequence: its chunk, its first empty lane
    for last_row, length in zip(np.cumsum(rows) - 1, layout.lengths, strict=True):
        if length % layout.lanes:
            chunk, row = divmod(int(last_row), layout.rows_per_chunk)
            partial.setdefault(row, []).append((chunk, length % layout.lanes))
    changed = np.ones(layout.rows_per_chunk, bool)
    changed[1:] = np.any(of_row[:, 1:] != of_row[:, :-1], axis=0)
    table = np.empty(0, np.intp)
    for row in range(layout.rows_per_chunk):
        if changed[row] or row in partial or row - 1 in partial:
            table = np.repeat(of_row[:, row, None], layout.lanes, axis=1)
            for chunk, first_empty in partial.get(row, ()):
                table[chunk, first_empty:] = nothing
        yield table


def _gather(symbols: Bytes, layout: Layout) -> list[Bytes]:
    """Cut the decoded rows into the sequences."""
    out, start = [], 0
    for length, rows in zip(layout.lengths, layout.rows_by_sequence, strict=True):
        out.append(symbols[start : start + length])
        start += rows * layout.lanes
    return out


def _symbol_of_slot(frequencies: Frequencies) -> Bytes:
    """The symbol that each of the 2^14 values of a state's low bits stands for."""
    return np.repeat(np.arange(frequencies.size, dtype=np.uint8), frequencies)


def _encode_narrow(sequences: list[Coded], lanes: int) -> Chunk:
    """The same stream, symbol by symbol."""
    states, words = [_LOWER_INT] * lanes, []
    for symbols, frequencies in reversed(sequences):
        frequency = frequencies.tolist()
        cumulative = (np.cumsum(frequencies) - frequencies).tolist()
        lane = (symbols.size - 1) % lanes
        for symbol in reversed(symbols.tolist()):
            f, state = frequency[symbol], states[lane]
            if state >> (32 - PRECISION) >= f:
                words.append(state & 0xFFFF)
                state >>= 16
            states[lane] = (state // f << PRECISION) + state % f + cumulative[symbol]
            lane = (lane or lanes) - 1
    return Chunk(np.array(states, np.uint32), np.array(words[::-1], np.uint16))


def _decode_narrow(chunk: Chunk, tables: list[Frequencies], layout: Layout) -> list[Bytes]:
    """Reverse `_encode_narrow`."""
    states, words, read = chunk.states.tolist(), chunk.words.tolist(), 0
    out = []
    for length, frequencies in zip(layout.lengths, tables, strict=True):
        frequency = frequencies.tolist()
        cumulative = (np.cumsum(frequencies) - frequencies).tolist()
        symbol_of_slot = _symbol_of_slot(frequencies).tolist()
        symbols = bytearray(length)
        lane = 0
        for index in range(length):
            state = states[lane]
            slot = state & (TOTAL - 1)
            symbols[index] = symbol = symbol_of_slot[slot]
            state = frequency[symbol] * (state >> PRECISION) + slot - cumulative[symbol]
            if state < _LOWER_INT:
                if read == len(words):
                    raise FrameError(_SHORT)
                state = state << 16 | words[read]
                read += 1
            states[lane] = state
            lane = (lane + 1) % layout.lanes
        out.append(np.frombuffer(symbols, np.uint8))
    if read != len(words) or any(state != _LOWER_INT for state in states):
        raise FrameError(_UNFINISHED)
    return out
