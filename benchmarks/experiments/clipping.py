"""`python -m simulations`, with memories whose norm is limited: to a multiple of the update's, the first argument."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.experiments.changed import simulate
from flwr_co3 import Codec, ErrorMemory
from flwr_co3.encoded import Encoded

Arrays = Mapping[str, npt.NDArray[Any]]


@contextmanager
def clipping(limit: float) -> Iterator[None]:
    """Scale what a memory keeps of an update down to `limit` times the update's norm, where it is above."""
    compress = Codec.compress

    def clipped(self: Codec, update: Arrays, *, memory: ErrorMemory | None = None, **options: Any) -> Encoded:
        allowed = limit * _norm(update)
        encoded = compress(self, update, memory=memory, **options)
        if memory is not None and (norm := _norm(memory.state)) > allowed:
            memory.replace({name: error * error.dtype.type(allowed / norm) for name, error in memory.state.items()})
        return encoded

    with patch.object(Codec, "compress", clipped):
        yield


def _norm(tensors: Arrays) -> float:
    return float(np.sqrt(sum(np.sum(np.square(tensor, dtype=np.float64)) for tensor in tensors.values())))


if __name__ == "__main__":
    simulate(clipping)
