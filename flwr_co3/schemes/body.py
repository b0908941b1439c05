"""A scheme's part of a frame: its name, numbers and levels, to bytes and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flwr_co3.compress import Model
from flwr_co3.errors import FrameError
from flwr_co3.schemes.levels import read_levels, read_models, write_levels
from flwr_co3.schemes.registry import scheme_class
from flwr_co3.schemes.scheme import Floats, Parts, Scheme
from flwr_co3.wire import Reader, Writer, unzigzag, zigzag

#: Vectors whose largest magnitude lies within these are coded as they are; others in units of a power of two.
_PLAIN = 2.0**-60, 2.0**60
_MAX_EXPONENT = 1100
# How many levels a frame may have.
_LEVELS_PER_ENTRY, _SPARE_LEVELS = 4, 4096


class Message(NamedTuple):
    """What one frame says, before it is bytes."""

    scheme: Scheme
    parts: Parts
    exponent: int  # vectors are in units of 2 to this power
    fresh: bool  # whether the sender's memory was empty


class Sections(NamedTuple):
    """A frame's section of models, its coded section in parts, and the lowest version of the frame that knows both."""

    models: bytes
    coded: list[bytes]
    version: int


def exponent_for(peak: float) -> int:
    """Exponent of the unit for vectors of this largest magnitude: squares of numbers in it stay in range."""
    return 0 if not peak or _PLAIN[0] <= peak <= _PLAIN[1] else math.frexp(peak)[1]


def write_body(message: Message) -> Sections:
    """Write a scheme's part of a frame.

    Raises
    ------
    ValueError
        If a scheme made numbers that are not finite: a mistake in the scheme.
    """
    scheme, parts, exponent, fresh = message
    if not np.isfinite(parts.numbers).all():
        raise ValueError(f"The scheme {scheme.name} made numbers that are not finite.")
    coded = write_levels(parts.levels)
    head = Writer()
    head.block(scheme.name.encode("ascii"))
    head.varint(2 * zigzag(exponent) + fresh)
    head.varint(parts.numbers.size)
    head += parts.numbers.astype("<f4").tobytes()
    head += coded.models
    tail = Writer()
    tail.block(coded.low)
    tail.block(parts.raw)
    return Sections(bytes(head), [bytes(tail), *coded.stream], coded.version)


class Body:
    """A scheme's part of a received frame.

    Parameters
    ----------
    models, coded : memoryview
        The frame's sections.
    sizes : sequence of int
        Entries of each vector, from the frame's table of tensors.
    version : int
        The frame's.

    Raises
    ------
    FrameError
        If the sections are not what they should be, or the scheme is not installed here.
    """

    def __init__(self, models: memoryview, coded: memoryview, sizes: Sequence[int], *, version: int) -> None:
        head = Reader(models, "section of models")
        self.scheme = _scheme(head.block())
        said = head.varint(4 * _MAX_EXPONENT)
        self.exponent, self.fresh = unzigzag(said // 2), bool(said % 2)
        self._numbers = np.frombuffer(head.take(4 * head.varint(head.left // 4)), "<f4").astype(np.float32)
        if not np.isfinite(self._numbers).all():
            raise FrameError("The frame has numbers that are not finite.")
        self.sizes = list(sizes)
        self._lengths = self._checked_lengths()
        self._models: list[Model] = read_models(head, self._lengths, version=version)
        head.finish()
        self._coded = coded

    def _checked_lengths(self) -> list[int]:
        """How many levels there are: not many more than entries, whatever the numbers say."""
        try:
            lengths = self.scheme.lengths(self.sizes, self._numbers)
        except Exception as error:  # the scheme may be anyone's, and the numbers too
            raise FrameError(f"The scheme {self.scheme.name} can't read the frame's numbers: {error!r}.") from error
        if min(lengths, default=0) < 0 or sum(lengths) > _LEVELS_PER_ENTRY * sum(self.sizes) + _SPARE_LEVELS:
            raise FrameError(f"The frame claims {sum(lengths)} levels for {sum(self.sizes)} entries.")
        return lengths

    def parts(self) -> Parts:
        """Decode the levels."""
        tail = Reader(self._coded, "coded section")
        low, raw = tail.block(), bytes(tail.block())
        return Parts(read_levels(tail.take(tail.left), low, self._models, self._lengths), self._numbers, raw)

    def vectors(self) -> Iterator[Floats]:
        """Decode the vectors, in the units of the update.

        Raises
        ------
        FrameError
            If that can't be done.
        """
        parts = self.parts()
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                for size, vector in zip(self.sizes, self.scheme.decode(parts, self.sizes), strict=True):
                    if vector.shape != (size,) or np.isnan(vector).any():
                        raise FrameError(f"The scheme {self.scheme.name} can't decode what the frame says.")
                    yield np.ldexp(vector, self.exponent)
        except FrameError:
            raise
        except Exception as error:  # the scheme may be anyone's, and the bytes too
            raise FrameError(f"The scheme {self.scheme.name} can't decode the frame: {error!r}.") from error


def _scheme(name: memoryview) -> Scheme:
    try:
        return scheme_class(str(name, "ascii", "replace"))()
    except ValueError as error:
        raise FrameError(f"The frame is of a scheme that is not known here. {error}") from error
