"""What a scheme is: a way to turn an update into integers and a few numbers, and back."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from flwr_co3.errors import FrameError

if TYPE_CHECKING:
    from flwr_co3.schemes.server import ServerSide

Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]
Scalar = TypeVar("Scalar", bound=np.generic)

#: Where what was not sent is remembered.
CLIENT, INCREMENT, SERVER = "client", "increment", "server"


class Parts(NamedTuple):
    """A coded update as a scheme sees it: what the frame carries."""

    levels: Sequence[Integers] = ()  # entropy coded; sequences of the lengths that `Scheme.lengths` says
    numbers: Float32s = np.empty(0, np.float32)  # shape (n,), finite
    raw: bytes = b""  # carried as they are

    def exactly(self, numbers: int, raw: int = 0) -> Float32s:
        """Return the numbers, once it is sure that there are so many, and so many raw bytes.

        Raises
        ------
        FrameError
            If there are not.
        """
        if (self.numbers.size, len(self.raw)) != (numbers, raw):
            raise FrameError(
                f"The frame has {self.numbers.size} numbers and {len(self.raw)} raw bytes, and its scheme needs "
                f"{numbers} and {raw}."
            )
        return self.numbers


class Knob(NamedTuple):
    """The option by which a scheme spends more bytes or fewer, and its range; a budget turns it."""

    option: str
    coarse: float  # the value that takes the fewest bytes, above 0
    fine: float  # the value that takes the most
    whole: bool = False  # whether only whole numbers will do


@dataclass(frozen=True)
class Scheme(ABC):
    """A compression scheme, its options the fields of a frozen dataclass.

    A subclass says what it claims, which the conformance suite checks, and has `encode` and `decode`. Vectors are flat
    float64 arrays, finite, one for each tensor of the update that is not exact; the options must not be needed to
    decode, because the frame carries the scheme's name and `Parts` alone: what else `decode` needs goes into these.

    Attributes
    ----------
    name : str
        What stands in configurations and frames.
    source : str
        Where the formulas come from.
    stochastic : bool
        Whether it draws random numbers.
    unbiased : bool
        Whether the expected decoded update is the update, where there is no memory. With a memory an unbiased scheme
        must be damped (see `encode`), because error feedback needs a contraction.
    contraction : bool
        Whether ``||v - decoded||^2 <= ||v||^2`` in each draw. Error feedback is stable with such schemes.
    memory : str
        CLIENT, the client's error memory; INCREMENT, that memory holds what was sent so far and not what was lost
        (EF21); SERVER, there is none on the client.
    hardened : bool
        Whether `decode` may be given bytes that someone forged: False where a codec from elsewhere might crash.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    stochastic: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False
    contraction: ClassVar[bool] = False
    memory: ClassVar[str] = CLIENT
    hardened: ClassVar[bool] = True

    @abstractmethod
    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """Encode an update.

        Parameters
        ----------
        vectors : sequence of ndarray of float64, shape (n,) each
            What is to be sent, at least one entry each, magnitudes below 2^61.
        rng : numpy.random.Generator
            For schemes that draw.
        feedback : bool
            Whether what is lost is remembered: unbiased schemes then scale what they send so that it loses least.
        """

    @abstractmethod
    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """Decode an update.

        Parameters
        ----------
        parts : Parts
            What `encode` returned, its numbers finite and its sequences of the right lengths. It came over the network:
            nothing else about it is certain. Any exception that it causes becomes a FrameError.
        sizes : sequence of int
            The entries of each vector.

        Yields
        ------
        ndarray of float64
            The vectors.
        """

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """Lengths of the sequences of levels, the numbers being known; a level for each entry unless overridden.

        The numbers came over the network, and nothing is certain about them but that they are finite.
        """
        return list(sizes)

    @property
    def knob(self) -> Knob | None:
        """What a budget may turn; None if there is nothing, and an update that does not fit is not sent."""
        return None

    def finer(self) -> Scheme | None:
        """Return what goes on where a budget has room at the knob's fine end, from that end; None if nothing does."""
        return None

    def server(self) -> ServerSide | None:
        """Return what the server must remember from round to round, made anew; None if it is nothing."""
        return None


class TensorScheme(Scheme):
    """A scheme that encodes tensor by tensor, into a level for each entry and some numbers.

    What it decodes to must be proportional to the numbers where it is unbiased: they are what is damped.
    """

    @abstractmethod
    def encode_tensor(self, v: Floats, rng: np.random.Generator) -> tuple[Integers, Sequence[float]]:
        """Return the level of each entry, and the same count of numbers for any tensor; they are sent as float32."""

    @abstractmethod
    def decode_tensor(self, levels: Integers, numbers: Floats) -> Floats:
        """Return the values."""

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        levels, numbers = [], []
        for v in vectors:
            mine, said = self.encode_tensor(v, rng)
            known = np.asarray(said, np.float32)
            if feedback and self.stochastic:
                known = (known * gain(v, self.decode_tensor(mine, known.astype(np.float64)))).astype(np.float32)
            levels.append(mine)
            numbers.append(known)
        return Parts(levels, np.concatenate(numbers) if numbers else np.empty(0, np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        each, rest = divmod(parts.numbers.size, max(len(sizes), 1))
        if rest or parts.raw:
            raise FrameError(f"The frame has {parts.numbers.size} numbers for {len(sizes)} tensors, or bytes too many.")
        rows = parts.numbers.astype(np.float64).reshape(len(sizes), each)
        for levels, numbers in zip(parts.levels, rows, strict=True):
            yield self.decode_tensor(levels, numbers)


def join(vectors: Sequence[Floats]) -> Floats:
    """Return all vectors as one."""
    return np.concatenate(vectors) if vectors else np.empty(0)


def split(v: npt.NDArray[Scalar], sizes: Sequence[int]) -> Iterator[npt.NDArray[Scalar]]:
    """Reverse `join`, for an array of any type."""
    ends = itertools.accumulate(sizes)
    for size, end in zip(sizes, ends, strict=True):
        yield v[end - size : end]


def gain(v: Floats, q: Floats) -> float:
    """Return the factor, 0 to 1, by which q comes nearest to v: ``<v, q> / <q, q>``.

    An unbiased scheme times it is a contraction: with ``E||q||^2 = (1 + w) ||v||^2`` it is about ``1 / (1 + w)``
    (Beznosikov et al., arXiv 2002.12410).
    """
    power = float(np.dot(q, q))
    return min(max(float(np.dot(v, q)) / power, 0.0), 1.0) if power else 1.0


def up_or_down(x: Floats, rng: np.random.Generator) -> Floats:
    """Round to a neighbouring whole number at random, so that the expected number is x itself."""
    below = np.floor(x)
    rounded: Floats = below + (rng.random(x.size) < x - below)
    return rounded


def check_number(owner: Scheme, option: str, low: float, high: float, whole: bool = False) -> None:
    """Raise ValueError unless an option is a number within these bounds."""
    value = getattr(owner, option)
    kinds = (int,) if whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and low <= value <= high):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"The scheme {owner.name}'s {option} must be {kind} within {low} to {high}, not {value!r}.")


def check_choice(owner: Scheme, option: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless an option is one of these."""
    value = getattr(owner, option)
    if value not in choices:
        raise ValueError(f"The scheme {owner.name}'s {option} must be one of {', '.join(choices)}, not {value!r}.")
