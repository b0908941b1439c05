"""Within a budget: the scale that makes the most of so many bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from flwr_co3.frame import short_scale
from flwr_co3.sizes import Sizes

Floats = npt.NDArray[np.float64]

#: Conversions that a budget may take; and what share of it, less a byte, each aims for.
CONVERSIONS = 3
_AIMS = (0.995, 0.996, 0.993)
_GOOD = 0.99
# The last one aims lower where nothing has fitted, or where one fits and one is too large, but far apart.
_SAFE, _SAFE_BYTES, _SURE = 0.99, 2, 0.992
_BEYOND = 0.25  # of the way between two conversions
_JUMP = 0.3  # where one fills less, and another is too large, the middle between both comes next
# What is too large can be thinned: some of its levels, the smallest, are left out where one that fits has none. That
# takes no conversion. Leaving one out saves less than their mean, since those that both have cost more at the finer
# scale; and it aims to leave this share of the budget. Other shares of them are planned where the first is not good.
_LEFT_OUT, _LEFT = 1.2, 0.0065
_SHARES, _WITHIN = 6, (0.1, 0.5)
_THINNABLE = 1 << 21  # entries; sorting them takes memory
_DENSE = 2  # bits an entry that isn't 0 from which on few levels are: thinning loses more there than a coarser scale
# For something to thin, the last conversion aims for the other side of the budget where all so far fit; and the second
# one of small budgets, whose frames differ by an entry more or less. A third is not needed if one of them fits so
# closely that sizes are nearly linear in shares.
_FAR_ABOVE, _ABOVE, _BELOW = 1.03, 1.01, 0.97
_SMALL, _CLOSE = 4096, 0.9
# In the fewest bytes sizes go by an entry more or less: there must be entries to choose from, and so many that are
# smaller than the first that does not fit are tried beside those that do. Where none fits, a step so many times finer
# uses what is left: levels are larger then.
_TINY, _WELL_ABOVE, _ENOUGH, _TRIED = 512, 1.6, 3.0, 8
_FINER = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0)
# What can't be thinned aims for less in its last conversion where none is near to the budget, from below or above; and
# must be likely to leave more than sizes are off by.
_POOR, _RICH, _UNTHINNED = 0.97, 1.03, 0.98
_OFF, _OFF_BYTES = 0.0003, 2
# So must what is no first layer, and more: that is coded once.
_LATER, _LATER_BYTES = 0.002, 6
_LARGEST = 1e300  # what is above overflows somewhere


class _Planned(Protocol):
    """An update at some scales: what its frame is likely to take, and takes, which is known once it is coded."""

    @property
    def likely_size(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def error(self) -> float: ...


E = TypeVar("E", bound=_Planned)
E_co = TypeVar("E_co", bound=_Planned, covariant=True)


class _Thinned(Protocol[E_co]):
    """One that is too large, without some of the levels that one that fits has not: the largest first."""

    def __len__(self) -> int: ...

    def keeping(self, kept: npt.NDArray[np.bool_], finer: float = 1.0) -> E_co: ...


Thin: TypeAlias = "Callable[[E, E | None], _Thinned[E]]"


def largest_within(
    budget: int,
    fixed: int,
    sizes: Sizes,
    encode: Callable[[Floats], E],
    thin: Thin[E],
    steady: Steady | None = None,
    conversions: int = CONVERSIONS,
) -> tuple[E | None, int]:
    """Encode an update with the least squared error that a budget allows.

    Parameters
    ----------
    budget : int
        Bytes that the frame may have.
    fixed : int
        Bytes of the frame that don't depend on the scale.
    sizes : Sizes
        Of what is to be encoded.
    encode : callable
        Converts and plans at a scale for each tensor. What is planned is coded when its `size` is asked for.
    thin : callable
        Of one that is too large and of one that fits, or of None: the first without some of the levels that only it
        has. It takes no conversion.
    steady : Steady, optional
        The common scale of the update before, which is tried first and becomes this one's.
    conversions : int (default: 3)
        How many there may be, besides that of the steady scale; fewer than three for what is no first layer.

    Returns
    -------
    found : what `encode` returns, or None
        The frame of least squared error of those that were tried and fit, from so many conversions, or that of the
        steady scale; None if none of them fits.
    coded : int
        How many were coded, besides one at the steady scale: this one, and others only where they took some bytes more
        than was likely.

    Notes
    -----
    Each tensor at its own optimal scale if that fits. Else all tensors share one scale, the largest that fits: reverse
    water-filling, for a given total of bits equal steps lose least. The step of a tensor of weight w is sqrt(w) times
    finer: its error counts w times. No tensor gets a scale above its optimal one, where its levels saturate. One pass
    counted magnitudes, from which the size at any scale follows nearly if levels are independent. Where they are not,
    each conversion shows by which share it is smaller; between two of them that share is interpolated. Where many
    values are nearly equal, sizes jump and may even fall with the scale (all of them in one level cost next to
    nothing): the last conversion takes the middle of a jump. The smallest that is too large is thinned until it fits,
    where that loses less than the best that does.
    """
    if not sizes.update.header.groups:
        return None, 0
    best: E | None = None
    known = _Known(sizes, fixed)
    rounded, scales_at = short_scale, sizes.update.scales_at
    if steady is not None:
        rounded, scales_at = steady.rounded, sizes.update.steady_scales_at
    if steady is not None and steady.holds:
        same = encode(scales_at(steady.scale))
        if Steady.LEAST * budget <= same.likely_size <= budget and same.size <= budget:
            return same, 1
        del same  # its symbols make room for others
    aimed = budget * Steady.ROOM if steady is not None and steady.wanted else budget
    thinnable = steady is None and sizes.update.parameters <= _THINNABLE
    entries = sizes.update.parameters - float(sizes.update.exact_zeros.sum())
    dense = 8 * budget > _DENSE * entries
    small = thinnable and budget <= _SMALL
    limit = budget if thinnable else budget - _OFF * budget - _OFF_BYTES
    if conversions < CONVERSIONS:
        limit = aimed = budget - _LATER * budget - _LATER_BYTES
    fitting, too_large, least_over, larger = 0.0, math.inf, math.inf, None
    for attempt in range(CONVERSIONS + 1 - conversions, CONVERSIONS + 1):
        last = attempt == CONVERSIONS
        filled = 1.0 if best is None else (best.likely_size - fixed) / max(budget - fixed, 1)
        near = filled >= _JUMP and least_over <= _ENOUGH * budget if budget <= _TINY else filled >= _CLOSE
        if last and best is not None and larger is not None and near:
            break
        target = _target(attempt, aimed, small, best, least_over, thinnable, dense)
        common = rounded(known.scale_for(target))
        if too_large < math.inf and (filled < _JUMP or not fitting < common < too_large):
            common = rounded(math.sqrt(fitting or common) * math.sqrt(too_large))
        candidate = encode(scales_at(common))
        common = min(common, sizes.largest)
        if candidate.likely_size > limit:
            too_large = common
            if candidate.likely_size < least_over:
                least_over = candidate.likely_size
                larger = candidate if thinnable else None
        else:
            if best is None or candidate.error < best.error:
                best, fitting = candidate, common
            if candidate.likely_size >= _GOOD * aimed or common >= sizes.largest:
                break
        if not last:
            known.add(common, candidate.likely_size)
    found, coded = _coded(budget, fixed, best, larger, thin, limit)
    if steady is not None and found is not None:
        steady.scale = fitting if fitting < sizes.largest else 0.0
    return found, coded


def _target(
    attempt: int, budget: float, small: bool, best: _Planned | None, over: float, thinnable: bool, dense: bool
) -> float:
    """Bytes that a conversion aims for, after the best that fits, and where the least that is too large has so many."""
    if attempt == 2 and small:
        above = _WELL_ABOVE if budget <= _TINY else _ABOVE
        return budget * above + _SAFE_BYTES if best is not None else budget * _BELOW - _SAFE_BYTES
    if attempt < CONVERSIONS:
        return budget * _AIMS[attempt - 1] - 1
    if best is None:
        return _SAFE * budget - _SAFE_BYTES
    if thinnable and budget <= _TINY:
        return budget * _WELL_ABOVE + _SAFE_BYTES
    if thinnable:
        return _SURE * budget if dense or over < math.inf else budget * _FAR_ABOVE + _SAFE_BYTES
    near = best.likely_size >= _POOR * budget or over <= _RICH * budget
    return budget * _AIMS[-1] - 1 if near else _UNTHINNED * budget


def _coded(
    budget: int, fixed: int, fits: E | None, larger: E | None, thin: Thin[E], room: float
) -> tuple[E | None, int]:
    """Code the best of what fits, and of what a larger one is once it is thinned; tell how many were coded.

    Parameters
    ----------
    budget, fixed, thin
        As for `largest_within`.
    fits, larger : E or None
        The best that is likely to fit, and the smallest that is not.
    room : float
        Bytes that the first one may be likely to take.
    """
    step, coded = _OFF_BYTES, 0
    while True:
        if fits is not None and fits.likely_size > room:
            coded += 1
            if fits.size <= budget:
                return fits, coded
            fits, larger = None, fits
        candidate = _thinned(room, fixed, fits, larger, thin)
        if candidate is None:
            return None, coded
        coded += 1
        if candidate.size <= budget:
            return candidate, coded
        if candidate is fits:
            fits, larger = None, fits
        room = budget - (candidate.size - candidate.likely_size) - step
        step = 2 * step + 1  # the next one may be as far off to the other side


def _thinned(room: float, fixed: int, fits: E | None, larger: E | None, thin: Thin[E]) -> E | None:
    """The best of what fits and of those with a share of the levels that a larger one has more."""
    if larger is None or (fits is not None and fits.likely_size >= _GOOD * room):
        return fits
    found, levels = None, 0
    if fits is not None:
        thinned = thin(larger, fits)
        found, levels = _searched(room, fits.likely_size, larger.likely_size, thinned), len(thinned)
    # At the finer scale, even what both have may be too large.
    if found is None or (room <= _TINY and found.likely_size < _POOR * room):
        thinned = thin(larger, None)
        if len(thinned) > levels:
            fewer = _searched(room, fixed, larger.likely_size, thinned, _FINER)
            if found is None or (fewer is not None and fewer.likely_size > found.likely_size):
                found = fewer
    return found if found is not None and (fits is None or found.error < fits.error) else fits


def _searched(room: float, least: int, most: int, thinned: _Thinned[E], steps: tuple[float, ...] = ()) -> E | None:
    """One that fits, with as many levels as a few attempts find, between sizes of none and of all of them.

    In the fewest bytes, also one with another of the steps, where none but these may be left.
    """
    places, found = np.arange(len(thinned)), None
    low, high = (-1, float(least)), (len(thinned), float(most))
    way = 1 - _LEFT_OUT * (high[1] - room + _LEFT * room) / max(high[1] - low[1], 1)
    for _ in range(_SHARES):
        if high[0] - low[0] <= 1:
            break
        count = min(max(low[0] + round((high[0] - low[0]) * way), low[0] + 1), high[0] - 1)
        candidate = thinned.keeping(places < count)
        if candidate.likely_size > room:
            high = count, candidate.likely_size
        else:
            low, found = (count, candidate.likely_size), candidate
            if candidate.likely_size >= _GOOD * room:
                break
        way = min(max((_AIMS[0] * room - low[1]) / max(high[1] - low[1], 1), _WITHIN[0]), _WITHIN[1])
    if found is None or room > _TINY:
        return found
    return _filled(room, found, low[0], high[0], thinned, steps)


def _filled(room: float, found: E, count: int, too_many: int, thinned: _Thinned[E], steps: tuple[float, ...]) -> E:
    """One that keeps so many levels, and those of the next ones that fit beside them, or has a finer step."""
    kept = np.arange(len(thinned)) < count
    for place in range(count, min(count + _TRIED, kept.size)):
        if found.likely_size >= _GOOD * room:
            break
        if place + 1 == too_many and kept[:place].all():
            continue
        kept[place] = True
        candidate = thinned.keeping(kept)
        if candidate.likely_size <= room:
            found = candidate
        else:
            kept[place] = False
    fewer = np.arange(kept.size) < count
    for finer, levels in itertools.product(steps, [kept, fewer] if np.any(kept & ~fewer) else [kept]):
        if found.likely_size >= _POOR * room:
            break
        candidate = thinned.keeping(levels, finer)
        if found.likely_size < candidate.likely_size <= room:
            found = candidate
    return found


class _Known:
    """What conversions have shown of an update's size, beside what its magnitudes tell.

    Parameters
    ----------
    sizes : Sizes
        What levels would take if each came independently of the others.
    fixed : int
        Bytes that don't depend on the scale.
    """

    def __init__(self, sizes: Sizes, fixed: int) -> None:
        self._sizes, self._fixed = sizes, fixed
        self._points: list[tuple[float, float]] = []  # scale, and bits taken over those told: both as logarithms

    def add(self, common: float, size: int) -> None:
        """Note the bytes that a conversion is likely to take."""
        ratio = 8 * max(size - self._fixed, 1) / max(self._sizes.bits(common), 1)
        self._points.append((math.log(common), math.log(ratio)))

    def scale_for(self, size: float) -> float:
        """Common scale at which the frame is likely to have so many bytes."""
        return self._sizes.scale_for(8 * (size - self._fixed), self._gain_at)

    def _gain_at(self, common: float) -> float:
        """Bits that levels are likely to take over those told."""
        if len(self._points) < 2:
            return math.exp(self._points[-1][1]) if self._points else 1.0
        return math.exp(self._ratio_at(math.log(common)))

    def _ratio_at(self, place: float) -> float:
        """On the line between the last two points; beyond them it goes on half as steeply, and not far."""
        (first, low), (last, high) = self._points[-2:]
        if first == last:
            return high
        way = (place - first) / (last - first)
        within = min(max(way, 0.0), 1.0)
        return low + (within + min(max((way - within) / 2, -_BEYOND), _BEYOND)) * (high - low)


@dataclass
class Steady:
    """A common scale that stays as it is from one update to the next, as long as it uses most of the budget.

    Its inverse, the step, has few bits. So sums of updates are exact, and those of the same step have its multiples.

    Attributes
    ----------
    scale : float
        The last one; 0 where each tensor has its optimal one.
    wanted : bool
        Whether it is to stay.
    """

    LEAST: ClassVar[float] = 0.75  # of the budget
    ROOM: ClassVar[float] = 0.92  # what a new step aims for, so that the next updates fit too
    BITS: ClassVar[int] = 4

    scale: float = 0.0
    wanted: bool = False

    @property
    def holds(self) -> bool:
        """Whether there is one that is to stay."""
        return self.wanted and self.scale > 0

    def rounded(self, scale: float) -> float:
        """Round a scale down to one whose step has few bits; not where float64 ends."""
        if not 1 / _LARGEST < scale < _LARGEST:
            return scale
        significand, exponent = math.frexp(1 / scale)
        return 1 / math.ldexp(math.ceil(math.ldexp(significand, self.BITS)), exponent - self.BITS)
