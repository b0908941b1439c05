"""The server's memory in one round with many compressed replies, in a process of its own for each line.

What is measured is resident memory: the peak of the whole round (the kernel's VmHWM) less what was resident when there
was neither a model nor a message. So it holds all that the round needs: the global model, the train messages, all
replies as they came, what is decoded of them, and the new model. All replies have the same frame, in memory of their
own each. Linux only.
"""

import json
import sys
from collections.abc import Callable
from typing import Annotated
from unittest.mock import create_autospec

import numpy as np
import typer
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, FedMedian, Krum, Strategy

from benchmarks import fresh, options
from benchmarks.flower import as_in_a_run
from benchmarks.layouts import draw_layout
from benchmarks.memory import GIVE_BACK, RESET, status
from benchmarks.output import Form, Row, Table, show
from benchmarks.settings import choose
from flwr_co3 import CO3Strategy, Codec

STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    "FedAvg": lambda replies: FedAvg(),
    "FedMedian": lambda replies: FedMedian(),
    "Krum": lambda replies: Krum(),
    "FedAvg, private": lambda replies: DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, replies),
}


def main(
    parameters: Annotated[int, typer.Option(min=1000, help="Size of the model.")] = 11_000_000,
    replies: Annotated[str, typer.Option(help="Numbers of clients, separated by commas.")] = "20,200",
    settings: options.Settings = "0.1 bit,fp4",
    strategies: Annotated[
        str, typer.Option(help=f"Which, separated by semicolons: {'; '.join(STRATEGIES)}.")
    ] = "FedAvg",
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Measure peaks of memory."""
    rows = [
        row(strategy.strip(), setting, parameters, clients)
        for strategy in strategies.split(";")
        for setting in choose(settings)
        for clients in map(int, replies.split(","))
    ]
    show([Table(f"The server's memory in a round, {parameters:,} parameters", rows)], form)


def row(strategy: str, setting: str, parameters: int, replies: int) -> Row:
    """Measure one round in a fresh process."""
    if strategy not in STRATEGIES:
        raise ValueError(f"There is no strategy {strategy!r}. Choose from: {'; '.join(STRATEGIES)}.")
    if not RESET.exists():
        raise RuntimeError("Peaks of memory can be measured on Linux only, where there is /proc/self/clear_refs.")
    arguments = ["--measure", strategy, setting, str(parameters), str(replies)]
    found = fresh.run(["-m", "benchmarks.server_memory", *arguments], GIVE_BACK)
    return {
        "strategy": strategy,
        "setting": setting,
        "replies": replies,
        "all replies, of the model": found["replies"] / found["model"],
        "peak MB": found["peak"] / 1e6,
        "peak, of the model": found["peak"] / found["model"],
    }


def measure(strategy: str, setting: str, parameters: int, replies: int) -> dict[str, int]:
    """Run one round in this process; return bytes."""
    (config,) = choose(setting).values()
    update = draw_layout("ResNet-18", parameters)
    frame = Codec(config).encode(update)
    shapes = {name: tensor.shape for name, tensor in update.items()}
    model = sum(tensor.nbytes for tensor in update.values())
    del update
    grid = create_autospec(Grid, instance=True)
    grid.get_node_ids.return_value = list(range(1, replies + 1))
    wrapped = CO3Strategy(STRATEGIES[strategy](replies), config)
    RESET.write_text("5")
    before = status("VmRSS")
    arrays = ArrayRecord({name: Array(np.zeros(shape, np.float32)) for name, shape in shapes.items()})
    with as_in_a_run():
        messages = list(wrapped.configure_train(1, arrays, ConfigRecord({"lr": 0.1}), grid))
        answers = [_answer(message, bytes(bytearray(frame))) for message in messages]
        aggregated, _ = wrapped.aggregate_train(1, answers)
    peak = status("VmHWM")
    if aggregated is None:
        raise RuntimeError(f"{strategy} aggregated nothing.")
    return {"model": model, "replies": replies * len(frame), "peak": peak - before}


def _answer(message: Message, frame: bytes) -> Message:
    """Answer as a client with CO3Mod does."""
    content = RecordDict({
        "arrays": ArrayRecord({"co3": Array("uint8", (len(frame),), "flwr_co3", frame)}),
        "metrics": MetricRecord({"num-examples": 10, "co3": [0.1, 0.01, 1.0]}),
    })  # fmt: skip
    return Message(content, reply_to=message)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))))
    else:
        options.run(main)
