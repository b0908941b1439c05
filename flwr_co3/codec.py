"""The pipeline in one screen: an update is converted, compressed, and becomes a frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.compress import Group, Plan, plan
from flwr_co3.config import CO3Config
from flwr_co3.convert import Converted, convert
from flwr_co3.frame import EMPTY, FrameReader, TensorSpec, values_of, write_frame
from flwr_co3.gennorm import BLOCK
from flwr_co3.rate import largest_within
from flwr_co3.update import Update, is_exact

Array = npt.NDArray[Any]


class TensorReport(NamedTuple):
    """What became of one tensor."""

    bytes: float  # of its symbols, in a shared stream; without the frame's header
    entries: int
    shape: float  # of the generalised normal fitted to it; NaN for exact and all-zero tensors
    scale: float  # of that fit, in the units of the update
    nmse: float  # squared error over squared norm; 0 for exact tensors


class Report(NamedTuple):
    """What an encoding did."""

    frame_bytes: int
    parameters: int  # entries of all tensors
    bits_per_parameter: float
    nmse: float  # squared error over squared norm of all tensors that are not exact
    tensors: dict[str, TensorReport]


class Encoded(NamedTuple):
    """A frame, with what its receiver will see."""

    frame: bytes
    sent: dict[str, Array]  # what decoding gives; zeros for tensors that a tiny budget left out
    report: Report


class Codec:
    """Turns updates into frames and back.

    Parameters
    ----------
    config : CO3Config (default: CO3Config())
        How to encode. Decoding needs none: a frame describes itself.
    seed : int, optional
        Seed of stochastic rounding; by default every codec draws differently.

    Examples
    --------
    >>> import numpy as np
    >>> update = {"layer.weight": np.random.default_rng(0).laplace(size=(300, 100)).astype("float32")}
    >>> codec = Codec(CO3Config(format="fp4"))
    >>> frame = codec.encode(update)
    >>> update["layer.weight"].nbytes // len(frame)
    11
    >>> codec.decode(frame)["layer.weight"].shape
    (300, 100)
    """

    def __init__(self, config: CO3Config | None = None, *, seed: int | None = None) -> None:
        self.config = CO3Config() if config is None else config
        self._format = self.config.float_format
        self._rng = np.random.default_rng(seed) if self.config.rounding == "stochastic" else None

    def encode(self, update: Mapping[str, Array]) -> bytes:
        """Encode an update; see `compress`, which tells more of what it did."""
        return self.compress(update).frame

    def decode(
        self, frame: bytes, *, like: Mapping[str, TensorSpec] | None = None, max_bytes: int | None = None
    ) -> dict[str, Array]:
        """Decode a frame.

        Parameters
        ----------
        frame : bytes
            What `encode` returned, here or elsewhere, with any settings.
        like, max_bytes
            What the receiver expects and allows; see `FrameReader`.

        Returns
        -------
        dict of str to ndarray
            The tensors in the order they were encoded in; nothing for the empty update.

        Raises
        ------
        FrameError
            If anything about the frame is wrong.
        """
        reader = FrameReader(frame, like=like, max_bytes=max_bytes)
        reader.verify()
        return {name: reader.read(name) for name in reader.tensors}

    def is_exact(self, name: str, array: Array) -> bool:
        """Whether a tensor travels without loss: it is no float, or small, or its name is among the exact ones."""
        return is_exact(name, array, self.config)

    def compress(self, update: Mapping[str, Array], *, max_bytes: int | None = None) -> Encoded:
        """Encode an update, and report what became of it.

        Parameters
        ----------
        update : mapping of str to ndarray
            Tensors by name, of any shape, byte order and layout: float16, float32, float64 and (with ml_dtypes)
            bfloat16 are converted; integers, booleans and complex numbers travel without loss.
        max_bytes : int, optional
            Another hard limit on the frame, besides the config's; the tighter one holds.

        Returns
        -------
        Encoded
            The frame, the update as its receiver will see it, and a report.

        Raises
        ------
        ValueError
            If a tensor holds NaN or infinity, or has a dtype that no frame can hold: the message names it. If there
            are more tensors than a frame can hold. If `max_bytes` is below 1.
        """
        checked = Update.of(update, self.config)
        if max_bytes is not None and max_bytes < len(EMPTY):
            raise ValueError(f"max_bytes is {max_bytes}, and even the empty update takes {len(EMPTY)} byte.")
        limits = [] if max_bytes is None else [max_bytes]
        if self.config.rate is not None:
            limits.append(self.config.rate.bytes_for(checked.parameters))
        if limits:
            return self._within(min(limits), checked)
        if self.config.scale == "optimal":
            return self._at(checked.optimal_scales, checked)
        return self._at(dict.fromkeys(checked.header.lossy, float(self.config.scale)), checked)

    def _within(self, budget: int, update: Update) -> Encoded:
        """Encode with the least loss that so many bytes allow."""
        nothing = self._frame_of_zeros(update)
        if len(nothing) > budget:
            nothing = EMPTY
        else:
            best = largest_within(budget, len(nothing), update, lambda scales: self._at(scales, update))
            if best is not None:
                return best
        kept = update.header.exact if nothing != EMPTY else frozenset()
        sent = {
            name: self._sent(tensor if name in kept else np.zeros_like(tensor), None)
            for name, tensor in update.tensors.items()
        }
        return Encoded(nothing, sent, _report(nothing, update, sent, {}))

    def _frame_of_zeros(self, update: Update) -> bytes:
        """The smallest frame that has every tensor's name and every exact tensor."""
        scales = dict.fromkeys(update.header.lossy, 1.0)
        return write_frame(update.header, scales, [Plan.zeros()] * len(update.header.groups), update.exact.values())

    def _at(self, scales: Mapping[str, float], update: Update) -> Encoded:
        """Encode at a scale for each tensor that is converted."""
        header = update.header
        converted = {name: convert(self._format, update.tensors[name], scales[name], self._rng) for name in scales}
        plans = [
            plan(_group([converted[name] for name in names], names, update), self._format.edges, header.coder == "rans")
            for names in header.groups
        ]
        frame = write_frame(header, scales, plans, update.exact.values())
        sent = {name: self._sent(tensor, converted.get(name)) for name, tensor in update.tensors.items()}
        symbol_bytes = {}
        for names, p in zip(header.groups, plans, strict=True):
            bytes_per_entry = p.bits / 8 / sum(update.tensors[name].size for name in names)
            symbol_bytes.update({name: bytes_per_entry * update.tensors[name].size for name in names})
        return Encoded(frame, sent, _report(frame, update, sent, symbol_bytes))

    def _sent(self, tensor: Array, converted: Converted | None) -> Array:
        """What the receiver decodes."""
        if converted is None:
            return tensor.astype(tensor.dtype.newbyteorder("="))
        # Indexing with no dimension gives a scalar.
        return np.asarray(values_of(self._format, converted.scale, tensor.dtype.name)[converted.symbols])


def _group(members: list[Converted], names: list[str], update: Update) -> Group:
    """Tensors that share a model, as the compressor wants them."""
    symbols = members[0].symbols.reshape(-1)
    if len(members) > 1:
        symbols = np.concatenate([m.symbols.reshape(-1) for m in members])
    fits = update.fits(names, [m.scale for m in members])
    return Group(symbols, sum((m.counts for m in members[1:]), members[0].counts), update.header.format.zero, *fits)


def _report(frame: bytes, update: Update, sent: Mapping[str, Array], symbol_bytes: Mapping[str, float]) -> Report:
    """Measure what an encoding did to an update."""
    tensors, error, power = {}, 0.0, 0.0
    unit = max((moments.peak for moments in update.moments.values()), default=0.0) or 1.0
    for name, tensor in update.tensors.items():
        if name in update.header.exact:
            tensors[name] = TensorReport(tensor.nbytes, tensor.size, math.nan, math.nan, 0.0)
            continue
        peak = update.moments[name].peak if name in update.moments else 0.0
        lost, whole = _squares(tensor, sent[name], peak or 1.0)
        error, power = error + lost * (peak / unit) ** 2, power + whole * (peak / unit) ** 2
        model = update.model(name)
        tensors[name] = TensorReport(
            symbol_bytes.get(name, 0.0),
            tensor.size,
            model.shape if model else math.nan,
            model.scale if model else math.nan,
            lost / whole if whole else 0.0,
        )
    bits = 8 * len(frame) / max(update.parameters, 1)
    return Report(len(frame), update.parameters, bits, error / power if power else 0.0, tensors)


def _squares(v: Array, sent: Array, unit: float) -> tuple[float, float]:
    """Squared norms of what was lost and of what there was, in a unit that keeps both within float64's range."""
    v, sent = v.reshape(-1), sent.reshape(-1)
    lost = whole = 0.0
    for start in range(0, v.size, BLOCK):
        block = v[start : start + BLOCK].astype(np.float64) / unit
        whole += float(np.square(block).sum())
        block -= sent[start : start + BLOCK].astype(np.float64) / unit
        lost += float(np.square(block, out=block).sum())
    return lost, whole
