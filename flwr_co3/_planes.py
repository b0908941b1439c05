"""Whole models without loss, in some 20 % fewer bytes: what a float's exponent leaves of its 8 bits.

The weights of a model are of a few magnitudes, while their mantissas are noise. Bit patterns are rotated by one, so
that the sign comes last and the exponent has a byte of its own; then all last bytes follow one another, and all bytes
before them, and so on. Deflate finds short codes for the exponents, and stores the rest as it is. There is little to
find by matching strings, so that runs and Huffman codes alone (Z_RLE) are both smaller and faster.
"""

import math
import zlib
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flwr_co3.errors import FrameError
from flwr_co3.wire import inflate

PLANES_STYPE = "flwr_co3.planes"  # an Array's serialisation type
FLOATS = ("<f2", "<f4", "<f8")  # all that is packed


def packed(record: ArrayRecord) -> ArrayRecord:
    """Return a record with the same tensors in fewer bytes; those that do not become smaller stay as they are."""
    return ArrayRecord({name: _packed(array) for name, array in record.items()})


def unpacked(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the tensors of a record, packed or not.

    Raises
    ------
    FrameError
        If one is damaged.
    """
    return {
        name: _unpacked(array, name) if array.stype == PLANES_STYPE else array.numpy() for name, array in record.items()
    }


def _packed(array: Array) -> Array:
    tensor = array.numpy()
    if tensor.dtype.str not in FLOATS:
        return array
    bits = tensor.reshape(-1).view(f"<u{tensor.itemsize}")
    rotated = bits << 1 | bits >> (8 * tensor.itemsize - 1)
    planes = np.ascontiguousarray(rotated.view(np.uint8).reshape(-1, tensor.itemsize).T)
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    data = deflate.compress(planes.data) + deflate.flush()
    if len(data) >= len(array.data):
        return array
    return Array(dtype=tensor.dtype.str, shape=tensor.shape, stype=PLANES_STYPE, data=data)


def _unpacked(array: Array, name: str) -> NDArray[Any]:
    dtype, shape = _form(array, name)
    size = dtype.itemsize * math.prod(shape)
    try:
        data = inflate(array.data, size, zlib.decompressobj())
    except zlib.error as error:
        raise FrameError(f"Tensor '{name}' of the whole model is damaged: {error}.") from error
    if data is None:
        raise FrameError(f"Tensor '{name}' of the whole model is damaged: it is not of {size} bytes.")
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    rotated = np.ascontiguousarray(planes.T).view(f"<u{dtype.itemsize}").reshape(shape)
    return np.asarray(rotated >> 1 | rotated << (8 * dtype.itemsize - 1)).view(dtype)


def _form(array: Array, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if array.dtype not in FLOATS or any(side < 0 for side in array.shape):
        raise FrameError(
            f"Tensor '{name}' of the whole model should be of floats, and is of {array.dtype}, in shape {array.shape}."
        )
    return np.dtype(array.dtype), tuple(array.shape)
