"""Updates by directions: what they lose, what they take, and what is refused."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.correct import ErrorMemory
from flwr_co3.errors import FrameError
from flwr_co3.frame import EMPTY, TensorSpec
from flwr_co3.rate import RateLimit
from flwr_co3.subspace import (
    Layout,
    Subspace,
    SubspaceReader,
    directions_of,
    leading,
    matrices_of,
    new_directions,
)
from tests.damages import corrected, damage
from tests.known import like
from tests.samples import Array, gennorm
from tests.strategies import QUANTIZERS, configured

EXACT = ("count",)


def update_of(seed: int = 0, flat: bool = False, rank: int = 3) -> dict[str, Array]:
    """An update whose matrices have few directions, or none that is better than others."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> Array:
        rows, columns = shape[0], math.prod(shape[1:])
        few = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
        return np.asarray(rng.normal(size=shape) if flat else few.reshape(shape), np.float32)

    return {
        "conv.weight": matrix(32, 8, 3, 3),
        "conv.bias": rng.normal(size=32).astype("f4"),
        "fc.weight": matrix(90, 120),
        "small": matrix(4, 5),
        "count": np.array([seed, 7]),
    }


def directions(update: Mapping[str, Array], known: int, new: int) -> bytes:
    """What a server says that has seen an update."""
    layout = Layout(like(update), EXACT, known, new)
    matrices = {n: update[n].astype(float).reshape(shape) for n, shape in layout.matrices.items()}
    return layout.head + directions_of(layout, matrices)


def subspace(
    update: Mapping[str, Array], known: int = 4, new: int = 2, seen: Mapping[str, Array] | None = None
) -> Subspace:
    before = {name: np.zeros_like(tensor) for name, tensor in update.items()} if seen is None else seen
    return Subspace.read(directions(before, known, new), like(update), EXACT)


def loss(update: Mapping[str, Array], sent: Mapping[str, Array]) -> float:
    lossy = [name for name in update if name not in EXACT]
    lost = sum(float(np.sum(np.square(update[name].astype("f8") - sent[name]))) for name in lossy)
    return lost / sum(float(np.sum(np.square(update[name], dtype="f8"))) for name in lossy)


# Singular vectors


@pytest.mark.parametrize("shape", [(3, 200), (60, 60), (70, 500), (500, 70), (200, 300)])
def test_leading_directions_hold_as_much_as_the_best(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    few = rng.normal(size=(shape[0], 5)) * [9, 7, 5, 4, 3] @ rng.normal(size=(5, shape[1]))
    for matrix in (few, few + rng.normal(size=shape), rng.normal(size=shape)):
        rank = min(8, *shape)
        found = leading(matrix, rank)
        assert found.columns.shape == (rank, shape[0]) and found.rows.shape == (rank, shape[1])
        np.testing.assert_allclose(found.columns @ found.columns.T, np.eye(rank), atol=1e-9)
        near = (found.columns.T * found.values) @ found.rows
        values = np.linalg.svd(matrix, compute_uv=False)
        held = np.sum(values[:rank] ** 2)
        assert np.sum((matrix - near) ** 2) <= np.sum(values**2) - 0.85 * held
        np.testing.assert_array_equal(leading(matrix, rank).columns, found.columns)


def test_tensors_with_few_rows_or_columns_and_exact_ones_are_no_matrices() -> None:
    specs = {"a": (8, 8), "b": (7, 900), "c": (64,), "d": (9, 2, 2, 2), "e": (900, 7), "f": ()}
    tensors = {name: TensorSpec("float32", shape) for name, shape in specs.items()}
    assert matrices_of(tensors, ("a",)) == {"d": (9, 8)}
    assert matrices_of(tensors, ()) == {"a": (8, 8), "d": (9, 8)}


def test_there_are_more_new_directions_for_more_bytes() -> None:
    matrices = {"a": (100, 300), "b": (50, 50)}
    assert [new_directions(budget, matrices) for budget in (1, 140, 188, 938, 10**9)] == [1, 1, 2, 10, 255]
    assert new_directions(100, {}) == 255


# Encoding


@pytest.mark.parametrize("bits", [0.05, 0.1, 0.5, 2.0])
def test_updates_with_few_directions_lose_less_than_entry_by_entry(bits: float) -> None:
    update = update_of()
    budget = RateLimit(bits_per_parameter=bits).bytes_for(sum(tensor.size for tensor in update.values()))
    new = new_directions(budget, matrices_of(like(update), EXACT))
    plain = Codec(CO3Config(exact=EXACT)).compress(update, max_bytes=budget, known=True)
    unseen = subspace(update, new=new).encode(update, CO3Config(), budget, known=True)
    seen = subspace(update, new=new, seen=update_of()).encode(update, CO3Config(), budget, known=True)
    assert seen.nmse < 0.7 * plain.nmse
    assert unseen.nmse < 0.95 * plain.nmse
    assert seen.nmse == pytest.approx(loss(update, seen.update), rel=1e-6)
    assert max(len(seen.frame), len(unseen.frame)) <= budget


@given(
    seed=st.integers(0, 99),
    flat=st.booleans(),
    known=st.integers(1, 40),
    new=st.integers(1, 40),
    budget=st.integers(1, 3000),
    quantizer=st.sampled_from(QUANTIZERS),
    coder=st.sampled_from(["rans", "huffman"]),
    dtypes=st.tuples(*[st.sampled_from(["f2", "f4", "f8", ">f4"])] * 2),
    known_table=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_any_update_comes_back_as_it_was_said_to(
    seed: int,
    flat: bool,
    known: int,
    new: int,
    budget: int,
    quantizer: tuple[str, str],
    coder: str,
    dtypes: tuple[str, str],
    known_table: bool,
) -> None:
    update = update_of(seed, flat)
    update["fc.weight"] = update["fc.weight"].astype(dtypes[0])
    update["conv.bias"] = update["conv.bias"].astype(dtypes[1])
    found = subspace(update, known, new, update_of(seed + 1, flat))
    v = {n: t.astype("f4") if t.dtype == np.float16 else t for n, t in update.items()}  # as a memory makes them
    config = configured(quantizer, coder=coder)
    sent = found.encode(v, config, budget, known=known_table, seed=seed)
    assert len(sent.frame) <= budget
    assert sent.nmse <= 1 + 1e-9
    reader = SubspaceReader(sent.frame, found)
    reader.verify()
    if sent.frame == EMPTY:
        assert reader.read_all() == {} and sent.nmse == 1
        return
    assert reader.exact == set(EXACT) and reader.tensors == like(update)
    for name, tensor in reader.read_all().items():
        np.testing.assert_array_equal(tensor, sent.update[name])
        assert (tensor.dtype, tensor.shape) == (update[name].dtype.newbyteorder("="), update[name].shape)
    np.testing.assert_array_equal(sent.update["count"], update["count"])
    again = found.encode(v, config, budget, known=known_table, seed=seed)
    assert again.frame == sent.frame


def test_a_frame_is_added_to_a_sum_as_it_is_read() -> None:
    update = update_of()
    found = subspace(update)
    reader = SubspaceReader(found.encode(update, CO3Config(), 900, known=True).frame, found)
    total = {name: np.ones_like(update[name]) for name in ("fc.weight", "conv.bias")}
    reader.add_to(total, 0.5)
    reader.close()
    for name, tensor in total.items():
        np.testing.assert_allclose(tensor, 1 + 0.5 * reader.read(name), rtol=1e-6)
    assert reader.body is None


def test_what_stands_in_known_directions_takes_next_to_nothing() -> None:
    update = {"w": update_of(rank=4)["fc.weight"]}
    sent = subspace(update, seen=update).encode(update, CO3Config(), 60, known=True)
    assert sent.nmse < 0.1
    assert subspace(update).encode(update, CO3Config(), 60, known=True).nmse > 0.6


def test_an_update_of_zeros_is_one() -> None:
    update = {name: np.zeros_like(tensor) for name, tensor in update_of().items()}
    found = subspace(update)
    sent = found.encode(update, CO3Config(), 200, known=True)
    assert sent.nmse == 0
    assert all(not tensor.any() for tensor in SubspaceReader(sent.frame, found).read_all().values())


def test_exact_tensors_arrive_where_nothing_else_does() -> None:
    update = update_of(flat=True)
    found = subspace(update, new=1)
    least = next(b for b in range(1, 200) if found.encode(update, CO3Config(), b, known=True).frame != EMPTY)
    sent = found.encode(update, CO3Config(), least, known=True)
    np.testing.assert_array_equal(sent.update["count"], update["count"])


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["fc.weight", "conv.bias"])
def test_an_update_that_is_not_finite_is_refused_by_its_tensors_name(name: str, value: float) -> None:
    update = update_of()
    update[name].reshape(-1)[3] = value
    with pytest.raises(ValueError, match=f"'{name}' holds NaN or infinity"):
        subspace(update).encode(update, CO3Config(), 500)


def test_numbers_whose_products_have_no_end_are_refused() -> None:
    update = {"w": gennorm(1.0, (20, 30), 1e120)}
    with pytest.raises(ValueError, match="'w' holds numbers too large to be multiplied: leave out CO3Config subspace"):
        subspace(update).encode(update, CO3Config(), 500)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Directions begin with two numbers above 0, not with nothing"),
        (b"\x04", "not with 04"),
        (b"\x00\x02" + EMPTY, "not with 0002"),
        (b"\x04\x00" + EMPTY, "not with 0400"),
        (b"\x04\x02", "Directions begin"),
        (b"\x04\x02junk", "frame"),
    ],
)
def test_directions_that_are_none_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FrameError, match=reason):
        Subspace.read(data, like(update_of()), EXACT)


def test_directions_of_another_model_are_refused() -> None:
    update = update_of()
    other = {**update, "fc.weight": update["fc.weight"][:, 1:]}
    with pytest.raises(FrameError):
        Subspace.read(directions(other, 4, 2), like(update), EXACT)


def test_directions_may_be_missing() -> None:
    update = update_of()
    found = Subspace.read(bytes([4, 2]) + EMPTY, like(update), EXACT)
    assert found.encode(update, CO3Config(), 500, known=True).nmse < 1


@pytest.mark.parametrize("value", [1e100, -1e300, np.inf, np.nan])
@pytest.mark.parametrize("factor", ["core", "rows", "columns"])
def test_numbers_of_a_frame_that_could_have_no_end_are_refused(
    factor: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = update_of()
    found = subspace(update)
    reader = SubspaceReader(found.encode(update, CO3Config(), 900).frame, found)
    read, number = reader._factors.read, -1e99

    def reading(name: str) -> Array:
        array = read(name)
        if name == f"fc.weight\0{factor}":
            array[1, 2] = number
        return array

    monkeypatch.setattr(reader._factors, "read", reading)
    reader.verify()
    assert all(np.isfinite(tensor).all() for tensor in reader.read_all().values())
    number = value
    with pytest.raises(FrameError, match="whose products have no end"):
        reader.verify()


def test_a_frame_of_entries_is_none_of_directions() -> None:
    update = update_of()
    with pytest.raises(FrameError):
        SubspaceReader(Codec(CO3Config(exact=EXACT)).encode(update), subspace(update))
    with pytest.raises(FrameError):
        SubspaceReader(Codec(CO3Config(exact=EXACT)).compress(update, known=True).frame, subspace(update))


def test_damaged_frames_are_refused_or_finite() -> None:
    update, rng = update_of(), np.random.default_rng(0)
    found = subspace(update, seen=update)
    frame = found.encode(update, CO3Config(), 400, known=True).frame
    refused = 0
    for turn in range(600):
        broken = damage(frame, rng)
        try:
            reader = SubspaceReader(corrected(broken) if turn % 2 and len(broken) > 9 else broken, found)
            reader.verify()
            assert all(np.isfinite(tensor).all() for tensor in reader.read_all().values())
        except FrameError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("scale", [1e-150, 1e-100, 1e-45, 1e-30, 1e30, 1e90])
def test_small_and_large_updates_lose_as_much(scale: float) -> None:
    update = {name: tensor.astype("f8") * scale for name, tensor in update_of().items() if name != "count"}
    exact: tuple[str, ...] = ()
    layout = Layout(like(update), exact, 4, 2)
    matrices = {n: update[n].reshape(shape) for n, shape in layout.matrices.items()}
    found = Subspace.read(layout.head + directions_of(layout, matrices), like(update), exact)
    sent = found.encode(update, CO3Config(), 400, known=True)
    assert sent.nmse < 0.3


def test_a_memory_keeps_what_is_lost_and_decays() -> None:
    update, memory = update_of(flat=True), ErrorMemory(0.5)
    found, config = subspace(update), CO3Config(rate=RateLimit(bytes_per_round=700))
    sent = found.compress(update, config, memory, max_bytes=500, known=True)
    assert len(sent.frame) <= 500
    lossy = set(update) - set(EXACT)
    assert set(memory.state) == lossy
    first = {name: memory.state[name].copy() for name in lossy}
    again = found.compress(update, config, memory, known=True)
    assert 500 < len(again.frame) <= 700
    for name in lossy:
        np.testing.assert_allclose(first[name], update[name] - sent.update[name], atol=1e-6)
        wanted = update[name] + 0.5 * first[name]
        np.testing.assert_allclose(memory.state[name], wanted - again.update[name], atol=1e-5)


def test_a_limit_is_needed_and_a_refused_update_leaves_the_memory() -> None:
    update, memory = update_of(), ErrorMemory()
    found, config = subspace(update), CO3Config(rate=RateLimit(bytes_per_round=500))
    with pytest.raises(ValueError, match="needs a limit of its bytes"):
        found.compress(update, CO3Config(), memory)
    found.compress(update, config, memory)
    before = {name: error.copy() for name, error in memory.state.items()}
    update["fc.weight"][0, 0] = np.nan
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        found.compress(update, config, memory)
    for name, error in memory.state.items():
        np.testing.assert_array_equal(error, before[name])
