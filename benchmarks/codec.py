"""Time and size of encoding and decoding, beside a plain copy of the same memory in the same process.

    python -m benchmarks.codec [--entries 11000000] [--runs 5]

Two updates of the same number of entries, drawn from a generalised normal of shape .8: one tensor, and the 62 tensors
of a ResNet-18. Figures are medians, on one thread; read the ratios, since machines differ and share their cores.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from flwr_co3 import CO3Config, Codec, GenNorm, RateLimit

Update = dict[str, npt.NDArray[Any]]

CONFIGS = {
    "fp4": CO3Config(),
    "fp4, Huffman": CO3Config(coder="huffman"),
    "fp8": CO3Config(format="fp8"),
    "0.5 bit": CO3Config(rate=RateLimit(bits_per_parameter=0.5)),
    "0.1 bit": CO3Config(rate=RateLimit(bits_per_parameter=0.1)),
    "0.01 bit": CO3Config(rate=RateLimit(bits_per_parameter=0.01)),
}


def resnet18_sizes() -> list[int]:
    """Entries of a ResNet-18's tensors: convolutions, two for each normalisation, and the dense layer."""
    sizes = [9408, 64, 64]
    width = 64
    for stage in (64, 128, 256, 512):
        for block in range(2):
            for wide in (width, stage):
                sizes += [9 * wide * stage, stage, stage]
            if block == 0 and stage != 64:
                sizes += [width * stage, stage, stage]
            width = stage
    return [*sizes, 512 * 1000, 1000]


def draw(sizes: list[int], entries: int) -> Update:
    """Draw an update whose tensors have these shares of so many entries, and scales over two decades."""
    rng = np.random.default_rng(0)
    quantiles = GenNorm(0.8, 1e-3).ppf(np.linspace(0, 1, 200_003)[1:-1]).astype(np.float32)
    update = {}
    for index, size in enumerate(sizes):
        count = max(size * entries // sum(sizes), 1)
        update[f"layer{index}.weight"] = rng.choice(quantiles, count) * np.float32(10 ** rng.uniform(-1, 1))
    return update


def copied(update: Update) -> list[npt.NDArray[Any]]:
    """Copy every tensor: the least that a pass over an update can cost."""
    return [tensor.copy() for tensor in update.values()]


def seconds(action: Callable[[], object], runs: int) -> float:
    """Median time of an action, after one run that is not counted."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=11_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("flwr-co3", "numpy"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    print(f"{options.entries:,} entries of float32, median of {options.runs} runs")
    for title, sizes in (("one tensor", [1]), ("62 tensors", resnet18_sizes())):
        update = draw(sizes, options.entries)
        copy = seconds(partial(copied, update), options.runs)
        print(f"\n{title}; a copy takes {copy:.4f} s")
        print(f"{'':14}{'bits/entry':>11}{'encode s':>10}{'copies':>8}{'decode s':>10}{'copies':>8}")
        for name, config in CONFIGS.items():
            codec = Codec(config)
            frame = codec.encode(update)
            encode = seconds(partial(codec.encode, update), options.runs)
            decode = seconds(partial(codec.decode, frame), options.runs)
            bits = 8 * len(frame) / options.entries
            print(f"{name:14}{bits:11.4f}{encode:10.3f}{encode / copy:8.0f}{decode:10.3f}{decode / copy:8.0f}")


if __name__ == "__main__":
    main()
