"""Frames that refer to a table of tensors which both ends know."""

from pathlib import Path

import numpy as np
import pytest

from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from flwr_co3.errors import FrameError
from flwr_co3.frame import _DICTIONARY, EMPTY, FrameReader, TensorSpec, layers_of
from flwr_co3.rate import RateLimit
from tests import frame_by_the_book
from tests.damages import corrected, damage
from tests.frames.make_frames import KNOWN_FOLDER, read_arrays
from tests.known import Known, known_kinds, like
from tests.samples import assert_same, assert_same_update, gennorm, network

KINDS = known_kinds()
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@each_kind
def test_with_the_table_a_frame_decodes_in_the_receivers_order(kind: Known) -> None:
    encoded = Codec(kind.config, seed=0).compress(kind.update, max_bytes=kind.max_bytes, known=True)
    for layer in layers_of(encoded.frame):
        assert layer[3] in (2, 3, 4) and layer[4] & 32
    assert len(encoded.frame) <= (kind.max_bytes or len(encoded.frame))
    assert_same_update(Codec().decode(encoded.frame, like=like(kind.update)), encoded.sent)
    backwards = dict(reversed(like(kind.update).items()))
    assert list(Codec().decode(encoded.frame, like=backwards)) == list(backwards)
    assert list(encoded.report.tensors) == list(kind.update)


@each_kind
def test_the_order_of_the_senders_tensors_does_not_matter(kind: Known) -> None:
    shuffled = kind._replace(update=dict(reversed(kind.update.items())))
    assert kind.frame() == shuffled.frame()


@each_kind
def test_a_decoder_written_from_the_document_reads_it(kind: Known) -> None:
    known = {name: (spec.dtype, spec.shape) for name, spec in like(kind.update).items()}
    read = frame_by_the_book.decode(kind.frame(), _DICTIONARY, known)
    expected = Codec().decode(kind.frame(), like=dict(sorted(like(kind.update).items())))
    if "bfloat16" not in read:
        assert_same_update(read, expected)


def test_these_frames_show_every_flag() -> None:
    flags, formats = 0, set()
    for kind in KINDS.values():
        for layer in layers_of(kind.frame()):
            flags |= layer[4] | (layer[5] & 7) << 8
            formats.add(layer[5] >> 3)
    assert flags & ~2 == 1 | 4 | 8 | 16 | 32 | 256 | 512 | 1024
    assert formats >= {0, 1, 8}


@pytest.mark.parametrize("path", sorted(KNOWN_FOLDER.glob("*.frame")), ids=lambda path: path.stem)
def test_committed_frames_decode_to_the_same_arrays_for_ever(path: Path) -> None:
    expected = read_arrays(path.with_suffix(".npz"))
    decoded = Codec().decode(path.read_bytes(), like=like(expected))
    for name, array in expected.items():
        assert_same(decoded[name], array)


def test_a_frame_of_every_kind_is_committed() -> None:
    assert {path.stem for path in KNOWN_FOLDER.glob("*.frame")} == {name.replace(" ", "-") for name in KINDS}


def test_without_the_table_the_frame_says_what_it_lacks() -> None:
    frame = KINDS["marked exact"].frame()
    for read in (Codec().decode, FrameReader):
        with pytest.raises(FrameError, match="give the model's tensors as `like`"):
            read(frame)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("fc1.bias", TensorSpec("float32", (41,))),
        ("fc1.bias", TensorSpec("float64", (40,))),
        ("fc9.bias", TensorSpec("float32", (40,))),
        ("fc1.bias", None),
    ],
)
def test_another_table_is_refused(name: str, spec: TensorSpec | None) -> None:
    other = like(KINDS["marked exact"].update)
    other.pop("fc1.bias")
    if spec is not None:
        other[name] = spec
    with pytest.raises(FrameError, match="another table of tensors than that of the receiver's model"):
        Codec().decode(KINDS["marked exact"].frame(), like=other)


def test_a_table_by_itself_needs_no_reference() -> None:
    update = network()
    assert Codec().compress(update).frame == Codec().encode(update)
    assert not Codec().compress(update).frame[4] & 32


def test_a_reference_costs_a_few_bytes_instead_of_every_name() -> None:
    update = {f"blocks.{k}.attention.projection.weight": gennorm(1, 30).astype("f4") for k in range(200)}
    alone, known = (
        len(Codec(CO3Config(scale=2.0**-30)).compress(update, known=known).frame) for known in (False, True)
    )
    assert alone > 400 and known <= 19


def test_a_model_of_50_000_parameters_has_room_at_five_thousandths_of_a_bit() -> None:
    """31 bytes in all: less than the names of the tensors."""
    update = {
        "layers.0.weight": gennorm(0.7, (200, 200)).astype("f4"),
        "layers.1.weight": gennorm(0.7, 10_000).astype("f4"),
    }
    encoded = Codec(CO3Config(rate=RateLimit(bits_per_parameter=0.005))).compress(update, known=True)
    assert len(encoded.frame) <= 31
    assert sum(np.count_nonzero(tensor) for tensor in encoded.sent.values()) >= 4
    assert Codec(CO3Config(rate=RateLimit(bits_per_parameter=0.005))).encode(update) == EMPTY


@each_kind
def test_damage_is_found(kind: Known) -> None:
    """Whatever was done to a frame, it is decoded to what it should be, or refused with FrameError."""
    rng = np.random.default_rng(0)
    frame, known = kind.frame(), like(kind.update)
    for _ in range(150):
        broken = damage(frame, rng)
        for forged in (broken, corrected(broken)) if len(broken) > 8 else (broken,):
            try:
                decoded = Codec().decode(forged, like=known)
            except FrameError:
                continue
            if forged == EMPTY:
                continue
            assert {name: (array.dtype.name, array.shape) for name, array in decoded.items()} == known


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [(3, 1, "flags"), (4, 32 | 2, "deflated table of tensors, and none"), (5, 31 << 3, "number format, number 31")],
)
def test_flags_that_cannot_be_are_refused(place: int, value: int, words: str) -> None:
    frame = bytearray(KINDS["short scale"].frame())
    frame[place] = value
    with pytest.raises(FrameError, match=words):
        Codec().decode(corrected(bytes(frame)), like=like(KINDS["short scale"].update))
