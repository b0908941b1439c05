"""Uses an installed flwr-co3 as its users will: no checkout, and nothing but its own dependencies."""

import importlib.util
import sys
import sysconfig
from pathlib import Path

import numpy as np

import flwr_co3
from flwr_co3 import kernels

home = Path(flwr_co3.__file__).parent
assert home.is_relative_to(sysconfig.get_path("purelib")), f"flwr_co3 was imported from {home}, not from the wheel"
assert (home / "py.typed").exists(), "the wheel lacks py.typed"
assert kernels.engine() == "c", "the wheel lacks the compiled loops, or they can't be loaded"
for stranger in ("simulations", "tests", "benchmarks"):
    assert importlib.util.find_spec(stranger) is None, f"the wheel brought {stranger}"

rng = np.random.default_rng(0)
update = {
    "layer.weight": rng.laplace(scale=1e-3, size=(256, 128)).astype(np.float32),
    "layer.steps": np.array(7, dtype=np.int64),
}
frame = flwr_co3.Codec(flwr_co3.CO3Config()).encode(update)
decoded = flwr_co3.Codec().decode(frame)

assert decoded.keys() == update.keys()
assert decoded["layer.steps"] == 7
weight, received = update["layer.weight"], decoded["layer.weight"]
nmse = float(np.sum((weight - received) ** 2) / np.sum(weight**2))
assert nmse < 0.1, f"the distortion of a Laplacian update is {nmse:.3f}"
assert "torch" not in sys.modules, "flwr_co3 imported torch"
print(f"{weight.nbytes:,} bytes of weights in a frame of {len(frame):,}; nMSE {nmse:.4f}")
