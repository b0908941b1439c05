"""EF21: both ends hold the same estimate of a client's update, and what is sent is the change of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flwr_co3.schemes.scheme import INCREMENT, Float32s, Floats
from flwr_co3.schemes.server import Received, ServerSide
from flwr_co3.schemes.topk import TopK


@dataclass(frozen=True)
class EF21(TopK):
    """``h' = h + C(g - h)``: top-k of what the estimate h lacks.

    The client's update counts as h', and h replaces its error memory.

    Parameters
    ----------
    share : float (default: 0.01)
        k over the number of entries, above 0 to 1.

    Notes
    -----
    The client keeps -h where others keep what was lost, so that "update plus memory" is ``g - h`` here, and a lost
    reply is put back in the same way. The server keeps h for each node that took part: 4 bytes an entry and node.
    """

    name: ClassVar = "ef21"
    source: ClassVar = "Richtarik, Sokolov and Fatkhullin, arXiv 2106.05203, algorithm 2"
    memory: ClassVar = INCREMENT

    def server(self) -> ServerSide:
        """See `Scheme`."""
        return _Estimates(self)


class _Estimates(ServerSide):
    """h of each node."""

    def __init__(self, scheme: EF21) -> None:
        self._scheme = scheme
        self._held: dict[str, list[Float32s]] = {}
        self._next: dict[str, list[Float32s]] = {}

    @property
    def scheme(self) -> EF21:
        """See `ServerSide`."""
        return self._scheme

    def accept(self, received: Received) -> None:
        """Refuse a change of an estimate that is not held here."""
        if received.body is not None and not received.body.fresh and received.node not in self._held:
            raise ValueError("It changes an estimate (EF21's h) that this server does not hold.")

    def restate(self, received: Sequence[Received]) -> Sequence[Sequence[Floats]]:
        """Each update counts as the estimate, with its change."""
        self._next = {one.node: self._changed(one) for one in received}
        return [[h.astype(np.float64) for h in self._next[one.node]] for one in received]

    def commit(self, metrics: Mapping[str, object]) -> None:
        """See `ServerSide`."""
        self._held |= self._next
        self._next = {}

    def _changed(self, one: Received) -> list[Float32s]:
        held = self._held.get(one.node)
        if held is None or (one.body is not None and one.body.fresh):
            held = [np.zeros(size, np.float32) for size in one.sizes]
        if one.body is None:
            return held
        changes = one.body.vectors()
        return [(h + change).astype(np.float32) for h, change in zip(held, changes, strict=True)]
