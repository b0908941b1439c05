"""Schemes with state on the server: a round's updates are read as what that state makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flwr_co3._replies import SentModel
from flwr_co3.frame import FrameReader, TensorSpec, numpy_dtype
from flwr_co3.schemes.scheme import Floats
from flwr_co3.schemes.server import Received, ServerSide


class Update(NamedTuple):
    """One client's update in a round."""

    node: str
    weight: float
    model: SentModel
    reader: FrameReader

    @property
    def received(self) -> Received:
        """What a scheme sees of it."""
        sizes = [self.model.like[name].entries for name in self.model.lossy]
        return Received(self.node, self.weight, self.reader.body, sizes)


class Restated(FrameReader):
    """A client's frame, its update replaced by another one.

    Parameters
    ----------
    reader : FrameReader
        The frame as it came; exact tensors are read from it.
    updates : Mapping[str, NDArray]
        What the other tensors count as.
    """

    def __init__(self, reader: FrameReader, updates: Mapping[str, NDArray[Any]]) -> None:
        self._reader = reader
        self._updates = updates
        self.exact = reader.exact
        self.tensors = {**reader.tensors, **{name: TensorSpec.of(array) for name, array in updates.items()}}

    def read(self, name: str) -> NDArray[Any]:
        """Return what a tensor counts as."""
        return self._updates[name] if name in self._updates else self._reader.read(name)

    def close(self) -> None:
        """There is nothing to drop but the frame's own."""
        self._reader.close()


def restate(side: ServerSide, updates: Sequence[Update]) -> list[FrameReader]:
    """Return what to read each client's update from, in the same order."""
    vectors = side.restate([update.received for update in updates])
    if vectors is None:
        return [update.reader for update in updates]
    return [
        Restated(update.reader, _tensors(update.model, mine)) for update, mine in zip(updates, vectors, strict=True)
    ]


def _tensors(model: SentModel, vectors: Sequence[Floats]) -> dict[str, NDArray[Any]]:
    """Vectors as the tensors that they stand for."""
    specs = [model.like[name] for name in model.lossy]
    return {
        name: np.asarray(vector, numpy_dtype(spec.dtype)).reshape(spec.shape)
        for name, spec, vector in zip(model.lossy, specs, vectors, strict=True)
    }
