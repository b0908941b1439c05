"""What starting costs: importing flwr_co3 after flwr, and the first call beside the second, in fresh processes."""

import statistics
from typing import Annotated

import typer

from benchmarks import fresh, options
from benchmarks.output import Form, Row, Table, show

_IMPORTS = """
import json, time
start = time.perf_counter()
import flwr.app, flwr.clientapp, flwr.serverapp, flwr.serverapp.strategy
flower = time.perf_counter()
import flwr_co3
print(json.dumps({"flwr": flower - start, "flwr_co3": time.perf_counter() - flower}))
"""
# Of the benchmarks it imports nothing: what they import would hide what a first call does.
_CALLS = """
import json, sys, time
import numpy as np
from flwr_co3 import Codec, CO3Config, RateLimit, TensorSpec
update = {"w": np.random.default_rng(0).laplace(size=int(sys.argv[1])).astype(np.float32)}
bits = float(sys.argv[2])
codec = Codec(CO3Config(rate=RateLimit(bits_per_parameter=bits) if bits else None))
like, times = {"w": TensorSpec.of(update["w"])}, []
for _ in range(3):
    start = time.perf_counter()
    frame = codec.compress(update, known=True).frame
    middle = time.perf_counter()
    codec.decode(frame, like=like)
    times.append([middle - start, time.perf_counter() - middle])
print(json.dumps(times))
"""
_PLAIN = """
import json, sys, time, zlib
import numpy as np
x, times = np.random.default_rng(0).laplace(size=int(sys.argv[1])).astype(np.float32), []
for _ in range(3):
    start = time.perf_counter()
    scale = 2 / np.abs(x).mean()
    symbols = np.clip(np.rint(x * scale), -5, 5).astype(np.int8)
    share = np.bincount(symbols + 5, minlength=11) / x.size
    entropy = -np.sum(share * np.log2(np.maximum(share, 1e-9)))
    coded = zlib.compress(symbols.tobytes(), 1)
    middle = time.perf_counter()
    decoded = np.frombuffer(zlib.decompress(coded), np.int8).astype(np.float32) / scale
    times.append([middle - start, time.perf_counter() - middle])
print(json.dumps(times))
"""
_CODES = {"": (_CALLS, 0.0), ", at most 0.1 bit": (_CALLS, 0.1), ", in plain numpy and zlib -1": (_PLAIN, 0.0)}


def main(
    entries: Annotated[int, typer.Option(min=8, help="Entries of the update that is encoded.")] = 100_000,
    runs: options.Runs = 9,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Time imports and first calls."""
    show([Table("Imports", imports(runs)), Table(f"Calls on {entries:,} entries", calls(entries, runs))], form)


def imports(runs: int) -> list[Row]:
    """Time the imports; the first process, which may find nothing in the file cache, is not counted."""
    times = [fresh.run_code(_IMPORTS) for _ in range(runs + 1)][1:]
    return [
        {"import": "flwr", "ms": 1e3 * statistics.median(each["flwr"] for each in times)},
        {"import": "flwr_co3 after it", "ms": 1e3 * statistics.median(each["flwr_co3"] for each in times)},
    ]


def calls(entries: int, runs: int) -> list[Row]:
    """Time the first three calls: of the codec, and of a few lines of numpy and zlib, which start cold as well."""
    rows: list[Row] = []
    for how, (code, bits) in _CODES.items():
        times = [fresh.run_code(code, str(entries), str(bits)) for _ in range(runs)]
        for place, name in enumerate(("encode", "decode")):
            first, second, third = (statistics.median(1e3 * each[call][place] for each in times) for call in range(3))
            rows.append(
                {
                    "call": name + how,
                    "first ms": first,
                    "second ms": second,
                    "third ms": third,
                    "first/second": first / second,
                }
            )
    return rows


if __name__ == "__main__":
    options.run(main)
