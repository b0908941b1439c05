"""Damages to frames."""

import zlib

import numpy as np


def corrected(frame: bytes) -> bytes:
    """The frame with the checksum of its bytes."""
    return frame[:-4] + zlib.crc32(frame[:-4]).to_bytes(4, "little")


def damage(frame: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut, insert, duplicate, move or overwrite pieces at random, now and then several times."""
    data = bytearray(frame)
    for _ in range(int(rng.geometric(0.7))):
        size = len(data)
        at = int(rng.integers(size))
        length = int(min(rng.geometric(0.1), size - at))
        piece = bytes(data[at : at + length])
        match rng.integers(8):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.bytes(length)
            case 4:
                data[at:at] = piece
            case 5:
                data[at : at + length] = rng.bytes(length)
            case 6:
                del data[at : at + length]
                target = int(rng.integers(len(data) + 1))
                data[target:target] = piece
            case _:
                data = data[: max(at, 1)]
        if not data:
            return b""
    return bytes(data)
