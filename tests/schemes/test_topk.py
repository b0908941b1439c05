"""Top-k keeps what it should."""

import numpy as np

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.schemes import make_scheme
from flwr_co3.schemes.topk import largest


def test_the_k_largest_of_the_whole_update_come_back_as_they_were() -> None:
    rng = np.random.default_rng(0)
    update = {"a": rng.normal(size=2000).astype("f4"), "b": 10 * rng.normal(size=30).astype("f4")}
    sent = Codec(CO3Config(scheme=make_scheme("topk", share=0.05))).compress(update).sent
    both, found = (np.concatenate([tensors["a"], tensors["b"]]) for tensors in (update, sent))
    bound = np.sort(np.abs(both))[-round(0.05 * 2030)]
    np.testing.assert_array_equal(found, np.where(np.abs(both) >= bound, both, 0))


def test_zeros_are_not_kept() -> None:
    assert largest(np.array([0.0, 1.0, 0.0, -2.0]), 1.0).tolist() == [1, 3]
    assert largest(np.zeros(5), 0.4).size == 0


def test_positions_cost_about_their_entropy() -> None:
    v = np.random.default_rng(0).normal(size=100_000).astype("f4")
    frame = Codec(CO3Config(scheme=make_scheme("topk", share=0.01))).encode({"w": v})
    entropy = 100_000 * -(0.01 * np.log2(0.01) + 0.99 * np.log2(0.99)) / 8
    assert len(frame) < 4 * 1000 + 1.02 * entropy + 60
