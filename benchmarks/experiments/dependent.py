"""Dependent quantisation in the loop: what `benchmarks.trellis` finds, as a scheme that counts every byte."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.trellis import RUNS, best_path_of, runs_of, values_of
from flwr_co3.schemes import Knob, Scheme
from flwr_co3.schemes.scheme import Float32s, Floats, Integers, Parts, check_number, join
from flwr_co3.schemes.trellis import NEXT


@dataclass(frozen=True)
class Dependent(Scheme):
    """Trellis-coded levels at one step for the whole update; each tensor has a table for each of the two quantisers.

    Which quantiser an entry has follows from the levels before it, so that this costs nothing: a tensor's levels are
    two sequences, in the order in which a decoder that walks all runs side by side needs them.

    Parameters
    ----------
    step : float (default: 1.0)
        Distance of the union of both quantisers, in root mean squares of the whole update; each alone has twice that.
    """

    name: ClassVar = "dependent"
    source: ClassVar = "dependent quantisation, ISO/IEC 15938-17 and VVC, 4 states"

    step: float = 1.0

    def __post_init__(self) -> None:
        """Check the option."""
        check_number(self, "step", 2**-17, 2**16)

    @property
    def knob(self) -> Knob:
        """See `Scheme`."""
        return Knob("step", 2**16, 2**-17)

    def lengths(self, sizes: Sequence[int], numbers: Float32s) -> list[int]:
        """See `Scheme`: after the step, how many of each tensor's entries the first quantiser has."""
        firsts = (min(max(int(number), 0), size) for number, size in zip(numbers[1:], sizes, strict=True))
        return [length for size, first in zip(sizes, firsts, strict=True) for length in (first, size - first)]

    def encode(self, vectors: Sequence[Floats], rng: np.random.Generator, feedback: bool) -> Parts:
        """See `Scheme`."""
        v = join(vectors)
        step = np.float32(self.step * np.linalg.norm(v) / max(v.size, 1) ** 0.5)
        levels: list[Integers] = []
        for vector in vectors:
            levels += _coded(vector, float(step)) if step else [np.zeros(vector.size, np.int8), np.empty(0, np.int8)]
        return Parts(levels, np.array([step, *(first.size for first in levels[::2])], np.float32))

    def decode(self, parts: Parts, sizes: Sequence[int]) -> Iterator[Floats]:
        """See `Scheme`."""
        step = float(parts.exactly(1 + len(sizes))[0])
        for size, first, second in zip(sizes, parts.levels[::2], parts.levels[1::2], strict=True):
            yield step * _decoded(first, second, size)


def _coded(vector: Floats, step: float) -> list[Integers]:
    """A tensor's levels, those of either quantiser."""
    runs = runs_of(vector, step)
    path = best_path_of(runs)
    signed = np.where(runs < 0, -path.levels, path.levels)
    used = _used(vector.size)
    return [signed[used & (path.quantizers == quantizer)] for quantizer in (0, 1)]


def _decoded(first: Integers, second: Integers, size: int) -> Floats:
    """A tensor's values in steps: all runs are walked side by side."""
    used = _used(size)
    values = np.zeros(used.shape)
    state = np.zeros(RUNS, np.int64)
    at = [0, 0]
    for step, there in enumerate(used):
        levels = np.zeros(RUNS, np.int64)
        quantizers = state // 2
        for quantizer, sequence in enumerate((first, second)):
            places = np.flatnonzero(there & (quantizers == quantizer))
            levels[places] = sequence[at[quantizer] : at[quantizer] + places.size]
            at[quantizer] += places.size
        values[step] = np.sign(levels) * values_of(np.abs(levels), quantizers)
        state = NEXT[state, levels & 1]
    return values.T.reshape(-1)[:size]


def _used(size: int) -> npt.NDArray[np.bool_]:
    """Which places of the runs hold entries; shape (steps, runs)."""
    return runs_of(np.ones(size), 1.0) > 0
