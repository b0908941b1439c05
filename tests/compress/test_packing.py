"""Packed symbols come back, and their frequencies are the products of the single ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_co3.compress.frequencies import TOTAL, normalize
from flwr_co3.compress.packing import pack, pack_factor, packed_frequencies, unpack

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize(
    ("alphabet", "factor"),
    [(2, 8), (3, 5), (4, 4), (5, 3), (6, 3), (7, 2), (11, 2), (15, 2), (16, 2), (17, 1), (255, 1), (256, 1)],
)
def test_as_many_as_fit_a_byte(alphabet: int, factor: int) -> None:
    assert pack_factor(alphabet) == factor


@given(st.integers(2, 256), st.integers(0, 40), st.randoms(use_true_random=False), st.data())
def test_packed_symbols_come_back(alphabet: int, size: int, random: object, data: st.DataObject) -> None:
    symbols = np.array(data.draw(st.lists(st.integers(0, alphabet - 1), min_size=size, max_size=size)), np.uint8)
    for factor in range(1, pack_factor(alphabet) + 1):
        packed = pack(symbols, alphabet, factor, alphabet - 1)
        assert packed.size == -(-size // factor)
        np.testing.assert_array_equal(unpack(packed, alphabet, factor, size), symbols)
        if factor > 1 and size % factor:
            filled = unpack(packed, alphabet, factor, packed.size * factor)
            assert np.all(filled[size:] == alphabet - 1)


def test_any_byte_unpacks_to_symbols_of_the_alphabet() -> None:
    for alphabet in (3, 5, 11):
        factor = pack_factor(alphabet)
        assert unpack(np.arange(256, dtype=np.uint8), alphabet, factor, 256 * factor).max() == alphabet - 1


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=16))
def test_packed_frequencies_are_products(counts: list[int]) -> None:
    single = normalize(np.array(counts) + (np.arange(len(counts)) == 0))
    share = single / TOTAL
    for factor in range(1, pack_factor(single.size) + 1):
        joint = share
        for _ in range(factor - 1):
            joint = np.multiply.outer(share, joint).reshape(-1)
        packed = packed_frequencies(single, factor)
        assert packed.sum() == TOTAL and packed.size == single.size**factor
        np.testing.assert_array_equal(packed > 0, joint > 0)
        difference = np.sort(packed - joint * TOTAL)
        assert np.all(difference[:-1] <= 1.01)
        assert difference[-1] <= packed.size  # one takes what rounding left over


def test_the_first_symbol_is_the_least_significant() -> None:
    assert pack(np.array([1, 0, 2], np.uint8), 3, 3, 0).tolist() == [1 + 0 * 3 + 2 * 9]
    frequencies = packed_frequencies(np.array([TOTAL // 2, TOTAL // 4, TOTAL // 4]), 2)
    biased = packed_frequencies(normalize(np.array([8, 4, 1])), 2)
    assert frequencies[0] == TOTAL // 4
    assert biased[1] == biased[3]  # 1 then 0, and 0 then 1
