"""AdaQuantFL: QSGD whose levels grow as the loss falls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flwr_co3.schemes.qsgd import QSGD
from flwr_co3.schemes.scheme import Knob
from flwr_co3.schemes.server import ServerSide

_MOST_LEVELS = 1 << 20


@dataclass(frozen=True)
class AdaQuantFL(QSGD):
    """QSGD with ``s_k = s_0 sqrt(F(w_0) / F(w_k))`` levels in round k; the server knows the loss F and tells.

    Parameters
    ----------
    levels : float (default: 2)
        s_0, the levels of the first round.
    loss : str (default: "train-loss")
        The loss's name among the metrics of a round of training. Until it is there, s_0 stays.
    """

    name: ClassVar = "adaquantfl"
    source: ClassVar = "Jhunjhunwala et al., arXiv 2102.04487, equation 9"

    levels: float = 2
    loss: str = "train-loss"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not isinstance(self.loss, str) or not self.loss:
            raise ValueError(f"The scheme adaquantfl's loss must be the name of a metric, not {self.loss!r}.")

    @property
    def knob(self) -> Knob | None:
        """A budget may take levels away; it adds none."""
        return Knob("levels", 1, self.levels) if self.levels > 1 else None

    def server(self) -> ServerSide:
        """See `Scheme`."""
        return _Levels(self)


class _Levels(ServerSide):
    """Follows the loss."""

    def __init__(self, scheme: AdaQuantFL) -> None:
        self._scheme = scheme
        self._first: float | None = None
        self._levels = scheme.levels

    @property
    def scheme(self) -> AdaQuantFL:
        """With the levels of the next round."""
        return dataclasses.replace(self._scheme, levels=self._levels)

    def commit(self, metrics: Mapping[str, object]) -> None:
        """Take the loss from the round's metrics."""
        loss = metrics.get(self._scheme.loss)
        if not isinstance(loss, (int, float)) or not (math.isfinite(loss) and loss > 0):
            return
        self._first = loss if self._first is None else self._first
        self._levels = min(max(self._scheme.levels * math.sqrt(self._first / loss), 1.0), float(_MOST_LEVELS))
