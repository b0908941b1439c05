"""Limits: at most so many bytes for each update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from flwr_co3.schedules import FollowLoss, Loss, Schedule, resolved

Number: TypeAlias = "float | Schedule | FollowLoss"

_LARGEST = 1e300  # what is above overflows somewhere


@dataclass(frozen=True)
class RateLimit:
    """A hard limit on the bytes of a client's update in a round.

    Give `bits_per_parameter`, or `bytes_per_round`, or `bits_per_second` with `seconds`: numbers, or schedules over
    the rounds, which `CO3Strategy` turns into numbers in each.

    Parameters
    ----------
    bits_per_parameter : float or schedule, optional
        Bits for each entry of the model, exact tensors counted too.
    bytes_per_round : int or schedule, optional
        Bytes for each update.
    bits_per_second : float or schedule, optional
        Speed of the client's uplink.
    seconds : float or schedule, optional
        Time that an update may take at that speed.

    Raises
    ------
    ValueError
        If none or several of the three forms are given, or a number is not finite and above 0.

    Examples
    --------
    >>> RateLimit(bits_per_parameter=0.1).bytes_for(1_000_000)
    12500
    >>> RateLimit(bits_per_second=1e6, seconds=0.5).bytes_for(1_000_000)
    62500

    Half of the bits from round 10 on, in two ways:

    >>> from flwr_co3 import schedules
    >>> RateLimit(bits_per_parameter=schedules.steps({1: 0.2, 10: 0.1})).at(12)
    RateLimit(bits_per_parameter=0.1)
    >>> RateLimit(bits_per_parameter=lambda round: 0.2 if round < 10 else 0.1).at(12)
    RateLimit(bits_per_parameter=0.1)
    """

    bits_per_parameter: Number | None = None
    bytes_per_round: Number | None = None
    bits_per_second: Number | None = None
    seconds: Number | None = None

    def __post_init__(self) -> None:
        """Check that the limit is one limit."""
        given = self.to_dict()
        if set(given) not in ({"bits_per_parameter"}, {"bytes_per_round"}, {"bits_per_second", "seconds"}):
            raise ValueError(
                "RateLimit takes bits_per_parameter, or bytes_per_round, or bits_per_second with seconds, "
                f"not {' and '.join(given) or 'nothing'}."
            )
        for name, value in given.items():
            if _is_schedule(value):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"RateLimit {name} must be a number, or a schedule of numbers, not {value!r}.")
            if not 0 < value <= _LARGEST:
                raise ValueError(f"RateLimit {name} must be finite and above 0, not {value!r}.")

    def __repr__(self) -> str:
        """Show what is given."""
        return f"RateLimit({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    @property
    def scheduled(self) -> bool:
        """Whether a number is a schedule, so that the limit is another in each round."""
        return any(map(_is_schedule, self.to_dict().values()))

    def at(self, round: int, losses: Mapping[str, Loss] = MappingProxyType({})) -> RateLimit:
        """Return the limit of one round, without schedules.

        Parameters
        ----------
        round : int
            Number of the round, from 1.
        losses : mapping of str to Loss (default: {})
            What clients reported so far, for schedules that follow it.

        Raises
        ------
        ValueError
            If a schedule gives something else than a number that is finite and above 0.
        """
        if not self.scheduled:
            return self
        try:
            return RateLimit(**{name: resolved(value, round, losses) for name, value in self.to_dict().items()})
        except ValueError as error:
            raise ValueError(f"The schedule of a rate fails in round {round}: {error}") from error

    def bytes_for(self, parameters: int) -> int:
        """Bytes allowed for an update of so many entries; at least 1, the size of the empty update.

        Raises
        ------
        ValueError
            If there is a schedule: `at` gives the limit of a round.
        """
        if self.scheduled:
            raise ValueError(f"{self} has a schedule: RateLimit.at(round) gives the limit of one round.")
        given = {name: float(value) for name, value in self.to_dict().items()}
        match given:
            case {"bytes_per_round": allowed}:
                pass
            case {"bits_per_parameter": bits}:
                allowed = bits * parameters / 8
            case _:
                allowed = math.prod(given.values()) / 8
        return max(1, math.floor(min(allowed, _LARGEST)))

    def to_dict(self) -> dict[str, Any]:
        """The fields that are given."""
        return {name: value for name, value in vars(self).items() if value is not None}


def _is_schedule(value: object) -> bool:
    return callable(value) or isinstance(value, FollowLoss)
