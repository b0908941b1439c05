"""What a client keeps from one round to the next."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]


class LastUpdate(NamedTuple):
    """The last update that a client sent, kept until the server says whether it was aggregated."""

    turn: int  # number of the train message that it answered
    base: bytes | None  # what the server named as aggregated last in that message
    frame: bytes
    directions: bytes | None = None  # of CO3Config.subspace, without which the frame can't be read


class Kept(NamedTuple):
    """An error memory's state, and the update whose fate is not known yet."""

    errors: dict[str, Array]  # ErrorMemory.state
    last: LastUpdate | None  # None where the server does not say what it aggregated
