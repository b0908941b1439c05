"""Budgets for any scheme: its knob is turned until the frame is as large as it may be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

from flwr_co3.schemes.scheme import Knob, Scheme

_ATTEMPTS = 16  # encodings that a budget may take
_GOOD = 0.99  # share of the budget that is enough
_AIM = 0.996
_MARGIN = 0.04  # no closer to the ends of what is still possible
_BISECT = 3  # each so many attempts the middle, where sizes are not as expected


class Point(NamedTuple):
    """What was tried."""

    place: float  # on the knob, from its coarse end 0 to its fine end 1
    size: int  # bytes; 0 where it was not tried


def largest_within(budget: int, scheme: Scheme, encode: Callable[[Scheme], bytes]) -> bytes | None:
    """Encode by the largest frame that a budget allows.

    Parameters
    ----------
    budget : int
        Bytes that the frame may have.
    scheme : Scheme
        Where its knob stands is where the search begins.
    encode : callable
        Encodes by a scheme with other options.

    Returns
    -------
    bytes or None
        The largest frame within the budget of those that were tried; None if none of them fits, not even that with the
        knob at its coarse end.

    Notes
    -----
    Sizes rise with the logarithm of the knob, more or less: between a knob that fits and one that doesn't, the next is
    where a straight line in the logarithms of both meets the budget.
    """
    best, full = _turned(budget, scheme, encode)
    while not full and (finer := scheme.finer()) is not None:
        scheme = finer
        more, full = _turned(budget, scheme, encode)
        best = max(best or b"", more or b"", key=len)
    return best


def _turned(budget: int, scheme: Scheme, encode: Callable[[Scheme], bytes]) -> tuple[bytes | None, bool]:
    """The same with these options but the knob's, and whether a finer scheme would have nothing to add."""
    knob = scheme.knob
    if knob is None:
        frame = encode(scheme)
        return (frame if len(frame) <= budget else None), True
    best: bytes | None = None
    low, high = Point(0.0, 0), Point(1.0, 0)
    place = _place(knob, float(getattr(scheme, knob.option)))
    for attempt in range(_ATTEMPTS):
        frame = encode(dataclasses.replace(scheme, **{knob.option: _value(knob, place)}))
        if len(frame) <= budget:
            best = max(best or b"", frame, key=len)
            low = Point(place, len(frame))
            if len(frame) >= _GOOD * budget:
                break
            if place == 1:
                return best, False
        else:
            high = Point(place, len(frame))
            if place == 0:
                break
        if knob.whole and low.size and high.size and _are_neighbours(knob, low.place, high.place):
            break
        last = attempt == _ATTEMPTS - 2
        place = 0.0 if last and best is None else _next(knob, low, high, budget, attempt)
    return best, True


def _next(knob: Knob, low: Point, high: Point, budget: int, attempt: int) -> float:
    """The place to try next."""
    if not (low.size and high.size):
        # As if sizes were proportional to the knob, and twice as far each time that this falls short.
        known = low if low.size else high
        step = math.log(_AIM * budget / known.size) / abs(math.log(knob.fine / knob.coarse))
        return min(max(known.place + (1 << attempt) * step, 0.0), 1.0)
    width = high.place - low.place
    if attempt % _BISECT == _BISECT - 1:
        return low.place + width / 2
    share = math.log(_AIM * budget / low.size) / math.log(high.size / low.size)
    place: float = low.place + width * min(max(share, _MARGIN), 1 - _MARGIN)
    return place


def _place(knob: Knob, value: float) -> float:
    """Where a value lies between the coarse end, 0, and the fine one, 1."""
    return min(max(math.log(value / knob.coarse) / math.log(knob.fine / knob.coarse), 0.0), 1.0)


def _value(knob: Knob, place: float) -> float:
    ends = {0.0: knob.coarse, 1.0: knob.fine}
    value = ends[place] if place in ends else float(knob.coarse * (knob.fine / knob.coarse) ** place)
    return round(value) if knob.whole else value


def _are_neighbours(knob: Knob, low: float, high: float) -> bool:
    return abs(_value(knob, low) - _value(knob, high)) <= 1
