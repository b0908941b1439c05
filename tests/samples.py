"""Tensors and updates that the tests of the core share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flwr_co3.compress import Plan, write_stream
from flwr_co3.gennorm import GenNorm

Array = NDArray[Any]

FORMATS = ("fp4", "fp8", "fp8_143", "e2m1", "e4m3", "e5m2", "uniform", "e2m5", "e3m4")

#: co3.md's table for fp4: by shape, the scale that minimises the squared error of GenNorm(shape, 1), and that error.
FP4_OPTIMA = {
    0.3: (0.0009, 0.1436),
    0.4: (0.0123, 0.1055),
    0.5: (0.0528, 0.0816),
    0.6: (0.1297, 0.0657),
    0.7: (0.2382, 0.0547),
    0.8: (0.3683, 0.0467),
    1.0: (0.6501, 0.0364),
    1.2: (0.9289, 0.0301),
    1.5: (1.2925, 0.0246),
    2.0: (1.7515, 0.0199),
}


def gennorm(shape: float, size: int | tuple[int, ...], scale: float = 1.0, seed: int = 0) -> NDArray[np.float64]:
    """Draws of a generalised normal: |x|^shape is gamma distributed."""
    rng = np.random.default_rng(seed)
    magnitude = scale * rng.gamma(1 / shape, size=size) ** (1 / shape)
    return np.asarray(rng.choice([-1.0, 1.0], size=size) * magnitude)


def network(seed: int = 0, width: int = 32) -> dict[str, Array]:
    """What one training round of a small network may send: heavy tails, dead units, biases, BatchNorm's statistics."""
    rng = np.random.default_rng(seed)
    alive = rng.random((4 * width, 1)) < 0.7
    return {
        "conv.weight": gennorm(0.6, (width, 16, 3, 3), 1e-3, seed).astype("f4"),
        "bn.weight": gennorm(1.5, width, 1e-3, seed + 1).astype("f4"),
        "bn.running_mean": rng.normal(size=width).astype("f4"),
        "bn.num_batches_tracked": np.array(1234),
        "fc1.weight": (gennorm(0.8, (4 * width, width), 1e-2, seed + 2) * alive).astype("f4"),
        "fc1.bias": gennorm(1.0, 4 * width, 1e-2, seed + 3).astype("f4"),
        "fc2.weight": gennorm(1.2, (10, 4 * width), 3e-2, seed + 4).astype("f4"),
        "fc2.bias": gennorm(1.0, 10, 3e-2, seed + 5).astype("f4"),
    }


def assert_same(found: Array, expected: Array) -> None:
    """Assert that two arrays agree in type, dtype, shape and every bit."""
    assert isinstance(found, np.ndarray)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def assert_same_update(found: dict[str, Array], expected: dict[str, Array]) -> None:
    """`assert_same` for all tensors, in their order."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert_same(found[name], tensor)


def cell_probabilities(levels: NDArray[np.float64], model: GenNorm, scale: float) -> NDArray[np.float64]:
    """Share of a model's values that is nearest to each level, by the distribution function alone."""
    edges = (levels[1:] + levels[:-1]) / 2 / scale
    return np.diff(np.concatenate([[0.0], model.cdf(edges), [1.0]]))


def section_of(plans: list[Plan], coder: str) -> bytes:
    """A frame's coded section."""
    return b"".join(write_stream(plans, coder))
