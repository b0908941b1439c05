"""Small frames of every kind: what the tests of damages and of old frames work on."""

from typing import Any, NamedTuple
from unittest.mock import patch

import ml_dtypes
import numpy as np

from flwr_co3.codec import Codec
from flwr_co3.compress import stream
from flwr_co3.config import CO3Config
from flwr_co3.convert import FloatFormat
from flwr_co3.rate import RateLimit
from tests.samples import Array, gennorm, network


class Kind(NamedTuple):
    """A frame to make."""

    update: dict[str, Array]
    config: CO3Config
    max_bytes: int | None = None
    chunk: int = 1 << 17  # bytes and symbols that it takes to begin another chunk

    def frame(self) -> bytes:
        with patch.multiple(stream, _CHUNK_BYTES=self.chunk, _CHUNK_SYMBOLS=self.chunk):
            return Codec(self.config, seed=0).compress(self.update, max_bytes=self.max_bytes).frame


#: Tensors of these kinds that are sums of layers, each rounded: by kind and name.
IN_LAYERS = {("layers", "w"), ("three layers", "v")}


def exact_tensors() -> dict[str, Array]:
    """A tensor of every dtype that a frame can hold, none of them converted."""
    rng = np.random.default_rng(0)
    integers = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    tensors: dict[str, Array] = {
        name: rng.integers(np.iinfo(name).min, np.iinfo(name).max, (2, 3), dtype=name) for name in integers
    }
    for name in ("float16", "float32", "float64", "bfloat16", "complex64", "complex128"):
        dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
        tensors[name] = (rng.normal(size=4) + (1j * rng.normal(size=4) if dtype.kind == "c" else 0)).astype(dtype)
    tensors["bool"] = rng.random((3, 1, 2)) < 0.5
    tensors["negative zero"] = np.array([-0.0, 0.0], "f4")
    tensors["empty"] = np.zeros((0, 5), "i4")
    tensors["scalar"] = np.array(7, "i8")
    tensors["ünïcödé/重み"] = np.array(True)
    return tensors


def outliers(size: int, count: int, dtype: str = "f4") -> Array:
    """Zeros, but for a few."""
    values = np.zeros(size, dtype)
    positions = np.random.default_rng(size).choice(size, count, replace=False)
    values[positions] = gennorm(1.0, count, 1.0, size) + np.sign(gennorm(1.0, count, 1.0, size))
    return values


def small_network(seed: int = 0) -> dict[str, Any]:
    return network(seed, width=10)


def uneven(shape: tuple[int, ...]) -> Array:
    """Some rows and columns are much busier than others."""
    busy = [np.linspace(0, 1, count)[:, None] ** 2 for count in shape[:2]]
    width = (busy[0] * busy[1].T).reshape(*shape[:2], *[1] * (len(shape) - 2))
    return (gennorm(1, shape, 0.5) * width).astype("f4")


def kinds() -> dict[str, Kind]:
    """All kinds, by name."""
    bfloat16 = ml_dtypes.bfloat16
    return {
        "fp4 rans": Kind(small_network(), CO3Config()),
        "fp8 huffman": Kind(small_network(1), CO3Config(format="fp8", coder="huffman")),
        "fp4 huffman segments": Kind({"w": gennorm(0.8, (60, 120)).astype("f4")}, CO3Config(coder="huffman")),
        "lanes": Kind({"w": gennorm(1.5, 6000).astype("f8")}, CO3Config(format="fp8_143")),
        "chunks": Kind(
            {"a": gennorm(1.5, 3001), "b": outliers(9000, 250), "c": gennorm(0.7, 1025).astype("f4")},
            CO3Config(format="e2m1"),
            chunk=1500,
        ),
        "half dead": Kind({"w": gennorm(0.8, 1500) * (np.arange(1500) % 5 < 2)}, CO3Config(format="fp8")),
        "pooled": Kind(
            {f"block.{k}.bias": gennorm(1.0, 8 + 5 * k, 10.0**-k, k).astype("f4") for k in range(8)},
            CO3Config(format="e4m3"),
        ),
        "exact": Kind(exact_tensors(), CO3Config(exact=("*",))),
        "exact deflated": Kind({"table": np.arange(600) % 7, "w": gennorm(1, 30).astype("f2")}, CO3Config()),
        "busy rows": Kind({"w": gennorm(0.8, (40, 200)) * (np.arange(40) % 2)[:, None]}, CO3Config(scale=2.0)),
        "joined": Kind({"embedding": outliers(20_000, 297), "other": outliers(4000, 41, "f8")}, CO3Config(scale=1.0)),
        "sparse": Kind({"embedding": outliers(20_000, 300), "other": outliers(4000, 900, "f8")}, CO3Config(scale=1.0)),
        "listed": Kind({"embedding": outliers(5000, 6), "other": outliers(1500, 2, "f2")}, CO3Config(scale=0.7)),
        "listed by gaps": Kind(
            {"embedding": outliers(5000, 60), "other": outliers(1500, 9, "f2")}, CO3Config(scale=0.7)
        ),
        "marked scales": Kind(small_network(6) | {"quiet": gennorm(1, 3000, 1e-4)}, CO3Config(), max_bytes=1200),
        "common scale": Kind(small_network(2), CO3Config(rate=RateLimit(bits_per_parameter=1.0))),
        "common and own scales": Kind(
            {"small": gennorm(1, 2000, 1e-5).astype("f4"), "large": gennorm(1, 2000, 10.0).astype("f4")},
            CO3Config(),
            max_bytes=1000,
        ),
        "zeros": Kind({"dead": np.zeros((30, 70), "f4"), "alive": gennorm(1, 1100).astype("f4")}, CO3Config()),
        "all zeros": Kind(small_network(3), CO3Config(scale=1e-30)),
        "constant": Kind({"w": np.full(3000, 0.25, "f4"), "b": np.full(9, -1.0)}, CO3Config(coder="huffman")),
        "stochastic bfloat16": Kind(
            {"w": gennorm(0.9, (30, 40)).astype(bfloat16), "b": gennorm(0.9, 40).astype(bfloat16)},
            CO3Config(format=FloatFormat(exponent=3, mantissa=1, bias=3), rounding="stochastic"),
        ),
        "extreme": Kind(
            {
                "huge": gennorm(0.7, 1500, 1e300),
                "tiny": gennorm(0.7, 1500, 1e-310),
                "half": gennorm(0.7, 1500).astype("f2"),
            },
            CO3Config(format="e2m1"),
        ),
        "centroids": Kind(small_network(5), CO3Config(rounding="rd", reconstruction="centroid", scale=300.0)),
        "centroids uniform": Kind(
            {"w": gennorm(0.6, 4000), "dead": np.zeros(1500, "f2"), "b": outliers(2000, 40)},
            CO3Config(format="uniform", reconstruction="centroid", scale=0.5),
        ),
        "classes": Kind({"w": uneven((60, 20, 3, 3)), "b": uneven((300, 40))}, CO3Config(scale=1.0, contexts=True)),
        "layers": Kind(
            {"w": gennorm(1.0, 1500).astype("f4"), "half": gennorm(1.0, 40).astype("f2"), "n": np.arange(9)},
            CO3Config(rate=RateLimit(bits_per_parameter=9.0)),
        ),
        "three layers": Kind({"v": gennorm(0.8, 300, 1e-3)}, CO3Config(rate=RateLimit(bits_per_parameter=20.0))),
        "no tensors": Kind({}, CO3Config()),
        "empty update": Kind(small_network(4), CO3Config(), max_bytes=20),
    }
