"""rANS: within a hair of the cross-entropy, the same bytes from both implementations, and back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3 import kernels
from flwr_co3.compress import rans
from flwr_co3.compress.frequencies import COST_BITS, TOTAL, cost_of, normalize
from flwr_co3.compress.packing import Packing, Sequence, pack_factor, packed_frequencies
from flwr_co3.compress.rans import Layout, decode, encode
from flwr_co3.errors import FrameError
from tests.engines import NUMPY, running

pytestmark = pytest.mark.usefixtures("engine")


def sequence(size: int, alphabet: int, seed: int, skew: float = 0.7) -> Sequence:
    rng = np.random.default_rng(seed)
    weights = np.maximum((1e6 * skew ** np.arange(alphabet)).astype(int), rng.integers(0, 2, alphabet))
    frequencies = normalize(rng.permutation(weights))
    symbols = rng.choice(alphabet, size=size, p=frequencies / TOTAL).astype(np.uint8)
    return Sequence(symbols, frequencies)


def layout(sequences: list[Sequence], lanes: int, rows: int) -> Layout:
    return Layout(tuple(s.symbols.size for s in sequences), lanes, rows)


def views(chunks: list[bytes]) -> list[memoryview]:
    return [memoryview(chunk) for chunk in chunks]


def joined(states: list[int], words: list[int]) -> bytes:
    """A chunk, from its states and words."""
    return np.array(states, "<u4").tobytes() + np.array(words, "<u2").tobytes()


def assert_round_trip(sequences: list[Sequence], lanes: int, rows: int) -> list[bytes]:
    chunks = encode(sequences, lanes, rows)
    found = decode(views(chunks), [s.frequencies for s in sequences], layout(sequences, lanes, rows))
    for symbols, expected in zip(found, sequences, strict=True):
        np.testing.assert_array_equal(symbols, expected.symbols)
    return chunks


CASES = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 400), min_size=1, max_size=5),
        "alphabet": st.sampled_from([1, 2, 3, 11, 100, 256]),
        "lanes": st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
        "rows": st.integers(1, 500),
        "seed": st.integers(0, 99),
        "skew": st.sampled_from([0.01, 0.5, 0.95, 1.0]),
    }
)


@given(
    st.integers(1, 8), st.integers(2, 16), st.lists(st.integers(1, 20_000), min_size=1, max_size=3), st.integers(0, 99)
)
@settings(deadline=None, max_examples=40)
def test_the_cost_of_symbols_is_that_of_each_packed_one(
    factor: int, alphabet: int, sizes: list[int], seed: int
) -> None:
    factor = min(factor, pack_factor(alphabet))
    single = [sequence(size, alphabet, seed + k) for k, size in enumerate(sizes)]
    packed = [
        Sequence(
            s.symbols + np.uint8(9), packed_frequencies(s.frequencies, factor), Packing(factor, alphabet, 9, filler)
        )
        for s in single
        for filler in [int(np.argmax(s.frequencies))]
    ]
    costs = [cost_of(np.bincount(s.packed(), minlength=s.frequencies.size), s.frequencies) for s in packed]
    assert rans.cost(packed) == sum(cost for cost in costs if cost is not None)


def case(sizes: list[int], alphabet: int, seed: int, skew: float, **_: Any) -> list[Sequence]:
    return [sequence(size, alphabet, seed + i, skew) for i, size in enumerate(sizes)]


@given(CASES)
@settings(deadline=None)
def test_symbols_come_back(params: dict[str, Any]) -> None:
    assert_round_trip(case(**params), params["lanes"], params["rows"])


@given(CASES)
@settings(deadline=None)
def test_plain_integers_and_numpy_write_the_same_stream(params: dict[str, Any]) -> None:
    sequences = case(**params)
    lanes, tables = params["lanes"], [s.frequencies for s in sequences]
    rows = sum(-(-s.symbols.size // lanes) for s in sequences)
    both, decoded = [], []
    for narrow_lanes in (0, 1 << 12):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rans, "_NARROW_LANES", narrow_lanes)
            assert layout(sequences, lanes, rows).narrow is (narrow_lanes > 0)
            (chunk,) = encode(sequences, lanes, rows)
            both.append(chunk)
            decoded.append([s.tolist() for s in decode(views([chunk]), tables, layout(sequences, lanes, rows))])
    assert both[0] == both[1]
    assert decoded[0] == decoded[1] == [s.symbols.tolist() for s in sequences]


@pytest.mark.parametrize("lanes", [1, 32])
def test_the_stream_by_hand(lanes: int) -> None:
    """One symbol in `lanes` lanes: the encoder's step once, from the lower bound, and a word where it overflows."""
    frequencies = np.array([TOTAL - 3, 3])
    for symbol, f, c in ((0, TOTAL - 3, 0), (1, 3, TOTAL - 3)):
        (chunk,) = encode([Sequence(np.array([symbol], np.uint8), frequencies)], lanes, 1)
        state, words = 1 << 16, []
        if state >= f << 18:
            words, state = [state & 0xFFFF], state >> 16
        expected = (state // f << 14) + state % f + c
        assert chunk == joined([expected] + [1 << 16] * (lanes - 1), words)


@pytest.mark.parametrize("count", [255, 256, 257, 400])
def test_as_many_sequences_as_a_large_model_has_tensors(count: int) -> None:
    assert_round_trip([sequence(70, 5, seed) for seed in range(count)], 32, 60)


@pytest.mark.parametrize(("lanes", "rows"), [(1, 1 << 20), (16, 1 << 16), (32, 1 << 15), (32, 7000), (32, 4096)])
def test_a_million_symbols_take_their_cross_entropy(lanes: int, rows: int, million: Sequence) -> None:
    sequences = [million]
    rows = min(rows, layout(sequences, lanes, rows).rows_by_sequence[0])
    chunks = assert_round_trip(sequences, lanes, rows)
    counts = np.bincount(million.symbols, minlength=million.frequencies.size)
    cost = cost_of(counts, million.frequencies)
    assert cost is not None
    ideal = cost / (8 << COST_BITS)
    size = sum(map(len, chunks))
    # A state keeps up to 16 bits that are not used; the rest is the coder's own loss.
    assert ideal <= size + 4 * len(chunks) * lanes
    assert size <= ideal + 0.005 * million.symbols.size / 8 + 32 + 4 * lanes * (len(chunks) - 1)
    assert size - 4 * lanes * len(chunks) <= ideal * 1.0002


@pytest.fixture(scope="module")
def million() -> Sequence:
    return sequence(1 << 20, 121, 0, 0.9)


@pytest.mark.parametrize("narrow_lanes", [0, 16])
def test_a_state_that_does_not_return_is_noticed(narrow_lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in which every symbol decodes and no word is left, but which no encoder began."""
    monkeypatch.setattr(rans, "_NARROW_LANES", narrow_lanes)
    frequencies = np.array([TOTAL // 2, TOTAL // 2])
    begun = (1 << 16) + 1
    state = (begun // (TOTAL // 2) << 14) + begun % (TOTAL // 2)
    shape = Layout((1,), 1, 1)
    with pytest.raises(FrameError, match="does not end where its symbols do"):
        decode(views([joined([state], [])]), [frequencies], shape)


def test_damaged_streams_are_noticed() -> None:
    for lanes, rows in ((4, 1000), (32, 5)):
        sequences = [sequence(500, 11, 1), sequence(77, 100, 2)]
        tables, shape = [s.frequencies for s in sequences], None
        rows = min(rows, sum(layout(sequences, lanes, rows).rows_by_sequence))
        shape = layout(sequences, lanes, rows)
        chunks = encode(sequences, lanes, rows)
        states = np.frombuffer(chunks[0], "<u4", lanes).tolist()
        words = np.frombuffer(chunks[0], "<u2", offset=4 * lanes).tolist()
        assert joined(states, words) == chunks[0]
        for damaged in (
            joined(states, words[:-1]),
            joined(states, [*words, 0]),
            joined([states[0] + 1, *states[1:]], words),
            joined(states, [*words[:3], words[3] ^ 1, *words[4:]]),
            joined(states, []),
        ):
            with pytest.raises(FrameError, match=r"coded stream (ends before|does not end)"):
                decode(views([damaged, *chunks[1:]]), tables, shape)


def test_every_frequency_is_divided_by_exactly() -> None:
    """The compiled encoder divides by reciprocals, which differ for each of 1 .. 2^14 - 1; plain integers don't.

    Symbols are drawn without regard to the frequencies, so that states run through all of their range.
    """
    lanes, rng = 8, np.random.default_rng(0)
    sequences = [
        Sequence(rng.integers(0, 2, 6 * lanes + f % lanes).astype(np.uint8), np.array([f, TOTAL - f]))
        for f in range(1, TOTAL // 2 + 1)
    ]
    rows = sum(layout(sequences, lanes, 1).rows_by_sequence)
    assert rows <= 1 << 17
    (chunk,) = encode(sequences, lanes, rows)
    with running(NUMPY), pytest.MonkeyPatch.context() as patch:
        patch.setattr(rans, "_NARROW_LANES", lanes)
        assert encode(sequences, lanes, rows) == [chunk]
    tables = [s.frequencies for s in sequences]
    if kernels.compiled():  # numpy's tables for decoding would take half a gigabyte
        for symbols, expected in zip(
            decode([memoryview(chunk)], tables, layout(sequences, lanes, rows)), sequences, strict=True
        ):
            np.testing.assert_array_equal(symbols, expected.symbols)


@pytest.mark.parametrize("lanes", [8, 32])
def test_frequencies_at_their_ends(lanes: int) -> None:
    """Of 1 and of all but 1: the states go up to the end of 32 bits, and down to their lower bound."""
    for f in (1, 2, 3, 4095, 4096, 4097, TOTAL // 2 - 1, TOTAL // 2, TOTAL // 2 + 1, TOTAL - 2, TOTAL - 1):
        frequencies = np.array([f, TOTAL - f])
        for pattern in ([0], [1], [0, 1], [0, 0, 1], [1, 1, 1, 0]):
            symbols = np.resize(np.array(pattern, np.uint8), 40 * lanes + 3)
            (chunk,) = assert_round_trip([Sequence(symbols, frequencies)], lanes, 41)
            with running(NUMPY):
                assert encode([Sequence(symbols, frequencies)], lanes, 41) == [chunk]
