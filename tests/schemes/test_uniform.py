"""The uniform quantiser: rate and distortion of theory."""

import numpy as np
import pytest

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.schemes import make_scheme


@pytest.mark.parametrize("step", [0.05, 0.2])
def test_at_small_steps_it_is_as_theory_has_it(step: float) -> None:
    """Error ``D^2 / 12`` an entry, and the differential entropy less ``log2 D`` bits: for Laplace, ``log2(2 e b)``."""
    v = np.random.default_rng(0).laplace(scale=3e-3, size=200_000)
    encoded = Codec(CO3Config(scheme=make_scheme("uniform", step=step))).compress({"w": v.astype("f4")})
    assert encoded.nmse == pytest.approx(step**2 / 12, rel=0.01)
    bits = np.log2(2 * np.e / (step * np.sqrt(2)))  # b over the root mean square is 1 / sqrt 2
    assert 8 * len(encoded.frame) / v.size == pytest.approx(bits, abs=0.02)


def test_all_tensors_share_the_step() -> None:
    rng = np.random.default_rng(0)
    update = {"a": rng.normal(size=3000), "b": 20 * rng.normal(size=2000)}
    sent = Codec(CO3Config(scheme=make_scheme("uniform", step=0.5))).compress(update).sent
    rms = np.sqrt(np.mean(np.concatenate([update["a"], update["b"]]) ** 2))
    for tensor in sent.values():
        multiples = tensor / (0.5 * rms)
        np.testing.assert_allclose(multiples, np.rint(multiples), atol=1e-4)
