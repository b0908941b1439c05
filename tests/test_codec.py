"""The pipeline: its rate against the model's cross-entropy, its report, and what travels exactly."""

import math
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.convert import FloatFormat, distortion, least_error, optimal_scale
from flwr_co3.correct import MEMORY_DTYPES, ErrorMemory
from flwr_co3.frame import EMPTY, FrameReader
from flwr_co3.gennorm import GenNorm
from flwr_co3.rate import RateLimit
from tests.bounds import bounded_memory
from tests.engines import ENGINES, VECTORS, running
from tests.samples import (
    FORMATS,
    FP4_OPTIMA,
    Array,
    assert_same,
    assert_same_update,
    cell_probabilities,
    gennorm,
    network,
)


@cache
def million(shape: float) -> NDArray[np.float32]:
    return gennorm(shape, 1_000_000, 2e-3).astype("f4")


def cross_entropy(fmt: FloatFormat, model: GenNorm, x: NDArray[Any], scale: float) -> float:
    """Bytes that the model's own probabilities take, by scipy."""
    counts = np.bincount(fmt.quantize(x, scale), minlength=fmt.levels.size)
    share = cell_probabilities(fmt.levels, model, scale)
    used = counts > 0
    return -float(np.sum(counts[used] * np.log2(share[used]))) / 8


def scale_of(frame: bytes, name: str) -> float:
    return FrameReader(frame)._scales[name]


@pytest.mark.parametrize(
    ("name", "shape"), [("fp4", 0.5), ("fp4", 0.8), ("fp4", 2.0), ("fp8", 0.8), ("e4m3", 1.0), ("e2m1", 0.3)]
)
def test_rans_takes_the_models_cross_entropy(name: str, shape: float) -> None:
    """Within .005 bit per entry and 32 bytes, from the update to the last byte of the frame."""
    x = million(shape)
    frame = Codec(CO3Config(format=name)).encode({"w": x})
    model = GenNorm.fit(x)
    ideal = cross_entropy(FloatFormat(name), model, x, scale_of(frame, "w"))
    assert len(frame) <= ideal + 0.005 * x.size / 8 + 32


@pytest.mark.parametrize("bits", [0.1, 0.5, 1.3])
def test_rans_does_so_at_low_rates_too(bits: float) -> None:
    x = million(0.8)
    frame = Codec(CO3Config(rate=RateLimit(bits_per_parameter=bits))).encode({"w": x})
    ideal = cross_entropy(FloatFormat("fp4"), GenNorm(0.8, 2e-3), x, scale_of(frame, "w"))
    assert len(frame) <= ideal + 0.005 * x.size / 8 + 32


@pytest.mark.parametrize(("shape", "bits"), [(0.5, 1.88), (1.0, 2.84), (2.0, 3.28)])
def test_huffman_takes_the_bits_of_the_table(shape: float, bits: float) -> None:
    """co3.md's Huffman lengths, and what the segments' lengths and fillings add."""
    frame = Codec(CO3Config(coder="huffman")).encode({"w": million(shape)})
    assert 8 * len(frame) / 1_000_000 == pytest.approx(bits, abs=0.02)


@pytest.mark.parametrize("shape", [0.5, 0.8, 1.0, 2.0])
def test_the_distortion_is_that_of_the_table(shape: float) -> None:
    encoded = Codec().compress({"w": million(shape)})
    assert encoded.report.nmse == pytest.approx(FP4_OPTIMA[shape][1], rel=0.03 if shape < 0.8 else 0.01)


@pytest.mark.parametrize("name", FORMATS)
def test_the_scale_on_the_wire_loses_next_to_nothing(name: str) -> None:
    """16 bits of a scale, and a shape in one byte, are enough for it."""
    x = million(0.8)
    fmt, model = FloatFormat(name), GenNorm.fit(x)
    scale = scale_of(Codec(CO3Config(format=name)).encode({"w": x}), "w")
    best = float(distortion(fmt, model, optimal_scale(fmt, model)))
    assert float(distortion(fmt, model, scale)) <= 1.01 * best


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("values", [[0.3], [-0.3, 0.3], [0.3, 0.0], [7.0] + [0.0] * 999], ids=str)
def test_equal_magnitudes_are_a_level(name: str, values: list[float]) -> None:
    """But for the last digits of a scale in 16 bits. The lightest tail that is fitted would put them between levels."""
    update = {"w": np.resize(np.array(values, "f4"), 2000), "alone": np.array([0.0] * 8 + [1e-30], "f4")}
    report = Codec(CO3Config(format=name)).compress(update).report
    assert max(tensor.nmse for tensor in report.tensors.values()) < 3e-4


@pytest.mark.parametrize("name", FORMATS)
def test_magnitudes_that_are_nearly_equal_lose_no_more_than_their_spread(name: str) -> None:
    rng = np.random.default_rng(0)
    for spread in (0.005, 0.05, 0.1, 0.2):
        values = (rng.normal(1, spread, 2000) * rng.choice([-1, 1], 2000)).astype("f4")
        nmse = Codec(CO3Config(format=name)).compress({"w": values}).report.nmse
        assert nmse < 1.2 * max(spread**2, least_error(FloatFormat(name))) + 3e-4


def test_a_fixed_scale_is_used_as_it_is() -> None:
    x = million(1.0)[:5000]
    for scale in (math.pi, 123.0, 1e-3):
        encoded = Codec(CO3Config(scale=scale)).compress({"w": x})
        fmt = FloatFormat("fp4")
        expected = (fmt.levels[fmt.quantize(x, scale)] / scale).astype("f4")
        assert_same(encoded.sent["w"], expected)


def test_small_tensors_share_a_model_and_cost_a_few_bytes() -> None:
    update = {f"block{k}.bias": gennorm(1, 64, 1e-3, k).astype("f4") for k in range(40)}
    together = len(Codec().encode(update))
    assert 8 * together / (40 * 64) < 4.0  # near the 2.8 bits of a large Laplacian tensor, with scales and names
    alone = sum(len(Codec().encode({name: tensor})) for name, tensor in update.items())
    assert together < 0.7 * alone


def test_stochastic_rounding_is_unbiased_and_follows_its_seed() -> None:
    x = million(1.0)[:50_000]
    config = CO3Config(rounding="stochastic", scale=300.0)
    sent = Codec(config, seed=3).compress({"w": x}).sent["w"]
    assert_same(Codec(config, seed=3).compress({"w": x}).sent["w"], sent)
    assert not np.array_equal(Codec(config, seed=4).compress({"w": x}).sent["w"], sent)
    inside = np.abs(x) * 300 < 3
    error = (sent - x)[inside].astype("f8")
    assert abs(error.mean()) < 5 * error.std() / math.sqrt(error.size)
    codec = Codec(config, seed=3)
    first, second = (codec.compress({"w": x}).sent["w"] for _ in range(2))
    assert not np.array_equal(first, second), "every encoding draws anew"


def test_the_report_adds_up() -> None:
    update = network()
    encoded = Codec().compress(update)
    report = encoded.report
    assert report.frame_bytes == len(encoded.frame)
    assert report.parameters == sum(tensor.size for tensor in update.values())
    assert report.bits_per_parameter == pytest.approx(8 * len(encoded.frame) / report.parameters)
    assert list(report.tensors) == list(update)
    lost = whole = 0.0
    for name, tensor in update.items():
        part = report.tensors[name]
        assert part.entries == tensor.size
        if Codec().is_exact(name, tensor):
            assert (part.bytes, part.nmse) == (tensor.nbytes, 0) and math.isnan(part.shape)
            continue
        x, y = tensor.astype("f8"), encoded.sent[name].astype("f8")
        assert part.nmse == pytest.approx(float(np.sum((x - y) ** 2) / np.sum(x**2)), rel=1e-6)
        assert (part.shape, part.scale) == (GenNorm.fit(tensor).shape, GenNorm.fit(tensor).scale)
        assert (part.shape, part.scale) == pytest.approx((GenNorm.fit(x).shape, GenNorm.fit(x).scale), rel=1e-13)
        lost, whole = lost + float(np.sum((x - y) ** 2)), whole + float(np.sum(x**2))
    assert report.nmse == pytest.approx(lost / whole, rel=1e-6)
    symbols = sum(part.bytes for name, part in report.tensors.items() if not math.isnan(part.shape))
    assert 0.8 * len(encoded.frame) < symbols + 250 < 1.2 * len(encoded.frame)


def test_the_report_of_values_far_apart() -> None:
    """Squares of 1e300 and of 1e-300 have no place in float64, and each tensor's share of error is known anyway."""
    update = {name: gennorm(1, 2000, scale, 1) for name, scale in (("huge", 1e300), ("tiny", 1e-300), ("one", 1.0))}
    report = Codec().compress(update).report
    for part in report.tensors.values():
        assert part.nmse == pytest.approx(report.tensors["one"].nmse, rel=0.05)
    assert report.nmse == pytest.approx(report.tensors["huge"].nmse)


def test_what_travels_exactly() -> None:
    update = network() | {"ints": np.arange(100), "flag": np.array(True), "z": np.ones(20, "c8"), "few": np.ones(7)}
    codec = Codec(CO3Config(exact=("fc?.bias", "*running_*")))
    exact = {name for name, tensor in update.items() if codec.is_exact(name, tensor)}
    assert exact == {"bn.running_mean", "bn.num_batches_tracked", "fc1.bias", "fc2.bias", "ints", "flag", "z", "few"}
    encoded = codec.compress(update)
    assert FrameReader(encoded.frame).exact == exact
    for name, tensor in update.items():
        assert np.array_equal(encoded.sent[name], tensor) is (name in exact)


def test_small_tensors_are_exact_below_a_size() -> None:
    for limit in (0, 1, 8, 100):
        codec = Codec(CO3Config(exact_below=limit))
        for size in range(120):
            assert codec.is_exact("w", np.ones(size, "f4")) is (size < limit)


def test_batch_norms_statistics_are_exact_by_default() -> None:
    codec = Codec()
    for name in ("bn1.running_mean", "layer1.0.bn2.running_var", "bn1.num_batches_tracked"):
        assert codec.is_exact(name, np.ones(64, "f4"))
    assert not codec.is_exact("bn1.weight", np.ones(64, "f4"))


def test_sent_shares_no_memory_with_the_update() -> None:
    update = network()
    for max_bytes in (None, 3000, 700, 10):
        encoded = Codec().compress(update, max_bytes=max_bytes)
        for name, tensor in encoded.sent.items():
            assert not np.shares_memory(tensor, update[name])
            tensor[...] = 1  # and may be written to


def test_decoded_arrays_are_fresh_and_writable() -> None:
    frame = Codec().encode(network())
    first, second = Codec().decode(frame), Codec().decode(frame)
    for tensor in first.values():
        tensor[...] = 1
    assert_same_update(Codec().decode(frame), second)


def test_encoding_is_deterministic_and_decoding_needs_no_config() -> None:
    update = network()
    for config in (CO3Config(), CO3Config(format="fp8", coder="huffman"), CO3Config(format="e4m3", scale=50.0)):
        encoded = Codec(config).compress(update)
        assert Codec(config).encode(update) == encoded.frame
        assert_same_update(Codec(CO3Config(format="e5m2")).decode(encoded.frame), encoded.sent)


def test_a_limit_below_a_byte_is_refused() -> None:
    for bad in (0, -5):
        with pytest.raises(ValueError, match="even the empty update takes 1 byte"):
            Codec().compress(network(), max_bytes=bad)
    assert Codec().compress(network(), max_bytes=1).frame == EMPTY


# -- with a memory ----------------------------------------------------------------------------------------------------

LIMITS = (None, RateLimit(bits_per_parameter=0.4), RateLimit(bytes_per_round=20))


def rounds_of(dtype: Any, count: int = 3) -> list[dict[str, Array]]:
    """Rounds of one tensor with a model of its own, two that share one, and an exact one."""
    return [
        {
            "conv.weight": gennorm(0.6, (40, 50), 1e-2, seed).astype(dtype),
            "fc.weight": gennorm(1.2, (30, 9), 1e-2, seed + 10).astype(dtype),
            "fc.bias": gennorm(1.0, 30, 1e-2, seed + 20).astype(dtype),
            "bn.running_mean": gennorm(1.0, 30, 1e-2, seed + 30).astype(dtype),
        }
        for seed in range(count)
    ]


def lossy_part(update: dict[str, Array]) -> dict[str, Array]:
    return {name: tensor for name, tensor in update.items() if not Codec().is_exact(name, tensor)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("rate", LIMITS, ids=str)
@pytest.mark.parametrize("stored", MEMORY_DTYPES)
def test_a_memory_is_compensate_before_and_keep_after(
    engine: str, dtype: str, decay: float, rate: RateLimit | None, stored: str
) -> None:
    together, apart = ErrorMemory(decay, stored), ErrorMemory(decay, stored)
    with running(engine, 2):
        codec = Codec(CO3Config(rate=rate))
        for update in rounds_of(dtype):
            encoded = codec.compress(update, memory=together)
            v = {**update, **apart.compensate(lossy_part(update))}
            expected = codec.compress(v)
            apart.keep(v, lossy_part(expected.sent))
            assert encoded.frame == expected.frame
            assert encoded.nmse == expected.nmse
            assert_same_update(encoded.sent, expected.sent)
            if decay == 0:
                assert together.state == {}
            assert set(together.state) == set(apart.state)
            assert_same_update({name: together.state[name] for name in apart.state}, apart.state)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ml_dtypes.bfloat16])
@pytest.mark.parametrize("rate", LIMITS, ids=str)
def test_the_memory_holds_what_the_receiver_lacks(engine: str, dtype: Any, rate: RateLimit | None) -> None:
    """Half precision too: the receiver's values are rounded to it, and what that loses is kept as well."""
    memory = ErrorMemory(0.7)
    with running(engine):
        codec = Codec(CO3Config(rate=rate))
        for update in rounds_of(dtype):
            before = {name: error.copy() for name, error in memory.state.items()}
            encoded = codec.compress(update, memory=memory)
            v = ErrorMemory(0.7, state=before).compensate(lossy_part(update))
            for name, values in v.items():
                assert encoded.sent[name].dtype == update[name].dtype
                work = np.promote_types(values.dtype, "f4")
                lost = values.astype(work) - encoded.sent[name].astype(work)
                assert_same(memory.state[name], lost.astype("f4"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rate", LIMITS, ids=str)
def test_memories_that_others_hold_are_never_written_to(engine: str, rate: RateLimit | None) -> None:
    first, *others = rounds_of("f4", 5)
    given = lossy_part(first)
    before = {name: error.tobytes() for name, error in given.items()}
    held: list[tuple[dict[str, Array], dict[str, bytes]]] = [(given, before)]
    with running(engine):
        memory = ErrorMemory(0.9, state=given)
        for k, update in enumerate(others):
            Codec(CO3Config(rate=rate)).compress(update, memory=memory)
            if k % 2 == 0:  # and in between the memory writes to its own place
                state = memory.state
                held.append((state, {name: error.tobytes() for name, error in state.items()}))
    for arrays, contents in held:
        assert {name: error.tobytes() for name, error in arrays.items()} == contents


@pytest.mark.parametrize("engine", ENGINES)
def test_a_refused_update_leaves_the_memory_as_it_was(engine: str) -> None:
    good, bad = rounds_of("f4", 2)
    bad["fc.weight"][3, 4] = np.nan
    refused: list[tuple[dict[str, Any], int | None]] = [
        *((bad, None), (bad, 500), (good, 0), ({**good, "text": np.array(["a"])}, None)),
        ({**good, "bn.running_mean": np.full(30, np.inf, "f4")}, None),
    ]
    with running(engine):
        memory = ErrorMemory(0.9)
        Codec().compress(good, memory=memory)
        for round_trip in (False, True):  # the memory's own arrays, and those that others hold too
            before = {name: error.tobytes() for name, error in memory._stored.items()}
            for update, max_bytes in refused:
                with pytest.raises(ValueError, match=r"NaN or infinity|even the empty update|which no frame can hold"):
                    Codec().compress(update, memory=memory, max_bytes=max_bytes)
                assert {name: error.tobytes() for name, error in memory._stored.items()} == before
            if not round_trip:
                assert memory.state


def test_what_extra_memory_an_encoding_takes() -> None:
    """At most half the update's own, its memory in place; numpy's and Python's allocations are counted."""
    update = {f"layer{k}": gennorm(0.7, 1 << 20, 1e-3, k).astype("f4") for k in range(4)}
    size = sum(tensor.nbytes for tensor in update.values())
    for rate in (None, RateLimit(bits_per_parameter=0.1)):
        with running(VECTORS, 2):
            codec, memory = Codec(CO3Config(rate=rate)), ErrorMemory(0.9)
            codec.compress(update, memory=memory)  # now the memory is there, and all tables are made
            with bounded_memory(size // 2):
                codec.compress(update, memory=memory)
