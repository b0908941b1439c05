"""The error memory: the leak identity, its state in and out, and what it refuses."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.correct import MEMORY_DTYPES, ErrorMemory
from tests.samples import assert_same, gennorm

#: Relative precision of what is stored.
PRECISION = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
each_dtype = pytest.mark.parametrize("dtype", MEMORY_DTYPES)


def updates(rounds: int, dtype: str = "f8") -> list[dict[str, NDArray[Any]]]:
    return [
        {"a": gennorm(0.8, (40, 30), 0.1, t).astype(dtype), "b": gennorm(0.8, 50, 0.3, 100 + t).astype(dtype)}
        for t in range(rounds)
    ]


def loaded(state: NDArray[Any]) -> NDArray[np.float64]:
    """A stored error as numbers, read without the memory's own code."""
    return np.asarray(state.view(ml_dtypes.bfloat16) if state.dtype == np.uint16 else state).astype("f8")


@each_dtype
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_the_leak_identity_holds(dtype: str, decay: float) -> None:
    """sum q = sum g - (1 - decay) sum_{0<t<T} e_t - e_T, with the errors as they are stored."""
    rounds, codec = 25, Codec(CO3Config(format="fp4", scale=2.0))
    memory = ErrorMemory(decay, dtype)
    sent_sum = {"a": np.zeros((40, 30)), "b": np.zeros(50)}
    given_sum = {name: np.zeros_like(total) for name, total in sent_sum.items()}
    leaked = {name: np.zeros_like(total) for name, total in sent_sum.items()}
    errors: list[dict[str, NDArray[np.float64]]] = []
    rounding = 0.0
    for g in updates(rounds):
        v = memory.compensate(g)
        sent = codec.compress(v).sent
        memory.keep(v, sent)
        for name in g:
            sent_sum[name] += sent[name].astype("f8")
            given_sum[name] += g[name]
        # Without a memory nothing is stored: the error is what there would be to store.
        stored = memory.state or {name: v[name] - sent[name] for name in g}
        errors.append({name: loaded(error) if memory.state else error for name, error in stored.items()})
        largest = max(float(np.max(np.abs(error))) for error in errors[-1].values())
        rounding += largest * PRECISION[dtype] + 1e-6
    for error in errors[:-1]:
        for name in leaked:
            leaked[name] += (1 - decay) * error[name]
    for name in sent_sum:
        expected = given_sum[name] - leaked[name] - errors[-1][name]
        np.testing.assert_allclose(sent_sum[name], expected, atol=rounding, rtol=0)
    assert max(float(np.max(np.abs(total))) for total in sent_sum.values()) > 10 * rounding


def test_the_error_waits_until_it_is_large_enough() -> None:
    memory, codec = ErrorMemory(), Codec(CO3Config(scale=1.0, exact_below=0))
    total = 0.0
    for _ in range(30):
        v = memory.compensate({"w": np.full(3, 0.1)})
        sent = codec.compress(v).sent
        memory.keep(v, sent)
        total += float(sent["w"][0])
    assert total == pytest.approx(3.0, abs=0.26)
    assert float(codec.compress({"w": np.full(3, 0.1)}).sent["w"][0]) == 0


@each_dtype
def test_state_goes_out_and_in(dtype: str) -> None:
    first, second = updates(2, "f4")
    memory = ErrorMemory(0.7, dtype)
    memory.keep(first, {name: np.zeros_like(tensor) for name, tensor in first.items()})
    state = memory.state
    assert {name: error.shape for name, error in state.items()} == {"a": (40, 30), "b": (50,)}
    restored = ErrorMemory(0.7, dtype, {name: error.copy() for name, error in state.items()})
    assert restored.norm == memory.norm
    expected = memory.compensate(second)
    for name, tensor in restored.compensate(second).items():
        assert_same(tensor, expected[name])
    for name, error in restored.state.items():
        assert_same(error, state[name])


@each_dtype
def test_compensate_adds_the_decayed_error_and_changes_nothing(dtype: str) -> None:
    first, second = updates(2, "f4")
    memory = ErrorMemory(0.5, dtype)
    memory.keep(first, {name: np.zeros_like(tensor) for name, tensor in first.items()})
    before = {name: tensor.copy() for name, tensor in second.items()}
    stored = {name: error.copy() for name, error in memory.state.items()}
    v = memory.compensate(second)
    for name in second:
        np.testing.assert_allclose(v[name], second[name] + 0.5 * loaded(stored[name]), rtol=1e-6, atol=1e-7)
        assert_same(second[name], before[name])
        assert_same(memory.state[name], stored[name])
        np.testing.assert_allclose(loaded(stored[name]), first[name], rtol=PRECISION[dtype] * 1.01, atol=1e-7)


@each_dtype
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_a_step_ahead_is_a_share_of_the_decayed_error(dtype: str, kind: str) -> None:
    memory = ErrorMemory(0.5, dtype)
    (error,) = updates(1)
    memory.keep(error, {name: np.zeros_like(tensor) for name, tensor in error.items()})
    model = {"a": np.ones((40, 30), kind), "new": np.ones(3, kind)}
    ahead = memory.step_ahead(model, 0.25)
    precision = float(np.finfo(kind).eps) + PRECISION[dtype] * float(np.max(np.abs(error["a"])))
    np.testing.assert_allclose(ahead["a"], 1 + 0.125 * error["a"], rtol=0, atol=precision)
    assert ahead["a"].dtype == kind
    assert ahead["new"] is model["new"]
    assert (model["a"] == 1).all()


def test_a_step_that_the_models_type_cannot_hold_is_not_taken() -> None:
    memory = ErrorMemory()
    memory.keep({"a": np.full(10, 6e4, np.float32)}, {"a": np.zeros(10, np.float32)})
    model = {"a": np.full(10, 3e4, np.float16)}
    assert memory.step_ahead(model, 1.0)["a"] is model["a"]


@each_dtype
@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_a_lost_update_counts_as_an_empty_one(dtype: str, decay: float) -> None:
    """After `put_back`, the memory is what it is when nothing was sent."""
    codec = Codec(CO3Config(format="fp4", scale=2.0))
    lost, empty = ErrorMemory(decay, dtype), ErrorMemory(decay, dtype)
    for g in updates(6):
        v = lost.compensate(g)
        sent = codec.compress(v).sent
        lost.keep(v, sent)
        lost.put_back(sent)
        v = empty.compensate(g)
        empty.keep(v, {name: np.zeros_like(tensor) for name, tensor in v.items()})
        for name, error in empty.state.items():
            largest = float(np.max(np.abs(loaded(error))))
            np.testing.assert_allclose(
                loaded(lost.state[name]), loaded(error), rtol=0, atol=20 * largest * PRECISION[dtype]
            )


def test_only_tensors_with_a_memory_are_put_back() -> None:
    memory = ErrorMemory()
    memory.keep({"a": np.ones(3)}, {"a": np.zeros(3)})
    memory.put_back({"a": np.full(3, 0.5), "count": np.array(7)})
    assert list(memory.state) == ["a"]
    np.testing.assert_array_equal(memory.state["a"], 1.5)
    without = ErrorMemory(decay=0)
    without.put_back({"a": np.ones(3)})
    assert without.state == {}


def test_an_update_of_another_shape_is_not_put_back() -> None:
    memory = ErrorMemory()
    memory.keep({"a": np.ones(3), "b": np.ones(2)}, {"a": np.zeros(3), "b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"'b' of the update to put back has shape \(1,\), but its memory .* \(2,\)"):
        memory.put_back({"a": np.ones(3), "b": np.ones(1)})
    np.testing.assert_array_equal(memory.state["a"], 1)


def test_what_is_stored_takes_half_the_space() -> None:
    (g,) = updates(1, "f4")
    sizes = {}
    for dtype in MEMORY_DTYPES:
        memory = ErrorMemory(1.0, dtype)
        memory.keep(g, {name: np.zeros_like(tensor) for name, tensor in g.items()})
        sizes[dtype] = sum(error.nbytes for error in memory.state.values())
    assert sizes == {"float32": 4 * 1250, "bfloat16": 2 * 1250, "float16": 2 * 1250}


def test_bfloat16_is_rounded_as_ml_dtypes_does() -> None:
    x = np.concatenate([gennorm(0.3, 5000), [0.0, -0.0, 1e-40, 65504.0, 1e30]]).astype("f4")
    ties = (1 + np.arange(-7, 8) / 256).astype("f4")
    x = np.concatenate([x, ties, -ties])
    memory = ErrorMemory(1.0, "bfloat16")
    memory.keep({"x": x}, {"x": np.zeros_like(x)})
    np.testing.assert_array_equal(memory.state["x"], x.astype(ml_dtypes.bfloat16).view(np.uint16))


@each_dtype
def test_errors_beyond_the_range_are_kept_as_far_as_it_goes(dtype: str) -> None:
    x = np.array([1e300, -1e300, 3.4e38, 1.0])
    memory = ErrorMemory(1.0, dtype)
    memory.keep({"x": x}, {"x": np.zeros(4)})
    stored = loaded(memory.state["x"])
    assert np.all(np.isfinite(stored)) and stored[0] == -stored[1] > 6e4 and stored[3] == 1
    assert math.isfinite(memory.norm)
    assert np.all(np.isfinite(memory.compensate({"x": np.zeros(4)})["x"]))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ml_dtypes.bfloat16])
def test_any_update_gets_its_memory_in_float32_or_better(dtype: Any) -> None:
    g = {"w": gennorm(1, 20).astype(dtype), "scalar": np.array(0.75, dtype)}
    memory = ErrorMemory()
    memory.keep(g, {name: np.zeros_like(tensor) for name, tensor in g.items()})
    v = memory.compensate(g)
    for name, tensor in v.items():
        assert isinstance(tensor, np.ndarray) and tensor.shape == g[name].shape
        assert tensor.dtype == ("f8" if dtype == "f8" else "f4")
        np.testing.assert_allclose(tensor.astype("f8"), 2 * g[name].astype("f8"), rtol=1e-6)


def test_without_decay_nothing_is_stored() -> None:
    (g,) = updates(1)
    memory = ErrorMemory(decay=0)
    memory.keep(g, {name: np.zeros_like(tensor) for name, tensor in g.items()})
    assert memory.state == {} and memory.norm == 0
    v = memory.compensate(g)
    assert all(v[name] is g[name] for name in g)


def test_a_tensor_of_another_shape_loses_its_memory_with_a_warning() -> None:
    memory = ErrorMemory()
    g = {"head.weight": np.ones((3, 4)), "body.weight": np.ones(5)}
    memory.keep(g, {name: np.zeros_like(tensor) for name, tensor in g.items()})
    with pytest.warns(UserWarning, match=r"'head.weight' has shape \(3, 4\).* shape \(7, 4\) now.*dropped"):
        v = memory.compensate({"head.weight": np.ones((7, 4)), "body.weight": np.ones(5)})
    assert float(v["head.weight"].max()) == 1 and float(v["body.weight"].min()) == 2
    assert list(memory.state) == ["body.weight"]


def test_only_what_was_sent_is_remembered() -> None:
    """Exact tensors are not among what is kept, and a tensor that is gone is forgotten."""
    memory = ErrorMemory()
    memory.keep({"a": np.ones(3), "count": np.array(5)}, {"a": np.zeros(3)})
    assert list(memory.state) == ["a"]
    assert memory.compensate({"count": np.array(7)})["count"] == 7
    memory.keep({"b": np.ones(2)}, {"b": np.zeros(2)})
    assert list(memory.state) == ["b"]


def test_the_norm_is_that_of_all_errors() -> None:
    memory = ErrorMemory()
    memory.keep({"a": np.array([3.0]), "b": np.array([[4.0, 0.0]])}, {"a": np.zeros(1), "b": np.zeros((1, 2))})
    assert memory.norm == pytest.approx(5)
    assert ErrorMemory().norm == 0


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan, math.inf])
def test_an_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must lie within 0 to 1"):
        ErrorMemory(decay)


def test_an_impossible_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, not 'float64'"):
        ErrorMemory(dtype="float64")


@each_dtype
def test_a_state_of_another_dtype_is_refused(dtype: str) -> None:
    for other in MEMORY_DTYPES:
        state = {"conv.weight": np.zeros(3, "u2" if other == "bfloat16" else other)}
        if other == dtype:
            ErrorMemory(dtype=dtype, state=state)
            continue
        with pytest.raises(ValueError, match=f"'conv.weight' is .*, but a memory of dtype {dtype}"):
            ErrorMemory(dtype=dtype, state=state)


def test_only_adopted_arrays_are_written_to() -> None:
    """And adopted ones only until they are handed out."""
    rng = np.random.default_rng(0)
    update = {"w": rng.laplace(size=(40, 50)).astype("f4")}
    for adopt in (True, False):
        errors = {"w": rng.laplace(size=(40, 50)).astype("f4")}
        before = errors["w"].copy()
        memory = ErrorMemory.adopt(1.0, "float32", errors) if adopt else ErrorMemory(1.0, "float32", errors)
        Codec().compress(update, memory=memory)
        assert np.array_equal(errors["w"], before) is not adopt
        assert np.shares_memory(errors["w"], memory.state["w"]) is adopt
        handed_out = memory.state["w"]
        kept = handed_out.copy()
        Codec().compress(update, memory=memory)
        assert np.array_equal(handed_out, kept)


def test_adopted_arrays_that_cannot_be_written_to_are_replaced() -> None:
    errors = {"w": np.ones(2000, "f4")}
    errors["w"].setflags(write=False)
    memory = ErrorMemory.adopt(1.0, "float32", errors)
    Codec().compress({"w": np.arange(2000, dtype="f4")}, memory=memory)
    assert not np.shares_memory(memory.state["w"], errors["w"])
