"""Where a rising function crosses zero, in few evaluations: each costs the search for a scale a pass over counts."""

from __future__ import annotations

import math
from collections.abc import Callable

NEAR, LEVEL = 1e-4, 5e-4  # what is near enough: to the crossing, and of the function to 0
_STEP = 0.25  # down from the upper end, and four times as far each time, until the function is below 0
_SMOOTH = 10  # a crossing that is not found in so many evaluations is a jump


def crossing(function: Callable[[float], float], low: float, high: float, above: float, start: float) -> float:
    """Where a rising function crosses 0: by false position with the Illinois rule, and by halves where it jumps.

    Parameters
    ----------
    function : callable
        At most 0 at `low`, where it is not evaluated.
    low, high : float
        What encloses the crossing.
    above : float
        The function at `high`, above 0.
    start : float
        Where it may be.

    Returns
    -------
    float
        Where the function is within `LEVEL` of 0, or up to `NEAR` below a jump; `low` if it is above 0 everywhere.

    Notes
    -----
    Dowell and Jarratt, A modified regula falsi method for computing the root of an equation, BIT 11, 1971: where one
    end stays for a second time, its value counts half.
    """
    below, step, x, rose, count = -math.inf, _STEP, start, False, 0
    while high - low > NEAR:
        x = min(max(x, low + NEAR / 2), high - NEAR / 2)
        there = function(x)
        if abs(there) < LEVEL:
            return x
        if there > 0:
            high, above = x, there
            below /= 2 if rose else 1
        else:
            low, below = x, there
            above /= 1 if rose else 2
        rose, count = there > 0, count + 1
        if below == -math.inf:
            x, step = high - step, 4 * step
        else:
            x = low + (high - low) * (below / (below - above) if count < _SMOOTH else 0.5)
    return low
