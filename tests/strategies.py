"""Updates and settings of all kinds, drawn by hypothesis."""

import math
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_co3.config import CO3Config
from flwr_co3.rate import RateLimit
from tests.samples import FORMATS, Array, gennorm

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [*(np.dtype(order + kind) for kind in ("f2", "f4", "f8") for order in "<>"), BFLOAT16]
OTHERS = [
    *(np.dtype(order + kind) for kind in ("i2", "i4", "i8", "u2", "u4", "u8", "c8", "c16") for order in "<>"),
    *(np.dtype(kind) for kind in ("?", "i1", "u1")),
]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
NAMES = st.text(max_size=12) | st.sampled_from(
    ["a", "a.b", "a.b.weight", "a.b.weight2", "*", "[x]", "bn.running_var", "\0", "重み"]
)


def values_of(dtype: np.dtype[Any], shape: tuple[int, ...], kind: str, seed: int) -> Array:
    """Float values of a certain kind, within the range of the dtype."""
    limits: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    tiny, huge = float(limits.smallest_subnormal), float(limits.max)
    rng = np.random.default_rng(seed)
    size = math.prod(shape)
    values: Array
    match kind:
        case "zero":
            values = np.zeros(size)
        case "constant":
            values = np.full(size, rng.normal())
        case "outlier":
            values = 1e-3 * rng.normal(size=size)
            values[size // 3 : size // 3 + 1] = huge
        case "denormal":
            values = tiny * rng.integers(-9, 10, size)
        case "huge":
            values = huge * rng.uniform(-1, 1, size)
        case "magnitudes":  # from one end of the range to the other
            values = np.exp2(rng.uniform(math.log2(tiny), math.log2(huge), size)) * rng.choice([-1, 1], size)
        case "sparse":
            values = rng.normal(size=size) * (rng.random(size) < 0.05)
        case "signed zeros":
            values = np.copysign(0.0, rng.normal(size=size))
        case _:
            values = gennorm(float(rng.uniform(0.2, 4)), size, 10.0 ** float(rng.uniform(-6, 3)), seed)
    return np.clip(values, -huge, huge).astype(dtype).reshape(shape)


KINDS = ["zero", "constant", "outlier", "denormal", "huge", "magnitudes", "sparse", "signed zeros", "heavy tails"]


@st.composite
def float_tensors(draw: st.DrawFn) -> Array:
    """Floats of all dtypes, sizes (some above the size that is pooled) and memory layouts."""
    shape = draw(SHAPES | st.sampled_from([(1500,), (3, 700), (2, 1024), (1025,)]))
    tensor = values_of(draw(st.sampled_from(FLOATS)), shape, draw(st.sampled_from(KINDS)), draw(st.integers(0, 99)))
    return draw(layouts(tensor))


def misaligned(tensor: Array) -> Array:
    """The same values, one byte beside the place where the processor would have them."""
    room = np.zeros(tensor.nbytes + 1, np.uint8)
    moved = np.ndarray(tensor.shape, tensor.dtype, room.data, offset=1)
    moved[...] = tensor
    return moved


@st.composite
def layouts(draw: st.DrawFn, tensor: Array) -> Array:
    """The same values in another layout: Fortran order, or every other entry of something larger, or reversed."""
    match draw(st.sampled_from(["C", "F", "strided", "reversed", "misaligned", "read-only"])):
        case "F":
            return np.asfortranarray(tensor)
        case "strided" if tensor.ndim:
            wide = np.repeat(tensor, 2, axis=-1)
            return wide[..., ::2]
        case "reversed" if tensor.ndim:
            return tensor[::-1]
        case "misaligned":
            return misaligned(tensor)
        case "read-only":
            tensor.setflags(write=False)
    return tensor


@st.composite
def other_tensors(draw: st.DrawFn) -> Array:
    """Integers, booleans and complex numbers, any bits that are finite."""
    dtype = draw(st.sampled_from(OTHERS))
    elements = {"allow_nan": False, "allow_infinity": False, "allow_subnormal": True} if dtype.kind == "c" else None
    return draw(layouts(draw(hnp.arrays(dtype, SHAPES, elements=elements))))


UPDATES = st.dictionaries(NAMES, float_tensors() | float_tensors() | other_tensors(), max_size=6)
#: Rounding and reconstruction.
QUANTIZERS = (
    *(("nearest", "level"), ("stochastic", "level"), ("rd", "level")),
    *(("nearest", "centroid"), ("rd", "centroid")),
)


def configured(quantizer: tuple[str, str], **settings: Any) -> CO3Config:
    """Make a configuration with one of `QUANTIZERS`."""
    return CO3Config(rounding=quantizer[0], reconstruction=quantizer[1], **settings)


SETTINGS = {
    "format": st.sampled_from(FORMATS),
    "coder": st.sampled_from(["rans", "huffman"]),
    "quantizer": st.sampled_from(QUANTIZERS),
    "contexts": st.booleans(),
    "exact": st.sampled_from([(), ("*running_var",), ("a*",), ("*",)]),
    "exact_below": st.sampled_from([0, 8, 100]),
}
SCALES = st.sampled_from([5e-324, 1e-300, 1e-30, 0.01, 1.0, 123.456, 1e30, 1e300])
WEIGHTS = st.sampled_from([{}, {"a*": 1e6}, {"a.b*": 4.0, "*": 1e-6}])
RATES = st.one_of(
    st.builds(RateLimit, bytes_per_round=st.integers(1, 3000)),
    st.builds(RateLimit, bits_per_parameter=st.floats(0.01, 9)),
)
CONFIGS = st.one_of(
    st.builds(configured, **SETTINGS),
    st.builds(configured, scale=SCALES, **SETTINGS),
    st.builds(configured, rate=RATES, weights=WEIGHTS, **SETTINGS),
)
