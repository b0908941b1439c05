"""Between two scales: levels that only the finer one has, for some of their entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flwr_co3.convert.conversion import Converted, symbol_values
from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.convert.quantizer import Cells
from flwr_co3.moments import Source

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def thinned(
    fmt: FloatFormat,
    sources: Sequence[Source],
    decay: float,
    scales: Floats,
    units: Floats,
    finer: Converted,
    coarser: Converted | None,
    share: float,
    *,
    cells: Cells | None = None,
) -> Converted:
    """Return a conversion with level 0 for the smallest of the entries that have it in a coarser one.

    Parameters
    ----------
    fmt, sources, decay, units
        As for `convert`.
    scales, cells
        Those of the finer conversion.
    finer, coarser : Converted
        The same tensors at two scales.
    share : float
        Of the entries that are level 0 in the coarser one alone, or without one of all that have another, how many keep
        their level.
    """
    candidates = finer.symbols != fmt.zero
    if coarser is not None:
        candidates &= coarser.symbols == fmt.zero
    places = np.flatnonzero(candidates)
    tensors = np.searchsorted(finer.starts, places, side="right") - 1
    values, decoded = np.empty(places.size), np.empty(places.size)
    for t in np.unique(tensors).tolist():
        mine = tensors == t
        values[mine] = sources[t].at(decay, places[mine] - finer.starts[t])
        decoded[mine] = symbol_values(fmt, cells, t, float(scales[t]), sources[t])[finer.symbols[places[mine]]]
    by_size = np.argsort(np.abs(values) * scales[tensors], kind="stable")
    dropped = by_size[: round((1 - share) * places.size)]
    at, of = places[dropped], tensors[dropped]
    out = Converted(finer.symbols.copy(), finer.starts, finer.counts.copy(), finer.squares.copy())
    out.symbols[at] = fmt.zero
    np.subtract.at(out.counts, (of, finer.symbols[at]), 1)
    np.add.at(out.counts[:, fmt.zero], of, 1)
    v, q = values[dropped] / units[of], decoded[dropped] / units[of]
    np.add.at(out.squares, of, v**2 - (v - q) ** 2)
    return out
