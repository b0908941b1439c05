"""Frequencies: the same bits on every platform, near the model, summing to what they must."""

import ast
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flwr_co3.compress.frequencies import COST_BITS, TOTAL, cost_of, gennorm_weights, geometric, log2_table, normalize
from flwr_co3.compress.packing import pack_factor, packed_frequencies
from flwr_co3.compress.tables import decode_positive, decode_shape
from flwr_co3.convert import FloatFormat
from tests.samples import FORMATS

PACKAGE = Path(__file__).parents[2] / "flwr_co3"

#: SHA-256 of the tables below as little-endian int64, one digest for all of some formats. If it changes, old frames
#: can't be read.
GOLDEN = {
    (
        "fp4",
        "fp8",
        "fp8_143",
        "e2m1",
        "e4m3",
        "e5m2",
    ): "9028e7090b90041ecb233340fc540cb7b6f118804ddbb1b3f5e715ddbd8d3afd",
    ("uniform", "e2m5", "e3m4"): "1d21f80d2d8e49125752ecdda924a60102cf60ceffd68cd0f8939cb0b8d321de",
}


def all_tables(formats: tuple[str, ...]) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Some 1,200 tables of every kind that a frame can describe, in the numbers that it describes them by."""
    tables = [geometric(ratio, 64) for ratio in range(256)]
    for name in formats:
        edges = FloatFormat(name).edges
        for shape_code in (0, 56, 60, 77, 90, 101, 113, 127, 150, 180, 200, 255):
            for width_code in (32, 28000, *range(32300, 33300, 111), 40000, 0xFFDF):
                table = normalize(gennorm_weights(decode_shape(shape_code), decode_positive(width_code), edges))
                tables.append(table)
    for seed in range(40):
        rng = np.random.default_rng(seed)  # integers from PCG64, which numpy keeps the same
        alphabet = int(rng.integers(2, 17))
        counts = rng.integers(0, 1 << int(rng.integers(1, 40)), size=alphabet)
        counts[0] += 1
        single = normalize(counts)
        tables += [single, packed_frequencies(single, pack_factor(alphabet))]
    return tables


def test_every_format_is_held() -> None:
    assert {name for formats in GOLDEN for name in formats} == set(FORMATS)


@pytest.mark.parametrize("formats", GOLDEN)
def test_tables_are_the_same_bit_for_bit(formats: tuple[str, ...]) -> None:
    digest = hashlib.sha256()
    for table in all_tables(formats):
        assert table.sum() == TOTAL and table.min() >= 0
        digest.update(table.astype("<i8").tobytes())
    assert digest.hexdigest() == GOLDEN[formats]


def inexact_calls(source: str) -> set[str]:
    """Functions whose results may differ between machines, as ``where they are called: what``."""
    exact = {
        *("frexp", "ldexp", "rint", "floor", "ceil", "isfinite", "inf", "nan", "prod"),  # of math and numpy
        *("sqrt",),  # rounded correctly, by IEEE 754
    }
    suspects = {
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "power",
        "float_power",
        "pow",
        "gamma",
        "lgamma",
    }
    suspects |= {"sin", "cos", "tanh", "arctanh", "cbrt", "special", "dot", "matmul", "einsum", "mean", "average"}
    found = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.ClassDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("math", "np"):
                assert node.value.id != "math" or node.attr in exact | suspects, f"is math.{node.attr} exact?"
                if node.attr in suspects:
                    found.add(f"{function.name}: {node.value.id}.{node.attr}")
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found.add(f"{function.name}: an import of its own")
    return found


def test_no_cost_is_near_a_half() -> None:
    """So a logarithm that is off in its last bits, as another machine's may be, rounds to the same integer."""
    costs = np.log2(np.arange(1.0, TOTAL + 1)) * (1 << COST_BITS)
    assert np.min(np.abs(costs - np.floor(costs) - 0.5)) > 1e-6
    np.testing.assert_array_equal(log2_table()[1:], np.rint(costs))


def test_nothing_inexact_makes_frequencies() -> None:
    """By construction: the modules that turn a header's integers into frequencies call nothing inexact to do so."""
    encoder_only = {
        "token_table: np.dot",  # of integers
        "log2_table: np.log2",  # rounded to integers, see the test below
        "shape_codes: np.log",  # a fit, before it is rounded to what is sent
        "_entropy: np.log2",  # an estimate of what classes gain
    }
    for module in ["arithmetic.py", *(f"compress/{path.name}" for path in (PACKAGE / "compress").glob("*.py"))]:
        source = (PACKAGE / module).read_text(encoding="utf-8")
        assert "scipy" not in source
        assert inexact_calls(source) <= encoder_only, module
        tree = ast.parse(source)
        powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
        if module in ("arithmetic.py", "compress/frequencies.py"):
            assert not powers


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [0.2, 0.31, 0.5, 0.77, 1.0, 1.5, 2.0, 3.1, 4.0])
@pytest.mark.parametrize("width", [1e-3, 0.7, 3.0, 1e3, 1e5])
def test_fitted_weights_are_scipys_probabilities(name: str, shape: float, width: float) -> None:
    fmt = FloatFormat(name)
    edges = np.concatenate([-fmt.edges[::-1], fmt.edges])
    survival = stats.gennorm(shape, scale=width).sf(fmt.edges)
    inner = stats.gennorm(shape, scale=width).cdf(edges)
    upper = -np.diff(survival, append=0.0)
    expected = np.concatenate([upper[::-1], [inner[fmt.zero] - inner[fmt.zero - 1]], upper])
    np.testing.assert_allclose(gennorm_weights(shape, width, fmt.edges) / 2**30, expected, atol=1e-8, rtol=0)


@given(st.lists(st.integers(0, 1 << 39), min_size=1, max_size=256), st.integers(8, 14))
def test_normalised_weights(weights: list[int], log_total: int) -> None:
    counts = np.array(weights)
    if not counts.any():
        counts[0] = 1
    total = 1 << log_total
    frequencies = normalize(counts, total)
    assert frequencies.sum() == total
    np.testing.assert_array_equal(frequencies > 0, counts > 0)
    # Each is its share, rounded, at least 1; the most frequent make up the difference.
    difference = frequencies - counts * (total / counts.sum())
    assert np.all(difference[frequencies < frequencies.max()] <= 1)
    assert np.abs(difference).sum() <= 2 * counts.size


def test_cost_is_the_cross_entropy() -> None:
    frequencies = np.array([TOTAL // 2, TOTAL // 4, TOTAL // 4, 0])
    assert cost_of(np.array([10, 1, 0, 0]), frequencies) == 12 << COST_BITS
    assert cost_of(np.array([10, 1, 0, 1]), frequencies) is None
    assert cost_of(np.zeros(4, int), frequencies) == 0


def test_costs_are_logarithms_to_the_last_unit() -> None:
    costs = log2_table()
    assert costs.shape == (TOTAL + 1,)
    np.testing.assert_allclose(
        costs[1:] / (1 << COST_BITS), np.log2(np.arange(1, TOTAL + 1)), atol=0.51 / (1 << COST_BITS)
    )
    with pytest.raises(ValueError, match="read-only"):
        costs[1] = 1


@pytest.mark.parametrize("ratio", [0, 1, 100, 200, 255])
def test_geometric_frequencies(ratio: int) -> None:
    table = geometric(ratio, 64)
    assert table.sum() == TOTAL and table.min() >= 1
    share = (1 - ratio / 256) * (ratio / 256) ** np.arange(63)
    np.testing.assert_allclose(table[1:-1], np.maximum(share * TOTAL, 1)[1:], atol=1.01)
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0
