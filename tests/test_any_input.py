"""What must hold for any update: round trips of whatever arrays numpy can make, with whatever settings."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.frame import EMPTY, TensorSpec
from tests.samples import FORMATS, Array, assert_same, assert_same_update, gennorm
from tests.strategies import BFLOAT16, CONFIGS, FLOATS, QUANTIZERS, UPDATES, configured, values_of

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
    if config.limit is not None:
        assert len(encoded.frame) <= config.limit.bytes_for(parameters)
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
    # Means of small tensors that share them are those of all.
    if config.rounding != "stochastic":
        assert encoded.report.nmse <= 1 + 1e-5
    if config.rounding != "stochastic" and config.reconstruction == "level":
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
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=" ".join)
def test_all_settings_with_tensors_of_some_size(format: str, coder: str, quantizer: tuple[str, str]) -> None:
    update = {
        "a": gennorm(0.7, (257, 129), 1e-3).astype("f4"),
        "a.b": values_of(np.dtype("f8"), (70_000,), "sparse", 1),
        "a.c": values_of(np.dtype("f4"), (5000,), "outlier", 2),
        "a.d": values_of(np.dtype("f2"), (40, 50), "huge", 3),
        "a.e": np.arange(100),
    }
    for scale in ("optimal", 1.0):
        codec = Codec(configured(quantizer, format=format, coder=coder, scale=scale), seed=1)
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
