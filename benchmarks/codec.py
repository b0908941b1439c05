"""Time of encoding and decoding, beside a plain copy of the update and zstd -1 on its packed codes.

"encode" is a client's whole work: add the memory, fit, convert, code, keep what was lost; "decode" is the server's:
check, decode, add with a weight. "alone" leaves the memory and the addition out, "fit" is the fit of the generalised
normal by itself. Speeds are shares of memcpy's (np.copyto into a warm buffer) or of zstd's, both on one thread, in the
same process.
"""

from functools import partial
from typing import Annotated

import numpy as np
import typer

from benchmarks import baselines, fresh, options, pipeline
from benchmarks.levels import packed_codes
from benchmarks.machine import THREADS
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update
from benchmarks.settings import choose
from benchmarks.sources import load
from benchmarks.timing import Times, take_turns
from flwr_co3 import CO3Config, Codec, ErrorMemory, GenNorm

TITLE = "Encoding and decoding"


def main(
    updates: options.Updates = "one tensor,ResNet-18,DenseNet-121",
    entries: options.Entries = 1_000_000,
    settings: options.Settings = "all",
    runs: options.Runs = 5,
    threads: Annotated[
        str, typer.Option(help="Numbers of threads, such as 1,2: a process each.", show_default="as they are set")
    ] = "",
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Time encoding and decoding."""
    if threads:
        arguments = ["--updates", updates, "--settings", settings, "--runs", str(runs)]
        arguments += [] if entries is None else ["--entries", str(entries)]
        show(by_threads(arguments, threads.split(",")), form)
        return
    chosen = choose(settings)
    rows = [
        row(update_name, name, update, times(update, config, runs), config)
        for update_name, update in load(updates, entries).items()
        for name, config in chosen.items()
    ]
    show([Table(TITLE, rows)], form)


def times(update: Update, config: CO3Config, runs: int) -> Times:
    """Time all of it, taking turns."""
    codec, like = Codec(config), pipeline.specs(update)
    memory = ErrorMemory(config.memory_decay, config.memory_dtype)
    encoded = pipeline.compensate_encode_keep(codec, update, memory)
    total = pipeline.aggregate(codec, update)
    codes = packed_codes({name: encoded.sent[name] for name in total})
    squeezed = baselines.zstd(codes)
    alive = [tensor for tensor in update.values() if np.any(tensor)]

    return take_turns(
        {
            "copy": baselines.copy(update),
            "encode": partial(pipeline.compensate_encode_keep, codec, update, memory),  # round after round
            "encode alone": partial(codec.encode, update),
            "fit": lambda: [GenNorm.fit(tensor) for tensor in alive],
            "decode": partial(pipeline.decode_add, encoded.frame, total, 0.1, like),
            "decode alone": partial(pipeline.decode, encoded.frame, like),
            "zstd": partial(baselines.zstd, codes),
            "unzstd": partial(baselines.unzstd, squeezed),
        },
        runs,
    )


def row(update_name: str, setting: str, update: Update, timed: Times, config: CO3Config) -> Row:
    """One line of the table."""
    entries = sum(tensor.size for tensor in update.values())
    return {
        "update": update_name,
        "entries": entries,
        "setting": setting,
        "bits": 8 * Codec(config).compress(update).report.frame_bytes / entries,
        "encode ms": 1e3 * timed.median("encode"),
        "encode, of memcpy": timed.ratio("copy", "encode"),
        "encode, of zstd": timed.ratio("zstd", "encode"),
        "encode alone, of memcpy": timed.ratio("copy", "encode alone"),
        "fit, of memcpy": timed.ratio("copy", "fit"),
        "decode ms": 1e3 * timed.median("decode"),
        "decode, of memcpy": timed.ratio("copy", "decode"),
        "decode, of zstd": timed.ratio("unzstd", "decode"),
        "decode alone, of memcpy": timed.ratio("copy", "decode alone"),
    }


def by_threads(arguments: list[str], counts: list[str]) -> list[Table]:
    """Measure with each number of threads, and compare with the first."""
    by_count = {
        count: _tables_of_process(["-m", "benchmarks.codec", *arguments, "--form", "json"], count) for count in counts
    }
    first = by_count[counts[0]]
    gains: list[Row] = [
        {
            "update": one["update"],
            "setting": one["setting"],
            "threads": int(count),
            f"encode, times {counts[0]} thread": _gain(one, many, "encode ms"),
            f"decode, times {counts[0]} thread": _gain(one, many, "decode ms"),
        }
        for count in counts[1:]
        for one, many in zip(first[0].rows, by_count[count][0].rows, strict=True)
    ]
    tables = [Table(f"{TITLE}, threads: {count}", table.rows) for count, (table,) in by_count.items()]
    return [*tables, Table("More threads", gains)] if gains else tables


def _tables_of_process(arguments: list[str], threads: str) -> list[Table]:
    """Run a command of this folder with a number of threads, and read its tables."""
    return [Table(**fields) for fields in fresh.run(arguments, {THREADS: threads})]


def _gain(one: Row, many: Row, heading: str) -> float:
    before, after = one[heading], many[heading]
    assert isinstance(before, float) and isinstance(after, float)
    return before / after


if __name__ == "__main__":
    options.run(main)
