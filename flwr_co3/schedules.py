"""Numbers that change from round to round: budgets that fall, rise, or follow the loss.

A schedule is a function from a round's number, from 1, to a number: any callable will do. `RateLimit` takes one
wherever it takes a number.

>>> from flwr_co3 import RateLimit, schedules
>>> limit = RateLimit(bits_per_parameter=schedules.cosine(0.2, 0.05, rounds=30))
>>> limit.at(1), limit.at(30)
(RateLimit(bits_per_parameter=0.2), RateLimit(bits_per_parameter=0.05))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import NamedTuple, TypeAlias

logger = getLogger("flwr.co3")

Schedule: TypeAlias = Callable[[int], float]


class Loss(NamedTuple):
    """What clients reported of one metric, aggregated over them."""

    first: float
    latest: float


@dataclass(frozen=True)
class FollowLoss:
    """See `follow_loss`."""

    start: float
    metric: str

    def __repr__(self) -> str:
        return f"follow_loss({self.start}, metric={self.metric!r})"

    def after(self, losses: Mapping[str, Loss]) -> float:
        """Return the number after these losses, by the name of their metric."""
        if losses and self.metric not in losses:
            logger.warning(
                "CO3's rate follows the metric '%s', which the round's aggregated metrics lack, and stays at %s. "
                "There are: %s.",
                *(self.metric, self.start, ", ".join(losses)),
            )
        loss = losses.get(self.metric)
        return self.start * math.sqrt(loss.first / loss.latest) if loss else self.start


@dataclass(frozen=True)
class _Blend:
    """A number that goes from one to another within some rounds, and stays there."""

    start: float
    end: float
    rounds: int
    curve: str

    def __repr__(self) -> str:
        return f"{self.curve}({self.start}, {self.end}, rounds={self.rounds})"

    def __call__(self, round: int) -> float:
        way = min(max((round - 1) / max(self.rounds - 1, 1), 0.0), 1.0)
        if self.curve == "cosine":
            way = (1 - math.cos(math.pi * way)) / 2
        return (1 - way) * self.start + way * self.end


@dataclass(frozen=True)
class _Steps:
    """A number for all rounds from one on, until the next."""

    values: tuple[tuple[int, float], ...]

    def __repr__(self) -> str:
        return f"steps({dict(self.values)})"

    def __call__(self, round: int) -> float:
        begun = [value for first, value in self.values if first <= round]
        return begun[-1] if begun else self.values[0][1]


def linear(start: float, end: float, rounds: int) -> Schedule:
    """Go from `start` in round 1 to `end` in round `rounds` by equal steps, and stay there.

    Raises
    ------
    ValueError
        If `rounds` is below 1.
    """
    return _Blend(start, end, _counted(rounds), "linear")


def cosine(start: float, end: float, rounds: int) -> Schedule:
    """Go from `start` in round 1 to `end` in round `rounds` along half a cosine, slow at both ends, and stay there.

    Raises
    ------
    ValueError
        If `rounds` is below 1.
    """
    return _Blend(start, end, _counted(rounds), "cosine")


def steps(values: Mapping[int, float]) -> Schedule:
    """Take each number from its round on; the first one before that too.

    Raises
    ------
    ValueError
        If there are none.

    Examples
    --------
    >>> bits = steps({1: 0.5, 10: 0.1})
    >>> bits(9), bits(10)
    (0.5, 0.1)
    """
    if not values:
        raise ValueError("A schedule by steps needs at least one number, as in steps({1: 0.5, 10: 0.1}).")
    return _Steps(tuple(sorted(values.items())))


def follow_loss(start: float, metric: str = "train_loss") -> FollowLoss:
    """Grow as the loss falls: ``start * sqrt(F(w_0) / F(w_t))``.

    The rule by which AdaQuantFL (Jhunjhunwala et al., ICASSP 2021, arXiv 2102.04487) sets its number of levels: few
    bits while there is much to gain, more when the model is nearly there.

    Parameters
    ----------
    start : float
        The number in the first round, and as long as no loss was reported.
    metric : str (default: "train_loss")
        Name of the loss in the round's aggregated training metrics: what the first and the latest aggregated round
        reported are F(w_0) and F(w_t).
    """
    return FollowLoss(start, metric)


def _counted(rounds: int) -> int:
    if rounds < 1:
        raise ValueError(f"A schedule needs at least 1 round, not {rounds!r}.")
    return rounds


def resolved(value: Schedule | FollowLoss | float, round: int, losses: Mapping[str, Loss]) -> float:
    """Return a number as it is, or what a schedule makes of the round."""
    if isinstance(value, FollowLoss):
        return value.after(losses)
    return value(round) if callable(value) else value
