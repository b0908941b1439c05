"""What the levels of an update take at any scale, from how often magnitudes occur."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.convert import FloatFormat
from flwr_co3.crossing import crossing
from flwr_co3.update import Update

Floats = npt.NDArray[np.float64]

# A group's table and what surrounds it, in bits: a list of few levels that are not 0 costs this and their places more
# than the entropy of these, and no group costs more than the last.
_LIST_BITS, _TABLE_BITS = 24, 110
# One group for all is worth considering where tables may take more of the budget than this.
_TABLE_SHARE = 0.02
_FREQUENT = 0.45
_LEAST_SCALE = -1070.0  # octaves; float64 ends at -1074
_LARGEST_SCALE = 2.0**1023  # float64 ends below 2 ** 1024, which the logarithm of what is last is rounded to
_OCTAVES = 60  # below the largest scale nothing is left of anything


def suited(update: Update, formats: Sequence[tuple[FloatFormat, float]], bits: float, saved: float = 0.0) -> Sizes:
    """Choose how to spend so many bits on levels.

    Parameters
    ----------
    update : Update
        What is to be encoded, its magnitudes counted.
    formats : sequence of (FloatFormat, float)
        Formats from the coarsest on, and each one's reach: up to which share of what it takes at its optimal scales it
        does as well as the finer ones.
    bits : float
        What there is to spend.
    saved : float (default: 0.0)
        As for `Sizes`.

    Returns
    -------
    Sizes
        Of the same in the first format that reaches so far, and in one group where its tables would take so much that
        a common one allows a finer step. Tensors of different weights don't share one.
    """
    if not update.header.groups:
        return Sizes(update)
    for fmt, reach in formats:
        sizes = Sizes(update.in_format(fmt), saved)
        if bits <= reach * sizes.bits(sizes.largest):
            break
    header = sizes.update.header
    if not header.known or sizes.update.weighted or _TABLE_BITS * len(header.groups) <= _TABLE_SHARE * bits:
        return sizes
    joined = Sizes(sizes.update.joined(), saved)
    spared = 8 * (len(header.groups) - 1)  # a group of zeros takes a byte
    return joined if joined.scale_for(bits + spared) > sizes.scale_for(bits) else sizes


def saved_share(counts: npt.NDArray[np.int64], update: Update, bits: float) -> float:
    """Which share of what exact zeros would cost if they came independently of each other a layer did not take.

    `counts` are those of each level in each group, with signs, and `bits` what the layer took.
    """
    independent = float(np.sum(_costs(counts)))
    alone = float(np.sum(_costs(_without(counts, update.exact_zeros, update.header.format.zero))))
    return min(max((independent - bits) / max(independent - alone, 1.0), 0.0), 1.0)


def _without(counts: npt.NDArray[Any], zeros: npt.NDArray[Any], level: int) -> Floats:
    """Counts without so many of level 0, which is at this place."""
    others = counts.astype(np.float64)
    others[:, level] = np.maximum(others[:, level] - zeros, 0)
    return others


def _costs(counts: npt.NDArray[Any]) -> Floats:
    """Bits of each level in each group if each came independently of the others."""
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.ones(counts.shape), where=counts > 0)
    costs: Floats = -counts * np.log2(share)
    return costs


class Sizes:
    """What the levels of an update take at any scale.

    Parameters
    ----------
    update : Update
        An update whose magnitudes were counted.
    saved : float (default: 0.0)
        Share of what exact zeros would cost if they came independently of each other that the layer before did not
        take: those of units that are never active stand together here too. See `saved_share`.
    """

    def __init__(self, update: Update, saved: float = 0.0) -> None:
        self.update = update
        self._saved = saved
        self._known: dict[float, float] = {}  # bits by scale: searches begin alike
        self._octave: float | None = None  # where the last one ended

    @cached_property
    def largest(self) -> float:
        """The common scale from which on each group has its cap."""
        with np.errstate(over="ignore"):
            ends = self.update.caps / self.update.group_factors
        return float(min(np.max(ends), _LARGEST_SCALE))

    def bits(self, common: float) -> float:
        """Bits of the levels of all groups at a common scale: what they take, and some bytes a group for its table."""
        if common not in self._known:
            with np.errstate(over="ignore"):
                wanted = common * self.update.group_factors
            self._known[common] = self._bits(np.minimum(self.update.caps, wanted))
        return self._known[common]

    def _bits(self, scales: Floats) -> float:
        quantizer, magnitudes = self.update.quantizer, self.update.counts
        total, edges = magnitudes.entries, quantizer.edges(magnitudes, scales)
        counts = quantizer.in_cells(magnitudes, scales, edges)
        nonzero, costs = total - counts[:, 0], _costs(counts)
        # A level that isn't 0 has a sign, which costs one bit.
        bits = nonzero + np.sum(costs, axis=1)
        if self._saved:
            alone = _costs(_without(counts, self.update.exact_zeros, 0))
            bits -= self._saved * np.sum(costs - alone, axis=1)
        if self.update.header.coder == "huffman":  # each level takes whole bits
            # Huffman codes level 0 in a bit once it is frequent, and all others with a bit that says so.
            zeros = counts[:, 0]
            rare = np.divide(nonzero, total, out=np.ones_like(total), where=nonzero > 0)
            others = nonzero + np.sum(costs[:, 1:], axis=1) + nonzero * np.log2(rare)
            bits = np.where(zeros > _FREQUENT * total, total + others, bits)
        table = _LIST_BITS + nonzero * np.maximum(np.log2(np.maximum(nonzero, 1)) - 1, 0.5)
        return float(np.sum(np.where(nonzero > 0.5, bits + np.minimum(table, _TABLE_BITS), 0)))

    def scale_for(self, bits: float, gain_at: Callable[[float], float] = lambda common: 1.0) -> float:
        """Largest common scale at which all groups take at most `bits`; infinite if they do at any.

        `gain_at` tells what they take at a scale over what independent levels would.
        """
        wanted = math.log2(max(bits, 1.0))

        def excess(octave: float) -> float:
            common = 2.0**octave
            return math.log2(max(self.bits(common) * gain_at(common), 1.0)) - wanted

        high = math.log2(self.largest)
        above = excess(high)
        if above <= 0:
            return math.inf
        # Sizes fall at least as fast as scales where most levels are 0; later searches begin where the last one ended.
        start = high - above if self._octave is None else self._octave
        self._octave = crossing(excess, max(high - _OCTAVES, _LEAST_SCALE), high, above, start)
        return float(2.0**self._octave)
