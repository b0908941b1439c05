"""How much of a hard budget is used: by model size and rate, with the default settings.

Every frame is within its budget, or the command fails. Frames are those of a client whose server knows the model's
tensors. What is missing is the share of the budget that the frame leaves unused.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import typer

from benchmarks import options
from benchmarks.layouts import draw
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update
from benchmarks.sources import load
from benchmarks.trainings import updates_of_training
from flwr_co3 import CO3Config, Codec, RateLimit
from flwr_co3.frame import Draft

RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
ALLOWED = 3.0  # % of a budget, of 50,000 parameters and more
TENSORS = 8  # of a drawn model; their shapes go from .5 to 1.2, their widths over three octaves


class Filled(NamedTuple):
    """How a budget was used."""

    unused: float  # % of it
    conversions: int
    codings: int


def main(
    sizes: Annotated[str, typer.Option(help="Parameters of drawn models.")] = "10000,50000,200000,1000000",
    rates: Annotated[str, typer.Option(help="Bits per parameter.")] = ",".join(map(str, RATES)),
    repeats: Annotated[int, typer.Option(min=1, help="Models of each size, and of each kind.")] = 40,
    updates: Annotated[str, typer.Option(help="Real updates: .npz files, or real for all.")] = "",
    trainings: Annotated[
        str, typer.Option(help="Rates of trainings; what their clients send, with their memories, is used too.")
    ] = "",
    task: Annotated[str, typer.Option(help="What is trained: a preset of the simulations.")] = "cifar10-small",
    dataset: Annotated[str, typer.Option(help="Its data set: a local folder, or another name.")] = "",
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Measure how tight frames are, and in how many conversions and codings."""
    models: dict[str, list[Update]] = {
        f"{int(size):,} drawn{how}": [make(int(size), seed) for seed in range(repeats)]
        for size in sizes.split(",")
        for how, make in (("", drawn), (", one tensor", lone))
        if size
    }
    for bits in filter(None, trainings.split(",")):
        models[f"trained at {bits} bit"] = updates_of_training(task, dataset, float(bits))
    if updates:
        models |= {name: [update] for name, update in load(updates, None).items()}
    cells = {
        (name, rate): [fill(update, float(rate)) for update in found]
        for name, found in models.items()
        for rate in rates.split(",")
    }

    def rows(value: Callable[[list[Filled]], float]) -> list[Row]:
        return [
            {"model": f"{name} ({len(found)})"} | {f"{rate} bit": value(cells[name, rate]) for rate in rates.split(",")}
            for name, found in models.items()
        ]

    tables = [
        Table("Unused, in % of the budget; the worst of each cell", rows(lambda cell: max(one.unused for one in cell))),
        Table("Frames that leave more than 3 %", rows(lambda cell: sum(one.unused > ALLOWED for one in cell))),
        Table("Conversions, at most", rows(lambda cell: max(one.conversions for one in cell))),
        Table("Codings, at most", rows(lambda cell: max(one.codings for one in cell))),
    ]
    show(tables, form)


def drawn(size: int, seed: int) -> Update:
    """A model whose tensors differ in shape and width."""
    tensors: Update = {}
    for k in range(TENSORS):
        (tensor,) = draw([(size // TENSORS,)], shape=0.5 + 0.1 * k, seed=TENSORS * seed + k).values()
        tensors[f"layer{k}.weight"] = tensor * 2.0 ** (-(k * 5 % TENSORS) / 2)
    return tensors


def lone(size: int, seed: int) -> Update:
    """A model of one tensor."""
    return draw([(size,)], shape=0.5 + 0.1 * (seed % TENSORS), seed=seed)


def fill(update: Update, bits: float) -> Filled:
    """Encode within a rate.

    Raises
    ------
    RuntimeError
        If the budget is exceeded.
    """
    rate = RateLimit(bits_per_parameter=bits)
    budget = rate.bytes_for(sum(tensor.size for tensor in update.values()))
    with counted() as calls:
        frame = Codec(CO3Config(rate=rate)).compress(update, known=True).frame
    if len(frame) > budget:
        raise RuntimeError(f"A frame has {len(frame)} bytes, and its budget is {budget}.")
    return Filled(100 * (1 - len(frame) / budget), calls["conversions"], calls["codings"])


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count conversions, and frames with levels that are coded."""
    calls: Counter[str] = Counter()
    convert, code = Codec._at, Draft.parts

    def converting(self: Codec, *arguments: Any, **options: Any) -> Any:
        calls["conversions"] += 1
        return convert(self, *arguments, **options)

    def coding(self: Draft) -> list[bytes]:
        calls["codings"] += not all(plan.is_zero for plan in self.plans)
        return code(self)

    with patch.object(Codec, "_at", converting), patch.object(Draft, "parts", coding):
        yield calls


if __name__ == "__main__":
    options.run(main)
