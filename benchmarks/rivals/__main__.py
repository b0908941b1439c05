"""Measures one rival: ``python -m benchmarks.rivals NAME values.npy runs distortion ...``, for ``benchmarks.peers``."""

import json
import sys
from functools import partial

import numpy as np

from benchmarks.rivals import RIVALS, Rival, Values, make, nmse
from benchmarks.timing import take_turns

_SAMPLE = 200_000  # entries that the step is sought on
_STEPS = 14


def measure(rival: Rival, x: Values, step: float, runs: int) -> dict[str, float]:
    """Measure bits, distortion, and seconds beside a copy."""
    coded = rival.encode(x, step)
    warm = np.zeros_like(x)
    timed = take_turns(
        {
            "copy": partial(np.copyto, warm, x),
            "encode": partial(rival.encode, x, step),
            "decode": partial(rival.decode, coded),
        },
        runs,
    )
    return {
        "bits": 8 * len(coded) / x.size,
        "nmse": nmse(x, rival.decode(coded)),
        "encode": timed.median("encode"),
        "decode": timed.median("decode"),
        "encode of memcpy": timed.ratio("copy", "encode"),
        "decode of memcpy": timed.ratio("copy", "decode"),
    }


def step_for(rival: Rival, x: Values, distortion: float) -> float:
    """Find the step that loses so much of a sample's energy."""
    sample = np.ascontiguousarray(x[:_SAMPLE])
    largest = float(np.abs(sample).max())
    low, high = largest * 2.0**-20, 2 * largest
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        if nmse(sample, rival.decode(rival.encode(sample, middle))) > distortion:
            high = middle
        else:
            low = middle
    return low


def main(name: str, path: str, runs: str, *distortions: str) -> None:
    """Print a JSON list, one entry for each distortion."""
    rival, x = make(name), np.load(path)
    steps = [step_for(rival, x, float(d)) if RIVALS[name].tunable else 1.0 for d in distortions]
    results = [measure(rival, x, step, int(runs)) for step in steps]
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
