"""Several versions in one frame: where all updates are multiples of one step, float32 sums them exactly.

A node that missed k versions would be sent k frames. Their sum says less than all of them do: an entry that changed
in two of them is sent once.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from flwr_co3._versions import Tensor, Tensors, encoded, reader_of, start_of
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.frame import FrameReader


def adds_exactly(frame: bytes, old: Tensors, new: Tensors) -> bool:
    """Whether a frame that made one version of another rounded nothing, and changed no type."""
    reader = reader_of(frame, old)
    return all(new[name].dtype == tensor.dtype for name, tensor in old.items()) and all(
        _adds_exactly(reader.read(name), reader.step(name), old[name], new[name]) for name in reader.lossy
    )


def _adds_exactly(update: Tensor, step: float | None, old: Tensor, new: Tensor) -> bool:
    return np.array_equal(np.subtract(new, update, dtype=np.float64), start_of(old, update, step))


def in_fewer(config: CO3Config, frames: Sequence[bytes], tensors: Tensors) -> list[bytes]:
    """Return frames that do what several do, which all add exactly: those of one step after another become one.

    Parameters
    ----------
    config : CO3Config
        What the frames were made with.
    frames : sequence of bytes
        From a version on.
    tensors : mapping of str to ndarray
        Any version of the model.
    """
    readers = [reader_of(frame, tensors) for frame in frames]
    fewer: list[bytes] = []
    for steps, run in itertools.groupby(zip(frames, readers, strict=True), key=lambda pair: _steps(pair[1])):
        fewer += _merged(config, list(run), tensors, steps)
    return fewer


def _merged(
    config: CO3Config, run: Sequence[tuple[bytes, FrameReader]], tensors: Tensors, steps: set[float]
) -> list[bytes]:
    """Return one frame for a run of one step; more where a sum is of too many steps, or one is no smaller.

    A tensor whose updates add up to nothing was rounded by the first of them, and would not be by one frame for all.
    """
    frames, readers = [frame for frame, _ in run], [reader for _, reader in run]
    last = readers[-1]
    if len(run) == 1 or not steps or any(reader.exact != last.exact for reader in readers):
        return frames
    sums = {name: np.zeros(last.tensors[name].shape, last.tensors[name].dtype) for name in last.lossy}
    for reader in readers:
        reader.add_to(sums)
    update = last.read_all() | sums
    multiples = dataclasses.replace(
        config,
        format="uniform",
        scale=1 / min(steps),
        rounding="nearest",
        reconstruction="level",
        rate=None,
        weights=(),
    )
    one = encoded(Codec(multiples), update, tensors)
    told = all(np.array_equal(one.sent[name], sums[name]) for name in sums)
    alike = not any(reader.read(name).any() for name in sums if not sums[name].any() for reader in readers)
    if told and alike and len(one.frame) < sum(map(len, frames)):
        return [one.frame]
    half = len(run) // 2
    return _merged(config, run[:half], tensors, steps) + _merged(config, run[half:], tensors, steps)


def _steps(reader: FrameReader) -> set[float]:
    """The distances of which the levels of a frame's tensors are multiples."""
    return {step for step in map(reader.step, reader.lossy) if step is not None}
