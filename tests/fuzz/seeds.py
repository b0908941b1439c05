"""Where the fuzzer starts: frames of every kind, those of old versions, and some bytes for each loop."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np

from flwr_co3 import frame as frame_module
from flwr_co3.codec import Codec
from flwr_co3.config import CO3Config
from tests.fuzz.targets import KERNELS
from tests.kinds import kinds, outliers
from tests.samples import gennorm
from tests.schemes.kinds import scheme_kinds

_FRAMES = Path(__file__).parent.parent / "frames"

_MAX_LENGTH = 2000  # longer frames are slow, and hold nothing that these don't
_LOOPS = 5  # targets in loops.c


def frames() -> list[bytes]:
    """Frames without their checksums, with deflated tables and with plain ones: no mutation gets through deflate."""
    found = [path.read_bytes() for path in sorted([*_FRAMES.glob("*.frame"), *_FRAMES.glob("schemes/*.frame")])]
    deflate = frame_module._deflate
    for plain in (False, True):
        with patch.object(frame_module, "_deflate", (lambda data: deflate(data) + data) if plain else deflate):
            found += [kind.frame() for kind in (*kinds().values(), *scheme_kinds().values())]
            for coder in ("rans", "huffman"):
                for fmt in ("fp4", "fp8", "e2m1"):
                    update = {"w": gennorm(0.8, 1100).astype("f4"), "b": gennorm(1, 30).astype("f4")}
                    found.append(Codec(CO3Config(format=fmt, coder=coder)).encode(update))
            for few in (3, 40, 300):
                found.append(Codec(CO3Config(scale=1.0)).encode({"w": outliers(3000, few), "b": outliers(50, 2)}))
    return [frame[:-4] for frame in found if 4 < len(frame) <= _MAX_LENGTH]


def _noise(targets: int) -> list[bytes]:
    """Inputs whose first byte chooses a target."""
    rng = np.random.default_rng(0)
    seeds = [bytes([target]) + rng.bytes(size) for target in range(targets) for size in (20, 60, 200, 900)]
    return seeds + [bytes([target, *([fill] * 64)]) for target in range(targets) for fill in range(4)]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "frames": frames,
    "kernels": lambda: _noise(len(KERNELS)),
    "loops": lambda: _noise(_LOOPS),
}
