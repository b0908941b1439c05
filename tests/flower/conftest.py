"""What the tests of the Flower layer share."""

import numpy as np
import pytest

from tests.flower.helpers import Tensors


@pytest.fixture
def model() -> Tensors:
    """A small model: two weights that are lossy, and what travels exactly."""
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(16, 3, 3, 3)).astype(np.float32),
        "fc.weight": rng.normal(size=(10, 40)).astype(np.float32),
        "fc.bias": rng.normal(size=3).astype(np.float32),
        "bn.running_mean": rng.normal(size=64).astype(np.float32),
        "bn.num_batches_tracked": np.array(7, np.int64),
    }
