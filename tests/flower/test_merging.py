"""Frames of several versions in one: fewer bytes for nodes that missed some, and the same model to the last bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flwr_co3._held import received_model
from flwr_co3._keeping import StateKeeper
from flwr_co3._merging import adds_exactly, in_fewer
from flwr_co3._versions import Version, advanced, reader_of, step
from flwr_co3.budget import Steady
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.rate import RateLimit
from flwr_co3.server import CO3Strategy
from tests.flower.helpers import App, LocalGrid, Tensors, arrays, model_of, record, reply_with_change
from tests.flower.test_downlink import Client, Sampling, held_by, is_whole, sent_to

LOW = CO3Config(rate=RateLimit(bits_per_parameter=0.5))


def versions(
    config: CO3Config, rounds: int, *, seed: int = 0, steady: Steady | None = None, drift: float = 0.01
) -> tuple[list[Tensors], list[bytes]]:
    """A model some of whose weights move much more than others, as clients hold it, and the frames between."""
    rng = np.random.default_rng(seed)
    steady = Steady(wanted=True) if steady is None else steady
    true: Tensors = {"w": rng.normal(size=(60, 50)).astype("f4"), "v": rng.normal(size=300), "n": np.array(3)}
    speeds = {name: drift * rng.laplace(size=tensor.shape) ** 3 for name, tensor in true.items()}
    held, frames = [true], []
    for _ in range(rounds):
        true = {n: drifted(t, speeds[n], rng) if t.dtype.kind == "f" else t + 1 for n, t in true.items()}
        frames.append(step(Codec(config, steady=steady), held[-1], true))
        held.append(advanced(held[-1], frames[-1]))
    return held, frames


def drifted(tensor: NDArray[Any], speeds: NDArray[np.float64], rng: np.random.Generator) -> NDArray[Any]:
    return np.asarray(tensor + rng.normal(1, 1, tensor.shape) * speeds, tensor.dtype)


def brought(start: Tensors, frames: list[bytes]) -> Tensors:
    for frame in frames:
        start = advanced(start, frame)
    return start


def assert_equal(ours: Tensors, theirs: Tensors) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        np.testing.assert_array_equal(tensor, theirs[name])


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([0.05, 0.3, 1.0, 3.0]),
    fmt=st.sampled_from(["auto", "fp4", "fp8", "uniform"]),
    drift=st.sampled_from([1e-6, 0.01, 3.0]),
    seed=st.integers(0, 999),
)
def test_fewer_frames_lead_to_the_same_bits(bits: float, fmt: str, drift: float, seed: int) -> None:
    config = CO3Config(format=fmt, rate=RateLimit(bits_per_parameter=bits))
    held, frames = versions(config, 5, seed=seed, drift=drift)
    limit = config.rate.bytes_for(3301) if isinstance(config.rate, RateLimit) else 0
    assert all(len(frame) <= limit for frame in frames)
    if not all(adds_exactly(frame, held[k], held[k + 1]) for k, frame in enumerate(frames)):
        return
    for start in range(5):
        fewer = in_fewer(config, frames[start:], held[-1])
        assert sum(map(len, fewer)) <= sum(map(len, frames[start:]))
        assert_equal(brought(held[start], fewer), held[-1])


def test_versions_of_one_step_go_in_one_frame_of_far_fewer_bytes() -> None:
    held, frames = versions(LOW, 20, seed=1)
    assert all(adds_exactly(frame, held[k], held[k + 1]) for k, frame in enumerate(frames))
    steps = [reader_of(frame, held[0]).step("w") for frame in frames[-6:]]
    assert len(set(steps)) == 1
    (one,) = in_fewer(LOW, frames[-6:], held[-1])
    assert len(one) < 0.5 * sum(map(len, frames[-6:]))
    assert_equal(advanced(held[-7], one), held[-1])


def test_where_a_sum_is_too_large_for_one_frame_a_few_do() -> None:
    fine = CO3Config(rate=RateLimit(bits_per_parameter=1))
    held, frames = versions(fine, 20)
    fewer = in_fewer(fine, frames[-8:], held[-1])
    assert 1 < len(fewer) < 8
    assert_equal(brought(held[-9], fewer), held[-1])


def test_frames_of_other_steps_stay_by_themselves() -> None:
    held, frames = versions(LOW, 3, steady=Steady())
    coarse = CO3Config(format="fp4", scale=2.0)
    other = step(Codec(coarse), held[-1], {**held[-1], "w": held[-1]["w"] + np.float32(0.5)})
    assert in_fewer(LOW, [frames[-1], other], held[-1]) == [frames[-1], other]


@pytest.mark.parametrize(
    "config", [CO3Config(format="fp4"), CO3Config(scheme="topk"), CO3Config(format="fp4", reconstruction="centroid")]
)
def test_updates_that_do_not_add_exactly_are_told(config: CO3Config) -> None:
    held, frames = versions(config, 3)
    exact = [adds_exactly(frame, held[k], held[k + 1]) for k, frame in enumerate(frames)]
    assert not all(exact), "nothing here puts steps on a grid"


def test_a_version_that_changes_a_type_is_told() -> None:
    held, _ = versions(LOW, 1)
    new = {**held[-1], "n": np.array(2.5)}
    frame = step(Codec(LOW, steady=Steady()), held[-1], new)
    assert not adds_exactly(frame, held[-1], advanced(held[-1], frame))


def test_a_step_stays_while_it_fits_and_has_few_bits() -> None:
    steady = Steady(wanted=True)
    _, frames = versions(LOW, 30, steady=steady)
    held, _ = versions(LOW, 0)
    steps = [reader_of(frame, held[0]).step("w") for frame in frames]
    assert len(set(steps[10:])) <= 3
    for each in filter(None, set(steps)):
        significand = np.frexp(each)[0] * 2**Steady.BITS
        assert round(significand) == pytest.approx(significand, abs=1e-9)
    sizes = np.array([len(frame) for frame in frames[10:]]) / RateLimit(bits_per_parameter=0.5).bytes_for(3301)
    assert sizes.max() <= 1 and sizes.mean() > 0.8


def test_the_step_of_a_budget_that_all_fits_into_is_each_tensors_own() -> None:
    steady = Steady(wanted=True)
    versions(CO3Config(rate=RateLimit(bits_per_parameter=30)), 3, steady=steady)
    assert steady.scale == 0


def test_updates_that_add_up_to_nothing_stay_by_themselves() -> None:
    codec, rng = Codec(CO3Config(format="fp4", scale=4.0)), np.random.default_rng(0)
    held: list[Tensors] = [{"w": rng.normal(size=500).astype("f4"), "v": rng.normal(size=500).astype("f4")}]
    frames = []
    for sign in (1, -1):
        new = {"w": held[-1]["w"] + np.float32(sign), "v": held[-1]["v"] + np.float32(1)}
        frames.append(step(codec, held[-1], new))
        held.append(advanced(held[-1], frames[-1]))
        assert adds_exactly(frames[-1], *held[-2:])
    assert_equal(brought(held[0], in_fewer(LOW, frames, held[-1])), held[-1])
    assert not np.array_equal(held[-1]["w"], held[0]["w"]), "it was rounded"


@pytest.mark.parametrize("factor", [1e-40, 1e-20, 1e20, 1e35])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_models_and_updates_of_any_size_come_to_what_they_are(factor: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    old: Tensors = {"w": rng.normal(size=(40, 30)).astype(dtype)}
    largest = 0.5 * float(np.finfo(dtype).max)
    wanted = np.clip(old["w"] + factor * rng.laplace(size=(40, 30)), -largest, largest)
    new: Tensors = {"w": wanted.astype(dtype)}
    made = advanced(old, step(Codec(LOW, steady=Steady(wanted=True)), old, new))
    moved = np.abs(new["w"].astype(float) - old["w"]).max()
    assert np.abs(made["w"].astype(float) - new["w"]).max() <= 1.01 * moved


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-9, 1.0, 1e300, 1e308, float("inf")])
def test_any_scale_has_a_step_of_few_bits_or_stays(scale: float) -> None:
    rounded = Steady().rounded(scale)
    assert rounded == scale or 0.85 * scale <= rounded <= scale * (1 + 1e-12)


# On the server


class Drifting(Client):
    """A client some of whose weights move much more than others."""

    def app(self, message: Message, context: Context) -> Message:
        self.got.append(arrays(model_of(message.content)))
        rng = np.random.default_rng([self.seed, len(self.got)])
        return reply_with_change(lambda _, tensor: drifted(tensor, SPEEDS, rng))(message, context)


MODEL: Tensors = {"w": np.zeros((60, 50), np.float32)}
SPEEDS = 0.01 * np.random.default_rng(0).laplace(size=(60, 50)) ** 3


def trained(clients: Mapping[int, App], *rounds: tuple[int, ...]) -> tuple[LocalGrid, CO3Strategy]:
    """Train with these nodes in each round."""
    grid = LocalGrid(dict(clients))
    strategy = CO3Strategy(Sampling(*rounds), downlink=LOW)
    strategy.start(grid=grid, initial_arrays=record(MODEL), num_rounds=len(rounds))
    return grid, strategy


def frames_of(message: Message) -> list[bytes]:
    return [array.data for array in model_of(message.content).values()]


@pytest.mark.usefixtures("task")
def test_a_node_that_missed_rounds_is_sent_one_frame_for_several() -> None:
    clients = {node: Drifting(node) for node in (1, 2, 3)}
    everyone, others = (1, 2, 3), (1, 2)
    grid, strategy = trained(clients, *[everyone, others] * 5, everyone, *[others] * 5, everyone)
    first, second, *_, last = sent_to(grid, 3)
    assert is_whole(first) and len(frames_of(second)) == 2, "nothing was known of nodes that miss rounds"
    each = [frame for message in sent_to(grid, 1)[-6:] for frame in frames_of(message)]
    assert len(each) == 6 and len(frames_of(last)) < 3
    assert sum(map(len, frames_of(last))) < 0.6 * sum(map(len, each))
    assert not any(reply.has_error() for reply in grid.replies)
    assert_equal(clients[3].got[-1], held_by(strategy))
    assert_equal(clients[3].got[-1], clients[1].got[-1])


@pytest.mark.usefixtures("task")
def test_a_node_that_may_hold_more_than_it_said_is_sent_each_frame() -> None:
    client, rounds = Drifting(3), 0

    def losing(message: Message, context: Context) -> Message:
        nonlocal rounds
        rounds += 1
        reply = client(message, context)
        if rounds == 6:
            raise RuntimeError("the line went dead")
        return reply

    everyone, others = (1, 2, 3), (1, 2)
    clients: dict[int, App] = {1: Drifting(1), 2: Drifting(2), 3: losing}
    grid, _ = trained(clients, *[everyone, others] * 5, everyone, others, others, everyone)
    *_, lost, last = sent_to(grid, 3)
    assert len(frames_of(lost)) == 1, "two versions in one"
    assert len(frames_of(last)) == 5, "each of those that it said it lacks"
    assert len(client.got) == 7


def test_a_frame_for_several_versions_starts_from_its_base_alone() -> None:
    held, frames = versions(LOW, 20, seed=1)
    names = [Version.of(number, tensors).write() for number, tensors in enumerate(held)]
    (one,) = in_fewer(LOW, frames[14:], held[-1])
    bringing = {"co3-run": "run", "co3-model": names[20], "co3-base": names[14]}

    def holding(number: int) -> StateKeeper:
        keeper = StateKeeper(RecordDict())
        received_model(record(held[number]), {"co3-run": "run", "co3-model": names[number]}, keeper)
        return keeper

    def frames_in(*parts: bytes) -> ArrayRecord:
        return ArrayRecord({str(k): Array("uint8", (len(p),), "flwr_co3", p) for k, p in enumerate(parts)})

    model, number = received_model(frames_in(one), bringing, holding(14))
    assert number == 20
    assert_equal(arrays(model), held[20])
    with pytest.raises(ValueError, match="It holds version 16, and they start from version 14"):
        received_model(frames_in(one), bringing, holding(16))
    model, _ = received_model(frames_in(*frames[14:]), bringing, holding(16))
    assert_equal(arrays(model), held[20])
