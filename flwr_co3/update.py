"""An update as the encoder sees it: checked, measured, and sorted into what is converted and what is not."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.compress import Fit
from flwr_co3.compress.tables import (
    decode_positives,
    decode_shape,
    encode_positives,
    encode_shape,
    fits_of,
    shape_codes,
    unit_widths,
)
from flwr_co3.config import BATCH_NORM_STATISTICS, CO3Config
from flwr_co3.convert import FloatFormat, Quantizer, least_error, optimal_scale
from flwr_co3.correct import ErrorMemory
from flwr_co3.frame import (
    DTYPES,
    LOSSY_DTYPES,
    MAX_TENSORS,
    ExactSection,
    Header,
    TensorSpec,
    dtype_name,
    short_scale,
)
from flwr_co3.gennorm import SHAPE_RANGE, GenNorm
from flwr_co3.magnitudes import MagnitudeCounts
from flwr_co3.moments import BINS, Measured, Source, contiguous, measure

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_DTYPES = frozenset(DTYPES)
_ROUNDING = 1e-6  # of means of float32
_REACH = 0.97  # scales that are sent in 16 bits are up to a 64th larger


def is_exact(name: str, spec: TensorSpec, config: CO3Config) -> bool:
    """Whether a tensor travels without loss: it is no float, or small, or its name is among the exact ones."""
    return spec.dtype not in LOSSY_DTYPES or spec.entries < config.exact_below or _is_among_exact(config.exact, name)


@lru_cache(maxsize=1 << 14)  # names come again in every round
def _is_among_exact(patterns: tuple[str, ...], name: str) -> bool:
    return _pattern(patterns).match(name) is not None


@cache
def _pattern(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for all shell patterns; none of them matches nothing."""
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)")


_pattern(BATCH_NORM_STATISTICS)  # compiled here and now: a first update costs no more than a second


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
    moments : Measured
        Of the sources.
    rounding, reconstruction : str
        How they become levels, and levels values.
    magnitudes : ndarray or None
        For a budget, and for quantisers that want it, how often magnitudes occur in each group; see
        `flwr_co3.moments.measure`.
    factors : ndarray of float64, shape (sources,)
        For a budget, each one's scale over the common scale: the root of its weight.
    """

    tensors: dict[str, Array]
    header: Header
    sources: list[Source]
    decay: float
    moments: Measured
    rounding: str
    reconstruction: str
    magnitudes: npt.NDArray[np.uint32] | None
    factors: Floats

    @classmethod
    def of(
        cls,
        update: Mapping[str, Array],
        config: CO3Config,
        memory: ErrorMemory | None = None,
        *,
        budget: bool = False,
        known: bool = False,
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
            Whether to count magnitudes, whatever the quantiser.
        known : bool (default: False)
            Whether the receiver knows the tensors. Their order is then that of their names, on both sides.

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
        specs = {name: TensorSpec.of(tensors[name]) for name in (sorted(tensors) if known else tensors)}
        exact = frozenset(name for name, spec in specs.items() if is_exact(name, spec, config))
        for name in exact:
            if not _is_finite(tensors[name]):
                raise _not_finite(name)
        header = Header.of(config.float_format, config.coder, specs, exact, known)
        dtypes = {name: tensors[name].dtype for name in header.lossy}
        errors: dict[str, Array | None] = {}
        if memory is not None:
            errors = {name: memory.addend(name, tensors[name]) for name in header.lossy}
            # The others are added here and now.
            tensors |= memory.compensate({name: tensors[name] for name, error in errors.items() if error is None})
        sources = [_source(tensors[name], errors.get(name), dtypes[name]) for name in header.lossy]
        rows = [row for row, names in enumerate(header.groups) for _ in names]
        counted = budget or not config.quantizer.plain
        bins = np.zeros((len(header.groups), BINS), np.uint32) if counted else None
        decay = 0.0 if memory is None else memory.decay
        moments = measure(sources, decay, rows, bins)
        if not np.isfinite(moments.peak).all():
            raise _not_finite(header.lossy[int(np.argmin(np.isfinite(moments.peak)))])
        factors = _factors(header, dict(config.weights))
        return cls(tensors, header, sources, decay, moments, config.rounding, config.reconstruction, bins, factors)

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return self.header.entries

    @property
    def quantizer(self) -> Quantizer:
        """How they become levels of the header's format."""
        return Quantizer(self.header.format, self.rounding, self.reconstruction)

    @cached_property
    def counts(self) -> MagnitudeCounts:
        """Magnitudes of each group."""
        assert self.magnitudes is not None, "the update's magnitudes were not counted"
        return MagnitudeCounts(self.magnitudes, self.sources, self.header.group_members)

    @property
    def weighted(self) -> bool:
        """Whether the tensors' errors count differently."""
        return bool(np.any(self.factors != 1))

    @cached_property
    def exact(self) -> ExactSection:
        """The tensors that travel without loss."""
        return ExactSection.of(self.tensors[name] for name in self.header.tensors if name in self.header.exact)

    def in_format(self, fmt: FloatFormat) -> Update:
        """Return the same, to be converted to another format."""
        other = dataclasses.replace(self, header=self.header.with_format(fmt))
        vars(other).update({name: vars(self)[name] for name in ("counts", "exact") if name in vars(self)})
        return other

    def joined(self) -> Update:
        """Return the same as one group."""
        assert self.magnitudes is not None, "the update's magnitudes were not counted"
        together = self.magnitudes.sum(axis=0, keepdims=True, dtype=np.uint32)
        other = dataclasses.replace(self, header=self.header.as_one_group(), magnitudes=together)
        vars(other)["exact"] = self.exact
        return other

    @cached_property
    def optimal_scales(self) -> Floats:
        """For each tensor that is converted, the scale that minimises the expected squared error of its values.

        Where nearly all magnitudes are equal, their mean becomes the smallest level: a model of a density would put it
        between two. It costs the same bits as any other level, and a common scale reaches the smallest first.
        """
        # Exact zeros lose nothing at any scale; in the fit they would pass for a heavy tail.
        moments = self.moments.without_zeros()
        codes = shape_codes(moments)
        # Shapes are rounded as on the wire, so that the few that remain are optimised once.
        fmt = self.header.format
        by_code = {code: optimal_scale(fmt, GenNorm(decode_shape(code), 1.0)) for code in set(codes.tolist())}
        with np.errstate(over="ignore"):
            width = np.maximum(moments.mean_abs * unit_widths(codes) * moments.peak, sys.float_info.min)
            scales = np.array([by_code[code] for code in codes.tolist()]) / width
            lightest = (codes == encode_shape(SHAPE_RANGE[1])) & (moments.nonzero > 0)
            if lightest.any():
                mean = np.maximum(moments.mean_abs * moments.peak, sys.float_info.min)
                variance = moments.mean_square - moments.mean_abs**2
                alike = lightest & (variance < least_error(fmt) * moments.mean_square)
                scales = np.where(alike, fmt.magnitudes[1] / mean, scales)
        return np.where(moments.nonzero > 0, decode_positives(encode_positives(scales)), 1.0)

    @property
    def exact_zeros(self) -> Floats:
        """For each group, how many of its entries are exactly 0."""
        return self.header.group_sums(self.moments.entries - self.moments.nonzero)

    @property
    def in_one_level(self) -> bool:
        """Whether each tensor has no more than one magnitude besides 0: a level at their mean is all of it."""
        moments = self.moments.without_zeros()
        return bool(np.all((moments.mean_abs > 1 - _ROUNDING) | (moments.nonzero == 0)))

    @property
    def reaching_scale(self) -> float:
        """The largest common scale at which no value lies beyond the format's levels, or a little smaller."""
        with np.errstate(over="ignore"):
            peak = float(np.max(self.moments.peak * self.factors, initial=sys.float_info.min))
            return short_scale(min(_REACH * float(self.header.format.magnitudes[-1]) / peak, sys.float_info.max))

    def scales_at(self, common: float) -> Floats:
        """For each tensor that is converted, its scale at a common one, as it can be sent: at most the optimal one."""
        return np.minimum(self.optimal_scales, self._wanted(common))

    def steady_scales_at(self, common: float) -> Floats:
        """The same, but where the common one is above the optimal one, levels saturate, so that steps are alike."""
        return self.optimal_scales if common == math.inf else self._wanted(common)

    def _wanted(self, common: float) -> Floats:
        with np.errstate(over="ignore"):
            own = decode_positives(encode_positives(common * self.factors))
        return np.where(self.factors == 1, common, own)

    @cached_property
    def group_factors(self) -> Floats:
        """For each group, the mean factor of its entries."""
        entries = self.moments.entries
        return np.array(
            [
                2.0 ** float(np.average(np.log2(self.factors[m.start : m.stop]), weights=entries[m.start : m.stop]))
                for m in self.header.group_members
            ]
        )

    @cached_property
    def caps(self) -> Floats:
        """For each group, the mean of its tensors' optimal scales: no budget asks for a larger one."""
        octaves = np.log2(self.optimal_scales)
        return np.array([2.0 ** float(np.mean(octaves[m.start : m.stop])) for m in self.header.group_members])

    def fits(self, scales: Floats) -> list[tuple[Fit, Fit]]:
        """Fit each group of tensors, multiplied by their scales: all entries, and those that are not exactly 0."""
        groups = self.moments.scaled(scales).grouped(self.header.group_members)
        return list(zip(fits_of(groups), fits_of(groups.without_zeros()), strict=True))


def _factors(header: Header, weights: Mapping[str, float]) -> Floats:
    """Roots of the weights of the tensors that are converted.

    They are in units of the one that most entries have: its tensors' scale is any number, and others are rounded.
    """
    if not weights:
        return np.ones(len(header.lossy))
    found = np.array([_weight(name, weights) for name in header.lossy])
    entries = np.array([header.tensors[name].entries for name in header.lossy])
    most = max(sorted(set(found.tolist())), key=lambda kind: int(entries[found == kind].sum()), default=1.0)
    factors: Floats = np.sqrt(found / most)
    return factors


def _weight(name: str, weights: Mapping[str, float]) -> float:
    return next((weight for pattern, weight in weights.items() if fnmatchcase(name, pattern)), 1.0)


def _source(tensor: Array, error: Array | None, dtype: np.dtype[Any]) -> Source:
    received = None if dtype.itemsize == tensor.dtype.itemsize else dtype.newbyteorder("=")
    return Source(contiguous(tensor), error, received)


def _not_finite(name: str) -> ValueError:
    return ValueError(f"Tensor {name!r} holds NaN or infinity: nothing was encoded. Has the training diverged?")


def _as_array(name: str, tensor: Any) -> Array:
    if not isinstance(name, str):
        raise TypeError(f"Tensor names must be strings, not {name!r}.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"The tensor name {name!r} is no text that UTF-8 can write: rename the tensor.") from error
    if not isinstance(tensor, np.ndarray) and hasattr(tensor, "detach"):  # a torch tensor, wherever it lives
        tensor = tensor.detach().cpu().numpy()
    array = np.asarray(tensor)
    if dtype_name(array.dtype) not in _DTYPES:
        raise ValueError(
            f"Tensor {name!r} has dtype {array.dtype}, which no frame can hold: convert it to one of "
            f"{', '.join(DTYPES)}."
        )
    return array


def _is_finite(tensor: Array) -> bool:
    return tensor.dtype.kind in "biu" or bool(np.all(np.isfinite(tensor)))
