"""An update as the encoder sees it: checked, measured, and sorted into what is converted and what is not."""

from __future__ import annotations

import fnmatch
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.compress import Fit
from flwr_co3.compress.tables import decode_positive, encode_positive, unit_width
from flwr_co3.config import CO3Config
from flwr_co3.convert import optimal_scale
from flwr_co3.correct import ErrorMemory
from flwr_co3.frame import DTYPES, LOSSY_DTYPES, MAX_TENSORS, Header, TensorSpec
from flwr_co3.gennorm import GenNorm
from flwr_co3.moments import BINS, Moments, Source, flat, measure

Array = npt.NDArray[Any]


def is_exact(name: str, array: Array, config: CO3Config) -> bool:
    """Whether a tensor travels without loss: it is no float, or small, or its name is among the exact ones."""
    return (
        _dtype_name(array.dtype) not in LOSSY_DTYPES
        or array.size < config.exact_below
        or _pattern(config.exact).match(name) is not None
    )


@cache
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all shell patterns; none of them matches nothing."""
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)")


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.name


@dataclass(frozen=True)
class Update:
    """Tensors that are fit to be encoded.

    Attributes
    ----------
    tensors : dict of str to ndarray
        All tensors, as they came.
    header : Header
        What the frame will say of them.
    sources : list of Source
        The tensors that are converted, in the header's order, with their memories.
    decay : float
        What memories are multiplied by.
    moments : list of Moments
        Of the sources.
    magnitudes : ndarray or None
        For a budget, how often magnitudes occur in each group; see `flwr_co3.moments.measure`.
    """

    tensors: dict[str, Array]
    header: Header
    sources: list[Source]
    decay: float
    moments: list[Moments]
    magnitudes: npt.NDArray[np.uint32] | None

    @classmethod
    def of(
        cls, update: Mapping[str, Array], config: CO3Config, memory: ErrorMemory | None = None, *, budget: bool = False
    ) -> Update:
        """Check and measure an update.

        Parameters
        ----------
        update : mapping of str to ndarray
            Tensors by name.
        config : CO3Config
            What travels without loss, and how the others are converted.
        memory : ErrorMemory, optional
            What is added to the tensors that are converted.
        budget : bool (default: False)
            Whether to count magnitudes.

        Raises
        ------
        ValueError
            If a tensor holds NaN or infinity or has a dtype that no frame can hold, or if there are too many tensors.
        TypeError
            If a name is no string.
        """
        if len(update) > MAX_TENSORS:
            raise ValueError(f"The update has {len(update)} tensors; a frame can hold {MAX_TENSORS}: send it in parts.")
        tensors = {name: _as_array(name, tensor) for name, tensor in update.items()}
        exact = frozenset(name for name, tensor in tensors.items() if is_exact(name, tensor, config))
        for name in exact:
            if not _is_finite(tensors[name]):
                raise _not_finite(name)
        specs = {name: TensorSpec(_dtype_name(tensor.dtype), tensor.shape) for name, tensor in tensors.items()}
        header = Header(config.float_format, config.coder, specs, exact)
        if memory is not None:
            tensors |= memory.compensate({name: tensors[name] for name in header.lossy if not _adds(memory, name, tensors)})
        sources = [_source(name, tensors[name], memory) for name in header.lossy]
        rows = [row for row, names in enumerate(header.groups) for _ in names]
        bins = np.zeros((len(header.groups), BINS), np.uint32) if budget else None
        decay = 0.0 if memory is None else memory.decay
        moments = measure(sources, decay, rows, bins)
        for name, measured in zip(header.lossy, moments, strict=True):
            if not math.isfinite(measured.peak):
                raise _not_finite(name)
        return cls(tensors, header, sources, decay, moments, bins)

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(spec.entries for spec in self.header.tensors.values())

    @property
    def exact(self) -> dict[str, Array]:
        """The tensors that travel without loss."""
        return {name: tensor for name, tensor in self.tensors.items() if name in self.header.exact}

    @cached_property
    def optimal_scales(self) -> dict[str, float]:
        """For each tensor that is converted, the scale that minimises the expected squared error of its values."""
        return {name: self._optimal_scale(m) for name, m in zip(self.header.lossy, self.moments, strict=True)}

    def _optimal_scale(self, moments: Moments) -> float:
        if not moments.nonzero:
            return 1.0
        # Exact zeros lose nothing at any scale; in the fit they would pass for a heavy tail.
        moments = moments.without_zeros()
        fit = Fit.from_moments(moments)
        width = max(moments.mean_abs * unit_width(fit.shape) * moments.peak, sys.float_info.min)
        return decode_positive(encode_positive(optimal_scale(self.header.format, GenNorm(fit.values[0], 1.0)) / width))

    def fits(self, members: Sequence[int], scales: Sequence[float]) -> tuple[Fit, Fit]:
        """Fit converted tensors together, each multiplied by its scale.

        Returns
        -------
        tuple of Fit
            Of all entries, and of those that are not exactly 0.
        """
        entries = nonzero = 0
        total = square = peak = 0.0
        for member, scale in zip(members, scales, strict=True):
            moments = self.moments[member]
            entries, nonzero = entries + moments.entries, nonzero + moments.nonzero
            # Scaled values beyond this range saturate or vanish, and tell nothing of the fit.
            scaled_peak = min(moments.peak * scale, 1e100)
            total += moments.entries * moments.mean_abs * scaled_peak
            square += moments.entries * moments.mean_square * scaled_peak**2
            peak = max(peak, scaled_peak)
        if not (nonzero and peak > 1e-100):
            return Fit.of(1.0, 1.0), Fit.of(1.0, 1.0)
        together = Moments.from_sums(entries, nonzero, peak, total, square)
        return Fit.from_moments(together), Fit.from_moments(together.without_zeros())


def _adds(memory: ErrorMemory, name: str, tensors: Mapping[str, Array]) -> bool:
    """Whether the memory of a tensor is added to it in a pass."""
    return memory.addend(name, tensors[name]) is not None


def _source(name: str, tensor: Array, memory: ErrorMemory | None) -> Source:
    error = None if memory is None else memory.addend(name, tensor)
    return Source(flat(tensor), None if error is None else error.reshape(-1))


def _not_finite(name: str) -> ValueError:
    return ValueError(f"Tensor {name!r} holds NaN or infinity: nothing was encoded. Has the training diverged?")


def _as_array(name: str, tensor: Any) -> Array:
    if not isinstance(name, str):
        raise TypeError(f"Tensor names must be strings, not {name!r}.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The tensor name {name!r} is no text that UTF-8 can write: rename the tensor.") from error
    if hasattr(tensor, "detach"):  # a torch tensor, wherever it lives
        tensor = tensor.detach().cpu().numpy()
    array = np.asarray(tensor)
    if _dtype_name(array.dtype) not in DTYPES:
        raise ValueError(
            f"Tensor {name!r} has dtype {array.dtype}, which no frame can hold: convert it to one of "
            f"{', '.join(DTYPES)}."
        )
    return array


def _is_finite(tensor: Array) -> bool:
    return tensor.dtype.kind in "biu" or bool(np.all(np.isfinite(tensor)))
