"""Clients without a network: a grid that asks a function, and messages made outside a run."""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

Answer = Callable[[Message], RecordDict | Exception]


class FakeGrid(Grid):
    """Nodes that answer at once, in the order of ``nodes``."""

    def __init__(self, nodes: list[int], answer: Answer) -> None:
        self.nodes = nodes
        self.answer = answer
        self.sent: list[Message] = []

    run: Any = None

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = {message.metadata.dst_node_id: message for message in messages}
        self.sent += asked.values()
        return [self._reply(asked[node]) for node in self.nodes if node in asked]

    def _reply(self, message: Message) -> Message:
        content = self.answer(message)
        if isinstance(content, Exception):
            from flwr.app import Error

            return Message(Error(code=0, reason=f"Traceback\n  ...\n{content!r}"), reply_to=message)
        return Message(content, reply_to=message)
