"""Between two scales: levels that only the finer one has, for some of their entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from flwr_co3.convert.conversion import Converted, symbol_values
from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.convert.quantizer import Cells
from flwr_co3.moments import Source

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Thinning:
    """Entries of a conversion that may have level 0 instead of theirs, the largest first.

    Parameters
    ----------
    fmt, sources, decay, units
        As for `convert`.
    scales, cells
        Those of the finer conversion.
    finer, coarser : Converted
        The same tensors at two scales. Those entries may have level 0 that have it in the coarser one alone, or,
        without one, all that have another.
    """

    def __init__(
        self,
        fmt: FloatFormat,
        sources: Sequence[Source],
        decay: float,
        scales: Floats,
        units: Floats,
        finer: Converted,
        coarser: Converted | None,
        *,
        cells: Cells | None = None,
    ) -> None:
        candidates = finer.symbols != fmt.zero
        if coarser is not None:
            candidates &= coarser.symbols == fmt.zero
        places = np.flatnonzero(candidates)
        tensors = np.searchsorted(finer.starts, places, side="right") - 1
        values = np.empty(places.size)
        for t, mine in _by_tensor(tensors):
            values[mine] = sources[t].at(decay, places[mine] - finer.starts[t])
        order = np.argsort(-np.abs(values) * scales[tensors], kind="stable")
        self._places, self._tensors, self._values = places[order], tensors[order], values[order]
        self._fmt, self._sources, self._units, self._finer = fmt, sources, units, finer
        self._lost = -self._gained(self._tensors, self._values, scales, finer.symbols[self._places], cells)

    def __len__(self) -> int:
        return self._places.size

    def keeping(self, kept: npt.NDArray[np.bool_]) -> Converted:
        """Return the conversion with level 0 for all of these entries but some, in their order."""
        finer, zero = self._finer, self._fmt.zero
        at, of = self._places[~kept], self._tensors[~kept]
        out = Converted(finer.symbols.copy(), finer.starts, finer.counts.copy(), finer.squares.copy())
        out.symbols[at] = zero
        np.subtract.at(out.counts, (of, finer.symbols[at]), 1)
        np.add.at(out.counts[:, zero], of, 1)
        np.add.at(out.squares, of, self._lost[~kept])
        return out

    def at(self, scales: Floats, kept: npt.NDArray[np.bool_], cells: Cells | None = None) -> Converted:
        """Return a conversion at other scales, with level 0 for all entries but some of these."""
        out = self.keeping(np.zeros_like(kept))
        at, of, values = self._places[kept], self._tensors[kept], self._values[kept]
        for t, mine in _by_tensor(of):
            edges = None if cells is None else cells.edges[t]
            out.symbols[at[mine]] = self._fmt.quantize(values[mine], float(scales[t]), None, edges)
        np.subtract.at(out.counts[:, self._fmt.zero], of, 1)
        np.add.at(out.counts, (of, out.symbols[at]), 1)
        np.add.at(out.squares, of, self._gained(of, values, scales, out.symbols[at], cells))
        return out

    def _gained(
        self, tensors: Integers, values: Floats, scales: Floats, symbols: npt.NDArray[np.uint8], cells: Cells | None
    ) -> Floats:
        """Squared error of these levels, less that of level 0, in units of the tensors."""
        decoded = np.empty(values.size)
        for t, mine in _by_tensor(tensors):
            decoded[mine] = symbol_values(self._fmt, cells, t, float(scales[t]), self._sources[t])[symbols[mine]]
        v, q = values / self._units[tensors], decoded / self._units[tensors]
        return (v - q) ** 2 - v**2


def _by_tensor(tensors: Integers) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Each tensor that occurs, and where."""
    return ((t, tensors == t) for t in np.flatnonzero(np.bincount(tensors)).tolist())
