"""Updates by the directions in which they go: few numbers for each tensor, where a budget holds few for all entries.

The update of a matrix of weights is nearly a sum of few products of a column and a row (PowerSGD, arXiv 1905.13727).
Some of these directions are those in which the model moved in the rounds before, and the server sends them with the
model; a few new ones travel with the update. Of a tensor with M as its matrix, one row for each output, a frame has

    M = U C V' + sum of g p q'

where the columns of U and V are the known directions: their core C, new columns p and rows q, and a gain g for each
pair. All of them are tensors of an ordinary frame, so that one step serves them all: a budget goes where it counts.
"""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flwr_co3.codec import Codec, Seed
from flwr_co3.config import MOST_DIRECTIONS, CO3Config
from flwr_co3.correct import ErrorMemory
from flwr_co3.encoded import Encoded
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader, TensorSpec, dtype_name, narrowed
from flwr_co3.rate import RateLimit
from flwr_co3.schemes.body import Body

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

# Names of what stands for a tensor begin with its own; no tensor of a model has this character in its name.
_CORE, _COLUMNS, _ROWS, _GAINS = "\0core", "\0columns", "\0rows", "\0gains"

_LEAST_SIDE = 8  # rows or columns; tensors of fewer are sent as they are
_BITS = 1.5  # for each number of a new direction: so many directions are tried as a budget then has room for
# Gains are sent in so many steps of 1: that of vectors which lost nothing to rounding, or less.
_GAIN_STEPS = 200
_LARGEST = 1e100  # of a number that is sent: products of three are far from where float64 ends
_HEAD = 2  # bytes before the frame of known directions: how many of these a tensor has, and how many new ones
_DIRECTIONS = CO3Config(format="fp4", exact=(), exact_below=0)
_EXACT_BELOW = 64  # sides: singular vectors of smaller matrices cost nothing
_NOTHING = 1e-6  # of the largest singular value
_SPARE, _PASSES = 6, 2  # more random directions than are wanted, and how often they are refined


class Triplets(NamedTuple):
    """Singular vectors and values of a matrix, the largest first."""

    columns: Floats  # shape (k, rows)
    values: Floats  # shape (k,)
    rows: Floats  # shape (k, columns)


def leading(matrix: Floats, rank: int) -> Triplets:
    """Return about the leading singular vectors and values of a matrix.

    Parameters
    ----------
    matrix : ndarray of float64, shape (m, n)
        The matrix, finite.
    rank : int
        How many, at most m and n.

    Notes
    -----
    Random directions, refined by products with the matrix and its transpose (Halko, Martinsson and Tropp, SIAM Review
    53, 2011, algorithm 4.4), the same ones for each call. Exact for small matrices.
    """
    if min(matrix.shape) > _EXACT_BELOW:
        found = np.random.default_rng(0).standard_normal((matrix.shape[1], rank + _SPARE))
        for _ in range(_PASSES):
            found = np.linalg.qr(matrix.T @ np.linalg.qr(matrix @ found)[0])[0]
        columns = np.linalg.qr(matrix @ found)[0]
        inner, values, rows = np.linalg.svd(columns.T @ matrix, full_matrices=False)
        columns = columns @ inner
    else:
        columns, values, rows = np.linalg.svd(matrix, full_matrices=False)
    return Triplets(columns[:, :rank].T, values[:rank], rows[:rank])


class Sent(NamedTuple):
    """An update by directions."""

    frame: bytes
    update: dict[str, Array]  # what the frame decodes to
    nmse: float  # squared error over squared norm of all tensors that are not exact


class Layout:
    """Which tensors are sent by directions, and as what: known to both ends.

    Parameters
    ----------
    specs : mapping of str to TensorSpec
        The model's tensors as they travel.
    exact : collection of str
        Those that travel without loss.
    known, new : int
        Directions of each tensor that both ends know, and others that travel along: at most, since no tensor has more
        than rows or columns.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], exact: Collection[str], known: int, new: int) -> None:
        self.tensors = dict(specs)
        self.exact = frozenset(exact)
        self.known, self.new = known, new
        self.matrices = matrices_of(specs, exact)

    def within(self, budget: int) -> Layout:
        """Return the same with as many new directions as an update of so many bytes is given to choose from."""
        return Layout(self.tensors, self.exact, self.known, new_directions(budget, self.matrices))

    @property
    def head(self) -> bytes:
        """What is written before a frame of known directions."""
        return bytes([self.known, self.new])

    def ranks(self, name: str) -> tuple[int, int]:
        """Known and new directions of a tensor."""
        most = min(self.matrices[name])
        return min(self.known, most), min(self.new, most)

    @cached_property
    def factors(self) -> dict[str, TensorSpec]:
        """What stands for the tensors in a frame."""
        found: dict[str, TensorSpec] = {}
        for name in sorted(self.tensors):
            if name not in self.matrices:
                found[name] = self.tensors[name]
                continue
            (known, new), (rows, columns) = self.ranks(name), self.matrices[name]
            found[name + _CORE] = TensorSpec("float64", (known, known))
            found[name + _COLUMNS] = TensorSpec("float64", (new, rows))
            found[name + _ROWS] = TensorSpec("float64", (new, columns))
        found[_GAINS] = TensorSpec("uint8", (sum(self.ranks(name)[1] for name in self.matrices),))
        return found

    @cached_property
    def directions(self) -> dict[str, TensorSpec]:
        """What the known directions are, two tensors for each."""
        found: dict[str, TensorSpec] = {}
        for name, (rows, columns) in sorted(self.matrices.items()):
            known = self.ranks(name)[0]
            found[name + _COLUMNS] = TensorSpec("float32", (known, rows))
            found[name + _ROWS] = TensorSpec("float32", (known, columns))
        return found

    @cached_property
    def gains(self) -> dict[str, slice]:
        """Where each tensor's gains are."""
        found, start = {}, 0
        for name in sorted(self.matrices):
            found[name] = slice(start, start + self.ranks(name)[1])
            start = found[name].stop
        return found


def matrices_of(specs: Mapping[str, TensorSpec], exact: Collection[str]) -> dict[str, tuple[int, int]]:
    """Return rows and columns of the tensors that can be sent by directions."""
    found = {}
    for name, spec in specs.items():
        if name not in exact and len(spec.shape) > 1:
            rows, columns = spec.shape[0], math.prod(spec.shape[1:])
            if min(rows, columns) >= _LEAST_SIDE:
                found[name] = rows, columns
    return found


def new_directions(budget: int, matrices: Mapping[str, tuple[int, int]]) -> int:
    """How many new directions of each tensor an update of so many bytes is given to choose from, at least one."""
    each = sum(rows + columns for rows, columns in matrices.values())
    return min(max(round(8 * budget / (_BITS * max(each, 1))), 1), MOST_DIRECTIONS)


class Subspace:
    """The directions that both ends know.

    Parameters
    ----------
    layout : Layout
        The tensors, and how many directions they have.
    directions : mapping of str to ndarray
        What `Layout.directions` says.

    Raises
    ------
    FrameError
        If a direction is no direction: it came over the network.
    """

    def __init__(self, layout: Layout, directions: Mapping[str, Array]) -> None:
        self.layout = layout
        self.directions = {name: array.astype(np.float64) for name, array in directions.items()}
        for name, array in self.directions.items():
            _check_size(array, name)

    @classmethod
    def read(cls, data: bytes, specs: Mapping[str, TensorSpec], exact: Collection[str]) -> Subspace:
        """Read a layout's head and a frame of `directions_of`, for a model of these tensors.

        Raises
        ------
        FrameError
            If it is no such thing.
        """
        if len(data) < _HEAD + 1 or 0 in data[:_HEAD]:
            raise FrameError(f"Directions begin with two numbers above 0, not with {data[:_HEAD].hex() or 'nothing'}.")
        layout = Layout(specs, exact, known=data[0], new=data[1])
        reader = FrameReader(data[_HEAD:], like=layout.directions)
        found = reader.read_all() or {name: np.zeros(spec.shape) for name, spec in layout.directions.items()}
        return cls(layout, found)

    def compress(
        self,
        update: Mapping[str, Array],
        config: CO3Config,
        memory: ErrorMemory,
        *,
        max_bytes: int | None = None,
        known: bool = False,
        seed: Seed | None = None,
    ) -> Sent:
        """Encode an update with what its memory holds, and keep what that loses: see `Codec.compress`.

        Raises
        ------
        ValueError
            As `encode`, and if neither the config nor `max_bytes` limits the frame.
        """
        budget = config.budget(sum(tensor.size for tensor in update.values()), max_bytes)
        if budget is None:
            raise ValueError("An update by directions needs a limit of its bytes, and none was given.")
        v = memory.compensate(update)
        sent = self.encode(v, config, budget, known=known, seed=seed)
        if memory.decay:
            lossy = {name: tensor for name, tensor in sent.update.items() if name not in self.layout.exact}
            memory.keep(v, lossy)
        return sent

    def encode(
        self, v: Mapping[str, Array], config: CO3Config, budget: int, *, known: bool = False, seed: Seed | None = None
    ) -> Sent:
        """Encode an update.

        Parameters
        ----------
        v : mapping of str to ndarray
            The update with what the memory adds to it: the layout's tensors.
        config : CO3Config
            How numbers are coded.
        budget : int
            Bytes that the frame may have; with no room for anything the empty update is sent.
        known, seed
            As for `Codec`.

        Raises
        ------
        ValueError
            If a tensor holds NaN or infinity, or numbers whose products float64 can't hold.
        """
        exact = tuple(glob.escape(name) for name in [*self.layout.exact, _GAINS])
        config = dataclasses.replace(config, rate=RateLimit(bytes_per_round=budget), exact=exact, exact_below=0)
        draws = int(np.random.default_rng(seed).integers(1 << 62))  # the same for all that is encoded

        def encoded(factors: Mapping[str, Array]) -> Encoded:
            return Codec(config, seed=draws).compress(factors, known=known)

        factors = self._factored(v)
        # Gains make up for what rounding does to columns and rows, which shows with any others: all take as many bytes.
        shape = self.layout.factors[_GAINS].shape
        any_gains = np.random.default_rng(0).integers(1, 256, shape, np.uint8)
        gains = self._gains(v, encoded({**factors, _GAINS: any_gains}).sent)
        sent = self._sent(v, encoded({**factors, _GAINS: gains}))
        if sent.nmse <= 1:
            return sent
        nothing = {
            name: array if name in self.layout.exact else np.zeros_like(array) for name, array in factors.items()
        }
        return self._sent(v, encoded({**nothing, _GAINS: np.zeros(shape, np.uint8)}))

    def _sent(self, v: Mapping[str, Array], encoded: Encoded) -> Sent:
        update = {name: self.tensor(name, encoded.sent.__getitem__) for name in v}
        lossy = [name for name in v if name not in self.layout.exact]
        lost = sum(_power(v[name].astype(np.float64) - update[name]) for name in lossy)
        power = sum(_power(v[name]) for name in lossy)
        return Sent(encoded.frame, update, lost / power if power else 0.0)

    def tensor(self, name: str, read: Callable[[str], Array]) -> Array:
        """Make a tensor of what stands for it, which `read` gets by name."""
        layout = self.layout
        if name not in layout.matrices:
            return read(name)
        (columns, rows), sizes = _directed(read(name + _COLUMNS), read(name + _ROWS))
        gains = read(_GAINS)[layout.gains[name]] / _GAIN_STEPS * sizes
        known = self.directions[name + _COLUMNS].T @ read(name + _CORE)
        left = np.concatenate([known, columns.T * gains], axis=1)
        right = np.concatenate([self.directions[name + _ROWS], rows])
        spec = layout.tensors[name]
        return narrowed((left @ right).reshape(spec.shape), spec.dtype)

    def _factored(self, v: Mapping[str, Array]) -> dict[str, Array]:
        """What stands for the tensors, but for the gains."""
        found: dict[str, Array] = {}
        for name in sorted(v):
            if name not in self.layout.matrices:
                found[name] = _of_type(v[name], self.layout.tensors[name])
                continue
            matrix = self._matrix(name, v)
            _check_matrix(matrix, name)
            core, rest = self._known_part(name, matrix)
            new = leading(rest, self.layout.ranks(name)[1])
            found[name + _CORE] = core
            # In units of the matrix: then errors count alike, whatever they are of.
            found[name + _COLUMNS] = new.columns * new.values[:, np.newaxis]
            found[name + _ROWS] = new.rows * new.values[:, np.newaxis]
        return found

    def _matrix(self, name: str, v: Mapping[str, Array]) -> Floats:
        return v[name].astype(np.float64).reshape(self.layout.matrices[name])

    def _known_part(self, name: str, matrix: Floats) -> tuple[Floats, Floats]:
        """The core that comes nearest to a matrix, and what is left of that."""
        columns, rows = self.directions[name + _COLUMNS], self.directions[name + _ROWS]
        core = np.linalg.pinv(columns.T) @ matrix @ np.linalg.pinv(rows)
        return core, matrix - columns.T @ core @ rows

    def _gains(self, v: Mapping[str, Array], sent: Mapping[str, Array]) -> npt.NDArray[np.uint8]:
        """What each pair of a column and a row is multiplied by, so that least is lost."""
        gains = np.zeros(self.layout.factors[_GAINS].shape, np.uint8)
        for name, places in self.layout.gains.items():
            (columns, rows), sizes = _directed(sent[name + _COLUMNS], sent[name + _ROWS])
            known = columns @ self.directions[name + _COLUMNS].T @ sent[name + _CORE] @ self.directions[name + _ROWS]
            wanted = np.sum((columns @ self._matrix(name, v) - known) * rows, axis=1)
            # One after the other: each pair makes up for what those before it have of its direction.
            shared, taken = (columns @ columns.T) * (rows @ rows.T), np.zeros(len(sizes))
            for k in np.flatnonzero(sizes):
                best = float(wanted[k] - shared[k] @ taken) / sizes[k]
                gain = min(max(round(_GAIN_STEPS * best), 0), 255)
                taken[k] = gain / _GAIN_STEPS * sizes[k]
                gains[places.start + k] = gain
        return gains


class SubspaceReader(FrameReader):
    """A frame of an update by directions, read as the update.

    Parameters
    ----------
    frame : bytes
        The frame.
    subspace : Subspace
        The directions that its sender was told.

    Raises
    ------
    FrameError
        As for `FrameReader`.
    """

    def __init__(self, frame: bytes, subspace: Subspace) -> None:
        self._factors, self._subspace = FrameReader(frame, like=subspace.layout.factors), subspace
        some = bool(self._factors.tensors)
        self.tensors = dict(subspace.layout.tensors) if some else {}
        self.exact = subspace.layout.exact if some else frozenset()

    @property
    def body(self) -> Body | None:
        """What another scheme coded of it."""
        return self._factors.body

    def read(self, name: str) -> Array:
        """Return a tensor."""
        return self._subspace.tensor(name, self._factors.read)

    def read_all(self) -> dict[str, Array]:
        """Return all tensors."""
        return {name: self.read(name) for name in self.tensors}

    def add_to(self, total: Mapping[str, Array], weight: float = 1.0) -> None:
        """Add the update, times a weight, to arrays in place."""
        for name, array in total.items():
            update = self.read(name)
            array += update * update.dtype.type(weight)

    def verify(self) -> None:
        """Decode all numbers, and raise FrameError unless that works, and all that is made of them is finite."""
        self._factors.verify()
        for name in self._factors.tensors:
            if name not in self._subspace.layout.tensors and name != _GAINS:
                _check_size(self._factors.read(name), name)

    def close(self) -> None:
        """Drop what was decoded."""
        self._factors.close()


def directions_of(layout: Layout, matrices: Mapping[str, Floats]) -> bytes:
    """Return a frame of the matrices' leading directions; `Subspace.read` reads it after the layout's head."""
    directions: dict[str, Array] = {}
    for name, matrix in matrices.items():
        found = leading(matrix, layout.ranks(name)[0])
        # Where nothing moved, no direction is better than another.
        some = (found.values > _NOTHING * found.values[:1])[:, np.newaxis]
        directions[name + _COLUMNS] = np.asarray(found.columns * some, np.float32)
        directions[name + _ROWS] = np.asarray(found.rows * some, np.float32)
    return Codec(_DIRECTIONS).compress(directions, known=True).frame


def _directed(columns: Array, rows: Array) -> tuple[list[Floats], Floats]:
    """Columns and rows of norm 1, or 0, and the geometric mean of the norms that each pair had."""
    norms = [np.linalg.norm(each, axis=1, keepdims=True) for each in (columns, rows)]
    units = [
        np.divide(a, norm, out=np.zeros_like(a), where=norm > 0) for a, norm in zip((columns, rows), norms, strict=True)
    ]
    return units, np.sqrt(norms[0][:, 0]) * np.sqrt(norms[1][:, 0])


def _of_type(array: Array, spec: TensorSpec) -> Array:
    """A tensor in the type in which it travels: with a memory it has a wider one."""
    return array if dtype_name(array.dtype) == spec.dtype else narrowed(array, spec.dtype)


def _power(array: Array) -> float:
    return float(np.sum(np.square(array, dtype=np.float64)))


def _check_matrix(matrix: Floats, name: str) -> None:
    """Refuse an update that can't be factored."""
    if not np.isfinite(matrix).all():
        raise ValueError(f"Tensor {name!r} holds NaN or infinity: nothing was encoded. Has the training diverged?")
    if matrix.size * float(np.abs(matrix).max()) > _LARGEST:
        raise ValueError(f"Tensor {name!r} holds numbers too large to be multiplied: leave out CO3Config subspace.")


def _check_size(array: Array, name: str) -> None:
    if not np.abs(array).max(initial=0) < _LARGEST:
        raise FrameError(f"{name!r} has numbers of {_LARGEST:g} and more, whose products have no end.")
