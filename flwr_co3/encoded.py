"""A frame with what its receiver will see, and what the encoding did, tensor by tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.frame import FrameReader, layered, layers_of, numpy_dtype
from flwr_co3.gennorm import GenNorm
from flwr_co3.update import Update

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class TensorReport(NamedTuple):
    """What became of one tensor."""

    bytes: float  # of its symbols and their table, in a shared stream; without the frame's header
    entries: int
    shape: float  # of the generalised normal fitted to it; NaN for exact and all-zero tensors
    scale: float  # of that fit, in the units of the update
    nmse: float  # squared error over squared norm; 0 for exact tensors


class Report(NamedTuple):
    """What an encoding did."""

    frame_bytes: int
    parameters: int  # entries of all tensors
    bits_per_parameter: float
    nmse: float  # squared error over squared norm of all tensors that are not exact
    tensors: dict[str, TensorReport]


class Losses(NamedTuple):
    """What an encoding measured of each tensor that is converted, in the header's order."""

    squares: Floats  # squared error, in units of the tensor's peak
    bytes: Floats  # of its symbols


@dataclass(frozen=True, eq=False)
class Encoded:
    """A frame, with what its receiver will see.

    Attributes
    ----------
    frame : bytes
        The frame.
    update : Update
        What it was made of.
    losses : Losses
        What that lost.
    """

    frame: bytes
    update: Update
    losses: Losses

    @cached_property
    def sent(self) -> dict[str, Array]:
        """What decoding gives; zeros for tensors that a tiny budget left out. Decoded when it is first asked for."""
        specs = {name: self.update.header.tensors[name] for name in self.update.tensors}
        reader = FrameReader(self.frame, like=specs)
        if not reader.tensors:
            return {name: np.zeros(spec.shape, numpy_dtype(spec.dtype)) for name, spec in specs.items()}
        return reader.read_all()

    def with_layers(self, more: Encoded) -> Encoded:
        """Return the same in more layers: those of what this one lost."""
        if more.nmse >= 1:
            return self
        places = {name: row for row, name in enumerate(self.update.header.lossy)}
        rows = [places[name] for name in more.update.header.lossy]
        squares, sizes = self.losses.squares.copy(), self.losses.bytes.copy()
        squares[rows] = more.losses.squares * (units_of(more.update) / units_of(self.update)[rows]) ** 2
        sizes[rows] += more.losses.bytes
        frame = layered([self.frame, *layers_of(more.frame)])
        return Encoded(frame, self.update, Losses(squares, sizes))

    @property
    def nmse(self) -> float:
        """Squared error over squared norm of all tensors that are not exact."""
        moments = self.update.moments
        power = weighted(moments.mean_square * moments.entries, self.update)
        return weighted(self.losses.squares, self.update) / power if power else 0.0

    @cached_property
    def report(self) -> Report:
        """What the encoding did, tensor by tensor."""
        update = self.update
        lossy = {name: k for k, name in enumerate(update.header.lossy)}
        tensors = {}
        for name in update.tensors:
            spec = update.header.tensors[name]
            if name in lossy:
                tensors[name] = self._report_of(lossy[name])
            else:
                size = float(spec.nbytes) if name in update.header.exact else 0.0
                tensors[name] = TensorReport(size, spec.entries, math.nan, math.nan, 0.0)
        bits = 8 * len(self.frame) / max(update.parameters, 1)
        return Report(len(self.frame), update.parameters, bits, self.nmse, tensors)

    def _report_of(self, member: int) -> TensorReport:
        moments = self.update.moments.of(member)
        model = GenNorm.from_moments(moments) if moments.nonzero else None
        power = moments.mean_square * moments.entries
        return TensorReport(
            float(self.losses.bytes[member]),
            moments.entries,
            model.shape if model else math.nan,
            model.scale if model else math.nan,
            float(self.losses.squares[member]) / power if power else 0.0,
        )


def units_of(update: Update) -> Floats:
    """Units of the tensors' squared errors: their peaks."""
    peak = update.moments.peak
    return np.where(peak > 0, peak, 1.0)


def weighted(squares: Floats, update: Update) -> float:
    """Sum of what is in units of each tensor's peak, squared, in units of the largest one's."""
    peak = update.moments.peak
    return float(np.sum(squares * (peak / (float(peak.max(initial=0.0)) or 1.0)) ** 2))
