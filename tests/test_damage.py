"""Damaged and forged frames.

What must hold, by class:

- The checksum is as it was: FrameError, always. (CRC-32 finds every burst of up to 32 bits; of other damages it misses
  one in 4 billion, and the seeds here are fixed.)
- A length is edited (any size or count that the frame states), the lengths of what surrounds it and the checksum are
  corrected, and the receiver says what it expects, as a Flower server does: FrameError, or the very same arrays.
- Anything is edited and the checksum corrected: such a frame may be a valid one of other numbers, just as if its
  sender had meant them, since a scale or a table of frequencies is as good as another. So: FrameError, or finite
  arrays of the dtypes and shapes that the frame announces (those that the receiver expects, where it says so).

And whatever the bytes are: no other exception, no memory beyond what the receiver allows, no decoding without end.
"""

import re
import sys
import time
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from flwr_co3 import frame as frame_module
from flwr_co3.codec import Codec
from flwr_co3.errors import FrameError
from flwr_co3.frame import EMPTY, FrameReader, TensorSpec
from flwr_co3.wire import Reader, Writer
from tests.bounds import bounded_memory
from tests.damages import corrected, damage
from tests.kinds import kinds
from tests.samples import Array

KINDS = {name: kind for name, kind in kinds().items() if name != "empty update"}
each_kind = pytest.mark.parametrize("name", KINDS)

ALLOWED = 1 << 20  # bytes of decoded tensors; the frames here hold a tenth of it
OVERHEAD = 4 << 20  # tables, and what Python itself takes
SECONDS = 10.0  # of processor time, for milliseconds of work: the bound is for what would never end


def same(found: dict[str, Array], expected: dict[str, Array]) -> bool:
    return list(found) == list(expected) and all(
        TensorSpec.of(found[name]) == TensorSpec.of(tensor) and found[name].tobytes() == tensor.tobytes()
        for name, tensor in expected.items()
    )


def decode(frame: bytes, like: dict[str, TensorSpec] | None = None) -> dict[str, Array] | None:
    """Decode within the limits; None for FrameError, which must be a sentence."""
    start = time.process_time()
    try:
        return Codec().decode(frame, like=like, max_bytes=ALLOWED)
    except FrameError as error:
        assert re.fullmatch(r"[A-Z].*[.?]", str(error), re.DOTALL), f"no sentence: {error}"
        return None
    finally:
        assert time.process_time() - start < SECONDS


@each_kind
def test_random_damages_are_noticed(name: str) -> None:
    """Some 10,000 over all kinds: the checksum is not corrected."""
    frame = KINDS[name].frame()
    expected = Codec().decode(frame)
    rng = np.random.default_rng(len(name))
    count = 0
    while count < 540:
        damaged = damage(frame, rng)
        count += damaged != frame
        found = decode(damaged)
        if found is None:
            assert damaged != frame
        else:
            assert same(found, expected)
            assert damaged in (frame, EMPTY)


@each_kind
def test_every_flipped_bit_and_every_cut_is_noticed(name: str) -> None:
    frame = KINDS[name].frame()
    step = max(1, len(frame) // 300)
    for at in range(0, len(frame), step):
        for bit in range(0, 8, 3):
            flipped = bytearray(frame)
            flipped[at] ^= 1 << bit
            assert decode(bytes(flipped)) is None
        assert decode(frame[:at]) is None
        assert decode(frame[: at + 1] + frame[at:]) is None


@each_kind
def test_forged_frames_are_refused_or_hold_what_they_announce(name: str) -> None:
    """Some 2,000 over all kinds: random damages with a corrected checksum, without and with a receiver's model."""
    frame = KINDS[name].frame()
    expected = Codec().decode(frame)
    like = {tensor: TensorSpec.of(array) for tensor, array in expected.items()}
    rng = np.random.default_rng(len(name))
    outcomes: Counter[str] = Counter()
    for _ in range(110):
        # Behind the magic and the version, where it is decided how a frame is read.
        damaged = corrected(frame[:4] + damage(frame[4:], rng))
        announced = announcement(damaged)
        for receiver in (None, like):
            found = decode(damaged, receiver)
            if found is None:
                outcomes["refused"] += 1
                continue
            assert announced is not None
            specs = {tensor: TensorSpec.of(array) for tensor, array in found.items()}
            assert specs == announced
            assert receiver is None or specs == receiver
            reader = FrameReader(damaged)
            for tensor, array in found.items():
                assert tensor in reader.exact or np.all(np.isfinite(array.astype("f8"))), "not finite"
            outcomes["same" if same(found, expected) else "other"] += 1
    assert outcomes["refused"] > 50, outcomes


def announcement(frame: bytes) -> dict[str, TensorSpec] | None:
    """What a frame says it holds."""
    try:
        return FrameReader(frame).tensors
    except FrameError:
        return None


@each_kind
def test_forged_frames_take_no_more_memory_than_allowed(name: str) -> None:
    frame = KINDS[name].frame()
    rng = np.random.default_rng(len(name))
    for _ in range(25):
        forged = corrected(frame[:4] + damage(frame[4:], rng))
        with bounded_memory(4 * ALLOWED + OVERHEAD):
            decode(forged)


# -- lengths ----------------------------------------------------------------------------------------------------------


class Length(NamedTuple):
    """A size or count that a frame states."""

    start: int
    end: int
    value: int
    varint: bool


def lengths_of(frame: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Length], list[Length]]:
    """Where a frame (with a table that is not deflated) states lengths, and which of these are of whole sections."""
    data = np.frombuffer(frame, np.uint8)
    found: list[Length] = []
    sections: list[Length] = []
    read_varint, read_u8 = Reader.varint, Reader.u8

    def note(reader: Reader, at: int, value: int, varint: bool) -> Length | None:
        inside = np.frombuffer(reader._data, np.uint8)
        start = inside.ctypes.data + at - data.ctypes.data
        if not (inside.size and 0 <= start < len(frame)):
            return None
        length = Length(start, start + reader._at - at, value, varint)
        found.append(length)
        return length

    def varint(reader: Reader, limit: int) -> int:
        at, value = reader._at, read_varint(reader, limit)
        caller = sys._getframe(1)
        name = caller.f_code.co_name
        # The fields of the number format, and the largest magnitude of a group, are numbers but no lengths.
        largest_magnitude = name == "_read_plain" and "reach" not in caller.f_locals
        if name != "_read_format" and not largest_magnitude:
            length = note(reader, at, value, True)
            if name == "block" and reader._what == "frame" and length is not None:
                sections.append(length)
        return value

    def u8(reader: Reader) -> int:
        at, value = reader._at, read_u8(reader)
        if sys._getframe(1).f_code.co_name == "_read_rans":
            note(reader, at, value, False)
        return value

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "varint", varint)
        patch.setattr(Reader, "u8", u8)
        Codec().decode(frame)
    return found, sections


def varint_bytes(value: int) -> bytes:
    out = Writer()
    out.varint(value)
    return bytes(out)


def edited(frame: bytes, length: Length, value: int, sections: list[Length]) -> bytes:
    """The frame with another length, that of the section around it fitted, and the checksum corrected."""
    new = varint_bytes(value) if length.varint else bytes([value & 0xFF])
    growth = len(new) - (length.end - length.start)
    data = frame[: length.start] + new + frame[length.end :]
    for section in sections:
        if growth and section.end <= length.start < section.end + section.value:
            size = varint_bytes(section.value + growth)
            data = data[: section.start] + size + data[section.end :]
    return corrected(data)


@pytest.mark.parametrize("name", [name for name in KINDS if "layers" not in name])  # see tests/test_layers.py
def test_edited_lengths_are_noticed_or_harmless(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deflate = frame_module._deflate
    monkeypatch.setattr(frame_module, "_deflate", lambda data: deflate(data) + data)  # so that tables stay plain
    frame = KINDS[name].frame()
    expected = Codec().decode(frame)
    like = {tensor: TensorSpec.of(array) for tensor, array in expected.items()}
    lengths, sections = lengths_of(frame, monkeypatch)
    assert len(lengths) >= 3 and len(sections) == 3
    outcomes: Counter[str] = Counter()
    for length in lengths:
        near = {max(length.value + d, 0) for d in (-17, -2, -1, 1, 2, 3, 64)} | {
            length.value ^ 1 << k for k in range(8)
        }
        far = {0, length.value // 2, 2 * length.value, 127, 128, 1 << 14, 1 << 31, 1 << 48, (1 << 63) - 1}
        for value in sorted((near | far) - {length.value}):
            found = decode(edited(frame, length, value, sections), like)
            assert found is None or same(found, expected), f"{length} became {value}"
            outcomes["refused" if found is None else "same"] += 1
    assert outcomes["refused"] > 20 * len(lengths) // 2, outcomes


@pytest.mark.parametrize("name", ["fp4 rans", "fp8 huffman", "sparse", "listed", "exact", "constant", "zeros"])
def test_edited_lengths_take_no_more_memory_than_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a receiver's model: shapes and counts may claim what they like."""
    deflate = frame_module._deflate
    monkeypatch.setattr(frame_module, "_deflate", lambda data: deflate(data) + data)
    frame = KINDS[name].frame()
    lengths, sections = lengths_of(frame, monkeypatch)
    for length in lengths[::3]:
        for value in (length.value + 1, 1 << 17, 1 << 18, 1 << 30, (1 << 63) - 1):
            with bounded_memory(4 * ALLOWED + OVERHEAD):
                decode(edited(frame, length, value, sections))
