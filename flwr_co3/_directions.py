"""The directions in which the global model moves, which the server sends with it."""

from logging import getLogger
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flwr_co3._replies import SentModel
from flwr_co3.frame import EMPTY
from flwr_co3.subspace import Layout, directions_of

logger = getLogger("flwr.co3")

# What a round changed counts so much less with each round since: some rounds say more than the last alone.
_FADING = 0.7


class Directions:
    """Follows the model from round to round, and tells clients the directions in which it moves.

    Parameters
    ----------
    known : int
        How many directions of each tensor clients are told; see `CO3Config.subspace`.

    Notes
    -----
    They are the leading singular vectors of how the tensors changed over the rounds, each round counting less with
    time. For that it holds the last model, and a sum of changes in float64: three times the model's memory in all.
    """

    def __init__(self, known: int) -> None:
        self._known = known
        self._model: dict[str, NDArray[Any]] = {}
        self._moved: dict[str, NDArray[np.float64]] = {}
        self._layout = Layout({}, (), known, new=1)
        self._frame = EMPTY

    def advance(self, model: SentModel) -> None:
        """Take in the model that the next messages bring."""
        self._layout = layout = Layout(model.like, model.exact, self._known, new=1)
        now = {name: model.load(name) for name in layout.matrices}
        self._moved = {
            name: self._followed(name, tensor).reshape(layout.matrices[name]) for name, tensor in now.items()
        }
        self._model = now
        try:
            self._frame = directions_of(layout, self._moved)
        except np.linalg.LinAlgError as error:  # it says so of finite matrices, too, once in a great while
            logger.warning("CO3 finds no directions in this round's model, and tells clients of none: %s", error)
            self._frame = EMPTY

    def told(self, budget: int) -> bytes:
        """What a client is told that may send so many bytes of an update of that model."""
        return self._layout.within(budget).head + self._frame

    def _followed(self, name: str, now: NDArray[Any]) -> NDArray[np.float64]:
        """How a tensor moved until now: not at all where it is new, or has no end."""
        before, moved = self._model.get(name), self._moved.get(name)
        if before is None or moved is None or before.shape != now.shape:
            return np.zeros(now.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = _FADING * moved.reshape(now.shape) + (now.astype(np.float64) - before)
        return moved if np.isfinite(moved).all() else np.zeros(now.shape)
