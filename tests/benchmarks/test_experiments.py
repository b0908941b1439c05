"""Experiments are schemes like others, and are found where they are registered."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks.experiments.__main__ import SCHEMES, register
from benchmarks.experiments.clipping import clipping
from benchmarks.experiments.dependent import Dependent
from benchmarks.experiments.known import by_magnitude, length, measured
from benchmarks.experiments.larger import larger
from benchmarks.experiments.saturating import Saturating
from benchmarks.trellis import quantize
from flwr_co3 import CO3Config, Codec, ErrorMemory, RateLimit
from flwr_co3.conformance import CHECKS
from flwr_co3.schemes import Scheme, scheme_class, scheme_names
from flwr_co3.schemes.levels import ideal_bits
from simulations.presets import PRESETS


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the experiments afterwards."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    scheme_class.cache_clear()
    register(tmp_path)
    yield
    scheme_class.cache_clear()


def test_they_are_found_by_name() -> None:
    assert set(SCHEMES) <= set(scheme_names())
    assert [scheme_class(name) for name in SCHEMES] == [Dependent, Saturating]


@pytest.mark.parametrize("scheme", [Dependent(), Saturating()], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_they_conform(check: Callable[[Scheme], None], scheme: Scheme) -> None:
    check(scheme)


def test_dependent_levels_are_those_of_the_benchmark() -> None:
    x = np.random.default_rng(0).laplace(size=20_000)
    scheme = Dependent(step=0.5)

    parts = scheme.encode([x], np.random.default_rng(0), False)
    (decoded,) = scheme.decode(parts, [x.size])

    expected = quantize(x, float(parts.numbers[0]))
    np.testing.assert_allclose(decoded, expected.values, rtol=1e-6)
    bits = sum(ideal_bits(levels) for levels in parts.levels) / x.size
    assert bits == pytest.approx(expected.bits, rel=0.02)


@pytest.mark.parametrize("share", [0.45, 0.65])
def test_so_large_a_share_saturates(share: float) -> None:
    x = np.random.default_rng(0).laplace(size=10_000)

    levels, (unit,) = Saturating(saturated=share).encode_tensor(x, np.random.default_rng(0))

    assert np.mean(np.abs(x) >= 3 * unit) == pytest.approx(share, abs=0.01)
    assert np.mean(np.abs(levels) == 5) >= share


@pytest.mark.parametrize("limit", [0.1, 1.0, 1e6])
def test_memories_are_clipped_to_the_update(limit: float) -> None:
    codec = Codec(CO3Config(rate=RateLimit(bits_per_parameter=0.1)))
    clipped, free = ErrorMemory(1.0), ErrorMemory(1.0)
    for seed in range(4):
        update = {"w": np.random.default_rng(seed).laplace(size=(100, 90)).astype(np.float32)}
        codec.compress(update, memory=free)
        with clipping(limit):
            codec.compress(update, memory=clipped)
        norm, whole = (float(np.linalg.norm(memory.state["w"])) for memory in (clipped, free))
        allowed = limit * float(np.linalg.norm(update["w"]))
        assert norm == pytest.approx(min(whole, allowed) if not seed or limit > 10 else allowed, rel=1e-5)


@pytest.mark.parametrize("bits", [0.05, 0.3])
def test_larger_levels_alone_are_sent_with_a_finer_step(bits: float) -> None:
    values = np.random.default_rng(0).laplace(size=(300, 300)).astype(np.float32)
    rate = RateLimit(bits_per_parameter=bits)
    usual = Codec(CO3Config(rate=rate)).compress({"w": values})
    with larger(1.8):
        fewer = Codec(CO3Config(rate=rate)).compress({"w": values})
    assert 0.95 * rate.bytes_for(values.size) <= len(fewer.frame) <= rate.bytes_for(values.size)
    sent, others = (np.abs(encoded.sent["w"]) for encoded in (fewer, usual))
    assert np.count_nonzero(sent) < np.count_nonzero(others)
    step, other = (float(np.min(levels[levels > 0])) for levels in (sent, others))
    assert np.min(np.abs(values[sent > 0])) / step > 1.1 * np.min(np.abs(values[others > 0])) / other
    assert fewer.nmse < usual.nmse


def test_magnitudes_are_in_classes() -> None:
    values = np.concatenate([np.zeros(50), np.linspace(-1, 1, 201)[:100]])
    classes = by_magnitude(values)
    assert np.bincount(classes).tolist() == [50, 50, 25, 15, 7, 3]
    assert by_magnitude(np.zeros(9)).tolist() == [0] * 9


def test_an_adaptive_code_learns_what_classes_tell() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(2, size=20_000)
    marks = rng.random(20_000) < np.where(classes == 1, 0.2, 0.01)
    entropies = [-p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in (0.2, 0.01)]
    assert length(marks, classes) == pytest.approx(10_000 * sum(entropies), rel=0.03)
    assert length(marks, classes) < 0.9 * length(marks, np.zeros(20_000, np.int64))
    assert length(marks, rng.integers(500, size=20_000)) > length(marks, np.zeros(20_000, np.int64))


def test_what_both_ends_know_is_measured_in_a_training() -> None:
    with patch.dict(PRESETS, {"short": {"rounds": 6}}):
        rows = measured(0.5, "short", "")
    assert rows[0]["context"] == "none" and rows[0]["of the bits"] == 1
    assert all(0.5 < float(row["of the bits"] or 0) < 1.5 and float(row["bits a level"] or 0) > 0 for row in rows)
