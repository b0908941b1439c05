"""The frame: what it announces, what a receiver may ask of it, and what is refused before memory is taken."""

import builtins
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest

from flwr_co3 import frame as frame_module
from flwr_co3.codec import Codec
from flwr_co3.compress import read_model
from flwr_co3.compress.group import (
    CLASSED,
    COUNTED,
    FITTED,
    FITTED_ZERO_SHARE,
    GAPS_LISTED,
    JOINED,
    LISTED,
    SPARSE,
    ZERO,
)
from flwr_co3.compress.tables import counted
from flwr_co3.config import CO3Config
from flwr_co3.errors import FrameError
from flwr_co3.frame import DTYPES, EMPTY, LAYERED, MAGIC, VERSION, FrameReader, TensorSpec
from flwr_co3.wire import Reader, Writer
from tests.bounds import bounded_memory
from tests.frames.make_frames import FOLDER, read_arrays
from tests.kinds import IN_LAYERS, kinds
from tests.samples import Array, assert_same, assert_same_update, gennorm, network

FLOAT32 = DTYPES.index("float32")
EXACT = 0x80
DEFLATED_TABLE, DEFLATED_EXACT, COMMON_SCALE, OWN_SCALES = 2, 4, 8, 16
GIGABYTE = 1 << 30


# -- frames of this version, for ever ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.frame")), ids=lambda path: path.stem)
def test_committed_frames_decode_to_the_same_arrays_for_ever(path: Path) -> None:
    """If this fails, frames that are in use can't be read any more: that takes a new version, which reads both."""
    frame = path.read_bytes()
    expected = read_arrays(path.with_suffix(".npz"))
    decoded = Codec().decode(frame)
    assert set(decoded) == set(expected)
    for name, array in expected.items():
        assert_same(decoded[name], array)
    assert frame == EMPTY or frame[:4] in (b"CO3\x01", b"CO3\x02", b"CO3\x03", b"CO3\x04", b"CO3\x05")


def test_a_frame_of_every_kind_is_committed() -> None:
    assert {path.stem for path in FOLDER.glob("*.frame")} == {name.replace(" ", "-") for name in kinds()}
    assert {path.stem for path in FOLDER.glob("*.npz")} == {name.replace(" ", "-") for name in kinds()}
    flags, models = 0, set[int]()
    for path in FOLDER.glob("*.frame"):
        frame = path.read_bytes()
        flags |= frame[4] if frame != EMPTY and frame[3] != LAYERED else 0
        models |= model_kinds(frame)
    assert flags == 31 | 64
    assert models == {ZERO, FITTED, FITTED_ZERO_SHARE, COUNTED, SPARSE, LISTED, CLASSED, JOINED, GAPS_LISTED}


def model_kinds(frame: bytes) -> set[int]:
    """How the groups of a frame are coded."""
    kinds_read: set[int] = set()

    def noting(reader: Reader, *args: Any, **rest: Any) -> Any:
        kinds_read.add(reader._data[reader._at] & 15)
        return read_model(reader, *args, **rest)

    with patch.object(frame_module, "read_model", noting):
        FrameReader(frame)
    return kinds_read


# -- what a frame announces -------------------------------------------------------------------------------------------


def test_a_reader_knows_what_a_frame_holds_before_it_decodes() -> None:
    update = network()
    frame = Codec().encode(update)
    reader = FrameReader(frame)
    assert reader.tensors == {name: TensorSpec.of(tensor) for name, tensor in update.items()}
    assert list(reader.tensors) == list(update)
    assert reader.exact == {"bn.running_mean", "bn.num_batches_tracked"}
    assert reader._levels is None


def test_tensors_are_read_one_by_one_and_in_any_order() -> None:
    update = network()
    encoded = Codec().compress(update)
    reader = FrameReader(encoded.frame)
    for name in reversed(update):
        assert_same(reader.read(name), encoded.sent[name])
    reader.close()
    assert reader._levels is None
    assert_same(reader.read("fc1.weight"), encoded.sent["fc1.weight"])
    first, second = reader.read("fc1.bias"), reader.read("fc1.bias")
    first[...] = 9
    assert_same(second, encoded.sent["fc1.bias"])
    exact = reader.read("bn.running_mean")
    exact[...] = 9
    assert_same(reader.read("bn.running_mean"), encoded.sent["bn.running_mean"])
    with pytest.raises(KeyError):
        reader.read("fc9")


def test_verify_finds_what_only_decoding_can(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = bytearray(Codec().encode(network()))
    frame[-10] ^= 1
    reader = FrameReader(corrected(frame))  # nothing is wrong yet
    with pytest.raises(FrameError, match="coded stream"):
        reader.verify()
    with pytest.raises(FrameError, match="coded stream"):
        reader.read("fc1.weight")
    FrameReader(Codec().encode(network())).verify()
    FrameReader(EMPTY).verify()


def test_the_empty_update_is_a_byte_and_fits_every_model() -> None:
    reader = FrameReader(EMPTY, like={"w": TensorSpec("float32", (3,))})
    assert (len(EMPTY), reader.tensors, reader.exact) == (1, {}, frozenset())
    assert Codec().decode(EMPTY) == {}
    assert Codec().decode(Codec().encode({})) == {}


def test_a_header_costs_little() -> None:
    """Names of a real model deflate; a frame of one small tensor needs no more than some thirty bytes."""
    names = [f"layer{a}.{b}.conv{c}.weight" for a in range(1, 5) for b in range(2) for c in (1, 2)]
    frame = Codec().encode({name: np.zeros((64, 64, 3, 3), "f4") for name in names})
    assert len(frame) < 10 * len(names)
    assert len(Codec().encode({"w": np.zeros(2000, "f4")})) < 32


# -- what a receiver expects ------------------------------------------------------------------------------------------


def like_of(update: Mapping[str, Array]) -> dict[str, TensorSpec]:
    return {name: TensorSpec.of(tensor) for name, tensor in update.items()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"fc1.bias": TensorSpec("float32", (127,))},
            r"Tensor 'fc1.bias' is float32 of shape \(128,\), and .* \(127,\)",
        ),
        ({"fc1.bias": TensorSpec("float64", (128,))}, "Tensor 'fc1.bias' is float32 .* has float64"),
        ({"fc3.weight": TensorSpec("float32", (1,))}, "lacks tensor 'fc3.weight'"),
        ({"fc1.bias": None}, "holds tensor 'fc1.bias', which the receiver's model lacks"),
    ],
)
def test_a_frame_unlike_the_receivers_model_is_refused_by_name(change: dict[str, Any], reason: str) -> None:
    update = network()
    frame = Codec().encode(update)
    like = {name: spec for name, spec in (like_of(update) | change).items() if spec is not None}
    with pytest.raises(FrameError, match=reason):
        FrameReader(frame, like=like)
    FrameReader(frame, like=dict(reversed(like_of(update).items())))  # the order is the sender's own


def test_max_bytes_is_what_decoded_tensors_may_take() -> None:
    update = network()
    frame, size = Codec().encode(update), sum(tensor.nbytes for tensor in update.values())
    Codec().decode(frame, max_bytes=size)
    for like in (None, like_of(update)):
        with pytest.raises(FrameError, match=f"take {size} bytes, and {size - 1} are allowed.*raise max_bytes"):
            Codec().decode(frame, max_bytes=size - 1, like=like)


# -- forged frames ----------------------------------------------------------------------------------------------------


def corrected(frame: bytes | bytearray) -> bytes:
    return bytes(frame[:-4]) + zlib.crc32(frame[:-4]).to_bytes(4, "little")


def table_of(
    tensors: Sequence[tuple[str | bytes, int, tuple[int, ...]]],
    fmt: bytes = b"\x02\x01\x00\x02\x00",
    count: int | None = None,
) -> bytes:
    """A table of tensors (name, kind, shape), in fp4 unless said."""
    out = Writer(fmt)
    out.varint(len(tensors) if count is None else count)
    for name, _, _ in tensors:
        out.block(name if isinstance(name, bytes) else name.encode())
    for _, kind, _ in tensors:
        out.u8(kind)
    for _, _, shape in tensors:
        out.varint(len(shape))
        for size in shape:
            out.varint(size)
    return bytes(out)


def forged(
    table: bytes,
    models: bytes = b"",
    exact: bytes = b"",
    coded: bytes = b"",
    flags: int = 0,
    table_size: int | None = None,
) -> bytes:
    """A frame with a right checksum."""
    out = Writer(MAGIC + bytes([VERSION, flags]))
    if table_size is not None:
        out.varint(table_size)
    out.block(table)
    out.block(models)
    out.block(exact)
    return corrected(bytes(out) + coded + bytes(4))


def test_a_forged_frame_that_is_right_is_read() -> None:
    """So that the ones below are refused for what is wrong with them."""
    scale = (0x7FE0).to_bytes(2, "little")
    frame = forged(
        table_of([("w", FLOAT32, (2000,)), ("n", EXACT, (2,))]), scale + b"\0", b"\x01\x00", flags=OWN_SCALES
    )
    decoded = Codec().decode(frame)
    assert not decoded["w"].any() and decoded["w"].shape == (2000,)
    assert decoded["n"].tolist() == [True, False]


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=frame_module._DICTIONARY)
    return compressor.compress(data) + compressor.flush()


SCALED = np.float64(1.0).tobytes()
ONE = table_of([("w", FLOAT32, (2000,))])
BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no CO3 frame"),
    "another file": (b"PK\x03\x04 and so on", "no CO3 frame: it begins with b'PK"),
    "only a magic": (b"CO3\x01", "cut: 4 bytes are too few"),
    "version": (
        corrected(b"CO3\x06" + forged(ONE)[4:]),
        "version 6, and this flwr-co3 reads versions 1 to 5: update the older",
    ),
    "flags": (
        corrected(b"CO3\x01" + forged(ONE, SCALED + b"\0", flags=COMMON_SCALE | 64)[4:]),
        "flags 0x48, some of which",
    ),
    "centroids": (
        forged(ONE, SCALED + b"\x33\x01\x05\x20\x06" + bytes(6), flags=COMMON_SCALE | 64),
        "has 6 centroids, and its format 5 levels above 0",
    ),
    "classes of nothing": (forged(ONE, SCALED + b"\x06\x00", flags=COMMON_SCALE), r"in a way \(number 6\)"),
    "classes in version 1": (
        corrected(
            b"CO3\x01" + forged(table_of([("w", FLOAT32, (40, 50))]), SCALED + b"\x06\0\0", flags=COMMON_SCALE)[4:]
        ),
        r"in a way \(number 6\)",
    ),
    "joined bits in version 2": (
        corrected(b"CO3\x02" + forged(ONE, SCALED + b"\x07\x01", flags=COMMON_SCALE)[4:]),
        r"in a way \(number 7\)",
    ),
    "gaps in version 3": (
        corrected(b"CO3\x03" + forged(ONE, SCALED + b"\x08\x01\x01\0\0", flags=COMMON_SCALE)[4:]),
        r"in a way \(number 8\)",
    ),
    "no gaps": (forged(ONE, SCALED + b"\x08\x01\x00\0\0", flags=COMMON_SCALE), "list of levels is empty"),
    "too many gaps": (
        forged(ONE, SCALED + b"\x08\x01\x81\x04\0\0", flags=COMMON_SCALE),
        "is 513, above the 512 possible here",
    ),
    "gaps end early": (forged(ONE, SCALED + b"\x08\x01\x02\0", flags=COMMON_SCALE), "section of models ends early"),
    "gaps beyond": (
        forged(ONE, SCALED + b"\x08\x01\x01\xff\x03", flags=COMMON_SCALE),
        "list of levels reaches beyond its tensor",
    ),
    "scales marked beyond": (
        forged(ONE, SCALED + b"\x01", flags=COMMON_SCALE | OWN_SCALES),
        "section of models ends early",
    ),
    "scale marked 0": (
        forged(ONE, SCALED + b"\x01\0\0\0", flags=COMMON_SCALE | OWN_SCALES),
        "is no scale or width",
    ),
    "too many joined bits": (
        forged(table_of([("w", FLOAT32, (9000,))]), SCALED + b"\x07\x01\x81\x08", flags=COMMON_SCALE),
        "is 1025, above the 1024 possible here",
    ),
    "too many classes": (
        forged(table_of([("w", FLOAT32, (40, 50))]), SCALED + b"\x06\x33", flags=COMMON_SCALE),
        "claims 2.3 by 2.3 classes",
    ),
    "checksum": (forged(ONE)[:-1] + b"\x00", "damaged: its checksum"),
    "dtype": (forged(table_of([("w", len(DTYPES), (3,))])), "Tensor 'w' has a dtype, number 15"),
    "lossy integer": (forged(table_of([("w", DTYPES.index("int32"), (3,))])), "'w' is int32 and not marked exact"),
    "name twice": (forged(table_of([("w", EXACT, ()), ("w", EXACT, ())])), "names a tensor twice"),
    "name not text": (forged(table_of([(b"\xff", EXACT, ())])), "name is not UTF-8"),
    "name too long": (forged(b"\x02\x01\x00\x02\x00\x01\x7fw"), "127, above the 2 possible"),
    "too many names": (forged(table_of([("w", EXACT, ())], count=70_000)), "70000, above the"),
    "dimensions": (forged(table_of([("w", EXACT, (1,) * 65)])), "65, above the 64 possible"),
    "entries": (forged(table_of([("w", EXACT, (1 << 40, 1 << 40))])), "Tensor 'w' claims the shape"),
    "entries beside 0": (forged(table_of([("w", EXACT, (0, 1 << 40, 1 << 40))])), "Tensor 'w' claims the shape"),
    "format levels": (forged(table_of([], b"\x05\x04\x00\x1e\x00")), "more than 255 levels"),
    "format fields": (forged(table_of([], b"\x09\x01\x00\x02\x00")), "can't be: FloatFormat exponent"),
    "format flag": (forged(table_of([], b"\x02\x01\x02\x02\x00")), "number format is malformed"),
    "table rest": (forged(ONE + b"\0"), "table of tensors has 1 bytes too many"),
    "no scale": (forged(ONE, b"\0"), "is no scale or width"),
    "no scale code": (forged(ONE, b"\0\0\0", flags=OWN_SCALES), "is no scale or width"),
    "scale 0": (forged(ONE, bytes(8) + b"\0", flags=COMMON_SCALE), "scale is 0.0, not a finite number above 0"),
    "scale nan": (forged(ONE, b"\xff" * 8 + b"\0", flags=COMMON_SCALE), "scale is nan, not a finite number"),
    "scale negative": (forged(ONE, np.float64(-1).tobytes() + b"\0", flags=COMMON_SCALE), "scale is -1.0"),
    "model kind": (forged(ONE, SCALED + b"\x06", flags=COMMON_SCALE), "coded in a way \\(number 6\\)"),
    "no model": (forged(ONE, SCALED, flags=COMMON_SCALE), "section of models ends early"),
    "models rest": (forged(ONE, SCALED + b"\0\0", flags=COMMON_SCALE), "section of models has 1 bytes too many"),
    "exact lacking": (
        forged(table_of([("w", EXACT, (9,))]), exact=b"12345678"),
        "have 8 bytes, and their shapes need 9",
    ),
    "exact rest": (forged(table_of([("w", EXACT, (1,))]), exact=b"12"), "have 2 bytes, and their shapes need 1"),
    "exact boolean": (forged(table_of([("w", EXACT, (2,))]), exact=b"\x01\x02"), "'w' is boolean and holds a byte"),
    "exact not deflated": (
        forged(table_of([("w", EXACT, (9,))]), exact=b"123", flags=DEFLATED_EXACT),
        "can't be inflated",
    ),
    "table not deflated": (
        forged(ONE, flags=DEFLATED_TABLE, table_size=50),
        "table of tensors can't be inflated|doesn't inflate",
    ),
    "table and more": (
        forged(raw_deflate(ONE) + b"\0", flags=DEFLATED_TABLE, table_size=len(ONE)),
        "table of tensors doesn't inflate to",
    ),
    "exact and more": (
        forged(table_of([("w", EXACT, (9,))]), exact=zlib.compress(bytes(9)) + b"\0", flags=DEFLATED_EXACT),
        "exact tensors doesn't inflate to the 9 bytes",
    ),
    "coded rest": (forged(ONE, SCALED + b"\0", coded=b"\0", flags=COMMON_SCALE), "coded section has 1 bytes too many"),
    "sections": (corrected(b"CO3\x01\x00\x7f" + bytes(9)), "number in the frame is 127, above the"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_frame_is_refused_with_a_reason(name: str) -> None:
    frame, reason = BROKEN[name]
    with pytest.raises(FrameError, match=f"{reason}.*"):
        Codec().decode(frame)


def test_bfloat16_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    update = {"w": gennorm(1, 100).astype(ml_dtypes.bfloat16), "v": gennorm(1, 100).astype("f4")}
    frame = Codec().encode(update)
    importing = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ml_dtypes":
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "ml_dtypes")
    monkeypatch.setattr(builtins, "__import__", without)
    reader = FrameReader(frame)
    assert reader.tensors["w"] == TensorSpec("bfloat16", (100,))
    assert reader.read("v").dtype == "f4"
    with pytest.raises(FrameError, match=r"bfloat16 tensor, .* only with the package ml_dtypes: install it"):
        reader.read("w")
    with pytest.raises(FrameError, match="ml_dtypes"):
        reader.verify()


# -- a kilobyte takes no gigabyte -------------------------------------------------------------------------------------

HUGE = 1 << 33
CLAIMS: dict[str, bytes] = {
    "zeros": forged(table_of([("w", FLOAT32, (HUGE,))]), SCALED + b"\0", flags=COMMON_SCALE),
    "many small": forged(
        table_of([(f"{k}", FLOAT32, (1024,)) for k in range(300)] + [("w", FLOAT32, (HUGE,))]),
        SCALED + b"\0\0",
        flags=COMMON_SCALE,
    ),
    "exact": forged(table_of([("w", EXACT | FLOAT32, (HUGE,))]), exact=b"1234"),
    "exact deflated": forged(
        table_of([("w", EXACT | FLOAT32, (HUGE // 64,))]), exact=zlib.compress(bytes(900_000), 9), flags=DEFLATED_EXACT
    ),
    "constant": forged(table_of([("w", FLOAT32, (HUGE,))]), SCALED + b"\x03\x01\x05\x20", flags=COMMON_SCALE),
    "sparse": forged(
        table_of([("w", FLOAT32, (HUGE,))]),
        SCALED + b"\x04\x01\x80\x80\x80\x80\x01\x00\x80\x05\x20\x05\x20",
        flags=COMMON_SCALE,
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_kilobyte_that_claims_gigabytes_is_refused(name: str) -> None:
    assert len(CLAIMS[name]) < 6000
    with bounded_memory(8 << 20), pytest.raises(FrameError, match=r"take .* bytes, and .* are allowed"):
        Codec().decode(CLAIMS[name])


def test_what_a_kilobyte_may_take_by_default_is_far_below_a_gigabyte() -> None:
    """The largest claims that pass, in the dtype that takes the fewest bytes for the most symbols."""
    allowed = (1 << 28) // 2
    half = DTYPES.index("float16")
    lone = table_of([("w", half, (allowed,))])
    quarter = Writer()
    quarter.varint(allowed // 4)
    frames = [
        forged(lone, SCALED + b"\0", flags=COMMON_SCALE),
        forged(lone, SCALED + b"\x33\x01\x05\x20", flags=COMMON_SCALE),  # a constant, four to a byte
        # A quarter of all entries, each 3 zeros after the last: token 3 is certain, and no bits are below it.
        forged(
            lone,
            SCALED + b"\x04\x01" + bytes(quarter) + b"\x00" + sparse_tokens(3) + b"\x05\x20",
            flags=COMMON_SCALE,
        ),
    ]
    for frame in frames:
        assert len(frame) < 1000
        with bounded_memory(GIGABYTE * 7 // 10):
            assert Codec().decode(frame)["w"].shape == (allowed,)


def sparse_tokens(token: int) -> bytes:
    """A table of the 64 tokens, shift 0, in which one token is certain."""
    counts = np.zeros(64, np.int64)
    counts[token] = 1
    return b"\x80" + counted(counts, mirrored=False).header


@pytest.mark.parametrize("claimed", [1 << 10, 1 << 24, 1 << 30])
def test_a_deflate_bomb_in_the_table_is_not_inflated(claimed: int) -> None:
    """A kilobyte that inflates to a megabyte, 64 of them to 16 megabytes, and so on: never beyond what is stated."""
    bomb = raw_deflate(bytes(40 << 20))
    assert len(bomb) < 50_000
    frame = forged(bomb, flags=DEFLATED_TABLE, table_size=claimed)
    with bounded_memory(40 << 20), pytest.raises(FrameError, match=r"doesn't inflate|above the 16777216 possible"):
        Codec().decode(frame)


def test_a_deflate_bomb_in_the_exact_tensors_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(200 << 20), 9)
    frame = forged(table_of([("w", EXACT | FLOAT32, (1000,))]), exact=bomb, flags=DEFLATED_EXACT)
    with bounded_memory(2 << 20), pytest.raises(FrameError, match="exact tensors doesn't inflate to the 4000 bytes"):
        Codec().decode(frame)


def test_a_table_of_many_groups_is_refused_unless_expected() -> None:
    """Each group that is not all zero takes look-up tables."""
    count = 60_000
    table = table_of([(f"{k:04x}", FLOAT32, (1025,)) for k in range(count)])
    models = SCALED + bytes(count)
    frame = forged(raw_deflate(table), models, flags=COMMON_SCALE | DEFLATED_TABLE, table_size=len(table))
    with pytest.raises(FrameError, match="60000 groups of tensors, more than its size allows"):
        FrameReader(frame)
    expected = {f"{k:04x}": TensorSpec("float32", (1025,)) for k in range(count)}
    assert set(FrameReader(frame, like=expected).tensors) == set(expected)


def test_a_frame_holds_up_under_all_settings_it_was_not_made_with() -> None:
    """Decoding asks nothing of the decoder's own config."""
    encoded = Codec(CO3Config(format="fp8", coder="huffman")).compress(network())
    assert_same_update(Codec(CO3Config(format="fp4", scale=3.0)).decode(encoded.frame), encoded.sent)


# -- adding to what is there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", kinds())
@pytest.mark.parametrize("weight", [1.0, 0.3, -2.0])
def test_adding_is_decoding_and_adding(name: str, weight: float) -> None:
    frame = kinds()[name].frame()
    expected, reader = Codec().decode(frame), FrameReader(frame)
    total, sums = {}, {}
    for k, (tensor, values) in enumerate(expected.items()):
        if tensor not in reader.exact:
            total[tensor] = gennorm(1, values.shape, 1e-2, k).astype(values.dtype)
            sums[tensor] = np.asarray(total[tensor] + values * values.dtype.type(weight))
    reader.add_to(total, weight)
    for tensor, found in total.items():
        if (name, tensor) in IN_LAYERS:
            np.testing.assert_allclose(found, sums[tensor], rtol=0, atol=1e-6)
        else:
            assert_same(found, sums[tensor])


def test_adding_twice_adds_twice_and_only_to_what_is_asked_for() -> None:
    update = network()
    reader = FrameReader(Codec().encode(update))
    total = {"fc1.weight": np.zeros((128, 32), "f4")}
    reader.add_to(total)
    once = total["fc1.weight"].copy()
    assert_same(once, reader.read("fc1.weight"))
    reader.add_to(total)
    assert_same(total["fc1.weight"], once + once)
    reader.add_to({})
    foreign = np.zeros((128, 32), ">f4")
    reader.add_to({"fc1.weight": foreign})
    np.testing.assert_array_equal(foreign, once)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("bn.running_mean", np.zeros(32, "f4")),
        ("bn.num_batches_tracked", np.array(0)),
        ("fc1.weight", np.zeros((128, 32), "f8")),
        ("fc1.weight", np.zeros((32, 128), "f4").T),
        ("fc1.weight", np.zeros((128, 64), "f4")[:, ::2]),
        ("fc1.weight", np.zeros((128, 31), "f4")),
        ("fc1.weight", np.zeros((129, 32), "f4")),
        ("fc1.weight", np.zeros((32, 128), "f4")),
    ],
    ids=["exact", "exact integer", "dtype", "order", "strides", "smaller", "larger", "shape"],
)
def test_totals_that_do_not_fit_are_refused_by_name(name: str, bad: Array) -> None:
    reader = FrameReader(Codec().encode(network()))
    with pytest.raises(ValueError, match=f"Tensor '{name}'"):
        reader.add_to({name: bad})
    assert not bad.any()


def test_totals_that_can_not_be_written_to_are_refused() -> None:
    reader = FrameReader(Codec().encode(network()))
    total = np.zeros((128, 32), "f4")
    total.setflags(write=False)
    with pytest.raises((TypeError, ValueError)):
        reader.add_to({"fc1.weight": total})
    assert not total.any()
