"""The server's side of a round: what a client sent becomes a model again, one tensor at a time."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flwr_co3._average import NewWeights, Sum
from flwr_co3._protocol import may_be_known
from flwr_co3._versions import as_it_travels
from flwr_co3.config import CO3Config
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader, TensorSpec, lossy_names, numpy_dtype
from flwr_co3.rate import RateLimit
from flwr_co3.subspace import Subspace, SubspaceReader
from flwr_co3.update import is_exact

Loaders: TypeAlias = Mapping[str, Callable[[], NDArray[Any]]]  # how to get each tensor

NUMPY_STYPE = "numpy.ndarray"  # how Flower serialises arrays


class SentModel:
    """The model as one round's clients were sent it.

    Parameters
    ----------
    tensors : Mapping[str, Callable[[], NDArray]]
        How to get each tensor: the model is not held in memory a second time.
    config : CO3Config
        The settings that the clients were sent.
    """

    def __init__(self, tensors: Loaders, config: CO3Config) -> None:
        self._tensors = dict(tensors)
        self.specs: dict[str, TensorSpec] = {}
        self.like: dict[str, TensorSpec] = {}
        self.parameters = 0
        self.exact: set[str] = set()  # names of the tensors that travel without loss
        for name, load in self._tensors.items():
            array = load()
            self.specs[name] = TensorSpec.of(array)
            exact = is_exact(name, self.specs[name], config)
            self.like[name] = as_it_travels(array, exact)
            self.parameters += array.size
            self.exact.update([name] if exact else [])
        self._subspaces: dict[bytes, Subspace] = {}  # by what clients were told of them
        scheme = config.other_scheme
        self._scheme = None if scheme is None else scheme.name
        known = may_be_known(numpy_dtype(spec.dtype) for spec in self.like.values())
        self.lossy = lossy_names(dict(sorted(self.like.items())) if known else self.like, self.exact)

    def load(self, name: str) -> NDArray[Any]:
        """Return a fresh copy of one tensor."""
        return self._tensors[name]()

    def open(self, frame: bytes, rate: RateLimit | None, directions: bytes | None = None) -> FrameReader:
        """Open a client's frame, and decode all of it to make sure that this can be done; close the reader after use.

        Parameters
        ----------
        frame : bytes
            The frame.
        rate : RateLimit or None
            The limit that the client was told.
        directions : bytes or None (default: None)
            The directions that it was told, if any.

        Raises
        ------
        FrameError
            If the frame is damaged, larger than what the client may send, or not an update of this model.
        """
        if rate is not None and len(frame) > (limit := rate.bytes_for(self.parameters)):
            raise FrameError(f"The frame has {len(frame)} bytes, more than the {limit} that the rate allows.")
        reader = FrameReader(frame, like=self.like) if directions is None else self._by_directions(frame, directions)
        if reader.body is not None and reader.body.scheme.name != self._scheme:
            raise FrameError(f"The frame is of the scheme {reader.body.scheme.name}, which was not asked for.")
        reader.verify()
        for name in reader.exact:
            _check_finite(reader.read(name), name)
        return reader

    def _by_directions(self, frame: bytes, directions: bytes) -> SubspaceReader:
        if directions not in self._subspaces:
            self._subspaces[directions] = Subspace.read(directions, self.like, self.exact)
        return SubspaceReader(frame, self._subspaces[directions])

    def restore(self, reader: FrameReader, name: str) -> NDArray[Any]:
        """Return one tensor of a client's model: its new value, or what was sent plus the update."""
        received = self.load(name)
        if name not in reader.tensors:  # it did not fit into the client's budget
            return received
        value = reader.read(name)
        if name not in reader.exact:
            value = np.add(received, value, dtype=np.result_type(received.dtype, value.dtype))
        return np.asarray(value, received.dtype)

    def check(self, tensors: Loaders) -> None:
        """Raise ValueError unless these are finite tensors of this model's names and shapes."""
        if tensors.keys() != self.specs.keys():
            unequal = sorted(tensors.keys() ^ self.specs.keys())
            raise ValueError(f"It does not hold the tensors that were sent: '{unequal[0]}' is only on one side.")
        for name, load in tensors.items():
            array = load()
            if array.shape != self.specs[name].shape:
                raise ValueError(
                    f"Tensor '{name}' has shape {array.shape}, and was sent with {self.specs[name].shape}."
                )
            _check_finite(array, name)


class Desk:
    """Where replies are decoded.

    Parameters
    ----------
    averaging : bool (default: False)
        Whether the strategy does nothing but average: tensors are then promises of `flwr_co3._average`.

    Notes
    -----
    All tensors of a frame are decoded together and kept, as one byte an entry, until the reply has been
    read through and the next is begun. A strategy that reads reply after reply, as most do, has one at a
    time in memory. One that reads each tensor of all replies in turn (FedMedian) has them all, instead of
    decoding each anew for every tensor.
    """

    def __init__(self, averaging: bool = False) -> None:
        self.averaging = averaging
        self.seconds = 0.0
        self._current: FrameReader | None = None
        self._unread: dict[FrameReader, set[str]] = {}  # of the readers that keep decoded symbols
        self._sums: dict[SentModel, Sum] = {}

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time that decoding takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def restore(self, model: SentModel, reader: FrameReader, name: str) -> NDArray[Any]:
        """Decode one tensor of one reply."""
        with self.timed():
            return model.restore(self.at_hand(reader, name), name)

    def at_hand(self, reader: FrameReader, name: str) -> FrameReader:
        """Return a reply's reader before one of its tensors is read."""
        if reader is not self._current:
            if self._current is not None and not self._unread[self._current]:
                self._close(self._current)
            self._current = reader
        self._unread.setdefault(reader, set(reader.tensors)).discard(name)
        return reader

    def add(self, model: SentModel, reader: FrameReader, weight: float) -> None:
        """Add an update to the sum of those of its model."""
        with self.timed():
            self._sums.setdefault(model, Sum(model)).add(reader, weight)

    def sum_of(self, model: SentModel) -> Sum | None:
        """Return the sum of updates of a model, if there is one."""
        return self._sums.get(model)

    def clear(self) -> None:
        """Let go of all decoded symbols."""
        for reader in list(self._unread):
            self._close(reader)
        self._current = None
        self._sums.clear()

    def _close(self, reader: FrameReader) -> None:
        reader.close()
        del self._unread[reader]


class DecodedArray(Array):
    """A tensor of a compressed reply, decoded each time that it is asked for.

    To a strategy it is a Flower Array with the client's new weights. A server that holds a hundred replies
    holds a hundred small frames, not a hundred models.
    """

    def __init__(self, model: SentModel, reader: FrameReader, name: str, desk: Desk) -> None:
        self.dtype, self.shape = model.specs[name]
        self.stype = NUMPY_STYPE
        self._decode: Callable[[], NDArray[Any]] = lambda: desk.restore(model, reader, name)
        self._promise: Callable[[], Any] = lambda: NewWeights(name, model, reader, desk)
        self._averaged = desk.averaging and name not in reader.exact

    def numpy(self) -> NDArray[Any]:
        """Return the client's new value of the tensor, or a promise of it to a strategy that averages."""
        promised: NDArray[Any] = self._promise() if self._averaged else self._decode()
        return promised

    @property
    def data(self) -> bytes:  # type: ignore[override]  # Array keeps it; here it is made on demand
        """The tensor, serialised as Flower does it."""
        buffer = BytesIO()
        np.save(buffer, self._decode(), allow_pickle=False)
        return buffer.getvalue()

    def deflate(self) -> bytes:
        """Serialise as a plain Array: a receiver knows no other."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()


def decoded_record(model: SentModel, reader: FrameReader, desk: Desk) -> ArrayRecord:
    """Return the ArrayRecord that a client would have sent without compression, not yet decoded."""
    record = ArrayRecord()  # its constructor would copy the arrays, and so decode them
    for name in model.specs:
        record[name] = DecodedArray(model, reader, name, desk)
    return record


def plain_record(record: ArrayRecord) -> ArrayRecord:
    """Return a record without tensors that are still to be decoded."""
    if not any(isinstance(array, DecodedArray) for array in record.values()):
        return record
    return ArrayRecord(dict(record))  # its constructor makes plain Arrays


def loaders(record: ArrayRecord) -> Loaders:
    """Return how to get each tensor of a record."""
    return {name: array.numpy for name, array in record.items()}


def _check_finite(array: NDArray[Any], name: str) -> None:
    if array.dtype.kind not in "fciub" or not np.isfinite(array).all():
        raise FrameError(f"Tensor '{name}' does not hold finite numbers.")
