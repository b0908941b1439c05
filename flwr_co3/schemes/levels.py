"""Integers of any size to bytes and back, with the coder that CO3's own levels have.

Magnitudes below 64 are their own token. Above, a token names the octave and its half, and the bits below follow as
they are: within half an octave they are near to uniform. So 127 tokens and their signs reach 2^38.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.compress import (
    MAX_MAGNITUDE,
    Group,
    Model,
    lowest_version,
    plan_all,
    read_model,
    read_stream,
    write_stream,
)
from flwr_co3.compress.tables import fits_of
from flwr_co3.moments import Source, measure
from flwr_co3.wire import Reader

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.integer[Any]]

#: Sequences of so many levels or fewer share one model.
POOLED = 1024

_DIRECT, _OCTAVE = 64, 6  # magnitudes below 2^6 are tokens
_LARGEST = (1 << 38) - 1
_EDGES = np.arange(MAX_MAGNITUDE, dtype=np.float64) + np.float64(0.5)
_EDGES.setflags(write=False)


class Coded(NamedTuple):
    """Levels as they go into a frame."""

    models: bytes
    low: bytes  # bits that are not entropy coded
    stream: list[bytes]
    version: int  # the lowest one of the frame that knows these models


def write_levels(levels: Sequence[Integers]) -> Coded:
    """Code sequences of integers of magnitudes below 2^38; larger ones end there."""
    tokens, low = [], []
    for sequence in levels:
        mine, rest, widths = _tokens(sequence)
        tokens.append(mine)
        low.append((rest, widths))
    groups = (_group(np.concatenate([tokens[i] for i in group])) for group in _groups([t.size for t in tokens]))
    plans = plan_all(groups, _EDGES, "rans")
    return Coded(
        b"".join(p.header for p in plans), _planes(*map(np.concatenate, zip(*low, strict=True))) if low else b"",
        write_stream(plans, "rans"), lowest_version(plans),
    )  # fmt: skip


def ideal_bits(levels: Integers) -> float:
    """Bits of an ideal coder that knows how often each token occurs, with the low bits."""
    tokens, _, widths = _tokens(levels)
    counts = np.unique(tokens, return_counts=True)[1]
    return float(-np.sum(counts * np.log2(counts / max(levels.size, 1)))) + float(widths.sum())


def read_models(reader: Reader, lengths: Sequence[int], *, version: int) -> list[Model]:
    """Read how sequences of these lengths are coded, in a frame of this version."""
    sizes = (sum(lengths[i] for i in group) for group in _groups(lengths))
    return [read_model(reader, size, MAX_MAGNITUDE, _EDGES, True, version=version) for size in sizes]


def read_levels(stream: memoryview, low: memoryview, models: list[Model], lengths: Sequence[int]) -> list[Integers]:
    """Decode sequences of these lengths.

    Raises
    ------
    FrameError
        If the bytes are not what the models need.
    """
    found: list[Integers] = [np.empty(0, np.int8) for _ in lengths]
    for group, decoded in zip(_groups(lengths), read_stream(stream, models, "rans"), strict=True):
        tokens = decoded.symbols()
        tokens -= np.uint8(MAX_MAGNITUDE)
        ends = itertools.accumulate(lengths[i] for i in group)
        for i, end in zip(group, ends, strict=True):
            found[i] = tokens[end - lengths[i] : end].view(np.int8)
    return _widen(found, low)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Sequences that share a model: each long one by itself, all short ones at the end."""
    short = [i for i, length in enumerate(lengths) if 0 < length <= POOLED]
    return [[i] for i, length in enumerate(lengths) if length > POOLED] + ([short] if short else [])


def _tokens(levels: Integers) -> tuple[Bytes, Integers, Integers]:
    """Return a symbol for each level and, for those that need them, the bits that a token leaves open and how many."""
    if not levels.size or max(int(levels.max()), -int(levels.min())) < _DIRECT:
        nothing = np.empty(0, np.int64)
        return (levels.astype(np.int16) + MAX_MAGNITUDE).astype(np.uint8), nothing, nothing
    magnitude = np.minimum(np.abs(levels.astype(np.int64)), _LARGEST)
    large = np.flatnonzero(magnitude >= _DIRECT)
    values = magnitude[large]
    octave = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    half = values >> (octave - 1) & 1
    magnitude[large] = _DIRECT + 2 * (octave - _OCTAVE) + half
    symbols = np.where(levels < 0, -magnitude, magnitude) + MAX_MAGNITUDE
    return symbols.astype(np.uint8), values & ((1 << (octave - 1)) - 1), octave - 1


def _group(symbols: Bytes) -> Group:
    counts = np.bincount(symbols, minlength=2 * MAX_MAGNITUDE + 1)
    values = symbols.astype(np.float32) - np.float32(MAX_MAGNITUDE)
    moments = measure([Source(values, None)], 0.0)
    fits = fits_of(moments)[0], fits_of(moments.without_zeros())[0]
    return Group(symbols, counts, MAX_MAGNITUDE, *fits)


def _planes(values: Integers, widths: Integers) -> bytes:
    """Bits of values, bit plane by bit plane from the lowest, each with the values that reach it."""
    return b"".join(
        np.packbits((values[widths > bit] >> bit & 1).astype(np.uint8)).tobytes()
        for bit in range(int(widths.max(initial=0)))
    )


def _widen(tokens: list[Integers], low: memoryview) -> list[Integers]:
    """Put the low bits back."""
    reader = Reader(low, "low bits of levels")
    large = [np.flatnonzero((t >= _DIRECT) | (t <= -_DIRECT)) for t in tokens]
    kinds = np.concatenate([np.abs(t[at].astype(np.int64)) - _DIRECT for t, at in zip(tokens, large, strict=True)] or
                           [np.empty(0, np.int64)])  # fmt: skip
    widths = kinds // 2 + _OCTAVE - 1
    values = (2 + kinds % 2) << widths
    for bit in range(int(widths.max(initial=0))):
        reached = np.flatnonzero(widths > bit)
        plane = np.frombuffer(reader.take(-(-reached.size // 8)), np.uint8)
        values[reached] |= np.unpackbits(plane, count=reached.size).astype(np.int64) << bit
    reader.finish()
    start = 0
    for i, at in enumerate(large):
        if at.size:
            wide = tokens[i].astype(np.int64)
            wide[at] = np.sign(wide[at]) * values[start : start + at.size]
            tokens[i], start = wide, start + at.size
    return tokens
