"""Whole models in fewer bytes, and the same to the last bit."""

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from flwr_co3._planes import PLANES_STYPE, packed, unpacked
from flwr_co3.errors import FrameError
from tests.flower.helpers import record

FLOATS = [np.dtype(kind) for kind in ("<f2", "<f4", "<f8", ">f4")]
OTHERS = [np.dtype(kind) for kind in ("?", "i1", "<i8", "<u4", "<c8")]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=8)


@given(hnp.arrays(st.sampled_from(FLOATS + OTHERS), SHAPES))
def test_any_tensor_comes_back_to_the_last_bit(tensor: NDArray[np.generic]) -> None:
    back = unpacked(packed(record({"w": tensor})))["w"]
    assert (back.dtype, back.shape, back.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_weights_become_smaller(dtype: str) -> None:
    weights = np.random.default_rng(0).uniform(-0.05, 0.05, (200, 100)).astype(dtype)
    whole = record({"w": weights, "transposed": weights.T})
    small = packed(whole)
    assert all(len(small[name].data) < 0.9 * len(whole[name].data) for name in whole)
    np.testing.assert_array_equal(unpacked(small)["transposed"], weights.T)


def test_what_does_not_become_smaller_stays_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32).view("f4")
    whole = record({"noise": noise, "n": np.arange(1000)})
    assert packed(whole)["noise"].stype == packed(whole)["n"].stype == "numpy.ndarray"


@pytest.mark.parametrize(
    ("dtype", "shape", "cut", "words"),
    [
        ("<f4", (10, 10), 1, "'w' of the whole model is damaged"),
        ("<f4", (10, 9), 0, "it is not of 360 bytes"),
        ("<f4", (10, 11), 0, "it is not of 440 bytes"),
        ("<f4", (-10, 10), 0, "should be of floats"),
        ("<i4", (10, 10), 0, "should be of floats, and is of <i4"),
        ("object", (10, 10), 0, "should be of floats"),
    ],
)
def test_damage_is_noticed(dtype: str, shape: tuple[int, ...], cut: int, words: str) -> None:
    good = packed(record({"w": np.ones((10, 10), np.float32)}))["w"]
    small = packed(record({}))
    small["w"] = Array(dtype=dtype, shape=shape, stype=PLANES_STYPE, data=good.data[cut:])
    with pytest.raises(FrameError, match=words):
        unpacked(small)


def test_a_stream_that_goes_on_is_not_inflated_beyond_the_shape() -> None:
    long = packed(record({"w": np.zeros(10_000_000, np.float32)}))["w"]
    small = packed(record({}))
    small["w"] = Array(dtype="<f4", shape=(10,), stype=PLANES_STYPE, data=long.data)
    with pytest.raises(FrameError, match="not of 40 bytes"):
        unpacked(small)
