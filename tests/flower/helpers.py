"""A Flower without processes: messages, contexts, and a grid that calls its clients directly."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import uuid4

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from flwr_co3._replies import SentModel, loaders
from flwr_co3.config import CO3Config
from flwr_co3.frame import TensorSpec

App = Callable[[Message, Context], Message]
Tensors = dict[str, NDArray[Any]]

EVERYTHING_EXACT = CO3Config(exact=("*",))  # frames without loss, for results that can be worked out by hand


def record(tensors: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(tensor)) for name, tensor in tensors.items()})


def arrays(record: ArrayRecord) -> Tensors:
    return {name: array.numpy() for name, array in record.items()}


def context(node: int = 1) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def message(content: RecordDict, kind: str = "train", node: int = 1) -> Message:
    """A message from the server, as a client gets it."""
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=99,
        dst_node_id=node,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1e12,
        message_type=kind,
    )
    received: Message = Message(content=content, metadata=metadata)  # type: ignore[call-overload]  # as Flower does
    return received


def train_message(
    tensors: Mapping[str, NDArray[Any]], config: CO3Config | None = None, run: str = "a run", node: int = 1
) -> Message:
    """The message that CO3Strategy sends."""
    order: dict[str, Any] = {"lr": 0.1, "co3": (config or CO3Config()).to_json(), "co3-run": run}
    return message(RecordDict({"arrays": record(tensors), "config": ConfigRecord(order)}), node=node)


def reply_with(
    tensors: Mapping[str, NDArray[Any]], metrics: Mapping[str, Any] | None = None
) -> Callable[[Message, Context], Message]:
    """An app that returns these weights."""

    def app(received: Message, context: Context) -> Message:
        content = RecordDict(
            {"arrays": record(tensors), "metrics": MetricRecord({"num-examples": 10, **(metrics or {})})}
        )
        return Message(content, reply_to=received)

    return app


def reply_with_change(
    change: Callable[[str, NDArray[Any]], NDArray[Any]], examples: int = 10
) -> Callable[[Message, Context], Message]:
    """An app that changes each tensor that it gets."""

    def app(received: Message, context: Context) -> Message:
        new = {name: change(name, tensor) for name, tensor in arrays(model_of(received.content)).items()}
        return reply_with(new, {"num-examples": examples, "loss": 1.0})(received, context)

    return app


def small_step(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """Train a little; whatever is not float counts up."""
    if tensor.dtype.kind != "f":
        return tensor + 1
    noise = np.random.default_rng(len(name)).laplace(scale=0.01, size=tensor.shape)
    return np.asarray(tensor + noise.astype(tensor.dtype))


def model_of(content: RecordDict) -> ArrayRecord:
    (only,) = content.array_records.values()
    return only


def frame_of(reply: Message) -> bytes:
    assert set(model_of(reply.content)) == {"co3"}, "the reply is not compressed"
    return model_of(reply.content)["co3"].data


def memory_of(context: Context) -> Tensors:
    """What a client remembers in Flower's state."""
    return arrays(context.state.array_records["co3-memory"])


def specs(model: Mapping[str, NDArray[Any]]) -> Mapping[str, TensorSpec]:
    """What a server knows of the tensors in its clients' frames."""
    return SentModel(loaders(record(model)), CO3Config()).like


def avg(fraction_evaluate: float = 0.0, **kwargs: Any) -> FedAvg:
    """FedAvg that is content with one node."""
    return FedAvg(fraction_evaluate=fraction_evaluate, min_train_nodes=1, min_available_nodes=1, **kwargs)


class Personal(FedAvg):
    """Sends each node a model of its own: the one there is, plus the node's number."""

    def configure_train(self, *args: Any, **kwargs: Any) -> list[Message]:
        messages = list(super().configure_train(*args, **kwargs))
        for message in messages:
            model = arrays(model_of(message.content))
            shifted = {n: t + t.dtype.type(message.metadata.dst_node_id) for n, t in model.items()}
            message.content = RecordDict({**message.content, "arrays": record(shifted)})
        return messages


def raising(*_: object) -> Message:
    raise RuntimeError("out of memory in layer 3")


class LocalGrid(Grid):
    """Calls clients one after the other, lowest node first, and keeps what went over the wire.

    Parameters
    ----------
    apps : Mapping[int, App]
        The nodes' apps.
    """

    def __init__(self, apps: Mapping[int, App]) -> None:
        self.apps = dict(apps)
        self.contexts = {node: context(node) for node in apps}
        self.sent: list[Message] = []
        self.replies: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())  # as Flower's grids do
        replies = [self._call(copy.deepcopy(message)) for message in messages]
        self.sent += copy.deepcopy(messages)
        self.replies += copy.deepcopy(replies)
        return replies

    def train_replies(self) -> list[Message]:
        return [reply for reply in self.replies if reply.metadata.message_type == "train"]

    def _call(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            return self.apps[node](message, self.contexts[node])
        except Exception as error:  # as Flower's SuperNode does
            return Message(Error(2, str(error)), reply_to=message)

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError
