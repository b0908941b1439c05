"""Frames for a receiver that knows the tensors: they refer to a table instead of having one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.convert import FloatFormat
from flwr_co3.frame import TensorSpec
from flwr_co3.rate import RateLimit
from tests.kinds import exact_tensors, outliers, small_network
from tests.samples import Array, gennorm


class Known(NamedTuple):
    """A frame to make."""

    update: dict[str, Array]
    config: CO3Config = CO3Config()
    max_bytes: int | None = None

    def frame(self) -> bytes:
        return Codec(self.config, seed=0).compress(self.update, max_bytes=self.max_bytes, known=True).frame


def like(update: Mapping[str, Array]) -> dict[str, TensorSpec]:
    """What the receiver knows."""
    return {name: TensorSpec.of(tensor) for name, tensor in update.items()}


def layers(count: int) -> dict[str, Any]:
    """More large tensors than a small budget has bytes for tables."""
    return {f"layer{k}": gennorm(0.7, 1500, 1e-3, k).astype("f4") for k in range(count)}


def known_kinds() -> dict[str, Known]:
    """A frame for every way to refer to a table, and to be coded then."""
    network = small_network()
    lossy = {name: tensor for name, tensor in network.items() if "running" not in name and "num" not in name}
    return {
        "marked exact": Known(network),
        "exact by type alone": Known(lossy | {"steps": np.arange(9)}),
        "huffman": Known(lossy, CO3Config(coder="huffman")),
        "short scale": Known(lossy, max_bytes=200),
        "long scale": Known(lossy, CO3Config(scale=12.3456789)),
        "own scales": Known(lossy, max_bytes=2000),
        "marked scales": Known({"quiet": gennorm(1, 3000, 1e-4)} | lossy, max_bytes=700),
        "one group": Known(layers(20), max_bytes=70),
        "one group sparse": Known(layers(20), max_bytes=300),
        "a finer format": Known(
            {"w": gennorm(1.0, 3000).astype("f4")}, CO3Config(rate=RateLimit(bits_per_parameter=3))
        ),
        "layers": Known(
            {"w": gennorm(1.0, 1500).astype("f4"), "v": gennorm(0.7, 90)},
            CO3Config(rate=RateLimit(bits_per_parameter=9)),
        ),
        "another format": Known(lossy, CO3Config(format=FloatFormat(exponent=3, mantissa=1, bias=3))),
        "listed": Known({"few": outliers(2000, 5)}, CO3Config(scale=1.0)),
        "all exact": Known(exact_tensors()),
        "zeros": Known({"w": np.zeros((40, 50), "f4"), "none": np.zeros((0, 3), "f4")}),
        "no tensors": Known({}),
    }
