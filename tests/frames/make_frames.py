"""Writes the committed example frames: ``python -m tests.frames.make_frames``, once for each version of the frame.

Frames that are here are never made anew: they stand for those that are in use.
"""

from pathlib import Path

import ml_dtypes
import numpy as np

from flwr_co3.codec import Codec
from tests.kinds import kinds
from tests.known import known_kinds, like
from tests.samples import Array
from tests.schemes.kinds import scheme_kinds

FOLDER = Path(__file__).parent
KNOWN_FOLDER = FOLDER / "known"  # frames that can only be read with the arrays' names, dtypes and shapes
SCHEMES_FOLDER = FOLDER / "schemes"
_BFLOAT16 = "bfloat16:"  # before the names of arrays that are kept as their bits, since npz has no such dtype


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Keep what a frame decodes to."""
    plain = {
        f"{_BFLOAT16}{name}" if array.dtype == ml_dtypes.bfloat16 else name: array.view(np.uint16)
        if array.dtype == ml_dtypes.bfloat16
        else array
        for name, array in arrays.items()
    }
    np.savez_compressed(path, **plain)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, Array]:
    """Read what `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as plain:
        return {
            name.removeprefix(_BFLOAT16): plain[name].view(ml_dtypes.bfloat16)
            if name.startswith(_BFLOAT16)
            else plain[name]
            for name in plain.files
        }


def main() -> None:
    """Make the frames that are not there yet."""
    for folder, all_kinds in ((FOLDER, kinds()), (KNOWN_FOLDER, known_kinds()), (SCHEMES_FOLDER, scheme_kinds())):
        for name, kind in all_kinds.items():
            path = folder / f"{name.replace(' ', '-')}.frame"
            if path.exists():
                continue
            frame = kind.frame()
            path.write_bytes(frame)
            write_arrays(path.with_suffix(".npz"), Codec().decode(frame, like=like(kind.update)))


if __name__ == "__main__":
    main()
