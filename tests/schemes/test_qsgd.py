"""QSGD's formula and its bound."""

import math

import numpy as np

from flwr_co3.schemes.qsgd import QSGD


def test_each_entry_goes_up_or_down_with_the_probability_of_the_formula() -> None:
    v, s = np.array([3.0, -4.0, 0.0, 1.0]), 4
    norm = float(np.float32(math.sqrt(26) / s)) * s
    rng = np.random.default_rng(0)
    draws = np.array([QSGD(levels=s).encode_tensor(v, rng)[0] for _ in range(20_000)])
    a = np.abs(v) * s / norm
    for i, level in enumerate(np.floor(a)):
        assert set(np.abs(draws[:, i])) <= {level, level + 1}
        assert abs(np.mean(np.abs(draws[:, i]) - level) - (a[i] - level)) < 0.015


def test_the_variance_is_within_the_papers_bound() -> None:
    v = np.random.default_rng(1).normal(size=400)
    for s in (1, 3, 20, 100):
        scheme, rng = QSGD(levels=s), np.random.default_rng(2)
        errors = []
        for _ in range(200):
            levels, numbers = scheme.encode_tensor(v, rng)
            errors.append(np.sum((scheme.decode_tensor(levels, np.array(numbers)) - v) ** 2))
        assert np.mean(errors) <= min(v.size / s**2, math.sqrt(v.size) / s) * np.dot(v, v)


def test_few_levels_are_sparse() -> None:
    """Lemma 3.1: at most s (s + sqrt(d)) entries are expected to be other than 0."""
    v = np.random.default_rng(1).normal(size=10_000)
    levels, _ = QSGD(levels=1).encode_tensor(v, np.random.default_rng(0))
    assert np.count_nonzero(levels) < 1.2 * (1 + 100)
