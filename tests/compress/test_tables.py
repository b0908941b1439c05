"""Tables in a few bytes: what is written is what is read, and the cheapest is chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_co3.compress.frequencies import TOTAL, cost_of, cost_of_bytes
from flwr_co3.compress.tables import (
    Fit,
    counted,
    decode_positive,
    decode_shape,
    encode_positive,
    encode_shape,
    fitted,
    fitted_zero_share,
    read_counted,
    read_fitted,
)
from flwr_co3.convert import FloatFormat
from flwr_co3.errors import FrameError
from flwr_co3.wire import Reader
from tests.samples import gennorm

pytestmark = pytest.mark.usefixtures("engine")

COUNTS = st.lists(st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 10**9)), min_size=1, max_size=255)


@given(COUNTS, st.booleans())
def test_counted_tables_are_read_as_written(counts: list[int], mirrored: bool) -> None:
    array = np.array(counts)
    if not array.any():
        array[-1] = 3
    table = counted(array, mirrored)
    assert table.frequencies.sum() == TOTAL
    assert np.all(table.frequencies[array > 0] > 0)
    assert table.cost == cost_of(array, table.frequencies)
    assert table.size == table.cost + cost_of_bytes(len(table.header))
    reader = Reader(table.header, "table")
    np.testing.assert_array_equal(read_counted(reader, array.size), table.frequencies)
    reader.finish()


@pytest.mark.parametrize(
    ("name", "entries"), [("fp4", 1), ("fp4", 30), ("fp4", 1000), ("fp4", 10**7), ("fp8", 10**5), ("fp8", 10**7)]
)
def test_counted_tables_cost_next_to_nothing(name: str, entries: int) -> None:
    """Over the entropy of the counts: a few bytes for a few entries, a per mille for many."""
    fmt = FloatFormat(name)
    symbols = fmt.quantize(gennorm(0.8, min(entries, 100_000)), 2.0)
    counts = np.bincount(symbols, minlength=fmt.levels.size) * max(1, entries // 100_000)
    used = counts[counts > 0]
    entropy = float(np.sum(used * np.log2(counts.sum() / used))) / 8
    assert counted(counts).size / cost_of_bytes(1) <= 1.002 * entropy + min(entries, 2 * used.size) + 6


@given(
    st.integers(1, 123),
    st.floats(0.2, 4),
    st.floats(1e-6, 1e6),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
)
def test_fitted_tables_are_read_as_written(reach: int, shape: float, width: float, zeros: int, others: int) -> None:
    edges = FloatFormat("fp8").edges[:reach]
    counts = np.full(2 * reach + 1, others)
    counts[reach] = zeros
    for table, zero_share in (
        (fitted(counts, edges, Fit.of(shape, width)), False),
        (fitted_zero_share(counts, edges, Fit.of(shape, width)), True),
    ):
        assert table.frequencies.sum() == TOTAL and table.frequencies.min() >= 1
        reader = Reader(table.header, "table")
        np.testing.assert_array_equal(read_fitted(reader, edges, zero_share), table.frequencies)
        reader.finish()
        assert len(table.header) == 3 + 2 * zero_share


def test_a_zero_share_is_what_it_says() -> None:
    fmt = FloatFormat("fp4")
    counts = np.array([0, 1, 2, 3, 10, 960, 11, 4, 2, 1, 0])
    table = fitted_zero_share(counts, fmt.edges, Fit.of(0.9, 1.0))
    assert table.frequencies[5] / TOTAL == pytest.approx(960 / counts.sum(), abs=1e-4)
    assert table.size < fitted(counts, fmt.edges, Fit.of(0.9, 1.0)).size


@given(st.floats(0.2, 4))
def test_shapes_on_the_wire(shape: float) -> None:
    code = encode_shape(shape)
    assert 0 <= code <= 255
    assert 0.2 <= decode_shape(code) <= 4
    assert decode_shape(code) == pytest.approx(shape, rel=0.03)


@given(st.floats(2.0**-1022, 1.7e308))
def test_positive_numbers_on_the_wire(value: float) -> None:
    decoded = decode_positive(encode_positive(value))
    assert decoded == pytest.approx(value, rel=1 / 64)
    assert encode_positive(decoded) == encode_positive(value)


def test_positive_numbers_beyond_the_range_become_its_ends() -> None:
    assert decode_positive(encode_positive(5e-324)) == 2.0**-1022
    assert decode_positive(encode_positive(float("inf"))) == decode_positive(encode_positive(1.797e308))


@pytest.mark.parametrize("code", [0, 31, 0xFFE0, 0xFFFF])
def test_codes_of_no_number_are_refused(code: int) -> None:
    with pytest.raises(FrameError, match="is no scale or width"):
        decode_positive(code)


def test_bad_tables_are_refused() -> None:
    for precision in (0, 15, 0x80, 0x80 | 14, 0x7F):
        with pytest.raises(FrameError, match="claims a precision"):
            read_counted(Reader(bytes([precision, 0, 0, 0, 0]), "table"), 5)
    with pytest.raises(FrameError, match="exceed their sum"):
        read_counted(Reader(b"\x05\xff\xff\xff", "table"), 5)
    with pytest.raises(FrameError, match="ends early"):
        read_counted(Reader(b"\x05", "table"), 5)
    edges = FloatFormat("fp4").edges
    for share in (0, TOTAL - 9, TOTAL):
        with pytest.raises(FrameError, match="gives level 0 a frequency"):
            read_fitted(Reader(bytes([100, 0, 0x3F]) + share.to_bytes(2, "little"), "table"), edges, True)
