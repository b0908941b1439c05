"""Times of actions that take turns, so that a machine's good and bad moments fall on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

Action = Callable[[], object]
Clock = Callable[[], float]  # seconds

_SHORTEST = 2e-3  # seconds; what is quicker is repeated within one run, and its mean taken


class Times(NamedTuple):
    """Seconds of each action in each run."""

    runs: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Median time of one action, in seconds."""
        return statistics.median(self.runs[name])

    def ratio(self, over: str, under: str) -> float:
        """Median over the runs of one action's time over another's in the same run."""
        return statistics.median(a / b for a, b in zip(self.runs[over], self.runs[under], strict=True))


def take_turns(actions: Mapping[str, Action], runs: int, clock: Clock = time.perf_counter) -> Times:
    """Time actions, one after the other in every run, after one run of each that is not counted."""
    repeats = {name: _repeats(action, clock) for name, action in actions.items()}
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(runs):
        for name, action in actions.items():
            times[name].append(_seconds(action, repeats[name], clock))
    return Times(times)


def _repeats(action: Action, clock: Clock) -> int:
    """How often a quick action is repeated in one run; this is its uncounted run, too."""
    repeats = 1
    while (seconds := _seconds(action, repeats, clock)) * repeats < _SHORTEST:
        repeats *= max(2, round(_SHORTEST / max(seconds * repeats, 1e-9)))
    return repeats


def _seconds(action: Action, repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        action()
    return (clock() - start) / repeats
