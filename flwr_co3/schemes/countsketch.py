"""FetchSGD: count sketches, which add up; momentum and error memory are sketches too, and stay on the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.errors import FrameError
from flwr_co3.schemes.hashing import hashes_of, places_of, signs_of
from flwr_co3.schemes.scheme import SERVER, Float32s, Floats, Integers, Knob, Parts, Scheme, check_number, join, split
from flwr_co3.schemes.server import Received, ServerSide
from flwr_co3.schemes.topk import largest

_MAX_ROWS = 31


@dataclass(frozen=True)
class CountSketch(Scheme):
    """Clients send a count sketch ``S(v)`` of their update; the server unsketches the largest of what it gathers.

    Each of the rows adds entries, with random signs, into its columns; an entry is estimated as the median over rows.
    The server holds, with the mean sketch S of a round: ``S_u = rho S_u + S``, ``S_e = S_e + S_u``, and sends into the
    model ``D = TopK(U(S_e))``; then the cells in which S(D) is not 0 become 0 in both. (Updates are steps already, so
    the paper's eta is 1.) Sketches of one round must have the same size: clients with a tighter budget of their own
    can't take part.

    Parameters
    ----------
    cells : float (default: 0.1)
        Cells of the sketch (float32) over the number of entries.
    rows : int (default: 5)
        Rows of the sketch, 1 to 31; odd, so that there is a median.
    share : float (default: 0.1)
        k of the server's top-k over the number of cells: a smaller sketch can tell fewer entries from its noise.
    momentum : float (default: 0.9)
        rho.

    Notes
    -----
    Algorithm 1 has ``S_e -= S(D)``. Where k is more than a small part of the columns, D holds the noise of the same
    cell several times, and S_e grows without end at any learning rate. The authors' code gave that up, too
    (github.com/kiddyboots216/CommEfficient, ``_server_helper_sketched``), and sets cells to 0 instead; in S_u as well,
    their stand-in for momentum factor masking.
    """

    name: ClassVar = "countsketch"
    source: ClassVar = "Rothchild et al. (FetchSGD), arXiv 2007.07682, algorithm 1; Charikar et al. 2002"
    memory: ClassVar = SERVER

    cells: float = 0.1
    rows: int = 5
    share: float = 0.1
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Check the options."""
        check_number(self, "cells", 1e-9, 4)
        check_number(self, "rows", 1, _MAX_ROWS, whole=True)
        check_number(self, "share", 1e-9, 1)
        check_number(self, "momentum", 0, 0.9999)
        if self.rows % 2 == 0:
            raise ValueError(f"The scheme countsketch's rows must be odd, so that there is a median, not {self.rows}.")

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("cells", 1e-9, 4)

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`. Numbers: rows, k over the number of entries, then the sketch row by row."""
        v = join(vectors)
        columns = max(round(self.cells * v.size / self.rows), 1)
        table = sketch(v, self.rows, columns)
        share = self.share_of_entries(table.size, v.size)
        return Parts(numbers=np.concatenate([[self.rows, share], table.reshape(-1)]).astype(np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`. What one sketch alone tells: the largest estimates."""
        table, share = table_of(parts.numbers)
        return split(unsketched(table, sum(sizes), share), sizes)

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """There are no levels."""
        return []

    def share_of_entries(self, cells: int, entries: int) -> float:
        """Return k over the number of entries, for a sketch of so many cells."""
        return min(self.share * cells / max(entries, 1), 1.0)

    def server(self) -> ServerSide:
        """See `Scheme`."""
        return _Sketches(self)


def sketch(v: Floats, rows: int, columns: int) -> Floats:
    """Return the count sketch of a vector, shape (rows, columns)."""
    positions = np.flatnonzero(v)
    table = [
        np.bincount(places, signs * v[positions], columns)
        for places, signs in (_hashed(positions, row, columns) for row in range(rows))
    ]
    return np.array(table)


def unsketched(table: Floats, entries: int, share: float) -> Floats:
    """Return the vector of a sketch: the median estimate of the largest entries, 0 elsewhere."""
    rows, columns = table.shape
    positions = np.arange(entries)
    estimates = np.empty((rows, entries))
    for row in range(rows):
        places, signs = _hashed(positions, row, columns)
        estimates[row] = table[row, places] * signs
    median = np.median(estimates, axis=0)
    found = np.zeros(entries)
    kept = largest(median, share)
    found[kept] = median[kept]
    return found


def table_of(numbers: Float32s) -> tuple[Floats, float]:
    """Return the sketch in a frame, shape (rows, columns), and the share of entries that it is good for."""
    rows, share = int(numbers[0]), float(numbers[1])
    if not (1 <= rows <= _MAX_ROWS and 0 < share <= 1) or numbers.size == 2 or (numbers.size - 2) % rows:
        raise FrameError(f"The frame's sketch has {numbers.size - 2} cells in {rows} rows, for a share of {share}.")
    return numbers[2:].astype(np.float64).reshape(rows, -1), share


def _hashed(positions: Integers, row: int, columns: int) -> tuple[Integers, Integers]:
    """Column and sign of entries in a row; the same for all clients and rounds, or sketches would not add up."""
    mixed = hashes_of(positions, row)
    return places_of(mixed, columns), signs_of(mixed)


class _Sketches(ServerSide):
    """S_u and S_e."""

    def __init__(self, scheme: CountSketch) -> None:
        self._scheme = scheme
        self._momentum: Floats | None = None
        self._error: Floats | None = None
        self._next: tuple[Floats, Floats] | None = None
        self._shape: tuple[int, ...] | None = None  # of the sketches of this round

    @property
    def scheme(self) -> CountSketch:
        """See `ServerSide`."""
        return self._scheme

    def accept(self, received: Received) -> None:
        """Refuse a sketch of another size than the round's first."""
        if received.body is None:
            return
        shape = table_of(received.body.parts().numbers)[0].shape
        if self._shape not in (None, shape):
            raise ValueError(f"Its sketch has the shape {shape}, and those of this round {self._shape}.")
        self._shape = shape

    def restate(self, received: Sequence[Received]) -> Sequence[Sequence[Floats]]:
        """Every update counts as the largest entries of what was gathered so far."""
        self._shape = None
        sizes = received[0].sizes if received else []
        tables = [
            (one.weight, np.ldexp(table_of(one.body.parts().numbers)[0], one.body.exponent))
            for one in received
            if one.body is not None
        ]
        if not tables:
            return [[np.zeros(size) for size in sizes]] * len(received)
        total = sum(one.weight for one in received) or 1.0
        mean = np.sum([weight / total * table for weight, table in tables], axis=0)
        momentum, error = self._state(mean.shape)
        momentum = self._scheme.momentum * momentum + mean
        error = error + momentum
        found = unsketched(error, sum(sizes), self._scheme.share_of_entries(error.size, sum(sizes)))
        untouched = sketch(found, *error.shape) == 0
        self._next = momentum * untouched, error * untouched
        return [list(split(found, sizes))] * len(received)

    def commit(self, metrics: Mapping[str, object]) -> None:
        """See `ServerSide`."""
        if self._next is not None:
            self._momentum, self._error = self._next
            self._next = None

    def _state(self, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        """Both sketches; empty ones in the first round, and where a schedule has changed their size."""
        if self._momentum is None or self._error is None or self._momentum.shape != shape:
            return np.zeros(shape), np.zeros(shape)
        return self._momentum, self._error
