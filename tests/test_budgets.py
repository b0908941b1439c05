"""Ten thousand budgets, none of them exceeded; and how much of them is used."""

from functools import cache

import numpy as np
import pytest

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.frame import EMPTY
from flwr_co3.rate import RateLimit
from tests.kinds import uneven
from tests.known import like
from tests.samples import Array, assert_same_update, gennorm, network
from tests.test_rate import SYNTHETIC, counted_encodings, deep_network, synthetic
from tests.trained import trained_update

CASES, PARTS = 10_000, 20
SHARE = CASES // PARTS
LOWEST, HIGHEST = 0.005, 6.0  # bits per parameter


def log_uniform(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(LOWEST), np.log(HIGHEST))))


@cache
def updates(part: int) -> list[dict[str, Array]]:
    """Updates of all kinds: real ones, of one and of some rounds, and drawn ones."""
    rng = np.random.default_rng(part)
    real = [trained_update(10 * part + k, steps=int(rng.integers(1, 30))) for k in range(8)]
    drawn = [synthetic(kind, int(rng.integers(1, 4000)), part) for kind in SYNTHETIC]
    return [*real, *drawn, network(part, width=8), {"w": gennorm(float(rng.uniform(0.3, 2)), 3000, 1e-3).astype("f4")}]


@pytest.mark.parametrize("part", range(PARTS))
def test_ten_thousand_budgets_are_kept(part: int) -> None:
    rng = np.random.default_rng([part, 1])
    for case in range(SHARE):
        update = updates(part)[case % len(updates(part))]
        rate, known = RateLimit(bits_per_parameter=log_uniform(rng)), bool(rng.random() < 0.7)
        config = CO3Config(rate=rate, coder="huffman" if rng.random() < 0.1 else "rans")
        with counted_encodings() as encodings:
            encoded = Codec(config).compress(update, known=known)
        budget = rate.bytes_for(sum(tensor.size for tensor in update.values()))
        assert len(encoded.frame) <= budget
        assert encodings.are_few()
        if case % 10 == 0 and encoded.frame != EMPTY:
            assert_same_update(Codec().decode(encoded.frame, like=like(update)), encoded.sent)


def large(kind: str, seed: int) -> dict[str, Array]:
    """Updates of some 50,000 parameters and more, all of whose entries can use bits."""
    match kind:
        case "trained":
            return trained_update(seed, inputs=784, hidden=64, steps=20)
        case "deep":
            dead = {f"layer{k}.running_mean" for k in range(99)}
            return {name: tensor for name, tensor in deep_network(60_000, seed).items() if name not in dead}
        case _:
            return {"w": gennorm(0.7, (250, 200), 1e-3, seed).astype("f4")}


@pytest.mark.parametrize("bits", [0.02, 0.05, 0.1, 0.3, 1.0, 2.0, 4.0, 6.0])
@pytest.mark.parametrize("kind", ["trained", "deep", "one tensor"])
def test_budgets_of_50_000_parameters_are_used_but_for_three_hundredths(kind: str, bits: float) -> None:
    """By the default settings. Frames of less than a hundred bytes are a test of their own."""
    update = large(kind, 7)
    rate = RateLimit(bits_per_parameter=bits)
    with counted_encodings() as encodings:
        frame = Codec(CO3Config(rate=rate)).compress(update, known=True).frame
    budget = rate.bytes_for(sum(tensor.size for tensor in update.values()))
    assert 0.97 * budget <= len(frame) <= budget
    assert encodings.are_few()


@pytest.mark.parametrize("bits", [0.005, 0.007, 0.01, 0.0125, 0.015])
@pytest.mark.parametrize("kind", ["trained", "deep", "one tensor"])
@pytest.mark.parametrize("seed", [0, 1, 2, 7])
def test_the_smallest_budgets_are_used_but_for_three_hundredths(kind: str, bits: float, seed: int) -> None:
    """One entry more takes some two bytes, and in a group where there was none a few more."""
    update = large(kind, seed)
    rate = RateLimit(bits_per_parameter=bits)
    with counted_encodings() as encodings:
        frame = Codec(CO3Config(rate=rate)).compress(update, known=True).frame
    budget = rate.bytes_for(sum(tensor.size for tensor in update.values()))
    assert 0.97 * budget <= len(frame) <= budget
    assert encodings.are_few()


@pytest.mark.parametrize("seed", range(40))
def test_the_smallest_budget_of_all_is_used_to_its_last_byte(seed: int) -> None:
    """31 bytes for 50,000 parameters: one byte less is more than three hundredths."""
    update = {f"layer{k}": gennorm(0.5 + 0.1 * k, 6250, 2.0**-k, 8 * seed + k).astype("f4") for k in range(8)}
    with counted_encodings() as encodings:
        encoded = Codec(CO3Config(rate=RateLimit(bits_per_parameter=LOWEST))).compress(update, known=True)
    assert len(encoded.frame) == 31
    assert encodings.are_few()


@pytest.mark.parametrize("bits", [0.005, 0.1, 1.0, 6.0])
def test_a_million_parameters_use_all_but_a_hundredth(bits: float) -> None:
    update = {f"layer{k}": gennorm(0.5 + 0.1 * k, 260_000, 10.0 ** -(2 + k / 4), k).astype("f4") for k in range(4)}
    rate = RateLimit(bits_per_parameter=bits)
    frame = Codec(CO3Config(rate=rate)).compress(update, known=True).frame
    assert 0.99 * rate.bytes_for(1_040_000) <= len(frame) <= rate.bytes_for(1_040_000)


@pytest.mark.parametrize("bits", [0.05, 0.3, 0.7, 1.0, 1.5, 2.0, 3.0])
def test_busy_rows_leave_no_more_of_a_budget(bits: float) -> None:
    """Sizes fall below what independent levels would take, by another share at each scale."""
    update = {"conv.weight": uneven((64, 32, 3, 3)), "dense.weight": uneven((64, 1024))}
    rate = RateLimit(bits_per_parameter=bits)
    frame = Codec(CO3Config(rate=rate)).compress(update, known=True).frame
    budget = rate.bytes_for(sum(tensor.size for tensor in update.values()))
    assert 0.97 * budget <= len(frame) <= budget
