"""Tensors that share a model: how their levels become sequences of symbols, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from flwr_co3.compress import sparse
from flwr_co3.compress.frequencies import Frequencies, Sequence
from flwr_co3.compress.packing import pack, pack_factor, packed_frequencies, unpack
from flwr_co3.compress.tables import (
    Counts,
    Table,
    cheapest,
    counted,
    fitted,
    fitted_zero_share,
    read_counted,
    read_fitted,
)
from flwr_co3.errors import FrameError
from flwr_co3.wire import BitReader, Reader, Writer, write_bits

Bytes = npt.NDArray[np.uint8]
Edges = npt.NDArray[np.float64]

ZERO, FITTED, FITTED_ZERO_SHARE, COUNTED, SPARSE, LISTED = range(6)
MAX_MAGNITUDE = 127  # +-127 and 0 are 255 symbols

_MAX_LISTED = 32
_FACTOR_SHIFT = 4  # of the kind byte: packing factor less one
_PACKING_LOSS = 1.001  # fewer symbols are worth a few more bytes

# A sparse tensor's positions are worth measuring below this share of levels that are not zero.
_SPARSE_BELOW = 0.25
_NEVER_DENSE = 1 / 32  # here a symbol for every entry would waste time
_SPARSE_PATIENCE = 1.005  # likewise


class Group(NamedTuple):
    """What is to be coded."""

    symbols: Bytes  # shape (n,), `zero` is level 0
    counts: Counts  # of each symbol
    zero: int
    fit: tuple[float, float]  # shape, and scale in units of the levels, of the values that were rounded
    nonzero_fit: tuple[float, float]  # the same without exact zeros


class Plan(NamedTuple):
    """A group in the form that goes on the wire."""

    header: bytes
    sequences: list[Sequence]
    raw: bytes  # bits that no coder can shorten
    bits: float  # what the sequences will take, about

    @property
    def size(self) -> float:
        """Bytes in all, about."""
        return len(self.header) + len(self.raw) + self.bits / 8

    @classmethod
    def zeros(cls) -> Plan:
        """A group of level 0 alone."""
        return cls(bytes([ZERO]), [], b"", 0.0)


def plan(group: Group, edges: Edges, packed: bool) -> Plan:
    """Choose the cheapest way to code a group, by exact bytes of headers and near-exact bits of symbols.

    Parameters
    ----------
    group : Group
        Levels of one large tensor, or of several small ones.
    edges : ndarray of float64
        Cell edges of the format's magnitudes.
    packed : bool
        True for rANS: symbols may be packed, and sparse groups coded by their gaps. False for Huffman, whose code
        words stand for single levels.
    """
    used = np.flatnonzero(group.counts)
    reach = int(np.max(np.abs(used - group.zero), initial=0))
    if not reach:
        return Plan.zeros()
    counts = group.counts[group.zero - reach : group.zero + reach + 1]
    nonzero = 1 - counts[reach] / counts.sum()
    if packed and nonzero < _NEVER_DENSE:
        return min(_listed(group, reach), _sparse(group, counts, reach), key=lambda plan: plan.size)
    table = _dense_table(counts, edges[:reach], group)
    factor = _best_factor(table, counts) if packed else 1
    if packed and nonzero < _SPARSE_BELOW:
        candidate = _sparse(group, counts, reach)
        if candidate.size < _packed_size(table, counts, factor) * _SPARSE_PATIENCE:
            return candidate
    return _dense(group, table, reach, factor)


def _dense(group: Group, table: Table, reach: int, factor: int) -> Plan:
    header = Writer([table.header[0] | (factor - 1) << _FACTOR_SHIFT])
    header.varint(reach)
    header += table.header[1:]
    symbols = group.symbols if reach == group.zero else group.symbols - np.uint8(group.zero - reach)
    packed = pack(symbols, 2 * reach + 1, factor, int(np.argmax(table.frequencies)))
    return Plan(bytes(header), [Sequence(packed, packed_frequencies(table.frequencies, factor))], b"", table.bits)


def _dense_table(counts: Counts, edges: Edges, group: Group) -> Table:
    """Cheapest table for all levels; its header begins with the kind."""
    tables = {COUNTED: counted(counts), FITTED: fitted(counts, edges, *group.fit)}
    if 0 < counts[edges.size] < counts.sum():
        tables[FITTED_ZERO_SHARE] = fitted_zero_share(counts, edges, *group.nonzero_fit)
    return cheapest(table._replace(header=bytes([kind]) + table.header) for kind, table in tables.items())


def _best_factor(table: Table, counts: Counts) -> int:
    """The most symbols to a byte that cost next to nothing."""
    largest = pack_factor(counts.size)
    sizes = {factor: _packed_size(table, counts, factor) for factor in range(largest, 0, -1)}
    return next(factor for factor, size in sizes.items() if size <= min(sizes.values()) * _PACKING_LOSS)


def _packed_size(table: Table, counts: Counts, factor: int) -> float:
    """Bytes of a dense group once packed: rare packed symbols cost more than the product of their parts says."""
    if factor == 1:
        return table.size
    share = counts / counts.sum()
    joint = share
    for _ in range(factor - 1):
        joint = (share[:, None] * joint[None, :]).reshape(-1)
    frequencies = packed_frequencies(table.frequencies, factor)
    used = joint > 0
    bits = -float(np.sum(joint[used] * np.log2(frequencies[used] / frequencies.sum())))
    return len(table.header) + bits / 8 * float(counts.sum()) / factor


def _nonzero(group: Group, reach: int) -> tuple[npt.NDArray[np.int64], Bytes]:
    """Positions of what is not level 0, and their levels: -m .. -1 as 0 .. m-1, and 1 .. m as m .. 2m-1."""
    positions = np.flatnonzero(group.symbols != group.zero)
    levels = group.symbols[positions].astype(np.int16) - group.zero
    return positions, (levels + reach - (levels > 0)).astype(np.uint8)


def _place(blocks: Iterable[npt.NDArray[np.int64]], levels: Bytes, entries: int, zero: int, reach: int) -> Bytes:
    """Reverse `_nonzero`; positions come in blocks."""
    out = np.full(entries, zero, np.uint8)
    symbols = np.delete(np.arange(zero - reach, zero + reach + 1), reach).astype(np.uint8)
    start = 0
    for positions in blocks:
        out[positions] = symbols[levels[start : start + positions.size]]
        start += positions.size
    return out


def _sparse(group: Group, counts: Counts, reach: int) -> Plan:
    positions, levels = _nonzero(group, reach)
    gaps = sparse.gaps_of(positions)
    tokens = sparse.token_table(gaps)
    values = counted(np.delete(counts, reach))
    header = Writer([SPARSE])
    header.varint(reach)
    header.varint(positions.size)
    header.varint(gaps.tokens.size - positions.size)
    header += tokens.header + values.header
    factor = pack_factor(2 * reach)
    packed = pack(levels, 2 * reach, factor, int(np.argmax(values.frequencies)))
    sequences = [
        Sequence(gaps.tokens, tokens.frequencies),
        Sequence(packed, packed_frequencies(values.frequencies, factor)),
    ]
    return Plan(bytes(header), sequences, sparse.write_low(gaps), tokens.bits + values.bits)


def _listed(group: Group, reach: int) -> Plan:
    """A handful of levels that are not 0: a table would be larger than the list."""
    positions, levels = _nonzero(group, reach)
    widths = _list_widths(group.symbols.size, reach)
    if positions.size > _MAX_LISTED:
        return Plan(b"", [], b"", math.inf)
    header = Writer([LISTED])
    header.varint(reach)
    header.varint(positions.size)
    fields = [
        field
        for position, level in zip(positions.tolist(), levels.tolist(), strict=True)
        for field in ((position, widths[0]), (level, widths[1]))
    ]
    return Plan(bytes(header), [], write_bits(fields), 0.0)


def _list_widths(entries: int, reach: int) -> tuple[int, int]:
    """Bits of a position, and of a level that is not 0."""
    return (entries - 1).bit_length(), (2 * reach - 1).bit_length()


class Model(Protocol):
    """How a received group is coded: what to decode, and how to put it together."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Symbols of each sequence."""
        ...

    @property
    def tables(self) -> tuple[Frequencies, ...]:
        """Frequencies of each sequence."""
        ...

    @property
    def raw_size(self) -> int:
        """Bytes that are not entropy coded."""
        ...

    def symbols(self, sequences: list[Bytes], raw: memoryview) -> Bytes:
        """Levels as symbols, shape (entries,), `zero` being level 0."""
        ...


@dataclass(frozen=True)
class ZeroModel:
    """All entries are level 0."""

    entries: int
    zero: int
    lengths: tuple[int, ...] = ()
    tables: tuple[Frequencies, ...] = ()
    raw_size: int = 0

    def symbols(self, sequences: list[Bytes], raw: memoryview) -> Bytes:
        """All zeros."""
        return np.full(self.entries, self.zero, np.uint8)


@dataclass(frozen=True)
class DenseModel:
    """Every entry is coded."""

    entries: int
    zero: int
    reach: int
    factor: int
    lengths: tuple[int, ...]
    tables: tuple[Frequencies, ...]
    raw_size: int = 0

    def symbols(self, sequences: list[Bytes], raw: memoryview) -> Bytes:
        """Unpack, and move level 0 to its place."""
        symbols = unpack(sequences[0], 2 * self.reach + 1, self.factor, self.entries)
        return symbols if self.reach == self.zero else symbols + np.uint8(self.zero - self.reach)


@dataclass(frozen=True)
class SparseModel:
    """Only what is not level 0 is coded."""

    entries: int
    zero: int
    reach: int
    factor: int
    levels: int
    shift: int
    lengths: tuple[int, ...]
    tables: tuple[Frequencies, ...]
    raw_size: int

    def symbols(self, sequences: list[Bytes], raw: memoryview) -> Bytes:
        """Place the levels among zeros."""
        tokens, packed = sequences
        low = sparse.read_low(raw, self.levels, self.shift)
        positions = sparse.positions_of(sparse.Gaps(tokens, low, self.shift), self.entries)
        levels = unpack(packed, 2 * self.reach, self.factor, self.levels)
        return _place(positions, levels, self.entries, self.zero, self.reach)


@dataclass(frozen=True)
class ListedModel:
    """The few entries that are not level 0 are listed."""

    entries: int
    zero: int
    reach: int
    levels: int
    lengths: tuple[int, ...] = ()
    tables: tuple[Frequencies, ...] = ()

    @property
    def raw_size(self) -> int:
        """Bytes of the list."""
        return -(-self.levels * sum(_list_widths(self.entries, self.reach)) // 8)

    def symbols(self, sequences: list[Bytes], raw: memoryview) -> Bytes:
        """Place the levels among zeros."""
        bits = BitReader(Reader(raw, "list of levels"))
        widths = _list_widths(self.entries, self.reach)
        fields = np.array([[bits.bits(width) for width in widths] for _ in range(self.levels)])
        positions, levels = fields.T
        if positions[-1] >= self.entries or np.any(np.diff(positions) <= 0) or levels.max() >= 2 * self.reach:
            raise FrameError("A list of levels is out of order, or reaches beyond its tensor.")
        return _place([positions], levels.astype(np.uint8), self.entries, self.zero, self.reach)


def read_model(reader: Reader, entries: int, zero: int, edges: Edges, packed: bool) -> Model:
    """Read the header that `plan` wrote.

    Parameters
    ----------
    reader : Reader
        At the group's header.
    entries : int
        Entries of the group, from the tensors' shapes.
    zero : int
        Symbol of level 0 in the frame's format.
    edges, packed
        As for `plan`.
    """
    byte = reader.u8()
    kind, factor = byte & ((1 << _FACTOR_SHIFT) - 1), (byte >> _FACTOR_SHIFT) + 1
    if kind == ZERO:
        return ZeroModel(entries, zero)
    if kind > LISTED or (kind in (SPARSE, LISTED) and not packed):
        raise FrameError(f"A group of tensors is coded in a way (number {kind}) that this coder doesn't have.")
    reach = reader.varint(zero)
    if not reach:
        raise FrameError("A group of tensors claims to have no level but 0.")
    if kind == SPARSE:
        return _read_sparse(reader, entries, zero, reach)
    if kind == LISTED:
        levels = reader.varint(min(entries, _MAX_LISTED))
        if not levels:
            raise FrameError("A list of levels is empty.")
        return ListedModel(entries, zero, reach, levels)
    alphabet = 2 * reach + 1
    if kind == COUNTED:
        table = read_counted(reader, alphabet)
    else:
        table = read_fitted(reader, edges[:reach], zero_share=kind == FITTED_ZERO_SHARE)
    if factor > (pack_factor(alphabet) if packed else 1):
        raise FrameError(f"A group of tensors claims {factor} symbols of {alphabet} in a byte.")
    return DenseModel(entries, zero, reach, factor, (-(-entries // factor),), (packed_frequencies(table, factor),))


def _read_sparse(reader: Reader, entries: int, zero: int, reach: int) -> SparseModel:
    levels = reader.varint(int(entries * _SPARSE_BELOW))
    escapes = reader.varint(entries // sparse.ESCAPE)
    if not levels:
        raise FrameError("A sparse group of tensors claims to have no level but 0.")
    shift, token_frequencies = sparse.read_token_table(reader)
    factor = pack_factor(2 * reach)
    values = packed_frequencies(read_counted(reader, 2 * reach), factor)
    return SparseModel(
        entries,
        zero,
        reach,
        factor,
        levels,
        shift,
        lengths=(levels + escapes, -(-levels // factor)),
        tables=(token_frequencies, values),
        raw_size=sparse.low_size(levels, shift),
    )
