"""Tensors that share a model: how their levels become sequences of symbols, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.compress import lists, sparse
from flwr_co3.compress.classes import Classes, Grid, classify
from flwr_co3.compress.frequencies import TOTAL, Frequencies, cost_of_bytes, log2_table
from flwr_co3.compress.levels import DenseLevels, FewLevels, Levels, SparseLevels
from flwr_co3.compress.packing import Packing, Sequence, pack_factor, packed_frequencies
from flwr_co3.compress.tables import (
    Counts,
    Fit,
    Table,
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

ZERO, FITTED, FITTED_ZERO_SHARE, COUNTED, SPARSE, LISTED, CLASSED, JOINED, GAPS_LISTED = range(9)
_SINCE = {JOINED: 3, GAPS_LISTED: 4}  # versions of the frame
MAX_MAGNITUDE = 127  # +-127 and 0 are 255 symbols

MAX_LISTED = 512  # by gaps
_MAX_BY_POSITION = 32
_OFTEN_LISTED = 64  # with more levels in a group, its list alone is seldom smaller than a table
_MAX_JOINED = 1024  # with more levels, what the low bits' planes fill up is next to nothing
_FACTOR_SHIFT = 4  # of the kind byte: packing factor less one
_PACKING_LOSS = 1000  # fewer symbols are worth one byte more in so many
_KIND_AND_REACH = 2  # bytes that the header of a dense group has besides its table's
_SHARE_BITS = 20  # of the shares that a packed group's cost is estimated from

# A sparse tensor's positions are worth measuring below this share of levels that are not zero.
_SPARSE_BELOW = 0.25
# Where its zeros stand together it is worth measuring up to here, by version 3 of the frame, and takes more time: it is
# chosen where it saves one byte in so many.
_CLUSTERED_BELOW, _CLUSTERED_GAIN = 0.8, 50
_SAMPLED_BLOCKS, _SAMPLED_BLOCK = 8, 1024
_CORRELATED = 0.06  # of being zero, between neighbours: five standard deviations of a sample of independent ones
_NEVER_DENSE = 1 / 32  # here a symbol for every entry would waste time
_SPARSE_PATIENCE = 200  # likewise: one byte more in so many


class Group(NamedTuple):
    """What is to be coded."""

    symbols: Bytes  # shape (n,), `zero` is level 0
    counts: Counts  # of each symbol
    zero: int
    fit: Fit  # of the values that were rounded, in units of the levels
    nonzero_fit: Fit  # the same without exact zeros
    grid: Grid | None = None  # of one tensor that has rows and columns


class Plan(NamedTuple):
    """A group in the form that goes on the wire."""

    header: bytes
    sequences: list[Sequence]
    raw: bytes  # bits that no coder can shorten
    cost: int  # of the sequences, about, in units of 2^-16 bits
    version: int = 1  # the lowest one of the frame that knows this form

    @property
    def size(self) -> int:
        """Cost in all, about."""
        return cost_of_bytes(len(self.header) + len(self.raw)) + self.cost

    @property
    def is_zero(self) -> bool:
        """Whether all entries are level 0."""
        return self.header[0] == ZERO

    @classmethod
    def zeros(cls) -> Plan:
        """A group of level 0 alone."""
        return cls(bytes([ZERO]), [], b"", 0)


def lowest_version(plans: Iterable[Plan]) -> int:
    """The lowest version of the frame that knows the forms of all these groups."""
    return max((plan.version for plan in plans), default=1)


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
        words stand for single levels, and for rows and columns in classes.
    """
    plain = _plan(group, edges, packed)
    if not packed or group.grid is None or plain.header[0] in (ZERO, LISTED, GAPS_LISTED):
        return plain
    classes = classify(group.symbols, group.grid, group.zero)
    if classes is None:
        return plain
    classed = _classed(group, edges, classes)
    return classed if classed.size < plain.size else plain


def _classed(group: Group, edges: Edges, classes: Classes) -> Plan:
    """Each pair of a row class and a column class is a group of its own."""
    parts, counts = classes.sort(group.symbols)
    levels = group.counts.size
    plans = [
        _plan(group._replace(symbols=part, counts=count[:levels]), edges, packed=True, newest=False)
        for part, count in zip(parts, counts, strict=True)
        if part.size
    ]
    return Plan(
        bytes([CLASSED]) + classes.write() + b"".join(p.header for p in plans),
        [sequence for p in plans for sequence in p.sequences],
        b"".join(p.raw for p in plans),
        sum(p.cost for p in plans),
        version=2,
    )


def _plan(group: Group, edges: Edges, packed: bool, newest: bool = True) -> Plan:
    """Choose among the ways that see no rows and columns, with those that versions 3 and 4 brought or without."""
    each, zero = group.counts.tolist(), group.zero  # short, and there may be hundreds: numpy would take longer
    reach = _reach(each, zero)
    if not reach:
        return Plan.zeros()
    total = sum(each)
    nonzero = total - each[zero]
    coded = _coded(group, edges[:reach], packed, newest, nonzero, total)
    if not packed or nonzero > (_OFTEN_LISTED if newest else _MAX_BY_POSITION):
        return coded
    listed = _listed(group, reach, newest)
    return listed if listed.size <= coded.size else coded


def _reach(counts: list[int], zero: int) -> int:
    """The largest magnitude that occurs; 0 if all is level 0."""
    return next((reach for reach in range(zero, 0, -1) if counts[zero - reach] or counts[zero + reach]), 0)


def _coded(group: Group, edges: Edges, packed: bool, newest: bool, nonzero: int, total: int) -> Plan:
    """Choose among the ways that have tables; there are as many edges as magnitudes that occur."""
    reach = len(edges)
    counts = group.counts[group.zero - reach : group.zero + reach + 1]
    if packed and nonzero < _NEVER_DENSE * total:
        return _sparse(group, counts, reach, newest)
    dense = _dense(group, counts, edges, packed)
    if packed and nonzero < _SPARSE_BELOW * total:
        candidate = _sparse(group, counts, reach, newest)
        size = dense.size - cost_of_bytes(_KIND_AND_REACH)
        if candidate.size < size + size // _SPARSE_PATIENCE:
            return candidate
    elif packed and newest and nonzero < _CLUSTERED_BELOW * total and _is_clustered(group):
        candidate = _sparse(group, counts, reach, newest)
        if candidate.size < dense.size - dense.size // _CLUSTERED_GAIN:
            return candidate
    return dense


def _is_clustered(group: Group) -> bool:
    """Whether zeros stand beside zeros more often than by chance, in a sample: gaps are then far from geometric."""
    length = min(_SAMPLED_BLOCK, group.symbols.size)
    if length < 2:
        return False
    blocks = group.symbols.size // length
    stride = max(blocks // _SAMPLED_BLOCKS, 1)
    zeros, pairs = _zero_pairs(group, length, stride)
    sampled = -(-blocks // stride)
    share = zeros / (sampled * length)
    covariance = pairs / (sampled * (length - 1)) - share**2
    return covariance > _CORRELATED * share * (1 - share)


def _zero_pairs(group: Group, length: int, stride: int) -> tuple[int, int]:
    """Zeros, and zeros that follow one, in each of so many blocks of this length."""
    if loops := kernels.compiled():
        zeros, pairs = loops.zero_pairs(group.symbols, group.zero, length, stride)
        return zeros, pairs
    blocks = group.symbols[: group.symbols.size // length * length].reshape(-1, length)
    sample = blocks[::stride] == group.zero
    return int(np.count_nonzero(sample)), int(np.count_nonzero(sample[:, 1:] & sample[:, :-1]))


class _Dense(NamedTuple):
    """A table for all levels, and how many symbols to pack into one."""

    kind: int
    header: bytes  # of the table
    factor: int
    frequencies: Frequencies
    packed: Frequencies
    cost: int  # of the packed symbols

    @property
    def size(self) -> int:
        """Cost in all."""
        return cost_of_bytes(len(self.header)) + self.cost


def _dense(group: Group, counts: Counts, edges: Edges, packed: bool) -> Plan:
    """Code every entry."""
    if loops := kernels.compiled():
        header, factor, filler, joint, cost = loops.dense_group(
            counts, edges, group.fit.header, group.nonzero_fit.header, packed, log2_table()
        )
        frequencies = np.frombuffer(joint, np.int64)
    else:
        table = _dense_table(counts, edges, group, packed)
        factor, frequencies, cost = table.factor, table.packed, table.cost
        header = bytes([table.kind | (factor - 1) << _FACTOR_SHIFT, edges.size]) + table.header
        filler = int(np.argmax(table.frequencies))
    packing = Packing(factor, counts.size, group.zero - edges.size, filler)
    return Plan(header, [Sequence(group.symbols, frequencies, packing)], b"", cost)


def _dense_table(counts: Counts, edges: Edges, group: Group, packed: bool) -> _Dense:
    """Cheapest table for all levels, and the most symbols to a byte that cost next to nothing."""
    tables = {COUNTED: counted(counts), FITTED: fitted(counts, edges, group.fit)}
    if 0 < counts[edges.size] < counts.sum():
        tables[FITTED_ZERO_SHARE] = fitted_zero_share(counts, edges, group.nonzero_fit)
    kind, table = min(tables.items(), key=lambda item: item[1].size)
    candidates = {
        factor: _packed(kind, table, counts, factor)
        for factor in range(pack_factor(counts.size) if packed else 1, 0, -1)
    }
    least = min(candidate.size for candidate in candidates.values())
    return next(candidate for candidate in candidates.values() if candidate.size <= least + least // _PACKING_LOSS)


def _packed(kind: int, table: Table, counts: Counts, factor: int) -> _Dense:
    """A dense group packed: rare packed symbols cost more than the product of their parts says."""
    frequencies = packed_frequencies(table.frequencies, factor)
    cost = table.cost if factor == 1 else _packed_cost(counts, frequencies, factor)
    return _Dense(kind, table.header, factor, table.frequencies, frequencies, cost)


def _packed_cost(counts: Counts, frequencies: Frequencies, factor: int) -> int:
    total = int(counts.sum())
    share = (counts << _SHARE_BITS) // total
    joint = share
    for _ in range(factor - 1):
        joint = (share[:, None] * joint[None, :] >> _SHARE_BITS).reshape(-1)
    costs = log2_table()
    per_symbol = int(np.sum(joint * (int(costs[TOTAL]) - costs[frequencies].astype(np.int64))))
    return per_symbol * -(-total // factor) >> _SHARE_BITS


def _sparse(group: Group, counts: Counts, reach: int, newest: bool) -> Plan:
    levels = int(counts.sum() - counts[reach])
    gaps, tokens = sparse.coded(group.symbols, group.zero, reach, levels)
    values = counted(np.concatenate([counts[:reach], counts[reach + 1 :]]))
    kind, low = SPARSE, gaps.low
    if newest and levels <= _MAX_JOINED and sparse.joined_size(levels, gaps.shift) < len(low):
        kind, low = JOINED, sparse.joined(low, levels, gaps.shift)
    header = Writer([kind])
    header.varint(reach)
    header.varint(levels)
    header.varint(gaps.tokens.size - levels)
    header += tokens.header + values.header
    packing = Packing(pack_factor(2 * reach), 2 * reach, 0, int(np.argmax(values.frequencies)))
    sequences = [
        Sequence(gaps.tokens, tokens.frequencies),
        Sequence(gaps.levels, packed_frequencies(values.frequencies, packing.factor), packing),
    ]
    version = 3 if kind == JOINED or levels > _most_levels(group.symbols.size) else 1
    return Plan(bytes(header), sequences, low, tokens.cost + values.cost, version)


def _most_levels(entries: int) -> int:
    """Levels that are not 0 of a sparse group, before version 3."""
    return int(entries * _SPARSE_BELOW)


def without_sequences(group: Group) -> Plan:
    """List a group of at most `MAX_LISTED` levels that are not 0, at least one."""
    return _listed(group, _reach(group.counts.tolist(), group.zero), newest=True)


def _listed(group: Group, reach: int, newest: bool) -> Plan:
    """A handful of levels that are not 0: a table would be larger than the list."""
    positions, levels = sparse.nonzero(group.symbols, group.zero, reach)
    head = Writer()
    head.varint(reach)
    head.varint(positions.size)
    widths = _list_widths(group.symbols.size, reach)
    if newest:
        signed = group.symbols[positions].astype(np.int64) - group.zero
        gaps = lists.write(lists.Listed(positions, signed), group.symbols.size, reach)
        if positions.size > _MAX_BY_POSITION or 8 * len(gaps) < positions.size * sum(widths):
            return Plan(bytes([GAPS_LISTED]) + head + gaps, [], b"", 0, version=4)
    fields = [
        field
        for position, level in zip(positions.tolist(), levels.tolist(), strict=True)
        for field in ((position, widths[0]), (level, widths[1]))
    ]
    return Plan(bytes([LISTED]) + head, [], write_bits(fields), 0)


def _list_widths(entries: int, reach: int) -> tuple[int, int]:
    """Bits of a position, and of a level that is not 0."""
    return (entries - 1).bit_length(), (2 * reach - 1).bit_length()


# How a received group is coded. A model says what to decode: the `lengths` and `tables` of its sequences, and
# `raw_size`, the bytes that are not entropy coded; and what that then is: `levels`.


class ZeroModel(NamedTuple):
    """All entries are level 0."""

    entries: int
    zero: int
    lengths: tuple[int, ...] = ()
    tables: tuple[Frequencies, ...] = ()
    raw_size: int = 0

    def levels(self, sequences: list[Bytes], raw: memoryview) -> Levels:
        """All zeros."""
        return FewLevels(self.entries, self.zero, np.empty(0, np.int64), np.empty(0, np.uint8))


class DenseModel(NamedTuple):
    """Every entry is coded."""

    entries: int
    zero: int
    reach: int
    factor: int
    lengths: tuple[int, ...]
    tables: tuple[Frequencies, ...]
    raw_size: int = 0

    def levels(self, sequences: list[Bytes], raw: memoryview) -> Levels:
        """Every level, packed."""
        return DenseLevels(self.entries, self.zero, self.reach, self.factor, sequences[0])


class SparseModel(NamedTuple):
    """Only what is not level 0 is coded."""

    entries: int
    zero: int
    reach: int
    factor: int
    nonzero: int
    shift: int
    joined: bool  # whether the low bits are one run, else planes
    lengths: tuple[int, ...]
    tables: tuple[Frequencies, ...]

    @property
    def raw_size(self) -> int:
        """Bytes of the low bits."""
        return (sparse.joined_size if self.joined else sparse.low_size)(self.nonzero, self.shift)

    def levels(self, sequences: list[Bytes], raw: memoryview) -> Levels:
        """The levels and the gaps between them; raises FrameError if these don't fit."""
        tokens, packed = sequences
        low = sparse.as_planes(raw, self.nonzero, self.shift) if self.joined else raw
        gaps = sparse.PackedGaps(tokens, low, self.shift, packed, self.factor, 2 * self.reach, self.nonzero)
        sparse.walk(gaps, self.entries)
        return SparseLevels(self.entries, self.zero, self.reach, gaps)


class ListedModel(NamedTuple):
    """The few entries that are not level 0 are listed."""

    entries: int
    zero: int
    reach: int
    nonzero: int
    lengths: tuple[int, ...] = ()
    tables: tuple[Frequencies, ...] = ()

    @property
    def raw_size(self) -> int:
        """Bytes of the list."""
        return -(-self.nonzero * sum(_list_widths(self.entries, self.reach)) // 8)

    def levels(self, sequences: list[Bytes], raw: memoryview) -> Levels:
        """The positions, and the symbols there; raises FrameError if these don't fit."""
        bits = BitReader(Reader(raw, "list of levels"))
        widths = _list_widths(self.entries, self.reach)
        fields = np.array([[bits.bits(width) for width in widths] for _ in range(self.nonzero)])
        positions, levels = fields.T
        if positions[-1] >= self.entries or np.any(np.diff(positions) <= 0) or levels.max() >= 2 * self.reach:
            raise FrameError("A list of levels is out of order, or reaches beyond its tensor.")
        return FewLevels(self.entries, self.zero, positions, sparse.symbols_of(self.zero, self.reach)[levels])


class GapsListedModel(NamedTuple):
    """The same, listed in the header already."""

    entries: int
    zero: int
    listed: lists.Listed
    lengths: tuple[int, ...] = ()
    tables: tuple[Frequencies, ...] = ()
    raw_size: int = 0

    def levels(self, sequences: list[Bytes], raw: memoryview) -> Levels:
        """The positions, and the symbols there."""
        symbols = (self.listed.levels + self.zero).astype(np.uint8)
        return FewLevels(self.entries, self.zero, self.listed.positions, symbols)


class ClassedModel(NamedTuple):
    """Every pair of a row class and a column class has a model of its own; None where nothing is in it."""

    entries: int
    zero: int
    classes: Classes
    models: list[PlainModel | None]
    lengths: tuple[int, ...]
    tables: tuple[Frequencies, ...]
    raw_size: int

    def levels(self, sequences: list[Bytes], raw: memoryview) -> Levels:
        """The levels of all classes, put back in order; raises FrameError if those of one don't fit."""
        parts, start, at = [], 0, 0
        for model in self.models:
            if model is None:
                parts.append(np.empty(0, np.uint8))
                continue
            own = sequences[start : start + len(model.lengths)]
            parts.append(model.levels(own, raw[at : at + model.raw_size]).symbols())
            start, at = start + len(own), at + model.raw_size
        return DenseLevels(self.entries, self.zero, self.zero, 1, self.classes.merge(parts))


PlainModel: TypeAlias = ZeroModel | DenseModel | SparseModel | ListedModel | GapsListedModel
Model: TypeAlias = PlainModel | ClassedModel


def read_model(
    reader: Reader,
    entries: int,
    zero: int,
    edges: Edges,
    packed: bool,
    grid: Grid | None = None,
    *,
    version: int,
) -> Model:
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
    grid : Grid, optional
        Rows and columns of the group, if it may have classes of them.
    version : int
        The frame's.
    """
    byte = reader.u8()
    if byte == CLASSED and packed and grid is not None:
        return _read_classed(reader, entries, zero, edges, grid)
    return _read_plain(reader, byte, entries, zero, edges, packed, version)


def _read_classed(reader: Reader, entries: int, zero: int, edges: Edges, grid: Grid) -> ClassedModel:
    classes = Classes.read(reader, grid)
    models = [
        _read_plain(reader, reader.u8(), size, zero, edges, packed=True, version=2) if size else None
        for size in classes.sizes
    ]
    used = [model for model in models if model is not None]
    return ClassedModel(
        entries,
        zero,
        classes,
        models,
        tuple(length for model in used for length in model.lengths),
        tuple(table for model in used for table in model.tables),
        sum(model.raw_size for model in used),
    )


def _read_plain(
    reader: Reader, byte: int, entries: int, zero: int, edges: Edges, packed: bool, version: int
) -> PlainModel:
    kind, factor = byte & ((1 << _FACTOR_SHIFT) - 1), (byte >> _FACTOR_SHIFT) + 1
    if kind == ZERO:
        return ZeroModel(entries, zero)
    known = kind <= LISTED or version >= _SINCE.get(kind, math.inf)
    if not known or (kind in (SPARSE, LISTED, *_SINCE) and not packed):
        raise FrameError(f"A group of tensors is coded in a way (number {kind}) that this coder doesn't have.")
    reach = reader.varint(zero)
    if not reach:
        raise FrameError("A group of tensors claims to have no level but 0.")
    if kind in (SPARSE, JOINED):
        most = _MAX_JOINED if kind == JOINED else entries if version > 2 else _most_levels(entries)
        return _read_sparse(reader, entries, zero, reach, most, kind == JOINED)
    if kind in (LISTED, GAPS_LISTED):
        levels = reader.varint(min(entries, MAX_LISTED if kind == GAPS_LISTED else _MAX_BY_POSITION))
        if not levels:
            raise FrameError("A list of levels is empty.")
        if kind == GAPS_LISTED:
            return GapsListedModel(entries, zero, lists.read(reader, levels, entries, reach))
        return ListedModel(entries, zero, reach, levels)
    alphabet = 2 * reach + 1
    if kind == COUNTED:
        table = read_counted(reader, alphabet)
    else:
        table = read_fitted(reader, edges[:reach], zero_share=kind == FITTED_ZERO_SHARE)
    if factor > (pack_factor(alphabet) if packed else 1):
        raise FrameError(f"A group of tensors claims {factor} symbols of {alphabet} in a byte.")
    return DenseModel(entries, zero, reach, factor, (-(-entries // factor),), (packed_frequencies(table, factor),))


def _read_sparse(reader: Reader, entries: int, zero: int, reach: int, most: int, joined: bool) -> SparseModel:
    levels = reader.varint(min(entries, most))
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
        joined,
        lengths=(levels + escapes, -(-levels // factor)),
        tables=(token_frequencies, values),
    )
