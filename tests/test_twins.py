"""C with AVX2, C without it and numpy are one: the same bytes, the same arrays, the same memory, bit for bit.

Whatever the number of threads, the format, the coder, the scale or the budget, and whatever arrays numpy can make.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flwr_co3 import kernels, moments
from flwr_co3.codec import Codec
from flwr_co3.compress import CODERS, Fit, Group, levels, stream
from flwr_co3.compress.frequencies import TOTAL
from flwr_co3.compress.group import plan
from flwr_co3.compress.packing import pack_factor, packed_frequencies
from flwr_co3.compress.tables import counted, fitted, fitted_zero_share
from flwr_co3.config import CO3Config
from flwr_co3.convert import FloatFormat
from flwr_co3.correct import MEMORY_DTYPES, ErrorMemory
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader
from flwr_co3.rate import RateLimit
from tests.damages import corrected, damage
from tests.engines import ENGINES, NUMPY, PLAIN, VECTORS, running
from tests.kinds import IN_LAYERS, kinds
from tests.samples import FORMATS, Array, assert_same, assert_same_update, gennorm, network
from tests.strategies import CONFIGS, FLOATS, KINDS, UPDATES, configured, layouts, misaligned, values_of

#: Besides the reference, numpy with one thread.
TWINS = ((VECTORS, 1), (PLAIN, 1), (VECTORS, 2), (PLAIN, 3), (VECTORS, 3), (NUMPY, 3))
FEW = ((VECTORS, 1), (PLAIN, 2), (VECTORS, 3))

#: Formats beside the named ones: of one and of 127 magnitudes, without a mantissa, with other biases, reserved codes.
CUSTOM = (
    FloatFormat(exponent=1, mantissa=1, bias=0),
    FloatFormat(exponent=2, mantissa=0, bias=1),
    FloatFormat(exponent=3, mantissa=0, bias=-5),
    FloatFormat(exponent=3, mantissa=1, bias=3, reserved=2),
    FloatFormat(exponent=2, mantissa=4, bias=20),
    FloatFormat(exponent=4, mantissa=3, bias=7, top_exponent=True, reserved=1),
    FloatFormat(exponent=1, mantissa=6, bias=1, top_exponent=True, reserved=1),
)
SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 511, 512, 513, 1023, 1024, 1025, 1536, 2047)


THREE = (("nearest", "level"), ("stochastic", "level"), ("rd", "centroid"))


class Result(NamedTuple):
    """All that a client and its server see of one update."""

    frame: bytes
    decoded: dict[str, Array]
    state: dict[str, Array]


Outcome = Result | str  # or why it was refused


@contextmanager
def small_pieces(segment: int = 1000, chunk: int = 600) -> Iterator[None]:
    """Everything that large updates are cut into, in small ones: segments, chunks, shares of threads."""
    with (
        patch.object(moments, "SEGMENT", segment),
        patch.object(kernels, "_ENTRIES_PER_THREAD", 64),
        patch.object(levels, "BLOCK", 256),
        patch.multiple(stream, _CHUNK_BYTES=chunk, _CHUNK_SYMBOLS=chunk),
    ):
        yield


def copied(state: Mapping[str, Array]) -> dict[str, Array]:
    return {name: error.copy() for name, error in state.items()}


def outcomes(
    engine: tuple[str, int],
    updates: Sequence[Mapping[str, Array]],
    config: CO3Config,
    memory: ErrorMemory | None,
    max_bytes: int | None,
) -> list[Outcome]:
    """What becomes of one update after the other, with the same codec and the same memory."""
    found: list[Outcome] = []
    with running(*engine):
        codec = Codec(config, seed=5)
        if memory is not None:
            memory = ErrorMemory(memory.decay, memory.dtype, copied(memory.state))
        for update in updates:
            try:
                frame = codec.compress(update, memory=memory, max_bytes=max_bytes).frame
            except ValueError as error:
                found.append(str(error))
                continue
            # Asked for only at the end: memories that nobody else has are written to in place.
            found.append(Result(frame, codec.decode(frame), {}))
        state = {} if memory is None else memory.state
        return [*found, Result(b"", {}, state)]


def assert_same_outcome(found: Outcome, expected: Outcome) -> None:
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
        return
    assert found.frame == expected.frame
    assert_same_update(found.decoded, expected.decoded)
    assert_same_update(found.state, expected.state)


def assert_twins(
    updates: Sequence[Mapping[str, Array]],
    config: CO3Config | None = None,
    memory: ErrorMemory | None = None,
    max_bytes: int | None = None,
    twins: Sequence[tuple[str, int]] = FEW,
) -> list[Outcome]:
    """Assert that all engines do the same to some updates, and return what that is."""
    config = config or CO3Config()
    expected = outcomes((NUMPY, 1), updates, config, memory, max_bytes)
    for twin in twins:
        for found, wanted in zip(outcomes(twin, updates, config, memory, max_bytes), expected, strict=True):
            assert_same_outcome(found, wanted)
    return expected


def remembering(update: Mapping[str, Array], decay: float, dtype: str, seed: int = 0) -> ErrorMemory:
    """A memory of every other float tensor, with errors about as large as the update."""
    memory = ErrorMemory(decay, dtype)
    rng = np.random.default_rng(seed)
    limit = float(np.finfo("f4").max)
    errors = {
        name: rng.permutation(np.clip(tensor.astype("f8").reshape(-1), -limit, limit))
        .reshape(tensor.shape)
        .astype("f4")
        for k, (name, tensor) in enumerate(update.items())
        if k % 2 == 0 and (tensor.dtype.kind == "f" or tensor.dtype == ml_dtypes.bfloat16)
    }
    memory.keep(errors, {name: np.zeros_like(error) for name, error in errors.items()})
    return memory


# -- any update -------------------------------------------------------------------------------------------------------


@st.composite
def sized_updates(draw: st.DrawFn) -> dict[str, Array]:
    """Tensors of sizes at the edges of vectors, blocks and segments; mostly float32, all layouts."""
    update = {}
    for k in range(draw(st.integers(1, 5))):
        dtype = draw(st.sampled_from([np.dtype("f4"), np.dtype("f4"), np.dtype("f4"), *FLOATS]))
        size = draw(st.sampled_from(SIZES))
        shape = draw(st.sampled_from([(size,), (1, size), (size, 1)] + [()] * (size == 1)))
        tensor = values_of(dtype, shape, draw(st.sampled_from([*KINDS, "heavy tails"])), draw(st.integers(0, 99)))
        update[f"layer{k}"] = draw(layouts(tensor))
    return update


@st.composite
def memories(draw: st.DrawFn, update: Mapping[str, Array]) -> ErrorMemory | None:
    decay = draw(st.sampled_from([None, 0.0, 0.5, 1.0]))
    if decay is None:
        return None
    dtype = draw(st.sampled_from(MEMORY_DTYPES))
    return remembering(update, decay, dtype) if draw(st.booleans()) else ErrorMemory(decay, dtype)


@pytest.mark.filterwarnings("ignore:overflow encountered in add:RuntimeWarning")  # of an update that is then refused
@given(st.data())
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_update(data: st.DataObject) -> None:
    update = data.draw(sized_updates() | UPDATES)
    config = data.draw(CONFIGS)
    if data.draw(st.booleans()):
        config = CO3Config(**{**vars(config), "format": data.draw(st.sampled_from(CUSTOM))})
    memory = data.draw(memories(update))
    max_bytes = data.draw(st.none() | st.integers(1, 2000))
    twins = data.draw(st.lists(st.sampled_from(TWINS), min_size=2, max_size=3, unique=True))
    with small_pieces(data.draw(st.sampled_from([16, 100, 512, 1000])), data.draw(st.sampled_from([50, 1 << 17]))):
        assert_twins([update, update], config, memory, max_bytes, twins)


# -- all settings -----------------------------------------------------------------------------------------------------


def sizes_of_all_kinds(seed: int = 0) -> dict[str, Array]:
    """A network's update, and whatever is hard in one."""
    update = network(seed, width=8)
    update["dead"] = np.zeros((40, 41), "f4")
    update["outlier"] = values_of(np.dtype("f4"), (1700,), "outlier", seed) * np.float32(1e-30)
    update["denormal"] = values_of(np.dtype("f4"), (1200,), "denormal", seed)
    update["scattered"] = (gennorm(1, 5000, 1.0, seed) * (np.random.default_rng(seed).random(5000) < 0.02)).astype("f4")
    update["half"] = gennorm(0.7, 1300, 1e-3, seed).astype("f2")
    update["double"] = gennorm(0.7, (33, 41), 1e-3, seed)
    update["brain"] = gennorm(0.7, 1100, 1e-3, seed).astype(ml_dtypes.bfloat16)
    update["big endian"] = gennorm(0.7, 1100, 1e-3, seed).astype(">f4")
    update["transposed"] = gennorm(0.7, (37, 41), 1e-3, seed).astype("f4").T
    update["misaligned"] = misaligned(gennorm(0.7, 1300, 1e-3, seed).astype("f4"))
    update["scalar"] = np.array(0.5, "f4")
    return update


ALL = sizes_of_all_kinds()
each_format = pytest.mark.parametrize("fmt", [*FORMATS, *CUSTOM], ids=str)


@each_format
@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("quantizer", THREE, ids=" ".join)
def test_all_formats_coders_and_quantizers(fmt: Any, coder: str, quantizer: tuple[str, str]) -> None:
    settings = configured(quantizer, format=fmt, coder=coder, exact_below=0)
    with small_pieces():
        assert_twins([ALL, ALL], settings, remembering(ALL, 0.5, "float32"))


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 2.0**-60, 1e-3, 7.0, 900.0, 2.0**60, 1e40, 1e300])
@pytest.mark.parametrize("fmt", ["fp4", "fp8"])
def test_fixed_scales(scale: float, fmt: str) -> None:
    for quantizer in THREE:
        settings = configured(quantizer, format=fmt, scale=scale, exact_below=0)
        assert_twins([ALL, ALL], settings, remembering(ALL, 1.0, "float32"), twins=FEW[:2])


@pytest.mark.parametrize("bits", [0.005, 0.02, 0.1, 0.3, 0.8, 1.5, 3.0, 6.0])
@pytest.mark.parametrize("coder", CODERS)
def test_budgets(bits: float, coder: str) -> None:
    config = CO3Config(format="fp8", coder=coder, rate=RateLimit(bits_per_parameter=bits), exact_below=0)
    wide = {"embedding": gennorm(0.6, (300, 100), 1e-3).astype("f4"), **ALL}
    with small_pieces():
        assert_twins([wide, wide], config, remembering(wide, 1.0, "float32"))


@pytest.mark.parametrize("dtype", MEMORY_DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bits", [None, 0.3])
def test_memories(dtype: str, decay: float, bits: float | None) -> None:
    config = CO3Config(rate=None if bits is None else RateLimit(bits_per_parameter=bits), exact_below=0)
    rounds = [sizes_of_all_kinds(seed) for seed in range(3)]
    with small_pieces():
        *_, last = assert_twins(rounds, config, remembering(rounds[0], decay, dtype))
    assert isinstance(last, Result) and bool(last.state) is (decay > 0)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.24, 0.1, 1 / 32, 0.001, 2e-5])
@pytest.mark.parametrize("coder", CODERS)
def test_all_shares_of_zeros(share: float, coder: str) -> None:
    """From all levels coded to a handful listed."""
    x = gennorm(1, 50_001, 3.0).astype("f4") * (np.random.default_rng(1).random(50_001) < share)
    for config in (CO3Config(scale=1.0, coder=coder), CO3Config(coder=coder, format="e2m1")):
        assert_twins([{"w": x.astype("f4")}], config)


def test_many_small_tensors() -> None:
    rng = np.random.default_rng(0)
    update: dict[str, Array] = {
        f"block{k}.bias": gennorm(1, int(rng.integers(0, 90)), 10.0 ** -(k % 7), k).astype("f4") for k in range(400)
    }
    for coder in CODERS:
        assert_twins([update, update], CO3Config(coder=coder), remembering(update, 0.9, "float32"))
    assert_twins([update], max_bytes=3000)


@pytest.mark.parametrize(
    "config",
    [
        CO3Config(),
        CO3Config(format="fp8", coder="huffman"),
        CO3Config(rate=RateLimit(bits_per_parameter=0.1)),
        CO3Config(format="e2m1", rounding="stochastic"),
        CO3Config(rounding="rd", reconstruction="centroid", rate=RateLimit(bits_per_parameter=0.1)),
    ],
    ids=["fp4", "fp8 huffman", "budget", "stochastic", "rd"],
)
def test_across_real_segments_and_threads(config: CO3Config) -> None:
    """Nothing is made small here: three segments, of which the last has a few entries, and a tensor beside them."""
    size = 2 * moments.SEGMENT + 13
    update = {"w": gennorm(0.7, size, 1e-3).astype("f4"), "v": gennorm(0.8, (600, 501), 1e-2, 1).astype("f4")}
    twins = ((VECTORS, 1), (VECTORS, 2), (PLAIN, 3))
    assert_twins([update], config, remembering(update, 0.9, "float32"), twins=twins)


# -- tables -----------------------------------------------------------------------------------------------------------


def same_by_all(make: Any) -> Any:
    """What a function returns with every engine, which is the same."""
    results = []
    for engine in (NUMPY, VECTORS):
        with running(engine):
            results.append(make())
    assert results[0] == results[1]
    return results[0]


def plain(table: Any) -> tuple[bytes, list[int], int]:
    return table.header, table.frequencies.tolist(), table.cost


COUNTS = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 2000), st.integers(0, 1 << 39))


@given(st.lists(COUNTS, min_size=1, max_size=256), st.booleans())
@example([1 << 39, 1 << 39], True)
@example([(1 << 40) - 1, 1, (1 << 40) - 1], True)
@settings(deadline=None)
def test_counted_tables(counts: list[int], mirrored: bool) -> None:
    counts[-1] += not any(counts)
    same_by_all(lambda: plain(counted(np.array(counts), mirrored)))


def test_fitted_tables() -> None:
    """Every shape that a frame can name, in widths from nearly nothing to nearly everything."""
    for name in FORMATS:
        edges = FloatFormat(name).edges
        counts = np.arange(1, 2 * edges.size + 2)
        for shape in range(0, 256, 15):
            for width in (32, 32_300 + 11 * shape % 900, 32_700, 33_100, 0xFFDF):
                fit = Fit(shape, width)
                same_by_all(lambda: plain(fitted(counts, edges, fit)))  # noqa: B023
                same_by_all(lambda: plain(fitted_zero_share(counts, edges, fit)))  # noqa: B023


@given(st.lists(st.integers(0, 1 << 20), min_size=2, max_size=16))
def test_packed_frequencies(counts: list[int]) -> None:
    counts[0] += 1
    single = counted(np.array(counts), False).frequencies
    for factor in range(1, pack_factor(single.size) + 1):
        assert sum(same_by_all(lambda: packed_frequencies(single, factor).tolist())) == TOTAL  # noqa: B023


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_plans_of_dense_groups(data: st.DataObject) -> None:
    """Counts of any size: what is chosen follows from them and the fits alone."""
    fmt = data.draw(st.sampled_from([*(FloatFormat(name) for name in FORMATS), *CUSTOM]))
    counts = np.array(data.draw(st.lists(COUNTS, min_size=2 * fmt.zero + 1, max_size=2 * fmt.zero + 1)))
    counts[-1] = max(counts[-1], 65, int(counts[fmt.zero]))  # so many that positions are not worth measuring
    fits = [Fit.of(data.draw(st.floats(0.2, 4)), data.draw(st.floats(1e-3, 1e3))) for _ in range(2)]
    group = Group(np.empty(0, np.uint8), counts, fmt.zero, fits[0], fits[1])

    def made(packed: bool) -> Any:
        p = plan(group, fmt.edges, packed)
        ((_, frequencies, packing),) = p.sequences
        return p.header, p.raw, p.cost, frequencies.tolist(), packing

    same_by_all(lambda: made(packed=True))
    same_by_all(lambda: made(packed=False))


# -- frames -----------------------------------------------------------------------------------------------------------

FRAMES = {name: kind.frame() for name, kind in kinds().items() if name not in ("empty update", "no tensors")}
each_frame = pytest.mark.parametrize("name", FRAMES)


def decoded(frame: bytes, engine: str, threads: int = 1) -> dict[str, Array] | None:
    """What an engine makes of a frame; None if it refuses it."""
    with running(engine, threads):
        try:
            return Codec().decode(frame, max_bytes=1 << 20)
        except FrameError:
            return None


def assert_same_by_all(frame: bytes) -> bool:
    """Assert that every engine accepts a frame, to the same arrays, or that none does."""
    expected = decoded(frame, NUMPY)
    for engine in ENGINES[1:]:
        found = decoded(frame, engine, 2)
        assert (found is None) is (expected is None), engine
        if found is not None and expected is not None:
            assert_same_update(found, expected)
    return expected is not None


@each_frame
def test_every_engine_makes_and_reads_the_frames_of_all_kinds(name: str) -> None:
    for engine in ENGINES:
        with running(engine, 2):
            assert kinds()[name].frame() == FRAMES[name]
    assert assert_same_by_all(FRAMES[name])


@each_frame
def test_damaged_streams_are_refused_by_all_or_none(name: str) -> None:
    """The coded section alone is damaged, in which only the decoders can tell, and the checksum corrected."""
    frame = FRAMES[name]
    start = len(frame) - 4 - len(FrameReader(frame)._coded)
    rng = np.random.default_rng(len(name))
    for _ in range(25):
        section = damage(frame[start:-4] or b"\0", rng)
        assert_same_by_all(corrected(frame[:start] + section + frame[-4:]))


@each_frame
def test_forged_frames_are_refused_by_all_or_none(name: str) -> None:
    """Tables, counts and lengths too, whatever they then say."""
    frame, rng = FRAMES[name], np.random.default_rng(len(name))
    accepted = 0
    for _ in range(40):
        accepted += assert_same_by_all(corrected(frame[:5] + damage(frame[5:-4], rng) + frame[-4:]))
    assert accepted < 40


@pytest.mark.parametrize("name", ["fp4 rans", "fp8 huffman", "chunks", "sparse", "half dead", "lanes"])
def test_flipped_bits_are_refused_by_all_or_none(name: str) -> None:
    frame = FRAMES[name]
    reader = FrameReader(frame)
    start = len(frame) - 4 - len(reader._coded)
    for at in [*range(max(start - 40, 5), start + 12), *range(start + 12, len(frame) - 4, 1 + len(frame) // 40)]:
        flipped = bytearray(frame)
        flipped[at] ^= 1 << at % 8
        assert_same_by_all(corrected(bytes(flipped)))


@each_frame
def test_reading_and_adding_one_tensor_after_the_other(name: str) -> None:
    """Without decoding all, and into arrays that are there."""
    with running(NUMPY):
        expected = Codec().decode(FRAMES[name])
    for engine in ENGINES:
        with running(engine, 2), small_pieces():
            reader = FrameReader(FRAMES[name])
            for tensor, spec in reversed(reader.tensors.items()):
                assert_same(reader.read(tensor), expected[tensor])
                if tensor not in reader.exact:
                    total = np.full(spec.shape, 0.75, expected[tensor].dtype)
                    reader.add_to({tensor: total}, 0.5)
                    weighted = expected[tensor] * expected[tensor].dtype.type(0.5)
                    if (name, tensor) in IN_LAYERS:
                        np.testing.assert_allclose(total, weighted + 0.75, rtol=0, atol=1e-6)
                    else:
                        assert_same(total, np.asarray(weighted + weighted.dtype.type(0.75)))
