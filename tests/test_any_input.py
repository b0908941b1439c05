"""What must hold for any update: round trips of whatever arrays numpy can make, with whatever settings."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.frame import EMPTY, TensorSpec
from flwr_co3.rate import RateLimit
from tests.samples import FORMATS, Array, assert_same, assert_same_update, gennorm

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


@st.composite
def layouts(draw: st.DrawFn, tensor: Array) -> Array:
    """The same values in another layout: Fortran order, or every other entry of something larger, or reversed."""
    match draw(st.sampled_from(["C", "F", "strided", "reversed", "read-only"])):
        case "F":
            return np.asfortranarray(tensor)
        case "strided" if tensor.ndim:
            wide = np.repeat(tensor, 2, axis=-1)
            return wide[..., ::2]
        case "reversed" if tensor.ndim:
            return tensor[::-1]
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
SETTINGS = {
    "format": st.sampled_from(FORMATS),
    "coder": st.sampled_from(["rans", "huffman"]),
    "rounding": st.sampled_from(["nearest", "stochastic"]),
    "exact": st.sampled_from([(), ("*running_var",), ("a*",), ("*",)]),
    "exact_below": st.sampled_from([0, 8, 100]),
}
SCALES = st.sampled_from([5e-324, 1e-300, 1e-30, 0.01, 1.0, 123.456, 1e30, 1e300])
RATES = st.one_of(
    st.builds(RateLimit, bytes_per_round=st.integers(1, 3000)),
    st.builds(RateLimit, bits_per_parameter=st.floats(0.01, 9)),
)
CONFIGS = st.one_of(
    st.builds(CO3Config, **SETTINGS),
    st.builds(CO3Config, scale=SCALES, **SETTINGS),
    st.builds(CO3Config, rate=RATES, **SETTINGS),
)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
thorough = settings(deadline=None, max_examples=400, suppress_health_check=SLOW)


def native(tensor: Array) -> Array:
    return tensor.astype(tensor.dtype.newbyteorder("="))


@given(UPDATES, CONFIGS, st.integers(0, 9))
@thorough
def test_any_update_comes_back(update: dict[str, Array], config: CO3Config, seed: int) -> None:
    before = {name: (tensor.tobytes(), tensor.strides, tensor.dtype) for name, tensor in update.items()}
    codec = Codec(config, seed=seed)
    encoded = codec.compress(update)
    assert {name: (t.tobytes(), t.strides, t.dtype) for name, t in update.items()} == before

    parameters = sum(tensor.size for tensor in update.values())
    if config.rate is not None:
        assert len(encoded.frame) <= config.rate.bytes_for(parameters)
    assert (encoded.report.frame_bytes, encoded.report.parameters) == (len(encoded.frame), parameters)

    decoded = Codec().decode(encoded.frame, like={name: TensorSpec.of(tensor) for name, tensor in update.items()})
    assert list(encoded.sent) == list(update)
    if encoded.frame == EMPTY:
        assert decoded == {}
        assert all(not np.any(tensor) for tensor in encoded.sent.values())
    else:
        assert_same_update(decoded, encoded.sent)
    for name, tensor in update.items():
        found = encoded.sent[name]
        assert found.dtype == tensor.dtype.newbyteorder("=") and found.dtype.isnative
        assert found.shape == tensor.shape
        assert np.all(np.isfinite(found))
        if codec.is_exact(name, tensor) and encoded.frame != EMPTY:
            assert_same(found, native(tensor))
    # To the nearest level, with 0 among the levels, nothing gets worse; but float32 may round a tie the other way.
    if config.rounding == "nearest":
        assert encoded.report.nmse <= 1 + 1e-5
        assert all(report.nmse <= 1 + 1e-5 for report in encoded.report.tensors.values())


@given(UPDATES, CONFIGS)
@settings(deadline=None, max_examples=50, suppress_health_check=SLOW)
def test_the_order_of_tensors_is_kept_and_changes_no_number(update: dict[str, Array], config: CO3Config) -> None:
    if config.rounding == "stochastic" or config.rate is not None:  # there, all tensors share draws, or bytes
        return
    forwards = Codec(config).compress(update).sent
    backwards = Codec(config).compress(dict(reversed(update.items()))).sent
    assert list(backwards) == list(reversed(update))
    assert_same_update({name: backwards[name] for name in update}, forwards)


@given(UPDATES, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=SLOW)
def test_what_is_not_finite_is_refused_with_its_name(update: dict[str, Array], bad: float, data: st.DataObject) -> None:
    candidates = [n for n, t in update.items() if t.size and (t.dtype == BFLOAT16 or t.dtype.kind in "fc")]
    if not candidates:
        return
    name = data.draw(st.sampled_from(candidates))
    spoilt = update[name].copy()
    spoilt.reshape(-1, order="A" if spoilt.ndim else "C")[data.draw(st.integers(0, spoilt.size - 1))] = bad
    update[name] = spoilt
    config = data.draw(CONFIGS)
    with pytest.raises(ValueError, match="holds NaN or infinity: nothing was encoded") as error:
        Codec(config).encode(update)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("coder", ["rans", "huffman"])
def test_many_tiny_tensors(coder: str) -> None:
    update = {f"layer{k}.bias": gennorm(1, k % 23, seed=k).astype(FLOATS[k % 7]) for k in range(3000)}
    update["layer"] = np.array(3)
    encoded = Codec(CO3Config(coder=coder, exact_below=2)).compress(update)
    assert_same_update(Codec().decode(encoded.frame), encoded.sent)
    assert len(encoded.frame) < 8 * sum(tensor.size for tensor in update.values()) + 20 * len(update)


@pytest.mark.parametrize("coder", ["rans", "huffman"])
def test_many_large_tensors(coder: str) -> None:
    """More sequences than 8 bits can count."""
    update = {f"layer{k}.weight": gennorm(0.5 + 0.01 * k, 1025 + k % 5, 10.0 ** (k % 7), k) for k in range(300)}
    encoded = Codec(CO3Config(coder=coder)).compress(update)
    assert_same_update(Codec().decode(encoded.frame), encoded.sent)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("coder", ["rans", "huffman"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_all_settings_with_tensors_of_some_size(format: str, coder: str, rounding: str) -> None:
    update = {
        "a": gennorm(0.7, (257, 129), 1e-3).astype("f4"),
        "a.b": values_of(np.dtype("f8"), (70_000,), "sparse", 1),
        "a.c": values_of(np.dtype("f4"), (5000,), "outlier", 2),
        "a.d": values_of(np.dtype("f2"), (40, 50), "huge", 3),
        "a.e": np.arange(100),
    }
    for scale in ("optimal", 1.0):
        codec = Codec(CO3Config(format=format, coder=coder, rounding=rounding, scale=scale), seed=1)
        encoded = codec.compress(update)
        assert_same_update(Codec().decode(encoded.frame), encoded.sent)


def test_any_mapping_any_array_like_and_no_other_dtypes() -> None:
    assert Codec().decode(Codec().encode({})) == {}
    encoded = Codec().compress({"list": [1.0, 2.0], "scalar": 3})  # type: ignore[dict-item]
    assert encoded.sent["list"].tolist() == [1, 2] and encoded.sent["scalar"] == 3
    for bad in (
        np.array(["a"]),
        np.array([None]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, "i4,f4"),
    ):
        with pytest.raises(ValueError, match=r"Tensor 'x' has dtype .*, which no frame can hold: convert it"):
            Codec().encode({"x": bad})
    with pytest.raises(TypeError, match="names must be strings, not 3"):
        Codec().encode({3: np.zeros(2)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"name 'a\\ud800' is no text that UTF-8 can write"):
        Codec().encode({"a\ud800": np.zeros(2)})


def test_as_many_dimensions_as_numpy_has() -> None:
    most = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32
    encoded = Codec(CO3Config(exact_below=0)).compress({"a": np.ones((1,) * most), "b": np.ones((1,) * most, "i1")})
    assert_same_update(Codec().decode(encoded.frame), encoded.sent)


def test_as_many_tensors_as_a_frame_can_hold() -> None:
    exact, lossy = np.array(True), np.ones(1, "f4")
    update = {str(k): lossy if k % 8 == 3 else exact for k in range(1 << 16)}
    decoded = Codec().decode(Codec(CO3Config(exact_below=0)).encode(update))
    assert len(decoded) == 1 << 16 and decoded["2"] and decoded["3"].shape == (1,)
    with pytest.raises(ValueError, match="has 65537 tensors; a frame can hold 65536: send it in parts"):
        Codec().encode(update | {"one more": exact})
