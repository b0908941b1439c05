"""A federation in which everything goes wrong: real clients and a real strategy, and a schedule of faults between them.

What really happened is counted beside it, without the protocol's help: what clients produced, what the wrapped strategy
was handed, and what decayed.
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from flwr_co3._acknowledgements import decoded, update_id
from flwr_co3._keeping import Keeper, keeper_of
from flwr_co3._protocol import Order
from flwr_co3.client import CO3Mod
from flwr_co3.config import CO3Config
from flwr_co3.correct import Kept, LastUpdate, MemoryStore
from flwr_co3.schemes.ef21 import _Estimates
from flwr_co3.server import CO3Strategy
from tests.flower.helpers import Tensors, arrays, context, frame_of, message, model_of, record, reply_with, specs

MODEL: Tensors = {"w": np.linspace(-1, 1, 72, dtype="f4").reshape(8, 9), "b": np.zeros(8, "f4"), "n": np.array(3)}
LOSSY = ("w", "b")

# What happens to a train message on its way, in the client, and to the reply
DOWN = ("arrives", "is lost", "arrives twice", "arrives late", "arrives after the next")
CLIENT = ("trains", "fails", "diverges", "is killed before its reply leaves", "restarts", "finds its memory damaged")
UP = (
    *("arrives", "is lost", "arrives twice", "arrives late"),
    *("is damaged", "is damaged, then arrives", "has no weight", "has other metrics"),
)
# What the server does at the end of a round
SERVER = (
    "goes on",
    "gets no model from its strategy",
    "dies before it aggregates",
    "dies before it saves",
    "dies and starts a new run",
)


class Turn(NamedTuple):
    """What happens to one node in one round."""

    down: str
    client: str
    up: str


class Round(NamedTuple):
    """What happens in one round; a node with None is not asked."""

    turns: list[Turn | None]
    server: str


def zeros() -> Tensors:
    return {name: np.zeros(MODEL[name].shape) for name in LOSSY}


class Truth(NamedTuple):
    """Sums over one node's updates in one run, tensor by tensor."""

    produced: Tensors  # what training gave, once it was kept
    gone: Tensors  # what decayed of stored errors, and what was in memories that were damaged
    aggregated: Tensors  # what the wrapped strategy was handed, and made a model of
    names: set[str]  # of the updates that were aggregated

    @classmethod
    def none(cls) -> "Truth":
        return cls(zeros(), zeros(), zeros(), set())


class Adding(Strategy):
    """Adds up the updates of all clients, and shows what it was handed."""

    asked: list[int]
    gives_model = True

    def __init__(self) -> None:
        self.handed: list[Message] = []

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> list[Message]:
        self.model = arrays
        return [message(RecordDict({"arrays": arrays, "config": config}), node=node) for node in self.asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        self.handed = [reply for reply in replies if not reply.has_error()]
        if not self.gives_model:
            return None, None
        start, total = arrays(self.model), arrays(self.model)
        for reply in self.handed:
            for name, tensor in arrays(model_of(reply.content)).items():
                total[name] = total[name] + (tensor - start[name])
        return record(total), MetricRecord()

    weighted_by_key = "num-examples"

    def configure_evaluate(self, *_: object) -> list[Message]:
        return []

    def aggregate_evaluate(self, *_: object) -> None:
        return None

    def summary(self) -> None:
        pass


class Node:
    """A client that can be killed and restarted, and what it is true of it."""

    def __init__(self, number: int, folder: Path | None) -> None:
        self.number = number
        self.folder = folder
        self.truth = Truth.none()
        self.late: list[Message] = []  # train messages on their way
        self.last = ""  # the update that is kept
        # Updates that may be on their way, and whose memories were damaged
        self.orphans: dict[str, LastUpdate] = {}
        self.was_damaged = False
        self.restart()
        self.context = context(number)

    def restart(self) -> None:
        """A new process: what was in RAM is gone, except what Flower's SuperNode keeps."""
        self.mod = CO3Mod(store=None if self.folder is None else MemoryStore(self.folder))
        if self.folder is not None:
            self.context = context(self.number)

    @property
    def keeper(self) -> Keeper:
        return keeper_of(self.context, self.mod.store)

    def damage(self) -> None:
        """Make the memory unusable."""
        self.context.state.clear()
        for file in self.folder.glob("*.npz") if self.folder else []:
            file.write_bytes(file.read_bytes()[:-30])


class World:
    """Server and clients.

    Parameters
    ----------
    config : CO3Config
        How clients compress.
    nodes : int
        How many there are.
    folder : Path or None
        Where the clients' stores are, a folder for each; None for memory in Flower's state.
    steady : bool
        Whether all updates are the same, so that frames are.
    downlink : CO3Config or None
        How the server compresses.
    """

    def __init__(
        self, config: CO3Config, nodes: int, folder: Path | None, steady: bool, downlink: CO3Config | None
    ) -> None:
        self.config = config
        self.downlink = downlink
        self.rng = np.random.default_rng(0)
        self.steady = steady
        self.nodes = [Node(number, folder and folder / str(number)) for number in range(1, nodes + 1)]
        self.late: list[Message] = []  # replies on their way
        self.round = 0
        self.model = record(MODEL)
        self.strategy = CO3Strategy(Adding(), config, downlink)
        self.saved = self.strategy.progress

    @property
    def run(self) -> str:
        return self.strategy._order.run

    @property
    def inner(self) -> Adding:
        assert isinstance(self.strategy.strategy, Adding)
        return self.strategy.strategy

    def play(self, schedule: list[Round]) -> None:
        """Go through a schedule, and check after each step that nothing is lost or counted twice."""
        for this in schedule:
            replies = self.train(this)
            self.late, late = [], self.late
            self.aggregate(this, [*late, *replies])
            self.check()

    def calm_down(self) -> None:
        """Go through a round without faults: all clients take part in it, whatever happened before."""
        calm = Round([Turn("arrives", "trains", "arrives")] * len(self.nodes), "goes on")
        self.play(
            [calm] if self.downlink is None else [calm, calm]
        )  # in the first, clients may ask for the whole model
        assert [reply.metadata.src_node_id for reply in self.inner.handed] == [node.number for node in self.nodes]

    def train(self, this: Round) -> list[Message]:
        """Send a round's messages, and return the replies that arrive in time."""
        self.round += 1
        self.inner.asked = [node.number for node, turn in zip(self.nodes, this.turns, strict=True) if turn]
        turns = [turn for turn in this.turns if turn]
        replies = []
        sent = self.strategy.configure_train(self.round, self.model, ConfigRecord({"lr": 0.1}), None)  # type: ignore[arg-type]
        for index, (received, turn) in enumerate(zip(sent, turns, strict=True)):
            received.metadata.__dict__["_message_id"] = f"round {self.round}, message {index}"  # as Flower's grids do
            node = self.nodes[received.metadata.dst_node_id - 1]
            for each in self.arriving(node, received, turn):
                reply = self.answer(node, copy.deepcopy(each), turn)
                self.check(node)
                if reply is not None:
                    replies += self.returning(reply, turn)
        return replies

    def arriving(self, node: Node, received: Message, turn: Turn) -> list[Message]:
        """Say which train messages reach a node now, in this order."""
        waiting, node.late = node.late, []
        now = [received] * {"arrives": 1, "arrives twice": 2, "arrives after the next": 1}.get(turn.down, 0)
        if turn.down == "arrives late":
            node.late = [received]
        return [*now, *waiting] if turn.down == "arrives after the next" else [*waiting, *now]

    def answer(self, node: Node, received: Message, turn: Turn) -> Message | None:
        """Let a client train on a message. None if no reply leaves it."""
        if turn.client == "restarts":
            node.restart()
        run = str(received.content.config_records["config"]["co3-run"])
        if turn.client == "finds its memory damaged":
            self.give_up(node, node.keeper.load(self.run))
            node.damage()
        step = {name: self.step(MODEL[name].shape) for name in LOSSY}
        if turn.client == "diverges":
            step["w"][0, 0] = np.inf
        update: Tensors = {}

        def app(train: Message, context: Context) -> Message:
            start = arrays(model_of(train.content))
            new = {name: tensor + step.get(name, 1) for name, tensor in start.items()}
            update.update({name: new[name] - start[name] for name in LOSSY})
            if turn.client == "fails":
                raise RuntimeError("The disk with the data is gone.")
            return reply_with(new)(train, context)

        before = node.keeper.load(run)
        try:
            reply = node.mod(received, node.context, app)
        except RuntimeError:
            return None
        if not reply.has_error():
            order = Order.read(received.content.config_records["config"])
            reply.metadata.__dict__["_message_id"] = name = f"{order.turn}: {frame_of(reply).hex()}"
            if run == self.run:
                self.produced(node, name, before, order.seen, update)
        if turn.client == "is killed before its reply leaves":
            node.restart()
            return None
        return reply

    def step(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.ones(shape, "f4") if self.steady else self.rng.normal(size=shape).astype("f4")

    def produced(self, node: Node, name: str, before: Kept | None, seen: bytes | None, update: Tensors) -> None:
        """Count an update that is kept now, and the memory that it is kept in place of."""
        if before and before.last and seen not in (update_id(before.last.turn, before.last.frame), before.last.base):
            assert node.was_damaged, "a client forgets its memory for no reason"
            self.give_up(node, before)
            before = None
        outstanding = self.outstanding(node, before)
        for tensor in LOSSY:
            node.truth.produced[tensor] += update[tensor]
            node.truth.gone[tensor] += (1 - self.config.memory_decay) * outstanding[tensor]
        if name in node.orphans:  # of two that are the same, one is lost
            self.add(node.truth.gone, node.orphans.pop(name))
        node.last = name

    def give_up(self, node: Node, kept: Kept | None) -> None:
        """Count a memory as gone; its last update may be on its way."""
        node.was_damaged = True
        if kept is not None:
            for name, error in kept.errors.items():
                node.truth.gone[name] += error
            if kept.last is not None:
                node.orphans[node.last] = kept.last

    def returning(self, reply: Message, turn: Turn) -> list[Message]:
        """Say what of a reply reaches the server in time."""
        match turn.up:
            case "arrives":
                return [reply]
            case "arrives twice":
                return [reply, copy.deepcopy(reply)]
            case "is damaged":
                return [damaged(reply)]
            case "is damaged, then arrives":
                return [damaged(reply), reply]
            case "has no weight":
                return [with_metrics(reply, {"loss": 1.0})]
            case "has other metrics":
                return [with_metrics(reply, {"num-examples": 10, "loss": 1.0, "accuracy": 0.5})]
            case "arrives late":
                self.late.append(reply)
        return []

    def aggregate(self, this: Round, replies: list[Message]) -> None:
        """Let the server aggregate, and do what it does else."""
        self.inner.gives_model = this.server != "gets no model from its strategy"
        if this.server == "dies before it aggregates":
            self.strategy = CO3Strategy(Adding(), self.config, self.downlink, resume=self.saved)
            return
        model, _ = self.strategy.aggregate_train(self.round, replies)
        if this.server == "dies before it saves":
            self.strategy = CO3Strategy(Adding(), self.config, self.downlink, resume=self.saved)
            return
        if model is not None:
            self.count(self.inner.handed)
            self.model = model
        self.saved = self.strategy.progress
        if this.server == "dies and starts a new run":
            self.strategy = CO3Strategy(Adding(), self.config, self.downlink)
            self.saved = self.strategy.progress
            for node in self.nodes:
                node.truth, node.last, node.orphans, node.was_damaged = Truth.none(), "", {}, False
                if node.folder is None:
                    node.context = context(node.number)  # Flower has one for each run
                    node.late = []

    def count(self, handed: list[Message]) -> None:
        """Count what the strategy aggregated."""
        start = arrays(self.inner.model)
        for reply in handed:
            truth, name = self.nodes[reply.metadata.src_node_id - 1].truth, reply.metadata.message_id
            assert name not in truth.names, "an update was aggregated twice"
            truth.names.add(name)
            new = arrays(model_of(reply.content))
            for tensor in LOSSY:
                truth.aggregated[tensor] += new[tensor] - start[tensor]

    def outstanding(self, node: Node, kept: Kept | None) -> Tensors:
        """Say what of a node's updates is still to come: its memory, and its last update if it was not aggregated."""
        total = zeros()
        if kept is None:
            return total
        for name, error in kept.errors.items():
            total[name] += error
        if kept.last is not None and node.last not in node.truth.names:
            self.add(total, kept.last)
        return total

    def add(self, total: Tensors, update: LastUpdate) -> None:
        """Add what an update says of the lossy tensors."""
        for name, sent in decoded(update, self.config, specs(MODEL)).items():
            if name in LOSSY:
                total[name] += sent

    def check(self, *nodes: Node) -> None:
        """Check for these nodes, or all, that aggregated + outstanding = produced - gone."""
        for node in nodes or self.nodes:
            truth, outstanding = node.truth, self.outstanding(node, node.keeper.load(self.run))
            for update, orphan in node.orphans.items():
                if update not in truth.names:
                    self.add(outstanding, orphan)
            for name in LOSSY:
                np.testing.assert_allclose(
                    truth.aggregated[name] + outstanding[name],
                    truth.produced[name] - truth.gone[name],
                    atol=1e-4,
                    err_msg=f"node {node.number}, tensor {name}, round {self.round}",
                )


class EstimatingWorld(World):
    """With EF21: both ends hold the same estimate, or the client's is 0 and its next frame will say so."""

    def count(self, handed: list[Message]) -> None:
        """Check that what the strategy aggregated is the estimates."""
        super().count(handed)
        start = arrays(self.inner.model)
        for reply in handed:
            new, held = arrays(model_of(reply.content)), self.held(reply.metadata.src_node_id)
            for name in LOSSY:
                np.testing.assert_allclose(new[name] - start[name], held[name], atol=1e-4)

    def check(self, *nodes: Node) -> None:
        """Compare the estimates."""
        for node in nodes or self.nodes:
            estimate = {name: -tensor for name, tensor in self.outstanding(node, node.keeper.load(self.run)).items()}
            if node.was_damaged and not any(tensor.any() for tensor in estimate.values()):
                continue
            held = self.held(node.number)
            for name in LOSSY:
                np.testing.assert_allclose(estimate[name], held[name], atol=1e-4, err_msg=f"node {node.number}, {name}")

    def held(self, node: int) -> Tensors:
        """The server's estimate of a node's update."""
        side = self.strategy._side
        assert isinstance(side, _Estimates)
        vectors = {vector.size: vector for vector in side._held.get(str(node), [])}  # tensors differ in their sizes
        return {name: vectors[z.size].reshape(z.shape) if vectors else z for name, z in zeros().items()}


def damaged(reply: Message) -> Message:
    """A copy of a reply whose frame was damaged on its way."""
    if reply.has_error():
        return reply
    broken = copy.deepcopy(reply)
    frame = bytearray(model_of(broken.content)["co3"].data)
    frame[-1] ^= 1
    broken.content["arrays"] = ArrayRecord({"co3": Array("uint8", (len(frame),), "flwr_co3", bytes(frame))})
    return broken


def with_metrics(reply: Message, metrics: Mapping[str, int | float]) -> Message:
    """Change a reply's metrics."""
    if not reply.has_error():
        reply.content["metrics"] = MetricRecord(dict(metrics))
    return reply
