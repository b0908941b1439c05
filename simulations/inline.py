"""Clients without a runtime: the same client app, called in this process."""

import contextlib
import copy
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

_CLIENT_APP_RAISED = 2  # Flower's own code for it
_IDENTITY = ("_task_id", "_run_id", "_node_id")


class InlineGrid(Grid):
    """A grid whose nodes answer at once, one after the other, in the caller's own thread.

    Everything but the transport is what it is with Flower's runtime: messages, the client app with its mods, and each
    node's context, which lasts as long as the grid. What a small task trains in, Flower's runtime spends on moving
    messages and states between processes; a plain loop has the same results (``tests/simulations/test_inline.py``)
    many times sooner.

    Parameters
    ----------
    app : ClientApp
        What the nodes run.
    nodes : int
        How many there are; their ids are 1, 2, ...
    """

    def __init__(self, app: ClientApp, nodes: int) -> None:
        self._app = app
        self._contexts = {
            node: Context(1, node, {"partition-id": node - 1, "num-partitions": nodes}, RecordDict(), {})
            for node in range(1, nodes + 1)
        }

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids."""
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Let the messages' nodes answer."""
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        received = copy.copy(message)  # a mod may put other content into it
        received.content = message.content.copy()
        try:
            return self._app(received, self._contexts[message.metadata.dst_node_id])
        except Exception:
            return Message(Error(_CLIENT_APP_RAISED, traceback.format_exc()), reply_to=message)

    # Nothing that trains uses the rest.

    @property
    def run(self) -> Any:  # noqa: D102
        raise NotImplementedError

    def set_run(self, run: Any) -> None:  # noqa: D102
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:  # noqa: D102
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: D102
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:  # noqa: D102
        raise NotImplementedError


@contextlib.contextmanager
def outside_a_run() -> Iterator[None]:
    """Let messages be made where no runtime has said which run this is, as Flower's own does for a simulation."""
    before = [getattr(TaskIdentity, name) for name in _IDENTITY]
    for name in _IDENTITY:
        setattr(TaskIdentity, name, 1)
    try:
        yield
    finally:
        for name, value in zip(_IDENTITY, before, strict=True):
            setattr(TaskIdentity, name, value)
