"""An update as the encoder sees it: checked, measured, and sorted into what is converted and what is not."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.compress.tables import decode_positive, decode_shape, encode_positive, encode_shape
from flwr_co3.config import CO3Config
from flwr_co3.convert import optimal_scale
from flwr_co3.frame import DTYPES, LOSSY_DTYPES, MAX_TENSORS, Header, TensorSpec
from flwr_co3.gennorm import GenNorm, Moments

Array = npt.NDArray[Any]


def is_exact(name: str, array: Array, config: CO3Config) -> bool:
    """Whether a tensor travels without loss: it is no float, or small, or its name is among the exact ones."""
    return (
        array.dtype.name not in LOSSY_DTYPES
        or array.size < config.exact_below
        or any(fnmatch.fnmatchcase(name, pattern) for pattern in config.exact)
    )


@dataclass(frozen=True)
class Update:
    """Tensors that are fit to be encoded.

    Attributes
    ----------
    tensors : dict of str to ndarray
        All tensors.
    header : Header
        What the frame will say of them.
    moments : dict of str to Moments
        Of the tensors that are converted.
    """

    tensors: dict[str, Array]
    header: Header
    moments: dict[str, Moments]

    @classmethod
    def of(cls, update: Mapping[str, Array], config: CO3Config) -> Update:
        """Check and measure an update.

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
        specs = {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}
        header = Header(config.float_format, config.coder, specs, exact)
        moments = {name: Moments.of(tensors[name]) for name in header.lossy}
        for name, tensor in tensors.items():
            finite = math.isfinite(moments[name].peak) if name in moments else _is_finite(tensor)
            if not finite:
                raise ValueError(
                    f"Tensor {name!r} holds NaN or infinity: nothing was encoded. Has the training diverged?"
                )
        return cls(tensors, header, moments)

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(spec.entries for spec in self.header.tensors.values())

    @property
    def exact(self) -> dict[str, Array]:
        """The tensors that travel without loss."""
        return {name: tensor for name, tensor in self.tensors.items() if name in self.header.exact}

    def model(self, name: str) -> GenNorm | None:
        """The fit of one tensor; None if it is not converted, or all zero."""
        moments = self.moments.get(name)
        return GenNorm.from_moments(moments) if moments is not None and moments.nonzero else None

    @cached_property
    def optimal_scales(self) -> dict[str, float]:
        """For each tensor that is converted, the scale that minimises the expected squared error of its values."""
        return {name: self._optimal_scale(name) for name in self.header.lossy}

    def _optimal_scale(self, name: str) -> float:
        moments = self.moments[name]
        if not moments.nonzero:
            return 1.0
        # Exact zeros lose nothing at any scale; in the fit they would pass for a heavy tail.
        moments = moments.without_zeros()
        # The shape is rounded as on the wire, so that the few that remain are optimised once.
        shape = decode_shape(encode_shape(GenNorm.from_moments(moments).shape))
        unit = GenNorm(shape, 1.0)
        mean_abs = moments.mean_abs * moments.peak
        width = max(mean_abs / unit.mean_abs, float(np.finfo(np.float64).tiny))
        with np.errstate(over="ignore"):
            scale = np.float64(optimal_scale(self.header.format, unit)) / width
        return decode_positive(encode_positive(scale))

    def fits(self, names: Sequence[str], scales: Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Fit tensors together, each multiplied by its scale.

        Returns
        -------
        tuple
            (shape, scale) of all entries, and of those that are not exactly 0.
        """
        entries = nonzero = 0
        total = square = peak = 0.0
        for name, scale in zip(names, scales, strict=True):
            moments = self.moments[name]
            entries, nonzero = entries + moments.entries, nonzero + moments.nonzero
            # Scaled values beyond this range saturate or vanish, and tell nothing of the fit.
            scaled_peak = min(moments.peak * scale, 1e100)
            total += moments.entries * moments.mean_abs * scaled_peak
            square += moments.entries * moments.mean_square * scaled_peak**2
            peak = max(peak, scaled_peak)
        if not (nonzero and peak > 1e-100):
            return (1.0, 1.0), (1.0, 1.0)
        fits = [
            GenNorm.from_moments(Moments(count, nonzero, peak, total / peak / count, square / peak**2 / count))
            for count in (entries, nonzero)
        ]
        return (fits[0].shape, fits[0].scale), (fits[1].shape, fits[1].scale)


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
    if array.dtype.name not in DTYPES:
        raise ValueError(
            f"Tensor {name!r} has dtype {array.dtype}, which no frame can hold: convert it to one of "
            f"{', '.join(DTYPES)}."
        )
    return array


def _is_finite(tensor: Array) -> bool:
    return tensor.dtype.kind in "biu" or bool(np.all(np.isfinite(tensor)))
