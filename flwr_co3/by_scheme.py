"""The codec's pipeline for other schemes than CO3: vectors, the scheme's parts, a frame, and what that lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.correct import ErrorMemory
from flwr_co3.frame import EMPTY, FrameReader, narrowed, numpy_dtype, write_scheme_frame
from flwr_co3.schemes.body import Message, exponent_for, write_body
from flwr_co3.schemes.budget import largest_within
from flwr_co3.schemes.scheme import CLIENT, INCREMENT, Floats, Scheme
from flwr_co3.update import Update

Array = npt.NDArray[Any]


class Sent(NamedTuple):
    """A frame, and what it loses of each tensor that is not exact."""

    frame: bytes
    squares: Floats  # squared errors, in units of the tensors' peaks


def encode(
    scheme: Scheme,
    update: Update,
    memory: ErrorMemory | None,
    rng: np.random.Generator,
    budget: int | None,
    nothing: bytes,
) -> Sent:
    """Encode an update by a scheme, and keep in the memory what that loses.

    Parameters
    ----------
    scheme : Scheme
        The scheme, with its options.
    update : Update
        What is to be sent, the memory counted in.
    memory : ErrorMemory or None
        Error feedback.
    rng : numpy.random.Generator
        For schemes that draw.
    budget : int or None
        Bytes that the frame may have.
    nothing : bytes
        A frame of zeros, for budgets in which the scheme finds no place. If it has none either, the empty update is
        sent.
    """
    exponent = exponent_for(float(update.moments.peak.max(initial=0.0)))
    values = [source.block(update.decay, 0, source.update.size) for source in update.sources]
    vectors = [np.ldexp(v.astype(np.float64), -exponent) for v in values]
    fresh = memory is None or memory.empty
    if scheme.memory == INCREMENT and memory is not None:
        fresh = memory.norm == 0  # also where all that was sent got lost, and was put back
    feedback = memory is not None and scheme.memory == CLIENT

    def frame_of(chosen: Scheme) -> bytes:
        message = Message(chosen, chosen.encode(vectors, rng, feedback), exponent, fresh)
        return write_scheme_frame(update.header, write_body(message), update.exact)

    frame = frame_of(scheme) if budget is None else largest_within(budget, scheme, frame_of)
    if frame is None:
        assert budget is not None, "without a budget every frame fits"
        frame = nothing if len(nothing) <= budget else EMPTY
    errors, squares = {}, np.zeros(len(update.sources))
    for i, (v, (name, sent)) in enumerate(zip(values, _sent(frame, update), strict=True)):
        error = _difference(v, sent)
        unit = float(update.moments.peak[i]) or 1.0
        with np.errstate(over="ignore"):  # of numbers near 0, whose error may be any multiple of theirs
            squares[i] = min(np.sum(np.square(error.astype(np.float64) / unit)), np.finfo(np.float64).max)
        if memory is not None:
            shape = update.tensors[name].shape
            errors[name] = _less(memory, name, sent, shape) if scheme.memory == INCREMENT else error.reshape(shape)
    if memory is not None:
        memory.replace(errors)
    return Sent(frame, squares)


def _sent(frame: bytes, update: Update) -> Iterable[tuple[str, Array]]:
    """What the receiver will see of each tensor that is not exact, flat."""
    specs = update.header.tensors
    reader = FrameReader(frame, like=specs)
    for name in update.header.lossy:
        spec = specs[name]
        tensor = reader.read(name) if name in reader.tensors else np.zeros(spec.shape, numpy_dtype(spec.dtype))
        yield name, tensor.reshape(-1)


def _less(memory: ErrorMemory, name: str, sent: Array, shape: tuple[int, ...]) -> Array:
    """What the memory holds of a tensor, less what is sent: minus all that was sent so far."""
    held = memory.state.get(name)
    work = np.promote_types(sent.dtype, np.float32)
    before = np.zeros(shape, work) if held is None else held.astype(work)
    return np.asarray(before - sent.reshape(shape).astype(work))


def _difference(v: Array, sent: Array) -> Array:
    """Return what was not sent, in at least float32; near the end of its range the difference may lie beyond it."""
    with np.errstate(over="ignore"):
        return narrowed(np.subtract(v, sent, dtype=np.float64), np.promote_types(v.dtype, np.float32).name)
