"""What the server remembers for a scheme: the one hook by which schemes with state on the server work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flwr_co3.schemes.scheme import Floats

if TYPE_CHECKING:
    from flwr_co3.schemes.body import Body
    from flwr_co3.schemes.scheme import Scheme


class Received(NamedTuple):
    """One client's update, as it came."""

    node: str
    weight: float  # the client's share in the average; only ratios count
    body: Body | None  # None for an update of zeros, which needs no scheme
    sizes: Sequence[int]  # entries of the vectors


class ServerSide(ABC):
    """A scheme's state on the server, from round to round.

    In each round clients are told `scheme`, `accept` sees each update when it comes, `restate` makes of all of them
    what they count as, and `commit` follows once the strategy has made a model of that. A round without `commit` did
    not happen.
    """

    @property
    @abstractmethod
    def scheme(self) -> Scheme:
        """What the next round's clients are told."""

    def accept(self, received: Received) -> None:
        """Raise ValueError, with the reason, for an update that cannot be used."""
        return

    def restate(self, received: Sequence[Received]) -> Sequence[Sequence[Floats]] | None:
        """Return the vectors that each client's update counts as; None where updates count as they are."""
        return None

    @abstractmethod
    def commit(self, metrics: Mapping[str, object]) -> None:
        """Keep the round: the strategy has made a model of it, and these are its metrics."""
