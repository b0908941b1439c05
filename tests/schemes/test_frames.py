"""The committed frames of other schemes."""

from pathlib import Path

import pytest

from flwr_co3.codec import Codec
from flwr_co3.errors import FrameError
from flwr_co3.frame import FrameReader
from flwr_co3.schemes import scheme_names
from tests.damages import corrected
from tests.frames.make_frames import SCHEMES_FOLDER, read_arrays
from tests.samples import assert_same_update
from tests.schemes.kinds import scheme_kinds

EXTERNAL = {"sz3", "nncodec"}  # what these write is not ours to promise
FRAMES = sorted(SCHEMES_FOLDER.glob("*.frame"))


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.stem)
def test_committed_frames_decode_to_the_same_arrays_for_ever(path: Path) -> None:
    """If this fails, frames that are in use can't be read any more: that takes a new name for the scheme."""
    assert_same_update(Codec().decode(path.read_bytes()), read_arrays(path.with_suffix(".npz")))


def test_every_scheme_of_the_package_has_a_committed_frame() -> None:
    assert {path.stem for path in FRAMES} == {name.replace(" ", "-") for name in scheme_kinds()}
    bodies = [FrameReader(path.read_bytes()).body for path in FRAMES]
    assert {body.scheme.name for body in bodies if body is not None} == set(scheme_names()) - EXTERNAL


@pytest.mark.parametrize("name", [b"topp", b"top\x80", b"\0\0\0\0"])
def test_a_scheme_that_is_not_known_is_refused_in_a_sentence(name: bytes) -> None:
    frame = (SCHEMES_FOLDER / "topk.frame").read_bytes()
    with pytest.raises(FrameError, match=r"not known here\. There is no scheme .*\.$"):
        Codec().decode(corrected(frame.replace(b"topk", name)))
