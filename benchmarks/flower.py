"""One whole round of Flower in one process, with Flower's own messages and strategies: what of its time is ours.

The round's critical path, with clients that work side by side: the server makes the train messages; one of them
travels to a client, which trains and answers; the answer travels back; the server aggregates all answers. "Travels"
is what Flower does to a message at the two ends of a connection: cut it into objects, hash them, put them together
again. There is no network in it, and no other process. "Ours" is what CO3Mod adds to the client's app, what
CO3Strategy adds to FedAvg's configuring, and all of the aggregation, where decoding and averaging are one. Training
is a plain addition; what a real one takes is an option, and has a column of its own.

The answers are different ones up to a gigabyte in all, and then the same again, so that no cache holds them.
"""

import itertools
import logging
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple
from unittest.mock import create_autospec

import numpy as np
import typer
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from benchmarks import options
from benchmarks.layouts import draw_layout
from benchmarks.output import Form, Row, Table, show
from benchmarks.pipeline import Update
from benchmarks.settings import choose
from flwr_co3 import CO3Config, CO3Mod, CO3Strategy
from simulations.inline import outside_a_run

PLAIN = "FedAvg, float32"

_DISTINCT_BYTES = 1 << 30


def main(
    parameters: Annotated[
        str, typer.Option(help="Sizes of the model, separated by commas; 100000000 needs 8 GiB.")
    ] = "100000,11000000",
    replies: Annotated[str, typer.Option(help="Numbers of clients, separated by commas.")] = "10,100",
    settings: options.Settings = "fp4,0.1 bit",
    training: Annotated[
        float, typer.Option(min=0, help="Seconds of a client's real training: 5000 images, ResNet-18.")
    ] = 15.0,
    runs: options.Runs = 3,
    form: options.Shown = Form.TERMINAL,
) -> None:
    """Time a round, with and without CO3."""
    rows = [
        row
        for size in map(int, parameters.split(","))
        for clients in map(int, replies.split(","))
        for row in measure(size, clients, choose(settings), training, runs)
    ]
    show([Table("One round of Flower", rows)], form)


class Round(NamedTuple):
    """Seconds of a round's parts, and how many of them are ours."""

    configure: float
    down: float
    client: float
    up: float
    aggregate: float
    ours_client: float
    ours_server: float

    @property
    def seconds(self) -> float:
        """The whole path."""
        return self.configure + self.down + self.client + self.up + self.aggregate

    @property
    def ours(self) -> float:
        """Our part of it."""
        return self.ours_client + self.ours_server


def measure(parameters: int, replies: int, settings: dict[str, CO3Config], training: float, runs: int) -> list[Row]:
    """Measure rounds of one size; the schemes take turns."""
    update = draw_layout("ResNet-18", parameters)
    schemes: dict[str, CO3Config | None] = {PLAIN: None, **settings}
    with as_in_a_run():
        benches = {name: _Bench(update, replies, config) for name, config in schemes.items()}
        rounds: dict[str, list[Round]] = {name: [] for name in benches}
        for run in range(runs + 1):
            for name, bench in benches.items():
                done = bench.round()
                rounds[name] += [done] if run else []  # the first is not counted
    return [_row(update, replies, name, rounds, training, benches[name].reply_bytes) for name in schemes]


def _row(
    update: Update, replies: int, name: str, rounds: dict[str, list[Round]], training: float, reply_bytes: int
) -> Row:
    done = rounds[name]
    middle = Round(*map(statistics.median, zip(*done, strict=True)))
    plain = name == PLAIN
    faster = [a.aggregate / b.aggregate for a, b in zip(rounds[PLAIN], done, strict=True)]
    return {
        "parameters": sum(tensor.size for tensor in update.values()),
        "replies": replies,
        "scheme": name,
        "a reply kB": reply_bytes / 1e3,
        "configure ms": 1e3 * middle.configure,
        "down ms": 1e3 * middle.down,
        "client ms": 1e3 * middle.client,
        "up ms": 1e3 * middle.up,
        "aggregate ms": 1e3 * middle.aggregate,
        "ours on a client ms": None if plain else 1e3 * middle.ours_client,
        "ours on the server ms": None if plain else 1e3 * middle.ours_server,
        "our share %": None if plain else 100 * statistics.median(r.ours / r.seconds for r in done),
        f"with {training:g} s of training %": None
        if plain
        else 100 * statistics.median(r.ours / (r.seconds + training) for r in done),
        "aggregates faster than FedAvg": None if plain else statistics.median(faster),
    }


class Stopwatch:
    """Adds up the time that something takes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        """Start."""
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self._start


class TimedFedAvg(FedAvg):
    """FedAvg that knows how long it took to configure a round."""

    def __init__(self) -> None:
        super().__init__()
        self.own = Stopwatch()

    def configure_train(self, *args: Any) -> Iterable[Message]:
        """Configure as FedAvg does."""
        with self.own:
            return list(super().configure_train(*args))


class _Bench:
    """A server and its clients, before the second round: the clients have their memories."""

    def __init__(self, update: Update, replies: int, config: CO3Config | None) -> None:
        self._model = {name: np.zeros_like(tensor) for name, tensor in update.items()}
        self._fedavg = TimedFedAvg()
        self._strategy: Strategy = self._fedavg if config is None else CO3Strategy(self._fedavg, config)
        self._mod = None if config is None else CO3Mod()
        self._grid = create_autospec(Grid, instance=True)
        self._grid.get_node_ids.return_value = list(range(1, replies + 1))
        self._record = ArrayRecord({name: Array(tensor) for name, tensor in self._model.items()})
        self._update = update
        distinct = min(replies, max(1, _DISTINCT_BYTES // sum(tensor.nbytes for tensor in update.values())))
        self._contents = []
        for shift, message in zip(range(distinct), self._configured(), strict=False):
            self._context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
            self._contents.append(self._answer(message, shift).content)

    @property
    def reply_bytes(self) -> int:
        """Bytes of one client's arrays, as Flower counts them."""
        return sum(record.count_bytes() for record in self._contents[0].array_records.values())

    def round(self) -> Round:
        """Run one round."""
        self._record = ArrayRecord({n: Array(a.dtype, a.shape, a.stype, a.data) for n, a in self._record.items()})
        own = self._fedavg.own
        own.seconds = 0.0
        marks = [time.perf_counter()]
        messages = self._configured()
        marks.append(time.perf_counter())
        ours_configuring = marks[1] - marks[0] - own.seconds
        received = _travel(messages[0])
        marks.append(time.perf_counter())
        trained = Stopwatch()
        answer = self._answer(received, 0, trained)
        marks.append(time.perf_counter())
        _travel(answer)
        marks.append(time.perf_counter())
        parts = [after - before for before, after in itertools.pairwise(marks)]

        others = [self._contents[index % len(self._contents)].copy() for index in range(1, len(messages))]
        contents = [answer.content.copy(), *others]
        replies = [
            Message(_fresh(content), reply_to=message) for content, message in zip(contents, messages, strict=True)
        ]
        start = time.perf_counter()
        self._strategy.aggregate_train(1, replies)
        aggregate = time.perf_counter() - start
        ours = aggregate + ours_configuring  # decoding and averaging are one
        configure, down, client, up = parts
        return Round(configure, down, client, up, aggregate, client - trained.seconds, ours)

    def _configured(self) -> list[Message]:
        return list(self._strategy.configure_train(1, self._record, ConfigRecord({"lr": 0.1}), self._grid))

    def _answer(self, message: Message, shift: int, trained: Stopwatch | None = None) -> Message:
        """Train and answer as one client; each `shift` learns something else."""
        watch = trained or Stopwatch()

        def app(received: Message, context: Context) -> Message:
            with watch:
                (arrays,) = received.content.array_records.values()
                new = {
                    name: Array(array.numpy() + np.roll(self._update[name], shift)) for name, array in arrays.items()
                }
                metrics = MetricRecord({"num-examples": 10, "loss": 1.0})
                content = RecordDict({"arrays": ArrayRecord(new), "metrics": metrics})
                return Message(content, reply_to=received)

        answer = app(message, self._context) if self._mod is None else self._mod(message, self._context, app)
        if answer.has_error():
            raise RuntimeError(f"The client answered with an error: {answer.error.reason}")
        return answer


def _fresh(content: RecordDict) -> RecordDict:
    """The same content in records of its own, which the server may change."""
    fresh = content.copy()
    for key, record in content.array_records.items():
        fresh[key] = ArrayRecord(dict(record))
    return fresh


def _travel(message: Message) -> Message:
    """What Flower does to a message at the two ends of a connection."""
    with no_object_id_recompute():
        contents = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        received = inflate_object_from_contents(message.object_id, contents)
    assert isinstance(received, Message)
    return received


@contextmanager
def as_in_a_run() -> Iterator[None]:
    """Let strategies make messages outside a run, where Flower says who is running, and keep its log quiet."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with outside_a_run():
            yield
    finally:
        logger.setLevel(before)


if __name__ == "__main__":
    options.run(main)
