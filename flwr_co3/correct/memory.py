"""Error feedback with memory decay: what was not sent this time rides along the next time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3.moments import Source, contiguous, measure

Array = npt.NDArray[Any]

MEMORY_DTYPES = ("float32", "bfloat16", "float16")
_BFLOAT16_MAX = (2 - 2**-7) * 2.0**127


class ErrorMemory:
    """Memory of what the conversion lost: ``v = g + decay e``, ``e = v - sent``.

    Parameters
    ----------
    decay : float (default: 1.0)
        Share of the stored error that is added to the next update, 0 to 1. The stored error itself is not decayed.
    dtype : str (default: "float32")
        How errors are stored: "float32", or "bfloat16" or "float16" in half the space. bfloat16, which numpy lacks, is
        stored as the upper 16 bits of float32, in uint16.
    state : mapping of str to ndarray, optional
        The `state` of an earlier memory of the same dtype, to go on from. Its arrays are never written to.

    Notes
    -----
    What was sent up to any round T is all that was to be sent, but for what decayed and what is still stored (the leak
    identity): ``sum_t q_t = sum_t g_t - (1 - decay) sum_{0<t<T} e_t - e_T``.

    Examples
    --------
    >>> import numpy as np
    >>> memory = ErrorMemory(decay=0.5)
    >>> v = memory.compensate({"w": np.array([1.0, 0.25])})
    >>> memory.keep(v, {"w": np.array([1.0, 0.0])})
    >>> memory.compensate({"w": np.array([0.0, 0.25])})["w"].tolist()
    [0.0, 0.375]
    """

    def __init__(self, decay: float = 1.0, dtype: str = "float32", state: Mapping[str, Array] | None = None) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"ErrorMemory decay must lie within 0 to 1, not be {decay!r}.")
        if dtype not in MEMORY_DTYPES:
            raise ValueError(f"ErrorMemory dtype must be one of {', '.join(MEMORY_DTYPES)}, not {dtype!r}.")
        self.decay = decay
        self.dtype = dtype
        self._stored_dtype = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        self._stored: dict[str, Array] = {}
        for name, error in (state or {}).items():
            if error.dtype != self._stored_dtype:
                raise ValueError(
                    f"The stored memory of tensor {name!r} is {error.dtype}, but a memory of dtype {dtype} stores "
                    f"{self._stored_dtype}."
                )
            self._stored[name] = error
        # Arrays that nobody else has, so that they may be written to.
        self._own: set[str] = set()

    @classmethod
    def adopt(cls, decay: float, dtype: str, state: Mapping[str, Array]) -> ErrorMemory:
        """Go on from arrays that nobody else uses, such as those just read from a store: they may be written to."""
        memory = cls(decay, dtype, state)
        memory._own = {name for name, error in state.items() if error.flags.writeable}
        return memory

    @property
    def state(self) -> dict[str, Array]:
        """The stored errors by tensor name: what a store keeps. Shapes are the tensors'."""
        self._own.clear()
        return dict(self._stored)

    @property
    def empty(self) -> bool:
        """Whether nothing is stored."""
        return not self._stored

    @property
    def norm(self) -> float:
        """Euclidean norm of all stored errors, in the units of the update."""
        errors = measure([Source(contiguous(self._load(name)), None) for name in self._stored], 0.0)
        squares = errors.mean_square * errors.entries
        return float(np.sqrt(np.sum(squares * errors.peak**2))) if np.isfinite(errors.peak).all() else math.inf

    def compensate(self, update: Mapping[str, Array]) -> dict[str, Array]:
        """Add the decayed memory to an update.

        Parameters
        ----------
        update : mapping of str to ndarray
            What is to be sent, by tensor name. It is not changed.

        Returns
        -------
        dict of str to ndarray
            The update with its memory, tensor by tensor in at least float32. Tensors without a memory are the same
            objects as given. If a tensor's shape is not that of its memory, this memory is dropped with a warning.
        """
        self._drop_misfits(update)
        return {
            name: self._add(tensor, name) if self.decay and name in self._stored else tensor
            for name, tensor in update.items()
        }

    def step_ahead(self, model: Mapping[str, Array], share: float) -> dict[str, Array]:
        """Add a share of the decayed memory to the model to train from: ``w + share decay e`` [1]_.

        Parameters
        ----------
        model : mapping of str to ndarray
            Tensors by name. They are not changed.
        share : float
            Step-ahead coefficient, 0 to 1.

        Returns
        -------
        dict of str to ndarray
            The model, of the same types. Tensors without a memory, and those whose type cannot hold the sum, are the
            same objects as given.

        References
        ----------
        .. [1] Redie, Arablouei, Werner: SA-PEF: Step-Ahead Partial Error Feedback for Efficient Federated Learning,
           TMLR 2026.
        """
        ahead = dict(model)
        for name in model.keys() & self._stored.keys():
            with np.errstate(over="ignore"):
                start = self._add(model[name], name, share).astype(model[name].dtype)
            if np.isfinite(start).all():
                ahead[name] = start
        return ahead

    def addend(self, name: str, tensor: Array) -> Array | None:
        """Return the stored error of a tensor if the sum can be formed in one pass with what follows, else None.

        That is where both are float32 and contiguous: ``tensor + decay * addend`` is what `compensate` returns.
        """
        error = self._stored.get(name) if self.decay else None
        if error is None or not error.dtype == tensor.dtype == np.float32 or error.shape != tensor.shape:
            return None
        return error if error.flags.c_contiguous and error.flags.aligned else None

    def place(self, name: str, tensor: Array) -> Array:
        """Return where the next error of a tensor may be written, contiguous: the old one's place, if it is ours."""
        old = self._stored.get(name) if name in self._own else None
        dtype = np.promote_types(tensor.dtype, np.float32)
        if old is not None and (old.dtype, old.shape) == (dtype, tensor.shape) and old.flags.carray:
            return old
        return np.empty(tensor.shape, dtype)

    def replace(self, errors: Mapping[str, Array]) -> None:
        """Store these errors, and forget all others. The arrays belong to the memory from now on."""
        if self.decay:
            self._stored = {name: self._store(error) for name, error in errors.items()}
            self._own = set(errors)

    def _drop_misfits(self, update: Mapping[str, Array]) -> None:
        for name in [n for n in self._stored if n in update and self._stored[n].shape != np.shape(update[n])]:
            warnings.warn(
                f"The memory of tensor {name!r} has shape {self._stored[name].shape}, but the tensor has shape "
                f"{np.shape(update[name])} now: its memory is dropped.",
                stacklevel=3,
            )
            del self._stored[name]

    def keep(self, v: Mapping[str, Array], sent: Mapping[str, Array]) -> None:
        """Store what `v` had and `sent` has not, for all tensors of `sent`; forget all others.

        Parameters
        ----------
        v : mapping of str to ndarray
            What `compensate` returned.
        sent : mapping of str to ndarray
            What the receiver will decode, with the shapes of `v`.
        """
        self.replace({name: _difference(v[name], values) for name, values in sent.items()})

    def put_back(self, sent: Mapping[str, Array]) -> None:
        """Take back what was sent and did not arrive: ``e = e + sent``, which is all of ``v``.

        The memory is then what it would be had nothing been sent: a lost update counts as an empty one. It is put back
        undecayed, as the stored error is; both decay when they are used.

        Parameters
        ----------
        sent : mapping of str to ndarray
            What the receiver would have decoded. Tensors without a memory, such as exact ones, are passed over.

        Raises
        ------
        ValueError
            If a tensor's shape is not that of its memory.
        """
        for name in sent.keys() & self._stored.keys():
            if sent[name].shape != self._stored[name].shape:
                raise ValueError(
                    f"Tensor {name!r} of the update to put back has shape {sent[name].shape}, but its memory has shape "
                    f"{self._stored[name].shape}."
                )
        for name, values in sent.items():
            if name in self._stored:
                self._stored[name] = self._store(_sum(self._load(name), values))

    def _add(self, tensor: Array, name: str, share: float = 1.0) -> Array:
        work = np.promote_types(tensor.dtype, np.float32) if tensor.dtype.kind == "f" else np.dtype(np.float32)
        total = self._load(name).astype(work)  # a copy of its own
        total *= work.type(share * self.decay)
        total += tensor.astype(work, copy=False)
        return total

    def _load(self, name: str) -> Array:
        stored = self._stored[name]
        if self.dtype != "bfloat16":
            return stored
        return (stored.astype(np.uint32) << 16).view(np.float32)

    def _store(self, error: Array) -> Array:
        if error.dtype == self._stored_dtype == np.float32:
            return error
        limit = _BFLOAT16_MAX if self.dtype == "bfloat16" else float(np.finfo(self._stored_dtype).max)
        error = np.asarray(np.clip(error, -limit, limit))  # an error that is too large is kept as far as the dtype goes
        if self.dtype != "bfloat16":
            return np.asarray(error, self._stored_dtype)
        bits = error.astype(np.float32).view(np.uint32)
        # To the nearest, ties to even: half of the dropped part, and one more where the kept part is odd.
        return np.asarray((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, np.uint16)


def _difference(v: Array, sent: Array) -> Array:
    work = np.promote_types(v.dtype, np.float32) if v.dtype.kind == "f" else np.dtype(np.float32)
    return np.asarray(np.subtract(v.astype(work, copy=False), sent.astype(work, copy=False)))


def _sum(error: Array, sent: Array) -> Array:
    work = np.promote_types(sent.dtype, np.float32)
    return np.asarray(np.add(error.astype(work, copy=False), sent.astype(work, copy=False)))
