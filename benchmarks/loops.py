"""Where the time goes: the compiled loops that encoding and decoding call, and what is left for Python."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import options
from benchmarks.layouts import LAYOUTS, draw_layout
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update, aggregate, compensate_encode_keep, decode_add, specs
from benchmarks.settings import choose
from benchmarks.timing import take_turns
from flwr_co3 import CO3Config, Codec, ErrorMemory, kernels


class _Timed:
    """The compiled loops, each of which notes how long it took."""

    def __init__(self, loops: Any) -> None:
        self._loops = loops
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        loop = getattr(self._loops, name)
        return self._timed(name, loop) if callable(loop) else loop

    def _timed(self, name: str, loop: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return loop(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - start
                self.calls[name] += 1

        return timed


@contextmanager
def watched() -> Iterator[_Timed]:
    """Time the compiled loops for a while.

    Raises
    ------
    RuntimeError
        If they are not there.
    """
    with kernels.using("c"):
        timed = _Timed(kernels.compiled())
        kernels._compiled = timed  # type: ignore[assignment]  # it has what the module has
        yield timed


def main(
    entries: Annotated[int, typer.Option(min=8, help="Entries of the update.")] = 10_000_000,
    layout: Annotated[str, typer.Option(help=f"Its tensors: {', '.join(LAYOUTS)}.")] = "one tensor",
    settings: options.Settings = "fp4,0.1 bit,fp8",
    runs: options.Runs = 7,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Time each loop as a share of a copy of the update."""
    update = draw_layout(layout, entries)
    tables = []
    for setting, config in choose(settings).items():
        tables += [Table(f"{setting}, {call}", rows) for call, rows in loops_of(update, config, runs).items()]
    show(tables, form)


def loops_of(update: Update, config: CO3Config, runs: int) -> dict[str, list[Row]]:
    """Time encoding with a memory, and decoding into an aggregate."""
    flat = np.concatenate([tensor.reshape(-1) for tensor in update.values()])
    warm = np.zeros_like(flat)
    copy = take_turns({"copy": lambda: np.copyto(warm, flat)}, runs).median("copy")
    codec, memory, like = Codec(config), ErrorMemory(), specs(update)
    total = aggregate(codec, update)
    frame = compensate_encode_keep(codec, update, memory).frame
    decode_add(frame, total, 0.5, like)
    return {
        "encode": _rows(lambda: compensate_encode_keep(codec, update, memory), runs, copy),
        "decode": _rows(lambda: decode_add(frame, total, 0.5, like), runs, copy),
    }


def _rows(call: Callable[[], object], runs: int, copy: float) -> list[Row]:
    whole: list[float] = []
    seconds: dict[str, list[float]] = {}
    calls: dict[str, list[int]] = {}
    for _ in range(runs):
        with watched() as timed:
            start = time.perf_counter()
            call()
            whole.append(time.perf_counter() - start)
        for name, taken in timed.seconds.items():
            seconds.setdefault(name, []).append(taken)
            calls.setdefault(name, []).append(timed.calls[name])
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    total = statistics.median(whole)
    rows = [
        _row(name, statistics.median_high(calls[name]), taken, total, copy)
        for name, taken in sorted(medians.items(), key=lambda pair: -pair[1])
        if taken > 0.005 * total
    ]
    rest = total - sum(medians.values())
    return [*rows, _row("Python, numpy and short loops", "", rest, total, copy), _row("all", "", total, total, copy)]


def _row(name: str, calls: int | str, seconds: float, total: float, copy: float) -> Row:
    return {
        "loop": name,
        "calls": calls,
        "ms": 1e3 * seconds,
        "share %": 100 * seconds / total,
        "copies": seconds / copy,
    }


if __name__ == "__main__":
    options.run(main)
