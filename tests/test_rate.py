"""Budgets: never exceeded, well used, and found in three conversions and hardly more than one coding."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flwr_co3.budget import Steady, _coded
from flwr_co3.codec import Codec, _Attempt, _Thinned
from flwr_co3.config import CO3Config
from flwr_co3.correct import ErrorMemory
from flwr_co3.encoded import Encoded
from flwr_co3.frame import EMPTY, Draft
from flwr_co3.rate import RateLimit
from tests.samples import FORMATS, FP4_OPTIMA, Array, assert_same_update, gennorm, network
from tests.strategies import QUANTIZERS, configured


class Encodings(NamedTuple):
    """What was made on the way to a frame."""

    conversions: list[_Attempt]
    planned: list[_Attempt]  # with what was thinned
    # What was thinned, how many of its levels may go, which of them stay, how much finer their step is, and how many
    # frames had been coded.
    thinned: list[tuple[_Attempt, int, bytes, float, int]]
    coded: list[int]  # sizes of frames that have levels

    def are_few(self) -> bool:
        """Whether three conversions and three codings did, and nothing was thinned twice alike for one of these."""
        return len(self.conversions) <= 3 and len(self.coded) <= 3 and len(set(self.thinned)) == len(self.thinned)


@contextmanager
def counted_encodings() -> Iterator[Encodings]:
    """Note the conversions, what was planned, and the frames that were coded on the way."""
    found = Encodings([], [], [], [])
    convert, plan, thin, code = Codec._at, Codec._planned, _Thinned.keeping, Draft.parts

    def converting(self: Codec, *args: Any, **options: Any) -> _Attempt:
        found.conversions.append(convert(self, *args, **options))
        return found.conversions[-1]

    def planning(self: Codec, *args: Any) -> _Attempt:
        found.planned.append(plan(self, *args))
        return found.planned[-1]

    def thinning(self: _Thinned, kept: npt.NDArray[np.bool_], finer: float = 1.0) -> _Attempt:
        found.thinned.append((self._finer, len(self), kept.tobytes(), finer, len(found.coded)))
        return thin(self, kept, finer)

    def coding(self: Draft) -> list[bytes]:
        parts = code(self)
        if not all(plan.is_zero for plan in self.plans):
            found.coded.append(sum(map(len, parts)))
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Codec, "_at", converting)
        patch.setattr(Codec, "_planned", planning)
        patch.setattr(_Thinned, "keeping", thinning)
        patch.setattr(Draft, "parts", coding)
        yield found


def compress_within(budget: int, update: dict[str, Array], config: CO3Config | None = None) -> Encoded:
    """Encode, and check what must hold of every budget."""
    codec = Codec(config, seed=0)
    with counted_encodings() as encodings:
        encoded = codec.compress(update, max_bytes=budget)
    assert len(encoded.frame) <= budget
    assert encodings.are_few()
    decoded = Codec().decode(encoded.frame)
    if encoded.frame == EMPTY:
        assert decoded == {} and not any(np.any(tensor) for tensor in encoded.sent.values())
    else:
        assert_same_update(decoded, encoded.sent)
    return encoded


def unlimited(update: dict[str, Array], config: CO3Config | None = None) -> int:
    return len(Codec(config, seed=0).encode(update))


def deep_network(entries: int, seed: int) -> dict[str, Array]:
    """Layers whose updates differ in width a thousandfold, some of them mostly dead, with biases and statistics."""
    rng = np.random.default_rng(seed)
    update: dict[str, Array] = {}
    left, k = entries, 0
    while left > 0:
        size = min(left, int(rng.integers(entries // 12 + 1, entries // 3 + 2)))
        values = gennorm(float(rng.uniform(0.3, 1.6)), size, 10.0 ** float(rng.uniform(-5, -2)), seed + k)
        if rng.random() < 0.3:
            values *= rng.random(size) < 0.1
        update[f"layer{k}.weight"] = values.astype("f4")
        update[f"layer{k}.bias"] = gennorm(1, int(rng.integers(8, 600)), 1e-3, seed + k).astype("f4")
        update[f"layer{k}.running_mean"] = rng.normal(size=16).astype("f4")
        left, k = left - size, k + 1
    return update


def synthetic(kind: str, size: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    match kind:
        case "normal":
            values = rng.normal(size=size)
        case "uniform":
            values = rng.uniform(-1, 1, size)
        case "outlier":
            values = 1e-6 * rng.normal(size=size)
            values[0] = 1.0
        case "two scales":
            values = rng.normal(size=size) * np.where(rng.random(size) < 0.5, 1.0, 1e-4)
        case "constant":
            values = np.full(size, 0.3)
        case "few distinct":
            values = rng.choice([-1.0, 0.0, 0.125, 2.0], size)
        case "sparse":
            values = rng.normal(size=size) * (rng.random(size) < 0.003)
        case _:
            values = gennorm(0.25, size, 1.0, seed)
    return {"w": values.astype("f4")}


SYNTHETIC = ["normal", "uniform", "outlier", "two scales", "constant", "few distinct", "sparse", "heavy tails"]
relaxed = settings(deadline=None, max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@given(
    kind=st.sampled_from([*SYNTHETIC, "network"]),
    size=st.integers(1, 6000),
    budget=st.one_of(st.integers(1, 400), st.integers(1, 6000)),
    format=st.sampled_from(FORMATS),
    coder=st.sampled_from(["rans", "huffman"]),
    quantizer=st.sampled_from(QUANTIZERS),
    seed=st.integers(0, 99),
)
@relaxed
def test_no_budget_is_ever_exceeded(
    kind: str, size: int, budget: int, format: str, coder: str, quantizer: tuple[str, str], seed: int
) -> None:
    update = network(seed) if kind == "network" else synthetic(kind, size, seed)
    compress_within(budget, update, configured(quantizer, format=format, coder=coder))


@given(entries=st.integers(50_000, 90_000), bits=st.floats(0.05, 3.0), seed=st.integers(0, 10**6))
@settings(relaxed, max_examples=25)
def test_budgets_of_networks_are_well_used(entries: int, bits: float, seed: int) -> None:
    update = deep_network(entries, seed)
    budget = 700 + int(bits * sum(tensor.size for tensor in update.values()) / 8)  # names and exact tensors take 600
    encoded = compress_within(budget, update)
    assert len(encoded.frame) >= 0.97 * min(budget, unlimited(update))


@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy tails", "two scales"])
@pytest.mark.parametrize("bits", [0.05, 0.1, 0.5, 1.0, 2.2])
@pytest.mark.parametrize("format", ["fp4", "fp8"])
def test_budgets_of_single_tensors_are_well_used(kind: str, bits: float, format: str) -> None:
    config = CO3Config(format=format)
    update = synthetic(kind, 60_000, 1)
    budget = int(bits * 60_000 / 8)
    encoded = compress_within(budget, update, config)
    assert len(encoded.frame) >= 0.97 * min(budget, unlimited(update, config))


@pytest.mark.parametrize("bits", [1.05, 1.1, 1.3, 1.6, 2.2])
@pytest.mark.parametrize("format", ["fp4", "fp8"])
@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_huffman_uses_its_budget_too(bits: float, format: str, kind: str) -> None:
    """From a bit an entry, which is the least that Huffman can do with."""
    update, config = synthetic(kind, 60_000, 1), CO3Config(coder="huffman", format=format)
    budget = int(bits * 7500)
    assert len(compress_within(budget, update, config).frame) >= 0.97 * min(budget, unlimited(update, config))


def test_mostly_zeros_are_sent_at_the_scale_of_the_others() -> None:
    """Exact zeros pass for a heavy tail in a fit of all entries: ten times the error."""
    x = gennorm(0.8, 600_000) * (np.random.default_rng(0).random(600_000) < 0.05)
    assert Codec().compress({"w": x.astype("f4")}).report.nmse < 1.1 * FP4_OPTIMA[0.8][1]


@pytest.mark.parametrize("bits", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("coder", ["rans", "huffman"])
def test_large_budgets_are_used_to_a_hundredth(bits: float, coder: str) -> None:
    update = deep_network(1_100_000, 7)
    parameters = sum(tensor.size for tensor in update.values())
    budget = int(bits * parameters / 8)
    encoded = compress_within(budget, update, CO3Config(coder=coder))
    if coder == "rans" or bits > 1:  # Huffman has no use for less than a bit an entry
        assert len(encoded.frame) >= 0.99 * min(budget, unlimited(update, CO3Config(coder=coder)))


def test_more_bytes_lose_less() -> None:
    update = deep_network(60_000, 3)
    errors = [compress_within(budget, update).report.nmse for budget in (300, 1000, 3000, 8000, 16_000, 10**6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.8 and errors[-1] < 0.2


def test_a_generous_budget_changes_nothing() -> None:
    update = network()
    assert Codec().compress(update, max_bytes=10**9).frame == Codec().encode(update)


def test_one_step_for_all_tensors() -> None:
    """Reverse water-filling: below every tensor's optimum, all of them share one absolute step."""
    update = {"wide": gennorm(1, 5000, 1.0).astype("f4"), "narrow": gennorm(1, 5000, 0.05, 1).astype("f4")}
    sent = compress_within(1200, update).sent
    assert len(set(steps_of(sent).values())) == 1
    assert np.count_nonzero(sent["wide"]) > 100 * np.count_nonzero(sent["narrow"])


def steps_of(sent: dict[str, Array]) -> dict[str, float]:
    """The least magnitude of each tensor that has any."""
    return {name: float(np.min(np.abs(tensor[tensor != 0]))) for name, tensor in sent.items() if np.any(tensor)}


@pytest.mark.parametrize("rounding", ["nearest", "rd"])
def test_a_weight_of_four_halves_a_tensors_step(rounding: str) -> None:
    update = {name: gennorm(1, 5000, 1.0, seed).astype("f4") for seed, name in enumerate(("a.1", "a.2", "b.1", "b.2"))}
    config = CO3Config(format="fp8", weights={"b.2": 16.0, "b*": 4.0}, rounding=rounding)
    steps = steps_of(compress_within(4000, update, config).sent)
    assert steps["a.1"] == steps["a.2"]
    assert steps["a.1"] / steps["b.1"] == pytest.approx(2, rel=0.03)  # a scale of its own has 16 bits
    assert steps["a.1"] / steps["b.2"] == pytest.approx(4, rel=0.03)


def test_weights_lose_least_of_what_they_weigh() -> None:
    """Of weights by which a budget can be divided, the right ones have the least weighted error."""
    update = {f"layer{k}": gennorm(0.8, 20_000, 10.0**-k, k).astype("f4") for k in range(3)}
    right = {"layer1": 100.0, "layer2": 10_000.0}

    def loss(weights: dict[str, float]) -> float:
        tensors = compress_within(5000, update, CO3Config(weights=weights)).report.tensors
        energy = {name: float(np.sum(update[name].astype(np.float64) ** 2)) for name in update}
        return sum(right.get(name, 1.0) * tensors[name].nmse * energy[name] for name in update)

    others = [{}, {"layer1": 30.0, "layer2": 1000.0}, {"layer1": 300.0, "layer2": 1e5}, {"layer0": 100.0}]
    assert loss(right) < min(map(loss, others))


def test_equal_weights_and_those_of_no_tensor_are_none() -> None:
    update = network()
    frames = {
        Codec(CO3Config(weights=weights)).compress(update, max_bytes=900).frame
        for weights in ({}, {"*": 5.0}, {"nothing": 7.0}, {"bn.running_mean": 9.0})
    }
    assert len(frames) == 1


@pytest.mark.parametrize("bits", [0.03, 0.1, 1.0, 4.0])
@pytest.mark.parametrize("known", [True, False])
def test_budgets_are_used_whatever_the_weights(bits: float, known: bool) -> None:
    update = {f"layer{k}": gennorm(0.6 + 0.1 * k, 16_000, 2.0**-k, k).astype("f4") for k in range(5)}
    budget = int(bits * 10_000)
    config = CO3Config(rate=RateLimit(bytes_per_round=budget), weights={"layer[34]": 1e4, "layer0": 0.01})
    with counted_encodings() as encodings:
        encoded = Codec(config).compress(update, known=known)
    assert encodings.are_few()
    assert 0.97 * budget <= len(encoded.frame) <= budget


@pytest.mark.parametrize("budget", range(1, 400, 7))
def test_tiny_budgets(budget: int) -> None:
    """One byte at first, then a frame of names and zeros, then the first levels."""
    update = network()
    encoded = compress_within(budget, update)
    if encoded.frame == EMPTY:
        assert encoded.report.nmse == 1 and encoded.report.frame_bytes == 1
    else:
        assert_same_update(
            {name: encoded.sent[name] for name in ("bn.running_mean", "bn.num_batches_tracked")},
            {name: update[name] for name in ("bn.running_mean", "bn.num_batches_tracked")},
        )


def test_below_the_names_nothing_is_sent_and_above_them_zeros() -> None:
    update = network()
    sizes = {len(compress_within(budget, update).frame) for budget in range(1, 420, 3)}
    smallest = min(sizes - {1})
    assert len(sizes) > 3
    assert 1 in sizes
    zeros = compress_within(smallest, update)
    assert not any(np.any(tensor) for name, tensor in zeros.sent.items() if "running" not in name and "num" not in name)
    assert zeros.report.nmse == pytest.approx(1, abs=1e-6)  # squares are added up in float32
    assert compress_within(smallest - 1, update).frame == EMPTY


@pytest.mark.parametrize(("rate", "max_bytes"), [(900, 5000), (5000, 900), (900, None), (900, 900)])
def test_the_tighter_limit_holds(rate: int, max_bytes: int | None) -> None:
    update = network()
    config = CO3Config(rate=RateLimit(bytes_per_round=rate))
    encoded = Codec(config).compress(update, max_bytes=max_bytes)
    assert 800 < len(encoded.frame) <= 900
    assert encoded.frame == Codec().compress(update, max_bytes=900).frame


def test_limits_by_parameter_and_by_time() -> None:
    update = deep_network(50_000, 1)
    parameters = sum(tensor.size for tensor in update.values())
    frames = [
        Codec(CO3Config(rate=rate)).encode(update)
        for rate in (RateLimit(bits_per_parameter=0.8), RateLimit(bits_per_second=8e5, seconds=parameters * 1e-6))
    ]
    assert frames[0] == frames[1]
    assert 0.97 * parameters / 10 <= len(frames[0]) <= parameters / 10


def test_without_anything_to_convert_there_is_nothing_to_choose() -> None:
    update = {"steps": np.arange(30), "flag": np.array(True)}
    whole = Codec().encode(update)
    assert compress_within(len(whole), update).frame == whole
    assert compress_within(len(whole) - 1, update).frame == EMPTY
    assert compress_within(5, {}).frame == EMPTY


@pytest.mark.parametrize("spread", [0.0, 0.001])
@pytest.mark.parametrize("bits", [2.0, 4.0])
@pytest.mark.parametrize("entries", [200, 50_000])
def test_values_that_are_nearly_equal_are_not_lost(spread: float, bits: float, entries: int) -> None:
    values = np.random.default_rng(0).normal(0.77, spread, entries).astype(np.float32)
    encoded = compress_within(int(bits * entries / 8), {"w": values})
    assert encoded.nmse < 3e-4  # a scale of 16 bits is a hundredth off


def test_where_sizes_jump_the_last_encoding_takes_the_middle() -> None:
    """The first is all zeros, the second too large by far, and what a line between them says is all zeros again."""
    values = np.random.default_rng(0).choice([1.0, 0.9, 1.1, 5.0], 300).astype(np.float32)
    with counted_encodings() as encodings:
        encoded = Codec(CO3Config(rate=RateLimit(bits_per_parameter=2))).compress({"w": values}, known=True)
    sizes = [attempt.likely_size for attempt in encodings.conversions]
    assert len(sizes) == 3 and sizes[0] < 20 and sizes[1] > 75
    assert 50 < len(encoded.frame) == sizes[2] <= 75
    assert encoded.nmse < 0.01


def test_the_frame_that_loses_least_is_sent_and_not_the_largest() -> None:
    values = np.random.default_rng(0).normal(0.77, 0.005, 50_000).astype(np.float32)
    with counted_encodings() as encodings:
        encoded = Codec(CO3Config(format="fp4", rate=RateLimit(bits_per_parameter=1))).compress({"w": values})
    fitting = [attempt for attempt in encodings.planned if attempt.size <= 6250]
    assert len(fitting) > 1
    least = min(fitting, key=lambda attempt: attempt.error)
    assert encoded.frame == b"".join(least.parts)
    assert least.size < max(attempt.size for attempt in fitting)


@pytest.mark.parametrize("limit", [41, 45, 49, 53, 57])
def test_the_middle_of_two_scales_near_the_end_of_float64_is_a_scale(limit: int) -> None:
    values = np.finfo(np.float64).max * np.random.default_rng(0).uniform(-1, 1, 1500)
    encoded = Codec(CO3Config(rate=RateLimit(bytes_per_round=limit), exact=())).compress(
        {"w": values, "b": np.zeros(())}
    )
    assert len(encoded.frame) <= limit
    assert encoded.nmse <= 1


@dataclasses.dataclass(eq=False)
class Planned:
    """A plan whose frame has some bytes more or less than was likely."""

    levels: int
    error: float
    off: int
    coded: "list[Planned]"

    @property
    def likely_size(self) -> int:
        return 20 + self.levels

    @property
    def size(self) -> int:
        if self not in self.coded:
            self.coded.append(self)
        return self.likely_size + self.off


@given(
    budget=st.integers(21, 3000),
    fits=st.one_of(st.none(), st.floats(0, 1)),
    more=st.one_of(st.none(), st.integers(1, 2000)),
    dearer=st.one_of(st.just(1.0), st.floats(0.5, 2)),
    spread=st.integers(0, 8),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=600)
def test_what_takes_more_bytes_than_was_likely_is_thinned_until_it_fits(
    budget: int, fits: float | None, more: int | None, dearer: float, spread: int, seed: int
) -> None:
    """What a finer scale has in common with a coarser one may take other bytes there."""
    rng, coded, planned = np.random.default_rng(seed), list[Planned](), list[Planned]()

    def plan(levels: float, error: float) -> Planned:
        planned.append(Planned(round(levels), error, int(rng.integers(-spread, spread + 1)), coded))
        return planned[-1]

    class Thinned:
        """One that has a thousand levels which may be left out."""

        def __init__(self, larger: Planned, smaller: Planned | None) -> None:
            self.least = 0 if smaller is None else min(smaller.levels * dearer, larger.levels)
            self.worst = 1.0 if smaller is None else smaller.error
            self.larger = larger

        def __len__(self) -> int:
            return 1000

        def keeping(self, kept: npt.NDArray[np.bool_], finer: float = 1.0) -> Planned:
            share = float(kept.mean())
            levels = self.least + share * finer**0.1 * (self.larger.levels - self.least)
            return plan(levels, self.worst + share * (self.larger.error - self.worst))

    small = None if fits is None else plan(fits * (budget - 20), rng.uniform(0.5, 1))
    large = None if more is None else plan(budget - 20 + more, rng.uniform(0, 0.5))
    found, codings = _coded(budget, 20, small, large, Thinned, budget)
    assert codings == len(coded)
    if found is None:
        assert large is None or budget < 40 + 8 * spread
        assert small is None or small.likely_size + small.off > budget
    else:
        assert found.size <= budget
        if found is coded[0]:
            assert found.error == min(one.error for one in planned if one.likely_size <= budget)
    assert len(coded) <= 5
    assert len(planned) <= 2 + 36 * len(coded)


@pytest.mark.parametrize("filled", [0, 1])
def test_a_frame_of_zeros_fits_in_each_format(filled: int) -> None:
    """In the format that is chosen for a budget it may take some bytes more than in the first one."""
    update = {f"layer{k}": np.zeros((50, 30 + k), np.float32) for k in range(20)}
    update["layer0"][0, :filled] = 1
    least = len(Codec().compress(update).frame) if not filled else 0
    for budget in range(100, 180):
        memory = ErrorMemory(1.0)
        encoded = Codec(CO3Config(rate=RateLimit(bytes_per_round=budget))).compress(update, memory=memory)
        assert len(encoded.frame) <= budget
        assert encoded.frame != EMPTY or budget < least or filled
        assert encoded.sent["layer0"][0, 0] + memory.state["layer0"][0, 0] == filled


@pytest.mark.parametrize("wanted", [False, True])
def test_what_is_not_thinned_leaves_more_than_sizes_are_off_by(wanted: bool) -> None:
    """Steps of few bits, as steady ones are, use the less of a budget."""
    update = {"w": gennorm(1.0, 30_000).astype("f4")}
    for budget in (400, 1000, 3000, 9000):
        with counted_encodings() as encodings:
            frame = Codec(steady=Steady(wanted=wanted)).compress(update, max_bytes=budget, known=True).frame
        assert 0.6 * budget <= len(frame) <= budget
        assert len(encodings.coded) == 1 and not encodings.thinned


def test_large_updates_are_not_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting their levels would take too much memory."""
    monkeypatch.setattr("flwr_co3.budget._THINNABLE", 1000)
    update = deep_network(60_000, 5)
    for budget in (1500, 3000, 9000):
        with counted_encodings() as encodings:
            frame = Codec().compress(update, max_bytes=budget, known=True).frame
        assert 0.95 * budget <= len(frame) <= budget
        assert len(encodings.coded) == 1 and not encodings.thinned


def test_the_largest_scale_is_one_that_float64_holds() -> None:
    """The logarithm of float64's largest number is rounded to one of which there is no power."""
    tiny = 5e-324 * np.random.default_rng(0).integers(-9, 10, 1500)
    update = {"tiny": tiny, "weighed": np.zeros((3, 700), np.float16)}
    config = CO3Config(format="fp4", weights={"weighed": 1e6})
    for budget in range(20, 60):
        compress_within(budget, update, config)
