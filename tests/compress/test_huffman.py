"""Huffman codes: co3.md's lengths, optimal within the limit, and back to the same symbols."""

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3.compress import huffman
from flwr_co3.compress.frequencies import TOTAL, gennorm_weights, normalize
from flwr_co3.compress.huffman import MAX_LENGTH, code_lengths, code_words, decode, encode
from flwr_co3.compress.packing import Sequence
from flwr_co3.convert import FloatFormat, optimal_scale
from flwr_co3.errors import FrameError
from flwr_co3.gennorm import GenNorm
from tests.samples import cell_probabilities

pytestmark = pytest.mark.usefixtures("engine")

#: co3.md: ideal bits per entry of fp4 at its optimal scale, by shape: entropy, and Huffman's for three models.
BITS = {
    0.3: (0.82, 1.28, 1.29, 1.29),
    0.5: (1.80, 1.88, 1.91, 2.31),
    0.7: (2.35, 2.39, 2.39, 2.57),
    1.0: (2.78, 2.84, 2.84, 2.89),
    2.0: (3.24, 3.28, 3.31, 3.28),
}

Frequencies = np.ndarray[tuple[int], np.dtype[np.int64]]
FREQUENCIES = st.lists(st.integers(0, TOTAL), min_size=2, max_size=255).map(
    lambda weights: normalize(np.array(weights) + (np.arange(len(weights)) < 2))
)


@pytest.mark.parametrize("shape", BITS)
def test_lengths_of_the_table(shape: float) -> None:
    fmt, model = FloatFormat("fp4"), GenNorm(shape, 1.0)
    scale = optimal_scale(fmt, model)
    share = cell_probabilities(fmt.levels, model, scale)
    entropy, *expected = BITS[shape]
    assert -float(np.sum(share * np.log2(share))) == pytest.approx(entropy, abs=0.01)
    # Laplace and normal are fitted as their own likelihood has it: by the mean magnitude, and by the deviation.
    models = (model, GenNorm.laplace(model.mean_abs), GenNorm.normal(model.std))
    for assumed, bits in zip(models, expected, strict=True):
        frequencies = normalize(gennorm_weights(assumed.shape, assumed.scale * scale, fmt.edges))
        assert float(np.sum(share * code_lengths(frequencies))) == pytest.approx(bits, abs=0.01)


def unlimited_cost(frequencies: Frequencies) -> int:
    """Total length of Huffman's own construction."""
    heap, cost = [int(f) for f in frequencies if f], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        cost += pair
        heapq.heappush(heap, pair)
    return cost


@given(FREQUENCIES)
@settings(deadline=None, max_examples=60)
def test_codes_are_prefix_codes_and_optimal(frequencies: Frequencies) -> None:
    lengths = code_lengths(frequencies)
    assert np.all((lengths > 0) == (frequencies > 0)) and lengths.max() <= MAX_LENGTH
    assert sum(2.0 ** -lengths[lengths > 0]) == 1  # Kraft, with nothing to spare
    words = [
        format(int(word), f"0{int(length)}b")
        for word, length in zip(code_words(lengths), lengths, strict=True)
        if length
    ]
    assert all(not b.startswith(a) for a, b in itertools.pairwise(sorted(words)))
    cost, best = int(np.sum(frequencies * lengths)), unlimited_cost(frequencies)
    assert cost >= best
    if lengths.max() < MAX_LENGTH:  # then the limit did not matter
        assert cost == best


def best_limited_cost(frequencies: list[int], limit: int) -> int:
    """The least total length of any prefix code up to the limit: rarer symbols get the longer words."""
    ordered = sorted(frequencies, reverse=True)
    return min(
        sum(f * length for f, length in zip(ordered, lengths, strict=True))
        for lengths in itertools.combinations_with_replacement(range(1, limit + 1), len(ordered))
        if sum(2.0**-length for length in lengths) <= 1
    )


@pytest.mark.parametrize("limit", [3, 4, 5])
def test_limited_codes_are_optimal(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huffman, "MAX_LENGTH", limit)
    rng = np.random.default_rng(limit)
    limited = 0
    for _ in range(60):
        size = int(rng.integers(2, min(2**limit, 8) + 1))
        frequencies = normalize(np.ceil(2.0 ** rng.uniform(0, 14, size)).astype(int))
        lengths = code_lengths(frequencies)
        assert lengths.max() <= limit
        assert int(np.sum(lengths * frequencies)) == best_limited_cost(frequencies.tolist(), limit)
        limited += int(np.sum(lengths * frequencies)) > unlimited_cost(frequencies)
    assert limited > 5, "the limit was hardly ever felt"


def test_words_count_upwards_from_short_to_long() -> None:
    lengths = np.array([3, 1, 0, 3, 2])
    words = code_words(lengths)
    assert [format(w, f"0{n}b") if n else "" for w, n in zip(words.tolist(), lengths.tolist(), strict=True)] == [
        *("110", "0", "", "111", "10")
    ]


def test_a_lone_symbol_takes_no_bits() -> None:
    frequencies = np.array([0, TOTAL, 0])
    assert code_lengths(frequencies).tolist() == [0, 0, 0]
    assert encode(Sequence(np.full(10, 1, np.uint8), frequencies), 4) == (b"", [0, 0, 0])
    assert decode(memoryview(b""), [0, 0, 0], [frequencies], [10], 4)[0].tolist() == [1] * 10


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_symbols_come_back(data: st.DataObject) -> None:
    sequences = []
    for _ in range(data.draw(st.integers(1, 4))):
        frequencies = data.draw(FREQUENCIES)
        seed, size = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 700))
        used = np.flatnonzero(frequencies)
        symbols = np.random.default_rng(seed).choice(used, size=size).astype(np.uint8)
        sequences.append(Sequence(symbols, frequencies))
    per_segment = data.draw(st.integers(1, 800))
    coded = [encode(s, per_segment) for s in sequences]
    section = memoryview(b"".join(segments for segments, _ in coded))
    sizes = [size for _, some in coded for size in some]
    lengths = [s.symbols.size for s in sequences]
    assert len(sizes) == sum(-(-length // per_segment) for length in lengths)
    for narrow_segments in (0, len(sizes) + 1):  # numpy, and plain integers
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(huffman, "_NARROW_SEGMENTS", narrow_segments)
            decoded = decode(section, sizes, [s.frequencies for s in sequences], lengths, per_segment)
        for found, sequence in zip(decoded, sequences, strict=True):
            np.testing.assert_array_equal(found, sequence.symbols)


def test_segments_are_the_words_most_significant_bit_first() -> None:
    frequencies = normalize(np.array([8, 4, 2, 2]))  # words 0, 10, 110, 111
    segments, sizes = encode(Sequence(np.array([3, 0, 1, 2, 1, 0], np.uint8), frequencies), 4)
    assert list(segments) == [0b11101011, 0b01111111, 0b10011111]
    assert sizes == [2, 1]


@pytest.mark.parametrize("narrow_segments", [0, 16])
def test_bits_left_over_or_lacking_are_noticed(narrow_segments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huffman, "_NARROW_SEGMENTS", narrow_segments)
    frequencies = normalize(np.array([8, 4, 2, 2]))
    symbols = np.random.default_rng(0).integers(0, 4, 300).astype(np.uint8)
    segment, sizes = encode(Sequence(symbols, frequencies), 300)
    assert sizes == [len(segment)]
    longer = segment + b"\xff"
    other_filling = segment[:-1] + bytes([segment[-1] ^ 1])
    assert segment[-1] & 1, "this segment should end with filling"
    for bad, length in ((segment[:-1], 300), (longer, 300), (segment, 290), (segment, 310), (other_filling, 300)):
        with pytest.raises(FrameError, match="does not end where its symbols do"):
            decode(memoryview(bad), [len(bad)], [frequencies], [length], length)
