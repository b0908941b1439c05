"""Reading and writing the small things of a frame: bytes, integers of varying length, bits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from flwr_co3.errors import FrameError


class Writer(bytearray):
    """A growing run of bytes. Integers are little-endian."""

    def u8(self, value: int) -> None:
        """Append one byte."""
        self.append(value)

    def u16(self, value: int) -> None:
        """Append two bytes."""
        self += value.to_bytes(2, "little")

    def varint(self, value: int) -> None:
        """Append a non-negative integer, as `varint` writes it."""
        self += varint(value)

    def block(self, data: bytes) -> None:
        """Append a varint with the length, then the bytes."""
        self += varint(len(data))
        self += data


@lru_cache(maxsize=4096)  # sizes of layers recur
def varint(value: int) -> bytes:
    """Write a non-negative integer in groups of 7 bits, least significant first (LEB128)."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """An integer of either sign as one that is not negative: 0, -1, 1, -2, .. become 0, 1, 2, 3, .."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(code: int) -> int:
    """Reverse `zigzag`."""
    return code // 2 if code % 2 == 0 else -(code + 1) // 2


def inflate(data: bytes | memoryview, size: int, inflater: Any) -> bytes | None:
    """Inflate to exactly `size` bytes, and never to more; None if it is not so many, or if anything follows.

    `inflater` is a new one of zlib's; what it raises is raised.
    """
    raw: bytes = inflater.decompress(data, size + 1)
    return raw if len(raw) == size and inflater.eof and not inflater.unused_data else None


class Reader:
    """A cursor over bytes that never reads past their end.

    Parameters
    ----------
    data : bytes-like
        What is read.
    what : str
        What the bytes are, for error messages.
    """

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = memoryview(data)
        self._size = len(self._data)
        self._at = 0
        self._what = what

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self._size - self._at

    def take(self, count: int) -> memoryview:
        """Read `count` bytes, without a copy."""
        start, end = self._at, self._at + count
        if end > self._size:
            raise FrameError(f"The {self._what} ends early: {count} bytes wanted, {self.left} left.")
        self._at = end
        return self._data[start:end]

    def u8(self) -> int:
        """Read one byte."""
        at = self._at
        if at == self._size:
            self.take(1)  # says what is wrong
        self._at = at + 1
        return self._data[at]

    def ahead(self, count: int) -> memoryview:
        """Look at so many bytes, or as many as there are."""
        return self._data[self._at : self._at + count]

    def u16(self) -> int:
        """Read two bytes."""
        return int.from_bytes(self.take(2), "little")

    def varint(self, limit: int) -> int:
        """Read an integer of varying length that must not exceed `limit`."""
        byte = self.u8()
        value, shift = byte & 0x7F, 7
        while byte >= 0x80:
            if shift > 63:
                raise FrameError(f"A number in the {self._what} is longer than 64 bits.")
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
        if value > limit:
            raise FrameError(f"A number in the {self._what} is {value}, above the {limit} possible here.")
        return value

    def block(self) -> memoryview:
        """Read a length and that many bytes."""
        return self.take(self.varint(self.left))

    def finish(self) -> None:
        """Raise unless all has been read."""
        if self.left:
            raise FrameError(f"The {self._what} has {self.left} bytes too many.")


def write_bits(fields: list[tuple[int, int]]) -> bytes:
    """Concatenate (value, bits) fields, first field least significant, filled with zeros to whole bytes."""
    number = width = 0
    for value, bits in fields:
        number |= value << width
        width += bits
    return number.to_bytes(-(-width // 8), "little")


class BitReader:
    """Reads the fields that `write_bits` wrote, a byte at a time as they are needed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._number = self._width = 0

    def bits(self, count: int) -> int:
        """Read one field."""
        while self._width < count:
            self._number |= self._reader.u8() << self._width
            self._width += 8
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        self._width -= count
        return value
