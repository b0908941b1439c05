"""Updates by directions and entry by entry, in the same bytes: what they lose, and how long they take."""

from collections.abc import Mapping
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import typer

from benchmarks import options
from benchmarks.layouts import LAYOUTS, Shape, draw
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update, specs
from benchmarks.timing import take_turns
from benchmarks.trainings import CLIENTS, train
from flwr_co3 import CO3Config, Codec, RateLimit
from flwr_co3.subspace import Layout, Sent, Subspace, SubspaceReader, directions_of

KNOWN = 16


def main(
    bits: Annotated[str, typer.Option(help="Budgets, in bits per parameter.")] = "0.02,0.05,0.1,0.2,0.5,1,2",
    training: Annotated[float, typer.Option(help="Budget of the training that is recorded.")] = 0.02,
    task: Annotated[str, typer.Option(help="What is trained: a preset of the simulations.")] = "cifar10-small",
    dataset: Annotated[str, typer.Option(help="Its data set: a local folder, or another name.")] = "",
    layouts: Annotated[str, typer.Option(help="Models to time, separated by commas.")] = "ResNet-18",
    scale: Annotated[float, typer.Option(min=1e-6, max=1, help="Share of the models' sizes.")] = 1.0,
    runs: options.Runs = 5,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Compare them on the updates of a training, and time them on models."""
    rates = [float(each) for each in bits.split(",")]
    recorded = record(training, task, dataset)
    tables = [
        Table(f"Of the squared norm, lost: {len(recorded)} error-fed updates", [lost(recorded, r) for r in rates])
    ]
    names = [name for name in layouts.split(",") if name]
    if names:
        rows = [timed(name, rate, scale, runs) for name in names for rate in (0.02, 0.1)]
        tables.append(Table("Seconds, one update", rows))
    show(tables, form)


def record(bits: float, task: str, dataset: str) -> list[tuple[Subspace, Update]]:
    """Train by directions, and return what one client after the other sent in the later half, and what it was told."""
    seen: list[tuple[Subspace, Update]] = []
    encode = Subspace.encode

    def recording(self: Subspace, v: Mapping[str, npt.NDArray[Any]], *rest: Any, **options: Any) -> Sent:
        seen.append((self, {name: np.array(tensor) for name, tensor in v.items()}))
        return encode(self, v, *rest, **options)

    with patch.object(Subspace, "encode", recording):
        train(task, dataset, f"co3:bits_per_parameter={bits},step_ahead=0.3,subspace={KNOWN}", learning_rate=0.05)
    return seen[len(seen) // 2 :: CLIENTS + 1]


def lost(recorded: list[tuple[Subspace, Update]], bits: float) -> Row:
    """Mean losses at one budget."""
    found: dict[str, list[float]] = {"entry by entry": [], "new directions alone": [], "with known ones": []}
    new = 0
    for subspace, v in recorded:
        budget = budget_of(v, bits)
        layout = subspace.layout.within(budget)
        new = layout.new
        nothing = {name: np.zeros(spec.shape) for name, spec in layout.directions.items()}
        exact = CO3Config(exact=tuple(layout.exact))
        found["entry by entry"].append(Codec(exact).compress(v, max_bytes=budget, known=True).nmse)
        for name, directions in (("new directions alone", nothing), ("with known ones", subspace.directions)):
            sent = Subspace(layout, directions).encode(v, CO3Config(), budget, known=True)
            found[name].append(sent.nmse)
    return {"bits": bits, "new directions": new, **{name: float(np.mean(each)) for name, each in found.items()}}


def timed(name: str, bits: float, scale: float, runs: int) -> Row:
    """Time one model's update at one budget."""
    shapes = LAYOUTS[name]()
    update = draw(shapes if scale == 1 else [smaller(shape, scale) for shape in shapes])
    budget = budget_of(update, bits)
    layout = Layout(specs(update), (), KNOWN, new=1).within(budget)
    matrices = {each: update[each].astype(np.float64).reshape(shape) for each, shape in layout.matrices.items()}
    told = directions_of(layout, matrices)
    subspace, codec, config = Subspace.read(layout.head + told, layout.tensors, ()), Codec(), CO3Config()
    frame = subspace.encode(update, config, budget, known=True).frame
    times = take_turns(
        {
            "entries": lambda: codec.compress(update, max_bytes=budget, known=True),
            "encode": lambda: subspace.encode(update, config, budget, known=True),
            "decode": lambda: SubspaceReader(frame, subspace).read_all(),
            "server": lambda: directions_of(layout, matrices),
        },
        runs,
    )
    size = sum(tensor.nbytes for tensor in update.values())
    return {
        **{"model": name, "bits": bits, "new directions": layout.new},
        "encode, entry by entry": times.median("entries"),
        **{"by directions": times.median("encode"), "times as long": times.ratio("encode", "entries")},
        **{"decode": times.median("decode"), "find directions": times.median("server")},
        "their bytes, of the model's": len(told) / size,
    }


def smaller(shape: Shape, scale: float) -> Shape:
    """A shape of the same rank with shorter sides."""
    return tuple(max(round(side * scale**0.5), 1) for side in shape)


def budget_of(update: Update, bits: float) -> int:
    """Bytes of so many bits for each entry."""
    return RateLimit(bits_per_parameter=bits).bytes_for(sum(tensor.size for tensor in update.values()))


if __name__ == "__main__":
    options.run(main)
