"""Experiments are schemes like others, and are found where they are registered."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.experiments.__main__ import SCHEMES, register
from benchmarks.experiments.clipping import clipping
from benchmarks.experiments.dependent import Dependent
from benchmarks.experiments.saturating import Saturating
from benchmarks.trellis import quantize
from flwr_co3 import CO3Config, Codec, ErrorMemory, RateLimit
from flwr_co3.conformance import CHECKS
from flwr_co3.schemes import Scheme, scheme_class, scheme_names
from flwr_co3.schemes.levels import ideal_bits


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
