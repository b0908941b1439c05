"""Memory beyond the update, in a process of its own for each line.

What is measured is resident memory: the peak while a call runs (the kernel's VmHWM, reset before the call) less what
was resident before it, whoever asked for it, numpy or C. So an encoding's extra is all that it holds beside the
update (and the memory of the last round, with "memory"): temporaries, the new memory, the frame. A decoding's extra
includes the arrays that it returns, one time the update. Linux only.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import fresh, options, pipeline
from benchmarks.layouts import draw
from benchmarks.output import Form, Row, Table, show
from benchmarks.settings import choose
from benchmarks.timing import Action
from flwr_co3 import CO3Config, Codec, ErrorMemory

CALLS = ("encode", "encode, memory", "decode, add", "decode")

_STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Without it freed memory may stay with the process, and what is taken again would not show.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def main(
    entries: Annotated[
        int, typer.Option(min=8, help="Entries of the update; 1000000000 needs up to 24 GiB.")
    ] = 10_000_000,
    settings: options.Settings = "fp4,fp8,0.1 bit",
    calls: Annotated[str, typer.Option(help="Which calls, separated by semicolons.")] = ";".join(CALLS),
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Measure peaks of memory."""
    rows = [row(call.strip(), name, entries) for name in choose(settings) for call in calls.split(";")]
    show([Table(f"Memory beyond an update of {entries:,} entries", rows)], form)


def row(call: str, setting: str, entries: int) -> Row:
    """Measure one call in a fresh process."""
    if call not in CALLS:
        raise ValueError(f"There is no call {call!r}. Choose from: {'; '.join(CALLS)}.")
    if not RESET.exists():
        raise RuntimeError("Peaks of memory can be measured on Linux only, where there is /proc/self/clear_refs.")
    found = fresh.run(["-m", "benchmarks.memory", "--measure", call, setting, str(entries)], GIVE_BACK)
    return {
        "setting": setting,
        "call": call,
        "extra MB": found["extra"] / 1e6,
        "of the update": found["extra"] / (4 * entries),
        "in all GB": found["peak"] / 1e9,
        "seconds": found["seconds"],
    }


def measure(call: str, setting: str, entries: int) -> dict[str, float]:
    """Measure one call in this process: bytes and seconds."""
    (config,) = choose(setting).values()
    _prepare(call, config, 10_000)()  # what is made once and kept, such as tables, is no cost of an update
    action = _prepare(call, config, entries)
    RESET.write_text("5")
    before = status("VmRSS")
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    peak = status("VmHWM")
    del result
    return {"extra": peak - before, "peak": peak, "seconds": seconds}


def _prepare(call: str, config: CO3Config, entries: int) -> Action:
    """Make what a call needs, and nothing more."""
    codec = Codec(config)
    update = draw([(entries,)])
    like = pipeline.specs(update)
    if call == "encode":
        return lambda: codec.encode(update)
    if call == "encode, memory":
        errors = {name: 0.1 * tensor for name, tensor in update.items()}
        return lambda: pipeline.compensate_encode_keep(
            codec, update, ErrorMemory.adopt(config.memory_decay, config.memory_dtype, errors)
        )
    frame = codec.encode(update)
    if call == "decode":
        del update
        return lambda: pipeline.decode(frame, like)
    for tensor in update.values():
        tensor.fill(0)
    return lambda: pipeline.decode_add(frame, update, 0.1, like)


def status(field: str) -> int:
    """Return one of the kernel's figures of this process's memory, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        options.run(main)
