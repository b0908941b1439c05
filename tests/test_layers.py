"""Frames of layers, each for what those before it lost: where a budget allows more than 255 levels can say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flwr_co3.budget import Steady
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.correct import ErrorMemory
from flwr_co3.errors import FrameError
from flwr_co3.frame import EMPTY, LAYERED, FrameReader, TensorSpec, layered, layers_of, room_beside
from flwr_co3.rate import RateLimit
from flwr_co3.sizes import Sizes, saved_share
from flwr_co3.update import Update
from tests.damages import corrected, damage
from tests.known import like
from tests.samples import Array, gennorm, network
from tests.strategies import QUANTIZERS
from tests.test_rate import SYNTHETIC, counted_encodings, synthetic

SIZE = 60_000


def wide(bits: float, **others: Any) -> CO3Config:
    return CO3Config(rate=RateLimit(bits_per_parameter=bits), **others)


def dead(seed: int = 0) -> dict[str, Array]:
    """The update of a network of which some units never were active."""
    rng = np.random.default_rng(seed)
    alive = rng.random((200, 1)) < 0.9
    return {
        "conv.weight": (gennorm(0.8, (200, 300), 1e-3, seed) * alive).astype("f4"),
        "bias": gennorm(1.0, 40, 1e-3, seed).astype("f4"),
    }


def error(update: dict[str, Array], sent: dict[str, Array]) -> float:
    lost = sum(float(np.sum(np.square(update[name] - sent[name], dtype=np.float64))) for name in update)
    return lost / sum(float(np.sum(np.square(update[name], dtype=np.float64))) for name in update)


UPDATES: dict[str, Callable[[], dict[str, Array]]] = {
    "dead units": dead,
    "one tensor": lambda: {"w": gennorm(0.7, SIZE, 1e-3).astype("f4")},
    "float64": lambda: {"w": gennorm(1.2, SIZE, 1e-20), "v": gennorm(0.5, 5000, 1e-22)},
    "little-endian or not": lambda: {"w": gennorm(1.0, SIZE).astype(">f4")},
}


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("bits", [7.5, 8.0, 9.0, 12.0, 16.0])
@pytest.mark.parametrize("coder", ["rans", "huffman"])
@pytest.mark.parametrize("known", [False, True])
def test_a_budget_of_more_than_255_levels_can_say_is_used(name: str, bits: float, coder: str, known: bool) -> None:
    update, memory = UPDATES[name](), ErrorMemory()
    config = wide(bits, coder=coder)
    with counted_encodings() as encodings:
        encoded = Codec(config).compress(update, memory=memory, known=known)
    assert encodings.are_few()
    budget = RateLimit(bits_per_parameter=bits).bytes_for(sum(tensor.size for tensor in update.values()))
    assert 0.97 * budget <= len(encoded.frame) <= budget
    assert encoded.frame[3] == LAYERED
    sent = Codec().decode(encoded.frame, like=like(update))
    assert encoded.nmse == pytest.approx(error(update, sent), rel=1e-3)
    for tensor, values in update.items():
        np.testing.assert_array_equal(sent[tensor], encoded.sent[tensor])
        left = memory.state[tensor]
        np.testing.assert_allclose(sent[tensor] + left, values, rtol=0, atol=1e-7 * float(np.abs(values).max()))
    sizes = [tensor.bytes for tensor in encoded.report.tensors.values()]
    assert coder == "huffman" or sum(sizes) == pytest.approx(len(encoded.frame), rel=0.01)


@pytest.mark.parametrize("share", [0.4, 0.5, 0.65, 0.9])
@pytest.mark.parametrize("seed", range(8))
def test_networks_of_which_much_is_dead_use_their_budgets(share: float, seed: int) -> None:
    """Rows of zeros take fewer bits than their levels would one by one: a layer tells the next one how much fewer."""
    rng = np.random.default_rng(seed)
    alive = rng.random((200, 1)) < share
    update = {"w": (gennorm(0.5 + 0.1 * seed, (200, 300), 1e-3, seed) * alive).astype("f4"), "b": gennorm(1, 40, 1e-3)}
    for bits in (1.5, 2.5, 3.5, 4.0, 5.0, 6.0):
        with counted_encodings() as encodings:
            frame = Codec(wide(bits)).compress(update, known=True).frame
        assert encodings.are_few()
        assert 0.97 * RateLimit(bits_per_parameter=bits).bytes_for(60_040) <= len(frame)


@pytest.mark.parametrize("name", UPDATES)
def test_more_bits_lose_less(name: str) -> None:
    """A bit more for each entry leaves half of the error, a quarter of its square, or more where a layer begins."""
    rates = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0]
    found = [Codec(wide(bits)).compress(UPDATES[name](), known=True) for bits in rates]
    losses = [encoded.nmse for encoded in found]
    for bits, less, more in zip(np.diff(rates), losses, losses[1:], strict=False):
        assert more < 0.55**bits * less
    assert losses[-1] < 2e-9
    assert [len(layers_of(encoded.frame)) for encoded in (found[0], found[6], found[-1])] == [1, 2, 3]


def test_an_outlier_is_a_layer_and_the_rest_another() -> None:
    """At the scale of a fit, the outlier would saturate; at its own, all else is 0."""
    values = 1e-6 * np.random.default_rng(0).normal(size=SIZE)
    values[7] = 1.0
    encoded = Codec(wide(4)).compress({"w": values.astype("f4")})
    assert encoded.nmse < 1e-8
    rest = np.delete(encoded.sent["w"], 7) - np.delete(values, 7)
    assert np.mean(rest**2) < 0.01e-12


def test_what_was_sent_over_many_rounds_is_all_that_was_to_be_sent() -> None:
    memory, config = ErrorMemory(), wide(9)
    wanted, arrived = np.zeros((200, 300)), np.zeros((200, 300))
    for round in range(6):
        update = dead(round)
        wanted += update["conv.weight"]
        arrived += Codec(config).compress(update, memory=memory).sent["conv.weight"]
    left = memory.state["conv.weight"]
    np.testing.assert_allclose(arrived + left, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_memories_of_half_precision_and_their_decay(decay: float) -> None:
    memory = ErrorMemory(decay=decay, dtype="bfloat16", state={"conv.weight": np.full((200, 300), 0x3A80, np.uint16)})
    old = np.float32(2.0**-10)
    update = dead()
    encoded = Codec(wide(9)).compress(update, memory=memory)
    assert encoded.frame[3] == LAYERED
    wanted = update["conv.weight"] + np.float32(decay) * old
    left = (memory.state["conv.weight"].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(encoded.sent["conv.weight"] + left, wanted, rtol=0, atol=1e-7)


@settings(deadline=None, max_examples=150)
@given(
    kinds=st.lists(st.sampled_from(SYNTHETIC), min_size=1, max_size=3),
    size=st.integers(100, 4000),
    bits=st.floats(0.5, 24),
    quantizer=st.sampled_from(QUANTIZERS),
    seed=st.integers(0, 999),
)
@example(["normal", "uniform", "outlier"], 3775, 2.709151863109298, ("stochastic", "level"), 144)  # coded twice
def test_what_was_sent_and_what_is_kept_is_what_there_was(
    kinds: list[str], size: int, bits: float, quantizer: tuple[str, str], seed: int
) -> None:
    """Whatever becomes of a layer: stochastic rounding may lose more than there is, and then it is none."""
    update = {f"{k}": next(iter(synthetic(kind, size + k, seed).values())) for k, kind in enumerate(kinds)}
    memory = ErrorMemory()
    config = wide(bits, rounding=quantizer[0], reconstruction=quantizer[1])
    for turn in range(2):
        before = ErrorMemory(state={name: error.copy() for name, error in memory.state.items()}).compensate(update)
        peak = max(float(np.abs(tensor).max()) for tensor in before.values())
        with counted_encodings() as encodings:
            encoded = Codec(config, seed=turn).compress(update, memory=memory)
        assert encodings.are_few()
        for name, error in memory.state.items():
            total = encoded.sent[name].astype(np.float64) + error
            np.testing.assert_allclose(total, before[name], rtol=0, atol=4e-6 * peak + 1e-40)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", [3000, 9000])
def test_a_layer_that_would_lose_more_than_there_is_leaves_what_is_kept(size: int, seed: int) -> None:
    update = {"even": np.full(size, 0.3, "f4"), "other": gennorm(1, 300, 1e-3, seed).astype("f4")}
    memory = ErrorMemory()
    encoded = Codec(wide(1.8, rounding="stochastic"), seed=seed).compress(update, memory=memory)
    for name, values in update.items():
        np.testing.assert_allclose(encoded.sent[name] + memory.state[name], values, rtol=0, atol=1e-6)


def test_tensors_of_half_precision_and_exact_ones_have_one_layer() -> None:
    update = {"w": gennorm(1.0, 9000).astype("f4"), "h": gennorm(1.0, 3000).astype("f2"), "n": np.arange(50)}
    frame = Codec(wide(10)).encode(update)
    reader = FrameReader(frame)
    assert frame[3] == LAYERED and reader.tensors == like(update) and reader.exact == {"n"}
    assert np.array_equal(reader.read("n"), update["n"])
    assert [set(layer.tensors) for layer in reader._finer] == [{"w"}]
    assert reader.read("h").dtype == np.float16
    assert (
        error({"w": update["w"]}, {"w": reader.read("w")}) < 1e-5 < error({"h": update["h"]}, {"h": reader.read("h")})
    )


ONE_LAYER: dict[str, Callable[[], bytes]] = {
    "what one layer says without a loss": lambda: Codec(wide(20)).encode({"w": np.full(5000, 0.1, "f4")}),
    "zeros": lambda: Codec(wide(20)).encode({"w": np.zeros(5000, "f4")}),
    "a format of the user's choice": lambda: Codec(wide(20, format="fp8")).encode(network()),
    "half precision": lambda: Codec(wide(20)).encode({"w": gennorm(1.0, 5000).astype("f2")}),
    "steps that stay": lambda: Codec(wide(20), steady=Steady()).encode(network()),
    "no budget": lambda: Codec().encode(network()),
    "another scheme": lambda: Codec(wide(20, scheme="topk")).encode(network()),
}


@pytest.mark.parametrize("name", ONE_LAYER)
def test_where_a_second_layer_has_nothing_to_say_there_is_none(name: str) -> None:
    assert ONE_LAYER[name]()[3] < LAYERED


def test_levels_have_a_step_and_two_layers_have_none() -> None:
    update = {"w": gennorm(1.0, 9000).astype("f4")}
    assert FrameReader(Codec(wide(2)).encode(update)).step("w") is not None
    assert FrameReader(Codec(wide(10)).encode(update)).step("w") is None


def test_a_reader_decodes_all_layers_once_and_drops_them() -> None:
    update = dead()
    reader = FrameReader(Codec(wide(9)).encode(update))
    (finer,) = reader._finer
    reader.verify()
    assert reader._levels is not None and finer._levels is not None
    first = reader.read("conv.weight")
    reader.close()
    assert reader._levels is None and finer._levels is None
    np.testing.assert_array_equal(reader.read("conv.weight"), first)


def test_values_end_where_their_type_does() -> None:
    """Each layer alone is within the range, and their sum is not."""
    update = {"w": np.linspace(-3e38, 3e38, 9000, dtype="f4")}
    codec = Codec(CO3Config(format="uniform", scale=127 / 3.2e38))
    layer = codec.compress(update, known=True).frame
    sent = Codec().decode(layered([layer, layer]), like=like(update))["w"]
    assert np.isfinite(sent).all() and sent.max() == np.finfo("f4").max


# -- frames that are none ---------------------------------------------------------------------------------------------

SPECS = {"w": TensorSpec("float32", (9000,)), "n": TensorSpec("int64", (3,))}


def parts() -> tuple[bytes, bytes]:
    """A frame, and one of what may be finer in it."""
    values = gennorm(1.0, 9000).astype("f4")
    return (
        Codec().compress({"w": values, "n": np.arange(3)}, known=True).frame,
        Codec().compress({"w": values}, known=True).frame,
    )


def test_layers_are_added() -> None:
    coarse, finer = parts()
    one = Codec().decode(finer, like={"w": SPECS["w"]})["w"]
    for count in (2, 3):
        both = Codec().decode(layered([coarse, *[finer] * (count - 1)]), like=SPECS)
        np.testing.assert_allclose(both["w"], count * one, rtol=1e-6)
        assert np.array_equal(both["n"], np.arange(3))


def test_a_frame_tells_its_layers() -> None:
    coarse, finer = parts()
    assert layers_of(coarse) == [coarse]
    assert layers_of(layered([coarse, finer, finer])) == [coarse, finer, finer]


@pytest.mark.parametrize("budget", [3300, 4000, 20_000, 90_000])
def test_other_layers_have_room_in_what_the_first_one_leaves(budget: int) -> None:
    coarse, _ = parts()
    room = room_beside(coarse, budget)
    one = b"CO3" + bytes(room - 3)
    assert budget - 2 <= len(layered([coarse, one])) <= budget
    two = layered([bytes(50), bytes(room - len(layered([bytes(50), bytes(9)])) + 6)])
    assert room - 4 <= len(two) <= room
    assert len(layered([coarse, *layers_of(corrected(two))])) <= budget


def scheme_frame(update: dict[str, Array]) -> bytes:
    return Codec(CO3Config(scheme="topk")).compress(update, known=True).frame


W = {"w": gennorm(1.0, 9000).astype("f4")}
BROKEN: dict[str, Callable[[], tuple[bytes, str]]] = {
    "layers in the first": lambda: (layered([layered(parts()), parts()[1]]), "claims to have layers"),
    "layers in the second": lambda: (layered([parts()[0], layered(parts())]), "claims to have layers"),
    "the same tensors": lambda: (layered([parts()[0], parts()[0]]), "refers to another table"),
    "a foreign tensor": lambda: (
        layered([parts()[0], Codec().compress({"v": W["w"]}, known=True).frame]),
        "refers to another table",
    ),
    "a table with a foreign tensor": lambda: (layered([parts()[0], Codec().encode({"v": W["w"]})]), "lacks tensor 'w'"),
    "exact": lambda: (
        layered([parts()[0], Codec(CO3Config(exact=("w",))).compress(W, known=True).frame]),
        "layer of the frame is none",
    ),
    "a scheme first": lambda: (
        layered([scheme_frame(W | {"n": np.arange(3)}), parts()[1]]),
        "layer of the frame is none",
    ),
    "a scheme second": lambda: (layered([parts()[0], scheme_frame(W)]), "layer of the frame is none"),
    "no second": lambda: (layered([parts()[0], b"CO3" + bytes(4)]), "cut"),
    "nothing finer": lambda: (
        layered([parts()[0], Codec().compress({}, known=True).frame]),
        "refers to another table",
    ),
    "no layers": lambda: (corrected(b"CO3\x05" + bytes(9)), "claims 0 layers; there are 2 to 3"),
    "one layer": lambda: (layered(parts()[:1]), "claims 1 layers"),
    "four layers": lambda: (layered([parts()[0], *[parts()[1]] * 3]), "claims 4 layers"),
    "empty layers": lambda: (corrected(b"CO3\x05\x02" + bytes(6)), "cut"),
    "a length beyond": lambda: (corrected(b"CO3\x05\x02\x7f" + bytes(9)), "above the 6 possible"),
    "more than layers": lambda: (corrected(layered(parts())[:-4] + bytes(5)), "has 1 bytes too many"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_layer_is_refused(name: str) -> None:
    frame, reason = BROKEN[name]()
    with pytest.raises(FrameError, match=reason):
        Codec().decode(frame, like=SPECS)


def test_a_frame_that_can_not_be_finer_has_no_second_layer() -> None:
    update = {"h": gennorm(1.0, 3000).astype("f2")}
    frame = layered([Codec().encode(update), Codec().compress({}, known=True).frame])
    with pytest.raises(FrameError, match="layer of the frame is none"):
        Codec().decode(frame)


def test_a_length_between_layers_that_is_another_is_refused() -> None:
    coarse, finer = (layer[3:-4] for layer in layers_of(Codec(wide(9)).encode(dead())))
    for off in (-64, -3, -1, 1, 2, 64):
        data = coarse + finer
        cut = len(coarse) + off
        moved = layered([b"CO3" + data[:cut] + bytes(4), b"CO3" + data[cut:] + bytes(4)])
        with pytest.raises(FrameError):
            Codec().decode(moved)


def test_nothing_is_added_of_a_frame_whose_second_layer_is_damaged() -> None:
    update = dead()
    frame = Codec(wide(9)).encode(update)
    coarse, finer = layers_of(frame)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(30):
        other = layered([coarse, finer[:40] + damage(finer[40:-4], rng) + bytes(4)])
        total = {"conv.weight": np.zeros((200, 300), "f4")}
        try:
            FrameReader(other).add_to(total)
        except FrameError:
            refused += 1
            assert not total["conv.weight"].any()
    assert refused > 15


def test_a_budget_below_a_frame_of_zeros_has_no_layer() -> None:
    assert Codec(CO3Config(rate=RateLimit(bytes_per_round=5))).encode(dead()) == EMPTY


# -- what one layer tells the next -----------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_zeros_that_stand_together_cost_little(together: bool, share: float) -> None:
    rng = np.random.default_rng(0)
    alive = rng.random((200, 1) if together else (200, 300)) < share
    tensors = {"w": (gennorm(0.8, (200, 300), 1e-3) * alive).astype("f4")}
    update = Update.of(tensors, CO3Config(), budget=True)
    assert update.exact_zeros.tolist() == [np.count_nonzero(tensors["w"] == 0)]
    attempt = Codec()._at(update.optimal_scales, update)
    saved = saved_share(attempt.converted.counts, update, 8 * float(attempt.losses.bytes.sum()))
    assert (0.7 < saved <= 1) if together else saved < 0.05

    scales = update.optimal_scales / 2
    taken = 8 * float(Codec()._at(scales, update).losses.bytes.sum())
    told, better = (Sizes(update, known).bits(float(scales[0])) for known in (0.0, saved))
    assert abs(better - taken) <= abs(told - taken)
    assert better == pytest.approx(taken, rel=0.06)
