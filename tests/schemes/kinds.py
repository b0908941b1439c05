"""Small frames of every scheme of the package: they must decode for ever."""

from typing import Any

import numpy as np

from flwr_co3 import CO3Config
from flwr_co3.schemes import make_scheme
from tests.kinds import Kind
from tests.samples import Array, gennorm

#: By the name of the frame: the scheme, and options with which a small frame holds something.
_FRAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "bfloat16": ("cast", {}),
    "float16": ("cast", {"dtype": "float16"}),
    "uniform": ("uniform", {}),
    "uniform with low bits": ("uniform", {"step": 1e-3}),
    "qsgd": ("qsgd", {}),
    "adaquantfl": ("adaquantfl", {"levels": 5}),
    "terngrad": ("terngrad", {}),
    "sign": ("sign", {}),
    "bingrad b": ("bingrad_b", {}),
    "orq": ("orq", {}),
    "tinyscript": ("tinyscript", {}),
    "topk": ("topk", {"share": 0.1}),
    "ef21": ("ef21", {"share": 0.1}),
    "m22": ("m22", {"share": 0.2}),
    "onebit": ("onebit", {"share": 0.2}),
    "lruvq": ("lruvq", {"share": 0.3}),
    "eden": ("eden", {"bits": 1.3}),
    "eden below a bit": ("eden", {"bits": 0.4}),
    "drive": ("drive", {}),
    "countsketch": ("countsketch", {"cells": 0.5}),
    "homomorphic": ("homomorphic", {"share": 0.1}),
}


def scheme_kinds() -> dict[str, Kind]:
    """All of them by name; and one whose tensor is long enough for a model of its own."""
    kinds = {name: Kind(_update(300), _config(*chosen)) for name, chosen in _FRAMES.items()}
    return {**kinds, "a long tensor": Kind(_update(3000), _config("uniform", {}))}


def _config(name: str, options: dict[str, Any]) -> CO3Config:
    return CO3Config(scheme=make_scheme(name, **options))


def _update(entries: int) -> dict[str, Array]:
    return {
        "w": gennorm(0.9, (entries // 15, 15)).astype("f4"),
        "b": gennorm(1.0, 40, 1e-2),
        "half": gennorm(1.0, 10, 0.1, 1).astype("f2"),
        "steps": np.array(12),
    }
