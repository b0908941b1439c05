"""How a group of tensors is coded: every kind comes back, and the cheapest kind is chosen."""

import itertools
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3.compress import CODERS, Fit, Group, Plan, plan_all, read_model, read_stream
from flwr_co3.compress import group as group_module
from flwr_co3.compress import stream as stream_module
from flwr_co3.compress.frequencies import cost_of_bytes
from flwr_co3.compress.group import COUNTED, FITTED, FITTED_ZERO_SHARE, GAPS_LISTED, JOINED, LISTED, SPARSE, ZERO, plan
from flwr_co3.convert import FloatFormat
from flwr_co3.errors import FrameError
from flwr_co3.frame import VERSION
from flwr_co3.gennorm import GenNorm
from flwr_co3.wire import Reader, write_bits
from tests.samples import gennorm, section_of

pytestmark = pytest.mark.usefixtures("engine")

FP4 = FloatFormat("fp4")


def group(values: np.ndarray[tuple[int], np.dtype[np.float64]], fmt: FloatFormat = FP4) -> Group:
    """A group of one tensor whose values are in units of the levels."""
    symbols = fmt.quantize(values, 1.0).astype(np.uint8)
    counts = np.bincount(symbols, minlength=2 * fmt.zero + 1)

    def fit(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Fit:
        model = GenNorm.fit(x) if x.any() else GenNorm(1.0, 1.0)
        return Fit.of(model.shape, model.scale)

    return Group(symbols, counts, fmt.zero, fit(values), fit(values[values != 0]))


def round_trip(groups: list[Group], coder: str, fmt: FloatFormat = FP4) -> tuple[list[int], int]:
    """Kinds that were chosen, and bytes in all."""
    packed = coder == "rans"
    plans = plan_all(groups, fmt.edges, coder)
    section = section_of(plans, coder)
    models = []
    for g, p in zip(groups, plans, strict=True):
        reader = Reader(p.header, "models")
        models.append(read_model(reader, g.symbols.size, g.zero, fmt.edges, packed, version=VERSION))
        reader.finish()
    for g, levels in zip(groups, read_stream(memoryview(section), models, coder), strict=True):
        np.testing.assert_array_equal(levels.symbols(), g.symbols)
    return [p.header[0] & 15 for p in plans], sum(len(p.header) for p in plans) + len(section)


def outliers(size: int, share: float, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Zeros, but for a share of values."""
    rng = np.random.default_rng(seed)
    return np.asarray(np.where(rng.random(size) < share, gennorm(0.8, size, 2.0, seed), 0.0))


@pytest.mark.parametrize("coder", CODERS)
def test_zeros_take_a_byte(coder: str) -> None:
    assert round_trip([group(np.zeros(100_000))], coder) == ([ZERO], 1)


def test_a_handful_is_listed() -> None:
    values = np.zeros(100_000)
    values[[3, 77_777, 99_999]] = 1.0, -3.0, 0.5
    kinds, size = round_trip([group(values)], "rans")
    assert kinds == [LISTED]
    assert size <= 3 + (3 * (17 + 4) + 7) // 8


@pytest.mark.parametrize("count", [9, 33, 200])
def test_more_than_a_handful_is_listed_by_gaps(count: int) -> None:
    """Positions in any order would take 17 bits each; a table and the coder's state some twenty bytes in all."""
    values = np.zeros(100_000)
    rng = np.random.default_rng(count)
    values[rng.choice(values.size, count, replace=False)] = rng.choice([-0.5, 0.5, 1.0], count)
    kinds, size = round_trip([group(values)], "rans")
    assert kinds == [GAPS_LISTED]
    ideal = count * (np.log2(100_000 / count) + np.log2(np.e))  # of the gaps
    assert ideal / 8 < size < (ideal + 4 * count) / 8 + 5


def test_a_stream_of_its_own_costs_more_than_lists_save() -> None:
    """What the coder needs once is paid by groups together: alone, neither of these is worth it."""
    values = np.zeros(60_000)
    values[np.random.default_rng(0).choice(values.size, 33, replace=False)] = 1.0
    few = group(values)
    alone, together = plan_all([few], FP4.edges, "rans"), plan_all([few, group(gennorm(1, 5000))], FP4.edges, "rans")
    assert alone[0].header[0] == GAPS_LISTED and not alone[0].sequences
    assert plan(few, FP4.edges, True).sequences and together[0].sequences


@pytest.mark.parametrize("share", [0.2, 0.03, 0.005, 0.0005])
def test_mostly_zeros_are_sparse(share: float) -> None:
    kind = JOINED if share == 0.0005 else SPARSE  # a hundred levels, or thousands
    assert round_trip([group(outliers(200_000, share))], "rans")[0] == [kind]


@pytest.mark.parametrize(("levels", "kind"), [(41, JOINED), (48, SPARSE), (1021, JOINED), (1025, SPARSE)])
def test_low_bits_of_few_gaps_fill_no_planes(levels: int, kind: int) -> None:
    values = np.zeros(100_000)
    values[np.random.default_rng(levels).choice(values.size, levels, replace=False)] = 1.5

    with patch.object(stream_module, "MAX_LISTED", 0):
        kinds, size = round_trip([group(values)], "rans")
    with patch.object(group_module, "_MAX_JOINED", 0), patch.object(stream_module, "MAX_LISTED", 0):
        _, planes = round_trip([group(values)], "rans")

    assert kinds == [kind]
    shift = (100_000 // levels // 8).bit_length() - 1
    spared = shift * -(-levels // 8) - -(-shift * levels // 8) if kind == JOINED else 0
    assert planes - size == spared


def test_sizes_of_few_levels_rise_by_little() -> None:
    """A level more takes its own bits. Nine planes of low bits would grow by nine bytes at once."""
    at = np.random.default_rng(0).permutation(100_000)
    sizes = []
    for levels in range(40, 90):
        values = np.zeros(100_000)
        values[at[:levels]] = 1.5
        sizes.append(round_trip([group(values)], "rans")[1])
    assert max(np.diff(sizes)) <= 5


def test_zeros_that_stand_together_are_gaps_up_to_most_of_them() -> None:
    """Rows of which every second is busy: half of the levels are not 0, and gaps know where."""
    values = gennorm(0.8, (400, 500), 1.0) * np.where(np.arange(400) % 2, 2.0, 0.02)[:, None]
    scattered = np.random.default_rng(0).permutation(values.reshape(-1))

    together, apart = group(values.reshape(-1)), group(scattered)
    assert 0.3 * values.size < values.size - together.counts[FP4.zero] < 0.6 * values.size

    (kind,), size = round_trip([together], "rans")
    assert kind == SPARSE and plan(together, FP4.edges, True).version == 3
    (other,), other_size = round_trip([apart], "rans")
    assert other == COUNTED and size < 0.8 * other_size
    with pytest.raises(FrameError, match="above the 50000 possible here"):
        reader = Reader(plan(together, FP4.edges, True).header, "models")
        read_model(reader, values.size, FP4.zero, FP4.edges, True, version=2)


def test_many_more_zeros_than_the_fit_expects_get_their_own_share() -> None:
    fp8 = FloatFormat("fp8")
    for coder in CODERS:
        assert round_trip([group(outliers(3000, 0.5) / 1000, fp8)], coder, fp8)[0] == [FITTED_ZERO_SHARE]


def test_small_groups_are_fitted_and_large_ones_counted() -> None:
    assert round_trip([group(gennorm(0.8, 2000, 0.3))], "rans")[0] == [FITTED]
    mixture = np.concatenate([gennorm(4, 100_000, 3.0), gennorm(0.5, 100_000, 0.1)])
    assert round_trip([group(mixture)], "rans")[0] == [COUNTED]


def test_a_constant_costs_no_more_than_its_header() -> None:
    kinds, size = round_trip([group(np.full(1_000_000, 1.0))], "rans")
    assert kinds == [COUNTED] and size < 12


@pytest.mark.parametrize("coder", CODERS)
def test_all_kinds_share_a_stream(coder: str) -> None:
    lone = np.zeros(5000)
    lone[4321] = 2.0
    groups = [
        group(gennorm(0.8, 30_001, 0.4)),
        group(np.zeros(5)),
        group(outliers(50_000, 0.01)),
        group(lone),
        group(np.full(1001, -1.5)),
        group(outliers(20_000, 0.15, seed=1)),
        group(gennorm(2, 17, 1.0)),
        group(np.array([1.0])),
    ]
    kinds, _ = round_trip(groups, coder)
    if coder == "rans":
        assert {ZERO, SPARSE, LISTED, FITTED, COUNTED} <= set(kinds)
    else:
        assert not {SPARSE, LISTED} & set(kinds)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_any_levels_come_back(data: st.DataObject) -> None:
    fmt = FloatFormat(data.draw(st.sampled_from(["fp4", "fp8", "e4m3"])))
    groups = []
    for seed in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.integers(1, 3000))
        width = data.draw(st.floats(1e-3, 1e3))
        zeros = data.draw(st.sampled_from([0.0, 0.3, 0.9, 0.99]))
        values = gennorm(data.draw(st.floats(0.2, 4)), size, width * float(fmt.magnitudes[1]), seed)
        values[np.random.default_rng(seed).random(size) < zeros] = 0
        groups.append(group(values, fmt))
    round_trip(groups, data.draw(st.sampled_from(CODERS)), fmt)


@given(st.integers(1, 2000), st.integers(1, 5), st.integers(0, 99))
@settings(deadline=None)
def test_the_plan_knows_its_size(size: int, levels: int, seed: int) -> None:
    """What is compared when kinds are chosen is what comes out, but for a lane's state and the section's header."""
    values = np.random.default_rng(seed).choice(FP4.levels[5 - levels : 6 + levels], size=size)
    g = group(values)
    p = plan(g, FP4.edges, True)
    actual = len(p.header) + len(section_of([p], "rans"))
    assert actual <= p.size / cost_of_bytes(1) * 1.01 + 16


def test_packing_goes_as_far_as_it_costs_nothing() -> None:
    ternary = group(np.random.default_rng(0).choice([-0.5, 0.0, 0.5], size=60_000, p=[0.25, 0.5, 0.25]))
    (sequence,) = plan(ternary, FP4.edges, True).sequences
    assert sequence.length == sequence.packed().size == 12_000  # five to a byte
    assert plan(ternary, FP4.edges, False).sequences[0].length == 60_000


@pytest.mark.parametrize(
    ("header", "packed", "reason"),
    [
        (bytes([6]), True, "coded in a way"),
        (bytes([SPARSE]), False, "coded in a way"),
        (bytes([LISTED]), False, "coded in a way"),
        (bytes([COUNTED, 0]), True, "no level but 0"),
        (bytes([COUNTED, 6]), True, "above the 5 possible"),
        (bytes([LISTED, 1, 0]), True, "list of levels is empty"),
        (bytes([LISTED, 1, 33]), True, "above the 32 possible"),
        (bytes([SPARSE, 1, 0, 0, 0, 9]), True, "no level but 0"),
        (bytes([SPARSE, 1, 251, 1, 0, 0, 9]), True, "above the 250 possible"),
        (bytes([COUNTED | 5 << 4, 1, 5, 0x20]), True, "claims 6 symbols of 3 in a byte"),
        (bytes([COUNTED | 1 << 4, 1, 5, 0x20]), False, "claims 2 symbols of 3 in a byte"),
        (bytes([FITTED, 1, 100]), True, "ends early"),
    ],
)
def test_impossible_headers_are_refused(header: bytes, packed: bool, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        read_model(Reader(header, "models"), 1000, 5, FP4.edges, packed, version=2)


def test_a_list_out_of_order_is_refused() -> None:
    values = np.zeros(1000)
    values[[3, 9]] = 1.0
    p = plan(group(values), FP4.edges, True)
    model = read_model(Reader(p.header, "models"), 1000, 5, FP4.edges, True, version=VERSION)
    assert model.raw_size == len(p.raw) == 3  # two positions of 10 bits, two levels of 2

    def listed(*fields: int) -> memoryview:
        return memoryview(write_bits([(fields[k], 10 if k % 2 == 0 else 2) for k in range(4)]))

    assert bytes(listed(3, 2, 9, 2)) != p.raw
    np.testing.assert_array_equal(model.levels([], memoryview(p.raw)).symbols(), group(values).symbols)
    for fields in ((9, 3, 3, 3), (3, 3, 3, 3), (3, 3, 1000, 3), (1023, 0, 1023, 0)):
        with pytest.raises(FrameError, match="out of order, or reaches beyond"):
            model.levels([], listed(*fields))


def test_a_plan_of_zeros() -> None:
    assert Plan.zeros().size == cost_of_bytes(1)


@pytest.mark.parametrize("share", [0.27, 0.5, 0.7])
def test_zeros_that_stand_together_are_coded_by_gaps(share: float) -> None:
    """A fifth of the rows sends nothing, as of dead units; where most is zero anyway, chance pairs nearly as many."""
    rng = np.random.default_rng(1)
    rows = np.where(rng.random((100, 1)) < 0.2, 0.0, rng.choice([-1.0, 1.0], (100, 700)))
    rows[rng.random(rows.shape) >= share / 0.8] = 0
    scattered = rng.permutation(rows.reshape(-1))
    (together, _), (apart, _) = round_trip([group(rows.reshape(-1))], "rans"), round_trip([group(scattered)], "rans")
    assert together == [SPARSE] and apart != [SPARSE]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.integers(1, 64), st.integers(1, 9))
def test_pairs_of_zeros_are_those_of_every_block_that_is_sampled(text: bytes, length: int, stride: int) -> None:
    symbols = np.frombuffer(text, np.uint8) % 3
    found = group_module._zero_pairs(Group(symbols, np.zeros(7, np.int64), 1, Fit(0, 0), Fit(0, 0)), length, stride)
    starts = range(0, symbols.size - length + 1, length * stride)
    zeros = [(symbols[first : first + length] == 1).tolist() for first in starts]
    assert found == (sum(map(sum, zeros)), sum(a and b for block in zeros for a, b in itertools.pairwise(block)))
