"""Where one level ends and the next begins, and what each decodes to, when that follows from what is to be sent.

Rounding to the nearest level loses least for a given number of levels, and not for a given number of bits: a value
just beyond an edge pays for a rare level and gains next to nothing. And where values thin out within a cell, as they
do, its level is not their mean. Both matter most where nearly all values become 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.convert.float_format import FloatFormat
from flwr_co3.magnitudes import MagnitudeCounts

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]

ROUNDINGS = ("nearest", "stochastic", "rd")
RECONSTRUCTIONS = ("level", "centroid")

#: What a bit is worth, in squared steps: the slope of an entropy-coded uniform quantiser's squared error over its bits
#: (step^2 / 12, falling by 2^-2 a bit). It serves at low rates too: docs/quantisers.md.
BIT_WORTH = math.log(2) / 6

_PASSES = 6  # edges follow from the levels' frequencies, which follow from the edges
_CODE_STEP = 1 / 128  # of the distance to the level below
_FAR = 1e9  # in levels: beyond what any code reaches
_BYTE = 8 * BIT_WORTH


class Cells(NamedTuple):
    """What becomes of the magnitudes of each group, in units of the levels.

    `codes` is what a receiver is told of the points: see `points_of`.
    """

    edges: Floats  # shape (groups, zero): edge i is where level i ends, and within the nearest cell of level i + 1
    points: Floats  # shape (groups, zero + 1)
    codes: Codes  # shape (groups, zero), of the levels from 1 upwards

    def of_tensors(self, members: Sequence[range]) -> Cells:
        """Repeat each group's row for its tensors."""
        row = np.repeat(np.arange(len(members)), [len(tensors) for tensors in members])
        return Cells(self.edges[row], self.points[row], self.codes[row])


def points_of(fmt: FloatFormat, codes: Codes) -> Floats:
    """What magnitudes decode to, in units of the levels: shape (.., zero + 1) for codes of shape (.., zero).

    A code is a level's distance from its point, in 1/128 of its distance from the level below. Exact in float64.
    """
    points: Floats = np.zeros((*codes.shape[:-1], fmt.zero + 1))
    points[..., 1:] = fmt.magnitudes[1:] + codes * (np.diff(fmt.magnitudes) * _CODE_STEP)
    return points


@dataclass(frozen=True)
class Quantizer:
    """How magnitudes become levels and levels values.

    Parameters
    ----------
    format : FloatFormat
        The levels.
    rounding : str
        "nearest"; "stochastic", whose edges are the nearest's; or "rd": the level q that is least in
        ``(v - q)^2 + bit worth * bits of q``, the bits being those of an ideal entropy coder.
    reconstruction : str
        What a level decodes to: the "level" itself, or the "centroid" of the values that were rounded to it.
    """

    format: FloatFormat
    rounding: str
    reconstruction: str

    @property
    def plain(self) -> bool:
        """Whether magnitudes need not be known: to the nearest level, and to nothing but levels."""
        return self.rounding != "rd" and self.reconstruction == "level"

    def edges(self, counts: MagnitudeCounts, scales: Floats) -> Floats:
        """Where levels end, in their units: shape (groups, zero) for one scale a group, of shape (groups,).

        Notes
        -----
        Of two neighbours a < b, b costs less from ``(a + b) / 2 + worth (bits of b - bits of a) / (2 (b - a))`` on.
        Edges stay within the cells of the nearest levels, so that a value is rounded to its nearest level or to the one
        below.
        """
        nearest = self.format.edges
        edges = np.broadcast_to(nearest, (len(scales), nearest.size))
        if self.rounding != "rd":
            return edges
        magnitudes = self.format.magnitudes
        last = 2 * magnitudes[-1] - magnitudes[-2]
        worth = BIT_WORTH * magnitudes[1] ** 2 / (2 * np.diff(magnitudes))
        for _ in range(_PASSES):
            in_cells = np.maximum(self.in_cells(counts, scales, edges), 0.5)
            bits = -np.log2(in_cells / np.maximum(counts.entries, 1)[:, None])
            bits[:, 1:] += 1  # the sign
            edges = np.clip(nearest + worth * np.diff(bits, axis=1), nearest, np.append(nearest[1:], last))
        return edges

    def in_cells(self, counts: MagnitudeCounts, scales: Floats, edges: Floats) -> Floats:
        """How many values each magnitude stands for: shape (groups, zero + 1)."""
        return _differences(counts.below(_unscaled(edges, scales)), counts.entries)

    def cells(self, counts: MagnitudeCounts, scales: Floats) -> Cells:
        """Edges and points of groups.

        Parameters
        ----------
        counts : MagnitudeCounts
            Their magnitudes.
        scales : ndarray of float64, shape (groups,)
            What each group is multiplied by; NaN where its tensors have different scales: its levels are those that are
            nearest, then, and decode to themselves.
        """
        known = np.isfinite(scales)
        usable = np.where(known, scales, 1.0)
        edges = np.where(known[:, None], self.edges(counts, usable), self.format.edges)
        codes = np.zeros(edges.shape, np.int8)
        if self.reconstruction == "centroid":
            codes = np.where(known[:, None], self._centroids(counts, usable, edges), codes)
        return Cells(edges, points_of(self.format, codes), codes)

    def _centroids(self, counts: MagnitudeCounts, scales: Floats, edges: Floats) -> Codes:
        """Codes of the means of all cells, as far up as they are worth their bytes."""
        number = self.in_cells(counts, scales, edges)[:, 1:]
        ends = _unscaled(edges, scales)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            sums = _differences(counts.sums_below(ends), counts.sums)[:, 1:]
            offset = sums / number * scales[:, None] - self.format.magnitudes[1:]
        offset = np.clip(np.nan_to_num(offset, nan=0.0), -_FAR, _FAR)
        gaps = np.diff(self.format.magnitudes)
        codes = np.clip(np.rint(offset / (gaps * _CODE_STEP)), -128, 127)
        # Of a cell of n values whose mean lies d from its level, a point p away from it saves n (d^2 - (d - p)^2).
        point = codes * gaps * _CODE_STEP
        saved = number * point * (2 * offset - point) / self.format.magnitudes[1] ** 2
        worth = np.cumsum(saved - _BYTE, axis=1)
        best = np.argmax(worth, axis=1)
        sent = np.where(worth.max(axis=1) > 0, best + 1, 0)
        return np.where(np.arange(gaps.size) < sent[:, None], codes, 0).astype(np.int8)


def _unscaled(edges: Floats, scales: Floats) -> Floats:
    with np.errstate(over="ignore"):  # beyond any real value bins have infinite ends
        return np.minimum(edges / scales[:, None], 2.0**1000)


def _differences(below: Floats, total: Floats) -> Floats:
    """What lies in each cell, from what lies below its ends."""
    with np.errstate(invalid="ignore"):
        return np.diff(below, axis=1, prepend=0.0, append=total[:, None])
