"""An update's way to levels: what is to be sent is rounded, counted, and what that lost is kept, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3 import kernels
from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.convert.quantizer import Cells
from flwr_co3.moments import BLOCK, Source, for_loops, of_float32, segments

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Scales and units with which float32 is enough; beyond, products may leave its range.
_NARROW = 2.0**-60, 2.0**60


class Converted(NamedTuple):
    """Tensors as levels, one after the other."""

    symbols: npt.NDArray[np.uint8]  # shape (entries of all,)
    starts: Integers  # where each tensor's symbols begin
    counts: Integers  # of each symbol in each tensor, shape (tensors, levels)
    squares: Floats  # squared error of each tensor, in its unit's square


def convert(
    fmt: FloatFormat,
    sources: Sequence[Source],
    decay: float,
    scales: Floats,
    units: Floats,
    *,
    cells: Cells | None = None,
    rng: np.random.Generator | None = None,
    kept: Sequence[Array | None] | None = None,
) -> Converted:
    """Round tensors, with their memories, to the levels of a format of at most 255; see `FloatFormat.quantize`.

    Parameters
    ----------
    fmt : FloatFormat
        The format.
    sources : sequence of Source
        What is to be sent; finite.
    decay : float
        What memories are multiplied by.
    scales : ndarray of float64, shape (tensors,)
        What each tensor is multiplied by before rounding.
    units : ndarray of float64, shape (tensors,)
        Units of the errors that are squared, such as the tensors' peaks: they keep the squares in range.
    cells : Cells, optional
        Where levels end and what they decode to, a row for each tensor; without it, they are the nearest, and decode to
        themselves.
    rng : numpy.random.Generator, optional
        With it, rounding is stochastic, whatever the edges are.
    kept : sequence of ndarray, optional
        Where the new memory of each tensor goes, contiguous: what was to be sent less what will be decoded. This may
        be the place of the old one.
    """
    sizes = [source.update.size for source in sources]
    starts = np.cumsum([0, *sizes], dtype=np.int64)
    symbols = np.empty(int(starts[-1]), np.uint8)
    out = Converted(symbols, starts[:-1], np.zeros((len(sizes), 2 * fmt.zero + 1), np.int64), np.zeros(len(sizes)))
    narrow = ((np.minimum(scales, units) > _NARROW[0]) & (np.maximum(scales, units) < _NARROW[1])).tolist()
    fast = [t for t in of_float32(sources) if narrow[t]] if kernels.compiled() else []
    if fast and rng is None:
        _convert_compiled(fmt, sources, decay, scales, units, cells, rng, kept, out, fast)
    compiled = set(fast)
    for t, source in enumerate(sources):
        if t not in compiled:
            new = None if kept is None else kept[t]
            _convert_in_numpy(fmt, source, decay, float(scales[t]), cells, rng, new, float(units[t]), out, t)
        elif rng is not None:  # random numbers are drawn tensor by tensor
            _convert_compiled(fmt, sources, decay, scales, units, cells, rng, kept, out, [t])
    return out


def magnitude_values(magnitudes: Floats, scales: npt.ArrayLike, dtype: str) -> Floats:
    """What each magnitude decodes to at scales of any shape, as far as a tensor's type goes: one more dimension.

    `magnitudes`, in units of the levels, may be one row for all scales or one for each.
    """
    with np.errstate(over="ignore"):
        ratios = magnitudes / np.asarray(scales, np.float64)[..., None]
    values: Floats = np.minimum(ratios, largest_number(dtype))
    return values


def largest_number(dtype: str) -> float:
    """The largest finite number of a floating-point type."""
    return (2 - 2**-7) * 2.0**127 if dtype == "bfloat16" else float(np.finfo(dtype).max)


def _convert_in_numpy(
    fmt: FloatFormat,
    source: Source,
    decay: float,
    scale: float,
    cells: Cells | None,
    rng: np.random.Generator | None,
    kept: Array | None,
    unit: float,
    out: Converted,
    t: int,
) -> None:
    values = symbol_values(fmt, cells, t, scale, source)
    edges = None if cells is None else cells.edges[t]
    start = int(out.starts[t])
    for first in range(0, source.update.size, BLOCK):
        block = source.block(decay, first, first + BLOCK)
        symbols = out.symbols[start + first : start + first + block.size]
        symbols[:] = fmt.quantize(block, scale, rng, edges)
        out.counts[t] += np.bincount(symbols, minlength=out.counts.shape[1])
        left = np.subtract(block, values[symbols], dtype=np.promote_types(block.dtype, np.float32))
        if kept is not None:
            kept.reshape(-1)[first : first + block.size] = left
        out.squares[t] += float(np.square(left.astype(np.float64) / unit).sum())


def _convert_compiled(
    fmt: FloatFormat,
    sources: Sequence[Source],
    decay: float,
    scales: Floats,
    units: Floats,
    cells: Cells | None,
    rng: np.random.Generator | None,
    kept: Sequence[Array | None] | None,
    out: Converted,
    which: list[int],
) -> None:
    loops = kernels.compiled()
    updates, errors = for_loops(sources, which)
    runs, first, tensors = segments([source.update.size for source in sources], which)
    counts = np.zeros((len(runs), out.counts.shape[1]), np.uint32)
    squares = np.zeros(len(runs))
    with np.errstate(over="ignore"):  # of those that are not converted here
        factors, inverse_units = scales.astype(np.float32), (1 / units).astype(np.float32)
    values = _float32_values(fmt, cells, sources, scales)
    edges = None if cells is None or rng is not None else _float32_edges(cells)
    layout = (fmt.mantissa, fmt.bias, fmt.zero)
    new = None if kept is None else list(kept)

    def work(part: range, nudge: npt.NDArray[np.int32] | None = None) -> None:
        run = slice(part.start, part.stop)
        loops.convert(
            *(updates, errors, decay, runs[run], factors, inverse_units, values, layout, nudge),
            *(out.symbols, out.starts, new, counts[run], squares[run], edges),
        )

    if rng is None:
        kernels.each(work, kernels.shares(len(runs), int(np.sum(runs[:, 2] - runs[:, 1]))))
    else:
        for k, (_, start, stop) in enumerate(runs.tolist()):
            draws = [fmt.draws(rng, min(BLOCK, stop - first)) for first in range(start, stop, BLOCK)]
            work(range(k, k + 1), np.concatenate(draws))
    out.counts[tensors] += np.add.reduceat(counts, first, dtype=np.int64)
    out.squares[tensors] += np.add.reduceat(squares, first)


def keep(
    fmt: FloatFormat,
    sources: Sequence[Source],
    decay: float,
    scales: Floats,
    converted: Converted,
    kept: Sequence[Array],
    *,
    cells: Cells | None = None,
) -> None:
    """Write the new memory of each tensor after it has been converted without that."""
    loops = kernels.compiled()
    fast = [] if loops is None else of_float32(sources)
    for t in sorted(set(range(len(sources))) - set(fast)):
        source, start = sources[t], int(converted.starts[t])
        values = symbol_values(fmt, cells, t, float(scales[t]), source)
        for first in range(0, source.update.size, BLOCK):
            block = source.block(decay, first, first + BLOCK)
            symbols = converted.symbols[start + first : start + first + block.size]
            new = kept[t].reshape(-1)[first : first + block.size]
            np.subtract(block, values[symbols], out=new, dtype=new.dtype)
    if not fast:
        return
    updates, errors = for_loops(sources, fast)
    runs = segments([source.update.size for source in sources], fast).runs
    tables = np.zeros((len(sources), 256), np.float32)
    tables[:, fmt.zero : 2 * fmt.zero + 1] = _float32_values(fmt, cells, sources, scales)
    tables[:, : fmt.zero] = -tables[:, 2 * fmt.zero : fmt.zero : -1]
    mostly_zero = int(converted.counts[:, fmt.zero].sum()) > 0.8 * converted.symbols.size
    zero, places = fmt.zero if mostly_zero else -1, list(kept)

    def work(part: range) -> None:
        run = runs[part.start : part.stop]
        loops.keep(updates, errors, decay, run, tables, converted.symbols, converted.starts, zero, places)

    kernels.each(work, kernels.shares(len(runs), converted.symbols.size))


def symbol_values(fmt: FloatFormat, cells: Cells | None, t: int, scale: float, source: Source) -> Array:
    """What each symbol of tensor t decodes to, in the type of its update: that may hold more than what is received."""
    points = fmt.magnitudes if cells is None else cells.points[t]
    received = source.received or source.update.dtype
    magnitudes = magnitude_values(points, scale, received.name).astype(received).astype(source.update.dtype)
    return np.concatenate([-magnitudes[:0:-1], magnitudes])


def _float32_values(
    fmt: FloatFormat, cells: Cells | None, sources: Sequence[Source], scales: Floats
) -> npt.NDArray[np.float32]:
    """What each magnitude of each tensor decodes to, shape (tensors, zero + 1)."""
    values = magnitude_values(fmt.magnitudes if cells is None else cells.points, scales, "float32").astype(np.float32)
    for t, source in enumerate(sources):
        if source.received is not None and source.update.dtype == np.float32:
            values[t] = symbol_values(fmt, cells, t, float(scales[t]), source)[fmt.zero :]
    return values


def _float32_edges(cells: Cells) -> npt.NDArray[np.float32]:
    """Where each magnitude of each tensor begins, shape (tensors, zero + 1): nothing is below the first."""
    return np.pad(cells.edges.astype(np.float32), ((0, 0), (1, 0)))
