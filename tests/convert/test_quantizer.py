"""Where levels end and what they decode to: against the definition, value by value."""

import numpy as np
import pytest

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.convert import FloatFormat, Quantizer, points_of
from flwr_co3.convert.quantizer import BIT_WORTH
from flwr_co3.correct import ErrorMemory
from flwr_co3.magnitudes import MagnitudeCounts
from flwr_co3.moments import BINS, Source, measure
from flwr_co3.rate import RateLimit
from tests.samples import Array, gennorm


def counts_of(*groups: Array) -> MagnitudeCounts:
    sources = [Source(x, None) for x in groups]
    bins = np.zeros((len(groups), BINS), np.uint32)
    measure(sources, 0.0, range(len(groups)), bins)
    return MagnitudeCounts(bins, sources, [range(k, k + 1) for k in range(len(groups))])


@pytest.mark.parametrize("name", ["fp4", "fp8", "uniform"])
@pytest.mark.parametrize("scale", [0.2, 0.5, 1.0])
def test_every_value_gets_the_level_that_is_best_for_its_error_and_its_bits(name: str, scale: float) -> None:
    fmt, x = FloatFormat(name), gennorm(0.8, 100_000).astype("f4")
    step = float(fmt.magnitudes[1])
    x *= np.float32(step)
    (edges,) = Quantizer(fmt, "rd", "level").edges(counts_of(x), np.array([scale]))
    symbols = fmt.quantize(x, scale, None, edges)
    counts = np.bincount(symbols, minlength=2 * fmt.zero + 1)
    pairs = counts[fmt.zero :] + counts[fmt.zero :: -1]  # both signs cost the same
    pairs[0] = counts[fmt.zero]
    bits = np.where(pairs > 30, -np.log2(np.maximum(pairs, 1) / x.size) + (np.arange(fmt.zero + 1) > 0), np.inf)
    y = np.abs(x[:3000].astype("f8") * scale)
    costs = (y[:, None] - fmt.magnitudes) ** 2 + BIT_WORTH * step**2 * bits
    chosen = np.abs(symbols[:3000].astype(int) - fmt.zero)
    known = np.isfinite(costs[np.arange(y.size), chosen])
    excess = (costs[np.arange(y.size), chosen] - costs.min(axis=1))[known]
    # Bins are a 16th of an octave wide, and frequencies follow from edges in a few passes.
    assert np.mean(known) > 0.97
    assert excess.max() < 0.02 * step**2


def test_edges_are_the_nearest_for_all_but_rd() -> None:
    fmt, counts = FloatFormat("fp4"), counts_of(gennorm(1, 1000).astype("f4"))
    for rounding in ("nearest", "stochastic"):
        np.testing.assert_array_equal(Quantizer(fmt, rounding, "level").edges(counts, np.ones(1)), [fmt.edges])


@pytest.mark.parametrize("rounding", ["nearest", "rd"])
def test_centroids_are_the_means_of_what_is_rounded_to_a_level(rounding: str) -> None:
    fmt, x = FloatFormat("fp4"), gennorm(0.7, 200_000).astype("f4")
    cells = Quantizer(fmt, rounding, "centroid").cells(counts_of(x), np.array([0.8]))
    symbols = fmt.quantize(x, 0.8, None, cells.edges[0])
    magnitude = np.abs(symbols.astype(int) - fmt.zero)
    for k in range(1, fmt.zero + 1):
        mean = float(np.mean(np.abs(x[magnitude == k]))) * 0.8
        gap = fmt.magnitudes[k] - fmt.magnitudes[k - 1]
        reached = np.clip(mean, fmt.magnitudes[k] - gap, fmt.magnitudes[k] + gap * 127 / 128)
        assert cells.points[0, k] == pytest.approx(reached, abs=0.02 * gap)


def test_codes_are_128ths_of_the_distance_to_the_level_below() -> None:
    fmt = FloatFormat("fp4")
    points = points_of(fmt, np.array([[64, -128, 0, 1, -64], [0, 0, 0, 0, 0]], np.int8))
    assert points.tolist() == [
        [0.0, 0.5 + 0.25, 1.0 - 0.5, 1.5, 2.0 + 0.5 / 128, 3.0 - 0.5],
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0],
    ]


def test_means_that_are_not_worth_their_bytes_are_not_sent() -> None:
    fmt = FloatFormat("uniform")
    few, many = gennorm(1, 300).astype("f4"), gennorm(1, 300_000).astype("f4")
    cells = Quantizer(fmt, "nearest", "centroid").cells(counts_of(few, many), np.array([6.0, 6.0]))
    sent = [int(np.max(np.flatnonzero(codes), initial=-1)) + 1 for codes in cells.codes]
    assert sent[0] == 0 < sent[1] < 60


def test_groups_of_different_scales_keep_their_levels() -> None:
    fmt, x = FloatFormat("fp4"), gennorm(1, 5000).astype("f4")
    cells = Quantizer(fmt, "rd", "centroid").cells(counts_of(x, x), np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(cells.edges[0], fmt.edges)
    np.testing.assert_array_equal(cells.points[0], fmt.magnitudes)
    assert cells.codes[1].any() and cells.edges[1, 0] > fmt.edges[0]


@pytest.mark.parametrize("name", ["fp4", "uniform"])
@pytest.mark.parametrize(("bits", "least"), [(0.05, 0.03), (0.3, 0.1), (1.0, 0.1)])
def test_rd_loses_less_at_the_same_bits(name: str, bits: float, least: float) -> None:
    update = {"w": gennorm(0.8, 300_000).astype("f4")}
    rate = RateLimit(bits_per_parameter=bits)
    plain = Codec(CO3Config(format=name, rate=rate)).compress(update).nmse
    best = Codec(CO3Config(format=name, rate=rate, rounding="rd", reconstruction="centroid")).compress(update).nmse
    assert best < (1 - least) * plain


def test_a_memory_keeps_what_is_lost_against_the_means() -> None:
    update = {"w": gennorm(0.8, 5000).astype("f4"), "b": gennorm(0.8, 500).astype("f4")}
    for rate in (None, RateLimit(bits_per_parameter=0.5)):
        scale = "optimal" if rate else 1.0
        config = CO3Config(rounding="rd", reconstruction="centroid", rate=rate, scale=scale)  # type: ignore[arg-type]
        memory = ErrorMemory()
        encoded = Codec(config).compress(update, memory=memory)
        assert encoded.frame[3:5] in (b"\x02\x48", b"\x02\x50", b"\x02\x58", b"\x04\x48")
        for name, tensor in update.items():
            np.testing.assert_array_equal(memory.state[name], tensor - encoded.sent[name])


def test_counts_between_the_ends_of_bins_follow_a_density_that_falls() -> None:
    values = (1 + np.random.default_rng(0).exponential(0.2, 400_000)).astype(np.float32)
    counts = counts_of(values)
    inside = 1 + (np.arange(1, 13)[:, None] + np.linspace(0.2, 0.8, 4)).reshape(1, -1) / 16  # sixteen bins an octave
    above = counts.entries[:, None] - counts.below(inside)
    truth = np.sum(values[:, None] > inside, axis=0)
    np.testing.assert_allclose(above[0], truth, rtol=0.004)  # if bins were filled evenly, 0.012
    assert np.all(np.diff(counts.below(np.sort(np.append(inside, inside + 1e-4)).reshape(1, -1))) >= 0)


def test_counts_at_the_ends_of_bins_are_what_was_counted() -> None:
    values = np.abs(np.random.default_rng(0).laplace(size=10_000)).astype(np.float32)
    ends = (1 + np.arange(16) / 16).reshape(1, -1)
    np.testing.assert_array_equal(counts_of(values).below(ends)[0], np.sum(values[:, None] < ends, axis=0))
