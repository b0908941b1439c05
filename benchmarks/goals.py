"""What the project wants to reach, and what this machine measures: one line for each goal.

One thread unless a goal says otherwise. The sizes of real updates need what ``benchmarks.updates`` makes, and the
comparison with nncodec needs a Python that has it (``benchmarks.peers`` says how); without them a goal is not measured.
"""

import os
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer

from benchmarks import codec, flower, memory, options, peers, size, startup, tensors
from benchmarks.layouts import draw, draw_layout
from benchmarks.machine import THREADS
from benchmarks.output import Cell, Form, Row, Table, show
from benchmarks.settings import SETTINGS
from benchmarks.sources import FOLDER, read

TENSOR_ENTRIES: int | None = None  # of DenseNet-121's tensors: as they are


class Goal(NamedTuple):
    """One goal; None where it could not be measured."""

    what: str
    aim: float
    measured: float | None
    at_most: bool = False  # whether less is better

    @property
    def met(self) -> str:
        """The verdict."""
        if self.measured is None:
            return "not measured"
        return "yes" if (self.measured <= self.aim if self.at_most else self.measured >= self.aim) else "no"


def main(
    entries: Annotated[int, typer.Option(min=1000, help="Entries of the drawn updates.")] = 10_000_000,
    parameters: Annotated[int, typer.Option(min=1000, help="Of the model in the round of Flower.")] = 11_000_000,
    replies: Annotated[int, typer.Option(min=2, help="Clients in the round of Flower.")] = 100,
    python: Annotated[str, typer.Option(help="PATH of a Python that has nncodec.")] = "",
    runs: options.Runs = 5,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Measure all goals; on one thread, if FLWR_CO3_THREADS is 1."""
    if os.environ.get(THREADS) != "1":
        raise ValueError(f"The goals are for one thread: set {THREADS}=1.")
    goals = [
        *_speed(entries, runs),
        *_peer(entries, python, runs),
        *_size(min(entries, 1_000_000)),
        *_threads(entries, runs),
        *_tensors(runs),
        *_memory(entries),
        Goal("import flwr_co3 after flwr, ms", 50, _number(startup.imports(runs)[1]["ms"]), at_most=True),
        *_flower(parameters, replies, runs),
    ]
    show([Table(f"Goals, {entries:,} entries", [_row(goal) for goal in goals])], form)


def _row(goal: Goal) -> Row:
    sign = "at most" if goal.at_most else "at least"
    return {"goal": goal.what, "aim": f"{sign} {goal.aim:g}", "measured": goal.measured, "met": goal.met}


def _speed(entries: int, runs: int) -> Iterator[Goal]:
    """Speeds as shares of memcpy's."""
    for setting, encode, decode in (("fp4", 0.2, 0.35), ("0.1 bit", 0.12, 0.5), ("fp8", 0.11, 0.19)):
        timed = codec.times(draw([(entries,)]), SETTINGS[setting], runs)
        yield Goal(f"encode {setting}, with memory, of memcpy", encode, timed.ratio("copy", "encode"))
        yield Goal(f"decode {setting} and add, of memcpy", decode, timed.ratio("copy", "decode"))


def _peer(entries: int, python: str, runs: int) -> Iterator[Goal]:
    measured = None
    if python:
        (x,) = draw([(entries,)]).values()
        ours = peers.our_figures(x, SETTINGS["fp4"], runs)
        theirs, _ = peers.their_figures(x, [ours["nmse"]], ["nncodec"], {"nncodec": python}, min(runs, 2))
        measured = theirs["nncodec, scalar"][0]["encode"] / ours["encode"]
    yield Goal("encode fp4, times as fast as nncodec's scalar", 60, measured)


def _size(entries: int) -> Iterator[Goal]:
    """Sizes in every setting of rANS; the worst counts."""
    settings = {name: config for name, config in SETTINGS.items() if config.coder == "rans"}
    rows = [
        size.row(f"shape {shape:g}", name, draw([(entries,)], shape=shape), config)
        for shape in size.SHAPES
        for name, config in settings.items()
    ]
    what = f"size over entropy and side information, {entries:,} draws"
    yield Goal(f"{what}, fp4", 1.001, _worst(rows, "fp4"), at_most=True)
    yield Goal(f"{what}, worst setting", 1.001, _worst(rows), at_most=True)
    for model, aim in (("resnet18", 1.005), ("densenet121", 1.02)):
        path = FOLDER / f"{model}.npz"
        real = [size.row(model, name, read(path), config) for name, config in settings.items()] if path.exists() else []
        yield Goal(f"size over the entropy, {model}, fp4", aim, _worst(real, "fp4", "over the entropy"), at_most=True)
        rows += real
    ratios = [_number(row["zstd over ours"]) for row in rows]
    yield Goal("zstd -1 over our size, worst cell", 1, min(ratios))


def _worst(rows: list[Row], setting: str | None = None, heading: str = "over entropy + side") -> float | None:
    found = [_number(row[heading]) for row in rows if setting in (None, row["setting"])]
    return max(found) if found else None


def _threads(entries: int, runs: int) -> Iterator[Goal]:
    arguments = ["--updates", "one tensor", "--settings", "fp4", "--runs", str(runs), "--entries", str(entries)]
    (row,) = codec.by_threads(arguments, ["1", "2"])[-1].rows
    for call in ("encode", "decode"):
        yield Goal(f"two threads, {call} fp4, times one", 1.6, _number(row[f"{call}, times 1 thread"]))


def _tensors(runs: int) -> Iterator[Goal]:
    row = tensors.row("DenseNet-121", "fp4", draw_layout("DenseNet-121", TENSOR_ENTRIES), SETTINGS["fp4"], runs)
    for call in ("encode", "decode"):
        yield Goal(f"364 tensors, {call} fp4, times one tensor", 1.2, _number(row[f"{call}, times one"]), at_most=True)


def _memory(entries: int) -> Iterator[Goal]:
    for call in memory.CALLS[:2]:
        row = memory.row(call, "fp4", entries)
        yield Goal(f"extra memory of {call}, of the update", 0.5, _number(row["of the update"]), at_most=True)


def _flower(parameters: int, replies: int, runs: int) -> Iterator[Goal]:
    training = 15.0
    rows = flower.measure(parameters, replies, {"fp4": SETTINGS["fp4"]}, training, min(runs, 3))
    for heading in ("our share %", f"with {training:g} s of training %"):
        yield Goal(
            f"a round of Flower, {parameters:,} parameters: {heading}", 5, _number(rows[1][heading]), at_most=True
        )
    faster = _number(rows[1]["aggregates faster than FedAvg"])
    yield Goal(f"{replies} replies aggregate, times as fast as float32", 1, faster)


def _number(cell: Cell) -> float:
    assert isinstance(cell, (int, float))
    return float(cell)


if __name__ == "__main__":
    options.run(main)
