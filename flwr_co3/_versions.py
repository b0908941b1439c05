"""The model as clients hold it: its versions, and how a frame makes the next of one.

Server and client run the same code here, so that both come to the same bits.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flwr_co3._protocol import may_be_known
from flwr_co3.codec import Codec
from flwr_co3.encoded import Encoded
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader, TensorSpec

_BELOW_STEP = 12  # bits: what is lost is far below what a step loses, and 12 are left for weights of many steps

Tensor = NDArray[Any]
Tensors = dict[str, Tensor]


class Version(NamedTuple):
    """Name of a version: 8 bytes on the wire."""

    number: int
    checksum: int

    @classmethod
    def of(cls, number: int, tensors: Mapping[str, NDArray[Any]]) -> "Version":
        """Name a model."""
        checksum = 0
        for name, tensor in sorted(tensors.items()):
            checksum = zlib.crc32(f"{name} {tensor.dtype} {tensor.shape}".encode(), checksum)
            checksum = zlib.crc32(np.ascontiguousarray(tensor).data, checksum)
        return cls(number, checksum)

    @classmethod
    def read(cls, data: object) -> "Version":
        """Read what `write` wrote.

        Raises
        ------
        ValueError
            If it is something else.
        """
        if not isinstance(data, bytes) or len(data) != 8:
            raise ValueError(f"A version of the model is named by 8 bytes, not by {data!r}.")
        return cls(int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little"))

    @property
    def is_nothing(self) -> bool:
        """Whether it is a version without tensors, from which a frame brings the whole model."""
        return self.checksum == Version.of(self.number, {}).checksum

    def write(self) -> bytes:
        """Return the name as bytes."""
        return self.number.to_bytes(4, "little") + self.checksum.to_bytes(4, "little")


def difference(new: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    """Return what changed, in at least float32."""
    with np.errstate(invalid="ignore", over="ignore"):  # the codec says which tensor is not finite
        return np.asarray(np.subtract(new, old, dtype=_at_least_single(old)))  # numpy makes scalars of 0-d arrays


def as_it_travels(tensor: NDArray[Any], exact: bool) -> TensorSpec:
    """Return the specification of what a frame has of a tensor: its update, or its value where it is exact."""
    if exact or tensor.dtype.kind != "f":
        return TensorSpec.of(tensor)
    return TensorSpec(_at_least_single(tensor).name, tensor.shape)


def _at_least_single(tensor: NDArray[Any]) -> "np.dtype[Any]":
    """Return the type in which a tensor's updates travel: half precision is too coarse for them."""
    return np.result_type(tensor.dtype, np.float32)


def step(codec: Codec, old: Tensors, new: Tensors) -> bytes:
    """Return a frame that brings the old version near the new one: updates, and new values of exact tensors.

    Raises
    ------
    ValueError
        If the tensors are others than in the old version, or one holds NaN or infinity.
    """
    return encoded(codec, changes(codec, old, new), old).frame


def changes(codec: Codec, old: Tensors, new: Tensors) -> Tensors:
    """Return what a frame from the old version to the new one is to hold.

    Raises
    ------
    ValueError
        If the tensors are others than in the old version.
    """
    if new.keys() != old.keys():
        raise ValueError("It does not have the tensors of the version before.")
    update = {name: _change(codec, name, old[name], tensor) for name, tensor in new.items()}
    for name in _table(old) or ():
        if update[name].dtype != old[name].dtype:
            raise ValueError(f"Tensor '{name}' is {update[name].dtype}, and was {old[name].dtype} before.")
    return update


def encoded(codec: Codec, update: Tensors, old: Tensors) -> Encoded:
    """Encode what is to be added to a version, for those who hold it.

    Raises
    ------
    ValueError
        If a tensor holds NaN or infinity.
    """
    return codec.compress(update, known=_table(old) is not None)


def reader_of(frame: bytes, tensors: Tensors) -> FrameReader:
    """Return a reader of a frame for those who hold the version that it starts from.

    Raises
    ------
    FrameError
        If the frame is damaged, or of another model.
    """
    # Half precision travels as float32.
    most = 2 * sum(tensor.nbytes for tensor in tensors.values()) + 1024
    reader = FrameReader(frame, like=_table(tensors), max_bytes=most)
    for name, spec in reader.tensors.items():
        if name not in tensors or tensors[name].shape != spec.shape:
            raise FrameError(
                f"The frame is of another model: tensor '{name}' of shape {spec.shape} is not in this one."
            )
    reader.verify()
    return reader


def _table(tensors: Tensors) -> dict[str, TensorSpec] | None:
    """Return the table of tensors that frames from this version leave out; None where it may become another one.

    Half precision travels as float32.
    """
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if may_be_known(dtypes) and all(dtype.itemsize >= 4 for dtype in dtypes):
        return {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}
    return None


def _change(codec: Codec, name: str, old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    if new.shape != old.shape:
        raise ValueError(f"Tensor '{name}' has shape {new.shape}, and had {old.shape} in the version before.")
    if codec.is_exact(name, new):
        return new
    if new.dtype.name != old.dtype.name:  # FedAvg makes fractions of whole numbers
        raise ValueError(f"Tensor '{name}' is {new.dtype}, and was {old.dtype} in the version before.")
    return difference(new, old)


def advanced(tensors: Tensors, frame: bytes) -> Tensors:
    """Return the version that a frame makes of another; tensors that the frame has not stay the same objects.

    Of no tensors at all it makes those of the frame.

    Raises
    ------
    FrameError
        If the frame is damaged, or of another model.
    """
    if not tensors:
        return Codec().decode(frame)
    reader = reader_of(frame, tensors)
    return {name: _next(tensor, reader, name) for name, tensor in tensors.items()}


def _next(tensor: Tensor, reader: FrameReader, name: str) -> Tensor:
    if name not in reader.tensors:  # it did not fit into the budget
        return tensor
    value = reader.read(name)
    if name in reader.exact:
        return value
    start = start_of(tensor, value, reader.step(name))
    return np.asarray(np.add(start, value, dtype=np.result_type(tensor.dtype, value.dtype)), tensor.dtype)


def start_of(tensor: Tensor, update: Tensor, step: float | None) -> Tensor:
    """Return what an update is added to: a tensor, rounded so that its sum with multiples of the step is exact.

    So updates of one step may be added before or after: `flwr_co3._merging`. Half precision is too coarse for that.
    """
    if step is None or tensor.dtype.itemsize < 4 or not update.any():
        return tensor
    unit = math.frexp(step)[1] - _BELOW_STEP
    peak = math.frexp(float(max(tensor.max(), -tensor.min())))[1]
    limits = np.finfo(tensor.dtype)
    # Sums with weights so large are rounded at least as much; and a factor must be a number that the type has.
    if peak - unit > limits.nmant or unit < limits.minexp:
        return tensor
    rounded: Tensor = np.asarray(tensor * tensor.dtype.type(2.0**-unit))  # numpy makes scalars of 0-d arrays
    np.rint(rounded, out=rounded)
    rounded *= tensor.dtype.type(2.0**unit)
    return rounded
