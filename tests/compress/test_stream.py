"""The coded section: its layout for small and large updates, and its claims checked before memory is taken."""

import numpy as np
import pytest

from flwr_co3.compress import Plan, likely_size, read_stream
from flwr_co3.compress.frequencies import COST_BITS, TOTAL, cost_of, normalize
from flwr_co3.compress.group import DenseModel
from flwr_co3.compress.packing import Packing, Sequence, packed_frequencies
from flwr_co3.errors import FrameError
from flwr_co3.wire import Writer
from tests.samples import section_of

pytestmark = pytest.mark.usefixtures("engine")


def plan_of(size: int, frequencies: list[int], seed: int = 0) -> Plan:
    table = normalize(np.array(frequencies))
    symbols = np.random.default_rng(seed).choice(table.size, size=size, p=table / TOTAL).astype(np.uint8)
    cost = cost_of(np.bincount(symbols, minlength=table.size), table)
    assert cost is not None
    return Plan(b"", [Sequence(symbols, table)], b"", cost)


def model_of(plan: Plan) -> DenseModel:
    (sequence,) = plan.sequences
    reach = sequence.frequencies.size // 2
    return DenseModel(sequence.length, reach, reach, 1, (sequence.length,), (sequence.frequencies,))


@pytest.mark.parametrize("coder", ["rans", "huffman"])
@pytest.mark.parametrize("sizes", [[1], [5, 1, 9], [300, 40_000], [400_000, 3, 70_000]])
@pytest.mark.parametrize("frequencies", [[1, 2, 1], [1, 10**6, 1], [3, 1, 4, 1, 5, 9, 2]])
def test_streams_of_all_sizes(coder: str, sizes: list[int], frequencies: list[int]) -> None:
    plans = [plan_of(size, frequencies, seed) for seed, size in enumerate(sizes)]
    section = section_of(plans, coder)
    decoded = read_stream(memoryview(section), [model_of(p) for p in plans], coder)
    for levels, p in zip(decoded, plans, strict=True):
        np.testing.assert_array_equal(levels.symbols(), p.sequences[0].symbols)


@pytest.mark.parametrize("coder", ["rans", "huffman"])
@pytest.mark.parametrize("sizes", [[1], [5, 1, 9], [900], [300, 40_000], [400_000, 3, 70_000]])
@pytest.mark.parametrize("frequencies", [[1, 2, 1], [1, 10**6, 1], [3, 1, 4, 1, 5, 9, 2]])
def test_the_size_of_a_stream_is_known_but_for_a_byte_a_state(
    coder: str, sizes: list[int], frequencies: list[int]
) -> None:
    plans = [plan_of(size, frequencies, seed) for seed, size in enumerate(sizes)]
    section = section_of(plans, coder)
    if coder == "rans":
        chunks = -(-len(section) // (1 << 17))
        slack = 2 + (chunks << section[0]) + len(section) / 10_000
    else:
        slack = 3 + len(section) / 1000  # segments are filled to whole bytes
    assert abs(likely_size(plans, coder) - len(section)) <= slack


def test_packed_symbols_that_depend_on_each_other_are_reckoned_with() -> None:
    """Pairs of equal symbols take other bytes than pairs of independent ones, by a table of products."""
    table, packing = normalize(np.array([1, 40, 1])), Packing(5, 3, 0, 1)
    symbols = np.repeat(np.random.default_rng(0).choice(3, 40_000, p=table / TOTAL).astype(np.uint8), 5)
    alone = cost_of(np.bincount(symbols, minlength=3), table)
    assert alone is not None
    plan = Plan(b"", [Sequence(symbols, packed_frequencies(table, 5), packing)], b"", alone)
    section = section_of([plan], "rans")
    assert abs(likely_size([plan], "rans") - len(section)) < len(section) / 1000
    assert abs(alone / (8 << COST_BITS) - len(section)) > len(section) / 20


def test_lanes_grow_with_the_stream() -> None:
    """A small stream can't afford the 4 bytes of a second lane; a large one takes 32 lanes, and chunks."""
    lanes = {size: section_of([plan_of(size, [1, 2, 1])], "rans")[0] for size in (10, 12_000, 30_000, 10**6)}
    assert lanes[10] == 0 and lanes[12_000] == 1 and lanes[10**6] == 5
    assert 0 < lanes[30_000] < 5
    assert len(section_of([plan_of(10, [1, 2, 1])], "rans")) < 12


@pytest.mark.parametrize("coder", ["rans", "huffman"])
def test_what_is_certain_is_not_coded(coder: str) -> None:
    plans = [plan_of(1000, [0, 1, 0]), plan_of(50, [1, 2, 1]), plan_of(10**7, [0, 0, 1])]
    section = section_of(plans, coder)
    assert section == section_of([plans[1]], coder)
    decoded = read_stream(memoryview(section), [model_of(p) for p in plans], coder)
    assert [set(levels.symbols().tolist()) for levels in decoded[::2]] == [{1}, {2}]


def test_symbols_all_but_certain_still_decode_in_chunks() -> None:
    """A few bytes for millions of symbols: the rows of a chunk have a bound, so a decoder's steps have one."""
    plan = plan_of(3_000_000, [0, 10**9, 1])
    section = section_of([plan], "rans")
    assert len(section) < 600
    (levels,) = read_stream(memoryview(section), [model_of(plan)], "rans")
    np.testing.assert_array_equal(levels.symbols(), plan.sequences[0].symbols)


def section(*fields: int, raw: bytes = b"") -> memoryview:
    """A section that begins with these numbers."""
    out = Writer()
    for field in fields:
        out.varint(field)
    return memoryview(bytes(out) + raw)


@pytest.mark.parametrize(
    ("coder", "claims", "reason"),
    [
        ("rans", section(13, 1), "claims 2\\^13 lanes"),
        ("rans", section(0, 0), "chunks of no rows"),
        ("rans", section(0, 2000), "above the 1000 possible"),
        ("rans", section(0, 1, 0, 0), "too short for its 1000 chunks"),
        ("rans", section(0, 1000, 90, raw=bytes(90)), "above the 45 possible"),
        ("rans", section(0, 1000, 45, raw=bytes(90)), "ends early"),
        ("rans", section(0), "ends early"),
        ("huffman", section(0), "segments of no symbols"),
        ("huffman", section(1001), "above the 1000 possible"),
        ("huffman", section(1, 1), "too short for its 1000 segments"),
        ("huffman", section(1000, 7, raw=b"123456"), "7 bytes wanted, 6 left"),
        ("huffman", section(1000, 9, raw=b"123456"), "above the 7 possible"),
        ("huffman", section(1000, 5, raw=b"\0\0\0\0\0\0"), "Huffman segment does not end"),
    ],
)
def test_claims_are_checked(coder: str, claims: memoryview, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        read_stream(claims, [model_of(plan_of(1000, [1, 2, 1]))], coder)


@pytest.mark.parametrize(("coder", "limit"), [("rans", 1 << 17), ("huffman", 1 << 14)])
def test_steps_have_a_bound(coder: str, limit: int) -> None:
    model = model_of(plan_of(1 << 18, [1, 2, 1]))
    fields = (0, limit + 1) if coder == "rans" else (limit + 1,)
    with pytest.raises(FrameError, match=f"above the {limit} possible"):
        read_stream(section(*fields, raw=bytes(100)), [model], coder)


@pytest.mark.parametrize("coder", ["rans", "huffman"])
def test_all_bytes_must_be_used(coder: str) -> None:
    plan = plan_of(300, [1, 2, 1])
    stream = section_of([plan], coder)
    with pytest.raises(FrameError, match=r"1 bytes too many|does not end"):
        read_stream(memoryview(stream + b"\0"), [model_of(plan)], coder)
