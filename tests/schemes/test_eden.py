"""EDEN and DRIVE: their published errors, and the rotation."""

import math

import numpy as np
import pytest
from scipy.linalg import hadamard

from flwr_co3.schemes.eden import Drive, Eden, Rotated, block_sizes, rotate


def nmse(scheme: Rotated, entries: int, feedback: bool, draws: int = 12) -> float:
    v = np.random.default_rng(5).laplace(size=entries)
    errors = []
    for seed in range(draws):
        (found,) = scheme.decode(scheme.encode([v], np.random.default_rng(seed), feedback), [entries])
        errors.append(np.sum((found - v) ** 2) / np.dot(v, v))
    return float(np.mean(errors))


def test_drives_error_is_pi_halves_less_one() -> None:
    """DRIVE, theorem 3: the unbiased scale's error; theorem 1: the other scale's, ``1 - 2 / pi``."""
    assert nmse(Drive(), 1 << 15, feedback=False) == pytest.approx(math.pi / 2 - 1, rel=0.02)
    assert nmse(Drive(), 1 << 15, feedback=True) == pytest.approx(1 - 2 / math.pi, rel=0.02)


@pytest.mark.parametrize(("bits", "distortion"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_edens_error_is_that_of_the_best_quantiser_of_a_normal(bits: int, distortion: float) -> None:
    """Max, 1960, table I, gives the distortion D; unbiased it is ``1 / (1 - D) - 1``."""
    assert nmse(Eden(bits=bits), 1 << 15, feedback=True) == pytest.approx(distortion, rel=0.03)
    assert nmse(Eden(bits=bits), 1 << 15, feedback=False) == pytest.approx(1 / (1 - distortion) - 1, rel=0.03)


def test_a_share_of_a_bit_sends_a_share_of_the_entries() -> None:
    """Each entry kept with p: ``E <Rv, q>`` falls to p of it, so the error is ``1 / (p (1 - D)) - 1``."""
    assert nmse(Eden(bits=0.25), 1 << 15, feedback=False) == pytest.approx(4 / (1 - 0.3634) - 1, rel=0.03)


def test_the_rotation_is_hadamards() -> None:
    x = np.random.default_rng(0).normal(size=64)
    np.testing.assert_allclose(rotate(x), hadamard(64) @ x / 8)
    np.testing.assert_allclose(rotate(rotate(x)), x)


@pytest.mark.parametrize("entries", [0, 1, 63, 64, 65, 1000, 65_535, 65_536, 200_001])
def test_blocks_hold_all_entries_and_waste_little(entries: int) -> None:
    blocks = block_sizes(entries)
    assert entries <= sum(blocks) < entries + 64
    assert all(size & (size - 1) == 0 for size in blocks)
