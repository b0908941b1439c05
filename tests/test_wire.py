"""Small things of the wire: integers of varying length, bits, and a reader that never reads too far."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_co3.errors import FrameError
from flwr_co3.wire import BitReader, Reader, Writer, write_bits


@given(st.lists(st.integers(0, (1 << 63) - 1)), st.binary(max_size=300))
def test_what_is_written_is_read(numbers: list[int], data: bytes) -> None:
    out = Writer()
    for number in numbers:
        out.varint(number)
    out.block(data)
    out.u16(513)
    out.u8(255)
    reader = Reader(bytes(out), "test")
    assert [reader.varint(1 << 63) for _ in numbers] == numbers
    assert bytes(reader.block()) == data
    assert (reader.u16(), reader.u8(), reader.left) == (513, 255, 0)
    reader.finish()


def test_integers_are_leb128() -> None:
    for number, encoded in ((0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (624485, b"\xe5\x8e\x26")):
        out = Writer()
        out.varint(number)
        assert bytes(out) == encoded


@given(st.lists(st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, (1 << n) - 1), st.just(n)))))
def test_bits_are_read_as_written(fields: list[tuple[int, int]]) -> None:
    data = write_bits(fields)
    assert len(data) == (sum(bits for _, bits in fields) + 7) // 8
    reader = Reader(data, "bits")
    bits = BitReader(reader)
    assert [(bits.bits(count), count) for _, count in fields] == fields
    reader.finish()


def test_a_reader_says_what_is_wrong_and_where() -> None:
    with pytest.raises(FrameError, match="The table ends early: 3 bytes wanted, 2 left"):
        Reader(b"ab", "table").take(3)
    with pytest.raises(FrameError, match="number in the table is 300, above the 299 possible"):
        Reader(b"\xac\x02", "table").varint(299)
    with pytest.raises(FrameError, match="longer than 64 bits"):
        Reader(b"\x80" * 20, "table").varint(1 << 63)
    with pytest.raises(FrameError, match="ends early"):
        Reader(b"\x80", "table").varint(1 << 63)
    with pytest.raises(FrameError, match="2 bytes wanted, 1 left"):
        Reader(b"\x02a", "table").block()
    with pytest.raises(FrameError, match="The table has 2 bytes too many"):
        Reader(b"ab", "table").finish()
    with pytest.raises(FrameError, match="ends early"):
        BitReader(Reader(b"a", "table")).bits(9)
