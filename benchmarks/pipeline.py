"""What a client does with an update, and what a server does with a frame: the one place that knows how."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3 import Codec, Encoded, ErrorMemory, FrameReader, TensorSpec

Update = dict[str, npt.NDArray[np.float32]]


def compensate_encode_keep(codec: Codec, update: Update, memory: ErrorMemory) -> Encoded:
    """Add the memory to an update, encode it, and remember what was lost."""
    return codec.compress(update, memory=memory)


def decode_add(frame: bytes, total: Update, weight: float, like: Mapping[str, TensorSpec]) -> None:
    """Add ``weight`` times a frame's update to an `aggregate` in place, after all of the frame was checked."""
    reader = FrameReader(frame, like=like)
    reader.verify()
    reader.add_to(total, weight)


def aggregate(codec: Codec, update: Update) -> Update:
    """Make zeros for all tensors that travel as updates; exact ones can't be added up."""
    return {name: np.zeros_like(tensor) for name, tensor in update.items() if not codec.is_exact(name, tensor)}


def decode(frame: bytes, like: Mapping[str, TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    """Decode a frame to arrays of its own."""
    return Codec().decode(frame, like=like)


def specs(update: Update) -> dict[str, TensorSpec]:
    """What the receiver of an update expects."""
    return {name: TensorSpec.of(tensor) for name, tensor in update.items()}
