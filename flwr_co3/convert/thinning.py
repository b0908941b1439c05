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
        values, decoded = np.empty(places.size), np.empty(places.size)
        for t in np.flatnonzero(np.bincount(tensors)).tolist():
            mine = tensors == t
            values[mine] = sources[t].at(decay, places[mine] - finer.starts[t])
            decoded[mine] = symbol_values(fmt, cells, t, float(scales[t]), sources[t])[finer.symbols[places[mine]]]
        order = np.argsort(-np.abs(values) * scales[tensors], kind="stable")
        self._places, self._tensors = places[order], tensors[order]
        v, q = (values / units[tensors])[order], (decoded / units[tensors])[order]
        self._lost: Floats = v**2 - (v - q) ** 2
        self._finer, self._zero = finer, fmt.zero

    def __len__(self) -> int:
        return self._places.size

    def keeping(self, kept: npt.NDArray[np.bool_]) -> Converted:
        """Return the conversion with level 0 for all of these entries but some, in their order."""
        finer, zero = self._finer, self._zero
        at, of = self._places[~kept], self._tensors[~kept]
        out = Converted(finer.symbols.copy(), finer.starts, finer.counts.copy(), finer.squares.copy())
        out.symbols[at] = zero
        np.subtract.at(out.counts, (of, finer.symbols[at]), 1)
        np.add.at(out.counts[:, zero], of, 1)
        np.add.at(out.squares, of, self._lost[~kept])
        return out
